//! What is set: asked for once, tried again until it is so, unset when nobody desires it, and in a stated order.

use super::{
    super::{Action, settings::urgency},
    all,
    bench::{Bench, engine},
    kube_ovn::Sequence,
    node::{Datapath, NIC, NIC_INDEX, Op},
    ready_for,
};

/// What sets something, of all that was asked for from there on.
fn settings(bench: &Bench, from: usize) -> Vec<&Action> {
    let asked = bench.log[from..].iter().map(|(_, action)| action);
    asked.filter(|action| action.sets().is_some()).collect()
}

#[test]
fn what_is_so_is_not_asked_for_again() {
    for datapath in [Datapath::Bridge, Datapath::Ovs] {
        let mut bench = Bench::owner_of_vip(datapath);
        bench.sequence(Sequence::Bind);
        bench.advance(super::bench::DEADLINE * 3);
        let before = bench.log.len();
        bench.advance(super::bench::DEADLINE * 30);
        assert_eq!(settings(&bench, before), Vec::<&Action>::new(), "{datapath:?}");
    }
}

#[test]
fn what_failed_is_set_again_and_what_is_gone_is_unset() {
    let mut bench = Bench::owner_of_vip(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::SetPolicy { .. } | Action::Watch { .. });
    bench.sequence(Sequence::Bind);
    bench.fails = |_| false;
    bench.advance(super::bench::DEADLINE * 40);
    assert!(bench.watched.contains(&NIC_INDEX), "tried again");
    bench.change(&Op::Remove(NIC.to_owned()));
    bench.advance(super::bench::DEADLINE);
    assert!(bench.shunts.is_empty() && !bench.watched.contains(&NIC_INDEX), "the NIC is gone");
}

#[test]
fn in_one_moment_the_urgent_comes_first() {
    let mut several = 0;
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.sequence(sequence);
        let mut again = engine();
        for (now, event) in bench.told {
            again.handle(event.clone(), now);
            let asked: Vec<Action> = std::iter::from_fn(|| again.poll_action()).collect();
            assert!(asked.is_sorted_by_key(urgency), "{sequence:?}: {event:?}: {asked:?}");
            several += usize::from(asked.len() > 3);
        }
    }
    assert!(several > 10, "{several}");
}

#[test]
fn a_vip_that_must_go_is_more_urgent_than_anything() {
    let remove = Action::RemoveVip { ifindex: 1, address: super::node::address(super::node::VIP) };
    for other in [
        Action::ClearPolicy { ifindex: 1, name: String::new() },
        Action::Shunt { ifindex: 1, shunt: None },
        Action::Rescan,
    ] {
        assert!(urgency(&remove) < urgency(&other), "{other:?}");
    }
}
