//! The transition table, whole: what `docs/phases.md` says is what [`derive`] does.

use std::{env, fmt::Write as _, fs, path::Path};

use vipshield_common::guard::withhold;

use super::super::{Phase, Signs, derive};

/// In the order in which they decide, with what an operator would call them.
const SIGNS: [&str; 7] = ["exists", "in place", "running", "told", "port", "at home", "carried"];

/// A line of the table: what the signs must be (none: whatever), and why it is so.
const REASONS: [(&str, &str); 13] = [
    ("no · · · · · ·", "What does not exist cannot carry anything."),
    ("yes no · no no · ·", "Taken down or renamed, which is how a transition may begin, or end."),
    ("yes no · no yes · ·", "The same while it is a port: one that was bridged stays so."),
    (
        "yes no · yes · · ·",
        "Taken down for longer than the deadline, or another NIC has its name: a failure.",
    ),
    ("yes yes no no no no ·", "Addresses are on their way and so may the carrier be."),
    (
        "yes yes no no no yes ·",
        "Nothing but the carrier is missing: outside a transition a failure.",
    ),
    ("yes yes no no yes · no", "Addresses are on their way to the bridge."),
    ("yes yes no no yes · yes", "As for a NIC of its own: outside a transition a failure."),
    ("yes yes no yes · · ·", "No carrier for longer than the deadline: a failure."),
    (
        "yes yes yes · no no ·",
        "The link works, but addresses are missing: given back or being taken.",
    ),
    ("yes yes yes · no yes ·", "All is as it should be."),
    (
        "yes yes yes · yes · no",
        "A port whose bridge lacks addresses; one that had them all stays bridged.",
    ),
    ("yes yes yes · yes · yes", "The bridge is up and has every address."),
];

fn signs(bits: [bool; 7]) -> Signs {
    let [exists, in_place, running, told, port, at_home, carried] = bits;
    Signs { exists, port, in_place, running, at_home, carried, told }
}

fn every_signs() -> impl Iterator<Item = Signs> {
    (0..1_u32 << SIGNS.len()).map(|n| signs(std::array::from_fn(|i| n >> i & 1 == 1)))
}

fn every_case() -> impl Iterator<Item = (Phase, Signs)> {
    Phase::ALL.into_iter().flat_map(|was| every_signs().map(move |signs| (was, signs)))
}

/// The phase that follows from each phase, if it is the same whatever the signs not yet decided.
fn decided(known: &[bool]) -> Option<[Phase; 5]> {
    let open = SIGNS.len() - known.len();
    let mut outcomes = (0..1_u32 << open).map(|n| {
        let bits = std::array::from_fn(|i| {
            known.get(i).copied().unwrap_or_else(|| n >> (i - known.len()) & 1 == 1)
        });
        Phase::ALL.map(|was| derive(was, signs(bits)))
    });
    let first = outcomes.next()?;
    outcomes.all(|outcome| outcome == first).then_some(first)
}

/// Whether what follows from `known` is the same for the next sign yes and no.
fn is_idle(known: &[bool]) -> bool {
    let open = SIGNS.len() - known.len() - 1;
    (0..1_u32 << open).all(|n| {
        let outcome = |next: bool| {
            let bits = std::array::from_fn(|i| match i.checked_sub(known.len()) {
                None => known[i],
                Some(0) => next,
                Some(i) => n >> (i - 1) & 1 == 1,
            });
            Phase::ALL.map(|was| derive(was, signs(bits)))
        };
        outcome(true) == outcome(false)
    })
}

fn rows(
    known: &mut Vec<bool>,
    pattern: &mut Vec<&'static str>,
    out: &mut Vec<(String, [Phase; 5])>,
) {
    if let Some(outcome) = decided(known) {
        let mut line = pattern.clone();
        line.resize(SIGNS.len(), "·");
        out.push((line.join(" "), outcome));
        return;
    }
    let branches: &[(bool, &str)] =
        if is_idle(known) { &[(false, "·")] } else { &[(false, "no"), (true, "yes")] };
    for (value, word) in branches {
        known.push(*value);
        pattern.push(word);
        rows(known, pattern, out);
        known.pop();
        pattern.pop();
    }
}

fn table() -> String {
    let mut out = Vec::new();
    rows(&mut Vec::new(), &mut Vec::new(), &mut out);
    let mut text = String::from(INTRODUCTION);
    let _ = writeln!(
        text,
        "| {} | {} | why |",
        SIGNS.join(" | "),
        Phase::ALL.map(|phase| format!("from {phase}")).join(" | ")
    );
    let _ = writeln!(text, "|{}", "---|".repeat(SIGNS.len() + Phase::ALL.len() + 1));
    for (pattern, outcome) in out {
        let reason = REASONS.iter().find(|(known, _)| *known == pattern).map_or("", |(_, why)| why);
        let _ = writeln!(
            text,
            "| {} | {} | {reason} |",
            pattern.replace(' ', " | "),
            outcome.map(|phase| phase.to_string()).join(" | ")
        );
    }
    text
}

const INTRODUCTION: &str = "\
# Phases of a guarded NIC
The phase follows from seven signs and from the phase before. This table is the whole function \
`engine::derive`; a test keeps it so. A dot: whatever it is.

- *exists*: the interface exists.
- *in place*: it was told to be up, and has its name, or a bridge has it (names are exchanged).
- *running*: it is up and has a carrier.
- *told*: the daemons were told of a failure that lasts.
- *port*: it is a port of a bridge.
- *at home*: all its addresses are on it, link-local ones aside.
- *carried*: its bridge is up and has all of them.

What the guard withholds: in every phase the removal of addresses; being taken down and other names \
in every phase but *down*; the loss of the carrier in *leaving* and *returning* only.

A *from* column gives the next phase for the phase before.

";

/// After a wanted change: `VIPSHIELD_WRITE_DOCS=1 cargo test -p vipshield --lib phases`.
#[test]
fn the_table_in_the_docs_is_true() {
    let table = table();
    println!("{table}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/phases.md");
    if env::var_os("VIPSHIELD_WRITE_DOCS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == table,
        "docs/phases.md differs from the table above: see the comment of this test"
    );
    assert!(!table.contains("|  |"), "a row of docs/phases.md does not say why");
}

#[test]
fn a_carrier_lost_outside_a_transition_is_never_hidden() {
    for phase in Phase::ALL {
        let hides = phase.withhold(false) & withhold::CARRIER_LOSS != 0;
        assert_eq!(hides, phase.is_transition(), "{phase}");
    }
    for was in [Phase::Free, Phase::Bridged, Phase::Down] {
        for signs in every_signs().filter(|s| s.exists && s.in_place && !s.running) {
            let undisturbed = if signs.port { signs.carried } else { signs.at_home };
            if undisturbed {
                assert_eq!(derive(was, signs), Phase::Down, "{was} {signs:?}");
            }
        }
    }
}

#[test]
fn what_began_a_transition_is_hidden_before_it_is_known() {
    for phase in [Phase::Free, Phase::Bridged] {
        for sign in [withhold::ADDRESS_REMOVAL, withhold::ADMIN_DOWN, withhold::RENAME] {
            assert_ne!(phase.withhold(false) & sign, 0, "{phase}");
        }
    }
}

#[test]
fn down_needs_a_failure_that_is_known() {
    for (was, signs) in every_case() {
        let next = derive(was, signs);
        let works = signs.running && signs.in_place;
        if next == Phase::Down {
            assert!(signs.told || !signs.running || !signs.exists, "{was} {signs:?}");
            assert!(!(signs.exists && works), "{was} {signs:?}");
        }
        if !signs.exists || (signs.told && !works) {
            assert_eq!(next, Phase::Down, "{was} {signs:?}");
        }
    }
}

#[test]
fn the_way_back_begins_when_a_port_is_none_any_more() {
    for (was, signs) in every_case() {
        if derive(was, signs) == Phase::Returning && was != Phase::Returning {
            assert_eq!(was, Phase::Bridged, "{signs:?}");
            assert!(!signs.port, "{signs:?}");
        }
        if derive(was, signs) == Phase::Bridged {
            assert!(signs.port, "{was} {signs:?}");
        }
    }
}

#[test]
fn looking_twice_changes_nothing() {
    for (was, signs) in every_case() {
        let once = derive(was, signs);
        assert_eq!(derive(once, signs), once, "{was} {signs:?}");
    }
}
