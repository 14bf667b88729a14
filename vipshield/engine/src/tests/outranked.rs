//! What goes by another interface is not drawn to the NIC by being carried.

use std::collections::BTreeSet;

use super::{
    super::{Event, Family, Phase, Route},
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, Op, address},
};

/// Another uplink. Nobody guards it.
const OTHER: &str = "ens224";

fn to(destination: &str, prefix_len: u8, metric: u32) -> Route {
    let destination = destination.parse().unwrap();
    Route { destination, prefix_len, metric, gateway: None, source: None, mtu: 0 }
}

fn default(metric: u32) -> Route {
    to("0.0.0.0", 0, metric)
}

/// A node with the other uplink, and the NIC with these routes.
fn bench(datapath: Datapath, routes: &[Route]) -> Bench {
    let mut bench = Bench::new(datapath);
    bench.change(&Op::AddNic(OTHER.to_owned()));
    for route in routes {
        add(&mut bench, NIC, *route);
    }
    bench
}

fn add(bench: &mut Bench, name: &str, route: Route) {
    let ifindex = bench.node.index(name).unwrap_or(0);
    bench.feed(Event::Route { ifindex, route, replaces: false });
}

fn remove(bench: &mut Bench, name: &str, route: Route) {
    let ifindex = bench.node.index(name).unwrap_or(0);
    bench.feed(Event::RouteRemoved { ifindex, route });
}

fn carried(bench: &Bench) -> BTreeSet<Route> {
    bench.carried.get(&NIC_INDEX).map(|plan| plan.routes.clone()).unwrap_or_default()
}

fn is_in_use(bench: &Bench) -> bool {
    let plan = bench.carried.get(&NIC_INDEX);
    plan.is_some() && bench.phase().is_transition()
}

#[test]
fn a_route_is_carried_unless_another_interface_has_a_better_one() {
    let (nic, other) = (NIC, OTHER);
    // No interface of its own has a route of several next hops.
    let several = "";
    for (name, route, wins) in [
        (other, default(199), true),
        (other, default(200), false),
        (other, default(201), false),
        (several, default(0), true),
        (several, default(200), false),
        (nic, default(100), false),
        // Not to the same destination.
        (other, to("0.0.0.0", 1, 100), false),
        (other, to("192.0.2.0", 24, 0), false),
        (other, to("::", 0, 100), false),
    ] {
        for datapath in Datapath::ALL {
            let mut bench = bench(datapath, &[default(200)]);
            add(&mut bench, name, route);
            bench.expect_transition();
            let expected = !wins;
            let is_carried = |bench: &Bench| carried(bench).contains(&default(200));
            assert_eq!(is_carried(&bench), expected, "{name} {route:?}, prepared");
            for step in bench.steps(Sequence::Bind) {
                bench.advance(step.takes);
                bench.change(&step.op);
                if is_in_use(&bench) {
                    assert_eq!(is_carried(&bench), expected, "{name} {route:?} at {step:?}");
                }
            }
        }
    }
}

/// What is not carried leaves no rule either, and the rest is carried all the same.
#[test]
fn all_others_are_carried() {
    let (subnet, six) = (to("192.0.2.0", 24, 0), to("::", 0, 1024));
    let mut bench = bench(Datapath::Bridge, &[default(200), subnet, six]);
    add(&mut bench, OTHER, default(100));
    bench.expect_transition();
    assert_eq!(carried(&bench), BTreeSet::from([subnet, six]));
    assert_eq!(bench.detours[&Family::Ipv4].lengths, [24].into());
    assert!(bench.carried[&NIC_INDEX].addresses.len() == 3);
}

/// As in the kernel: what is best at any moment is taken.
#[test]
fn a_better_route_that_goes_or_comes_within_a_transition_counts() {
    for datapath in Datapath::ALL {
        let mut bench = bench(datapath, &[default(200)]);
        add(&mut bench, OTHER, default(100));
        let steps = bench.steps(Sequence::Bind);
        let join = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..join]);
        assert_eq!(bench.phase(), Phase::Leaving);
        assert!(carried(&bench).is_empty(), "{datapath:?}");
        remove(&mut bench, OTHER, default(100));
        assert_eq!(carried(&bench), BTreeSet::from([default(200)]), "{datapath:?}");
        add(&mut bench, OTHER, default(100));
        assert!(carried(&bench).is_empty(), "{datapath:?}");
        // The kernel flushes the IPv4 routes of a link that is taken down.
        bench.change(&Op::Down(OTHER.to_owned()));
        assert_eq!(carried(&bench), BTreeSet::from([default(200)]), "{datapath:?}");
    }
}

/// A bridge with the NIC's addresses has its routes too, whatever their metric there.
#[test]
fn the_routes_of_its_own_bridge_are_the_nics() {
    for datapath in Datapath::ALL {
        let mut bench = bench(datapath, &[default(200)]);
        for sequence in [Sequence::Bind, Sequence::Unbind] {
            for step in bench.steps(sequence) {
                bench.advance(step.takes);
                bench.change(&step.op);
                if !bench.node.addresses_of(BRIDGE).is_empty() {
                    add(&mut bench, BRIDGE, default(100));
                }
                if is_in_use(&bench) {
                    assert_eq!(carried(&bench).len(), 1, "{datapath:?} at {step:?}");
                }
            }
            bench.advance(3 * DEADLINE);
        }
    }
}

/// Of another bridge nothing of the kind is known.
#[test]
fn the_routes_of_another_bridge_are_not() {
    let mut bench = bench(Datapath::Bridge, &[default(200)]);
    bench.change(&Op::AddBridge("br0".to_owned()));
    bench.change(&Op::Up("br0".to_owned()));
    add(&mut bench, "br0", default(100));
    assert!(bench.carried.contains_key(&NIC_INDEX) && carried(&bench).is_empty());
}

/// The carry of a NIC that is free again ends with what it waits for.
#[test]
fn what_is_not_carried_is_not_missed() {
    for outranked in [false, true] {
        let mut bench = bench(Datapath::Bridge, &[]);
        if outranked {
            add(&mut bench, OTHER, default(100));
        }
        bench.sequence(Sequence::Bind);
        add(&mut bench, BRIDGE, default(200));
        bench.advance(60 * DEADLINE);
        for step in bench.steps(Sequence::Unbind) {
            bench.advance(step.takes);
            bench.change(&step.op);
            if bench.phase() == Phase::Free {
                break;
            }
        }
        assert_eq!(bench.phase(), Phase::Free);
        assert_eq!(bench.carried.contains_key(&NIC_INDEX), !outranked);
    }
}

/// An interface without an IPv4 address, as a tunnel may be, keeps its IPv4 routes when an address of IPv6
/// leaves it.
#[test]
fn an_unnumbered_uplink_keeps_its_routes() {
    for datapath in Datapath::ALL {
        let mut bench = bench(datapath, &[default(200)]);
        add(&mut bench, OTHER, default(100));
        let ifindex = bench.node.index(OTHER).unwrap();
        let away = address("2001:db8:2::1/64");
        bench.feed(Event::AddressRemoved { ifindex, address: away, requester: 0 });
        bench.expect_transition();
        assert!(!carried(&bench).contains(&default(200)), "{datapath:?}");
    }
}
