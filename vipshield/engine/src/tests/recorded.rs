//! What was recorded is what happened, and played again leads to the same.

use proptest::prelude::*;

use super::{
    super::{
        Action, Event,
        record::{Clocks, Entry, FORMAT, Header},
        replay::Replay,
    },
    all,
    bench::Bench,
    engine, ready_for,
    told::{an_action, an_event},
};

fn header(whole: bool) -> Header {
    Header {
        recording: FORMAT,
        version: "0".to_owned(),
        clocks: Clocks::default(),
        whole,
        config: engine().config,
    }
}

/// Everything that the bench's engine was told and asked for, as it would be read from a file.
fn recording(bench: &Bench) -> Vec<Entry> {
    let mut actions = bench.log.iter().peekable();
    let mut engine = engine();
    let mut entries = Vec::new();
    for (at, event) in &bench.told {
        engine.handle(event.clone(), *at);
        // As many as this engine asks for: the bench does not say which event each followed.
        let asked = std::iter::from_fn(|| engine.poll_action()).count();
        let actions = actions.by_ref().take(asked).map(|(_, action)| action.clone()).collect();
        let entry = Entry { at: *at, events: vec![event.clone()], actions };
        let line = serde_json::to_string(&entry).unwrap();
        entries.push(serde_json::from_str(&line).unwrap());
    }
    assert!(actions.next().is_none(), "nothing else was asked for");
    entries
}

#[test]
fn every_sequence_is_decided_again_as_it_was() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.sequence(sequence);
        let mut replay = Replay::new(&header(true));
        let mut transitions = 0;
        for entry in recording(&bench) {
            let step = replay.play(&entry);
            assert!(step.differs.is_empty(), "{sequence:?} {datapath:?}: {step:?}");
            transitions += step.changes.iter().filter(|line| line.contains(" -> ")).count();
        }
        assert!(transitions >= 2, "{sequence:?} {datapath:?}: its phases are among the changes");
    }
}

#[test]
fn what_is_decided_otherwise_is_marked() {
    let (sequence, datapath) = all().next().unwrap();
    let mut bench = ready_for(sequence, datapath);
    bench.sequence(sequence);
    let mut entries = recording(&bench);
    let guards = |entry: &Entry| entry.actions.iter().any(|it| matches!(it, Action::Guard { .. }));
    let changed = entries.iter().position(guards).unwrap();
    entries[changed].actions.retain(|action| !matches!(action, Action::Guard { .. }));
    entries[changed].actions.push(Action::Rescan);
    let mut replay = Replay::new(&header(true));
    let differing: Vec<_> = entries
        .iter()
        .map(|entry| replay.play(entry).differs)
        .enumerate()
        .filter(|(_, differs)| !differs.is_empty())
        .collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    assert_eq!(differing[0].0, changed);
    let lines = &differing[0].1;
    assert!(lines[0].starts_with("recorded only: looking"), "{lines:?}");
    assert!(lines[1].starts_with("replayed only: guarding"), "{lines:?}");
}

/// An engine that goes on from a checkpoint stands where the other does, and goes on as that does.
#[test]
fn a_checkpoint_tells_all_that_lasts() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.sequence(sequence);
        let checkpoint = bench.engine.checkpoint(bench.now);
        let line = serde_json::to_string(&checkpoint).unwrap();
        let mut replay = Replay::new(&header(false));
        let step = replay.play(&serde_json::from_str(&line).unwrap());
        assert_eq!(step.differs, Vec::<String>::new());
        let nic = bench.nic();
        let view = &step.nics[0];
        assert_eq!((&view.nic, view.phase), (&nic.name, nic.phase), "{sequence:?} {datapath:?}");
        assert_eq!(view.bearer, nic.bearer.map(|bearer| bearer.name));
        assert_eq!(step.nics.len(), 1);
    }
}

proptest! {
    #[test]
    fn whatever_was_told_or_asked_for_is_read_as_it_was_written(
        event in an_event(),
        action in an_action(),
    ) {
        let events = vec![event];
        let entry = Entry { at: std::time::Duration::from_nanos(7), events, actions: vec![action] };
        let line = serde_json::to_string(&entry).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
    }
}

/// Told once, at the start, and never by the strategies above.
#[test]
fn what_is_found_at_the_start_is_read_as_it_was_written() {
    let names = [(2, "ens192".to_owned())].into_iter().collect();
    let nics = [(2, super::super::Carried::default())].into_iter().collect();
    let held = [(2, [super::node::address(super::node::VIP)].into_iter().collect())];
    let held = held.into_iter().collect();
    for event in [Event::Inherited { names, held }, Event::Carried { nics }] {
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
