//! Kube-OVN's sequences as they should go.

use std::time::Duration;

use super::{
    super::{Action, Event, Phase},
    all,
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, LINK_LOCAL, NIC, NIC_INDEX, NODE_IP6, Op, VIP, address},
    ready_for,
};

#[test]
fn no_sequence_is_noticed() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        for step in &sequence.steps(&bench.node) {
            bench.advance(step.takes);
            bench.change(&step.op);
            assert!(bench.is_calm(), "{sequence:?} on {datapath:?} at {step:?}");
        }
        bench.advance(10 * DEADLINE);
        assert!(bench.is_calm(), "{sequence:?} on {datapath:?}");
        assert!(!bench.released(), "{sequence:?} on {datapath:?}: {:?}", bench.log);
        let end = if sequence.takes() { Phase::Bridged } else { Phase::Free };
        assert_eq!(bench.phase(), end, "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn a_transition_is_counted_where_it_ends() {
    // Within an exchange the NIC is at home for a moment.
    let whole = |(sequence, _): &_| matches!(sequence, Sequence::Bind | Sequence::Unbind);
    for (sequence, datapath) in all().filter(whole) {
        let mut bench = ready_for(sequence, datapath);
        let before = bench.nic().transitions;
        for step in &sequence.steps(&bench.node) {
            bench.advance(step.takes);
            bench.change(&step.op);
        }
        bench.advance(10 * DEADLINE);
        for (before, now) in before.iter().zip(bench.nic().transitions) {
            let (more, took) = (now.number - before.number, now.took_us - before.took_us);
            let ended = u64::from(now.to == bench.phase());
            assert_eq!(more, ended, "{sequence:?} on {datapath:?}: {now:?}");
            assert_eq!(took > 0, now.to == bench.phase(), "{sequence:?} on {datapath:?}: {now:?}");
        }
    }
}

#[test]
fn sockets_move_in_the_very_step() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        for step in &sequence.steps(&bench.node) {
            bench.advance(step.takes);
            bench.change(&step.op);
            let port = bench.node.links[&NIC_INDEX].master.is_some();
            let bridge = bench
                .node
                .links
                .values()
                .find(|link| link.is_bridge() && link.name != "ovs-system")
                .map(|link| link.ifindex);
            let right = if port { bridge.unwrap() } else { NIC_INDEX };
            assert_eq!(bench.keepalived().bound, [right; 2], "{sequence:?} {datapath:?} {step:?}");
        }
    }
}

/// One that was taken down may say for some time that it has none.
const CARRIER_SETTLES: Duration = Duration::from_millis(1_500);

#[test]
fn a_lost_carrier_is_hidden_in_transitions_only() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        let mut hidden = 0;
        let mut downed = None;
        for step in &sequence.steps(&bench.node) {
            bench.advance(step.takes);
            bench.change(&step.op);
            if !bench.node.links[&NIC_INDEX].up {
                downed = Some(bench.now);
            }
            let settles = downed.is_some_and(|at| bench.now < at + CARRIER_SETTLES);
            let transition = bench.phase().is_transition() || settles;
            assert_eq!(
                bench.hides_carrier_loss(),
                transition,
                "{sequence:?} {datapath:?} {step:?}"
            );
            hidden += u32::from(transition);
        }
        assert!(hidden > 0, "{sequence:?} on {datapath:?} has no transition");
        bench.advance(2 * DEADLINE);
        assert!(!bench.hides_carrier_loss());
    }
}

/// A NIC that is down and up again within a moment says that it runs, until the kernel looks.
#[test]
fn a_carrier_that_takes_its_time_after_the_nic_was_down_is_no_failure() {
    let nic = || NIC.to_owned();
    for away in [1, 500, 900] {
        let mut bench = Bench::new(Datapath::Bridge);
        bench.change(&Op::Down(nic()));
        bench.change(&Op::Up(nic()));
        for text in [NODE_IP6, LINK_LOCAL] {
            bench.change(&Op::AddAddress(nic(), address(text)));
        }
        assert_eq!(bench.phase(), Phase::Free, "it says that it runs");
        bench.advance(Duration::from_millis(300));
        bench.change(&Op::Carrier(nic(), false));
        assert!(bench.phase().is_transition());
        bench.advance(Duration::from_millis(away));
        bench.change(&Op::Carrier(nic(), true));
        bench.advance(5 * DEADLINE);
        assert!(bench.is_calm() && bench.phase() == Phase::Free, "away for {away} ms");
    }
}

#[test]
fn a_carrier_that_does_not_come_back_after_the_nic_was_down_is_told() {
    let nic = || NIC.to_owned();
    for waited in [Duration::from_millis(300), 2 * CARRIER_SETTLES] {
        let mut bench = Bench::new(Datapath::Bridge);
        bench.change(&Op::Down(nic()));
        bench.change(&Op::Up(nic()));
        for text in [NODE_IP6, LINK_LOCAL] {
            bench.change(&Op::AddAddress(nic(), address(text)));
        }
        bench.advance(waited);
        bench.change(&Op::Carrier(nic(), false));
        let at_once = !bench.keepalived().view.trusts(NIC_INDEX, NIC);
        assert_eq!(at_once, waited > CARRIER_SETTLES, "outside a transition it passes");
        // The bench sees to the deadline.
        bench.advance(3 * DEADLINE);
        assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
        assert_eq!(bench.phase(), Phase::Down);
    }
}

#[test]
fn of_open_vswitchs_bridges_the_one_with_the_addresses_is_the_bearer() {
    let mut bench = Bench::new(Datapath::Ovs);
    let other = "br-int".to_owned();
    bench.change(&Op::AddBridge(other.clone()));
    bench.change(&Op::CopyMac(other.clone(), NIC.to_owned()));
    bench.change(&Op::Up(other));
    // A bond in mode 6: the bridge keeps a MAC of its own.
    let mut steps = bench.steps(Sequence::Bind);
    steps.retain(|step| !matches!(step.op, Op::CopyMac(..)));
    bench.run(&steps);
    let bearer = bench.nic().bearer.unwrap();
    assert_eq!(bearer.name, BRIDGE);
    assert_eq!(bench.keepalived().bound, [bearer.ifindex; 2]);
    assert_eq!(bench.phase(), Phase::Bridged);
}

/// A VRF is a master too, and takes nothing but routes.
#[test]
fn a_nic_in_a_vrf_is_no_port() {
    let master = |kind: &str| {
        let mut bench = Bench::new(Datapath::Bridge);
        bench.daemon_asks(address(VIP), false);
        bench.daemon_asks(address(VIP), true);
        let from = bench.log.len();
        bench.change(&Op::AddNic("master".to_owned()));
        let index = bench.node.index("master").unwrap();
        bench.node.links.get_mut(&index).unwrap().kind = Some(kind.to_owned());
        bench.node.links.get_mut(&NIC_INDEX).unwrap().master = Some(index);
        for ifindex in [index, NIC_INDEX] {
            bench.feed(Event::Link { link: bench.node.links[&ifindex].clone() });
        }
        bench.feed(Event::Turnover);
        bench.advance(5 * DEADLINE);
        (bench, from, index)
    };
    let (bench, from, _) = master("vrf");
    assert_eq!(bench.phase(), Phase::Free);
    let touched = bench.asked(from).find(|(_, action)| {
        matches!(
            action,
            Action::Rebind { .. }
                | Action::MoveVip { .. }
                | Action::StandIn { .. }
                | Action::Shunt { .. }
        )
    });
    assert_eq!(touched, None);
    for kind in ["bridge", "bond", "team"] {
        let (bench, _, index) = master(kind);
        assert_eq!(bench.keepalived().bound, [index; 2], "{kind}");
        assert_eq!(bench.places(address(VIP)), ["master"], "{kind}");
    }
}

/// Which way it goes is seen from where it was: an operator reads it in the status.
#[test]
fn on_its_way_back_it_is_returning_even_as_a_port_again() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unbind, datapath);
        bench.change(&Op::RemovePort(NIC.to_owned()));
        assert_eq!(bench.phase(), Phase::Returning, "{datapath:?}");
        bench.change(&Op::Carrier(NIC.to_owned(), false));
        bench.change(&Op::AddPort(BRIDGE.to_owned(), NIC.to_owned()));
        assert_eq!(bench.phase(), Phase::Returning, "{datapath:?}: no carrier yet");
        bench.change(&Op::Carrier(NIC.to_owned(), true));
        assert_eq!(bench.phase(), Phase::Bridged, "{datapath:?}");
        assert!(bench.is_calm(), "{datapath:?}");
    }
}
