//! Recorded runs as pictures: what is in them, and those of the docs.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test, which reads files"
)]

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
    for run in ["bind", "bind-unshielded", "exchange"] {
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

/// The same NIC, under a vipshield that only observed.
#[test]
fn a_bind_that_nobody_shielded_is_drawn_without_a_shield() {
    let picture = drawn("bind-unshielded.jsonl");
    assert!(picture.title.ends_with(", without vipshield"), "{}", picture.title);
    let lanes: Vec<&str> = picture.lanes.iter().map(|lane| lane.name.as_str()).collect();
    for shielded in ["withheld from it", "untrue to daemons", "carried by vipshield"] {
        assert!(!lanes.contains(&shielded), "{lanes:?}");
    }
    assert!(!picture.lanes.iter().any(|lane| lane.group == "vipshield did"), "{picture:#?}");
    let told = shorts(marks(&picture, "keepalived", "was told"));
    assert!(told.contains(&"\u{2212}192.0.2.11"), "it is told: {told:?}");
    let adverts = shorts(marks(&picture, "VRRP adverts", "VRID 51, IPv4"));
    assert!(adverts.iter().any(|short| short.starts_with("from 192.0.2.12")), "{adverts:?}");
    assert_ne!(adverts.last(), Some(&"sent"), "{adverts:?}");
}

#[test]
fn a_bind_is_drawn_as_it_went() {
    let picture = drawn("bind.jsonl");
    assert_eq!(picture.title, "ens192: free \u{2192} leaving \u{2192} bridged in 55 ms");
    let phases = ["free (rule home)", "leaving (rule taken)", "bridged (rule carried)"];
    assert_eq!(texts(band(&picture, "ens192", "phase")), phases);
    let bearers = ["the NIC itself", "br-provider"];
    assert_eq!(texts(band(&picture, "ens192", "its traffic: bearer")), bearers);
    let carried = band(&picture, "ens192", "carried by vipshield");
    assert_eq!(texts(carried), ["192.0.2.10, 192.0.2.11"]);
    assert!(carried[0].time.from < picture.transition.from, "before anything was taken");
    let vip = band(&picture, "where VIPs are", "192.0.2.10");
    assert_eq!(texts(vip), ["on the NIC", "nowhere, carried", "on br-provider"]);
    assert_eq!(
        vip.iter().map(|it| it.shade).collect::<Vec<_>>(),
        [Shade::Home, Shade::Kept, Shade::Away]
    );
    for spans in [vip, carried, band(&picture, "ens192", "phase")] {
        assert!(spans.windows(2).all(|two| two[0].time.to == two[1].time.from), "{spans:?}");
    }
    assert_eq!(vip[0].time.from, picture.shown.from);
    assert_eq!(vip[2].time.to, picture.shown.to);
    let adverts = marks(&picture, "VRRP adverts", "VRID 51, IPv4");
    let times: Vec<_> = adverts.iter().map(|it| it.at < picture.transition.from).collect();
    assert_eq!(times, [true, false], "one before and one after: {adverts:?}");
    assert!(adverts.iter().all(|it| it.kind == Kind::Sent));
    assert!(adverts[1].text.ends_with("on br-provider, ens192"), "{adverts:?}");
}

#[test]
fn what_a_daemon_is_told_is_what_was_said_and_not_withheld() {
    let picture = drawn("bind.jsonl");
    let withheld = shorts(marks(&picture, "keepalived", "withheld from it"));
    let expected = [
        "own-address",
        "\u{2212}192.0.2.11 (address-removal)",
        "own-address",
        "\u{2212}192.0.2.10 (address-removal)",
        "bridge-port",
        "own-address",
    ];
    assert_eq!(withheld, expected);
    let said = shorts(marks(&picture, "the kernel said", "NIC: link, addresses"));
    let of_nic = ["\u{2212}192.0.2.11", "\u{2212}192.0.2.10", "port of br-provider", ""];
    assert_eq!(said, of_nic);
    let told = shorts(marks(&picture, "keepalived", "was told"));
    assert!(told.iter().all(|it| !it.contains('\u{2212}')), "{told:?}");
    for passed in ["bridge 3: +192.0.2.10", "bridge 3: +192.0.2.11", "port of br-provider"] {
        assert!(told.contains(&passed), "{passed}: {told:?}");
    }
    // Without the guard's reports it would have been told all of it.
    let (header, mut entries) = recording("bind.jsonl");
    for entry in &mut entries {
        entry.events.retain(|event| !matches!(event, Event::Withheld { .. }));
    }
    let unguarded = picture_of(&header, &entries);
    let told = shorts(marks(&unguarded, "keepalived", "was told"));
    assert!(told.contains(&"\u{2212}192.0.2.10"), "{told:?}");
}

fn picture_of(header: &Header, entries: &[Entry]) -> Picture {
    picture(header, entries, None).unwrap()
}

#[test]
fn an_exchange_is_one_transition() {
    let picture = drawn("exchange.jsonl");
    assert!(picture.title.ends_with(" in 119 ms"), "from its first step on: {}", picture.title);
    let phases = texts(band(&picture, "ens192", "phase"));
    let expected = [
        "free (rule home)",
        "leaving (rule taken)",
        "free (rule home)",
        "leaving (rule taken)",
        "bridged (rule carried)",
    ];
    assert_eq!(phases, expected);
    let withheld = shorts(marks(&picture, "keepalived", "withheld from it"));
    for rule in ["admin-down", "rename", "name-conflict", "address-removal", "bridge-port"] {
        assert!(withheld.iter().any(|it| it.contains(rule)), "{rule}: {withheld:?}");
    }
    let told = shorts(marks(&picture, "keepalived", "was told"));
    let hidden = ["down", "called", "\u{2212}192"];
    assert!(told.iter().all(|it| !hidden.iter().any(|word| it.contains(word))), "{told:?}");
}

#[test]
fn what_failed_is_drawn_as_that() {
    let (header, mut entries) = recording("bind.jsonl");
    for event in entries.iter_mut().flat_map(|entry| &mut entry.events) {
        if let Event::Succeeded { action: action @ Action::Announce { .. } } = event {
            let error = "no such device".to_owned();
            *event = Event::Failed { action: action.clone(), error };
        }
    }
    let picture = picture_of(&header, &entries);
    let did = marks(&picture, "vipshield did", "VIPs");
    assert_eq!((did[0].kind, did[0].short.as_str()), (Kind::Failed, "announce 192.0.2.10 failed"));
    assert!(did[0].text.contains("no such device"), "{did:?}");
    assert!(svg(&picture).contains(r#"<path class="failed" d="M9"#));
}

#[test]
fn the_transition_is_the_last_or_the_one_at_that_time() {
    let (header, mut entries) = recording("bind.jsonl");
    let last = picture_of(&header, &entries).transition;
    let at = |at| picture(&header, &entries, Some(at)).map(|picture| picture.transition);
    assert_eq!(at(last.from), Ok(last));
    assert_eq!(at(last.to + Duration::from_secs(1)), Ok(last));
    let began = header.clocks.time_of_day(last.from);
    let Err(error) = at(Duration::ZERO) else { panic!("nothing happened then") };
    assert!(error.to_string().ends_with(&format!("there is one at {began}")), "{error}");
    entries.retain(|entry| entry.at < last.from);
    assert_eq!(picture(&header, &entries, None), Err(NoPicture::NoTransition));
    assert_eq!(picture(&header, &[], None), Err(NoPicture::NoTransition));
}

/// Whether every tag is closed where it should be, and all else is text or a value as XML has them.
fn assert_well_formed(text: &str) {
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
    let assert_plain = |text: &str| {
        assert!(!text.contains(['<', '>', '\0', '\u{1}']), "{text:?}");
        for rest in text.split('&').skip(1) {
            let entity = rest.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "apos"].contains(&entity), "{text:?}");
        }
    };
    let mut open: Vec<&str> = Vec::new();
    let mut parts = text.split('<');
    assert_eq!(parts.next(), Some(""), "it begins with a tag");
    for part in parts {
        let (tag, text) = part.split_once('>').unwrap();
        assert_plain(text);
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else {
            let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(is_name(name), "{part}");
            while !rest.is_empty() {
                let (key, value) = rest.split_once("=\"").unwrap();
                assert!(key.trim().chars().all(|c| c.is_ascii_alphabetic() || c == '-'), "{part}");
                let (value, after) = value.split_once('"').unwrap();
                assert_plain(value);
                rest = after;
            }
            if !closed {
                open.push(name);
            }
        }
        assert!(!open.is_empty() || text.trim().is_empty(), "text outside of all: {text:?}");
    }
    assert!(open.is_empty(), "{open:?}");
}

/// Names in a recording are anybody's.
#[test]
fn nothing_of_a_recording_gets_out_of_its_place() {
    let (header, entries) = recording("bind.jsonl");
    let evil = r#"<script>&'\"\u0001"#;
    let text = entries
        .iter()
        .map(|entry| serde_json::to_string(entry).unwrap())
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\"br-provider\"", &format!("\"{evil}\""))
        .replace("\"name\":\"keepalived\"", &format!("\"name\":\"{evil}{}\"", "k".repeat(10_000)));
    let entries: Vec<Entry> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let header = Header { version: evil.repeat(1_000), ..header };
    let text = svg(&picture_of(&header, &entries));
    assert_well_formed(&text);
    assert!(text.contains("&lt;script&gt;&amp;&apos;&quot;\u{fffd}"));
    assert!(text.len() < 40_000, "{}", text.len());
    for run in ["bind.jsonl", "unbind.jsonl", "exchange.jsonl", "unexchange.jsonl"] {
        assert_well_formed(&svg(&drawn(run)));
    }
    for run in ["bind-backup.jsonl", "exchange-backup.jsonl"] {
        assert_well_formed(&svg(&drawn(run)));
    }
}

/// A cable that is pulled and put back four times a second for an hour, and times that no clock has.
#[test]
fn however_much_happens_the_picture_has_bounds() {
    let (header, mut entries) = recording("bind.jsonl");
    let at = |at: Duration, up: bool, entries: &[Entry]| {
        let links = entries.iter().flat_map(|entry| &entry.events);
        let mut nic = links.filter_map(|event| match event {
            Event::Snapshot { links, .. } => links.iter().find(|link| link.ifindex == 2),
            _ => None,
        });
        let mut link = nic.next_back().unwrap().clone();
        (link.up, link.running) = (up, up);
        Entry { at, events: vec![Event::Link { link }], actions: Vec::new() }
    };
    let transition = picture_of(&header, &entries).transition;
    entries.retain(|entry| entry.at + Duration::from_millis(10) < transition.from);
    for number in 1..=4 * 3_600 {
        let entry =
            at(transition.from + Duration::from_millis(250) * number, number % 2 == 0, &entries);
        entries.push(entry);
    }
    let picture = picture_of(&header, &entries);
    assert!(picture.transition.to > picture.transition.from + Duration::from_mins(59));
    let text = svg(&picture);
    assert_well_formed(&text);
    assert!(text.len() < 400_000, "{}", text.len());
    // And one event at the end of time.
    entries.push(at(Duration::from_nanos(u64::MAX), false, &entries));
    assert_well_formed(&svg(&picture_of(&header, &entries)));
}
