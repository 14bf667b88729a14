//! A node as its kernel shows it: links, addresses, and what rtnetlink says when they change.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Address, Event, Intent, Link, world::usual};

/// The NIC that is guarded.
pub(super) const NIC: &str = "ens192";
/// Its index at the start.
pub(super) const NIC_INDEX: u32 = 2;
/// Kube-OVN's bridge, and the NIC's name while names are exchanged.
pub(super) const BRIDGE: &str = "br-provider";
/// Netlink port of whoever changes the node in these tests.
pub(super) const KUBE_OVN: u32 = 4001;

/// The node's own address, the VIP, and their like in IPv6.
pub(super) const NODE_IP: &str = "192.0.2.11/24";
pub(super) const VIP: &str = "192.0.2.10/32";
pub(super) const NODE_IP6: &str = "2001:db8::11/64";
pub(super) const LINK_LOCAL: &str = "fe80::11/64";

/// What the NIC becomes a port of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Datapath {
    /// A Linux bridge.
    Bridge,
    /// Open vSwitch's kernel datapath: every port has `ovs-system` as its master.
    Ovs,
}

impl Datapath {
    pub(super) const ALL: [Self; 2] = [Self::Bridge, Self::Ovs];
}

/// What rtnetlink broadcasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// `RTM_NEWLINK`.
    Link(Link),
    /// `RTM_DELLINK`.
    LinkRemoved(Link),
    /// Either of them of family `AF_BRIDGE`: a port joined or left.
    BridgePort(u32),
    /// `RTM_NEWADDR`.
    Address(u32, Address, u32),
    /// `RTM_DELADDR`.
    AddressRemoved(u32, Address, u32),
}

impl Message {
    /// What the rtnetlink monitor makes of it. `sequence` is the number of the request that it
    /// follows from.
    pub(super) fn events(&self, sequence: u32) -> Vec<Event> {
        let intent = match self {
            Self::Address(on, address, port) => Some((*on, *address, *port, true)),
            Self::AddressRemoved(on, address, port) => Some((*on, *address, *port, false)),
            Self::Link(_) | Self::LinkRemoved(_) | Self::BridgePort(_) => None,
        };
        let intent = intent.filter(|(_, _, port, _)| *port != 0);
        let intent = intent.map(|(ifindex, address, port, wanted)| {
            let intent = Intent { port, sequence, ifindex, address, wanted, refused: false };
            Event::Intent { intent }
        });
        let mut events: Vec<Event> = intent.into_iter().chain(self.event()).collect();
        // Who wants an address is known before it is there.
        if !matches!(self, Self::Address(..)) {
            events.reverse();
        }
        events
    }

    fn event(&self) -> Option<Event> {
        Some(match self.clone() {
            Self::Link(link) => Event::Link { link },
            Self::LinkRemoved(link) => Event::LinkRemoved { ifindex: link.ifindex },
            Self::BridgePort(_) => return None,
            Self::Address(ifindex, address, requester) => {
                Event::Address { ifindex, address, requester }
            }
            Self::AddressRemoved(ifindex, address, requester) => {
                Event::AddressRemoved { ifindex, address, requester }
            }
        })
    }
}

/// A change, as one request makes it. What it names and does not exist makes it a failed request:
/// nothing happens.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// A NIC is plugged in, up and with a carrier.
    AddNic(String),
    /// A link is gone: unplugged, or its bridge deleted.
    Remove(String),
    AddBridge(String),
    /// The first takes the MAC of the second.
    CopyMac(String, String),
    Up(String),
    Down(String),
    /// The cable: plugged in or not.
    Carrier(String, bool),
    Rename(String, String),
    /// The second becomes a port of the first.
    AddPort(String, String),
    RemovePort(String),
    AddAddress(String, Address),
    RemoveAddress(String, Address, u32),
    /// Nothing happens, for a while.
    Nothing,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) datapath: Datapath,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) addresses: BTreeMap<u32, BTreeSet<Address>>,
    /// The bridge of each port, which Open vSwitch does not tell.
    pub(super) bridge_of: BTreeMap<u32, u32>,
    unplugged: BTreeSet<u32>,
    next_index: u32,
}

pub(super) fn address(text: &str) -> Address {
    let (ip, prefix_len) = text.split_once('/').unwrap();
    Address { ip: ip.parse().unwrap(), prefix_len: prefix_len.parse().unwrap() }
}

impl Node {
    /// A node with one NIC that has the VIP.
    pub(super) fn new(datapath: Datapath) -> Self {
        let mut node = Self {
            datapath,
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            bridge_of: BTreeMap::new(),
            unplugged: BTreeSet::new(),
            next_index: NIC_INDEX,
        };
        node.apply(&Op::AddNic(NIC.to_owned()));
        for text in [NODE_IP, VIP, NODE_IP6, LINK_LOCAL] {
            node.apply(&Op::AddAddress(NIC.to_owned(), address(text)));
        }
        node
    }

    pub(super) fn index(&self, name: &str) -> Option<u32> {
        self.links.values().find(|link| link.name == name).map(|link| link.ifindex)
    }

    pub(super) fn addresses_of(&self, name: &str) -> BTreeSet<Address> {
        self.index(name).and_then(|index| self.addresses.get(&index)).cloned().unwrap_or_default()
    }

    /// Whether any interface has this address.
    pub(super) fn has_somewhere(&self, ip: std::net::IpAddr) -> bool {
        self.addresses.values().flatten().any(|address| address.ip == ip)
    }

    pub(super) fn snapshot(&self) -> Event {
        Event::Snapshot {
            links: self.links.values().cloned().collect(),
            addresses: self
                .addresses
                .iter()
                .flat_map(|(index, addresses)| addresses.iter().map(|a| (*index, *a)))
                .collect(),
            routes: Vec::new(),
            rules: usual(),
        }
    }

    /// Carries out one request and returns what is said of it, in the kernel's order.
    pub(super) fn apply(&mut self, op: &Op) -> Vec<Message> {
        let mut said = Vec::new();
        // None: the request failed for want of what it names.
        let _ = self.try_apply(op, &mut said);
        said
    }

    /// An address comes or goes because somebody asked for it.
    pub(super) fn ask(
        &mut self,
        index: u32,
        address: Address,
        wanted: bool,
        port: u32,
    ) -> Vec<Message> {
        let mut said = Vec::new();
        if !wanted {
            self.remove_address(index, address, port, &mut said);
        } else if self.links.contains_key(&index)
            && self.addresses.entry(index).or_default().insert(address)
        {
            said.push(Message::Address(index, address, port));
        }
        said
    }

    fn try_apply(&mut self, op: &Op, said: &mut Vec<Message>) -> Option<()> {
        match op {
            Op::AddNic(name) => self.add_link(name, None, true, said)?,
            Op::AddBridge(name) => self.add_bridge(name, said)?,
            Op::Remove(name) => self.remove(self.index(name)?, said),
            Op::CopyMac(to, from) => {
                let mac = self.links[&self.index(from)?].mac.clone();
                self.change(self.index(to)?, said, |link| link.mac = mac);
            }
            Op::Up(name) => self.up(self.index(name)?, said),
            Op::Down(name) => {
                let index = self.index(name)?;
                self.change(index, said, |link| link.up = false);
                // IPv6 addresses do not survive it (`addrconf_ifdown`); the link-local one is made
                // anew when it is up again.
                for address in self.addresses.get(&index).cloned().unwrap_or_default() {
                    if address.ip.is_ipv6() {
                        self.remove_address(index, address, 0, said);
                    }
                }
            }
            Op::Carrier(name, plugged) => {
                let index = self.index(name)?;
                if *plugged {
                    self.unplugged.remove(&index);
                } else {
                    self.unplugged.insert(index);
                }
                self.change(index, said, |_| {});
            }
            Op::Rename(from, to) => {
                let index = self.index(from)?;
                if self.index(to).is_none() {
                    self.change(index, said, |link| link.name.clone_from(to));
                }
            }
            Op::AddPort(bridge, port) => {
                let (bridge, port) = (self.index(bridge)?, self.index(port)?);
                self.add_port(bridge, port, said)?;
            }
            Op::RemovePort(port) => self.remove_port(self.index(port)?, said)?,
            Op::AddAddress(name, address) => {
                let index = self.index(name)?;
                self.addresses.entry(index).or_default().insert(*address);
                said.push(Message::Address(index, *address, KUBE_OVN));
            }
            Op::RemoveAddress(name, address, requester) => {
                self.remove_address(self.index(name)?, *address, *requester, said);
            }
            Op::Nothing => {}
        }
        Some(())
    }

    fn add_link(
        &mut self,
        name: &str,
        kind: Option<&str>,
        up: bool,
        said: &mut Vec<Message>,
    ) -> Option<()> {
        if self.index(name).is_some() {
            return None;
        }
        let ifindex = self.next_index;
        self.next_index += 1;
        let mac = vec![2, 0, 0, 0, 0, ifindex as u8];
        let kind = kind.map(str::to_owned);
        let link = Link { ifindex, name: name.to_owned(), kind, mac, up, ..Link::default() };
        self.links.insert(ifindex, link);
        let link = self.links.get_mut(&ifindex)?;
        link.running = up && link.kind.is_none();
        said.push(Message::Link(link.clone()));
        Some(())
    }

    fn add_bridge(&mut self, name: &str, said: &mut Vec<Message>) -> Option<()> {
        if self.index(name).is_some() {
            return None;
        }
        match self.datapath {
            Datapath::Bridge => self.add_link(name, Some("bridge"), false, said),
            Datapath::Ovs => {
                if self.index("ovs-system").is_none() {
                    self.add_link("ovs-system", Some("openvswitch"), false, said)?;
                }
                self.add_link(name, Some("openvswitch"), false, said)?;
                let system = self.index("ovs-system");
                self.change(self.index(name)?, said, |link| link.master = system);
                Some(())
            }
        }
    }

    fn remove(&mut self, index: u32, said: &mut Vec<Message>) {
        let ports: Vec<u32> =
            self.bridge_of.iter().filter(|(_, b)| **b == index).map(|(p, _)| *p).collect();
        for port in ports {
            let _ = self.remove_port(port, said);
        }
        let _ = self.remove_port(index, said);
        for address in self.addresses.remove(&index).unwrap_or_default() {
            said.push(Message::AddressRemoved(index, address, 0));
        }
        if let Some(link) = self.links.remove(&index) {
            said.push(Message::LinkRemoved(link));
        }
        self.unplugged.remove(&index);
    }

    /// A NIC has no carrier at first, and says so twice.
    fn up(&mut self, index: u32, said: &mut Vec<Message>) {
        let Some(link) = self.links.get_mut(&index).filter(|link| !link.up) else { return };
        let physical = link.kind.is_none();
        if physical {
            link.up = true;
            said.push(Message::Link(link.clone()));
        }
        self.change(index, said, |link| link.up = true);
        if physical {
            let made = address(LINK_LOCAL);
            if self.addresses.entry(index).or_default().insert(made) {
                said.push(Message::Address(index, made, 0));
            }
        }
    }

    fn add_port(&mut self, bridge: u32, port: u32, said: &mut Vec<Message>) -> Option<()> {
        let master = match self.datapath {
            Datapath::Bridge => bridge,
            Datapath::Ovs => self.index("ovs-system")?,
        };
        let fits = self.links[&bridge].is_bridge()
            && bridge != self.index("ovs-system").unwrap_or(0)
            && self.links[&port].kind.is_none();
        if !fits || self.links[&port].master.is_some() {
            return None;
        }
        self.bridge_of.insert(port, bridge);
        if self.datapath == Datapath::Bridge {
            said.push(Message::BridgePort(port));
        }
        self.change(port, said, |link| link.master = Some(master));
        Some(())
    }

    fn remove_port(&mut self, port: u32, said: &mut Vec<Message>) -> Option<()> {
        self.bridge_of.remove(&port)?;
        if self.datapath == Datapath::Bridge {
            said.push(Message::BridgePort(port));
        }
        self.change(port, said, |link| link.master = None);
        Some(())
    }

    fn remove_address(
        &mut self,
        index: u32,
        address: Address,
        requester: u32,
        said: &mut Vec<Message>,
    ) {
        if self.addresses.get_mut(&index).is_some_and(|known| known.remove(&address)) {
            said.push(Message::AddressRemoved(index, address, requester));
        }
    }

    /// Changes a link, and whatever follows from that for the carrier of bridges.
    fn change(&mut self, index: u32, said: &mut Vec<Message>, change: impl FnOnce(&mut Link)) {
        let before = self.links.clone();
        if let Some(link) = self.links.get_mut(&index) {
            change(link);
        }
        let carries: BTreeSet<u32> = self
            .links
            .values()
            .filter(|link| match link.kind.as_deref() {
                None => !self.unplugged.contains(&link.ifindex),
                Some("bridge") => self.bridge_of.iter().any(|(port, bridge)| {
                    *bridge == link.ifindex && self.links[port].up && !self.unplugged.contains(port)
                }),
                Some(_) => true,
            })
            .map(|link| link.ifindex)
            .collect();
        for link in self.links.values_mut() {
            link.running = link.up && carries.contains(&link.ifindex);
            if before.get(&link.ifindex) != Some(link) {
                said.push(Message::Link(link.clone()));
            }
        }
    }
}
