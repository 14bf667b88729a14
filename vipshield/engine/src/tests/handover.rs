//! Another vipshield takes over.

use std::time::Duration;

use super::{
    super::{Action, Event, Phase},
    all,
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{Datapath, NIC_INDEX, NODE_IP, Op, address},
    ready_for,
};

#[test]
fn whoever_takes_over_in_any_phase_finds_all_as_it_is() {
    for (sequence, datapath) in all() {
        let name = format!("before {sequence:?} on {datapath:?}");
        let mut bench = ready_for(sequence, datapath);
        let phase = bench.phase();
        let from = bench.log.len();
        bench.hand_over();
        bench.advance(3 * DEADLINE);
        assert_eq!(bench.phase(), phase, "{name}");
        assert!(bench.is_calm() && bench.is_healthy(), "{name}");
        let disturbs = |action: &Action| {
            matches!(
                action,
                Action::ReplayRemoval { .. }
                    | Action::ShowAddress { address: Some(_), .. }
                    | Action::RemoveVip { .. }
                    | Action::Rebind { .. }
            )
        };
        let disturbed: Vec<_> = bench.asked(from).filter(|(_, action)| disturbs(action)).collect();
        assert!(disturbed.is_empty(), "{name}: {disturbed:?}");
        bench.sequence(sequence);
        assert!(bench.is_calm(), "{name}");
    }
}

/// A daemon that was told that its address is gone waits to be told that it is back.
#[test]
fn whoever_takes_over_knows_what_the_daemons_were_told() {
    const LONG: Duration = Duration::from_mins(2);
    for sequence in [Sequence::Bind, Sequence::Exchange] {
        let mut bench = Bench::owner_of_vip(Datapath::Ovs);
        bench.sequence(sequence);
        let ifindex = bench.node.index("ovs-system").unwrap();
        let ip = address(NODE_IP).ip;
        bench.feed(Event::Switch { ifindex, served: false });
        bench.advance(LONG);
        assert!(!bench.keepalived().view.has(NIC_INDEX, ip), "{sequence:?}");
        let from = bench.log.len();
        bench.hand_over();
        bench.advance(LONG);
        assert_eq!(bench.asked(from).filter(|(_, it)| is_shown(it)).count(), 0, "{sequence:?}");
        assert!(!bench.keepalived().view.has(NIC_INDEX, ip), "{sequence:?}");
        bench.feed(Event::Switch { ifindex, served: true });
        assert!(bench.keepalived().view.has(NIC_INDEX, ip), "{sequence:?}");
    }
}

fn is_shown(action: &Action) -> bool {
    matches!(action, Action::ShowAddress { address: Some(_), .. })
}

#[test]
fn nothing_is_handed_over_while_a_nic_is_on_its_way() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    let steps = bench.steps(Sequence::Bind);
    assert!(bench.engine.may_hand_over(bench.now));
    for step in &steps {
        bench.run(std::slice::from_ref(step));
        let under_way = bench.phase().is_transition();
        assert!(!under_way || !bench.engine.may_hand_over(bench.now), "{step:?}");
    }
    bench.advance(10 * DEADLINE);
    assert!(bench.engine.may_hand_over(bench.now));
    assert_eq!(bench.phase(), Phase::Bridged);
    // What is not true and has to be told is no moment for it either.
    bench.change(&Op::RemoveAddress(super::node::BRIDGE.to_owned(), address(NODE_IP), 0));
    assert!(!bench.engine.may_hand_over(bench.now));
}
