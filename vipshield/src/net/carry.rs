//! Carrying, in routes and rules of vipshield's own.
//!
//! - An address of vipshield's own on the NIC ([`ANCHOR`]): when the last IPv4 address leaves an
//!   interface, the kernel flushes every route through it (`fib_disable_ip` in
//!   `net/ipv4/fib_frontend.c`). Kube-OVN leaves link-local addresses alone.
//! - A local route for each address through the NIC, worse than the kernel's own, so that packets to
//!   it are delivered while it is on no interface.
//! - The spare table with the NIC's routes, and for each destination two rules before the main
//!   table's: routes of the main table that are more specific still win, and everything else takes
//!   the spare table. Without the first, a pod's host route would lose to the NIC's default route.
//!
//! Should vipshield die, all of this must not outlive it: a node whose routes lead through a NIC
//! that has become a port resolves no new neighbour. So the anchor has a lifetime that is renewed
//! ([`Carrier::renew`]). When it ends and the NIC has no other IPv4 address, the flush that the
//! anchor held back takes every route through the NIC with it, and the rules point to an empty
//! table. IPv6 routes have lifetimes of their own.
//!
//! All of it bears vipshield's protocol number ([`PROTOCOL`]), so that [`Carrier::sweep`] finds it.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::{TryStreamExt as _, future::join_all};
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
        RouteScope, RouteType,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use rtnetlink::{Handle, IpVersion};
use thiserror::Error;

use super::{
    clsact::{self, ClsactError},
    own::{self, ANCHOR, OWN, STAND_IN},
};
use crate::engine::{Plan, Route};

/// Route and rule protocol: says whose they are. Not in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 118;
/// Number of the spare table.
pub const SPARE_TABLE: u32 = 5252;
/// Metric of the local routes: worse than any of the kernel's.
const LOCAL_METRIC: u32 = 5252;
/// Priority of the first rule for the default route. Behind the rules of others, before the main
/// table's (32766); those for longer prefixes come before it.
const DEFAULT_RULE: u32 = 32_764;
/// Rules are bounded: so many destinations.
const MAX_PREFIXES: usize = 64;
/// Seconds for which anchor and IPv6 routes last unless they are renewed.
const LIFETIME: u32 = 4;
/// Seconds for which a stand-in lasts at the most.
const STAND_IN_LIFETIME: u32 = 60;
/// `linux/rtnetlink.h`.
const RT_TABLE_LOCAL: u8 = 255;
const RT_TABLE_MAIN: u8 = 254;

/// Something of the carry could not be put in force or taken back.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct CarryError {
    what: String,
    source: rtnetlink::Error,
}

/// Puts plans in force and takes them back.
pub struct Carrier {
    handle: Handle,
}

/// One object, as the kernel has it.
#[derive(Clone, PartialEq, Eq)]
enum Object {
    Own(u32, Ipv4Addr),
    Route(Box<RouteMessage>),
    Rule(Box<RuleMessage>),
}

impl Carrier {
    /// A carrier that makes its requests through `handle`.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Has the kernel do at once what the first rule of a network namespace makes it do: it takes
    /// the table of local addresses, until then part of the main one, out of it (`fib_unmerge`,
    /// `net/ipv4/fib_rules.c`), and finds none of them for a moment. Within a sequence that would
    /// cost packets.
    pub async fn prepare(&self) -> Result<(), CarryError> {
        let rule = Object::Rule(Box::new(rule(
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            0,
            DEFAULT_RULE,
            SPARE_TABLE,
        )));
        for add in [true, false] {
            settled(add, self.set(&rule, add).await)
                .map_err(|source| CarryError { what: format!("preparing {rule}"), source })?;
        }
        Ok(())
    }

    /// Replaces `old` by `new` for a NIC. What both have is not touched. New objects come first,
    /// in the order in which they depend on each other, and old ones go in the reverse order.
    /// Objects that are there, or gone, already are no error, so a failed change can be repeated. If
    /// there are several old plans, any object of theirs may be there, or not.
    pub async fn change(&self, nic: u32, old: &[Plan], new: &Plan) -> Result<(), CarryError> {
        let before: Vec<Vec<Object>> = old.iter().map(|plan| objects(nic, plan)).collect();
        let after = objects(nic, new);
        let is_there =
            |object: &Object| !before.is_empty() && before.iter().all(|all| all.contains(object));
        let added = after.iter().filter(|object| !is_there(object));
        let removed = before.iter().flatten().rev().filter(|object| !after.contains(object));
        // Requests of one socket are served in order: all are under way at once.
        let changes: Vec<_> = added
            .map(|object| (object, true))
            .chain(removed.map(|object| (object, false)))
            .collect();
        let results = join_all(changes.iter().map(|(object, add)| self.set(object, *add))).await;
        for ((object, add), result) in changes.iter().zip(results) {
            settled(*add, result).map_err(|source| {
                let verb = if *add { "adding" } else { "removing" };
                CarryError { what: format!("{verb} {object}"), source }
            })?;
        }
        Ok(())
    }

    async fn set(&self, object: &Object, add: bool) -> Result<(), rtnetlink::Error> {
        match (object, add) {
            (Object::Own(nic, own), true) => {
                let lifetime = if *own == STAND_IN { STAND_IN_LIFETIME } else { LIFETIME };
                own::add(&self.handle, *nic, *own, lifetime).replace().execute().await
            }
            (Object::Own(nic, own), false) => {
                let message = own::removal(&self.handle, *nic, *own);
                self.handle.address().del(message).execute().await
            }
            (Object::Route(message), true) => {
                self.handle.route().add((**message).clone()).execute().await
            }
            (Object::Route(message), false) => {
                self.handle.route().del((**message).clone()).execute().await
            }
            (Object::Rule(message), true) => {
                let mut request = self.handle.rule().add();
                *request.message_mut() = (**message).clone();
                request.execute().await
            }
            (Object::Rule(message), false) => {
                self.handle.rule().del((**message).clone()).execute().await
            }
        }
    }

    /// Lets what a plan has in force last for another lifetime.
    pub async fn renew(&self, nic: u32, plan: &Plan) -> Result<(), CarryError> {
        let lasting = objects(nic, plan);
        let renewals = lasting.iter().map(|object| async move {
            match object {
                Object::Own(..) => self.set(object, true).await,
                Object::Route(message) if message.header.address_family == AddressFamily::Inet6 => {
                    self.handle.route().add((**message).clone()).replace().execute().await
                }
                Object::Route(_) | Object::Rule(_) => Ok(()),
            }
        });
        for (object, result) in lasting.iter().zip(join_all(renewals).await) {
            result.map_err(|source| CarryError { what: format!("renewing {object}"), source })?;
        }
        Ok(())
    }

    /// Takes the clsact off interfaces on which nobody's filter needs it.
    pub async fn release_clsact(&self, interfaces: &[u32]) -> Result<(), ClsactError> {
        for ifindex in interfaces {
            clsact::remove_if_empty(&self.handle, *ifindex).await?;
        }
        Ok(())
    }

    /// Puts the stand-in on a NIC, or takes it off.
    pub async fn stand_in(&self, nic: u32, wanted: bool) -> Result<(), CarryError> {
        let object = Object::Own(nic, STAND_IN);
        let result = self.set(&object, wanted).await;
        settled(wanted, result).map_err(|source| CarryError {
            what: format!("{} {object}", if wanted { "adding" } else { "removing" }),
            source,
        })
    }

    /// Takes back everything that bears vipshield's mark, whoever left it. Returns how many
    /// objects that were.
    pub async fn sweep(&self) -> Result<usize, CarryError> {
        let listing = |what: &str| {
            let what = format!("listing {what}");
            move |source| CarryError { what, source }
        };
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let rules: Vec<RuleMessage> = self
                .handle
                .rule()
                .get(version.clone())
                .execute()
                .try_collect()
                .await
                .map_err(listing("rules"))?;
            found.extend(
                rules.into_iter().filter(is_our_rule).map(|rule| Object::Rule(Box::new(rule))),
            );
        }
        let routes = all_routes(&self.handle).await.map_err(listing("routes"))?;
        found.extend(
            routes
                .into_iter()
                .filter(|route| u8::from(route.header.protocol) == PROTOCOL)
                .map(|route| Object::Route(Box::new(route))),
        );
        for own in OWN {
            let addresses: Vec<_> = self
                .handle
                .address()
                .get()
                .set_address_filter(IpAddr::V4(own))
                .execute()
                .try_collect()
                .await
                .map_err(listing("addresses"))?;
            let nics: BTreeSet<u32> = addresses.iter().map(|found| found.header.index).collect();
            found.extend(nics.into_iter().map(|nic| Object::Own(nic, own)));
        }
        // Without IPv6 the kernel lists everything where that of IPv6 is asked for (`rtnl_dump_all` in
        // `net/core/rtnetlink.c`).
        let mut distinct: Vec<Object> = Vec::new();
        for object in found {
            if !distinct.contains(&object) {
                distinct.push(object);
            }
        }
        for object in &distinct {
            // Some of it has a lifetime, which may end in this very moment.
            settled(false, self.set(object, false).await)
                .map_err(|source| CarryError { what: format!("removing {object}"), source })?;
        }
        Ok(distinct.len())
    }
}

/// What is there, or gone, already is no error.
fn settled(add: bool, result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    let tolerated: &[i32] = if add {
        &[libc::EEXIST]
    } else {
        &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL]
    };
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if tolerated.contains(&-error.raw_code()) => {
            Ok(())
        }
        other => other,
    }
}

/// Everything a plan consists of, in the order in which it depends on each other.
fn objects(nic: u32, plan: &Plan) -> Vec<Object> {
    let mut objects = Vec::new();
    if plan.is_empty() {
        return objects;
    }
    if plan.is_ipv4() {
        objects.push(Object::Own(nic, ANCHOR));
    }
    for address in &plan.addresses {
        objects.push(Object::Route(Box::new(local_route(nic, *address))));
    }
    // What is on the link comes before what has a gateway there.
    let (on_link, behind): (Vec<&Route>, Vec<&Route>) =
        plan.routes.iter().partition(|route| route.gateway.is_none());
    for route in on_link.iter().chain(&behind) {
        objects.push(Object::Route(Box::new(spare_route(nic, route, &on_link))));
    }
    for ipv6 in [false, true] {
        let prefixes = plan.prefixes(ipv6);
        for (ip, length) in prefixes.into_iter().take(MAX_PREFIXES) {
            // Each length has its own: a rule without a prefix to delete is to the kernel any rule of
            // its priority and table (`fib4_rule_compare` in `net/ipv4/fib_rules.c`).
            let priority = DEFAULT_RULE - 2 * u32::from(length);
            let mut main = rule(ip, length, priority, u32::from(RT_TABLE_MAIN));
            main.attributes.push(RuleAttribute::SuppressPrefixLen(u32::from(length)));
            objects.push(Object::Rule(Box::new(main)));
            let spare = rule(ip, length, priority + 1, SPARE_TABLE);
            objects.push(Object::Rule(Box::new(spare)));
        }
    }
    objects
}

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

fn is_our_rule(rule: &RuleMessage) -> bool {
    rule.attributes.iter().any(|attribute| {
        matches!(attribute, RuleAttribute::Protocol(protocol) if u8::from(*protocol) == PROTOCOL)
    })
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

fn rule(to: IpAddr, length: u8, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(to);
    message.header.dst_len = length;
    message.header.action = RuleAction::ToTable;
    if length > 0 {
        message.attributes.push(RuleAttribute::Destination(to));
    }
    message.attributes.push(RuleAttribute::Priority(priority));
    message.attributes.push(RuleAttribute::Table(table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    message
}

const fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Where a route of the main table leads to, with the length of the prefix and the metric: what the
/// kernel tells routes by that replace one another.
pub(super) fn destination(message: &RouteMessage) -> Option<(IpAddr, u8, u32)> {
    let header = &message.header;
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if header.table != RT_TABLE_MAIN || header.tos != 0 {
        return None;
    }
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(ip) => destination = plain(ip)?,
            _ => {}
        }
    }
    Some((destination, header.destination_prefix_length, metric))
}

/// A route message of the main table as the engine knows it, with its interface; none for those
/// that no NIC's traffic takes, or that have several next hops.
pub(super) fn decode(message: &RouteMessage) -> Option<(u32, Route)> {
    let (destination, prefix_len, metric) = destination(message)?;
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut ifindex = None;
    let mut route = Route { destination, prefix_len, metric, gateway: None, source: None, mtu: 0 };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(ip) => route.gateway = Some(plain(ip)?),
            RouteAttribute::PrefSource(ip) => route.source = Some(plain(ip)?),
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = *mtu;
                    }
                }
            }
            RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    Some((ifindex?, route))
}

const fn plain(address: &netlink_packet_route::route::RouteAddress) -> Option<IpAddr> {
    use netlink_packet_route::route::RouteAddress;
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
