//! What holds whatever happens.

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        About, Action, CommandSocket, Daemon, Event, Family, Filter, Intent, Link, MonitorSocket,
        Phase, Role, SocketId, VrrpSocket, Withheld,
    },
    bench::{Bench, COMMAND_PORT, DEADLINE, REPLAY_PORT, engine},
    keepalived::Keepalived,
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, KUBE_OVN, LINK_LOCAL, NIC, NODE_IP, NODE_IP6, Op, VIP, address},
};

/// Enough to meet what two or three changes do to one another, in a second or two.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn addresses() -> impl Strategy<Value = super::super::Address> {
    // The last is the node's own with another prefix.
    select(vec![NODE_IP, VIP, NODE_IP6, LINK_LOCAL, "192.0.2.11/32"]).prop_map(address)
}

// Whatever an engine could be told, sense or nonsense.

fn an_index() -> impl Strategy<Value = u32> {
    0_u32..6
}

fn a_name() -> impl Strategy<Value = String> {
    select(vec![NIC, BRIDGE, "ovs-system", "lo", ""]).prop_map(str::to_owned)
}

fn a_port() -> impl Strategy<Value = u32> {
    select(vec![0, KUBE_OVN, COMMAND_PORT, REPLAY_PORT])
}

fn a_link() -> impl Strategy<Value = Link> {
    let kind =
        select(vec![None, Some("bridge"), Some("openvswitch"), Some("veth"), Some("macvlan")]);
    let mac = select(vec![vec![], vec![2, 0, 0, 0, 0, 1], vec![2, 0, 0, 0, 0, 2]]);
    let other = || proptest::option::of(an_index());
    (an_index(), a_name(), any::<bool>(), any::<bool>(), other(), kind, other(), mac).prop_map(
        |(ifindex, name, up, running, master, kind, link, mac)| Link {
            ifindex,
            name,
            up,
            running,
            master,
            kind: kind.map(str::to_owned),
            link,
            mac,
        },
    )
}

fn a_socket() -> impl Strategy<Value = SocketId> {
    (700_u32..703, 10_i32..13).prop_map(|(pid, fd)| SocketId { pid, fd, inode: u64::from(pid) })
}

/// Its sockets are its own, each with its descriptor: what a scan cannot get wrong.
fn a_daemon() -> impl Strategy<Value = Daemon> {
    let filter = select(vec![Filter::None, Filter::Guard, Filter::Stale, Filter::Foreign]);
    let bound = proptest::option::of(an_index());
    (700_u32..703, 0_u64..2, vec(a_port(), 0..3), vec(filter, 0..3), vec(bound, 0..3)).prop_map(
        |(pid, start_time, ports, filters, bound)| {
            let id = |fd| SocketId { pid, fd, inode: u64::from(pid) };
            Daemon {
                pid,
                start_time,
                name: "keepalived".to_owned(),
                role: Role::Vrrp,
                commands: (30..)
                    .zip(ports)
                    .map(|(fd, port)| CommandSocket { id: id(fd), port, filter: Filter::None })
                    .collect(),
                monitors: (10..)
                    .zip(filters)
                    .map(|(fd, filter)| MonitorSocket { id: id(fd), filter })
                    .collect(),
                vrrp: (20..)
                    .zip(bound)
                    .map(|(fd, bound)| VrrpSocket {
                        id: id(fd),
                        family: Family::Ipv4,
                        bound,
                        home: bound.filter(|bound| bound % 2 == 0),
                    })
                    .collect(),
                trouble: None,
            }
        },
    )
}

fn an_about() -> impl Strategy<Value = About> {
    prop_oneof![
        addresses().prop_map(|address| About::AddressRemoval { address }),
        addresses().prop_map(|address| About::OwnAddress { ip: address.ip }),
        a_name().prop_map(|name| About::Rename { name }),
        a_name().prop_map(|name| About::Impostor { name }),
        Just(About::AdminDown),
        Just(About::CarrierLoss),
        Just(About::BridgePort),
    ]
}

fn an_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (an_index(), a_name(), any::<u32>()).prop_map(|(ifindex, name, withhold)| {
            Action::SetPolicy { ifindex, name, withhold }
        }),
        (an_index(), a_name()).prop_map(|(ifindex, name)| Action::ClearPolicy { ifindex, name }),
        a_socket().prop_map(|socket| Action::Guard { socket }),
        (a_socket(), an_index())
            .prop_map(|(socket, ifindex)| Action::ResyncLink { socket, ifindex }),
        (an_index(), addresses())
            .prop_map(|(ifindex, address)| Action::ReplayRemoval { ifindex, address }),
        (an_index(), addresses())
            .prop_map(|(ifindex, address)| Action::ShowAddress { ifindex, address: Some(address) }),
        Just(Action::Finish),
    ]
}

fn an_event() -> impl Strategy<Value = Event> {
    let listed = vec((an_index(), addresses()), 0..5);
    prop_oneof![
        4 => a_link().prop_map(|link| Event::Link { link }),
        1 => an_index().prop_map(|ifindex| Event::LinkRemoved { ifindex }),
        1 => Just(Event::Turnover),
        1 => (an_index(), a_name()).prop_map(|(ifindex, name)| {
            Event::Inherited { names: BTreeMap::from([(ifindex, name)]) }
        }),
        3 => (an_index(), addresses(), a_port()).prop_map(|(ifindex, address, requester)| {
            Event::Address { ifindex, address, requester }
        }),
        3 => (an_index(), addresses(), a_port()).prop_map(|(ifindex, address, requester)| {
            Event::AddressRemoved { ifindex, address, requester }
        }),
        1 => (vec(a_link(), 0..5), listed)
            .prop_map(|(links, addresses)| Event::Snapshot {
                links,
                addresses,
                routes: Vec::new(),
                intents: Vec::new(),
            }),
        1 => vec(a_daemon(), 0..3).prop_map(|daemons| Event::Daemons { daemons }),
        1 => vec(a_daemon(), 0..3).prop_map(|gone| Event::DaemonsUnknown {
            error: "EMFILE".to_owned(),
            gone: gone.into_iter().map(|daemon| daemon.pid).collect(),
        }),
        1 => (an_index(), a_port(), an_about()).prop_map(|(ifindex, requester, about)| {
            Event::Withheld { message: Withheld { ifindex, requester, about } }
        }),
        2 => (a_port(), 0_u32..4, addresses(), any::<bool>(), any::<bool>()).prop_map(
            |(port, sequence, address, wanted, refused)| Event::Intent {
                intent: Intent { port, sequence, address, wanted, refused },
            },
        ),
        1 => vec(addresses(), 0..3).prop_map(|addresses| Event::Moved { addresses }),
        1 => an_action().prop_map(|action| Event::Succeeded { action }),
        1 => an_action()
            .prop_map(|action| Event::Failed { action, error: "never asked for".to_owned() }),
        1 => Just(Event::Tick),
    ]
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
                if matches!(action, Action::Tell { .. } | Action::Finish) {
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
                finished += u32::from(action == Action::Finish);
            }
            prop_assert_eq!(finished, 1);
            prop_assert_eq!(engine.next_deadline(), None);
        }
    }
}

// What can happen to a node.

#[derive(Clone, Debug)]
enum Deed {
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

fn a_deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        10 => a_change().prop_map(Deed::Change),
        2 => (select(vec![Sequence::Bind, Sequence::Unbind]), 0_usize..25)
            .prop_map(|(sequence, steps)| Deed::Kube(sequence, steps)),
        4 => a_wait(),
        1 => Just(Deed::Scan),
        1 => Just(Deed::RestartDaemon),
    ]
}

fn do_it(bench: &mut Bench, deed: Deed) {
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

fn a_datapath() -> impl Strategy<Value = Datapath> {
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
                let guarded: Vec<u32> =
                    bench.status().nics.into_iter().map(|nic| nic.ifindex).collect();
                let homes = bench.node.links.values().filter(|link| {
                    link.is_bridge() || guarded.contains(&link.ifindex)
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
