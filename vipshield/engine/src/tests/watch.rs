//! What is watched, and for whom neighbours are answered, while it is of use and no longer.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    super::{Action, Event},
    all,
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{Datapath, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
    ready_for,
};

fn vip() -> IpAddr {
    address(VIP).ip
}

/// The NIC, and what bears its traffic or is about to: it has an address of the NIC's.
fn both(bench: &Bench) -> BTreeSet<u32> {
    let bearer = bench.nic().bearer.map(|bearer| bearer.ifindex);
    let bridges = bench.node.addresses.iter().filter(|(_, addresses)| {
        addresses.iter().any(|address| !address.is_link_local() && !address.ip.is_loopback())
    });
    bearer.into_iter().chain([NIC_INDEX]).chain(bridges.map(|(ifindex, _)| *ifindex)).collect()
}

#[test]
fn nic_and_bearer_are_watched_until_the_end() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        assert_eq!(bench.watched, both(&bench), "{sequence:?} on {datapath:?}");
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            bench.change(&step.op);
            assert_eq!(bench.watched, both(&bench), "{sequence:?} on {datapath:?} at {step:?}");
        }
        bench.advance(DEADLINE);
        assert_eq!(bench.watched.len(), 1 + usize::from(sequence.takes()), "{sequence:?}");
        bench.feed(Event::Stop);
        assert!(bench.watched.is_empty(), "{sequence:?} on {datapath:?}");
        assert!(bench.answers.is_empty(), "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn a_nic_that_is_gone_is_watched_no_longer_and_answers_nobody() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.expect_transition();
    assert!(bench.answers.contains_key(&NIC_INDEX));
    bench.change(&Op::Remove(NIC.to_owned()));
    assert!(bench.watched.is_empty());
    assert!(bench.answers.is_empty());
}

/// A kernel that does not let it in costs the watch, and no more.
#[test]
fn without_the_watch_all_else_goes_on() {
    for (sequence, datapath) in all() {
        let mut bench = Bench::unshielded(datapath);
        bench.fails = |action| matches!(action, Action::Watch { .. } | Action::Answer { .. });
        bench.begin();
        if let Some(before) = sequence.before() {
            bench.sequence(before);
        }
        bench.sequence(sequence);
        assert!(!bench.released(), "{sequence:?} on {datapath:?}");
        // Some time later it does.
        bench.fails = |_| false;
        bench.advance(Duration::from_secs(31));
        assert_eq!(bench.watched, both(&bench), "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn what_a_daemon_means_to_have_is_watched() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
    bench.begin();
    assert_eq!(bench.watched_addresses, BTreeSet::new());
    bench.daemon_asks(address(VIP), true);
    assert_eq!(bench.watched_addresses, BTreeSet::from([vip()]));
    bench.sequence(Sequence::Bind);
    assert_eq!(bench.watched_addresses, BTreeSet::from([vip()]));
    bench.fails = |action| matches!(action, Action::WatchAddresses { .. });
    bench.daemon_asks(address(VIP), false);
    assert_eq!(bench.watched_addresses, BTreeSet::from([vip()]));
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert_eq!(bench.watched_addresses, BTreeSet::new());
}

#[test]
fn neighbours_are_answered_for_exactly_what_is_carried() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        let mut answered = false;
        for step in &bench.steps(sequence) {
            bench.advance(step.takes);
            bench.change(&step.op);
            let port = bench.node.links[&NIC_INDEX].master.is_some();
            let plan = bench.carried.get(&NIC_INDEX).filter(|_| !port);
            let answers = bench.answers.get(&NIC_INDEX);
            assert_eq!(
                answers.map(|answers| &answers.addresses),
                plan.map(|plan| &plan.addresses),
                "{sequence:?} on {datapath:?} at {step:?}"
            );
            answered |= answers.is_some();
            if let Some(answers) = answers {
                assert_eq!(answers.mac.as_slice(), bench.node.links[&NIC_INDEX].mac);
            }
        }
        assert!(answered, "{sequence:?} on {datapath:?}");
        bench.advance(60 * DEADLINE);
        assert!(bench.answers.is_empty(), "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn a_vip_that_is_given_up_is_not_answered_for_at_once() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
    bench.begin();
    bench.daemon_asks(address(VIP), true);
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps[..8]);
    let answered = |bench: &Bench, ip: IpAddr| {
        bench.answers.get(&NIC_INDEX).is_some_and(|answers| answers.addresses.contains(&ip))
    };
    assert!(answered(&bench, vip()));
    bench.daemon_asks(address(VIP), false);
    assert!(!answered(&bench, vip()));
    assert!(answered(&bench, address(NODE_IP).ip));
}

#[test]
fn answers_that_fail_are_tried_again() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Answer { .. });
    bench.expect_transition();
    assert!(bench.answers.is_empty());
    bench.fails = |_| false;
    bench.advance(Duration::from_secs(1));
    assert!(bench.answers.contains_key(&NIC_INDEX));
    // And so are those that cannot be ended.
    bench.fails = |action| matches!(action, Action::Answer { .. });
    bench.advance(60 * DEADLINE);
    assert!(bench.answers.contains_key(&NIC_INDEX));
    bench.fails = |_| false;
    bench.advance(DEADLINE);
    assert!(bench.answers.is_empty());
}
