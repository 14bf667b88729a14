//! Words beside marks, in as many lines as are needed for none to lie over another.

use super::{
    LINE, put,
    text::{cut, escaped, width},
};

/// So many lines there are at the most.
const LINES: usize = 7;

/// A label that was cut to fewer characters says nothing.
const FEWEST: usize = 6;

/// So many characters are enough where there are other labels below.
const LEGIBLE: usize = 24;

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
    /// It ends there, and does not begin.
    ends: bool,
    line: usize,
    text: String,
}

impl Labels {
    /// `first`: the line where they may begin.
    pub(super) fn new(right: f64, first: usize) -> Self {
        Self { room: [right; LINES], first, placed: Vec::new() }
    }

    /// Places the label of a mark that is left of all before: in the first line that has room, or left of the
    /// mark, or its parts below each other, or cut.
    pub(super) fn place(&mut self, label: &Label) {
        let Label { x, side, left, parts } = label;
        let whole = parts.join(", ");
        if whole.is_empty() {
            self.take(0, x - side);
            return;
        }
        let begins = |line: usize| if line == 0 { x + side } else { x + 3.0 };
        let rooms: Vec<(usize, f64)> =
            (0..).zip(self.room).map(|(line, room)| (line, room - begins(line) - SPACE)).collect();
        let lines = || rooms.iter().copied().skip(self.first);
        let fits = lines().find(|(_, room)| width(&whole) <= *room);
        let put = |line, text| Placed { from: *x, x: begins(line), ends: false, line, text };
        let ends_at = x - side;
        let placed: Vec<Placed> = if let Some((line, _)) = fits {
            vec![put(line, whole)]
        } else if self.first == 0 && width(&whole) + SPACE <= ends_at - left {
            self.take(0, ends_at - width(&whole));
            let text = whole;
            self.placed.push(Placed { from: *x, x: ends_at, ends: true, line: 0, text });
            return;
        } else if let Some(stack) = stacked(parts, &rooms) {
            stack.into_iter().map(|(line, text)| put(line, text)).collect()
        } else {
            // Of lines that are alike the uppermost.
            let widest = lines().rev().max_by(|one, other| one.1.total_cmp(&other.1));
            let cut = widest.map(|(line, room)| (line, cut(&whole, characters(room))));
            let says = cut.filter(|(_, text)| text.chars().count() >= FEWEST);
            says.into_iter().map(|(line, text)| put(line, text)).collect()
        };
        let lowest = placed.iter().map(|label| label.line).max().unwrap_or(0);
        self.take(lowest, x - side.max(2.0));
        self.placed.extend(placed);
    }

    /// From this line up there is room up to there alone: what leads down to a label crosses those above.
    fn take(&mut self, lowest: usize, to: f64) {
        for room in self.room.iter_mut().take(lowest + 1) {
            *room = to;
        }
    }

    /// How many lines they need below that of the marks.
    pub(super) fn lines(&self) -> u32 {
        self.placed.iter().map(|label| label.line as u32).max().unwrap_or(0)
    }

    pub(super) fn draw(&self, out: &mut String, middle: f64) {
        for Placed { from, x, ends, line, text } in &self.placed {
            let y = middle + 4.0 + *line as f64 * LINE;
            if *line > 0 {
                put(out, &format!(r#"<path class="k" d="M{from:.1} {middle:.1}V{y:.1}"/>"#));
            }
            let text = escaped(text);
            let anchor = if *ends { r#" text-anchor="end""# } else { "" };
            put(out, &format!(r#"<text class="l" x="{x:.1}" y="{y:.1}"{anchor}>{text}</text>"#));
        }
    }
}

/// Each in a line of its own below that of the marks, if most of each has room there.
fn stacked(parts: &[String], rooms: &[(usize, f64)]) -> Option<Vec<(usize, String)>> {
    let below = rooms.get(1..=parts.len())?;
    let one = |(part, (line, room)): (&String, &(usize, f64))| {
        let text = cut(part, characters(*room));
        (text.chars().count() >= part.chars().count().min(LEGIBLE)).then_some((*line, text))
    };
    parts.iter().zip(below).map(one).collect()
}

/// So many have room there.
fn characters(room: f64) -> usize {
    (room.max(0.0) / width("m")).floor() as usize
}
