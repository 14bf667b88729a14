//! A guarded process and its sockets, as a scan finds them.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

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

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// An address's.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        })
    }
}

/// A raw socket of protocol 112.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VrrpSocket {
    /// Which.
    pub id: SocketId,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The interface it is bound to (`SO_BINDTOIFINDEX`); none if it is not bound.
    pub bound: Option<u32>,
    /// Where its daemon made it, whoever moved it since: known by a membership in VRRP's group.
    pub home: Option<u32>,
    /// The interface that its multicast goes to: told of IPv6 only.
    #[serde(default)]
    pub multicast: Option<u32>,
    /// The multicast group that it has joined, where its daemon made it or elsewhere.
    #[serde(default)]
    pub group: Option<IpAddr>,
    /// It only sends: its daemon lets nothing be received on it.
    #[serde(default)]
    pub sends: bool,
}

impl VrrpSocket {
    /// Whether IPv6 adverts to single peers (`unicast_peer`) are sent from it: keepalived gives it no interface for
    /// multicast, as it does all others that send.
    #[must_use]
    pub fn sends_to_peers(&self) -> bool {
        self.sends && self.family == Family::Ipv6 && self.multicast.is_none()
    }
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
    /// It has a socket that is good for asking about interfaces alone: keepalived's with `linkbeat_use_polling`.
    #[serde(default)]
    pub polls: bool,
    /// VIPs that its adverts do not name, as its configuration says: keepalived's `virtual_ipaddress_excluded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Excluded>,
}

/// A VIP of a virtual router that is in none of its adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Of which router.
    pub router_id: u8,
    /// The VIP.
    pub ip: IpAddr,
}

impl Daemon {
    /// Whether all that it hears of the network passes the guard.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        let is_guarded = |monitor: &MonitorSocket| monitor.filter == Filter::Guard;
        self.trouble.is_none() && !self.monitors.is_empty() && self.monitors.iter().all(is_guarded)
    }

    /// Whether nothing stands in the way of guarding it: it can be looked at, and no monitor socket
    /// carries somebody else's filter.
    #[must_use]
    pub fn is_guardable(&self) -> bool {
        let is_foreign = |monitor: &MonitorSocket| monitor.filter == Filter::Foreign;
        self.trouble.is_none() && !self.monitors.iter().any(is_foreign)
    }
}
