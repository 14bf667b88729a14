//! Routes as rtnetlink says them, and what of them the engine has to know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use rtnetlink::Handle;

use crate::engine::Route;

/// `linux/rtnetlink.h`.
pub(super) const RT_TABLE_MAIN: u8 = 254;

/// Every route of every table, IPv4 and IPv6.
pub(super) async fn all_routes(handle: &Handle) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        let found: Vec<RouteMessage> = handle.route().get(all).execute().try_collect().await?;
        routes.extend(found);
    }
    Ok(routes)
}

/// A route message of the main table as the engine knows it, with its interface. One that no single
/// next hop is, or that leads nowhere, is interface 0's: no NIC has it, but it may outrank what one has.
pub(super) fn decode(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    if header.table != RT_TABLE_MAIN || header.tos != 0 {
        return None;
    }
    of_any_table(message)
}

/// The same of a route of any table.
pub(super) fn of_any_table(message: &RouteMessage) -> Option<(u32, Route)> {
    let header = &message.header;
    let destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let prefix_len = header.destination_prefix_length;
    let mut route =
        Route { destination, prefix_len, metric: 0, gateway: None, source: None, mtu: 0 };
    let mut ifindex = 0;
    let mut is_plain = header.kind == RouteType::Unicast;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => route.destination = plain(ip)?,
            RouteAttribute::Priority(priority) => route.metric = *priority,
            RouteAttribute::Oif(index) => ifindex = *index,
            RouteAttribute::Gateway(ip) => route.gateway = Some(plain(ip)?),
            RouteAttribute::PrefSource(ip) => route.source = Some(plain(ip)?),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = *mtu;
                    }
                }
            }
            // A gateway of the other family is none that the engine knows.
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => is_plain = false,
            _ => {}
        }
    }
    if !is_plain {
        return Some((0, Route { gateway: None, source: None, mtu: 0, ..route }));
    }
    Some((ifindex, route))
}

pub(super) const fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
