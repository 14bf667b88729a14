//! vipshield and the daemon begin and end at any step.

use super::{
    super::{Action, Event, Filter, Health, Phase},
    all,
    bench::{Bench, DEADLINE, engine_for},
    kube_ovn::{Sequence, Step},
    node::{Datapath, NIC, NIC_INDEX, NODE_IP, Op, address},
    ready_for,
};

/// It has all its sockets where the NIC's traffic is, and takes the interface that it uses for one
/// that works and has the node's address.
fn is_well(bench: &Bench, name: &str) {
    let keepalived = bench.keepalived();
    assert!(!keepalived.mute && !keepalived.closed, "{name}: it lacks sockets");
    let bearer = bench.nic().bearer.unwrap().ifindex;
    assert_eq!(keepalived.bound, [bearer; 2], "{name}");
    let own = keepalived.interface().unwrap_or_else(|| panic!("{name}: it has no interface"));
    assert!(keepalived.view.trusts(own, NIC), "{name}: it takes {own} for failed");
    assert!(keepalived.view.has(own, address(NODE_IP).ip), "{name}: {own} has no address");
}

/// Every sequence on every datapath with every number of steps done.
fn every_step() -> impl Iterator<Item = (Sequence, Datapath, usize)> {
    all().flat_map(|(sequence, datapath)| {
        let steps = ready_for(sequence, datapath).steps(sequence).len();
        (0..=steps).map(move |done| (sequence, datapath, done))
    })
}

/// A sequence that goes on after something happened at one of its steps.
fn interrupted(
    sequence: Sequence,
    datapath: Datapath,
    done: usize,
    what: impl FnOnce(&mut Bench),
) -> Bench {
    let mut bench = ready_for(sequence, datapath);
    let steps = bench.steps(sequence);
    bench.run(&steps[..done]);
    what(&mut bench);
    bench.run(&steps[done..]);
    bench.advance(5 * DEADLINE);
    bench
}

fn end(sequence: Sequence) -> Phase {
    if sequence.takes() { Phase::Bridged } else { Phase::Free }
}

#[test]
fn begun_at_any_step_it_ends_as_if_it_had_seen_all() {
    for (sequence, datapath, done) in every_step() {
        let mut whole = ready_for(sequence, datapath);
        whole.sequence(sequence);

        // Nobody has shielded this node before.
        let mut late = Bench::unshielded(datapath);
        late.heard = false;
        if let Some(before) = sequence.before() {
            late.sequence(before);
        }
        let steps = late.steps(sequence);
        late.run(&steps[..done]);
        late.begin();
        late.run(&steps[done..]);
        late.advance(5 * DEADLINE);
        assert_eq!(late.outcome(), whole.outcome(), "{sequence:?} on {datapath:?} at {done}");
    }
}

#[test]
fn begun_anew_at_any_step_after_a_crash_it_ends_the_same() {
    // With the NIC named, and without: what its daemons call it is known from before.
    for nics in [&[NIC][..], &[]] {
        for (sequence, datapath, done) in every_step() {
            let mut whole = ready_for(sequence, datapath);
            whole.sequence(sequence);
            let anew = interrupted(sequence, datapath, done, |bench| {
                bench.kill_engine();
                bench.begin_with(engine_for(nics));
            });
            let name = format!("{sequence:?} on {datapath:?} at {done}, {nics:?}");
            assert_eq!(anew.outcome(), whole.outcome(), "{name}");
            assert!(anew.is_calm(), "{name}");
        }
    }
}

/// Nothing of what keeps the node reachable goes while the next one looks at what there is.
#[test]
fn what_is_carried_goes_on_when_begun_anew_after_a_crash() {
    let mut carried = 0;
    for (sequence, datapath, done) in every_step() {
        let name = format!("{sequence:?} on {datapath:?} at {done}");
        interrupted(sequence, datapath, done, |bench| {
            let mut before = bench.carried.clone();
            // What is nowhere may have been given up meanwhile.
            for plan in before.values_mut() {
                plan.addresses.retain(|ip| bench.node.has_somewhere(*ip));
            }
            before.retain(|_, plan| !plan.is_empty());
            let from = bench.log.len();
            bench.kill_engine();
            bench.begin();
            if bench.phase().is_transition() {
                assert_eq!(bench.carried, before, "{name}");
                carried += before.len();
            }
            let taken_back =
                |action: &Action| matches!(action, Action::Carry { new, .. } if new.is_empty());
            let back = bench.asked(from).any(|(_, action)| taken_back(action));
            assert!(!back || !bench.phase().is_transition(), "{name}");
        });
    }
    assert!(carried > 20, "{carried}");
}

/// It died in the moment in which the bridge let go of the NIC: the VRRP sockets are still there, one of
/// them or both. Nothing is heard there any more, and nobody knows when the sequence goes on.
#[test]
fn killed_before_the_sockets_were_moved_it_moves_them() {
    for sequence in [Sequence::Unbind, Sequence::Unexchange] {
        for datapath in Datapath::ALL {
            for moved in 0..2 {
                let mut bench = ready_for(sequence, datapath);
                let steps = bench.steps(sequence);
                let is_cut = |step: &Step| matches!(step.op, Op::RemovePort(_));
                let let_go = steps.iter().position(is_cut).unwrap();
                bench.run(&steps[..let_go]);
                bench.heard = false;
                bench.run(&steps[let_go..=let_go]);
                for bound in bench.daemon.iter_mut().flat_map(|it| &mut it.bound).take(moved) {
                    *bound = NIC_INDEX;
                }
                bench.kill_engine();
                bench.begin();
                let name = format!("{sequence:?} on {datapath:?}, {moved} moved");
                assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{name}");
                bench.run(&steps[let_go + 1..]);
                bench.advance(5 * DEADLINE);
                assert!(bench.is_calm(), "{name}");
                assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{name}");
                assert_eq!(bench.phase(), Phase::Free, "{name}");
            }
        }
    }
}

/// A name that no interface bears may be a slip: another daemon's interface is not taken for it.
#[test]
fn a_name_that_is_missing_is_no_other_interface() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.change(&Op::Rename(NIC.to_owned(), "eth0".to_owned()));
    bench.begin();
    bench.advance(5 * DEADLINE);
    assert!(bench.status().nics.is_empty());
    assert_eq!(bench.status().missing, [NIC]);
}

#[test]
fn begun_anew_long_after_a_crash_it_ends_the_same() {
    // What gave the NIC back while nobody was there left no sign of where the sockets belong.
    for (sequence, datapath, done) in every_step().filter(|(s, _, done)| s.takes() || *done == 0) {
        let mut whole = ready_for(sequence, datapath);
        whole.sequence(sequence);

        let mut anew = ready_for(sequence, datapath);
        let steps = anew.steps(sequence);
        anew.kill_engine();
        anew.run(&steps[..done]);
        anew.begin();
        anew.run(&steps[done..]);
        anew.advance(5 * DEADLINE);
        assert_eq!(anew.outcome(), whole.outcome(), "{sequence:?} on {datapath:?} at {done}");
    }
}

#[test]
fn stopped_at_any_step_it_leaves_the_truth_and_no_trace() {
    for (sequence, datapath, done) in every_step() {
        let mut stopped = 0;
        let mut bench = interrupted(sequence, datapath, done, |bench| {
            stopped = bench.log.len();
            bench.feed(Event::Stop);
            let name = format!("{sequence:?} on {datapath:?} at {done}");
            assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{name}");
            assert_eq!(bench.keepalived().filter, Filter::None, "{name}");
            assert!(bench.guard.policies.is_empty(), "{name}");
            let link = &bench.node.links[&NIC_INDEX];
            let view = &bench.keepalived().view;
            let fine = link.name == NIC && link.up && link.running;
            assert_eq!(view.trusts(NIC_INDEX, NIC), fine, "{name}");
            for ip in view.addresses.get(&NIC_INDEX).into_iter().flatten() {
                let there = bench.node.addresses[&NIC_INDEX].iter().any(|a| a.ip == *ip);
                assert!(there, "{name}: it believes in {ip}");
            }
            let finishes: Vec<usize> = bench
                .asked(stopped)
                .enumerate()
                .filter(|(_, (_, action))| matches!(action, Action::Finish { .. }))
                .map(|(i, _)| i)
                .collect();
            assert_eq!(finishes, [bench.asked(stopped).count() - 1], "{name}");
            stopped = bench.log.len();
        });
        bench.feed(Event::Stop);
        bench.feed(Event::Tick);
        assert_eq!(bench.log.len(), stopped, "nothing is done after the end");
    }
}

/// A daemon that found the bridge by the NIC's name has its sockets there, and hears nothing elsewhere.
#[test]
fn stopped_it_leaves_sockets_where_they_were_made() {
    for datapath in Datapath::ALL {
        // One of an instance with `unicast_peer` is a member of no group.
        for is_member in [true, false] {
            let mut bench = ready_for(Sequence::Unexchange, datapath);
            bench.restart_daemon(701);
            let bridge = bench.nic().bearer.unwrap().ifindex;
            let mut found = bench.found();
            for socket in &mut found[0].vrrp {
                socket.home = Some(bridge).filter(|_| is_member);
            }
            bench.scanned(found);
            bench.feed(Event::Stop);
            assert_eq!(bench.keepalived().bound, [bridge; 2], "{datapath:?}, {is_member}");
        }
    }
}

/// Of one that an earlier vipshield has moved nothing tells where it was made.
#[test]
fn stopped_it_gives_back_what_another_has_moved() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unbind, datapath);
        bench.kill_engine();
        bench.begin();
        bench.scan();
        bench.feed(Event::Stop);
        assert_eq!(bench.keepalived().bound, [NIC_INDEX; 2], "{datapath:?}");
    }
}

#[test]
fn a_stop_ends_even_if_nothing_succeeds() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.fails = |_| true;
    let from = bench.log.len();
    bench.feed(Event::Stop);
    let asked: Vec<&Action> = bench.asked(from).map(|(_, action)| action).collect();
    let finishes = asked.iter().filter(|action| matches!(action, Action::Finish { .. })).count();
    assert_eq!(finishes, 1);
    let undone = u32::try_from(asked.len() - 1).unwrap();
    assert_eq!(asked.last(), Some(&&Action::Finish { kept: false, undone }));
}

#[test]
fn a_daemon_restarted_at_any_step_is_guarded_and_heard() {
    for (sequence, datapath, done) in every_step() {
        // It is configured for the name ens192: while names are exchanged, that is the bridge.
        let bench = interrupted(sequence, datapath, done, |bench| bench.restart_daemon(701));
        let name = format!("{sequence:?} on {datapath:?} at {done}");
        assert_eq!(bench.phase(), end(sequence), "{name}");
        assert_eq!(bench.keepalived().filter, Filter::Guard, "{name}");
        let bearer = bench.nic().bearer.unwrap().ifindex;
        assert_eq!(bench.keepalived().bound, [bearer; 2], "{name}");
    }
}

#[test]
fn a_daemon_restarted_at_any_step_is_well_in_the_end() {
    for (sequence, datapath, done) in every_step() {
        let mut bench = ready_for(sequence, datapath);
        let steps = bench.steps(sequence);
        bench.run(&steps[..done]);
        // keepalived does not start where no interface has the name.
        if bench.node.index(NIC).is_none() {
            continue;
        }
        bench.restart_daemon(701);
        bench.run(&steps[done..]);
        bench.advance(5 * DEADLINE);
        is_well(&bench, &format!("{sequence:?} on {datapath:?} at {done}"));
    }
}

/// What it opens anew while its interface has another name it is refused, and it says nothing from
/// then on, or hears nothing.
#[test]
fn a_daemon_reloaded_at_any_step_is_well_in_the_end() {
    for (sequence, datapath, done) in every_step() {
        let bench = interrupted(sequence, datapath, done, Bench::reload_daemon);
        is_well(&bench, &format!("{sequence:?} on {datapath:?} at {done}"));
    }
}

/// Where the kernel lets vipshield see to it that they are not refused, it is told nothing.
#[test]
fn a_daemon_reloaded_at_any_step_notices_nothing() {
    for (sequence, datapath, done) in every_step() {
        let name = format!("{sequence:?} on {datapath:?} at {done}");
        let mut bench = interrupted(sequence, datapath, done, |bench| {
            bench.corrects = true;
            bench.reload_daemon();
        });
        is_well(&bench, &name);
        bench.reload_daemon();
        bench.advance(5 * DEADLINE);
        is_well(&bench, &name);
        assert_eq!(bench.keepalived().interface(), Some(NIC_INDEX), "{name}");
        assert!(!bench.released() && bench.is_calm(), "{name}");
    }
}

/// What failed is tried again, and taken back in the end.
#[test]
fn sockets_are_opened_otherwise_exactly_while_names_are_exchanged() {
    let mut bench = Bench::new(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    assert!(bench.openings.is_empty());
    bench.sequence(Sequence::Unbind);
    bench.fails = |action| matches!(action, Action::SetOpening { .. });
    bench.sequence(Sequence::Exchange);
    assert!(bench.openings.is_empty());
    bench.fails = |_| false;
    bench.advance(3 * DEADLINE);
    let bridge = bench.node.index(NIC).unwrap();
    let opening = &bench.openings[&NIC_INDEX];
    assert_eq!(opening.bearers, [NIC_INDEX, bridge].into());
    assert_eq!((opening.name.as_str(), opening.bound_to), (NIC, Some(bridge)));
    assert_eq!(opening.daemons, [bench.keepalived().pid].into());
    bench.fails = |action| matches!(action, Action::SetOpening { .. });
    bench.sequence(Sequence::Unexchange);
    bench.fails = |_| false;
    bench.advance(3 * DEADLINE);
    assert!(bench.openings.is_empty());
}

/// The bridge that it uses fails and recovers: the kernel's own word is withheld.
#[test]
fn a_daemon_that_uses_the_bridge_knows_whether_it_works() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Unexchange, datapath);
        bench.restart_daemon(701);
        let bridge = bench.nic().bearer.unwrap().ifindex;
        for plugged in [false, true] {
            bench.change(&Op::Carrier(NIC.to_owned(), plugged));
            bench.change(&Op::Carrier(super::node::BRIDGE.to_owned(), plugged));
            bench.advance(5 * DEADLINE);
            let works = bench.node.links[&bridge].running;
            assert_eq!(
                bench.keepalived().view.trusts(bridge, NIC),
                works,
                "{datapath:?} {plugged}"
            );
        }
    }
}

#[test]
fn a_daemon_that_starts_or_dies_at_any_step_disturbs_nothing() {
    for (sequence, datapath, done) in every_step() {
        let name = format!("{sequence:?} on {datapath:?} at {done}");
        let bench = interrupted(sequence, datapath, done, |bench| {
            bench.daemon = None;
            bench.scan();
        });
        assert_eq!(bench.phase(), end(sequence), "{name}");
        assert!(bench.status().daemons.is_empty(), "{name}");
        assert!(!bench.is_healthy(), "{name}");

        let mut late = Bench::unshielded(datapath);
        late.daemon = None;
        late.begin();
        if let Some(before) = sequence.before() {
            late.sequence(before);
        }
        let steps = late.steps(sequence);
        late.run(&steps[..done]);
        late.restart_daemon(702);
        late.run(&steps[done..]);
        late.advance(5 * DEADLINE);
        assert_eq!(late.phase(), end(sequence), "{name}");
        assert_eq!(late.keepalived().filter, Filter::Guard, "{name}");
        let bearer = late.nic().bearer.unwrap().ifindex;
        assert_eq!(late.keepalived().bound, [bearer; 2], "{name}");
    }
}

#[test]
fn what_fails_for_a_daemon_that_is_gone_is_forgotten() {
    let mut bench = Bench::unshielded(Datapath::Bridge);
    bench.fails = |action| matches!(action, Action::Guard { .. });
    bench.begin();
    assert!(bench.engine.next_deadline().is_some());
    bench.daemon = None;
    bench.scan();
    assert_eq!(bench.engine.next_deadline(), None);
    assert_eq!(bench.status().health, Health::Idle);
}

/// The kernel's word that an address left came before the guard was on the socket, and is heard here after it.
#[test]
fn what_a_daemon_heard_right_before_it_was_guarded_is_put_right() {
    for (sequence, opposite) in
        [(Sequence::Bind, Sequence::Unbind), (Sequence::Exchange, Sequence::Unexchange)]
    {
        let mut bench = Bench::new(Datapath::Bridge);
        bench.daemon_knows_gone(address(NODE_IP));
        bench.sequence(sequence);
        assert!(bench.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip), "{sequence:?}");
        // Who has been guarded for long is told nothing.
        let from = bench.log.len();
        bench.sequence(opposite);
        bench.sequence(sequence);
        let shown = |action: &Action| matches!(action, Action::ShowAddress { .. });
        assert_eq!(
            bench.asked(from).filter(|(_, action)| shown(action)).count(),
            0,
            "{sequence:?}"
        );
    }
}

/// Killed in mid-exchange, and begun again behind it: meanwhile the daemon has heard that the bridge has its NIC's
/// name now, and opened its sockets there. Of the bridge's addresses it heard when it did not look there.
#[test]
fn a_daemon_that_has_heard_of_names_while_nobody_guarded_is_shown_its_address() {
    let mut warned = 0;
    for (sequence, datapath, killed) in every_step().filter(|(s, ..)| *s == Sequence::Exchange) {
        let mut bench = ready_for(sequence, datapath);
        bench.daemon.iter_mut().for_each(|daemon| daemon.joined = Some(NIC_INDEX));
        bench.scan();
        let steps = bench.steps(sequence);
        bench.run(&steps[..killed]);
        bench.kill_engine();
        bench.run(&steps[killed..]);
        bench.begin();
        bench.advance(5 * DEADLINE);
        let name = format!("on {datapath:?}, killed at {killed} of {}", steps.len());
        is_well(&bench, &name);
        // What had been withheld before it heard the rest, it will never hear.
        let muddled = bench.status().warnings.iter().any(|it| it.contains("restart it when"));
        let uses_bridge = bench.keepalived().interface() != Some(NIC_INDEX);
        let masked = steps[..killed].iter().any(|step| matches!(step.op, Op::Down(_)));
        assert!(!muddled || uses_bridge && masked, "{name}");
        warned += usize::from(muddled);
    }
    assert!(warned > 0, "an operator is told where that is known");
}

/// It is the interface to such a daemon: keepalived 2.2.7 that hears of the next one of that name, and not of the end of
/// this one, counts one reason to fail too few, and heeds no failure from then on.
#[test]
fn a_daemon_that_uses_the_bridge_hears_of_its_end() {
    for datapath in Datapath::ALL {
        let mut bench = ready_for(Sequence::Exchange, datapath);
        bench.daemon.iter_mut().for_each(|daemon| daemon.joined = Some(NIC_INDEX));
        bench.scan();
        bench.kill_engine();
        bench.sequence(Sequence::Exchange);
        bench.begin();
        bench.advance(5 * DEADLINE);
        let bridge = bench.keepalived().interface().unwrap();
        assert_ne!(bridge, NIC_INDEX, "{datapath:?}");
        for step in bench.steps(Sequence::Unexchange) {
            bench.advance(step.takes);
            bench.change(&step.op);
            let gone = !bench.node.links.contains_key(&bridge);
            let heard = !bench.keepalived().view.links.contains_key(&bridge);
            assert_eq!(heard, gone, "{datapath:?} at {step:?}");
        }
        bench.scan();
        bench.advance(5 * DEADLINE);
        is_well(&bench, &format!("{datapath:?}"));
        assert_eq!(bench.phase(), Phase::Free, "{datapath:?}");
        assert!(
            bench.guard.policies.values().all(|(_, bits, _)| *bits == Phase::Free.withhold(false))
        );
    }
}
