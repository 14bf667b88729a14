//! What turns out to be true is told by the deadline; what the daemon did itself never is.

use std::{collections::BTreeMap, time::Duration};

use super::{
    super::{Action, Event, Filter, LetPass, Phase},
    bench::{Bench, COMMAND_PORT, DEADLINE, REPLAY_PORT},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, KUBE_OVN, NIC, NIC_INDEX, NODE_IP, NODE_IP6, Op, VIP, address},
};

const MOMENT: Duration = Duration::from_millis(1);
const ALMOST: Duration = DEADLINE.saturating_sub(MOMENT);

fn free() -> Bench {
    Bench::new(Datapath::Bridge)
}

fn remove(text: &str, requester: u32) -> Op {
    Op::RemoveAddress(NIC.to_owned(), address(text), requester)
}

#[test]
fn an_address_gone_for_good_is_told_at_the_deadline() {
    let mut bench = free();
    let ip = address(NODE_IP).ip;
    bench.change(&remove(NODE_IP, KUBE_OVN));
    assert_eq!(bench.phase(), Phase::Leaving);
    bench.advance(ALMOST);
    assert!(bench.keepalived().view.has(NIC_INDEX, ip));
    assert!(!bench.released());
    bench.advance(MOMENT);
    assert!(!bench.keepalived().view.has(NIC_INDEX, ip));
    assert_eq!(bench.phase(), Phase::Free);
    let told: Vec<_> = bench.releases().collect();
    assert_eq!(
        told,
        [Action::ReplayRemoval { ifindex: NIC_INDEX, address: address(NODE_IP) }],
        "no more than that"
    );
    // The replay's own messages mean nothing, and nothing is told twice.
    bench.advance(10 * DEADLINE);
    assert_eq!(bench.releases().count(), 1);
    assert_ne!(REPLAY_PORT, COMMAND_PORT);
}

/// keepalived up to 2.0.20 notes down an address each time that it hears of one, and strikes out one of them when
/// it hears that it is gone: it has to hear of both as often.
#[test]
fn a_daemon_that_notes_down_each_word_is_told_as_well() {
    let ip = address(NODE_IP).ip;
    for times in 0..3 {
        let mut bench = free();
        // One that is guarded for so short a time may have heard before that the address left, and is shown it.
        bench.advance(2 * DEADLINE);
        for sequence in [Sequence::Bind, Sequence::Unbind].iter().cycle().take(2 * times) {
            bench.sequence(*sequence);
            bench.advance(2 * DEADLINE);
        }
        bench.change(&remove(NODE_IP, KUBE_OVN));
        bench.advance(DEADLINE);
        assert_eq!(bench.keepalived().view.noted(NIC_INDEX, ip), 0, "after {times} times");
        bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
        assert_eq!(bench.keepalived().view.noted(NIC_INDEX, ip), 1);
    }
}

/// What was withheld before says nothing of what a daemon knows that has heard since that its interface is
/// called otherwise: it has forgotten the addresses, and is to hear of them.
#[test]
fn addresses_of_an_interface_that_a_daemon_has_lost_are_announced_to_it() {
    let mut bench = free();
    let steps = bench.steps(Sequence::Exchange);
    let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
    bench.run(&steps[..joins]);
    bench.change(&Op::Carrier(BRIDGE.to_owned(), false));
    bench.advance(3 * DEADLINE);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
    bench.change(&Op::Carrier(BRIDGE.to_owned(), true));
    bench.run(&steps[joins..]);
    bench.advance(3 * DEADLINE);
    bench.sequence(Sequence::Unexchange);
    bench.advance(3 * DEADLINE);
    assert_eq!(bench.keepalived().interface(), Some(NIC_INDEX));
    assert!(bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip));
}

/// A switch whose process is gone goes on with what it knows, so the node stays an owner, whom nobody new
/// reaches: after a minute the node's address is as good as gone.
#[test]
fn a_switch_that_takes_no_new_flows_is_told_after_a_minute_and_its_return() {
    const PATIENCE: Duration = Duration::from_mins(1).saturating_add(ALMOST);
    for (sequence, opposite) in
        [(Sequence::Bind, Sequence::Unbind), (Sequence::Exchange, Sequence::Unexchange)]
    {
        let mut bench = Bench::owner_of_vip(Datapath::Ovs);
        assert!(bench.engine.switches().is_empty());
        bench.sequence(sequence);
        let ifindex = bench.node.index("ovs-system").unwrap();
        assert_eq!(bench.engine.switches(), BTreeMap::from([(ifindex, true)]));
        let (from, ip) = (bench.log.len(), address(NODE_IP).ip);

        // One that begins anew in time was never gone.
        bench.feed(Event::Switch { ifindex, served: false });
        bench.advance(PATIENCE);
        bench.feed(Event::Switch { ifindex, served: true });
        bench.advance(10 * DEADLINE);
        assert!(bench.is_calm() && !bench.released(), "{sequence:?}");

        bench.feed(Event::Switch { ifindex, served: false });
        bench.advance(PATIENCE);
        assert!(!bench.released());
        let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
        assert!(warning.contains("ovs-vswitchd"), "{warning}");
        bench.advance(MOMENT);
        let gone = bench.releases().map(|action| match action {
            Action::ReplayRemoval { ifindex: NIC_INDEX, address } => address,
            other => panic!("{other:?}"),
        });
        let gone: Vec<_> = gone.collect();
        assert!(gone.contains(&address(NODE_IP)), "{sequence:?}: {gone:?}");
        assert!(!gone.contains(&address(VIP)), "that is its daemon's to give up");
        bench.advance(10 * DEADLINE);
        assert_eq!(bench.releases().count(), gone.len(), "once");
        assert!(!bench.keepalived().view.has(NIC_INDEX, ip));
        assert_eq!(bench.phase(), Phase::Bridged);

        let shown = |bench: &Bench| {
            let asked = bench.asked(from).map(|(_, action)| action.clone());
            let shown = asked.filter_map(|action| match action {
                Action::ShowAddress { ifindex: NIC_INDEX, address } => address,
                _ => None,
            });
            shown.collect::<Vec<_>>()
        };
        assert_eq!(shown(&bench), []);
        bench.feed(Event::Switch { ifindex, served: true });
        assert_eq!(shown(&bench), gone, "{sequence:?}");
        assert!(bench.keepalived().view.has(NIC_INDEX, ip));
        assert!(bench.status().warnings.is_empty());
        bench.sequence(opposite);
        assert_eq!((bench.phase(), bench.releases().count()), (Phase::Free, gone.len()));
    }
}

#[test]
fn an_address_that_was_told_gone_is_shown_when_the_bridge_has_it() {
    for (sequence, datapath) in [
        (Sequence::Bind, Datapath::Bridge),
        (Sequence::Bind, Datapath::Ovs),
        (Sequence::Exchange, Datapath::Bridge),
        (Sequence::Exchange, Datapath::Ovs),
    ] {
        let mut bench = Bench::new(datapath);
        // Guarded for long.
        bench.advance(DEADLINE);
        let ip = address(NODE_IP).ip;
        let is_shown =
            |action: &Action| matches!(action, Action::ShowAddress { address: Some(_), .. });
        for step in &bench.steps(sequence) {
            if matches!(&step.op, Op::AddAddress(_, added) if added.ip == ip)
                && !bench.node.has_somewhere(ip)
            {
                bench.advance(2 * DEADLINE);
                assert!(!bench.keepalived().view.has(NIC_INDEX, ip), "told in time");
            }
            bench.advance(step.takes);
            bench.change(&step.op);
        }
        assert_eq!(bench.phase(), Phase::Bridged);
        bench.advance(10 * DEADLINE);
        assert!(bench.keepalived().view.has(NIC_INDEX, ip), "{sequence:?} on {datapath:?}");
        assert_eq!(bench.asked(0).filter(|(_, action)| is_shown(action)).count(), 1);
        assert!(!bench.node.addresses[&NIC_INDEX].contains(&address(NODE_IP)), "for a moment");

        // And it is the NIC's as before: what undoes this is not noticed.
        let back = if sequence == Sequence::Bind { Sequence::Unbind } else { Sequence::Unexchange };
        bench.sequence(back);
        assert!(bench.is_calm(), "{back:?} on {datapath:?}");
    }
}

#[test]
fn showing_an_address_is_tried_again_as_long_as_it_is_right() {
    let mut bench = free();
    let ip = address(NODE_IP).ip;
    bench.fails = |action| matches!(action, Action::ShowAddress { .. });
    for step in &bench.steps(Sequence::Bind) {
        if matches!(&step.op, Op::AddAddress(_, added) if added.ip == ip) {
            bench.advance(2 * DEADLINE);
        }
        bench.change(&step.op);
    }
    bench.advance(DEADLINE);
    assert!(!bench.keepalived().view.has(NIC_INDEX, ip));
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.keepalived().view.has(NIC_INDEX, ip));
}

#[test]
fn an_address_that_comes_back_in_time_was_never_gone() {
    let mut bench = free();
    bench.change(&remove(NODE_IP, KUBE_OVN));
    bench.advance(ALMOST);
    bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
    bench.advance(10 * DEADLINE);
    assert!(bench.is_calm() && !bench.released());
    assert_eq!(bench.phase(), Phase::Free);
}

#[test]
fn a_link_down_for_good_is_told_at_the_deadline() {
    let mut bench = free();
    bench.change(&Op::Down(NIC.to_owned()));
    assert_eq!(bench.phase(), Phase::Leaving);
    bench.advance(ALMOST);
    assert!(bench.keepalived().view.trusts(NIC_INDEX, NIC));
    bench.advance(MOMENT);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
    assert_eq!(bench.phase(), Phase::Down);
    let socket = bench.keepalived().monitor();
    assert!(bench.releases().any(|a| a == Action::ResyncLink { socket, ifindex: NIC_INDEX }));

    bench.change(&Op::Up(NIC.to_owned()));
    assert!(bench.keepalived().view.trusts(NIC_INDEX, NIC), "recovery passes at once");
    bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
    bench.advance(DEADLINE);
    assert_eq!(bench.phase(), Phase::Free);
}

#[test]
fn a_carrier_lost_while_free_or_bridged_passes_at_once() {
    for datapath in Datapath::ALL {
        for bridged in [false, true] {
            let mut bench = Bench::new(datapath);
            if bridged {
                bench.sequence(Sequence::Bind);
            }
            bench.change(&Op::Carrier(NIC.to_owned(), false));
            assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC), "{datapath:?} {bridged}");
            assert_eq!(bench.phase(), Phase::Down);
            bench.advance(3 * DEADLINE);
            bench.change(&Op::Carrier(NIC.to_owned(), true));
            assert!(bench.keepalived().view.trusts(NIC_INDEX, NIC), "{datapath:?} {bridged}");
            bench.advance(3 * DEADLINE);
            assert_eq!(bench.phase(), if bridged { Phase::Bridged } else { Phase::Free });
        }
    }
}

#[test]
fn a_carrier_that_does_not_return_is_told_by_the_deadline() {
    for datapath in Datapath::ALL {
        for sequence in [Sequence::Bind, Sequence::Unbind] {
            let steps = super::ready_for(sequence, datapath).steps(sequence).len();
            for lost_at in 0..=steps {
                let mut bench = super::ready_for(sequence, datapath);
                let steps = bench.steps(sequence);
                bench.run(&steps[..lost_at]);
                bench.change(&Op::Carrier(NIC.to_owned(), false));
                bench.run(&steps[lost_at..]);
                // The bench sees to the deadline.
                bench.advance(3 * DEADLINE);
                assert!(
                    !bench.keepalived().view.trusts(NIC_INDEX, NIC),
                    "{sequence:?} on {datapath:?}, carrier lost at step {lost_at}"
                );
                assert_eq!(bench.phase(), Phase::Down);
                bench.change(&Op::Carrier(NIC.to_owned(), true));
                bench.advance(3 * DEADLINE);
                assert!(bench.keepalived().view.trusts(NIC_INDEX, NIC));
                assert_ne!(bench.phase(), Phase::Down);
            }
        }
    }
}

#[test]
fn what_the_daemon_removes_itself_is_never_replayed() {
    let mut bench = free();
    bench.change(&remove(VIP, COMMAND_PORT));
    assert!(!bench.keepalived().view.has(NIC_INDEX, address(VIP).ip));
    bench.advance(10 * DEADLINE);
    assert!(!bench.released());
    assert_eq!(bench.phase(), Phase::Free);
    assert!(!bench.nic().addresses.contains(&VIP.to_owned()));
}

#[test]
fn an_address_lost_on_its_way_is_told() {
    let mut bench = free();
    let mut steps = bench.steps(Sequence::Bind);
    let vip = address(VIP);
    steps.retain(|step| !matches!(&step.op, Op::AddAddress(_, a) if *a == vip));
    bench.run(&steps);
    bench.advance(3 * DEADLINE);
    assert_eq!(
        bench.releases().collect::<Vec<_>>(),
        [Action::ReplayRemoval { ifindex: NIC_INDEX, address: vip }]
    );
    assert_eq!(bench.phase(), Phase::Bridged);
}

#[test]
fn an_address_that_a_bridge_holds_is_on_its_way_however_long_it_takes() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        let steps = bench.steps(Sequence::Bind);
        let (last, before) = steps.split_last().unwrap();
        bench.run(before);
        bench.advance(10 * DEADLINE);
        assert_eq!(bench.phase(), Phase::Leaving);
        bench.change(&last.op);
        bench.advance(3 * DEADLINE);
        assert!(bench.is_calm() && !bench.released(), "{datapath:?}: {:?}", bench.log);
        assert_eq!(bench.phase(), Phase::Bridged);
    }
}

/// All that rtnetlink said of an address is lost; the guard's own report is not.
#[test]
fn an_address_of_which_only_the_guard_knows_is_told() {
    let mut bench = free();
    let passing = address("192.0.2.99/24");
    let (nic, vip) = (NIC.to_owned(), address(VIP));
    bench.deaf = true;
    bench.change(&Op::AddAddress(nic.clone(), passing));
    bench.advance(DEADLINE);
    bench.change(&Op::RemoveAddress(nic.clone(), passing, KUBE_OVN));
    bench.advance(DEADLINE.saturating_sub(Duration::from_millis(1)));
    assert!(!bench.released() && bench.keepalived().view.has(NIC_INDEX, passing.ip));
    bench.advance(Duration::from_millis(1));
    let told = Action::ReplayRemoval { ifindex: NIC_INDEX, address: passing };
    assert_eq!(bench.releases().collect::<Vec<_>>(), [told]);

    // What the daemon did itself it knows.
    bench.change(&Op::RemoveAddress(nic, vip, COMMAND_PORT));
    bench.deaf = false;
    bench.feed(bench.node.snapshot());
    assert!(!bench.keepalived().view.has(NIC_INDEX, vip.ip));
}

#[test]
fn a_removal_that_was_not_heard_is_told_after_a_look_at_everything() {
    let mut bench = free();
    // The deadline begins when it can be known.
    bench.grace = DEADLINE;
    bench.deaf = true;
    bench.change(&remove(NODE_IP, KUBE_OVN));
    bench.advance(DEADLINE);
    bench.deaf = false;
    bench.feed(bench.node.snapshot());
    assert!(!bench.released());
    bench.advance(DEADLINE);
    assert!(!bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip));
    assert_eq!(bench.phase(), Phase::Free);
}

#[test]
fn a_sequence_that_stops_half_way_is_told_by_the_deadline() {
    for (sequence, datapath) in super::all() {
        let steps = super::ready_for(sequence, datapath).steps(sequence).len();
        for stopped_at in 0..=steps {
            let mut bench = super::ready_for(sequence, datapath);
            let steps = bench.steps(sequence);
            bench.run(&steps[..stopped_at]);
            // The bench sees to the deadline.
            bench.advance(5 * DEADLINE);
            bench.run(&steps[stopped_at..]);
            bench.advance(5 * DEADLINE);
            let end = if sequence.takes() { Phase::Bridged } else { Phase::Free };
            assert_eq!(bench.phase(), end, "{sequence:?} on {datapath:?} from {stopped_at}");
        }
    }
}

#[test]
fn a_nic_pulled_out_and_put_back_is_guarded_under_its_new_index() {
    let mut bench = free();
    bench.change(&Op::Remove(NIC.to_owned()));
    assert!(!bench.keepalived().view.links.contains_key(&NIC_INDEX), "it is told at once");
    assert!(bench.status().nics.is_empty());
    assert_eq!(bench.status().missing, [NIC.to_owned()]);
    assert!(bench.guard.policies.is_empty());
    bench.change(&Op::AddNic(NIC.to_owned()));
    bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
    let index = bench.node.index(NIC).unwrap();
    assert_ne!(index, NIC_INDEX);
    assert_eq!(bench.nic().ifindex, index);
    assert_eq!(
        bench.guard.policies[&index],
        (NIC.to_owned(), Phase::Free.withhold(false), LetPass::new())
    );
    assert!(bench.keepalived().view.trusts(index, NIC));

    // The daemon has opened its sockets anew.
    bench.restart_daemon(701);
    bench.sequence(Sequence::Bind);
    let bridge = bench.node.index(super::node::BRIDGE).unwrap();
    assert_eq!(bench.keepalived().bound, [bridge; 2]);
    assert_eq!(bench.phase(), Phase::Bridged);
}

#[test]
fn somebody_elses_filter_is_left_alone_and_mentioned_once() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.daemon.as_mut().unwrap().filter = Filter::Foreign;
    bench.begin();
    for _ in 0..10 {
        bench.advance(DEADLINE);
        bench.scan();
    }
    bench.sequence(Sequence::Bind);
    assert!(!bench.log.iter().any(|(_, action)| matches!(
        action,
        Action::Guard { .. } | Action::Unguard { .. } | Action::ResyncLink { .. }
    )));
    let mentions = bench.log.iter().filter(|(_, action)| {
        matches!(action, Action::Tell { notice } if notice.text.contains("already has a filter"))
    });
    assert_eq!(mentions.count(), 1);
}

/// A transition during which one kind of action fails for a while, and what that must lead to.
fn with_failing(fails: fn(&Action) -> bool, op: &Op, wait: Duration) -> Bench {
    let mut bench = free();
    bench.fails = fails;
    // The bench looks for busy loops; the deadline cannot be kept by what fails.
    bench.grace = Duration::MAX;
    bench.change(op);
    bench.advance(wait);
    bench
}

/// How often it was tried, and the shortest time between two attempts.
fn attempts(bench: &Bench, is: fn(&Action) -> bool) -> (usize, Duration) {
    let tried: Vec<Duration> =
        bench.log.iter().filter(|(_, action)| is(action)).map(|(at, _)| *at).collect();
    let shortest = tried.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).min();
    (tried.len(), shortest.unwrap_or(Duration::MAX))
}

const RETRY: Duration = Duration::from_millis(500);

#[test]
fn a_guard_that_cannot_be_put_on_is_tried_again() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.begin();
    bench.advance(10 * RETRY);
    let (tried, pause) = attempts(&bench, |action| matches!(action, Action::Guard { .. }));
    assert_eq!((tried, pause), (11, RETRY));
    assert!(!bench.is_healthy());
    bench.fails = |_| false;
    bench.advance(RETRY);
    assert_eq!(bench.keepalived().filter, Filter::Guard);
    assert!(bench.is_healthy());
}

#[test]
fn a_policy_that_cannot_be_set_is_tried_again() {
    let is_wide = |action: &Action| {
        matches!(action, Action::SetPolicy { withhold, .. }
            if *withhold == Phase::Leaving.withhold(false))
    };
    let mut bench = with_failing(is_wide, &Op::Down(NIC.to_owned()), RETRY);
    assert_eq!(attempts(&bench, is_wide), (2, RETRY));
    bench.fails = |_| false;
    bench.change(&Op::Up(NIC.to_owned()));
    bench.advance(10 * DEADLINE);
    assert_eq!(bench.guard.policies[&NIC_INDEX].1, bench.phase().withhold(false));
}

#[test]
fn a_socket_that_cannot_be_moved_is_tried_again() {
    let mut bench = free();
    bench.fails = |action| matches!(action, Action::Rebind { .. });
    bench.sequence(Sequence::Bind);
    assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2]);
    bench.fails = |_| false;
    bench.advance(RETRY);
    let bridge = bench.node.index(super::node::BRIDGE).unwrap();
    assert_eq!(bench.keepalived().bound, [bridge; 2]);
}

#[test]
fn a_link_state_that_cannot_be_told_is_told_later() {
    let is_resync = |action: &Action| matches!(action, Action::ResyncLink { .. });
    let mut bench = with_failing(is_resync, &Op::Down(NIC.to_owned()), DEADLINE + 3 * RETRY);
    assert_eq!(attempts(&bench, is_resync), (4, RETRY));
    bench.fails = |_| false;
    bench.advance(RETRY);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC));
}

#[test]
fn a_removal_that_cannot_be_told_is_told_later() {
    let is_replay = |action: &Action| matches!(action, Action::ReplayRemoval { .. });
    let mut bench = with_failing(is_replay, &remove(NODE_IP, KUBE_OVN), DEADLINE + 3 * RETRY);
    assert_eq!(attempts(&bench, is_replay), (4, RETRY));
    bench.fails = |_| false;
    bench.advance(RETRY);
    assert!(!bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip));
}

#[test]
fn a_failure_that_has_passed_is_not_told_any_more() {
    let is_resync = |action: &Action| matches!(action, Action::ResyncLink { .. });
    let mut bench = with_failing(is_resync, &Op::Down(NIC.to_owned()), DEADLINE);
    bench.change(&Op::Up(NIC.to_owned()));
    bench.fails = |_| false;
    let before = bench.releases().filter(is_resync).count();
    bench.advance(DEADLINE / 2);
    assert_eq!(bench.releases().filter(is_resync).count(), before);
}

#[test]
fn an_address_that_is_back_is_not_removed_by_a_late_replay() {
    let is_replay = |action: &Action| matches!(action, Action::ReplayRemoval { .. });
    let mut bench = with_failing(is_replay, &remove(NODE_IP, KUBE_OVN), DEADLINE);
    bench.change(&Op::AddAddress(NIC.to_owned(), address(NODE_IP)));
    bench.fails = |_| false;
    bench.advance(10 * RETRY);
    assert_eq!(bench.releases().count(), 1);
    assert!(bench.is_calm());
}

#[test]
fn a_policy_that_cannot_be_cleared_is_tried_again() {
    let is_clear = |action: &Action| matches!(action, Action::ClearPolicy { .. });
    let mut bench = with_failing(is_clear, &Op::Remove(NIC.to_owned()), RETRY);
    assert_eq!(attempts(&bench, is_clear), (2, RETRY));
    bench.fails = |_| false;
    bench.advance(RETRY);
    assert!(bench.guard.policies.is_empty());
    assert_eq!(bench.engine.next_deadline(), None);
}

/// From a failure on they learn what the link does, whatever has brought it about.
#[test]
fn of_a_link_that_failed_all_is_seen() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.change(&Op::Carrier(NIC.to_owned(), false));
    bench.change(&Op::Down(NIC.to_owned()));
    assert!(!bench.keepalived().view.links[&NIC_INDEX].up, "that it is taken down too");
}

/// A bridge that lacks an address is no move: a carrier that is lost then is a failure like any other.
#[test]
fn a_port_whose_bridge_lost_an_address_is_bridged_still() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        bench.sequence(Sequence::Bind);
        bench.change(&Op::RemoveAddress(BRIDGE.to_owned(), address(NODE_IP6), 77));
        assert_eq!(bench.phase(), Phase::Bridged, "{datapath:?}");
        bench.change(&Op::Carrier(NIC.to_owned(), false));
        assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC), "{datapath:?}: it passes at once");
    }
}
