//! Words beside marks, in as many lines as are needed for none to lie over another.

use super::{
    LINE, put,
    text::{cut, escaped, width},
};

/// So many lines there are at the most.
const LINES: usize = 7;

/// A label that was cut to fewer characters says nothing.
const FEWEST: usize = 6;

const SPACE: f64 = 6.0;

/// What is to stand beside a mark.
#[derive(Debug)]
pub(super) struct Label {
    /// Where the mark is.
    pub(super) x: f64,
    /// Half of its width, with some space.
    pub(super) side: f64,
    /// Up to where there is room left of it.
    pub(super) left: f64,
    /// In one line if there is room, or below each other.
    pub(super) parts: Vec<String>,
}

/// Labels of one lane; they are placed from right to left.
#[derive(Debug)]
pub(super) struct Labels {
    /// Up to where there is room, by line. Line 0 is that of the marks.
    room: [f64; LINES],
    first: usize,
    placed: Vec<Placed>,
}

#[derive(Debug)]
struct Placed {
    /// Where the mark is.
    from: f64,
    x: f64,
    line: usize,
    text: String,
}

impl Labels {
    /// `first`: the line where they may begin.
    pub(super) fn new(right: f64, first: usize) -> Self {
        Self { room: [right; LINES], first, placed: Vec::new() }
    }

    /// Places the label of a mark that is left of all before.
    pub(super) fn place(&mut self, label: &Label) {
        let Label { x, side, left, parts } = label;
        let whole = parts.join(", ");
        let begins = |line: usize| if line == 0 { x + side } else { x + 3.0 };
        let widths: Vec<(usize, f64)> =
            (0..).zip(self.room).map(|(line, room)| (line, room - begins(line) - SPACE)).collect();
        let lines = || widths.iter().skip(self.first);
        let mut limits = x - side.max(2.0);
        let stack = |parts: &[String]| {
            let below = widths.iter().skip(1);
            below.len() >= parts.len()
                && parts.iter().zip(below).all(|(it, (_, room))| width(it) <= *room)
        };
        let mut placed = Vec::new();
        if let Some((line, _)) = lines().find(|(_, room)| width(&whole) <= *room) {
            placed.push((*line, begins(*line), whole));
        } else if self.first == 0 && width(&whole) + SPACE <= x - side - left {
            limits = x - side - width(&whole);
            placed.push((0, limits, whole));
        } else if stack(parts) {
            placed.extend((1..).zip(parts).map(|(line, it)| (line, begins(line), it.clone())));
        } else {
            // Of lines that are alike the uppermost.
            let widest = lines().rev().max_by(|one, other| one.1.total_cmp(&other.1));
            if let Some((line, room)) = widest {
                let text = cut(&whole, (room.max(0.0) / width("m")).floor() as usize);
                if text.chars().count() >= FEWEST {
                    placed.push((*line, begins(*line), text));
                }
            }
        }
        let lowest = placed.iter().map(|(line, ..)| *line).max().unwrap_or(0);
        // The line that leads down to it crosses those above.
        for limit in self.room.iter_mut().take(lowest + 1) {
            *limit = limits;
        }
        let placed =
            placed.into_iter().map(|(line, at, text)| Placed { from: *x, x: at, line, text });
        self.placed.extend(placed);
    }

    /// How many lines they need below that of the marks.
    pub(super) fn lines(&self) -> u32 {
        self.placed.iter().map(|label| label.line as u32).max().unwrap_or(0)
    }

    pub(super) fn draw(&self, out: &mut String, middle: f64) {
        for Placed { from, x, line, text } in &self.placed {
            let y = middle + 4.0 + *line as f64 * LINE;
            if *line > 0 {
                put(out, &format!(r#"<path class="k" d="M{from:.1} {middle:.1}V{y:.1}"/>"#));
            }
            let text = escaped(text);
            put(out, &format!(r#"<text class="l" x="{x:.1}" y="{y:.1}">{text}</text>"#));
        }
    }
}
