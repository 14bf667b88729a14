//! The VIP is on this node exactly while a daemon of this node means to have it.

use std::time::Duration;

use super::{
    super::{Action, Event, Filter, Intent},
    all,
    bench::{Bench, COMMAND_PORT, DEADLINE},
    keepalived::Keepalived,
    kube_ovn::{Sequence, Step},
    node::{BRIDGE, Datapath, KUBE_OVN, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
    wire::{PEER, SECOND, advert},
};

fn nowhere() -> Vec<String> {
    Vec::new()
}

/// What takes the NIC in the sequence, by the name it ends up with.
fn bridge_after(sequence: Sequence) -> String {
    let exchanged = sequence == Sequence::Exchange;
    if exchanged { NIC.to_owned() } else { BRIDGE.to_owned() }
}

#[test]
fn given_up_while_enslaved_it_is_gone_at_once() {
    for datapath in Datapath::ALL {
        for sequence in [Sequence::Bind, Sequence::Exchange] {
            let mut bench = Bench::owner_of_vip(datapath);
            bench.sequence(sequence);
            assert_eq!(bench.places(address(VIP)), [bridge_after(sequence)]);
            // The kernel refuses: the NIC has not had it for long.
            bench.daemon_asks(address(VIP), false);
            assert_eq!(bench.places(address(VIP)), nowhere(), "{sequence:?} on {datapath:?}");
            bench.advance(5 * DEADLINE);
            assert!(!bench.released(), "nothing is told that the daemon did itself");
            assert!(!bench.nic().addresses.contains(&VIP.to_owned()));
        }
    }
}

/// Every sequence on every datapath, stopped behind each of its steps: `check` gets the bench, the
/// steps that are left, and a name for it all.
fn at_each_step(mut check: impl FnMut(&mut Bench, Sequence, &[Step], &str)) {
    for (sequence, datapath) in all() {
        let ready = || {
            let mut bench = Bench::owner_of_vip(datapath);
            if let Some(before) = sequence.before() {
                bench.sequence(before);
            }
            let steps = bench.steps(sequence);
            (bench, steps)
        };
        for done in 0..=ready().1.len() {
            let (mut bench, steps) = ready();
            let (past, left) = steps.split_at(done);
            bench.run(past);
            check(&mut bench, sequence, left, &format!("{sequence:?} on {datapath:?} at {done}"));
        }
    }
}

/// Another node may have it in this moment, and whatever else is to be done may take its time.
#[test]
fn nothing_is_done_before_what_was_given_up_is_gone() {
    let mut removed = 0;
    at_each_step(|bench, _, _, at| {
        let before = bench.log.len();
        bench.daemon_asks(address(VIP), false);
        let done: Vec<&Action> = bench.log[before..].iter().map(|(_, action)| action).collect();
        let is_removal = |action: &&Action| matches!(action, Action::RemoveVip { .. });
        if done.iter().any(is_removal) {
            assert!(is_removal(&done[0]), "{at}: {done:?}");
            removed += 1;
        }
    });
    assert!(removed > 10, "{removed}");
}

#[test]
fn given_up_at_any_step_it_does_not_come_back() {
    at_each_step(|bench, _, left, name| {
        bench.daemon_asks(address(VIP), false);
        assert_eq!(bench.places(address(VIP)), nowhere(), "{name}");
        // Kube-OVN puts back what it had listed before, however long it waits.
        bench.advance(Duration::from_mins(10));
        for step in left {
            bench.run(std::slice::from_ref(step));
            assert_eq!(bench.places(address(VIP)), nowhere(), "{name}");
        }
        bench.advance(5 * DEADLINE);
        assert!(!bench.places(address(NODE_IP)).is_empty(), "{name}");
        let carried = bench.carried.values().any(|p| p.addresses.contains(&address(VIP).ip));
        assert!(!carried, "{name}: it is still carried");
    });
}

#[test]
fn given_up_without_its_nic_it_leaves_the_bridge() {
    for (datapath, heard) in Datapath::ALL.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let mut bench = Bench::owner_of_vip(datapath);
        // Else it is known by its end alone.
        if heard {
            bench.daemon_asks(address(VIP), true);
        }
        bench.sequence(Sequence::Bind);
        bench.change(&Op::Remove(NIC.to_owned()));
        assert_eq!(bench.places(address(VIP)), [BRIDGE]);
        bench.daemon_asks(address(VIP), false);
        assert_eq!(bench.places(address(VIP)), nowhere());
    }
}

#[test]
fn taken_while_enslaved_it_moves_to_the_bridge_and_back() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::owner_of_vip(datapath);
        bench.daemon_asks(address(VIP), false);
        bench.sequence(Sequence::Bind);
        bench.daemon_asks(address(VIP), true);
        assert_eq!(bench.places(address(VIP)), [BRIDGE]);
        assert!(bench.keepalived().view.has(NIC_INDEX, address(VIP).ip), "it is not told");
        bench.sequence(Sequence::Unbind);
        assert_eq!(bench.places(address(VIP)), [NIC]);
        assert!(bench.is_calm() && !bench.released());
        bench.daemon_asks(address(VIP), false);
        assert_eq!(bench.places(address(VIP)), nowhere());
    }
}

#[test]
fn a_daemon_that_dies_takes_its_vip_along() {
    at_each_step(|bench, sequence, left, name| {
        bench.kill_daemon();
        assert_eq!(bench.places(address(VIP)), nowhere(), "{name}");
        // Its own address is the node's.
        bench.run(left);
        bench.advance(5 * DEADLINE);
        assert!(!bench.places(address(NODE_IP)).is_empty(), "{name}");
        let is_a_copy =
            |step: &Step| matches!(&step.op, Op::AddAddress(_, a) if *a == address(VIP));
        // Back on the NIC it may be the next daemon's; only a bridge has it from Kube-OVN.
        if sequence == Sequence::Bind || !left.iter().any(is_a_copy) {
            assert_eq!(bench.places(address(VIP)), nowhere(), "{name}");
        }
    });
}

#[test]
fn a_bridge_gets_no_address_of_a_daemon_that_died_half_a_minute_ago() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.kill_daemon();
    bench.change(&Op::AddBridge(BRIDGE.to_owned()));
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(NODE_IP)));
    bench.advance(Duration::from_secs(30));
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(VIP)));
    assert_eq!(bench.places(address(VIP)), nowhere());
    bench.advance(Duration::from_secs(30));
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(VIP)));
    assert_eq!(bench.places(address(VIP)), [BRIDGE], "nobody is left who could have said no");
}

#[test]
fn a_daemon_may_ask_before_it_is_found() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.kill_daemon();
    bench.change(&Op::AddBridge(BRIDGE.to_owned()));
    // It takes what is called as it is told to, which is a bridge while names are exchanged.
    let bridge = bench.node.index(BRIDGE).unwrap();
    bench.advance(Duration::from_mins(2));
    bench.daemon_asks_on(bridge, address(VIP));
    bench.restart_daemon(701);
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), nowhere(), "it is known whose it was");
}

#[test]
fn the_next_daemon_may_have_it_before_it_is_known() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), nowhere());
    // Its port is not known yet.
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    bench.restart_daemon(701);
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address(VIP)), [NIC]);
}

/// The next daemon has put it where it is before it is found, in the same look that misses the last.
#[test]
fn what_the_next_daemon_has_taken_over_stays() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon = Some(Keepalived::start(701, &bench.node, NIC));
    let (port, ifindex, address) = (COMMAND_PORT + 1, NIC_INDEX, address(VIP));
    let intent = Intent { port, sequence: 1, ifindex, address, wanted: true, refused: false };
    bench.feed(Event::Intent { intent });
    let mut found = bench.found();
    found[0].commands[0].port = port;
    bench.scanned(found);
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address), [NIC]);
}

#[test]
fn it_stays_off_as_long_as_its_daemon_lives() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.change(&Op::AddBridge(BRIDGE.to_owned()));
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(NODE_IP)));
    bench.daemon_asks(address(VIP), false);
    for name in [NIC, BRIDGE] {
        bench.advance(Duration::from_hours(1));
        bench.change(&Op::AddAddress(name.to_owned(), address(VIP)));
        assert_eq!(bench.places(address(VIP)), nowhere(), "on {name}");
    }
    assert_eq!(bench.engine.next_deadline(), None, "nothing is waited for");
    // The daemon itself may have it at any time.
    bench.daemon_asks(address(VIP), true);
    assert_eq!(bench.places(address(VIP)), [NIC]);
}

#[test]
fn what_somebody_else_adds_when_the_daemon_is_gone_is_his() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    bench.kill_daemon();
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    assert_eq!(bench.places(address(VIP)), nowhere(), "somebody who had begun before");
    bench.advance(Duration::from_secs(10));
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    bench.advance(Duration::from_mins(2));
    assert_eq!(bench.places(address(VIP)), [NIC]);
    assert_eq!(bench.engine.next_deadline(), None, "and everything is forgotten");
}

/// A bridge of pods has the VIP for reasons of its own, as long as nothing of the NIC's is there.
#[test]
fn another_bridge_keeps_what_it_has() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::owner_of_vip(datapath);
        bench.change(&Op::AddBridge("br-other".to_owned()));
        for ip in ["198.51.100.1/24", VIP] {
            bench.change(&Op::AddAddress("br-other".to_owned(), address(ip)));
        }
        bench.sequence(Sequence::Bind);
        bench.daemon_asks(address(VIP), false);
        assert_eq!(bench.places(address(VIP)), ["br-other"], "{datapath:?}");
        bench.kill_daemon();
        bench.advance(5 * DEADLINE);
        assert_eq!(bench.places(address(VIP)), ["br-other"], "{datapath:?}, without a daemon");
    }
}

/// What a daemon takes off an interface that is not guarded is no word on the guarded NIC's address.
#[test]
fn what_was_asked_for_elsewhere_is_none_of_the_nics() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.change(&Op::AddNic("eth1".to_owned()));
    let (ifindex, address) = (bench.node.index("eth1").unwrap(), address(NODE_IP));
    let (port, sequence) = (COMMAND_PORT, 90);
    let intent = Intent { port, sequence, ifindex, address, wanted: false, refused: true };
    bench.feed(Event::Intent { intent: intent.clone() });
    assert_eq!(bench.places(address), [NIC]);
    let intent = Intent { sequence: 91, ifindex: NIC_INDEX, ..intent };
    bench.feed(Event::Intent { intent });
    assert_eq!(bench.places(address), nowhere());
}

#[test]
fn other_interfaces_are_not_touched() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.change(&Op::AddNic("lo".to_owned()));
    bench.change(&Op::AddAddress("lo".to_owned(), address(VIP)));
    bench.daemon_asks(address(VIP), false);
    assert_eq!(bench.places(address(VIP)), ["lo"]);
}

/// The kernel's word on what it did for a request of the daemon.
fn told(bench: &mut Bench, sequence: u32, text: &str, wanted: bool) {
    let (port, ifindex, address) = (COMMAND_PORT, NIC_INDEX, address(text));
    let intent = Intent { port, sequence, ifindex, address, wanted, refused: false };
    let requester = port;
    if wanted {
        bench.feed(Event::Intent { intent });
        bench.feed(Event::Address { ifindex, address, requester });
    } else {
        bench.daemon_knows_gone(address);
        bench.node.addresses.entry(ifindex).or_default().remove(&address);
        bench.feed(Event::AddressRemoved { ifindex, address, requester });
        bench.feed(Event::Intent { intent });
    }
}

#[test]
fn what_goes_along_with_an_address_was_not_given_up() {
    // The kernel removes secondaries with their primary, in the name of who asked for that.
    for known in [true, false] {
        let mut bench = if known {
            Bench::owner_of_vip(Datapath::Bridge)
        } else {
            Bench::new(Datapath::Bridge)
        };
        told(&mut bench, 70, NODE_IP, false);
        told(&mut bench, 70, VIP, false);
        bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
        bench.advance(5 * DEADLINE);
        assert_eq!(bench.places(address(NODE_IP)), [NIC]);
        bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
        assert_eq!(bench.places(address(VIP)), nowhere(), "that was asked for");
    }
}

#[test]
fn another_vip_that_went_along_is_still_wanted() {
    let other = "192.0.2.20/24";
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(other), true);
    told(&mut bench, 70, other, false);
    told(&mut bench, 70, VIP, false);
    for text in [other, VIP] {
        bench.change(&Op::AddAddress(NIC.to_owned(), address(text)));
    }
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address(other)), [NIC]);
    assert_eq!(bench.places(address(VIP)), nowhere());
    bench.kill_daemon();
    assert_eq!(bench.places(address(other)), nowhere(), "it was its daemon's");
}

#[test]
fn what_the_kernel_promotes_was_not_asked_for() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    // The node's own address was the VIP's secondary, and is announced anew.
    told(&mut bench, 70, VIP, false);
    told(&mut bench, 70, NODE_IP, true);
    bench.kill_daemon();
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address(NODE_IP)), [NIC], "it is the node's");
}

#[test]
fn what_the_daemon_had_before_vipshield_began_is_known_when_it_gives_it_up() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    bench.advance(Duration::from_millis(10));
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    assert_eq!(bench.places(address(VIP)), nowhere());
}

#[test]
fn the_later_request_counts_whichever_is_heard_first() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    let intent = |sequence, wanted| Event::Intent {
        intent: Intent {
            port: COMMAND_PORT,
            sequence,
            ifindex: NIC_INDEX,
            address: address(VIP),
            wanted,
            refused: true,
        },
    };
    bench.feed(intent(u32::MAX, true));
    bench.feed(intent(u32::MAX - 1, false));
    assert_eq!(bench.places(address(VIP)), [BRIDGE], "an older request");
    // Numbers start anew after the last.
    bench.feed(intent(1, false));
    assert_eq!(bench.places(address(VIP)), nowhere());
}

#[test]
fn nobody_else_speaks_for_the_daemon() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    let address = address(VIP);
    for port in [0, KUBE_OVN] {
        let (sequence, ifindex) = (9, NIC_INDEX);
        let intent = Intent { port, sequence, ifindex, address, wanted: false, refused: true };
        bench.feed(Event::Intent { intent });
    }
    assert_eq!(bench.places(address), [BRIDGE]);
}

#[test]
fn stopped_while_enslaved_it_leaves_no_second_owner() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.feed(Event::Stop);
    // The daemon learns that its addresses are gone, gives the VIP up, and misses it.
    assert_eq!(bench.places(address(VIP)), nowhere());
    assert_eq!(bench.places(address(NODE_IP)), [BRIDGE]);
    assert_eq!(bench.keepalived().listened, Filter::None);
}

#[test]
fn a_vip_that_cannot_be_removed_is_tried_again() {
    let is_removal = |action: &Action| matches!(action, Action::RemoveVip { .. });
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.fails = is_removal;
    bench.daemon_asks(address(VIP), false);
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
    bench.fails = |_| false;
    bench.advance(Duration::from_millis(500));
    assert_eq!(bench.places(address(VIP)), nowhere());
}

#[test]
fn after_lost_events_nothing_is_done_for_an_address_that_is_gone() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.deaf = true;
    bench.daemon_asks(address(VIP), false);
    bench.deaf = false;
    bench.feed(bench.node.snapshot());
    let is_spoken_for = |bench: &Bench| {
        let carried = bench.carried.values().flat_map(|plan| &plan.addresses);
        let answered = bench.answers.values().flat_map(|answers| &answers.addresses);
        carried.chain(answered).any(|ip| *ip == address(VIP).ip)
    };
    assert!(!is_spoken_for(&bench));
    // A transition begins before the daemons are told.
    for step in bench.steps(Sequence::Bind) {
        bench.run(&[step]);
        assert!(!is_spoken_for(&bench));
    }
    bench.advance(3 * DEADLINE);
    // An operator's own.
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address(VIP)), [NIC], "it is not the daemon's to be moved");
}

/// One that was only on its way when events were lost is the NIC's when it arrives, and its daemon is
/// told if it does not.
#[test]
fn after_lost_events_an_address_on_its_way_is_not_forgotten() {
    for arrives in [true, false] {
        let mut bench = Bench::owner_of_vip(Datapath::Bridge);
        bench.change(&Op::RemoveAddress(NIC.to_owned(), address(VIP), KUBE_OVN));
        bench.feed(bench.node.snapshot());
        if arrives {
            bench.change(&Op::AddBridge(BRIDGE.to_owned()));
            bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(VIP)));
        }
        bench.advance(3 * DEADLINE);
        let carried = bench.carried.values().any(|p| p.addresses.contains(&address(VIP).ip));
        assert_eq!(carried, arrives);
        assert_eq!(bench.released(), !arrives);
        assert_eq!(bench.nic().addresses.contains(&VIP.to_owned()), arrives);
    }
}

/// What was heard of a daemon before events were lost counts, as long as what is there bears it out.
#[test]
fn what_was_asked_for_before_events_were_lost_counts() {
    let intent = Intent {
        port: COMMAND_PORT,
        sequence: 7,
        ifindex: NIC_INDEX,
        address: address(VIP),
        wanted: true,
        refused: false,
    };
    for there in [true, false] {
        let mut bench = Bench::unshielded(Datapath::Bridge);
        bench.begin();
        if !there {
            bench.deaf = true;
            bench.daemon_asks(address(VIP), false);
            bench.deaf = false;
        }
        bench.feed(Event::Intent { intent: intent.clone() });
        bench.feed(bench.node.snapshot());
        let wanted = bench.watched_addresses.contains(&address(VIP).ip);
        assert_eq!(wanted, there);
    }
}

/// A daemon that began anew while a sequence had paused takes the VIP again, wherever its NIC stands.
#[test]
fn taken_anew_at_any_step_it_is_where_the_traffic_is() {
    for (sequence, datapath) in all() {
        let mut ready = Bench::owner_of_vip(datapath);
        if let Some(before) = sequence.before() {
            ready.sequence(before);
        }
        for done in 0..=ready.steps(sequence).len() {
            let mut bench = Bench::owner_of_vip(datapath);
            if let Some(before) = sequence.before() {
                bench.sequence(before);
            }
            let steps = bench.steps(sequence);
            bench.run(&steps[..done]);
            bench.daemon_asks(address(VIP), false);
            bench.advance(20 * DEADLINE);
            bench.daemon_asks(address(VIP), true);
            bench.run(&steps[done..]);
            bench.advance(5 * DEADLINE);
            let bearer = bench.nic().bearer.unwrap().name;
            let name = format!("{sequence:?} on {datapath:?} at {done}");
            assert_eq!(bench.places(address(VIP)), [bearer], "{name}");
            assert!(!bench.phase().is_transition(), "{name}: {:?}", bench.phase());
        }
    }
}

/// Where the VIP was announced since the log had `from` entries, and how long after `since`.
fn announced(bench: &Bench, from: usize, since: Duration) -> Vec<(u32, u64)> {
    let announcements = bench.log[from..].iter().filter_map(|(at, action)| match action {
        Action::Announce { ifindex, address: ip, .. } if *ip == address(VIP).ip => {
            Some((*ifindex, at.saturating_sub(since).as_millis() as u64))
        }
        _ => None,
    });
    announcements.collect()
}

#[test]
fn a_move_is_announced_three_times_and_nothing_else_is() {
    for (sequence, datapath) in all() {
        let mut bench = Bench::owner_of_vip(datapath);
        assert_eq!(announced(&bench, 0, Duration::ZERO), [], "the daemon does that itself");
        if let Some(before) = sequence.before() {
            bench.sequence(before);
            bench.advance(5 * DEADLINE);
        }
        let (from, bearer) = (bench.log.len(), bench.nic().bearer);
        bench.sequence(sequence);
        bench.advance(5 * DEADLINE);
        let to = bench.nic().bearer;
        assert_ne!(bearer, to, "{sequence:?}");
        let index = bench.node.index(&to.unwrap().name).unwrap();
        let first = bench.log[from..]
            .iter()
            .find(|(_, action)| matches!(action, Action::Announce { .. }))
            .map(|(at, _)| *at)
            .unwrap();
        let expected = [(index, 0), (index, 1000), (index, 2000)];
        assert_eq!(announced(&bench, from, first), expected, "{sequence:?} on {datapath:?}");
    }
}

/// A Linux bridge takes that of a port that joins, some moments later than it is heard of.
#[test]
fn a_bearer_that_gets_another_hardware_address_is_announced_with_it() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::owner_of_vip(datapath);
        let steps = bench.steps(Sequence::Bind);
        let (mac, others): (Vec<_>, Vec<_>) =
            steps.into_iter().partition(|step| matches!(step.op, Op::CopyMac(..)));
        bench.run(&others);
        bench.advance(5 * DEADLINE);
        let from = bench.log.len();
        bench.run(&mac);
        bench.advance(5 * DEADLINE);
        let said = bench.log[from..].iter();
        let said = said.filter(|(_, action)| matches!(action, Action::Announce { .. }));
        assert_eq!(said.count(), 3, "{datapath:?}");
    }
}

#[test]
fn what_was_given_up_is_not_announced_any_more() {
    for wait in [Duration::ZERO, Duration::from_millis(1500)] {
        let mut bench = Bench::owner_of_vip(Datapath::Bridge);
        bench.run(&bench.steps(Sequence::Bind));
        bench.advance(wait);
        let said = announced(&bench, 0, Duration::ZERO).len();
        assert_eq!(said as u64, 1 + wait.as_secs());
        bench.daemon_asks(address(VIP), false);
        bench.advance(5 * DEADLINE);
        assert_eq!(announced(&bench, 0, Duration::ZERO).len(), said, "after {wait:?}");
    }
}

#[test]
fn what_vipshield_put_on_the_bearer_is_announced() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    bench.sequence(Sequence::Bind);
    let now = bench.now;
    bench.daemon_asks(address(VIP), true);
    bench.advance(5 * DEADLINE);
    let bridge = bench.node.index(BRIDGE).unwrap();
    assert_eq!(announced(&bench, 0, now), [(bridge, 0), (bridge, 1000), (bridge, 2000)]);
}

/// An interface may be set down in the moment in which it is announced on.
#[test]
fn an_announcement_that_fails_is_made_good_but_not_for_ever() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Announce { .. });
    bench.run(&bench.steps(Sequence::Bind));
    bench.fails = |_| false;
    bench.advance(5 * DEADLINE);
    assert_eq!(announced(&bench, 0, Duration::ZERO).len(), 4, "three of them were heard");

    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Announce { .. });
    bench.sequence(Sequence::Bind);
    bench.advance(15 * DEADLINE);
    assert_eq!(announced(&bench, 0, Duration::ZERO).len(), 6);
    assert_eq!(bench.engine.next_deadline(), None);
}

/// `static_ipaddress`: keepalived asks for it when it starts, and never takes it off.
#[test]
fn what_a_daemon_gives_a_node_for_good_outlives_it() {
    let (fixed, excluded) = (address("192.0.2.51/32"), address("192.0.2.20/32"));
    for owns in [true, false] {
        let mut bench = Bench::unshielded(Datapath::Bridge);
        bench.begin();
        bench.daemon_asks(fixed, true);
        bench.advance(4 * SECOND);
        if owns {
            bench.speak(150, SECOND);
            // The same as what is in adverts, but in none.
            bench.daemon_asks(excluded, true);
        } else {
            bench.hear(3, &advert(PEER, 200, SECOND));
        }
        bench.kill_daemon();
        bench.advance(5 * DEADLINE);
        assert_eq!(bench.places(fixed), [NIC], "owner: {owns}");
        assert_eq!(bench.places(excluded), nowhere(), "owner: {owns}");
        let says = |(_, action): &(Duration, Action)| matches!(action, Action::Tell { notice } if notice.text.starts_with("192.0.2.51: "));
        assert!(bench.log.iter().any(says), "that it stays is not said, owner: {owns}");
    }
}

/// Where nothing tells what it is, it is taken for a VIP: a second owner is worse than none.
#[test]
fn what_a_daemon_asked_for_and_no_advert_tells_of_goes_with_it() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.begin();
    bench.daemon_asks(address("192.0.2.51/32"), true);
    bench.advance(4 * SECOND);
    bench.kill_daemon();
    assert_eq!(bench.places(address("192.0.2.51/32")), nowhere());
}

#[test]
fn what_a_killed_vipshield_had_moved_is_still_its_daemons() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    bench.sequence(Sequence::Bind);
    bench.daemon_asks(address(VIP), true);
    bench.kill_engine();
    bench.advance(Duration::from_mins(10));
    assert_eq!(bench.places(address(VIP)), [BRIDGE], "its daemon means to have it");
    bench.begin();
    let bridge = bench.node.index(BRIDGE).unwrap();
    bench.feed(Event::Moved { addresses: vec![(bridge, address(VIP))] });
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), nowhere());
}

/// Given up while no vipshield ran, it has another owner by the time the next one begins.
#[test]
fn what_another_node_owns_by_now_is_not_kept_for_a_daemon_that_is_silent() {
    let other = advert(PEER, 200, SECOND);
    for owner in [false, true] {
        let mut bench = Bench::owner_of_vip(Datapath::Bridge);
        bench.sequence(Sequence::Bind);
        bench.kill_engine();
        bench.advance(Duration::from_mins(10));
        if !owner {
            bench.daemon_asks(address(VIP), false);
        }
        bench.begin();
        let bridge = bench.node.index(BRIDGE).unwrap();
        bench.feed(Event::Moved { addresses: vec![(bridge, address(VIP))] });
        for _ in 0..2 {
            if owner {
                bench.speak(250, SECOND);
            }
            bench.hear(1, &other);
        }
        assert_eq!(bench.places(address(VIP)), [BRIDGE], "one advert more may be a mistake");
        for _ in 0..3 {
            if owner {
                bench.speak(250, SECOND);
            }
            bench.hear(1, &other);
        }
        let kept: &[&str] = if owner { &[BRIDGE] } else { &[] };
        assert_eq!(bench.places(address(VIP)), kept, "owner: {owner}");
    }
}

#[test]
fn what_is_only_believed_is_not_announced() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.kill_engine();
    bench.begin();
    let from = bench.log.len();
    let bridge = bench.node.index(BRIDGE).unwrap();
    bench.feed(Event::Moved { addresses: vec![(bridge, address(VIP))] });
    bench.advance(5 * DEADLINE);
    assert_eq!(announced(&bench, from, Duration::ZERO), [], "another node may have it by now");
    // It is not there any more, and the kernel refuses.
    bench.daemon_asks(address(VIP), false);
    assert_eq!(bench.places(address(VIP)), nowhere());
}

#[test]
fn what_a_killed_vipshield_had_moved_for_a_daemon_that_is_gone_goes() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.daemon_asks(address(VIP), false);
    bench.sequence(Sequence::Bind);
    bench.daemon_asks(address(VIP), true);
    bench.kill_engine();
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
    bench.begin();
    let bridge = bench.node.index(BRIDGE).unwrap();
    bench.feed(Event::Moved { addresses: vec![(bridge, address(VIP))] });
    assert_eq!(bench.places(address(VIP)), nowhere());
    assert_eq!(bench.places(address(NODE_IP)), [BRIDGE]);
}

/// The daemon removed it, somebody put it back, and it goes with the link: nobody looks out for it, and
/// the daemon has heard of the one and not of the other.
#[test]
fn given_up_and_put_back_it_is_told_when_it_goes() {
    let own = address("fe80::11/64");
    let mut bench = Bench::new(Datapath::Bridge);
    bench.change(&Op::RemoveAddress(NIC.to_owned(), own, COMMAND_PORT));
    bench.change(&Op::AddAddress(NIC.to_owned(), own));
    assert!(bench.keepalived().view.has(NIC_INDEX, own.ip));
    bench.change(&Op::Down(NIC.to_owned()));
    bench.advance(DEADLINE);
    assert!(!bench.keepalived().view.has(NIC_INDEX, own.ip));
}
