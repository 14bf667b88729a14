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
//!   The table is one for all NICs, and so are rules for the same destination.
//! - What stands by has a table of its own, and rules that come to it when the main table has no route to
//!   the destination any more.
//!
//! Should vipshield die, all of this must not outlive it: a node whose routes lead through a NIC
//! that has become a port resolves no new neighbour. So the anchor has a lifetime that is renewed
//! ([`Carrier::renew`]). When it ends and the NIC has no other IPv4 address, the flush that the
//! anchor held back takes every route through the NIC with it, and the rules point to an empty
//! table. IPv6 routes have lifetimes of their own.
//!
//! All of it bears vipshield's protocol number ([`PROTOCOL`]), so that the next vipshield finds what one
//! that is gone carries still ([`Carrier::found`]), and what is left over ([`Carrier::sweep`]).

mod found;
mod objects;

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, future::join_all};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage};
use rtnetlink::{Handle, try_nl};
use thiserror::Error;

use self::objects::{Object, default_rule, objects, rules};
use super::{
    clsact::{self, ClsactError},
    own::{self, ANCHOR, STAND_IN},
};
use crate::engine::{Carried, Plan};

/// Route and rule protocol: says whose they are. Not in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 118;
/// Number of the spare table.
pub const SPARE_TABLE: u32 = 5252;
/// Number of the table of routes that stand by. Another one: they lead through a port, and what the spare
/// table of another NIC is asked for must not find them.
const STANDBY_TABLE: u32 = 5253;
/// Seconds for which anchor and IPv6 routes last unless they are renewed.
const LIFETIME: u32 = 4;
/// Seconds for which a stand-in lasts at the most.
const STAND_IN_LIFETIME: u32 = 60;

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

impl Carrier {
    /// A carrier that makes its requests through `handle`.
    #[must_use]
    pub const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Has the kernel do at once what the first rule of a network namespace makes it do: it takes
    /// the table of local addresses, until then part of the main one, out of it (`fib_unmerge`,
    /// `net/ipv4/fib_rules.c`), and finds none of them for a moment. Within a sequence that would
    /// cost packets. Where that rule is in force already there is nothing to prepare.
    pub async fn prepare(&self) -> Result<(), CarryError> {
        let rule = default_rule();
        let prepared = match self.set(&rule, true).await {
            Ok(()) => self.set(&rule, false).await,
            refused => settled(true, refused),
        };
        prepared.map_err(|source| CarryError { what: format!("preparing {rule}"), source })
    }

    /// Replaces `old` by `new` for a NIC. What both have is not touched. New objects come first,
    /// in the order in which they depend on each other, and old ones go in the reverse order.
    /// Objects that are there, or gone, already are no error, so a failed change can be repeated. If
    /// there are several old plans, any object of theirs may be there, or not. What the plans of other
    /// NICs, those `beside`, have in common with the old ones stays.
    pub async fn change(
        &self,
        nic: u32,
        old: &[Plan],
        new: &Plan,
        beside: &[Plan],
    ) -> Result<(), CarryError> {
        // Requests of one socket are served in order: all are under way at once.
        let changes = changes(nic, old, new, beside);
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
            (Object::Route(message), true) => self.add_route((**message).clone()).await,
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

    /// Adds a route beside those that lead there already with the same metric: by another NIC, or by
    /// another gateway. One that is there is refused, and if it has a lifetime, that begins anew all the
    /// same (`fib6_add_rt2node` in `net/ipv6/ip6_fib.c`).
    async fn add_route(&self, message: RouteMessage) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut answers = self.handle.clone().request(request)?;
        while let Some(answer) = answers.next().await {
            try_nl!(answer);
        }
        Ok(())
    }

    /// Lets what a plan has in force last for another lifetime.
    pub async fn renew(&self, nic: u32, plan: &Plan) -> Result<(), CarryError> {
        let lasting = objects(nic, plan);
        let renewals = lasting.iter().map(|object| async move {
            match object {
                Object::Own(..) => self.set(object, true).await,
                // Not replaced: that would take the place of what else leads there.
                Object::Route(message) if message.header.address_family == AddressFamily::Inet6 => {
                    settled(true, self.set(object, true).await)
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

    /// What a vipshield that is gone carries for NICs still.
    pub async fn found(&self) -> Result<BTreeMap<u32, Carried>, CarryError> {
        Ok(found::carried(&found::all(&self.handle).await?))
    }

    /// Takes back everything that bears vipshield's mark, whoever left it, but for what is carried.
    /// Returns how many objects that were.
    pub async fn sweep(&self, carried: &BTreeMap<u32, Carried>) -> Result<usize, CarryError> {
        let mut left = found::all(&self.handle).await?;
        left.retain(|object| !found::is_part_of(object, carried));
        for object in &left {
            // Some of it has a lifetime, which may end in this very moment.
            settled(false, self.set(object, false).await)
                .map_err(|source| CarryError { what: format!("removing {object}"), source })?;
        }
        Ok(left.len())
    }
}

/// What is to be done, in this order: each object with whether it is added or removed.
fn changes(nic: u32, old: &[Plan], new: &Plan, beside: &[Plan]) -> Vec<(Object, bool)> {
    let before: Vec<Vec<Object>> = old.iter().map(|plan| objects(nic, plan)).collect();
    let after = objects(nic, new);
    let needed: Vec<Object> = beside.iter().flat_map(rules).collect();
    let is_there =
        |object: &Object| !before.is_empty() && before.iter().all(|all| all.contains(object));
    let added = after.iter().filter(|object| !is_there(object));
    let is_left = |object: &&Object| after.contains(object) || needed.contains(object);
    let removed = before.iter().flatten().rev().filter(|object| !is_left(object));
    let added = added.map(|object| (object.clone(), true));
    added.chain(removed.map(|object| (object.clone(), false))).collect()
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use super::*;
    use crate::engine::Route;

    const NIC: u32 = 2;

    fn plan(gateway: &str) -> Plan {
        let gateway: IpAddr = gateway.parse().unwrap();
        let default = Route {
            destination: IpAddr::from([0, 0, 0, 0]),
            prefix_len: 0,
            metric: 0,
            gateway: Some(gateway),
            source: None,
            mtu: 0,
        };
        let addresses = BTreeSet::from([gateway]);
        Plan { addresses, routes: BTreeSet::from([default]), in_use: true }
    }

    /// How many rules are removed, and how many other objects.
    fn removed(old: &[Plan], new: &Plan, beside: &[Plan]) -> (usize, usize) {
        let changes = changes(NIC, old, new, beside);
        let removed = || changes.iter().filter(|(_, add)| !add);
        let rules = removed().filter(|(object, _)| matches!(object, Object::Rule(_))).count();
        (rules, removed().count() - rules)
    }

    /// Rules are bounded, and the way to everything else is the last that may be left out.
    #[test]
    fn with_very_many_destinations_the_default_route_keeps_its_rules() {
        for in_use in [true, false] {
            let mut many = Plan { in_use, ..plan("192.0.2.1") };
            let default = rules(&many);
            many.routes.extend((0..200).map(|net| Route {
                destination: IpAddr::from([10, 0, net, 0]),
                prefix_len: 24,
                metric: 0,
                gateway: Some(IpAddr::from([192, 0, 2, 7])),
                source: None,
                mtu: 0,
            }));
            let rules = rules(&many);
            assert!(default.iter().all(|rule| rules.contains(rule)), "in use: {in_use}");
            assert!(rules.len() <= 2 * 64, "{}", rules.len());
        }
    }

    #[test]
    fn rules_that_another_nic_needs_stay() {
        let (one, none) = (plan("192.0.2.1"), Plan::default());
        let used = [plan("198.51.100.1")];
        let spare = used.clone().map(|plan| Plan { in_use: false, ..plan });
        let (half, old) = ([none.clone(), one.clone()], [one.clone()]);
        // The anchor, an address, a route.
        let rest = 3;
        assert_eq!(removed(&old, &none, &[]), (2, rest));
        assert_eq!(removed(&old, &none, &used), (0, rest));
        assert_eq!(removed(&old, &none, &spare), (2, rest), "it stands by");
        assert_eq!(removed(&old, &none, &[spare, used.clone()].concat()), (0, rest));
        assert_eq!(removed(&half, &none, &used), (0, rest));
        assert_eq!(removed(&half, &one, &used), (0, 0));
    }
}
