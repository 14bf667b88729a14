//! What cannot be done is tried again, said once, and done without where it can be.

use std::time::Duration;

use super::{
    super::{Action, Event, Phase, Weight},
    bench::Bench,
    kube_ovn::Sequence,
    node::{Datapath, NIC_INDEX},
};

const RETRY: Duration = Duration::from_millis(500);
const RETRY_OPTIONAL: Duration = Duration::from_secs(30);

fn is_shunt(action: &Action) -> bool {
    matches!(action, Action::Shunt { .. })
}

/// A NIC that is a port on a kernel that has no classifiers.
fn without_classifiers() -> Bench {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = is_shunt;
    bench.sequence(Sequence::Bind);
    assert_eq!(bench.phase(), Phase::Bridged);
    bench
}

/// When it was tried, from the log's entry `from` on.
fn tried(bench: &Bench, from: usize) -> Vec<Duration> {
    bench.asked(from).filter(|(_, action)| is_shunt(action)).map(|(at, _)| *at).collect()
}

/// How often the operator was told this, at this weight.
fn told(bench: &Bench, weight: Weight, words: &str) -> usize {
    let told = bench.log.iter().filter(|(_, action)| {
        matches!(action, Action::Tell { notice }
            if notice.weight == weight && notice.text.contains(words))
    });
    told.count()
}

#[test]
fn what_vipshield_can_do_without_is_tried_ever_less_often() {
    let mut bench = without_classifiers();
    let from = bench.log.len();
    bench.advance(200 * RETRY_OPTIONAL);
    let pauses: Vec<Duration> =
        tried(&bench, from).windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
    assert_eq!(pauses.last(), Some(&RETRY_OPTIONAL));
    assert!(pauses.len() > 190, "it is not given up");
}

#[test]
fn the_same_failure_is_said_once_and_so_is_its_end() {
    let mut bench = without_classifiers();
    bench.advance(20 * RETRY_OPTIONAL);
    let warnings = told(&bench, Weight::Warning, "laying a shunt");
    assert_eq!(warnings, 1, "though it was to be laid for two reasons");
    assert!(told(&bench, Weight::Detail, "laying a shunt") > 20);
    for words in ["made to fail", "CONFIG_NET_CLS_BPF", "does without"] {
        assert_eq!(told(&bench, Weight::Warning, words), 1, "{words}");
    }
    bench.fails = |_| false;
    bench.advance(2 * RETRY_OPTIONAL);
    assert_eq!(told(&bench, Weight::Info, "laying a shunt"), 1);
    assert!(bench.status().warnings.is_empty());
    assert!(bench.shunts.contains_key(&NIC_INDEX));
    let next = bench.engine.next_deadline();
    assert!(next.is_none_or(|next| next > bench.now), "{next:?}");
}

#[test]
fn what_vipshield_can_do_without_is_no_reason_not_to_be_ready() {
    let mut bench = without_classifiers();
    assert!(bench.is_healthy());
    let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
    assert!(warning.contains("laying a shunt") && warning.contains("made to fail"), "{warning}");
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.restart_daemon(701);
    assert!(!bench.is_healthy(), "a daemon without a guard is");
}

/// What is not wanted any more is nothing to mend.
#[test]
fn a_failure_that_nobody_minds_is_forgotten() {
    let mut bench = without_classifiers();
    bench.sequence(Sequence::Unbind);
    bench.fails = |_| false;
    bench.advance(2 * RETRY_OPTIONAL);
    assert!(bench.status().warnings.is_empty(), "{:?}", bench.status().warnings);
    assert_eq!(bench.engine.next_deadline(), None);
}

/// Before Linux 6.6 a qdisc may have been made before the classifier was refused.
#[test]
fn what_was_half_done_is_taken_back() {
    for stopped in [false, true] {
        let mut bench = without_classifiers();
        let from = bench.log.len();
        if stopped {
            bench.feed(Event::Stop);
        } else {
            bench.fails = |action| matches!(action, Action::Shunt { shunt: Some(_), .. });
            bench.sequence(Sequence::Unbind);
        }
        let undo = Action::Shunt { ifindex: NIC_INDEX, shunt: None };
        let undone = bench.asked(from).filter(|(_, action)| *action == undo).count();
        assert_eq!(undone, 1, "stopped: {stopped}");
    }
}

/// What the promise needs is tried as often as ever, and said once.
#[test]
fn what_is_needed_is_tried_often() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.begin();
    bench.advance(100 * RETRY);
    let asked = bench.log.iter().filter(|(_, action)| matches!(action, Action::Guard { .. }));
    assert_eq!(asked.count(), 101);
    assert_eq!(told(&bench, Weight::Warning, "guarding"), 1);
    assert_eq!(told(&bench, Weight::Warning, "SYS_PTRACE"), 1);
    bench.fails = |_| false;
    bench.advance(RETRY);
    assert_eq!(told(&bench, Weight::Info, "after 101 attempts"), 1);
}
