//! Daemons of several processes, and those that begin anew: what the guard knows of them, and what
//! they are told.

use std::{collections::BTreeSet, time::Duration};

use super::{
    super::{Action, Event, Phase},
    all,
    bench::{Bench, COMMAND_PORT, DEADLINE},
    keepalived::Keepalived,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
    ready_for,
};

fn introductions(bench: &Bench, from: usize) -> Vec<Action> {
    let asked = bench.asked(from).map(|(_, action)| action.clone());
    asked
        .filter(|action| matches!(action, Action::ShowAddress { ifindex: NIC_INDEX, .. }))
        .collect()
}

/// A daemon finds an address on the NIC whenever it starts; none is left on one that is free.
#[test]
fn a_port_has_a_stand_in_when_a_daemon_may_start() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        assert!(bench.stood_in.is_empty(), "{sequence:?} on {datapath:?}");
        bench.feed(Event::Turnover);
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            bench.change(&step.op);
            let port = bench.node.links[&NIC_INDEX].master.is_some();
            assert_eq!(bench.stood_in.contains(&NIC_INDEX), port, "{sequence:?}: {step:?}");
        }
        let mut left = ready_for(sequence, datapath);
        left.feed(Event::Turnover);
        left.feed(Event::Stop);
        assert!(left.stood_in.is_empty(), "{sequence:?} on {datapath:?}");
        bench.advance(60 * DEADLINE);
        assert!(bench.stood_in.is_empty(), "{sequence:?} on {datapath:?}");
    }
}

/// What the bridge has is told to a daemon that started, once, and it is not told of its end.
#[test]
fn a_daemon_that_starts_on_a_port_is_told_the_address() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unbind, datapath);
        let from = bench.log.len();
        bench.restart_daemon(701);
        let source = address(NODE_IP);
        let expected = Action::ShowAddress { ifindex: NIC_INDEX, address: Some(source) };
        assert_eq!(introductions(&bench, from), [expected]);
        assert!(bench.keepalived().view.has(NIC_INDEX, source.ip));
        bench.scan();
        bench.advance(5 * DEADLINE);
        assert_eq!(introductions(&bench, from).len(), 1, "told once");
        assert!(!bench.released() && bench.phase() == Phase::Bridged);
        bench.sequence(Sequence::Unbind);
        assert!(!bench.released() && bench.keepalived().view.has(NIC_INDEX, source.ip));
    }
}

/// A NIC that has its address needs no telling; but vipshield's own may have been read there.
#[test]
fn a_daemon_that_starts_on_a_free_nic_is_told_nothing_untrue() {
    let mut bench = Bench::new(Datapath::Bridge);
    let from = bench.log.len();
    bench.restart_daemon(701);
    let expected = Action::ShowAddress { ifindex: NIC_INDEX, address: None };
    assert_eq!(introductions(&bench, from), [expected]);
}

/// Kube-OVN might put the address on the NIC in the very moment: within a transition the telling
/// waits.
#[test]
fn within_a_transition_nobody_is_told() {
    for (sequence, datapath) in all() {
        let steps = ready_for(sequence, datapath).steps(sequence).len();
        for done in 0..=steps {
            let mut bench = ready_for(sequence, datapath);
            let steps = bench.steps(sequence);
            bench.run(&steps[..done]);
            let from = bench.log.len();
            bench.restart_daemon(701);
            let told = introductions(&bench, from).len();
            assert_eq!(told, usize::from(!bench.phase().is_transition()), "{sequence:?} at {done}");
            let mut begins = false;
            for step in &steps[done..] {
                bench.run(std::slice::from_ref(step));
                begins |= bench.phase().is_transition();
            }
            bench.advance(3 * DEADLINE);
            // Who is guarded in the moment in which it begins may have heard something: told again where it rests.
            let most = if begins { 3 } else { 1 };
            let all = introductions(&bench, from).len();
            assert!((1..=most).contains(&all), "{sequence:?} at {done}: {all}");
        }
    }
}

#[test]
fn what_could_not_be_told_is_told_later() {
    let mut bench = ready_for(Sequence::Unbind, Datapath::Bridge);
    bench.fails = |action| {
        matches!(action, Action::ShowAddress { .. } | Action::StandIn { wanted: false, .. })
    };
    bench.restart_daemon(701);
    bench.sequence(Sequence::Unbind);
    assert!(bench.stood_in.contains(&NIC_INDEX), "it could not be taken off");
    bench.sequence(Sequence::Bind);
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip));
    bench.sequence(Sequence::Unbind);
    assert!(bench.stood_in.is_empty());
}

/// The VIP is no source address, even if its prefix is as long as the node's own.
#[test]
fn the_address_that_routes_prefer_is_told() {
    let mut bench = Bench::new(Datapath::Bridge);
    let (vip, wide) = (address(VIP), address("192.0.2.10/24"));
    bench.change(&Op::RemoveAddress(NIC.to_owned(), vip, COMMAND_PORT));
    bench.change(&Op::AddAddress(NIC.to_owned(), wide));
    bench.sequence(Sequence::Bind);
    let bridge = bench.node.index(BRIDGE).unwrap();
    let route = super::super::Route {
        destination: "192.0.2.0".parse().unwrap(),
        prefix_len: 24,
        metric: 0,
        gateway: None,
        source: Some(address(NODE_IP).ip),
        mtu: 0,
    };
    bench.feed(Event::Route { ifindex: bridge, route, replaces: false });
    let from = bench.log.len();
    bench.restart_daemon(701);
    let expected = Action::ShowAddress { ifindex: NIC_INDEX, address: Some(address(NODE_IP)) };
    assert_eq!(introductions(&bench, from), [expected]);
}

/// While names are exchanged a daemon that reads its configuration anew binds its sockets to the
/// bridge, by the name, and joins VRRP's group on the NIC: it would hear nothing.
#[test]
fn sockets_that_are_on_the_bridge_by_its_name_are_placed_once() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unexchange, datapath);
        let bearer = bench.nic().bearer.unwrap().ifindex;
        let rebinds = |bench: &Bench, from| {
            let asked = bench.asked(from);
            asked.filter(|(_, action)| matches!(action, Action::Rebind { .. })).count()
        };
        bench.daemon = Some(Keepalived { bound: [bearer; 2], ..bench.keepalived().clone() });
        let from = bench.log.len();
        bench.scan();
        assert_eq!(rebinds(&bench, from), 0, "the very sockets that were moved");
        bench.restart_daemon(701);
        assert_eq!(bench.keepalived().bound, [bearer; 2]);
        assert_eq!(rebinds(&bench, from), 2, "new ones");
        bench.scan();
        assert_eq!(rebinds(&bench, from), 2, "once");
        // It joins on the NIC some moments after it was looked at, and has to be a member here, too.
        let mut daemons = bench.found();
        for socket in &mut daemons[0].vrrp {
            socket.home = Some(NIC_INDEX);
        }
        for _ in 0..2 {
            bench.scanned(daemons.clone());
            assert_eq!(rebinds(&bench, from), 4, "once more, now that it is known");
        }
    }
}

/// One that knows the bridge for its interface has its new sockets bound to where the traffic is, and joins
/// VRRP's group on the bridge, some moments after it was looked at.
#[test]
fn sockets_that_have_joined_elsewhere_are_placed_when_it_is_known() {
    let mut bench = ready_for(Sequence::Unexchange, Datapath::Bridge);
    let bridge = bench.nic().bearer.unwrap().ifindex;
    let joins = bench.steps(Sequence::Unexchange);
    bench.run(&joins[..1]);
    assert_eq!(bench.nic().bearer.unwrap().ifindex, NIC_INDEX);
    let rebinds = |bench: &Bench, from| {
        let asked = bench.asked(from);
        asked.filter(|(_, action)| matches!(action, Action::Rebind { .. })).count()
    };
    let mut daemons = bench.found();
    for socket in &mut daemons[0].vrrp {
        socket.id.inode += 50;
    }
    let from = bench.log.len();
    bench.scanned(daemons.clone());
    assert_eq!(rebinds(&bench, from), 0, "bound to the NIC, and a member of nothing yet");
    for socket in &mut daemons[0].vrrp {
        socket.home = Some(bridge);
    }
    for _ in 0..2 {
        bench.scanned(daemons.clone());
        assert_eq!(rebinds(&bench, from), 2, "once");
    }
}

/// It finds the bridge by the name before that has a port: what its peers say arrives at the NIC.
#[test]
fn sockets_on_a_bridge_without_a_port_are_moved_to_the_nic() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Exchange);
        let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..joins]);
        bench.restart_daemon(701);
        assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{datapath:?}");
        bench.run(&steps[joins..]);
        let bearer = bench.nic().bearer.unwrap().ifindex;
        assert_eq!(bench.keepalived().bound, [bearer; 2], "{datapath:?}");
    }
}

/// A daemon that reads its configuration anew while names are exchanged is refused its socket to
/// send from. It is told what is called how, once, and finds the bridge.
#[test]
fn a_reload_while_names_are_exchanged_leaves_no_mute_owner() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unexchange, datapath);
        let bearer = bench.nic().bearer.unwrap().ifindex;
        let monitor = bench.keepalived().monitor();
        assert!(bench.is_calm() && !bench.released());
        bench.reload_daemon();
        let names = [NIC_INDEX, bearer];
        let told = names.map(|ifindex| Action::ResyncLink { socket: monitor, ifindex });
        assert_eq!(bench.releases().collect::<Vec<_>>(), told, "the NIC first: {datapath:?}");
        assert!(!bench.keepalived().mute && bench.keepalived().view.trusts(bearer, NIC));
        assert!(bench.keepalived().view.has(bearer, address(NODE_IP).ip), "and the address");
        let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
        for words in [NIC, "keepalived 700", "reloaded", "restart it"] {
            assert!(warning.contains(words), "{words} in {warning}");
        }
        bench.scan();
        assert!(bench.status().warnings.is_empty(), "{datapath:?}");
        bench.advance(5 * DEADLINE);
        bench.reload_daemon();
        bench.reload_daemon();
        assert_eq!(bench.releases().count(), 2, "it knows the names now: {datapath:?}");
    }
}

/// One that does not heed it is told once, and the operator for as long as it stays so.
#[test]
fn a_mute_daemon_is_told_once_for_each_socket() {
    let mut bench = ready_for(Sequence::Unexchange, Datapath::Bridge);
    let mut daemons = bench.found();
    daemons[0].vrrp.truncate(1);
    bench.scanned(daemons.clone());
    bench.advance(Duration::from_millis(200));
    bench.scanned(daemons.clone());
    assert!(!bench.released(), "it may be about to open the other");
    for _ in 0..3 {
        bench.scanned(daemons.clone());
        bench.advance(DEADLINE);
    }
    assert_eq!(bench.releases().count(), 2);
    assert_eq!(bench.status().warnings.len(), 1);
    daemons[0].vrrp[0].id.inode += 1;
    bench.scanned(daemons.clone());
    assert!(bench.releases().count() == 2 && bench.status().warnings.is_empty());
    bench.advance(DEADLINE);
    bench.scanned(daemons);
    assert_eq!(bench.releases().count(), 4, "another socket");
    bench.scan();
    assert!(bench.status().warnings.is_empty());
}

/// Where names are not exchanged nothing is known of why, and nothing is to be told.
#[test]
fn a_reload_elsewhere_tells_nothing() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        if sequence == Sequence::Unexchange {
            continue;
        }
        let mut daemons = bench.found();
        daemons[0].vrrp.truncate(1);
        for _ in 0..3 {
            bench.scanned(daemons.clone());
        }
        assert!(!bench.released() && bench.status().warnings.is_empty(), "{sequence:?}");
        bench.reload_daemon();
        assert!(!bench.released() && !bench.keepalived().mute, "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn names_that_could_not_be_told_are_told_later() {
    let mut bench = ready_for(Sequence::Unexchange, Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::ResyncLink { .. });
    bench.reload_daemon();
    assert!(bench.keepalived().mute);
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(!bench.keepalived().mute);
}

/// What any process of the daemon asks for passes, as soon as its command socket is found.
#[test]
fn the_guard_knows_the_command_ports_of_every_process() {
    let mut bench = Bench::new(Datapath::Bridge);
    assert_eq!(bench.guard.ports, BTreeSet::from([COMMAND_PORT]));

    let mut daemons = bench.found();
    let mut checkers = daemons[0].clone();
    checkers.pid = 701;
    checkers.commands[0].port = 4321;
    checkers.monitors[0].id.pid = 701;
    daemons.push(checkers);
    bench.scanned(daemons.clone());
    assert_eq!(bench.guard.ports, BTreeSet::from([COMMAND_PORT, 4321]));

    daemons.pop();
    bench.scanned(daemons);
    assert_eq!(bench.guard.ports, BTreeSet::from([COMMAND_PORT]));
}

#[test]
fn ports_that_could_not_be_told_are_told_again() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::SetCommandPorts { .. });
    bench.begin();
    assert!(bench.guard.ports.is_empty());
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert_eq!(bench.guard.ports, BTreeSet::from([COMMAND_PORT]));
}
