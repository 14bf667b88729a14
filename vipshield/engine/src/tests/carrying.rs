//! What keeps the node reachable is there while it is needed, and never afterwards.

use std::time::Duration;

use super::{
    super::{Action, Event, Family, Phase, Route, Rule, RuleKind, Trigger},
    all,
    bench::{Bench, DEADLINE, OWN},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, NODE_IP6, Op, address},
    ready_for,
};

/// Whether the plan in force covers every address that moves.
fn is_carried(bench: &Bench) -> bool {
    bench.carried.get(&NIC_INDEX).is_some_and(|plan| plan.addresses.len() == 3)
}

fn default(gateway: &str, metric: u32) -> Route {
    let gateway: std::net::IpAddr = gateway.parse().unwrap();
    let destination = match gateway {
        std::net::IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        std::net::IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    Route { destination, prefix_len: 0, metric, gateway: Some(gateway), source: None, mtu: 0 }
}

#[test]
fn a_nic_that_works_is_carried_for_while_its_addresses_are_away() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            bench.change(&step.op);
            let link = &bench.node.links[&NIC_INDEX];
            let here = bench.node.addresses.get(&NIC_INDEX);
            let movable = here.into_iter().flatten().filter(|address| !address.is_link_local());
            let away = link.master.is_none() && movable.count() < 3;
            if away && link.running {
                assert!(is_carried(&bench), "{sequence:?} on {datapath:?} at {step:?}");
            }
            if !link.running {
                assert!(bench.carried.is_empty(), "{sequence:?} on {datapath:?} at {step:?}");
            }
        }
        bench.advance(60 * DEADLINE);
        assert!(bench.carried.is_empty(), "{sequence:?} on {datapath:?}");
        assert_eq!(bench.engine.next_deadline(), None, "{sequence:?} on {datapath:?}");
    }
}

/// Routes of others that have one of the NIC's addresses as their source go with it, without a word: they are put
/// back each time that it is there again, but for those that go with the NIC.
#[test]
fn routes_of_others_are_put_back_once_their_source_is_there_again() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            let asked = bench.log.len();
            let own = address(NODE_IP);
            let is_there =
                |bench: &Bench| bench.node.addresses.values().any(|all| all.contains(&own));
            let before = is_there(&bench);
            bench.change(&step.op);
            let restored = bench.asked(asked).find_map(|(_, action)| match action {
                Action::RestoreRoutes { source, except } if *source == own.ip => Some(except),
                _ => None,
            });
            let came = !before && is_there(&bench);
            assert_eq!(restored.is_some(), came, "{sequence:?} on {datapath:?} at {step:?}");
            assert!(restored.is_none_or(|except| except.contains(&NIC_INDEX)), "{restored:?}");
        }
    }
}

/// The kernel numbers the labels of a NIC's addresses when it is renamed, in their order, and an
/// address of link scope is the first of them.
#[test]
fn nothing_is_on_a_nic_of_its_own_addresses_when_it_is_renamed() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unexchange, datapath);
        for step in &bench.steps(Sequence::Unexchange) {
            bench.advance(step.takes);
            bench.expect_transition();
            if matches!(&step.op, Op::Down(name) if name == BRIDGE) {
                assert!(bench.carried.is_empty(), "{datapath:?}");
            }
            bench.change(&step.op);
        }
    }
}

/// The kernel throws it: it has to be laid before the port joins, and before it leaves.
#[test]
fn a_shunt_is_laid_before_a_port_joins_and_before_it_leaves() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            let laid = bench.shunts.get(&NIC_INDEX).copied();
            let trigger = laid.map(|shunt| shunt.trigger);
            match &step.op {
                Op::AddPort(bridge, _) => {
                    assert_eq!(trigger, Some(Trigger::Join), "{sequence:?} on {datapath:?}");
                    assert_eq!(laid.map(|shunt| shunt.bearer), bench.node.index(bridge));
                }
                Op::RemovePort(_) => {
                    assert_eq!(trigger, Some(Trigger::Cut), "{sequence:?} on {datapath:?}");
                    assert_eq!(laid.map(|s| s.bearer), bench.nic().bearer.map(|b| b.ifindex));
                }
                _ => {}
            }
            bench.change(&step.op);
        }
        bench.advance(DEADLINE);
        assert_eq!(bench.shunts.contains_key(&NIC_INDEX), sequence.takes(), "{sequence:?}");
        bench.feed(Event::Stop);
        assert!(bench.shunts.is_empty(), "{sequence:?} on {datapath:?}");
    }
}

/// What is sent to the NIC's hardware address would be for another host there.
#[test]
fn no_shunt_leads_to_a_bridge_of_another_hardware_address() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Bind, datapath);
        let steps = bench.steps(Sequence::Bind);
        let (mac, others): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| matches!(step.op, Op::CopyMac(..)));
        for step in &others {
            bench.advance(step.takes);
            bench.change(&step.op);
            assert!(bench.shunts.is_empty(), "{datapath:?} at {step:?}");
        }
        bench.run(&mac);
        let laid = bench.shunts.get(&NIC_INDEX).map(|shunt| shunt.trigger);
        assert_eq!(laid, Some(Trigger::Cut), "{datapath:?}");
    }
}

#[test]
fn nothing_is_carried_after_the_end() {
    for (sequence, datapath) in all() {
        let steps = ready_for(sequence, datapath).steps(sequence).len();
        for done in 0..=steps {
            let mut bench = ready_for(sequence, datapath);
            let steps = bench.steps(sequence);
            bench.run(&steps[..done]);
            bench.feed(Event::Stop);
            assert!(bench.carried.is_empty(), "{sequence:?} on {datapath:?} at {done}");
        }
    }
}

#[test]
fn nothing_is_carried_for_a_nic_that_is_gone() {
    let mut bench = Bench::new(Datapath::Bridge);
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps[..8]);
    assert!(is_carried(&bench));
    bench.change(&Op::Remove(NIC.to_owned()));
    assert!(bench.carried.is_empty());
}

fn is_ahead(bench: &Bench) -> bool {
    bench.carried.get(&NIC_INDEX).is_some_and(|plan| plan.ahead)
}

#[test]
fn a_new_bridge_makes_ready_for_a_while_and_changes_no_phase() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.expect_transition();
    assert!(is_carried(&bench) && is_ahead(&bench));
    assert_eq!(bench.phase(), Phase::Free);
    bench.advance(60 * DEADLINE);
    assert!(bench.carried.is_empty());
    assert_eq!(bench.engine.next_deadline(), None);
}

/// What is on a node while nothing is under way is seen by everybody; and an address on a NIC that is a port
/// keeps the routes of others through it, which lead nowhere.
#[test]
fn what_is_carried_begins_with_a_new_bridge_and_ends_with_the_move() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.advance(60 * DEADLINE);
        let mut expected = false;
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            bench.change(&step.op);
            expected |= matches!(step.op, Op::AddBridge(_));
            let phase = bench.phase();
            if phase == Phase::Free && !expected || phase == Phase::Bridged {
                assert!(bench.carried.is_empty(), "{sequence:?} on {datapath:?} at {step:?}");
            }
            assert!(!is_ahead(&bench) || phase == Phase::Free, "{sequence:?} at {step:?}");
        }
        let asked = bench.log.len();
        bench.advance(60 * DEADLINE);
        assert_eq!(bench.engine.next_deadline(), None, "{sequence:?} on {datapath:?}");
        let carries = bench.log[asked..].iter();
        let carries = carries.filter(|(_, action)| matches!(action, Action::Carry { .. }));
        assert_eq!(carries.count(), 0, "{sequence:?} on {datapath:?}");
    }
}

/// The kernel flushes the IPv4 routes of an interface that has no IPv4 address any more, and says
/// nothing. What Kube-OVN did not put back is not carried for the next time.
#[test]
fn routes_that_were_flushed_with_the_last_address_are_forgotten() {
    let own = address(&format!("{OWN}/32"));
    let route = |destination: &str, prefix_len| Route {
        destination: destination.parse().unwrap(),
        prefix_len,
        metric: 0,
        gateway: None,
        source: None,
        mtu: 0,
    };
    let subnet = route("192.0.2.0", 24);
    let others = [route("198.51.100.0", 24), route("2001:db8:1::", 64)];
    for anchored in [false, true] {
        let mut bench = Bench::new(Datapath::Bridge);
        for route in others.into_iter().chain([subnet]) {
            bench.feed(Event::Route { ifindex: NIC_INDEX, route, replaces: false });
        }
        if anchored {
            bench.feed(Event::Address { ifindex: NIC_INDEX, address: own, requester: 0 });
        }
        bench.sequence(Sequence::Bind);
        bench.sequence(Sequence::Unbind);
        bench.feed(Event::Route { ifindex: NIC_INDEX, route: subnet, replaces: false });
        bench.expect_transition();
        let carried = &bench.carried[&NIC_INDEX].routes;
        assert_eq!(carried.contains(&others[0]), anchored, "{carried:?}");
        assert!(carried.contains(&subnet) && carried.contains(&others[1]), "{carried:?}");

        // The anchor was the last.
        bench.sequence(Sequence::Bind);
        bench.feed(Event::AddressRemoved { ifindex: NIC_INDEX, address: own, requester: 0 });
        bench.sequence(Sequence::Unbind);
        bench.expect_transition();
        assert_eq!(bench.carried[&NIC_INDEX].routes.len(), 1, "only that of IPv6");
    }
}

/// A replaced route is announced by the new one alone.
#[test]
fn a_route_that_was_replaced_is_forgotten() {
    let (old, new) = (default("192.0.2.1", 100), default("192.0.2.254", 100));
    let other = default("192.0.2.1", 50);
    for (ifindex, left) in
        [(NIC_INDEX, vec![other, new]), (NIC_INDEX + 7, vec![other]), (0, vec![other])]
    {
        let mut bench = Bench::new(Datapath::Bridge);
        for route in [old, other] {
            bench.feed(Event::Route { ifindex: NIC_INDEX, route, replaces: false });
        }
        bench.feed(Event::Route { ifindex, route: new, replaces: true });
        bench.expect_transition();
        let carried = &bench.carried[&NIC_INDEX].routes;
        assert_eq!(*carried, left.into_iter().collect(), "replaced on {ifindex}");
    }
}

#[test]
fn a_carry_that_cannot_be_had_is_tried_again() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Carry { .. });
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps[..5]);
    // The bench looks for busy loops.
    bench.advance(DEADLINE / 2);
    assert!(bench.carried.is_empty());
    bench.fails = |_| false;
    bench.advance(DEADLINE / 2 + Duration::from_millis(1));
    assert!(bench.phase() == Phase::Free || is_carried(&bench));
    bench.run(&steps[5..]);
    bench.advance(10 * DEADLINE);
    assert!(bench.carried.is_empty());
}

/// A plan that was put in force in part, and is not wanted any more, is taken back by the next one.
#[test]
fn what_was_carried_in_part_is_taken_back() {
    let route = |last| Route {
        destination: std::net::IpAddr::from([198, 51, 100, last]),
        prefix_len: 32,
        metric: 0,
        gateway: None,
        source: None,
        mtu: 0,
    };
    let carries = |bench: &Bench| -> Vec<_> {
        let all = bench.log.iter().filter_map(|(_, action)| match action {
            Action::Carry { old, new, .. } => Some((old.clone(), new.clone())),
            _ => None,
        });
        all.collect()
    };
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Carry { .. });
    bench.expect_transition();
    for last in 1..20 {
        let replaces = false;
        bench.feed(Event::Route { ifindex: NIC_INDEX, route: route(last), replaces });
    }
    let tried = carries(&bench);
    for (before, (old, _)) in tried.iter().zip(&tried[1..]) {
        assert!(old.contains(&before.1), "{old:?}");
        assert!(old.len() <= 8, "{} plans", old.len());
    }
    assert!(tried[3].0.contains(&tried[0].1) && tried[3].0.contains(&tried[1].1));

    // And at the end.
    bench.fails = |_| false;
    let mut stopped = bench;
    stopped.feed(Event::Stop);
    let last = carries(&stopped).pop().unwrap();
    assert!(last.1.is_empty() && last.0.contains(&tried[tried.len() - 1].1), "{last:?}");
}

#[test]
fn what_cannot_be_taken_back_is_tried_again() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Carry { new, .. } if new.is_empty());
    bench.sequence(Sequence::Bind);
    bench.advance(60 * DEADLINE);
    assert!(!bench.carried.is_empty());
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.carried.is_empty());
    assert_eq!(bench.phase(), Phase::Bridged);
}

/// What the anchor kept alive goes with it, without a word: `ip addr flush`, or a vipshield that could not
/// renew it in time.
#[test]
fn an_anchor_that_is_lost_is_put_back_with_all_that_it_kept() {
    let own = address(&format!("{OWN}/32"));
    let lost = Event::AddressRemoved { ifindex: NIC_INDEX, address: own, requester: 0 };
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Bind);
        let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..joins]);
        assert!(is_carried(&bench), "{datapath:?}");
        let before = bench.log.len();
        bench.feed(lost.clone());
        let carried = bench.log[before..].iter().find_map(|(_, action)| match action {
            Action::Carry { old, new, .. } => Some((old.clone(), new.clone())),
            _ => None,
        });
        let (old, new) = carried.expect("it is asked for again");
        assert!(old.iter().all(super::super::Plan::is_empty) && !new.is_empty(), "{datapath:?}");
        bench.run(&steps[joins..]);
        bench.advance(60 * DEADLINE);
        assert!(bench.carried.is_empty(), "{datapath:?}");
        // Nothing is carried by now, and it was vipshield that took it off.
        let before = bench.log.len();
        bench.feed(lost.clone());
        assert_eq!(bench.log.len(), before, "{datapath:?}");
    }
}

fn rule(priority: u32, kind: RuleKind) -> Rule {
    Rule { family: Family::Ipv4, priority, kind }
}

/// The rules are behind all those of others: if one comes behind them, they are put there anew, and the plan
/// is the same.
#[test]
fn a_rule_that_comes_behind_is_followed() {
    let place = |bench: &Bench| bench.detours[&Family::Ipv4].place;
    let feed = |bench: &mut Bench, priority, kind| {
        bench.feed(Event::Rule { rule: rule(priority, kind) });
    };
    let mut bench = Bench::new(Datapath::Bridge);
    let route = default("192.0.2.1", 100);
    bench.feed(Event::Route { ifindex: NIC_INDEX, route, replaces: false });
    let other = RuleKind::Other;
    feed(&mut bench, 32_765, other);
    assert!(bench.detours.is_empty());
    bench.expect_transition();
    let before = place(&bench);
    assert_eq!(before.priority, 32_765);
    // Those that are ahead anyway, and those that come after the main table.
    let asked = bench.log.len();
    feed(&mut bench, 100, other);
    feed(&mut bench, 32_764, RuleKind::Local);
    feed(&mut bench, 40_000, other);
    assert_eq!((place(&bench), bench.log.len()), (before, asked));
    feed(&mut bench, 32_765, other);
    assert_ne!(place(&bench), before);
    let [(_, Action::Carry { old, new, .. })] = &bench.log[asked..] else {
        panic!("{:?}", &bench.log[asked..]);
    };
    assert_eq!(*old, std::slice::from_ref(new));
    // The main table goes elsewhere.
    feed(&mut bench, 1000, RuleKind::Main);
    assert_eq!(place(&bench).priority, 999);
    bench.advance(60 * DEADLINE);
    assert!(bench.detours.is_empty() && bench.carried.is_empty());
}

/// Where there is no place for rules, nothing of that family is carried, that is said, and the other is.
#[test]
fn without_a_place_nothing_is_carried_and_that_is_said() {
    let gone = Event::RuleRemoved { rule: rule(32_766, RuleKind::Main) };
    let back = Event::Rule { rule: rule(32_766, RuleKind::Main) };
    let families = |bench: &Bench| {
        let all = bench.carried.get(&NIC_INDEX).into_iter().flat_map(|plan| &plan.addresses);
        let found: std::collections::BTreeSet<Family> = all.map(|ip| Family::of(*ip)).collect();
        found.into_iter().collect::<Vec<_>>()
    };
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Bind);
        let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..joins]);
        assert_eq!(families(&bench), Family::ALL);
        bench.feed(gone.clone());
        assert_eq!(families(&bench), [Family::Ipv6], "{datapath:?}");
        let warnings = bench.status().warnings;
        let said = |text: &String| text.contains("IPv4 is not carried") && text.contains("32766");
        assert!(warnings.iter().any(said), "{warnings:?}");
        bench.feed(back.clone());
        assert_eq!(families(&bench), Family::ALL, "{datapath:?}");
        assert!(bench.status().warnings.is_empty());
        bench.feed(gone.clone());
        bench.run(&steps[joins..]);
        bench.advance(60 * DEADLINE);
        assert!(bench.carried.is_empty() && !bench.released(), "{datapath:?}");
    }
}

/// However many routes of its networks' lengths there are, these and the default routes are among those
/// that are carried.
#[test]
fn of_too_many_routes_the_nics_own_networks_and_the_default_are_carried() {
    let gateway: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let to = |destination: [u8; 4], prefix_len, gateway| Route {
        destination: destination.into(),
        prefix_len,
        metric: 0,
        gateway,
        source: None,
        mtu: 0,
    };
    let mut bench = Bench::new(Datapath::Bridge);
    // Sorted behind all others, and before them.
    let needed = [
        to([192, 0, 2, 0], 24, None),
        to([0, 0, 0, 0], 0, Some(gateway)),
        to([203, 0, 113, 7], 32, None),
    ];
    let others = (0..600_u32).map(|net| {
        let [_, _, high, low] = net.to_be_bytes();
        to([10, high, low, 0], 24, Some(gateway))
    });
    let largest = to([172, 16, 0, 0], 12, Some(gateway));
    for route in others.chain(needed).chain([largest]) {
        bench.feed(Event::Route { ifindex: NIC_INDEX, route, replaces: false });
    }
    bench.expect_transition();
    let carried = &bench.carried[&NIC_INDEX].routes;
    assert_eq!(carried.len(), 256);
    assert!(needed.iter().all(|route| carried.contains(route)) && carried.contains(&largest));
    let warnings = bench.status().warnings;
    assert!(warnings.iter().any(|text| text.contains("more than 256 routes")), "{warnings:?}");
    let said = bench.log.iter().filter(|(_, action)| {
        matches!(action, Action::Tell { notice } if notice.text.contains("256 routes"))
    });
    assert_eq!(said.count(), 1);
}

/// A bridge that had no port before makes nothing of IPv6 addresses until it has a carrier; all else goes through it.
#[test]
fn for_a_port_that_lacks_something_ipv6_alone_is_carried() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Bind, datapath);
        let late = address(NODE_IP6);
        let is_late = |op: &Op| matches!(op, Op::AddAddress(_, address) if *address == late);
        let mut steps = bench.steps(Sequence::Bind);
        steps.retain(|step| !is_late(&step.op));
        bench.run(&steps);
        let carried = bench.carried.get(&NIC_INDEX).cloned().unwrap_or_default();
        assert_eq!(
            (bench.phase(), carried.addresses),
            (Phase::Leaving, [late.ip].into()),
            "{datapath:?}"
        );
        assert!(carried.routes.is_empty(), "{datapath:?}");
    }
}
