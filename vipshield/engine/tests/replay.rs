//! Recorded runs, decided again: the same actions, or the difference is wanted and the file made anew.
//!
//! They come from the lab: `vipshield run --record FILE` in a scenario.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which reads files")]

use std::{fs, path::Path};

use vipshield_engine::{
    Phase,
    record::{Entry, FORMAT, Header},
    replay::{Replay, Step},
};

fn play(name: &str) -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(name);
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.lines();
    let header: Header = serde_json::from_str(lines.next().unwrap()).unwrap();
    assert_eq!(header.recording, FORMAT);
    let mut replay = Replay::new(&header);
    let entries = lines.map(|line| serde_json::from_str::<Entry>(line).unwrap());
    entries.map(|entry| replay.play(&entry)).collect()
}

/// What a run went through, without what the NIC was before and after all of it.
const RUNS: [(&str, &[Phase]); 6] = [
    ("bind.jsonl", &[Phase::Free, Phase::Leaving, Phase::Bridged]),
    ("bind-backup.jsonl", &[Phase::Free, Phase::Leaving, Phase::Bridged]),
    ("unbind.jsonl", &[Phase::Bridged, Phase::Returning, Phase::Free]),
    ("exchange.jsonl", &[Phase::Free, Phase::Leaving, Phase::Bridged]),
    ("exchange-backup.jsonl", &[Phase::Free, Phase::Leaving, Phase::Bridged]),
    ("unexchange.jsonl", &[Phase::Bridged, Phase::Returning, Phase::Free]),
];

/// Of a vipshield that only observed.
#[test]
fn one_that_observed_does_nothing_now_either() {
    for step in play("bind-unshielded.jsonl") {
        assert_eq!(step.differs, Vec::<String>::new(), "{step:?}");
    }
}

#[test]
fn what_was_recorded_is_decided_as_it_was() {
    for (run, expected) in RUNS {
        let steps = play(run);
        for step in &steps {
            assert_eq!(step.differs, Vec::<String>::new(), "{run}: {step:?}");
        }
        let mut phases: Vec<Phase> =
            steps.iter().filter_map(|step| step.nics.first()).map(|nic| nic.phase).collect();
        phases.dedup();
        let mut within = phases.windows(expected.len());
        assert!(within.any(|found| found == expected), "{run}: {phases:?}");
        assert!(!phases.contains(&Phase::Down), "{run}: {phases:?}");
        let line = "by rule address-removal: ";
        let events = steps.iter().flat_map(|step| &step.events);
        let withheld = events.filter(|event| event.contains(line)).count();
        assert!(withheld >= 1, "{run}: the node's address leaves");
    }
}
