//! Carry: keeping the node reachable through the NIC while its addresses and routes are moved.
//!
//! Make before break: for as long as a plan is in force, the NIC's addresses are delivered to this
//! node wherever they are, and what used to leave through the NIC still does.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

/// A route of the main table with one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where to; the unspecified address of its family with length 0 is the default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix.
    pub prefix_len: u8,
    /// Priority: the lowest wins.
    pub metric: u32,
    /// The next hop; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Path MTU, 0 if the route says nothing about it.
    pub mtu: u32,
}

impl Route {
    /// Link-local and multicast destinations stay with the NIC and need no carrying.
    #[must_use]
    pub const fn is_movable(&self) -> bool {
        match self.destination {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_multicast(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_multicast(),
        }
    }

    /// Whether `ip` is in the destination's prefix.
    #[must_use]
    pub const fn covers(&self, ip: IpAddr) -> bool {
        let (same, bits) = match (self.destination, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                ((net.to_bits() ^ ip.to_bits()).leading_zeros(), 32)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                ((net.to_bits() ^ ip.to_bits()).leading_zeros(), 128)
            }
            _ => return false,
        };
        self.prefix_len as u32 <= bits && same >= self.prefix_len as u32
    }
}

/// What is in force for one NIC. The empty plan is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Plan {
    /// Delivered to this node, on whatever interface they are or if they are on none.
    pub addresses: BTreeSet<IpAddr>,
    /// The spare table: these routes, through the NIC.
    pub routes: BTreeSet<Route>,
    /// The spare table comes before the main one's routes to the same destinations; without, it stands by
    /// for when they are gone.
    pub in_use: bool,
}

impl Plan {
    /// Nothing is carried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// Whether there is anything of IPv4 in it.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
            || self.routes.iter().any(|route| route.destination.is_ipv4())
    }

    /// The destinations of one family that rules are needed for, the longest prefix first.
    #[must_use]
    pub fn prefixes(&self, ipv6: bool) -> Vec<(IpAddr, u8)> {
        let prefixes: BTreeSet<(u8, IpAddr)> = self
            .routes
            .iter()
            .filter(|route| route.destination.is_ipv6() == ipv6)
            .map(|route| (route.prefix_len, route.destination))
            .collect();
        prefixes.into_iter().rev().map(|(prefix_len, ip)| (ip, prefix_len)).collect()
    }
}

/// What is in force on a NIC, or found there of a vipshield that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Of each any part may be in force.
    pub plans: Vec<Plan>,
    /// An address stands in for its own: a daemon may be about to start.
    pub stands_in: bool,
}

/// NIC and bearer as one wire, past the bridge between them, in the moments in which the bridge
/// does not forward and userspace does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shunt {
    /// Interface index of the other end: the bridge that has the NIC's addresses.
    pub bearer: u32,
    /// What throws it.
    pub trigger: Trigger,
}

/// What throws a [`Shunt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The NIC becomes a port.
    Join,
    /// The NIC is a port no longer.
    Cut,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, prefix_len: u8, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            prefix_len,
            metric,
            gateway: None,
            source: None,
            mtu: 0,
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let covers = |net, length, ip: &str| route(net, length, 0).covers(ip.parse().unwrap());
        assert!(covers("192.0.2.0", 24, "192.0.2.100"));
        assert!(!covers("192.0.2.0", 24, "192.0.3.1"));
        assert!(covers("2001:db8::", 64, "2001:db8::100"));
        assert!(!covers("2001:db8::", 64, "2001:db8:0:1::1"));
        assert!(covers("::", 0, "2001:db8::1") && !covers("::", 0, "192.0.2.1"));
        assert!(!covers("0.0.0.0", 33, "0.0.0.0"));
    }

    #[test]
    fn rules_go_from_the_longest_prefix_to_the_shortest_and_once_each() {
        let plan = Plan {
            routes: BTreeSet::from([
                route("0.0.0.0", 0, 100),
                route("0.0.0.0", 0, 200),
                route("192.0.2.0", 24, 0),
                route("198.51.100.7", 32, 0),
                route("2001:db8::", 64, 256),
            ]),
            ..Plan::default()
        };
        let lengths: Vec<u8> = plan.prefixes(false).iter().map(|(_, length)| *length).collect();
        assert_eq!(lengths, [32, 24, 0]);
        assert_eq!(plan.prefixes(true).len(), 1);
    }
}
