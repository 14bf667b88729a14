//! A firewall that keeps adverts from the daemon where its sockets follow the NIC's traffic.

use std::time::Duration;

use super::{
    super::{Action, Family, Health, Phase},
    bench::Bench,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC_INDEX, NODE_IP, address},
    wire::{Change, NODE, PEER, SECOND, advert, heard, ms},
};
use crate::wire::{Advert, Version};

/// The daemon waits, and hears its owner.
fn waiting(datapath: Datapath, owner: &Advert) -> Bench {
    let mut bench = Bench::new(datapath);
    bench.hear(3, owner);
    bench
}

/// Bound, with a firewall that lets adverts in on the NIC alone. Returns when the daemon heard one last.
fn bound(bench: &mut Bench, owner: &Advert) -> Duration {
    bench.feed(heard(false, owner.clone()));
    let last = bench.now;
    bench.firewall = true;
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps);
    assert_eq!(bench.phase(), Phase::Bridged);
    assert!(bench.now < last + owner.interval);
    last
}

/// The owner speaks until the daemon is told, or for so many intervals.
fn told_after(
    bench: &mut Bench,
    owner: &Advert,
    last: Duration,
    intervals: u32,
) -> Option<Duration> {
    let mut at = last;
    for _ in 0..intervals {
        at += owner.interval;
        while bench.now < at {
            bench.advance(at.saturating_sub(bench.now).min(ms(1)));
            if bench.released() {
                return Some(bench.now.saturating_sub(last));
            }
        }
        bench.feed(heard(false, owner.clone()));
    }
    None
}

fn warning(bench: &Bench) -> Option<String> {
    bench.status().warnings.into_iter().find(|text| text.contains("firewall"))
}

fn probes(bench: &Bench) -> Vec<(u32, Family)> {
    bench.probes.keys().copied().collect()
}

#[test]
fn a_waiting_daemon_is_told_before_it_takes_over() {
    for datapath in Datapath::ALL {
        for interval in [ms(100), ms(500), SECOND, 3 * SECOND] {
            let owner = advert(PEER, 200, interval);
            let mut bench = waiting(datapath, &owner);
            assert_eq!(probes(&bench), []);
            let last = if interval < SECOND {
                // A bind takes longer than that.
                bench.sequence(Sequence::Bind);
                bench.hear(1, &owner);
                bench.firewall = true;
                bench.now.saturating_sub(interval)
            } else {
                bound(&mut bench, &owner)
            };
            let bridge = bench.node.index(BRIDGE).unwrap();
            assert_eq!(probes(&bench), [(bridge, Family::Ipv4)], "{datapath:?}");
            let told = told_after(&mut bench, &owner, last, 4).expect("it is never told");
            assert!(
                told <= 3 * interval && told > 2 * interval,
                "{interval:?}: told after {told:?}"
            );
            let address = address(NODE_IP);
            let removal = Action::ReplayRemoval { ifindex: NIC_INDEX, address };
            let releases = bench.releases().count();
            assert!(bench.releases().any(|it| it == removal));
            let said = warning(&bench).expect("it is not said");
            assert!([PEER, BRIDGE, "112"].iter().all(|part| said.contains(part)), "{said}");

            // It stays so, whatever the watch hears, until the socket hears.
            bench.hear(20, &owner);
            assert_eq!(bench.releases().count(), releases);
            assert!(!bench.keepalived().view.has(NIC_INDEX, address.ip));
            assert!(warning(&bench).is_some());
            bench.firewall = false;
            bench.hear(2, &owner);
            assert!(bench.keepalived().view.has(NIC_INDEX, address.ip), "it waits again");
            assert_eq!(warning(&bench), None);
            bench.hear(20, &owner);
            assert_eq!(bench.releases().count(), releases);
            bench.sequence(Sequence::Unbind);
            assert_eq!(probes(&bench), [], "on the NIC nothing need be known");
            assert!(bench.is_calm());
        }
    }
}

/// Before it makes itself owner, and at once if it is one that has to yield.
#[test]
fn an_owner_that_does_not_hear_whom_it_has_to_yield_to_is_told() {
    let mut bench = Bench::owner();
    bench.sequence(Sequence::Bind);
    bench.firewall = true;
    for priority in [100, 200] {
        let other = advert(PEER, priority, SECOND);
        for _ in 0..5 {
            bench.speak(150, SECOND);
            bench.hear(1, &other);
        }
        assert_eq!(bench.released(), priority == 200);
    }
}

#[test]
fn nothing_is_told_where_all_is_heard_or_nothing_is_said() {
    let owner = advert(PEER, 200, SECOND);
    for (datapath, received_first) in
        Datapath::ALL.into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let mut bench = waiting(datapath, &owner);
        bench.received_first = received_first;
        for sequence in [Sequence::Bind, Sequence::Unbind, Sequence::Bind] {
            bench.hear(1, &owner);
            let steps = bench.steps(sequence);
            bench.run(&steps);
            bench.hear(10, &owner);
        }
        assert!(
            !bench.released() && warning(&bench).is_none(),
            "{datapath:?}, received first: {received_first}"
        );
        // The owner dies: that is the waiting daemon's business.
        bench.firewall = true;
        bench.advance(20 * SECOND);
        assert!(
            !bench.released() && warning(&bench).is_none(),
            "{datapath:?}, received first: {received_first}"
        );
    }
}

/// One advert is lost, and no more.
#[test]
fn a_lost_advert_is_no_deafness() {
    let owner = advert(PEER, 200, SECOND);
    let mut bench = waiting(Datapath::Bridge, &owner);
    bench.sequence(Sequence::Bind);
    bench.hear(1, &owner);
    for round in 0..20 {
        bench.firewall = round % 2 == 0;
        bench.hear(1, &owner);
    }
    assert!(!bench.released());
}

/// What is not for this node's daemon, or comes from where nobody may speak, proves nothing.
#[test]
fn what_the_daemon_would_not_hear_anyway_is_not_missed() {
    let owner = advert(PEER, 200, SECOND);
    let cases: [(&str, Change); 4] = [
        ("unicast to another node", |it| it.destination = "192.0.2.13".parse().unwrap()),
        ("from another subnet", |it| it.source = "10.0.0.1".parse().unwrap()),
        ("not heeded", |it| it.addresses = vec!["192.0.2.77".parse().unwrap()]),
        ("another version", |it| it.version = Version::V3),
    ];
    for (what, change) in cases {
        let mut bench = Bench::owner();
        bench.sequence(Sequence::Bind);
        let mut other = owner.clone();
        change(&mut other);
        bench.firewall = true;
        for _ in 0..6 {
            bench.speak(150, SECOND);
            bench.hear(1, &other);
        }
        assert!(!bench.released(), "{what}");
    }
    // Of two owners the daemon hears the one.
    let mut bench = waiting(Datapath::Bridge, &owner);
    bench.sequence(Sequence::Bind);
    for _ in 0..10 {
        bench.firewall = false;
        bench.feed(heard(false, advert("192.0.2.13", 150, SECOND)));
        bench.firewall = true;
        bench.hear(1, &owner);
    }
    assert!(!bench.released());
}

/// One that could not be opened tells nothing, and is tried again.
#[test]
fn without_a_socket_of_its_own_nothing_is_known() {
    let owner = advert(PEER, 200, SECOND);
    let mut bench = waiting(Datapath::Bridge, &owner);
    bench.fails = |action| matches!(action, Action::SetProbe { .. });
    bound(&mut bench, &owner);
    bench.hear(10, &owner);
    assert!(!bench.released());
    assert!(bench.status().warnings.iter().any(|text| text.contains("NET_RAW")));
    assert_eq!(bench.status().health, Health::Healthy, "it does without");
    bench.fails = |_| false;
    bench.advance(40 * SECOND);
    bench.hear(4, &owner);
    assert!(bench.released(), "it knows now");
}

/// A vipshield that begins while the NIC is a port finds it out too.
#[test]
fn it_is_found_out_in_the_middle() {
    let owner = advert(PEER, 200, SECOND);
    let mut bench = waiting(Datapath::Bridge, &owner);
    bench.sequence(Sequence::Bind);
    bench.kill_engine();
    bench.begin();
    bench.firewall = true;
    bench.feed(heard(true, advert(NODE, 100, SECOND)));
    bench.hear(5, &owner);
    assert!(warning(&bench).is_some());
}
