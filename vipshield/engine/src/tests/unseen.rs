//! Daemons that cannot be looked at for a while.

use super::{
    super::{Action, Event, Weight},
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, VIP, address},
};

/// A look failed; `gone` are known to be.
fn blind(bench: &mut Bench, errno: &str, gone: &[u32]) {
    bench.feed(Event::DaemonsUnknown { error: errno.to_owned(), gone: gone.to_vec() });
}

/// How often the operator was told this, at this weight.
fn told(bench: &Bench, weight: Weight, words: &str) -> usize {
    let told = bench.log.iter().filter(|(_, action)| {
        matches!(action, Action::Tell { notice }
            if notice.weight == weight && notice.text.contains(words))
    });
    told.count()
}

#[test]
fn who_is_not_seen_is_not_dead() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::owner_of_vip(datapath);
        for (sequence, bearer) in [(None, NIC), (Some(Sequence::Bind), BRIDGE)] {
            if let Some(sequence) = sequence {
                bench.sequence(sequence);
            }
            let before = bench.outcome();
            let from = bench.log.len();
            for _ in 0..5 {
                blind(&mut bench, "EMFILE", &[]);
                bench.advance(DEADLINE);
            }
            assert_eq!(bench.outcome(), before);
            assert_eq!(bench.places(address(VIP)), [bearer]);
            assert_eq!(bench.asked(from).count(), 0, "nothing is done");
            bench.scan();
            assert_eq!((bench.outcome(), bench.asked(from).count()), (before, 0));
        }
        assert!(bench.is_calm() && !bench.released());
    }
}

/// What is known stays in force: a sequence is masked as ever.
#[test]
fn a_sequence_is_masked_meanwhile() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::owner_of_vip(datapath);
        blind(&mut bench, "EMFILE", &[]);
        bench.sequence(Sequence::Bind);
        assert_eq!(bench.places(address(VIP)), [BRIDGE]);
        assert!(bench.is_calm() && !bench.released());
        let bearer = bench.nic().bearer.unwrap().ifindex;
        assert_eq!(bench.keepalived().bound, [bearer; 2]);
        bench.sequence(Sequence::Unbind);
        assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2]);
    }
}

#[test]
fn it_is_said_once_and_so_is_its_end() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    assert!(bench.is_healthy());
    for errno in ["EMFILE in one place", "EMFILE in another", "EMFILE in a third"] {
        blind(&mut bench, errno, &[]);
        assert!(!bench.is_healthy());
        let [warning] = &bench.status().warnings[..] else { panic!("one warning") };
        assert!(warning.contains(errno) && warning.contains("tried again"), "{warning}");
    }
    assert_eq!(told(&bench, Weight::Warning, "EMFILE"), 1);
    bench.scan();
    bench.scan();
    assert!(bench.is_healthy() && bench.status().warnings.is_empty());
    assert_eq!(told(&bench, Weight::Info, "after 3 looks that failed"), 1);
    assert_eq!(told(&bench, Weight::Info, "looked at again"), 1);
    blind(&mut bench, "EMFILE", &[]);
    assert_eq!(told(&bench, Weight::Warning, "EMFILE"), 2, "another time");
}

/// Its VIP leaves the node all the same, though it is not known what else changed.
#[test]
fn one_that_is_gone_for_certain_takes_its_vip_along() {
    for datapath in Datapath::ALL {
        for sequence in [None, Some(Sequence::Bind), Some(Sequence::Exchange)] {
            let mut bench = Bench::owner_of_vip(datapath);
            if let Some(sequence) = sequence {
                bench.sequence(sequence);
            }
            blind(&mut bench, "EMFILE", &[]);
            let pid = bench.keepalived().pid;
            bench.daemon = None;
            blind(&mut bench, "EMFILE", &[pid + 1]);
            assert_eq!(bench.places(address(VIP)).len(), 1, "another process");
            blind(&mut bench, "EMFILE", &[pid]);
            assert!(bench.places(address(VIP)).is_empty(), "{sequence:?} on {datapath:?}");
            assert!(bench.status().daemons.is_empty() && !bench.is_healthy());
            blind(&mut bench, "EMFILE", &[pid]);
            assert_eq!(told(&bench, Weight::Info, &format!("{pid} is gone")), 1);
            // The next one is guarded as soon as it can be looked at.
            bench.restart_daemon(pid + 1);
            assert!(bench.is_healthy());
        }
    }
}

/// That one of two died says nothing of the other's sockets, which were not looked at.
#[test]
fn the_other_daemons_stay_as_they_were_found() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.sequence(Sequence::Exchange);
    let mut daemons = bench.found();
    let mut checkers = daemons[0].clone();
    checkers.pid = 701;
    checkers.vrrp.clear();
    checkers.commands.clear();
    checkers.monitors[0].id.pid = 701;
    daemons.push(checkers);
    bench.scanned(daemons.clone());
    // For a moment it has one VRRP socket of a pair: two looks in a row would make it mute.
    daemons[0].vrrp.truncate(1);
    bench.scanned(daemons);
    let told = bench.releases().count();
    blind(&mut bench, "EMFILE", &[701]);
    assert_eq!(bench.status().daemons.len(), 1);
    bench.advance(5 * DEADLINE);
    assert_eq!(bench.releases().count(), told, "nothing was seen twice");
    assert_eq!(bench.places(address(VIP)).len(), 1);
}
