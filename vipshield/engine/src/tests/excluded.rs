//! VIPs that no advert names, which were there before vipshield.

use super::{
    super::{Event, Excluded},
    bench::Bench,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, Op, address},
    wire::{PEER, SECOND, advert, ms},
};

const OTHER: &str = "192.0.2.20/32";
const NOWHERE: [&str; 0] = [];

/// The owner of such a VIP, before vipshield begins.
fn configured() -> Bench {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    let router_id = advert(PEER, 100, SECOND).router_id;
    let excluded = Excluded { router_id, ip: address(OTHER).ip };
    bench.daemon.as_mut().unwrap().excluded = vec![excluded];
    bench.node.apply(&Op::AddAddress(NIC.to_owned(), address(OTHER)));
    bench
}

#[test]
fn an_owner_takes_along_what_it_has_and_does_not_name() {
    for (bridged, bearer) in [(false, NIC), (true, BRIDGE)] {
        let mut bench = configured();
        bench.begin();
        bench.go_on(150, 2);
        if bridged {
            bench.sequence(Sequence::Bind);
        }
        bench.go_on(150, 2);
        assert_eq!(bench.places(address(OTHER)), [bearer]);
        bench.kill_daemon();
        assert_eq!(bench.places(address(OTHER)), NOWHERE, "bridged: {bridged}");
    }
}

/// What its configuration has is not what it has.
#[test]
fn what_an_owner_has_not_is_not_given_to_it() {
    let mut bench = configured();
    bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(OTHER), 0));
    bench.begin();
    bench.go_on(150, 10);
    assert_eq!(bench.places(address(OTHER)), NOWHERE);
    assert!(bench.status().vips.iter().all(|vip| vip.address != address(OTHER).ip));
}

/// A node that does not own the router has it from somebody else.
#[test]
fn a_node_that_waits_is_not_rid_of_it() {
    let mut bench = configured();
    bench.begin();
    bench.hear(3, &advert(PEER, 200, SECOND));
    bench.kill_daemon();
    assert_eq!(bench.places(address(OTHER)), [NIC]);
}

#[test]
fn another_router_has_nothing_to_do_with_it() {
    let mut bench = configured();
    bench.daemon.as_mut().unwrap().excluded[0].router_id += 1;
    bench.begin();
    bench.go_on(150, 3);
    bench.kill_daemon();
    assert_eq!(bench.places(address(OTHER)), [NIC]);
}

#[test]
fn it_stays_with_a_daemon_that_owns_it_through_a_stop() {
    let mut bench = configured();
    bench.begin();
    bench.go_on(150, 3);
    bench.feed(Event::Stop);
    assert_eq!(bench.places(address(OTHER)), [NIC]);
}

/// On its way it is on no interface, as what the adverts name.
#[test]
fn it_is_not_forgotten_on_its_way() {
    let steps = configured().steps(Sequence::Bind).len();
    for done in 0..=steps {
        let mut bench = configured();
        bench.begin();
        bench.go_on(150, 2);
        let steps = bench.steps(Sequence::Bind);
        bench.run(&steps[..done]);
        bench.advance(ms(100));
        bench.kill_daemon();
        bench.run(&steps[done..]);
        bench.advance(SECOND);
        assert_eq!(bench.places(address(OTHER)), NOWHERE, "killed at step {done}");
    }
}
