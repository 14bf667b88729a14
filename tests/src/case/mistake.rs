//! What is wrong with the file of a case, and where.

use std::fmt;
use std::ops::Range;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    file: String,
    line: usize,
    /// In characters, from 1 on.
    column: usize,
    text: String,
    source: String,
}

impl Mistake {
    /// At this place of `text`, which is that of `file`.
    pub(super) fn new(file: &str, text: &str, at: &Range<usize>, what: &str) -> Self {
        let start = (0..=at.start.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
        let before = text.get(..start.unwrap_or(0)).unwrap_or_default();
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let source = text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(begin..).unwrap_or_default().chars().count() + 1,
            text: what.to_owned(),
            source: source.to_owned(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, text, source } = self;
        let margin = line.to_string().len();
        writeln!(f, "{file}:{line}:{column}: {text}\n {line} | {source}")?;
        write!(f, " {:margin$} | {:before$}^", "", "", before = column - 1)
    }
}

impl std::error::Error for Mistake {}
