//! Names that are exchanged or taken, failures among them, and what nobody saw.

use super::{
    super::Phase,
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, Op, address},
    ready_for,
};

/// keepalived up to 2.0.20 does not bind the socket from which it sends: one alone is bound, and nothing is lost.
#[test]
fn a_socket_that_was_never_bound_is_not_missed() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::unshielded(datapath);
        bench.daemon.as_mut().unwrap().unbound = true;
        bench.begin();
        bench.sequence(Sequence::Exchange);
        bench.scan();
        bench.advance(2 * DEADLINE);
        bench.scan();
        bench.advance(2 * DEADLINE);
        assert_eq!(bench.phase(), Phase::Bridged);
        assert!(bench.is_calm() && !bench.released(), "{datapath:?}");
    }
}

/// vipshield dies while the NIC is bridged, and begins again after an unbind: the VRRP sockets are
/// bound to an interface that is gone.
#[test]
fn sockets_come_home_after_an_unbind_nobody_saw() {
    let mut bench = ready_for(Sequence::Unbind, Datapath::Bridge);
    bench.kill_engine();
    bench.sequence(Sequence::Unbind);
    bench.begin();
    bench.advance(DEADLINE);
    assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2]);
}

/// The NIC is renamed for good, and another NIC gets its name.
#[test]
fn a_new_nic_with_the_name_is_guarded_and_known() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.change(&Op::Rename(NIC.to_owned(), "old0".to_owned()));
    bench.advance(2 * DEADLINE);
    bench.change(&Op::AddNic(NIC.to_owned()));
    bench.advance(3 * DEADLINE);
    assert_eq!(bench.phase(), Phase::Down);
    let new = bench.node.index(NIC).unwrap();
    assert!(bench.keepalived().view.trusts(new, NIC), "the daemon never hears of it");
}

/// Until the bridge is made, nothing bears the NIC's name. However long that takes, the NIC works.
#[test]
fn a_slow_bridge_is_no_failure() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Exchange);
        let made = steps.iter().position(|step| matches!(step.op, Op::AddBridge(_))).unwrap();
        bench.run(&steps[..made]);
        assert_eq!(bench.node.index(NIC), None);
        bench.advance(5 * DEADLINE);
        bench.run(&steps[made..]);
        bench.advance(2 * DEADLINE);
        assert_eq!(bench.phase(), Phase::Bridged);
        assert!(bench.is_calm() && !bench.released());
    }
}

/// But if the NIC loses its carrier in the meantime, the daemon hears of it by the deadline.
#[test]
fn a_carrier_lost_while_nothing_bears_the_name_is_told() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.change(&Op::Rename(NIC.to_owned(), BRIDGE.to_owned()));
    bench.advance(5 * DEADLINE);
    bench.change(&Op::Carrier(BRIDGE.to_owned(), false));
    bench.advance(DEADLINE);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
}

/// An exchange slower than the deadline: the daemon is told of a failure, and in the end that the
/// interface of this name works, which is the bridge.
#[test]
fn a_slow_exchange_ends_well_for_the_daemon() {
    let mut bench = Bench::new(Datapath::Bridge);
    let steps = bench.steps(Sequence::Exchange);
    bench.run(&steps[..2]);
    bench.advance(2 * DEADLINE);
    bench.run(&steps[2..]);
    bench.advance(3 * DEADLINE);
    assert_eq!(bench.phase(), Phase::Bridged);
    let bridge = bench.node.index(NIC).unwrap();
    let view = &bench.keepalived().view;
    assert!(view.trusts(NIC_INDEX, NIC) || view.trusts(bridge, NIC), "it knows of no {NIC}");
}

/// With names exchanged, the kernel's message of a lost carrier bears the wrong name and is
/// withheld: the truth is told at once, not at the deadline.
#[test]
fn a_carrier_lost_after_an_exchange_passes_at_once() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.sequence(Sequence::Exchange);
    bench.change(&Op::Carrier(BRIDGE.to_owned(), false));
    assert_eq!(bench.phase(), Phase::Down);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
}

/// And when it returns, the daemon hears of the interface of this name.
#[test]
fn a_carrier_that_returns_after_an_exchange_is_known() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.sequence(Sequence::Exchange);
    bench.change(&Op::Carrier(BRIDGE.to_owned(), false));
    bench.advance(2 * DEADLINE);
    bench.change(&Op::Carrier(BRIDGE.to_owned(), true));
    bench.advance(2 * DEADLINE);
    assert_eq!(bench.phase(), Phase::Bridged);
    let bridge = bench.node.index(NIC).unwrap();
    assert!(bench.keepalived().view.trusts(bridge, NIC));
}

/// A failure told within an exchange is told with the NIC's name of then: the daemon looks for another
/// interface of the name, finds the bridge, and has to know its address, or its next reload would not.
#[test]
fn after_a_failure_within_an_exchange_the_daemon_knows_the_bridge_and_its_address() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Exchange);
        let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..joins]);
        bench.change(&Op::Carrier(BRIDGE.to_owned(), false));
        bench.advance(3 * DEADLINE);
        assert_eq!(bench.phase(), Phase::Down);
        assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC), "{datapath:?}");
        bench.change(&Op::Carrier(BRIDGE.to_owned(), true));
        bench.run(&steps[joins..]);
        bench.advance(3 * DEADLINE);
        let bridge = bench.nic().bearer.unwrap().ifindex;
        let keepalived = bench.keepalived();
        assert_eq!(keepalived.interface(), Some(bridge), "{datapath:?}");
        assert!(keepalived.view.trusts(bridge, NIC), "{datapath:?}");
        assert!(keepalived.view.has(bridge, address(NODE_IP).ip), "{datapath:?}");
    }
}
