//! Links, and who they are by name, by hardware address and by master.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::index::Index;

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Interface index.
    pub ifindex: u32,
    /// Its name now.
    pub name: String,
    /// `IFF_UP`: it was told to be up.
    pub up: bool,
    /// `IFF_RUNNING`: it is up and has a carrier.
    pub running: bool,
    /// `IFLA_MASTER`: the bridge, bond or `ovs-system` it is a port of, or the VRF it is in.
    pub master: Option<u32>,
    /// `IFLA_INFO_KIND`: `bridge`, `openvswitch`, `veth`; none for a physical NIC.
    pub kind: Option<String>,
    /// `IFLA_LINK`: what a virtual interface lies on; its peer, for a `veth`.
    pub link: Option<u32>,
    /// `IFLA_ADDRESS`: hardware address.
    pub mac: Vec<u8>,
}

/// Kinds of interfaces with hardware addresses of Ethernet's that are nobody's uplink.
const NO_NICS: [&str; 9] =
    ["dummy", "ifb", "vxlan", "geneve", "gretap", "ip6gretap", "erspan", "ip6erspan", "tun"];

impl Link {
    /// A Linux bridge, or an internal port of Open vSwitch: what can carry a port's addresses.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        matches!(self.kind.as_deref(), Some("bridge" | "openvswitch"))
    }

    /// A bridge of Open vSwitch, or its datapath.
    #[must_use]
    pub fn is_open_vswitch(&self) -> bool {
        self.kind.as_deref() == Some("openvswitch")
    }

    /// Whether it may be an uplink that somebody makes a port: an Ethernet interface (`lo` has no hardware
    /// address, and an IP tunnel none of Ethernet's) that is neither a tunnel itself nor a dummy.
    #[must_use]
    pub fn may_be_nic(&self) -> bool {
        let is_ethernet = self.mac.len() == 6 && self.mac.iter().any(|byte| *byte != 0);
        let kind = self.kind.as_deref();
        is_ethernet && !kind.is_some_and(|kind| NO_NICS.contains(&kind))
    }

    /// Whether frames that arrive on its ports go up the stack here. Those of a VRF's interfaces do not:
    /// it chooses a routing table for them, and they keep their addresses.
    #[must_use]
    pub fn takes_ports(&self) -> bool {
        self.is_bridge() || matches!(self.kind.as_deref(), Some("bond" | "team"))
    }

    /// The interface that this one shares by having its receive handler: what keepalived's
    /// `use_vmac` and `use_ipvlan` make.
    #[must_use]
    pub fn lower(&self) -> Option<u32> {
        self.link.filter(|_| matches!(self.kind.as_deref(), Some("macvlan" | "macvtap" | "ipvlan")))
    }
}

/// All links. What is asked of them costs the same however many there are.
///
/// The kernel's events come one by one: for a moment two links may bear one name. The one with the
/// lowest index has it then.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    by_index: BTreeMap<u32, Link>,
    by_name: Index<String>,
    by_mac: Index<Vec<u8>>,
    /// Bridges only, by hardware address.
    bridges: Index<Vec<u8>>,
    /// Links with a master that are no bridges, by that master.
    ports: Index<u32>,
    /// The same by hardware address.
    ports_by_mac: Index<Vec<u8>>,
}

impl Links {
    pub(super) fn get(&self, ifindex: u32) -> Option<&Link> {
        self.by_index.get(&ifindex)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values()
    }

    /// A link appeared or changed. Returns how it was.
    pub(super) fn insert(&mut self, link: Link) -> Option<Link> {
        let before = self.remove(link.ifindex);
        let ifindex = link.ifindex;
        self.by_name.add(link.name.clone(), ifindex);
        self.by_mac.add(link.mac.clone(), ifindex);
        if link.is_bridge() {
            self.bridges.add(link.mac.clone(), ifindex);
        } else if let Some(master) = link.master {
            self.ports.add(master, ifindex);
            self.ports_by_mac.add(link.mac.clone(), ifindex);
        }
        self.by_index.insert(ifindex, link);
        before
    }

    /// A link is gone. Returns how it was.
    pub(super) fn remove(&mut self, ifindex: u32) -> Option<Link> {
        let link = self.by_index.remove(&ifindex)?;
        self.by_name.remove(&link.name, ifindex);
        self.by_mac.remove(&link.mac, ifindex);
        if link.is_bridge() {
            self.bridges.remove(&link.mac, ifindex);
        } else if let Some(master) = link.master {
            self.ports.remove(&master, ifindex);
            self.ports_by_mac.remove(&link.mac, ifindex);
        }
        Some(link)
    }

    /// The link of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Link> {
        self.get(self.by_name.at(name).next()?)
    }

    /// Whether a link has this hardware address.
    pub(super) fn has_mac(&self, mac: &[u8]) -> bool {
        self.by_mac.contains(mac)
    }

    /// The bridges of this hardware address.
    pub(super) fn bridges_with(&self, mac: &[u8]) -> impl Iterator<Item = &Link> {
        self.bridges.at(mac).filter_map(|ifindex| self.get(ifindex))
    }

    /// The first port of a bridge that is no bridge itself. With Open vSwitch the datapath is the master
    /// of all ports: the one of the bridge's own hardware address is taken for its own.
    pub(super) fn first_port(&self, bridge: &Link) -> Option<&Link> {
        let enslaved = self.ports.at(&bridge.ifindex).next();
        let is_datapath = |ifindex: u32| self.get(ifindex).is_some_and(Link::is_open_vswitch);
        let twin = || {
            let twins = self.ports_by_mac.at(bridge.mac.as_slice());
            let mut twins = twins.filter_map(|ifindex| self.get(ifindex));
            twins.find(|port| port.master.is_some_and(is_datapath)).map(|port| port.ifindex)
        };
        let twin = if bridge.is_open_vswitch() { twin() } else { None };
        self.get(enslaved.into_iter().chain(twin).min()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn a_link() -> impl Strategy<Value = Link> {
        let kind = select(vec![None, Some("bridge"), Some("openvswitch"), Some("veth")]);
        let mac = select(vec![vec![], vec![2, 0, 0, 0, 0, 1], vec![2, 0, 0, 0, 0, 2]]);
        let master = proptest::option::of(0_u32..6);
        (0_u32..6, select(vec!["ens192", "br-provider", "lo"]), kind, master, mac).prop_map(
            |(ifindex, name, kind, master, mac)| Link {
                ifindex,
                name: name.to_owned(),
                kind: kind.map(str::to_owned),
                master,
                mac,
                ..Link::default()
            },
        )
    }

    /// A link appears or changes, or the one of this index goes.
    fn a_change() -> impl Strategy<Value = Result<Link, u32>> {
        prop_oneof![3 => a_link().prop_map(Ok), 1 => (0_u32..6).prop_map(Err)]
    }

    fn first(walk: &BTreeMap<u32, Link>, is_it: impl Fn(&Link) -> bool) -> Option<&Link> {
        walk.values().find(|link| is_it(link))
    }

    proptest! {
        #[test]
        fn the_answers_are_those_of_a_walk_over_all_links(changes in vec(a_change(), 0..40)) {
            let (mut links, mut walk) = (Links::default(), BTreeMap::new());
            for change in changes {
                match change {
                    Ok(link) => {
                        let before = walk.insert(link.ifindex, link.clone());
                        prop_assert_eq!(links.insert(link), before);
                    }
                    Err(ifindex) => prop_assert_eq!(links.remove(ifindex), walk.remove(&ifindex)),
                }
                prop_assert_eq!(&links.by_index, &walk);
                for name in ["ens192", "br-provider", "lo", "eth0"] {
                    prop_assert_eq!(links.named(name), first(&walk, |link| link.name == name));
                }
                for mac in [vec![], vec![2, 0, 0, 0, 0, 1], vec![2, 0, 0, 0, 0, 2], vec![3]] {
                    let with_it = |link: &&Link| link.mac == mac;
                    prop_assert_eq!(links.has_mac(&mac), walk.values().any(|it| with_it(&it)));
                    let bridges = walk.values().filter(with_it).filter(|link| link.is_bridge());
                    prop_assert!(links.bridges_with(&mac).eq(bridges));
                }
                for bridge in walk.values().filter(|link| link.is_bridge()) {
                    let is_datapath =
                        |master: u32| walk.get(&master).is_some_and(Link::is_open_vswitch);
                    let port = first(&walk, |port| {
                        !port.is_bridge()
                            && port.master.is_some_and(|master| {
                                master == bridge.ifindex
                                    || bridge.is_open_vswitch()
                                        && port.mac == bridge.mac
                                        && is_datapath(master)
                            })
                    });
                    prop_assert_eq!(links.first_port(bridge), port);
                }
            }
            // Nothing is left of what is gone.
            for ifindex in 0..6 {
                links.remove(ifindex);
            }
            let Links { by_name, by_mac, bridges, ports, ports_by_mac, .. } = links;
            prop_assert_eq!(by_name, Index::default());
            prop_assert_eq!(ports, Index::default());
            for index in [by_mac, bridges, ports_by_mac] {
                prop_assert_eq!(index, Index::default());
            }
        }
    }
}
