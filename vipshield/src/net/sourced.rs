//! Routes with an IPv4 source, word for word: the kernel drops them once that address is local no more. It says so
//! since Linux 6.6, as if nobody had asked for it, right behind the word that the address left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol},
};

use super::{carry::PROTOCOL, route::plain, rule::RT_TABLE_LOCAL};

/// Routes remembered; a node has a few.
const MAX: usize = 4096;

/// What makes a route another one than those to the same destination: `fib_find_alias` in `net/ipv4/fib_trie.c`,
/// and its interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    table: u32,
    destination: Option<IpAddr>,
    prefix_len: u8,
    tos: u8,
    priority: u32,
    ifindex: u32,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Sourced {
    routes: BTreeMap<Key, RouteMessage>,
    /// Addresses that left an interface, and came to none since.
    away: BTreeSet<IpAddr>,
}

impl Sourced {
    /// These are all that there are.
    pub(super) fn list(&mut self, routes: &[RouteMessage]) {
        self.routes.clear();
        self.away.clear();
        for route in routes {
            self.see(route, false);
        }
    }

    /// A route is there; in place of those that are alike but for the interface, or not.
    pub(super) fn see(&mut self, route: &RouteMessage, replaces: bool) {
        if route.header.address_family != AddressFamily::Inet {
            return;
        }
        let key = key(route);
        if replaces {
            self.routes.retain(|known, _| {
                Key { ifindex: 0, ..known.clone() } != Key { ifindex: 0, ..key.clone() }
            });
        }
        if source(route).is_some() && is_ones_own(route) && self.routes.len() < MAX {
            self.routes.insert(key, route.clone());
        } else {
            self.routes.remove(&key);
        }
    }

    /// A route is gone, as this netlink port has asked for; or, without a port, the kernel has dropped it with its
    /// source.
    pub(super) fn gone(&mut self, route: &RouteMessage, requester: u32) {
        let is_away = source(route).is_some_and(|source| self.away.contains(&source));
        if requester != 0 || !is_away {
            self.routes.remove(&key(route));
        }
    }

    /// An address came to an interface, or left one.
    pub(super) fn moved(&mut self, ip: IpAddr, came: bool) {
        if came {
            self.away.remove(&ip);
        } else if ip.is_ipv4() && self.away.len() < MAX {
            self.away.insert(ip);
        }
    }

    /// Those with this source, but through these interfaces, as one asks for them.
    pub(super) fn from(&self, ip: IpAddr, except: &BTreeSet<u32>) -> Vec<RouteMessage> {
        let found = self.routes.iter().filter(|(key, route)| {
            source(route) == Some(ip) && key.ifindex != 0 && !except.contains(&key.ifindex)
        });
        found.map(|(_, route)| asked_for(route.clone())).collect()
    }
}

/// Whether somebody has made it: not the kernel with an address, and not vipshield.
fn is_ones_own(route: &RouteMessage) -> bool {
    let header = &route.header;
    header.table != RT_TABLE_LOCAL
        && header.protocol != RouteProtocol::Kernel
        && header.protocol != RouteProtocol::Other(PROTOCOL)
}

fn source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(ip @ RouteAddress::Inet(_)) => plain(ip),
        _ => None,
    })
}

/// Where a route leads, for people.
pub(super) fn destination(route: &RouteMessage) -> String {
    let Key { table, destination, prefix_len, .. } = key(route);
    let destination = destination.map_or_else(|| "default".to_owned(), |ip| ip.to_string());
    format!("{destination}/{prefix_len} in table {table}")
}

fn key(route: &RouteMessage) -> Key {
    let header = &route.header;
    let (prefix_len, tos) = (header.destination_prefix_length, header.tos);
    let mut key = Key {
        table: header.table.into(),
        destination: None,
        prefix_len,
        tos,
        priority: 0,
        ifindex: 0,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Table(table) => key.table = *table,
            RouteAttribute::Destination(ip) => key.destination = plain(ip),
            RouteAttribute::Priority(priority) => key.priority = *priority,
            RouteAttribute::Oif(ifindex) => key.ifindex = *ifindex,
            _ => {}
        }
    }
    key
}

/// Without what the kernel says of a route and nobody asks for: how its next hop is, and how old it is.
fn asked_for(mut route: RouteMessage) -> RouteMessage {
    route.header.flags &= RouteFlags::Onlink;
    route.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    route
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
    const NIC: u32 = 2;
    const OVN0: u32 = 5;

    fn route(ifindex: u32, table: u8, protocol: RouteProtocol) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = table;
        route.header.protocol = protocol;
        route.header.destination_prefix_length = 16;
        route.header.flags = RouteFlags::Onlink | RouteFlags::Linkdown;
        route.attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 16, 0, 0))),
            RouteAttribute::PrefSource(RouteAddress::Inet(NODE)),
            RouteAttribute::Oif(ifindex),
        ];
        route
    }

    fn found(sourced: &Sourced) -> Vec<u32> {
        let found = sourced.from(NODE.into(), &BTreeSet::from([NIC]));
        found.iter().map(|route| key(route).ifindex).collect()
    }

    #[test]
    fn what_somebody_made_is_known_until_somebody_deletes_it() {
        let mut sourced = Sourced::default();
        let pods = route(OVN0, 254, RouteProtocol::Static);
        sourced.list(&[
            pods.clone(),
            route(NIC, 254, RouteProtocol::Static),
            route(OVN0, 255, RouteProtocol::Static),
            route(OVN0, 7, RouteProtocol::Kernel),
            route(OVN0, 8, RouteProtocol::Other(PROTOCOL)),
            route(OVN0, 9, RouteProtocol::Boot),
        ]);
        assert_eq!(found(&sourced), [OVN0, OVN0], "in any table but that of local addresses");
        assert_eq!(destination(&pods), "10.16.0.0/16 in table 254");
        assert!(sourced.from(Ipv4Addr::LOCALHOST.into(), &BTreeSet::new()).is_empty());
        let asked = sourced.from(NODE.into(), &BTreeSet::new());
        assert!(asked.iter().all(|route| route.header.flags == RouteFlags::Onlink), "{asked:?}");
        sourced.moved(NODE.into(), false);
        sourced.gone(&pods, 0);
        assert_eq!(found(&sourced), [OVN0, OVN0], "the kernel dropped it with its source");
        sourced.moved(NODE.into(), true);
        sourced.gone(&pods, 0);
        assert_eq!(found(&sourced), [OVN0], "by ioctl(2)");
        sourced.moved(NODE.into(), false);
        sourced.gone(&route(OVN0, 9, RouteProtocol::Boot), 77);
        assert!(found(&sourced).is_empty());
        sourced.list(&[]);
        assert!(found(&sourced).is_empty());
    }

    #[test]
    fn what_is_replaced_is_not_put_back() {
        let mut sourced = Sourced::default();
        sourced.see(&route(OVN0, 254, RouteProtocol::Static), false);
        sourced.see(&route(6, 254, RouteProtocol::Static), false);
        assert_eq!(found(&sourced), [OVN0, 6], "one beside the other");
        let mut other = route(7, 254, RouteProtocol::Static);
        other.attributes.retain(|it| !matches!(it, RouteAttribute::PrefSource(_)));
        sourced.see(&other, true);
        assert!(found(&sourced).is_empty());
    }
}
