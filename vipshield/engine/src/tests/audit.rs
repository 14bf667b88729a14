//! What was untrue to a daemon for too long is counted, whatever the reason.
//!
//! That nothing else is counted, and that all that a daemon takes to be otherwise than it is is known, the
//! bench asserts after each change: `Bench::audit`.

use std::time::Duration;

use super::{
    super::Action,
    all,
    bench::{Bench, DEADLINE},
    node::{Datapath, NIC, NIC_INDEX, Op, VIP, address},
    ready_for,
};
use crate::Event;

fn words(bench: &Bench) -> Vec<String> {
    let said = bench.log.iter().filter_map(|(_, action)| match action {
        Action::Tell { notice } => Some(notice.text.clone()),
        _ => None,
    });
    said.filter(|text| text.contains("should have known")).collect()
}

/// A VIP that a stranger takes off the NIC.
fn lose_vip(bench: &mut Bench) {
    bench.grace = Duration::MAX;
    bench.change(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 77));
}

#[test]
fn a_loop_that_comes_late_is_counted_once() {
    let mut bench = Bench::new(Datapath::Bridge);
    lose_vip(&mut bench);
    bench.now += 2 * DEADLINE;
    bench.feed(Event::Tick);
    assert_eq!(bench.status().overdue, 1);
    let said = words(&bench);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("2000 ms that 192.0.2.10/32 is there"), "{said:?}");
    bench.advance(5 * DEADLINE);
    assert_eq!((bench.status().overdue, words(&bench).len()), (1, 1));
}

#[test]
fn what_cannot_be_told_is_counted_until_it_is() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::ReplayRemoval { .. });
    lose_vip(&mut bench);
    bench.advance(DEADLINE + Duration::from_millis(200));
    assert_eq!(bench.status().overdue, 0, "a loop may need a moment");
    bench.advance(10 * DEADLINE);
    assert_eq!(bench.status().overdue, 1);
    bench.fails = |_| false;
    bench.advance(2 * DEADLINE);
    assert!(!bench.keepalived().view.has(NIC_INDEX, address(VIP).ip));
    assert_eq!(bench.status().overdue, 1);
    lose_vip(&mut bench);
    assert!(bench.engine.audit.untrue().is_empty(), "told");
}

/// It had withheld that an address left, and was killed before anything that carries it was in force.
#[test]
fn what_a_killed_vipshield_had_withheld_is_told_by_the_next() {
    for (sequence, datapath) in all() {
        for killed in 1..ready_for(sequence, datapath).steps(sequence).len() {
            let mut bench = ready_for(sequence, datapath);
            let steps = bench.steps(sequence);
            bench.run(&steps[..killed]);
            bench.kill_engine();
            // What it carried is over by then.
            bench.advance(5 * DEADLINE);
            bench.begin();
            bench.advance(5 * DEADLINE);
            let name = format!("{sequence:?} on {datapath:?}, killed after step {killed}");
            assert_eq!(bench.status().overdue, 0, "{name}");
            let believed = bench.keepalived().view.addresses.get(&NIC_INDEX).into_iter().flatten();
            for ip in believed {
                assert!(bench.node.has_somewhere(*ip), "{name}: {ip}");
            }
        }
    }
}
