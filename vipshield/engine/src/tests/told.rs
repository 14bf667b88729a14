//! Whatever an engine could be told, sense or nonsense.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    super::{
        About, Action, Address, CommandSocket, Daemon, Event, Family, Filter, Heard, Intent,
        LetPass, Link, MonitorSocket, Role, Route, Rule, RuleKind, SocketId, VrrpSocket, Withheld,
        rules::GuardRule, world::usual,
    },
    bench::{COMMAND_PORT, REPLAY_PORT},
    node::{BRIDGE, KUBE_OVN, LINK_LOCAL, NIC, NODE_IP, NODE_IP6, VIP, address},
};
use crate::wire::{
    Advert, Arp, Authentication, Checksum, Content, Frame, Mac, Malformed, Operation, Version,
};

pub(super) fn addresses() -> impl Strategy<Value = Address> {
    // The last is the node's own with another prefix.
    select(vec![NODE_IP, VIP, NODE_IP6, LINK_LOCAL, "192.0.2.11/32"]).prop_map(address)
}

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
                        multicast: Some(7).filter(|_| bound.is_none()),
                        group: Some(IpAddr::from([224, 0, 0, 99])).filter(|_| bound.is_some()),
                        sends: fd % 2 == 0,
                    })
                    .collect(),
                trouble: None,
                polls: false,
                excluded: Vec::new(),
            }
        },
    )
}

fn an_about() -> impl Strategy<Value = About> {
    prop_oneof![
        addresses().prop_map(|address| About::AddressRemoval { address }),
        addresses().prop_map(|address| About::OwnAddress { ip: address.ip }),
        addresses().prop_map(|address| About::KnownAddress { ip: address.ip }),
        addresses().prop_map(|destination| About::RouteRemoval { destination }),
        a_name().prop_map(|name| About::Rename { name }),
        a_name().prop_map(|name| About::NameConflict { name }),
        Just(About::AdminDown),
        Just(About::CarrierLoss),
        Just(About::BridgePort),
    ]
}

pub(super) fn an_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        (an_index(), a_name(), any::<u32>()).prop_map(|(ifindex, name, withhold)| {
            Action::SetPolicy { ifindex, name, withhold, passes: LetPass::new() }
        }),
        (an_index(), a_name()).prop_map(|(ifindex, name)| Action::ClearPolicy { ifindex, name }),
        a_socket().prop_map(|socket| Action::Guard { socket }),
        (a_socket(), an_index())
            .prop_map(|(socket, ifindex)| Action::ResyncLink { socket, ifindex }),
        (an_index(), addresses())
            .prop_map(|(ifindex, address)| Action::ReplayRemoval { ifindex, address }),
        (an_index(), addresses())
            .prop_map(|(ifindex, address)| Action::ShowAddress { ifindex, address: Some(address) }),
        Just(Action::Finish { kept: true, undone: 1 }),
    ]
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let kinds = [RuleKind::Local, RuleKind::Main, RuleKind::Goto(32_765), RuleKind::Other];
    let priorities = [0, 100, 32_765, 32_766, 32_767];
    (select(Family::ALL.to_vec()), select(priorities.to_vec()), select(kinds.to_vec()))
        .prop_map(|(family, priority, kind)| Rule { family, priority, kind })
}

fn a_route() -> impl Strategy<Value = Route> {
    let to = select(vec![("0.0.0.0", 0), ("192.0.2.0", 24), ("2001:db8::", 64)]);
    let gateway = select(vec![None, Some("192.0.2.1")]);
    (to, 0_u32..2, gateway, any::<bool>()).prop_map(|((to, prefix_len), metric, gateway, mtu)| {
        Route {
            destination: to.parse().unwrap(),
            prefix_len,
            metric,
            gateway: gateway.map(|ip| ip.parse().unwrap()),
            source: Some(address(NODE_IP).ip),
            mtu: if mtu { 1400 } else { 0 },
        }
    })
}

fn a_route_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (an_index(), a_route(), any::<bool>()).prop_map(|(ifindex, route, replaces)| {
            Event::Route { ifindex, route, replaces }
        }),
        1 => (an_index(), a_route())
            .prop_map(|(ifindex, route)| Event::RouteRemoved { ifindex, route }),
    ]
}

/// This node's adverts and those of others, and claims of the VIP.
fn a_frame() -> impl Strategy<Value = Heard> {
    let vip = address(VIP).ip;
    let advert = (select(vec!["192.0.2.11", "192.0.2.12", "192.0.2.13"]), 0_u8..3, any::<bool>())
        .prop_map(move |(source, priority, fast)| {
            Content::Advert(Advert {
                version: Version::V3,
                source: source.parse().unwrap(),
                destination: "224.0.0.18".parse().unwrap(),
                hops: 255,
                router_id: 51,
                priority: 100 * priority,
                interval: Duration::from_millis(if fast { 100 } else { 1_000 }),
                addresses: vec![vip],
                authentication: Authentication::None,
                checksum: Checksum::Standard,
                trailer: false,
            })
        });
    let mac = (1_u8..4).prop_map(|last| Mac([2, 0, 0, 0, 0, last]));
    let claim = mac.prop_map(|mac| {
        let ip = "192.0.2.10".parse().unwrap();
        Content::Arp(Arp {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: ip,
            target_mac: Mac([0xff; 6]),
            target: ip,
        })
    });
    let content = prop_oneof![2 => advert, 1 => claim].prop_map(Ok);
    let content = prop_oneof![9 => content, 1 => Just(Err(Malformed::Truncated))];
    (an_index(), any::<bool>(), content).prop_map(|(ifindex, sent, content)| {
        let source = Mac([2, 0, 0, 0, 0, 1]);
        let frame =
            content.map(|content| Frame { destination: source, source, vlan: None, content });
        Heard { ifindex, sent, shunted: false, frame }
    })
}

pub(super) fn an_event() -> impl Strategy<Value = Event> {
    let listed = vec((an_index(), addresses()), 0..5);
    prop_oneof![
        4 => a_link().prop_map(|link| Event::Link { link }),
        1 => an_index().prop_map(|ifindex| Event::LinkRemoved { ifindex }),
        1 => Just(Event::Turnover),
        1 => (an_index(), any::<bool>()).prop_map(|(ifindex, served)| {
            Event::Switch { ifindex, served }
        }),
        1 => (an_index(), a_name()).prop_map(|(ifindex, name)| {
            Event::Inherited { names: BTreeMap::from([(ifindex, name)]), held: BTreeMap::new() }
        }),
        3 => (an_index(), addresses(), a_port()).prop_map(|(ifindex, address, requester)| {
            Event::Address { ifindex, address, requester }
        }),
        3 => (an_index(), addresses(), a_port()).prop_map(|(ifindex, address, requester)| {
            Event::AddressRemoved { ifindex, address, requester }
        }),
        1 => (vec(a_link(), 0..5), listed, vec((an_index(), a_route()), 0..5))
            .prop_map(|(links, addresses, routes)| Event::Snapshot {
                links,
                addresses,
                routes,
                rules: usual(),
            }),
        1 => (a_rule(), any::<bool>()).prop_map(|(rule, added)| {
            if added { Event::Rule { rule } } else { Event::RuleRemoved { rule } }
        }),
        1 => vec(a_daemon(), 0..3).prop_map(|daemons| Event::Daemons { daemons }),
        1 => vec(a_daemon(), 0..3).prop_map(|gone| Event::DaemonsUnknown {
            error: "EMFILE".to_owned(),
            gone: gone.into_iter().map(|daemon| daemon.pid).collect(),
        }),
        1 => (an_index(), a_port(), an_about()).prop_map(|(ifindex, requester, about)| {
            let rule = GuardRule::numbered(0).unwrap();
            Event::Withheld { message: Withheld { ifindex, requester, rule, about } }
        }),
        2 => (a_port(), 0_u32..4, an_index(), addresses(), any::<bool>(), any::<bool>()).prop_map(
            |(port, sequence, ifindex, address, wanted, refused)| Event::Intent {
                intent: Intent { port, sequence, ifindex, address, wanted, refused },
            },
        ),
        1 => (a_port(), 0_u32..4, vec(addresses(), 0..3), any::<bool>()).prop_map(
            |(port, sequence, addresses, wanted)| Event::LastWords {
                intents: addresses
                    .into_iter()
                    .map(|address| Intent { port, sequence, ifindex: 0, address, wanted, refused: false })
                    .collect(),
            },
        ),
        1 => vec((an_index(), addresses()), 0..3).prop_map(|addresses| Event::Moved { addresses }),
        1 => a_port().prop_map(|port| Event::Granted { port, sequence: 0 }),
        2 => a_route_event(),
        3 => vec(a_frame(), 1..3).prop_map(|frames| Event::Heard { frames }),
        1 => an_action().prop_map(|action| Event::Succeeded { action }),
        1 => an_action()
            .prop_map(|action| Event::Failed { action, error: "never asked for".to_owned() }),
        1 => Just(Event::Tick),
    ]
}
