//! What is asked of several tables at once.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

#[derive(Clone, Debug)]
enum Change {
    Link(Link),
    NoLink(u32),
    Address(u32, Address, bool),
}

const IPS: [&str; 3] = ["192.0.2.10", "192.0.2.11", "fe80::11"];

fn an_address() -> impl Strategy<Value = Address> {
    (select(IPS.to_vec()), select(vec![24, 32]))
        .prop_map(|(ip, prefix_len)| Address { ip: ip.parse().unwrap(), prefix_len })
}

fn a_link() -> impl Strategy<Value = Link> {
    let kind = select(vec![None, Some("bridge"), Some("openvswitch"), Some("openvswitch")]);
    let mac = select(vec![vec![], vec![2, 0, 0, 0, 0, 1], vec![2, 0, 0, 0, 0, 2]]);
    let master = proptest::option::of(0_u32..6);
    (0_u32..6, kind, master, mac).prop_map(|(ifindex, kind, master, mac)| Link {
        ifindex,
        kind: kind.map(str::to_owned),
        master,
        mac,
        ..Link::default()
    })
}

fn a_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => a_link().prop_map(Change::Link),
        1 => (0_u32..6).prop_map(Change::NoLink),
        4 => (0_u32..6, an_address(), any::<bool>())
            .prop_map(|(ifindex, address, there)| Change::Address(ifindex, address, there)),
    ]
}

/// The same, of plain lists.
#[derive(Debug, Default)]
struct Walk {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, Address)>,
}

impl Walk {
    fn has_ip(&self, ifindex: u32, ip: IpAddr) -> bool {
        self.addresses.iter().any(|(at, address)| (*at, address.ip) == (ifindex, ip))
    }

    fn on_a_bridge(&self, ip: IpAddr) -> bool {
        self.links.values().any(|link| link.is_bridge() && self.has_ip(link.ifindex, ip))
    }

    fn bearer(&self, nic: &Link, home: &BTreeSet<Address>, current: Option<u32>) -> Option<u32> {
        let master = nic.master.and_then(|master| self.links.get(&master));
        let Some(master) = master.filter(|it| it.takes_ports()) else { return Some(nic.ifindex) };
        if !master.is_open_vswitch() {
            return Some(master.ifindex);
        }
        let likeness = |link: &Link| {
            let movable = home.iter().filter(|address| !address.is_link_local());
            let held = movable.filter(|it| self.has_ip(link.ifindex, it.ip)).count();
            let same_mac = !nic.mac.is_empty() && link.mac == nic.mac;
            (held, same_mac, current == Some(link.ifindex))
        };
        let others = self.links.values().filter(|it| it.ifindex != master.ifindex);
        let found = others.filter(|it| it.is_open_vswitch()).map(|it| (likeness(it), it.ifindex));
        let alike = found.filter(|((held, same_mac, _), _)| *held > 0 || *same_mac);
        alike.max().map(|(_, ifindex)| ifindex)
    }
}

proptest! {
    #[test]
    fn the_answers_are_those_of_a_walk_over_everything(
        changes in vec(a_change(), 0..40),
        home in proptest::collection::btree_set(an_address(), 0..3),
        current in proptest::option::of(0_u32..6),
    ) {
        let (mut world, mut walk) = (World::default(), Walk::default());
        for change in changes {
            match change {
                Change::Link(link) => {
                    walk.links.insert(link.ifindex, link.clone());
                    world.see_link(link);
                }
                Change::NoLink(ifindex) => {
                    walk.links.remove(&ifindex);
                    walk.addresses.retain(|it| it.0 != ifindex);
                    world.forget_link(ifindex);
                }
                Change::Address(ifindex, address, true) => {
                    walk.addresses.insert((ifindex, address));
                    world.see_address(ifindex, address);
                }
                Change::Address(ifindex, address, false) => {
                    walk.addresses.remove(&(ifindex, address));
                    world.forget_address(ifindex, address);
                }
            }
            for ip in IPS.map(|ip| ip.parse().unwrap()) {
                prop_assert_eq!(world.on_a_bridge(ip), walk.on_a_bridge(ip));
            }
            for nic in walk.links.values() {
                prop_assert_eq!(
                    world.bearer(nic, &home, current),
                    walk.bearer(nic, &home, current)
                );
            }
        }
    }
}
