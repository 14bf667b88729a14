//! What is wrong with a configuration file, and where.

use std::{fmt, ops::Range};

use thiserror::Error;

/// Of a line no more is shown.
const SHOWN: usize = 120;
/// So many problems are told at a time.
const TOLD: usize = 20;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    line: usize,
    /// In characters, from 1 on.
    column: usize,
    /// What is wrong, and what to write instead.
    text: String,
    /// The line, and how much of it is meant.
    source: String,
    width: usize,
}

impl Problem {
    /// At this place of a file.
    pub(super) fn new(file: &str, span: Range<usize>, text: String) -> Self {
        let start = floor(file, span.start);
        let end = floor(file, span.end.max(start));
        let before = file.get(..start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let begin = before.rfind('\n').map_or(0, |at| at + 1);
        let source = file.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
        let column = before.get(begin..).unwrap_or_default().chars().count() + 1;
        let meant = file.get(start..end).unwrap_or_default();
        let width = meant.lines().next().unwrap_or_default().chars().count().max(1);
        // Whoever reads it has a terminal.
        let plain = |c: char| {
            if c == '\t' {
                ' '
            } else if c.is_control() {
                '\u{fffd}'
            } else {
                c
            }
        };
        let source = source.chars().map(plain).take(SHOWN).collect();
        Self { line, column, text, source, width }
    }
}

/// The last place before `at` where a character begins.
fn floor(file: &str, at: usize) -> usize {
    let at = at.min(file.len());
    (0..=at).rev().find(|at| file.is_char_boundary(*at)).unwrap_or(0)
}

/// A file that is not taken: everything that is wrong with it, in its order.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub struct Problems {
    file: String,
    all: Vec<Problem>,
}

impl Problems {
    /// Of a file of this name.
    pub(super) fn new(file: String, mut all: Vec<Problem>) -> Self {
        all.sort_by_key(|problem| (problem.line, problem.column));
        Self { file, all }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.all.iter().take(TOLD).enumerate() {
            let Problem { line, column, text, source, width } = problem;
            let margin = line.to_string().len();
            if number > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{line}:{column}: {text}\n {line} | {source}", self.file)?;
            if *column <= SHOWN {
                let width = (*width).min(SHOWN + 1 - column);
                write!(f, "\n {:margin$} | {:before$}", "", "", before = column - 1)?;
                f.write_str(&"^".repeat(width))?;
            }
        }
        match self.all.len().saturating_sub(TOLD) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}
