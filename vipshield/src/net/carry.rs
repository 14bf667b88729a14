//! Carrying, in routes and rules of vipshield's own.
//!
//! - An address of vipshield's own on the NIC ([`ANCHOR`]): when the last IPv4 address leaves an
//!   interface, the kernel flushes every route through it (`fib_disable_ip` in
//!   `net/ipv4/fib_frontend.c`). Kube-OVN leaves link-local addresses alone. On a NIC that has its own still
//!   it is another one ([`EARLY_ANCHOR`]), behind them.
//! - A local route for each address through the NIC, worse than the kernel's own, so that packets to
//!   it are delivered while it is on no interface.
//! - The spare table with the NIC's routes, and for each length of a prefix rules right before the main
//!   table's ([`detours`]): routes of the main table that are more specific still win, and everything else
//!   takes the spare table. Without the first, a pod's host route would lose to the NIC's default route.
//!   Table and rules are one for all NICs.
//!
//! Should vipshield die, all of this must not outlive it: a node whose routes lead through a NIC
//! that has become a port resolves no new neighbour. So the anchor has a lifetime that is renewed
//! ([`Carrier::renew`]). When it ends and the NIC has no other IPv4 address, the flush that the
//! anchor held back takes every route through the NIC with it, and the rules point to an empty
//! table. IPv6 routes have lifetimes of their own.
//!
//! All of it bears vipshield's protocol number ([`PROTOCOL`]), so that the next vipshield finds what one
//! that is gone carries still ([`Carrier::found`]), and what is left over ([`Carrier::sweep`]).

mod detours;
mod found;
mod objects;

use std::collections::BTreeMap;

use futures_util::{
    StreamExt as _,
    future::{join, join_all},
};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage, route::RouteMessage, rule::RuleMessage,
};
use rtnetlink::{Handle, try_nl};
use thiserror::Error;

use self::{
    detours::{idle_rule, rules},
    objects::{Object, objects},
};
use super::{
    clsact::{self, ClsactError},
    own::{self, ANCHOR, EARLY_ANCHOR, STAND_IN},
    rule,
};
use crate::engine::{Carried, Detours, Plan};

/// Route and rule protocol: says whose they are. Not in `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 118;
/// Number of the spare table.
pub const SPARE_TABLE: u32 = 5252;
/// Of the objects of a plan so many are there before the rules that lead to them: the node's addresses and networks and
/// its default routes come first. The others, hundreds where there are as many routes, would keep all of it waiting.
const BEFORE_RULES: usize = 32;
/// Seconds for which addresses of vipshield's own and IPv6 routes last unless they are renewed.
const LIFETIME: u32 = 4;

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
    /// cost packets.
    pub async fn prepare(&self) -> Result<(), CarryError> {
        let rule = Object::Rule(Box::new(idle_rule()));
        for add in [true, false] {
            settled(add, self.set(&rule, add).await)
                .map_err(|source| CarryError { what: format!("preparing {rule}"), source })?;
        }
        Ok(())
    }

    /// Replaces `old` by `new` for a NIC. What both have is not touched. New objects come first, in the
    /// order in which they depend on each other, then all rules are replaced by those of `detours`, if
    /// there are any, and old objects go in the reverse order. Objects that are there, or gone, already are
    /// no error, so a failed change can be repeated. If there are several old plans, any object of theirs
    /// may be there, or not.
    pub async fn change(
        &self,
        nic: u32,
        old: &[Plan],
        new: &Plan,
        detours: Option<&Detours>,
    ) -> Result<(), CarryError> {
        let (added, removed) = changes(nic, old, new);
        let (first, rest) = added.split_at(added.len().min(BEFORE_RULES));
        let (done, there) = join(self.set_all(first), async {
            match detours {
                Some(_) => self.own_rules().await,
                None => Ok(Vec::new()),
            }
        })
        .await;
        done?;
        // What is there goes when all of the new is there behind it: of two alike the kernel deletes the
        // first. From the last on: what is left is in order.
        let wanted = detours.map(rules).unwrap_or_default();
        let wanted = wanted.into_iter().map(|rule| (Object::Rule(Box::new(rule)), true));
        let there = there?.into_iter().rev().map(|rule| (rule, false));
        let rest = rest.iter().cloned();
        self.set_all(&wanted.chain(rest).chain(there).chain(removed).collect::<Vec<_>>()).await
    }

    /// Requests of one socket are served in order: all are under way at once.
    async fn set_all(&self, changes: &[Change]) -> Result<(), CarryError> {
        let results = join_all(changes.iter().map(|(object, add)| self.set(object, *add))).await;
        for ((object, add), result) in changes.iter().zip(results) {
            settled(*add, result).map_err(|source| {
                let verb = if *add { "adding" } else { "removing" };
                CarryError { what: format!("{verb} {object}"), source }
            })?;
        }
        Ok(())
    }

    /// The rules that bear vipshield's mark, in the order in which the kernel asks them.
    async fn own_rules(&self) -> Result<Vec<Object>, CarryError> {
        let rules = rule::all_rules(&self.handle)
            .await
            .map_err(|source| CarryError { what: "listing rules".to_owned(), source })?;
        let own = rules.into_iter().filter(rule::is_own);
        Ok(own.map(|rule| Object::Rule(Box::new(rule))).collect())
    }

    async fn set(&self, object: &Object, add: bool) -> Result<(), rtnetlink::Error> {
        match (object, add) {
            (Object::Own(nic, own), true) => {
                own::add(&self.handle, *nic, *own, LIFETIME).replace().execute().await
            }
            (Object::Own(nic, own), false) => {
                let message = own::removal(&self.handle, *nic, *own);
                self.handle.address().del(message).execute().await
            }
            (Object::Route(message), true) => self.add_route((**message).clone()).await,
            (Object::Route(message), false) => {
                self.handle.route().del((**message).clone()).execute().await
            }
            (Object::Rule(message), true) => self.add_rule((**message).clone()).await,
            (Object::Rule(message), false) => {
                self.handle.rule().del((**message).clone()).execute().await
            }
        }
    }

    /// Adds a route beside those that lead there already with the same metric: by another NIC, or by
    /// another gateway. One that is there is refused, and if it has a lifetime, that begins anew all the
    /// same (`fib6_add_rt2node` in `net/ipv6/ip6_fib.c`).
    async fn add_route(&self, message: RouteMessage) -> Result<(), rtnetlink::Error> {
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_APPEND).await
    }

    /// Adds a rule behind all that have its priority, even if there is one like it.
    async fn add_rule(&self, message: RuleMessage) -> Result<(), rtnetlink::Error> {
        self.request(RouteNetlinkMessage::NewRule(message), 0).await
    }

    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), rtnetlink::Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | flags;
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

    /// Puts the stand-in on a NIC for a lifetime, or for another one, or takes it off.
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
        // Who carries has replaced all rules. What they lead to goes after them.
        if carried.values().all(|carried| carried.plans.is_empty()) {
            left.splice(0..0, self.own_rules().await?);
        }
        for object in &left {
            // Some of it has a lifetime, which may end in this very moment.
            settled(false, self.set(object, false).await)
                .map_err(|source| CarryError { what: format!("removing {object}"), source })?;
        }
        Ok(left.len())
    }
}

/// An object, and whether it is added or removed.
type Change = (Object, bool);

/// What is to be done, in this order: what is added, and what is removed.
fn changes(nic: u32, old: &[Plan], new: &Plan) -> (Vec<Change>, Vec<Change>) {
    let before: Vec<Vec<Object>> = old.iter().map(|plan| objects(nic, plan)).collect();
    let after = objects(nic, new);
    let is_there =
        |object: &Object| !before.is_empty() && before.iter().all(|all| all.contains(object));
    let added = after.iter().filter(|object| !is_there(object));
    let removed = before.iter().flatten().rev().filter(|object| !after.contains(object));
    let added = added.map(|object| (object.clone(), true)).collect();
    (added, removed.map(|object| (object.clone(), false)).collect())
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
