//! A [`Picture`] as SVG: text alone, without scripts or anything from elsewhere.
//!
//! It is as large as the number of lanes and pixels makes it, however much happened: what falls on the same
//! pixels is one mark that says how many it stands for.

mod labels;
mod scale;
mod text;

use std::fmt::Write as _;

use self::{
    labels::{Label, Labels},
    scale::Scale,
    text::{cut, escaped, width},
};
use super::picture::{Content, Kind, Mark, Picture, Shade, Span};

const WIDTH: f64 = 1240.0;
/// Where the lanes begin, right of their names.
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Where the first lane begins, below title and axis.
const TOP: f64 = 92.0;
/// From the upper end of a lane to the middle of its marks.
const MIDDLE: f64 = 10.0;
/// A lane without labels below it.
const LANE: f64 = 20.0;
/// A line of labels.
const LINE: f64 = 13.0;
/// Above the first lane of a group: its name is there.
const HEADING: f64 = 22.0;
const LEGEND: f64 = 46.0;
/// Marks that are closer than this are one.
const CLOSE: f64 = 11.0;
/// Spans that are narrower are one with their neighbours that are so, too.
const NARROW: f64 = 2.0;
/// So many things are named in what is shown under the pointer.
const NAMED: usize = 12;
/// So many characters have a line there, and titles.
const LONG: usize = 160;
/// So many characters have the label of a mark, and the name of a lane.
const SHORT: usize = 52;
const NAME: usize = 30;

/// Draws it.
#[must_use]
pub fn svg(picture: &Picture) -> String {
    let scale = Scale::new(picture, LEFT, RIGHT);
    let mut lanes = String::new();
    let mut y = TOP;
    let mut group = None;
    for lane in &picture.lanes {
        if group != Some(&lane.group) {
            y += HEADING;
            let name = escaped(&cut(&lane.group, SHORT));
            put(&mut lanes, &format!(r#"<text class="g" x="16" y="{:.1}">{name}</text>"#, y - 6.0));
            group = Some(&lane.group);
        }
        let (name, middle) = (escaped(&cut(&lane.name, NAME)), y + MIDDLE);
        put(
            &mut lanes,
            &format!(r#"<text class="n" x="28" y="{:.1}">{name}</text>"#, middle + 4.0),
        );
        put(&mut lanes, &format!(r#"<path class="r" d="M{LEFT:.1} {middle:.1}H{RIGHT:.1}"/>"#));
        let below = match &lane.content {
            Content::Marks(marks) => draw_marks(&mut lanes, &scale, marks, middle),
            Content::Band(spans) => draw_band(&mut lanes, &scale, spans, middle),
        };
        y += LANE + f64::from(below) * LINE;
    }
    let end = y + 6.0;
    let height = end + LEGEND + LINE * picture.left_out.len() as f64;
    let mut out = String::new();
    let title = escaped(&cut(&picture.title, LONG));
    put(
        &mut out,
        &format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0}" viewBox="0 0 {WIDTH} {height:.0}" role="img">"#
        ),
    );
    put(&mut out, &format!("<title>{title}</title>"));
    put(&mut out, STYLE);
    put(&mut out, r#"<rect class="paper" x="0.5" y="0.5" width="99.9%" height="99.9%" rx="6"/>"#);
    put(&mut out, &format!(r#"<text class="t" x="16" y="28">{title}</text>"#));
    let about = escaped(&cut(&picture.about, LONG));
    put(&mut out, &format!(r#"<text class="a" x="16" y="46">{about}</text>"#));
    draw_axis(&mut out, &scale, end);
    out.push_str(&lanes);
    draw_legend(&mut out, end + 20.0);
    for (line, left_out) in (0_u32..).zip(&picture.left_out) {
        let (y, text) = (end + LEGEND + f64::from(line) * LINE, escaped(&cut(left_out, LONG)));
        put(&mut out, &format!(r#"<text class="a" x="16" y="{y:.1}">{text}</text>"#));
    }
    put(&mut out, "</svg>");
    out
}

const STYLE: &str = "<style>\
text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#24292f}\
.paper{fill:#fff;stroke:#d0d7de}.t{font-size:17px;font-weight:600}.a{font-size:12px;fill:#57606a}\
.g{font-size:12px;font-weight:600}.n{font-size:11px;fill:#424a53}.l{font-size:10.5px}\
.i{font-size:10.5px;fill:#fff;font-weight:600}.c{font-size:9.5px;fill:#fff;font-weight:700;text-anchor:middle}\
.x{font-size:10.5px;fill:#57606a;text-anchor:middle}.zone{fill:#fff8e5}.r{stroke:#eaeef2}\
.v{stroke:#e4e0d4}.e{stroke:#d4a72c;stroke-dasharray:3 3}.k{stroke:#afb8c1;fill:none}\
.said{fill:#57606a}.told{fill:#1a7f37}.withheld{fill:#bc4c00}.sent{fill:#8250df}.heard{fill:#bf3989}\
.done{fill:#0550ae}.failed{fill:#cf222e}.idle{fill:#8c959f}.home{fill:#1a7f37}.away{fill:#0969da}\
.kept{fill:#1b7c83}.moving{fill:#bc4c00}.bad{fill:#cf222e}.several{fill:#6e7781}</style>";

fn put(out: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}

fn draw_axis(out: &mut String, scale: &Scale, end: f64) {
    let (from, to) = scale.stretched();
    let (top, height) = (TOP - 18.0, end - TOP + 18.0);
    put(
        out,
        &format!(
            r#"<rect class="zone" x="{from:.1}" y="{top:.1}" width="{:.1}" height="{height:.1}"/>"#,
            to - from
        ),
    );
    for (x, label) in scale.ticks() {
        put(out, &format!(r#"<path class="v" d="M{x:.1} {top:.1}V{end:.1}"/>"#));
        put(out, &format!(r#"<text class="x" x="{x:.1}" y="{:.1}">{label}</text>"#, top - 5.0));
    }
    let (begins, ends) = scale.transition();
    for x in [begins, ends] {
        put(out, &format!(r#"<path class="e" d="M{x:.1} {top:.1}V{end:.1}"/>"#));
    }
    put(
        out,
        &format!(
            r#"<text class="a" x="{RIGHT:.1}" y="46" text-anchor="end">ms since it began; time is stretched where the ground is yellow</text>"#
        ),
    );
}

fn draw_marks(out: &mut String, scale: &Scale, marks: &[Mark], middle: f64) -> u32 {
    let mut clusters: Vec<(f64, Vec<&Mark>)> = Vec::new();
    for mark in marks {
        let x = scale.x(mark.at);
        match clusters.last_mut() {
            Some((first, of)) if x - *first < CLOSE => of.push(mark),
            _ => clusters.push((x, vec![mark])),
        }
    }
    let mut labels = Labels::new(RIGHT, 0);
    let mut ahead = clusters.iter().rev().skip(1);
    for (x, of) in clusters.iter().rev() {
        let side = |number| if number > 1 { 5.0 + half(number) } else { 8.0 };
        let left = ahead.next().map_or(LEFT, |(x, of)| x + side(of.len()));
        let parts = counted(of.iter().map(|mark| mark.short.as_str()));
        labels.place(&Label { x: *x, side: side(of.len()), left, parts });
    }
    labels.draw(out, middle);
    for (x, of) in &clusters {
        let Some(kind) = of.iter().map(|mark| mark.kind).max() else { continue };
        let lines = of.iter().map(|mark| (mark.at, mark.text.as_str()));
        put(out, &format!("<g><title>{}</title>", listed(scale, lines)));
        draw_mark(out, *x, middle, kind, of.len());
        put(out, "</g>");
    }
    labels.lines()
}

/// Half the width of what has a number in it.
fn half(number: usize) -> f64 {
    2.5 + 3.0 * f64::from(number.checked_ilog10().unwrap_or(0) + 1)
}

fn draw_mark(out: &mut String, x: f64, y: f64, kind: Kind, number: usize) {
    let class = class_of(kind);
    if number > 1 {
        let half = half(number);
        put(
            out,
            &format!(
                r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="{:.1}" height="13" rx="6"/><text class="c" x="{x:.1}" y="{:.1}">{number}</text>"#,
                x - half,
                y - 6.5,
                2.0 * half,
                y + 3.4
            ),
        );
        return;
    }
    let shape = match kind {
        Kind::Said | Kind::Told => {
            format!(r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="4.5"/>"#)
        }
        Kind::Withheld => path(class, x, y, "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z"),
        Kind::Sent => path(class, x, y, "m0 -5l5.5 9h-11z"),
        Kind::Heard => path(class, x, y, "m0 5l5.5 -9h-11z"),
        Kind::Done => path(class, x, y, "m-4 -4h8v8h-8z"),
        Kind::Failed => {
            path(class, x, y, "m-5 -3l2 -2l3 3l3 -3l2 2l-3 3l3 3l-2 2l-3 -3l-3 3l-2 -2l3 -3z")
        }
    };
    put(out, &shape);
}

fn path(class: &str, x: f64, y: f64, shape: &str) -> String {
    format!(r#"<path class="{class}" d="M{x:.1} {y:.1}{shape}"/>"#)
}

fn draw_band(out: &mut String, scale: &Scale, spans: &[Span], middle: f64) -> u32 {
    struct Block<'a> {
        from: f64,
        to: f64,
        of: Vec<&'a Span>,
    }
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for span in spans {
        let (from, to) = (scale.x(span.time.from), scale.x(span.time.to));
        match blocks.last_mut() {
            Some(last)
                if to - from < NARROW
                    && from - last.to < NARROW
                    && last.to - last.from < NARROW * last.of.len() as f64 =>
            {
                last.to = to;
                last.of.push(span);
            }
            _ => blocks.push(Block { from, to, of: vec![span] }),
        }
    }
    let mut labels = Labels::new(RIGHT, 1);
    for Block { from, to, of } in blocks.iter().rev() {
        let parts = counted(of.iter().map(|span| span.text.as_str()));
        if width(&parts.join(", ")) + 8.0 > to - from {
            labels.place(&Label { x: from + 1.0, side: 0.0, left: from + 1.0, parts });
        }
    }
    labels.draw(out, middle);
    for Block { from, to, of } in &blocks {
        let class = match of.as_slice() {
            [span] => class_of_shade(span.shade),
            _ => "several",
        };
        let lines = of.iter().map(|span| (span.time.from, span.text.as_str()));
        put(out, &format!("<g><title>{}</title>", listed(scale, lines)));
        put(
            out,
            &format!(
                r#"<rect class="{class}" x="{from:.1}" y="{:.1}" width="{:.1}" height="15" rx="2"/>"#,
                middle - 7.5,
                (to - from - 0.6).max(NARROW)
            ),
        );
        let text = counted(of.iter().map(|span| span.text.as_str())).join(", ");
        if width(&text) + 8.0 <= to - from {
            let (x, y, text) = (from + 4.0, middle + 4.0, escaped(&text));
            put(out, &format!(r#"<text class="i" x="{x:.1}" y="{y:.1}">{text}</text>"#));
        }
        put(out, "</g>");
    }
    labels.lines()
}

/// Each word once, with how often it is there.
fn counted<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut different: Vec<(&str, usize)> = Vec::new();
    let mut more = false;
    for word in words.filter(|word| !word.is_empty()) {
        if let Some((_, number)) = different.iter_mut().find(|(other, _)| *other == word) {
            *number += 1;
        } else if different.len() < NAMED {
            different.push((word, 1));
        } else {
            more = true;
        }
    }
    let mut parts: Vec<String> = different
        .into_iter()
        .map(|(word, number)| match number {
            1 => cut(word, SHORT),
            _ => cut(&format!("{number}\u{d7} {word}"), SHORT),
        })
        .collect();
    if more {
        parts.push("\u{2026}".to_owned());
    }
    parts
}

/// A line for each, with its time.
fn listed<'a>(
    scale: &Scale,
    all: impl ExactSizeIterator<Item = (std::time::Duration, &'a str)>,
) -> String {
    let number = all.len();
    let mut lines: Vec<String> = all
        .take(NAMED)
        .map(|(at, text)| escaped(&cut(&format!("{} ms: {text}", scale.since(at)), LONG)))
        .collect();
    if number > NAMED {
        lines.push(format!("and {} more", number - NAMED));
    }
    lines.join("\n")
}

fn draw_legend(out: &mut String, y: f64) {
    let kinds = [
        (Kind::Said, "kernel said"),
        (Kind::Told, "told"),
        (Kind::Withheld, "withheld"),
        (Kind::Sent, "advert sent"),
        (Kind::Heard, "advert received"),
        (Kind::Done, "done"),
        (Kind::Failed, "failed"),
    ];
    let shades = [
        (Shade::Home, "at the NIC"),
        (Shade::Away, "at the bridge"),
        (Shade::Kept, "kept by vipshield"),
        (Shade::Moving, "on its way, untrue"),
        (Shade::Bad, "nowhere, down"),
        (Shade::Idle, "not here"),
    ];
    let mut x = 24.0;
    for (kind, name) in kinds {
        draw_mark(out, x, y, kind, 1);
        x = draw_name(out, x, y, name);
    }
    for (shade, name) in shades {
        let class = class_of_shade(shade);
        put(
            out,
            &format!(
                r#"<rect class="{class}" x="{:.1}" y="{:.1}" width="10" height="10" rx="2"/>"#,
                x - 5.0,
                y - 5.0
            ),
        );
        x = draw_name(out, x, y, name);
    }
}

/// Returns where the next one is.
fn draw_name(out: &mut String, x: f64, y: f64, name: &str) -> f64 {
    put(out, &format!(r#"<text class="n" x="{:.1}" y="{:.1}">{name}</text>"#, x + 9.0, y + 4.0));
    x + width(name) + 32.0
}

const fn class_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Said => "said",
        Kind::Told => "told",
        Kind::Withheld => "withheld",
        Kind::Heard => "heard",
        Kind::Sent => "sent",
        Kind::Done => "done",
        Kind::Failed => "failed",
    }
}

const fn class_of_shade(shade: Shade) -> &'static str {
    match shade {
        Shade::Idle => "idle",
        Shade::Home => "home",
        Shade::Away => "away",
        Shade::Kept => "kept",
        Shade::Moving => "moving",
        Shade::Bad => "bad",
    }
}
