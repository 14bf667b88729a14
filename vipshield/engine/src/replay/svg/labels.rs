//! Words beside marks, in as many lines as are needed for none to lie over another.

use super::{
    LINE, put,
    text::{cut, escaped, width},
};

/// So many lines there are at the most.
const LINES: usize = 5;

/// A label with fewer characters says nothing.
const FEWEST: usize = 6;

const SPACE: f64 = 6.0;

/// Labels of one lane; they are placed from right to left.
#[derive(Debug)]
pub(super) struct Labels {
    /// Up to where there is room, by line. Line 0 is that of the marks.
    room: [f64; LINES],
    first: usize,
    placed: Vec<Label>,
}

#[derive(Debug)]
struct Label {
    x: f64,
    /// From the mark to where the label begins, in its line.
    side: f64,
    line: usize,
    text: String,
}

impl Labels {
    /// `first`: the line where they may begin.
    pub(super) fn new(right: f64, first: usize) -> Self {
        Self { room: [right; LINES], first, placed: Vec::new() }
    }

    /// Places the label of a mark that is left of all before.
    pub(super) fn place(&mut self, x: f64, side: f64, text: &str) {
        let begins = |line: usize| if line == 0 { x + side } else { x };
        let room = |line: usize, room: f64| room - begins(line) - SPACE;
        let lines = || self.room.iter().copied().enumerate().skip(self.first);
        let fits = lines().find(|(line, limit)| width(text) <= room(*line, *limit));
        let widest =
            lines().max_by(|one, other| room(one.0, one.1).total_cmp(&room(other.0, other.1)));
        let chosen = fits.or(widest).map(|(line, limit)| {
            let most = (room(line, limit).max(0.0) / width("m")).floor() as usize;
            (line, cut(text, most))
        });
        let chosen = chosen.filter(|(_, cut)| cut.len() >= text.len().min(FEWEST));
        let line = chosen.as_ref().map_or(0, |(line, _)| *line);
        // The line that leads down to it crosses those above.
        for limit in self.room.iter_mut().take(line + 1) {
            *limit = x - side.max(2.0);
        }
        if let Some((line, text)) = chosen.filter(|(_, text)| !text.is_empty()) {
            self.placed.push(Label { x, side, line, text });
        }
    }

    /// How many lines they need below that of the marks.
    pub(super) fn lines(&self) -> u32 {
        self.placed.iter().map(|label| label.line as u32).max().unwrap_or(0)
    }

    pub(super) fn draw(&self, out: &mut String, middle: f64) {
        for Label { x, side, line, text } in &self.placed {
            let text = escaped(text);
            if *line == 0 {
                let (x, y) = (x + side, middle + 4.0);
                put(out, &format!(r#"<text class="l" x="{x:.1}" y="{y:.1}">{text}</text>"#));
                continue;
            }
            let below = middle + 5.0 + *line as f64 * LINE;
            put(out, &format!(r#"<path class="k" d="M{x:.1} {middle:.1}V{below:.1}"/>"#));
            put(
                out,
                &format!(r#"<text class="l" x="{:.1}" y="{below:.1}">{text}</text>"#, x + 3.0),
            );
        }
    }
}
