//! Recorded runs as pictures: what is in them, and those of the docs.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which reads files")]

use std::{env, fs, path::Path, time::Duration};

use vipshield_engine::{
    Action, Event,
    record::{Entry, Header},
    replay::{
        picture::{Content, Kind, Mark, NoPicture, Picture, Shade, Span, picture},
        svg::svg,
    },
};

/// Of the lab's recordings.
fn recording(name: &str) -> (Header, Vec<Entry>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    (header, lines.map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn drawn(name: &str) -> Picture {
    let (header, entries) = recording(name);
    picture(&header, &entries, None).unwrap()
}

fn content<'a>(picture: &'a Picture, group: &str, name: &str) -> &'a Content {
    let mut lanes = picture.lanes.iter();
    let found = lanes.find(|lane| lane.group.starts_with(group) && lane.name == name);
    &found.unwrap_or_else(|| panic!("{group}, {name}: {picture:#?}")).content
}

fn band<'a>(picture: &'a Picture, group: &str, name: &str) -> &'a [Span] {
    match content(picture, group, name) {
        Content::Band(spans) => spans,
        Content::Marks(marks) => panic!("{marks:?}"),
    }
}

fn marks<'a>(picture: &'a Picture, group: &str, name: &str) -> &'a [Mark] {
    match content(picture, group, name) {
        Content::Marks(marks) => marks,
        Content::Band(spans) => panic!("{spans:?}"),
    }
}

/// What stands beside each, the same once.
fn shorts(marks: &[Mark]) -> Vec<&str> {
    let mut shorts: Vec<&str> = marks.iter().map(|mark| mark.short.as_str()).collect();
    shorts.dedup();
    shorts
}

fn texts(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.text.as_str()).collect()
}

/// After a wanted change: `VIPSHIELD_WRITE_DOCS=1 cargo test -p vipshield-engine --test pictures`.
#[test]
fn the_pictures_in_the_docs_are_those_that_are_drawn() {
    for run in ["bind", "exchange"] {
        let name = format!("{run}.svg");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pictures").join(&name);
        let text = svg(&drawn(&format!("{run}.jsonl")));
        if env::var_os("VIPSHIELD_WRITE_DOCS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "docs/pictures/{name} differs: see the comment of this test");
    }
}
