//! Two NICs guarded at once, taken and given back at the same time.

use super::{
    super::{Action, Event, Family, Phase, Route},
    bench::{Bench, DEADLINE, engine_for},
    keepalived::Keepalived,
    kube_ovn::{Sequence, Step},
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
};

const SECOND: &str = "ens224";
const SECOND_BRIDGE: &str = "br-second";
const SECOND_IP: &str = "198.51.100.11/24";
const SECOND_VIP: &str = "198.51.100.10/32";

/// Both NICs have a VIP, and the daemon has a VRRP socket on each.
fn both(datapath: Datapath, names: &[&str]) -> Bench {
    let mut bench = Bench::unshielded(datapath);
    bench.node.apply(&Op::AddNic(SECOND.to_owned()));
    for text in [SECOND_IP, SECOND_VIP] {
        bench.node.apply(&Op::AddAddress(SECOND.to_owned(), address(text)));
    }
    let mut daemon = Keepalived::start(700, &bench.node, NIC);
    daemon.bound = [NIC_INDEX, second(&bench)];
    bench.daemon = Some(daemon);
    bench.begin_with(engine_for(names));
    assert_eq!(bench.status().nics.len(), 2);
    bench
}

fn second(bench: &Bench) -> u32 {
    bench.node.index(SECOND).unwrap()
}

/// The steps of both sequences, one of each in turn.
fn interleaved(bench: &Bench, first: Sequence, other: Sequence) -> Vec<Step> {
    let one = first.steps(&bench.node);
    let two = other.steps_for(&bench.node, SECOND, SECOND_BRIDGE);
    let longest = one.len().max(two.len());
    (0..longest).flat_map(|at| [one.get(at).cloned(), two.get(at).cloned()]).flatten().collect()
}

fn phases(bench: &Bench) -> Vec<Phase> {
    bench.status().nics.iter().map(|nic| nic.phase).collect()
}

/// While they are on their way each is carried by itself, and each socket goes with its NIC.
#[test]
fn two_nics_at_once_are_not_noticed() {
    for datapath in Datapath::ALL {
        for names in [&[NIC, SECOND][..], &[]] {
            let mut bench = both(datapath, names);
            for (sequence, phase) in
                [(Sequence::Bind, Phase::Bridged), (Sequence::Unbind, Phase::Free)]
            {
                for step in interleaved(&bench, sequence, sequence) {
                    bench.advance(step.takes);
                    bench.change(&step.op);
                    for nic in bench.status().nics {
                        let port = bench.node.links[&nic.ifindex].master.is_some();
                        if nic.phase.is_transition() && !port {
                            let plan = &bench.carried[&nic.ifindex];
                            let foreign = if nic.name == NIC { SECOND_VIP } else { VIP };
                            assert!(!plan.addresses.contains(&address(foreign).ip), "{step:?}");
                        }
                    }
                }
                bench.advance(3 * DEADLINE);
                assert_eq!(phases(&bench), [phase; 2], "{sequence:?} on {datapath:?}");
                let home =
                    |nic, bridge| bench.node.index(if phase == Phase::Free { nic } else { bridge });
                let expected = [home(NIC, BRIDGE), home(SECOND, SECOND_BRIDGE)].map(Option::unwrap);
                assert_eq!(bench.keepalived().bound, expected, "{sequence:?} on {datapath:?}");
            }
            assert!(!bench.released() && bench.is_calm());
            assert!(bench.keepalived().view.trusts(second(&bench), SECOND));
            bench.advance(60 * DEADLINE);
            assert!(bench.carried.is_empty() && bench.stood_in.is_empty());
        }
    }
}

/// One is given back while the other is taken.
#[test]
fn one_comes_while_the_other_goes() {
    for datapath in Datapath::ALL {
        let mut bench = both(datapath, &[NIC, SECOND]);
        bench.sequence(Sequence::Bind);
        assert_eq!(phases(&bench), [Phase::Bridged, Phase::Free]);
        let steps = interleaved(&bench, Sequence::Unbind, Sequence::Bind);
        bench.run(&steps);
        bench.advance(3 * DEADLINE);
        assert_eq!(phases(&bench), [Phase::Free, Phase::Bridged], "{datapath:?}");
        let bridge = bench.node.index(SECOND_BRIDGE).unwrap();
        assert_eq!(bench.keepalived().bound, [NIC_INDEX, bridge], "{datapath:?}");
        assert!(!bench.released(), "{datapath:?}");
    }
}

/// Both have a route to the same destination, and so the same rules: what one takes back the other
/// keeps. The bench compares the rules with the plans.
#[test]
fn rules_that_both_need_are_there_as_long_as_one_needs_them() {
    let default = |gateway: [u8; 4]| Route {
        destination: [0, 0, 0, 0].into(),
        prefix_len: 0,
        metric: 100,
        gateway: Some(gateway.into()),
        source: None,
        mtu: 0,
    };
    for datapath in Datapath::ALL {
        let routed = || {
            let mut bench = both(datapath, &[NIC, SECOND]);
            for (nic, gateway) in [(NIC, [192, 0, 2, 1]), (SECOND, [198, 51, 100, 1])] {
                let ifindex = bench.node.index(nic).unwrap();
                let route = default(gateway);
                bench.feed(Event::Route { ifindex, route, replaces: false });
            }
            bench
        };
        // Prepared, and for nothing.
        for stops in [false, true] {
            let mut bench = routed();
            bench.expect_transition();
            assert_eq!(bench.detours[&Family::Ipv4].lengths, [0].into());
            if stops {
                bench.feed(Event::Stop);
            }
            bench.advance(60 * DEADLINE);
            assert!(bench.detours.is_empty());
        }

        let bench = routed();
        let one = Sequence::Bind.steps(&bench.node);
        let two = Sequence::Bind.steps_for(&bench.node, SECOND, SECOND_BRIDGE);
        for pause in 0..one.len() {
            for stops in [false, true] {
                let mut bench = routed();
                bench.run(&one[..pause]);
                bench.run(&two);
                if stops {
                    bench.feed(Event::Stop);
                } else {
                    bench.run(&one[pause..]);
                    bench.advance(60 * DEADLINE);
                }
                assert!(bench.detours.is_empty(), "{datapath:?}, before step {pause}");
            }
        }
    }
}

/// A failure of one is the other's affair in nothing.
#[test]
fn a_failure_of_one_is_not_the_others() {
    let mut bench = both(Datapath::Bridge, &[NIC, SECOND]);
    let steps = interleaved(&bench, Sequence::Bind, Sequence::Bind);
    bench.run(&steps[..steps.len() / 2]);
    let lost = second(&bench);
    bench.change(&Op::Carrier(SECOND.to_owned(), false));
    bench.run(&steps[steps.len() / 2..]);
    bench.advance(3 * DEADLINE);
    assert_eq!(phases(&bench), [Phase::Bridged, Phase::Down]);
    assert!(!bench.keepalived().view.trusts(lost, SECOND), "the failure is told");
    assert!(bench.keepalived().view.trusts(NIC_INDEX, NIC));
    let about_first = bench.releases().any(|action| match action {
        Action::ResyncLink { ifindex, .. } | Action::ReplayRemoval { ifindex, .. } => {
            ifindex == NIC_INDEX
        }
        _ => false,
    });
    assert!(!about_first, "nothing is told of the other");
    bench.change(&Op::Carrier(SECOND.to_owned(), true));
    bench.advance(3 * DEADLINE);
    assert_eq!(phases(&bench), [Phase::Bridged; 2]);
    assert!(bench.keepalived().view.trusts(lost, SECOND));
}

/// A daemon that starts is told the address of each.
#[test]
fn a_daemon_that_starts_is_told_both_addresses() {
    for datapath in Datapath::ALL {
        let mut bench = both(datapath, &[NIC, SECOND]);
        let steps = interleaved(&bench, Sequence::Bind, Sequence::Bind);
        bench.run(&steps);
        bench.advance(3 * DEADLINE);
        bench.restart_daemon(701);
        let view = &bench.keepalived().view;
        assert!(view.has(NIC_INDEX, address(NODE_IP).ip), "{datapath:?}");
        assert!(view.has(second(&bench), address(SECOND_IP).ip), "{datapath:?}");
    }
}

/// In the end nothing is left of either.
#[test]
fn a_stop_lets_go_of_both() {
    let count = interleaved(&both(Datapath::Bridge, &[]), Sequence::Bind, Sequence::Bind).len();
    for done in 0..=count {
        let mut bench = both(Datapath::Bridge, &[NIC, SECOND]);
        let steps = interleaved(&bench, Sequence::Bind, Sequence::Bind);
        bench.run(&steps[..done]);
        bench.feed(Event::Stop);
        assert_eq!(bench.keepalived().bound, [NIC_INDEX, second(&bench)], "at {done}");
        assert!(bench.guard.policies.is_empty(), "at {done}");
        assert!(bench.carried.is_empty() && bench.stood_in.is_empty(), "at {done}");
    }
}

/// Their bridges were deleted while no vipshield ran. Where the sockets belong is known by their
/// membership in VRRP's group, and of those that have none nothing is known.
#[test]
fn sockets_of_deleted_bridges_are_moved_each_to_its_own_nic() {
    const GONE: [u32; 2] = [98, 99];
    for names in [&[NIC, SECOND][..], &[]] {
        let mut bench = both(Datapath::Bridge, names);
        let nics = [NIC_INDEX, second(&bench)];
        bench.daemon.as_mut().unwrap().bound = GONE;
        bench.scan();
        assert_eq!(bench.keepalived().bound, GONE, "nothing tells whose they are");
        bench.kill_engine();
        bench.heard = true;
        bench.engine = engine_for(names);
        bench.feed(bench.node.snapshot());
        let mut found = bench.found();
        for (socket, nic) in found[0].vrrp.iter_mut().zip(nics) {
            socket.home = Some(nic);
        }
        bench.scanned(found);
        assert_eq!(bench.keepalived().bound, nics, "{names:?}");
    }
}
