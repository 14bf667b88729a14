//! An owner that lacks its VIP.

use super::{
    super::{Action, Event, Intent},
    bench::{Bench, COMMAND_PORT},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, VIP, address},
    wire::{PEER, SECOND, advert, ms},
};

const NOWHERE: [&str; 0] = [];

/// A daemon that was refused its VIP.
fn without_vip(bridged: bool) -> Bench {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    if bridged {
        bench.sequence(Sequence::Bind);
    }
    is_refused(&mut bench, 1 << 16, true);
    bench
}

/// The kernel refuses what the daemon asks for, as on an interface that is gone.
fn is_refused(bench: &mut Bench, sequence: u32, wanted: bool) {
    let (port, ifindex, address) = (COMMAND_PORT, NIC_INDEX, address(VIP));
    let intent = Intent { port, sequence, ifindex, address, wanted, refused: true };
    bench.feed(Event::Intent { intent });
}

#[test]
fn an_owner_that_lacks_its_vip_gets_it_and_takes_it_along() {
    for (bridged, bearer) in [(false, NIC), (true, BRIDGE)] {
        let mut bench = without_vip(bridged);
        bench.go_on(250, 1);
        assert_eq!(bench.places(address(VIP)), NOWHERE, "it may be about to ask for it");
        bench.go_on(250, 3);
        assert_eq!(bench.places(address(VIP)), [bearer]);
        bench.kill_daemon();
        assert_eq!(bench.places(address(VIP)), NOWHERE, "bridged: {bridged}");
    }
}

#[test]
fn what_another_node_may_own_is_not_put_here() {
    let mut bench = without_vip(false);
    for _ in 0..8 {
        bench.speak(250, SECOND);
        bench.hear(1, &advert(PEER, 100, SECOND));
    }
    assert_eq!(bench.places(address(VIP)), NOWHERE);
}

#[test]
fn what_the_owner_gave_up_is_not_put_here() {
    let mut bench = without_vip(false);
    is_refused(&mut bench, 1 << 17, false);
    bench.go_on(250, 8);
    assert_eq!(bench.places(address(VIP)), NOWHERE);
}

#[test]
fn an_owner_that_falls_silent_gets_nothing() {
    let mut bench = without_vip(false);
    bench.go_on(250, 1);
    bench.advance(ms(20_000));
    assert_eq!(bench.places(address(VIP)), NOWHERE);
}

#[test]
fn while_a_nic_is_on_its_way_nothing_is_put_anywhere() {
    let mut bench = without_vip(false);
    bench.go_on(250, 1);
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps[..steps.len() / 2]);
    let from = bench.log.len();
    bench.speak(250, SECOND);
    bench.advance(ms(100));
    let moved = bench.log[from..].iter().any(|(_, it)| matches!(it, Action::MoveVip { .. }));
    assert!(!moved, "{:?}", bench.phase());
}
