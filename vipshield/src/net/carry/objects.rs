//! What a plan consists of, as the kernel has it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
    rule::{RuleAttribute, RuleMessage},
};

use super::{ANCHOR, EARLY_ANCHOR, LIFETIME, PROTOCOL, SPARE_TABLE};
use crate::{
    engine::{Plan, Route},
    net::{route::plain, rule::RT_TABLE_LOCAL},
};

/// Metric of the local routes: worse than any of the kernel's.
const LOCAL_METRIC: u32 = 5252;
/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Own(u32, Ipv4Addr),
    Route(Box<RouteMessage>),
    Rule(Box<RuleMessage>),
}

/// What a plan consists of on a NIC, in the order in which it depends on each other.
pub(super) fn objects(nic: u32, plan: &Plan) -> Vec<Object> {
    let mut objects = Vec::new();
    if plan.is_empty() {
        return objects;
    }
    if plan.is_ipv4() {
        objects.push(Object::Own(nic, if plan.ahead { EARLY_ANCHOR } else { ANCHOR }));
    }
    for address in &plan.addresses {
        objects.push(Object::Route(Box::new(local_route(nic, *address))));
    }
    // What is on the link comes before what has a gateway there, and of that the default routes first.
    let (on_link, mut behind): (Vec<&Route>, Vec<&Route>) =
        plan.routes.iter().partition(|route| route.gateway.is_none());
    behind.sort_by_key(|route| route.prefix_len > 0);
    for route in on_link.iter().chain(&behind) {
        objects.push(Object::Route(Box::new(spare_route(nic, route, &on_link))));
    }
    objects
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(nic, own) => write!(f, "the address {own} on interface {nic}"),
            Self::Route(message) => {
                let to = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Destination(to) => plain(to),
                    _ => None,
                });
                let length = message.header.destination_prefix_length;
                let kind = if message.header.kind == RouteType::Local { "local " } else { "" };
                match to {
                    Some(to) => write!(f, "the {kind}route to {to}/{length}"),
                    None => write!(f, "the {kind}default route"),
                }
            }
            Self::Rule(message) => {
                let priority = message.attributes.iter().find_map(|attribute| match attribute {
                    RuleAttribute::Priority(priority) => Some(*priority),
                    _ => None,
                });
                write!(f, "the rule of priority {}", priority.unwrap_or(0))
            }
        }
    }
}

fn route(destination: IpAddr, length: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(destination),
        destination_prefix_length: length,
        protocol: RouteProtocol::from(PROTOCOL),
        ..RouteHeader::default()
    };
    if length > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.into()));
    }
    if destination.is_ipv6() {
        message.attributes.push(RouteAttribute::Expires(LIFETIME));
    }
    message
}

fn local_route(nic: u32, address: IpAddr) -> RouteMessage {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut message = route(address, length);
    message.header.table = RT_TABLE_LOCAL;
    message.header.kind = RouteType::Local;
    message.header.scope = RouteScope::Host;
    message.attributes.push(RouteAttribute::Oif(nic));
    message.attributes.push(RouteAttribute::Priority(LOCAL_METRIC));
    message
}

fn spare_route(nic: u32, from: &Route, on_link: &[&Route]) -> RouteMessage {
    let mut message = route(from.destination, from.prefix_len);
    message.header.kind = RouteType::Unicast;
    message.header.scope = if from.gateway.is_none() && from.destination.is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.attributes.push(RouteAttribute::Table(SPARE_TABLE));
    message.attributes.push(RouteAttribute::Oif(nic));
    message.attributes.push(RouteAttribute::Priority(from.metric));
    if let Some(gateway) = from.gateway {
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        // The route to the gateway's network may be gone at this very moment. For IPv6 the kernel
        // looks the gateway up in the spare table, where that route is by now; told that it is on
        // the link, it would look in the main table, and refuse one that the bridge leads to
        // (`ip6_route_check_nh` and `ip6_route_check_nh_onlink` in `net/ipv6/route.c`).
        if gateway.is_ipv4() || !on_link.iter().any(|route| route.covers(gateway)) {
            message.header.flags = RouteFlags::Onlink;
        }
    }
    if let Some(source) = from.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if from.mtu > 0 {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(from.mtu)]));
    }
    message
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
