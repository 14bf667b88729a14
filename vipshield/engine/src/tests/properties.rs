//! What holds whatever happens.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{Action, Event, Filter, Phase},
    bench::{Bench, COMMAND_PORT, DEADLINE, engine},
    keepalived::Keepalived,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, KUBE_OVN, NIC, Op, VIP, address},
    told::{addresses, an_event},
};

/// Enough to meet what two or three changes do to one another, in a second or two; `VIPSHIELD_CASES=100` tries a hundred
/// times as many.
pub(super) fn cases(cases: u32) -> ProptestConfig {
    let times = std::env::var("VIPSHIELD_CASES").ok();
    let times: u32 = times.map_or(1, |times| times.parse().expect("VIPSHIELD_CASES is a number"));
    ProptestConfig { cases: cases * times, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn nothing_makes_it_panic_or_spin(
        events in vec((an_event(), 0_u64..700, any::<bool>()), 1..40),
        stop: bool,
    ) {
        let mut engine = engine();
        let mut now = Duration::from_secs(1);
        let answer = |engine: &mut super::super::Engine, now, fail: bool| -> usize {
            let mut asked = 0;
            while let Some(action) = engine.poll_action() {
                if matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                    continue;
                }
                asked += 1;
                let event = if fail {
                    Event::Failed { action, error: "made to fail".to_owned() }
                } else {
                    Event::Succeeded { action }
                };
                engine.handle(event, now);
                if asked > 200 {
                    break;
                }
            }
            asked
        };
        for (event, wait, fail) in events {
            now += Duration::from_millis(wait);
            engine.handle(event, now);
            prop_assert!(answer(&mut engine, now, fail) < 200, "no end of actions");
            if let Some(deadline) = engine.next_deadline() {
                now = now.max(deadline);
                engine.handle(Event::Tick, now);
                prop_assert!(answer(&mut engine, now, fail) < 200, "no end of actions");
                let next = engine.next_deadline();
                prop_assert!(next.is_none_or(|next| next > now), "{next:?} is not after {now:?}");
            }
            let _ = engine.status(now);
        }
        if stop {
            engine.handle(Event::Stop, now);
            let mut finished = 0;
            while let Some(action) = engine.poll_action() {
                match action {
                    Action::Finish { .. } => finished += 1,
                    Action::Tell { .. } => {}
                    action => engine.handle(Event::Succeeded { action }, now),
                }
            }
            prop_assert_eq!(finished, 1);
            prop_assert_eq!(engine.next_deadline(), None);
        }
    }
}

// What can happen to a node.

#[derive(Clone, Debug)]
pub(super) enum Deed {
    Change(Op),
    /// As many steps of a sequence as there are, at the most.
    Kube(Sequence, usize),
    Wait(Duration),
    Scan,
    RestartDaemon,
    /// The daemon asks for the VIP, or for its removal.
    Ask(bool),
    /// Events are lost from now on, until the next look at everything.
    LoseEvents,
    Snapshot,
}

/// Names for links that come and go; the NIC keeps its own unless Kube-OVN takes it.
fn a_change() -> impl Strategy<Value = Op> {
    let link = || select(vec![NIC, BRIDGE, "br0", "ens224"]).prop_map(str::to_owned);
    let bridge = || select(vec![BRIDGE, "br0"]).prop_map(str::to_owned);
    let nic = || select(vec![NIC, "ens224"]).prop_map(str::to_owned);
    prop_oneof![
        2 => bridge().prop_map(Op::AddBridge),
        1 => nic().prop_map(Op::AddNic),
        1 => link().prop_map(Op::Remove),
        1 => (bridge(), nic()).prop_map(|(to, from)| Op::CopyMac(to, from)),
        3 => link().prop_map(Op::Up),
        2 => link().prop_map(Op::Down),
        3 => (nic(), any::<bool>()).prop_map(|(name, plugged)| Op::Carrier(name, plugged)),
        1 => (nic(), select(vec!["eth7", "eth8"]))
            .prop_map(|(from, to)| Op::Rename(from, to.to_owned())),
        2 => (select(vec!["eth7", "eth8"]), nic())
            .prop_map(|(from, to)| Op::Rename(from.to_owned(), to)),
        3 => (bridge(), nic()).prop_map(|(bridge, port)| Op::AddPort(bridge, port)),
        2 => nic().prop_map(Op::RemovePort),
        5 => (link(), addresses()).prop_map(|(name, address)| Op::AddAddress(name, address)),
        5 => (link(), addresses(), a_requester())
            .prop_map(|(name, address, by)| Op::RemoveAddress(name, address, by)),
    ]
}

fn a_requester() -> impl Strategy<Value = u32> {
    select(vec![0, KUBE_OVN, COMMAND_PORT])
}

fn a_wait() -> impl Strategy<Value = Deed> {
    (1_u64..1500).prop_map(|ms| Deed::Wait(Duration::from_millis(ms)))
}

pub(super) fn a_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        10 => a_change().prop_map(Deed::Change),
        2 => (select(vec![Sequence::Bind, Sequence::Unbind]), 0_usize..25)
            .prop_map(|(sequence, steps)| Deed::Kube(sequence, steps)),
        4 => a_wait(),
        1 => Just(Deed::Scan),
        1 => Just(Deed::RestartDaemon),
    ]
}

pub(super) fn do_it(bench: &mut Bench, deed: Deed) {
    match deed {
        Deed::Change(op) => bench.change(&op),
        Deed::Kube(sequence, count) => {
            let steps = bench.steps(sequence);
            bench.run(&steps[..count.min(steps.len())]);
        }
        Deed::Wait(time) => bench.advance(time),
        Deed::Scan => bench.scan(),
        Deed::RestartDaemon => {
            let pid = bench.keepalived().pid + 1;
            bench.restart_daemon(pid);
        }
        Deed::Ask(wanted) => bench.daemon_asks(address(VIP), wanted),
        Deed::LoseEvents => bench.deaf = true,
        Deed::Snapshot => {
            bench.deaf = false;
            bench.feed(bench.node.snapshot());
        }
    }
}

pub(super) fn a_datapath() -> impl Strategy<Value = Datapath> {
    select(Datapath::ALL.to_vec())
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn nothing_untrue_is_hidden_for_longer_than_the_deadline(
        datapath in a_datapath(),
        deeds in vec(a_deed(), 1..40),
    ) {
        let mut bench = Bench::new(datapath);
        for deed in deeds {
            // The bench compares what the daemon knows with what is, after each of them.
            do_it(&mut bench, deed);
        }
        bench.advance(3 * DEADLINE);
        prop_assert!(bench.keepalived().filter == Filter::Guard);
    }

    #[test]
    fn what_was_lost_does_not_matter_after_a_look_at_everything(
        datapath in a_datapath(),
        deeds in vec(
            prop_oneof![8 => a_deed(), 1 => Just(Deed::LoseEvents), 1 => Just(Deed::Snapshot)],
            1..40,
        ),
    ) {
        let mut bench = Bench::new(datapath);
        // Nothing can be told in time of what was not heard.
        bench.grace = Duration::MAX;
        for deed in deeds {
            do_it(&mut bench, deed);
        }
        do_it(&mut bench, Deed::Snapshot);
        let pid = bench.keepalived().pid + 1;
        bench.restart_daemon(pid);
        bench.advance(3 * DEADLINE);

        let mut fresh = Bench::unshielded(datapath);
        fresh.grace = Duration::MAX;
        fresh.node = bench.node.clone();
        fresh.daemon = Some(Keepalived::start(700, &fresh.node, NIC));
        fresh.begin();
        fresh.advance(3 * DEADLINE);

        // Of Open vSwitch's bridges, it is at times only history that tells which is the NIC's.
        let ambiguous = datapath == Datapath::Ovs && fresh.node.index("br0").is_some();
        let same = |a: Phase, b: Phase| a == b || a.is_transition() || b.is_transition();
        for nic in fresh.status().nics {
            let Some(known) = bench.status().nics.into_iter().find(|n| n.ifindex == nic.ifindex)
            else {
                continue;
            };
            if nic.bearer.is_none() || ambiguous {
                continue;
            }
            prop_assert!(same(known.phase, nic.phase), "{known:?} {nic:?}");
            prop_assert_eq!(&known.bearer, &nic.bearer);
            prop_assert_eq!(bench.keepalived().bound, fresh.keepalived().bound);
            if !known.phase.is_transition() && !nic.phase.is_transition() {
                let policies = (&bench.guard.policies, &fresh.guard.policies);
                prop_assert_eq!(policies.0.get(&nic.ifindex), policies.1.get(&nic.ifindex));
            }
        }
    }

    #[test]
    fn what_the_daemon_gave_up_is_nowhere_and_is_not_announced(
        datapath in a_datapath(),
        deeds in vec(
            prop_oneof![6 => a_deed(), 3 => any::<bool>().prop_map(Deed::Ask)],
            1..40,
        ),
    ) {
        let mut bench = Bench::new(datapath);
        let mut wanted = None;
        for deed in deeds {
            match deed {
                Deed::Ask(asked) => wanted = Some(asked),
                Deed::RestartDaemon => wanted = None,
                _ => {}
            }
            let from = bench.log.len();
            do_it(&mut bench, deed);
            // What it had before is taken for a VIP some moments later.
            bench.advance(Duration::from_millis(10));
            if wanted == Some(false) {
                let nics = bench.status().nics;
                let guarded: Vec<u32> = nics.iter().map(|nic| nic.ifindex).collect();
                let bearers = nics.iter().filter_map(|nic| Some(nic.bearer.as_ref()?.ifindex));
                let bearers: Vec<u32> = bearers.collect();
                let belongs: Vec<&String> = nics.iter().flat_map(|nic| &nic.addresses).collect();
                // A bridge that has something of a NIC's, or nothing of its own.
                let takes = |ifindex: u32| {
                    let on = bench.node.addresses.get(&ifindex).into_iter().flatten();
                    let mut on = on.filter(|it| !it.is_link_local() && **it != address(VIP));
                    let ports = || {
                        let mut ports = bench.node.bridge_of.iter();
                        ports.any(|(port, bridge)| *bridge == ifindex && !guarded.contains(port))
                    };
                    match on.clone().next() {
                        Some(_) => on.any(|it| belongs.contains(&&it.to_string())),
                        None => !ports(),
                    }
                };
                let homes = bench.node.links.values().filter(|link| {
                    let ifindex = link.ifindex;
                    guarded.contains(&ifindex)
                        || bearers.contains(&ifindex)
                        || !guarded.is_empty() && link.is_bridge() && takes(ifindex)
                });
                for link in homes {
                    let there = bench.node.addresses.get(&link.ifindex);
                    let there = there.is_some_and(|all| all.contains(&address(VIP)));
                    prop_assert!(!there, "it is on {}", link.name);
                }
                let announced =
                    bench.asked(from).any(|(_, action)| matches!(action, Action::Announce { .. }));
                prop_assert!(!announced, "it is announced");
            }
        }
    }
}
