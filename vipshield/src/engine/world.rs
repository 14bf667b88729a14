//! What is observed: links, addresses, routes and daemons, as last reported by the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{carry::Route, vips::Vips};

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

impl Link {
    /// A Linux bridge, or an internal port of Open vSwitch: what can carry a port's addresses.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        matches!(self.kind.as_deref(), Some("bridge" | "openvswitch"))
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

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

impl Address {
    /// 169.254.0.0/16 or `fe80::/10`: Kube-OVN leaves these where they are.
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

/// What a guarded process does for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Speaks VRRP: it has raw sockets of protocol 112.
    Vrrp,
    /// Watches addresses without speaking VRRP: keepalived's checkers child.
    Checkers,
}

/// A socket of another process. The inode tells whether the descriptor still means this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SocketId {
    /// Process id.
    pub pid: u32,
    /// Descriptor in that process.
    pub fd: i32,
    /// Inode on sockfs.
    pub inode: u64,
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "descriptor {} of process {}", self.fd, self.pid)
    }
}

/// Whose filter a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// None.
    None,
    /// This vipshield's guard.
    Guard,
    /// The guard of a vipshield that is gone.
    Stale,
    /// Somebody else's: left alone.
    Foreign,
}

/// An rtnetlink socket that joined multicast groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorSocket {
    /// Which.
    pub id: SocketId,
    /// The filter found on it.
    pub filter: Filter,
}

/// An rtnetlink socket without groups: the daemon's requests come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandSocket {
    /// Which.
    pub id: SocketId,
    /// Its netlink port: requests bear it.
    pub port: u32,
    /// The filter found on it; vipshield's own reports what the kernel refuses.
    pub filter: Filter,
}

/// Address family of a VRRP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `AF_INET`.
    Ipv4,
    /// `AF_INET6`.
    Ipv6,
}

/// A raw socket of protocol 112.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpSocket {
    /// Which.
    pub id: SocketId,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The interface it is bound to (`SO_BINDTOIFINDEX`); none if it is not bound.
    pub bound: Option<u32>,
    /// Where its daemon made it, whoever moved it since: known by a membership in VRRP's group.
    pub home: Option<u32>,
}

/// A guarded process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks after boot: with the pid, it names one process for ever.
    pub start_time: u64,
    /// Name of its executable.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// Sockets to listen in on.
    pub commands: Vec<CommandSocket>,
    /// Sockets to guard.
    pub monitors: Vec<MonitorSocket>,
    /// Sockets to keep on the bearer.
    pub vrrp: Vec<VrrpSocket>,
    /// What of it could not be looked at, and why.
    pub trouble: Option<String>,
}

impl Daemon {
    /// Whether nothing stands in the way of guarding it: it can be looked at, and no monitor socket
    /// carries somebody else's filter.
    #[must_use]
    pub fn is_guardable(&self) -> bool {
        let is_foreign = |monitor: &MonitorSocket| monitor.filter == Filter::Foreign;
        self.trouble.is_none() && !self.monitors.iter().any(is_foreign)
    }
}

/// Everything observed.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// By interface index.
    pub links: BTreeMap<u32, Link>,
    /// By interface index.
    pub addresses: BTreeMap<u32, BTreeSet<Address>>,
    /// vipshield's own addresses, with their interface index.
    pub own: BTreeSet<(u32, IpAddr)>,
    /// Routes of the main table, by interface index; 0 for those that no single interface has.
    pub routes: BTreeMap<u32, BTreeSet<Route>>,
    /// By process id.
    pub daemons: BTreeMap<u32, Daemon>,
    /// What the daemons mean to have.
    pub(super) vips: Vips,
}

impl World {
    /// The link of this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The name of a link, or its index where the link is gone.
    #[must_use]
    pub fn name_of(&self, ifindex: u32) -> String {
        self.links
            .get(&ifindex)
            .map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }

    /// The addresses of an interface.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = Address> + '_ {
        self.addresses.get(&ifindex).into_iter().flatten().copied()
    }

    /// The routes of an interface.
    pub fn routes_of(&self, ifindex: u32) -> impl Iterator<Item = Route> + '_ {
        self.routes.get(&ifindex).into_iter().flatten().copied()
    }

    /// Whether the kernel prefers another route to the same destination, of an interface that `others`
    /// names.
    #[must_use]
    pub fn outranks(&self, route: &Route, others: impl Fn(u32) -> bool) -> bool {
        // In the order of routes, those of lower metrics to the same destination are between these two.
        let lowest = Route { metric: 0, gateway: None, source: None, mtu: 0, ..*route };
        let equal = Route { metric: route.metric, ..lowest };
        let better = |routes: &BTreeSet<Route>| routes.range(lowest..equal).next().is_some();
        self.routes.iter().any(|(ifindex, routes)| better(routes) && others(*ifindex))
    }

    /// An address left an interface. With the last IPv4 address of an interface the kernel flushes
    /// every IPv4 route through it without a word (`fib_disable_ip` in `net/ipv4/fib_frontend.c`).
    pub(super) fn address_left(&mut self, ifindex: u32) {
        let own = self.own.iter().filter(|own| own.0 == ifindex).map(|own| own.1);
        let left = self.addresses_of(ifindex).map(|address| address.ip).chain(own);
        if left.filter(IpAddr::is_ipv4).count() == 0 {
            self.flush_ipv4(ifindex);
        }
    }

    /// The kernel flushed every IPv4 route through an interface.
    pub(super) fn flush_ipv4(&mut self, ifindex: u32) {
        if let Some(routes) = self.routes.get_mut(&ifindex) {
            routes.retain(|route| route.destination.is_ipv6());
        }
    }

    /// What led there with this metric has been replaced.
    pub(super) fn route_replaced(&mut self, destination: IpAddr, prefix_len: u8, metric: u32) {
        let replaced = (destination, prefix_len, metric);
        for routes in self.routes.values_mut() {
            routes.retain(|it| (it.destination, it.prefix_len, it.metric) != replaced);
        }
    }

    /// Whether an interface has this address, whatever the length of its prefix.
    #[must_use]
    pub fn has_ip(&self, ifindex: u32, ip: IpAddr) -> bool {
        self.addresses_of(ifindex).any(|address| address.ip == ip)
    }

    /// Whether a bridge of any kind has this address.
    #[must_use]
    pub fn on_a_bridge(&self, ip: IpAddr) -> bool {
        self.links.values().any(|link| link.is_bridge() && self.has_ip(link.ifindex, ip))
    }

    /// The guarded daemon whose requests bear this netlink port.
    #[must_use]
    pub fn daemon_at(&self, port: u32) -> Option<u32> {
        let mut daemons = self.daemons.values().filter(|_| port != 0);
        let at = |daemon: &&Daemon| daemon.commands.iter().any(|command| command.port == port);
        daemons.find(at).map(|daemon| daemon.pid)
    }

    /// The link whose port an interface is.
    #[must_use]
    pub fn taker(&self, ifindex: u32) -> Option<&Link> {
        let master = self.links.get(&ifindex)?.master?;
        self.links.get(&master).filter(|master| master.takes_ports())
    }

    /// Where frames that arrive on `nic` go up the stack: the NIC itself when it is free, the
    /// bridge whose port it is otherwise. None while that bridge cannot be told.
    ///
    /// Every port of Open vSwitch has `ovs-system` as its master, so there the bridge is the
    /// internal port that holds the NIC's addresses, or else its MAC (Kube-OVN gives it both);
    /// `current` wins a tie, so that a second likeness does not move the bearer.
    #[must_use]
    pub fn bearer(
        &self,
        nic: &Link,
        home: &BTreeSet<Address>,
        current: Option<u32>,
    ) -> Option<u32> {
        let Some(master) = self.taker(nic.ifindex) else { return Some(nic.ifindex) };
        if master.kind.as_deref() != Some("openvswitch") {
            return Some(master.ifindex);
        }
        let master = master.ifindex;
        self.links
            .values()
            .filter(|link| link.kind.as_deref() == Some("openvswitch") && link.ifindex != master)
            .map(|link| {
                let held = home
                    .iter()
                    .filter(|address| {
                        !address.is_link_local() && self.has_ip(link.ifindex, address.ip)
                    })
                    .count();
                let same_mac = !nic.mac.is_empty() && link.mac == nic.mac;
                ((held, same_mac, current == Some(link.ifindex)), link.ifindex)
            })
            .filter(|((held, same_mac, _), _)| *held > 0 || *same_mac)
            .max()
            .map(|(_, ifindex)| ifindex)
    }
}
