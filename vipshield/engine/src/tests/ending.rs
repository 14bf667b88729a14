//! vipshield is told to end, and keeps what the next one needs.

use std::{iter, time::Duration};

use super::{
    super::{Action, Event, Filter, Phase},
    all,
    bench::{Bench, DEADLINE, keeping},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, Op, VIP, address},
    ready_for,
    wire::SECOND,
};

/// As long as a stop waits.
const GRACE: Duration = Duration::from_secs(10);

/// Everything is ready for this sequence, and the engine keeps things at its end.
fn ready(sequence: Sequence, datapath: Datapath) -> Bench {
    let mut bench = Bench::unshielded(datapath);
    bench.begin_with(keeping());
    if let Some(before) = sequence.before() {
        bench.sequence(before);
    }
    bench
}

/// How it ended, if it has: whether things were kept, and how much could not be done.
fn ended(bench: &Bench, from: usize) -> Option<(bool, u32)> {
    let ends: Vec<(bool, u32)> = bench
        .asked(from)
        .filter_map(|(_, action)| match action {
            Action::Finish { kept, undone } => Some((*kept, *undone)),
            _ => None,
        })
        .collect();
    assert!(ends.len() <= 1, "{ends:?}");
    ends.first().copied()
}

/// Gone, with the guard left on the sockets.
fn is_gone(bench: &mut Bench) {
    bench.kill_engine();
}

/// A daemon is not told a thing, and its sockets stay where its traffic is.
fn untouched(bench: &Bench, from: usize, name: &str) {
    for (_, action) in bench.asked(from) {
        let fine = matches!(
            action,
            Action::Carry { .. }
                | Action::StandIn { .. }
                | Action::Finish { kept: true, undone: 0 }
        );
        assert!(fine, "{name}: {action:?}");
    }
}

#[test]
fn while_a_nic_is_a_port_a_stop_leaves_all_as_it_is() {
    for sequence in [Sequence::Unbind, Sequence::Unexchange] {
        for datapath in Datapath::ALL {
            let name = format!("before {sequence:?} on {datapath:?}");
            let mut bench = ready(sequence, datapath);
            let bearer = bench.nic().bearer.unwrap().ifindex;
            let from = bench.log.len();
            bench.feed(Event::Stop);
            untouched(&bench, from, &name);
            assert_eq!(ended(&bench, from), Some((true, 0)), "{name}");
            assert_eq!(bench.engine.next_deadline(), None, "{name}");
            assert_eq!(bench.keepalived().bound, [bearer; 2], "{name}");
            assert!(bench.is_calm(), "{name}");
            assert!(bench.carried.is_empty() && bench.stood_in.is_empty(), "{name}");
            // An hour later the next one goes on.
            is_gone(&mut bench);
            bench.advance(Duration::from_hours(1));
            bench.begin_with(keeping());
            bench.sequence(sequence);
            assert!(bench.is_calm(), "{name}");
            assert_eq!(bench.phase(), Phase::Free, "{name}");
            assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{name}");
        }
    }
}

/// The next one has to know it, should the daemon be gone by then.
#[test]
fn a_vip_that_stays_on_a_bridge_is_marked() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
    bench.begin_with(keeping());
    bench.daemon_asks(address(VIP), true);
    bench.sequence(Sequence::Bind);
    let bridge = bench.node.index(BRIDGE).unwrap();
    let from = bench.log.len();
    bench.feed(Event::Stop);
    let marks = Action::MoveVip { address: address(VIP), from: bridge, to: bridge };
    assert!(bench.asked(from).any(|(_, action)| *action == marks));
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);
    assert!(bench.is_calm());
}

/// `static_ipaddress`: the next vipshield would take it for a VIP whose daemon is gone.
#[test]
fn what_is_no_vip_is_not_marked() {
    let fixed = address("192.0.2.51/32");
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.begin_with(keeping());
    bench.daemon_asks(fixed, true);
    bench.advance(4 * SECOND);
    bench.speak(150, SECOND);
    bench.sequence(Sequence::Bind);
    assert_eq!(bench.places(fixed), [BRIDGE]);
    let from = bench.log.len();
    bench.feed(Event::Stop);
    let marked = |address| {
        let is_it =
            |it: &Action| matches!(it, Action::MoveVip { address: its, .. } if *its == address);
        bench.asked(from).any(|(_, action)| is_it(action))
    };
    assert!(!marked(fixed) && marked(address(VIP)));
}

#[test]
fn where_a_nic_is_at_home_nothing_is_kept() {
    let mut bench = ready(Sequence::Bind, Datapath::Bridge);
    let from = bench.log.len();
    bench.feed(Event::Stop);
    assert_eq!(ended(&bench, from), Some((false, 0)));
    assert_eq!(bench.keepalived().filter, Filter::None);
    assert!(bench.guard.policies.is_empty());
}

/// Whenever it is told to end, a sequence that has begun goes to its end first.
#[test]
fn a_stop_waits_for_what_is_under_way() {
    for (sequence, datapath) in all() {
        let steps = ready_for(sequence, datapath).steps(sequence).len();
        for done in 0..=steps {
            let name = format!("{sequence:?} on {datapath:?} at {done}");
            let mut whole = ready_for(sequence, datapath);
            whole.sequence(sequence);
            let mut bench = ready(sequence, datapath);
            let steps = bench.steps(sequence);
            bench.run(&steps[..done]);
            let from = bench.log.len();
            bench.feed(Event::Stop);
            if ended(&bench, from).is_some() {
                // Nothing had begun, or all was over.
                is_gone(&mut bench);
                bench.begin_with(keeping());
                bench.run(&steps[done..]);
                bench.advance(5 * DEADLINE);
                assert_eq!(bench.outcome(), whole.outcome(), "{name}");
                assert!(bench.is_calm(), "{name}");
                continue;
            }
            assert!(done > 0, "{name}: nothing is under way");
            bench.run(&steps[done..]);
            bench.advance(GRACE);
            let end = ended(&bench, from).unwrap_or_else(|| panic!("{name}: it does not end"));
            assert_eq!(end, (sequence.takes(), 0), "{name}");
            assert!(bench.is_calm(), "{name}");
            is_gone(&mut bench);
            bench.begin_with(keeping());
            bench.advance(5 * DEADLINE);
            assert_eq!(bench.outcome(), whole.outcome(), "{name}");
            assert!(bench.is_calm(), "{name}");
        }
    }
}

/// Who waits is told again that it must end, or has waited for long enough.
#[test]
fn a_stop_does_not_wait_for_ever() {
    for again in [false, true] {
        let mut bench = ready(Sequence::Exchange, Datapath::Bridge);
        // The NIC is on its way, and its bridge has everything but a port.
        let steps = bench.steps(Sequence::Bind);
        let joins = steps.iter().position(|step| matches!(step.op, Op::AddPort(..))).unwrap();
        bench.run(&steps[..joins]);
        let from = bench.log.len();
        bench.feed(Event::Stop);
        bench.advance(GRACE / 2);
        assert_eq!(ended(&bench, from), None);
        if again {
            bench.feed(Event::Stop);
        } else {
            bench.advance(GRACE / 2);
        }
        assert_eq!(ended(&bench, from), Some((true, 0)));
        assert!(bench.is_calm(), "its addresses are on a bridge, and not gone");
        assert!(bench.carried.is_empty());
    }
}

/// What is not true, and would have been told by the deadline, is told at the end.
#[test]
fn what_is_pending_at_the_end_is_told() {
    let mut bench = ready(Sequence::Exchange, Datapath::Bridge);
    bench.change(&Op::Down(NIC.to_owned()));
    assert!(bench.is_calm());
    bench.feed(Event::Stop);
    bench.feed(Event::Stop);
    assert!(!bench.keepalived().view.trusts(NIC_INDEX, NIC), "it is told of the link");

    let mut bench = ready(Sequence::Unbind, Datapath::Bridge);
    let own = bench.node.addresses[&bench.node.index(BRIDGE).unwrap()].iter().next().copied();
    let own = own.unwrap();
    bench.change(&Op::RemoveAddress(BRIDGE.to_owned(), own, 0));
    assert!(bench.is_calm());
    bench.feed(Event::Stop);
    bench.feed(Event::Stop);
    assert!(!bench.keepalived().view.has(NIC_INDEX, own.ip), "it is told of the address");
}

/// A bridge that has just been made takes the NIC next.
#[test]
fn a_new_bridge_is_waited_for_too() {
    let mut bench = ready(Sequence::Bind, Datapath::Bridge);
    let steps = bench.steps(Sequence::Bind);
    bench.run(&steps[..1]);
    let from = bench.log.len();
    bench.feed(Event::Stop);
    assert_eq!(ended(&bench, from), None);
    bench.run(&steps[1..]);
    bench.advance(GRACE);
    assert_eq!(ended(&bench, from), Some((true, 0)));
    assert!(bench.is_calm());
}

#[test]
fn what_could_not_be_done_is_counted() {
    let mut bench = ready(Sequence::Bind, Datapath::Bridge);
    let steps = bench.steps(Sequence::Bind);
    let leaves = steps.iter().position(|it| matches!(it.op, Op::RemoveAddress(..))).unwrap();
    bench.run(&steps[..=leaves]);
    assert!(!bench.carried.is_empty());
    bench.fails = |action| matches!(action, Action::Carry { .. });
    let from = bench.log.len();
    bench.feed(Event::Stop);
    bench.advance(GRACE);
    // What has left was told by then, and the NIC is at home with the rest.
    assert_eq!(ended(&bench, from), Some((false, 1)));
}

/// A program that was being put on a bridge when the end came, and could not be.
#[test]
fn what_was_on_its_way_when_the_end_came_is_missed_by_nobody() {
    let mut bench = ready(Sequence::Bind, Datapath::Bridge);
    let now = bench.now;
    bench.engine.handle_all(vec![Event::Stop], now);
    let mut last: Vec<Action> = iter::from_fn(|| bench.engine.poll_action()).collect();
    let (action, error) = (Action::Watch { ifindex: 77, wanted: true }, "gone".to_owned());
    bench.engine.handle_all(vec![Event::Failed { action, error }], now);
    last.retain(|action| !matches!(action, Action::Tell { .. }));
    let done: Vec<Event> = last.into_iter().map(|action| Event::Succeeded { action }).collect();
    bench.engine.handle_all(done, now);
    let mut rest = iter::from_fn(|| bench.engine.poll_action());
    let finish = rest.find(|action| matches!(action, Action::Finish { .. }));
    assert_eq!(finish, Some(Action::Finish { kept: false, undone: 0 }));
}
