//! Whether daemons hear what vipshield hears.
//!
//! Their sockets follow their NIC's traffic to its bridge. A firewall that lets VRRP in on the NIC alone
//! drops it there, behind vipshield's own watch: a daemon that waits hears no owner, and makes itself the
//! second one. So a socket of vipshield's own, bound and joined like theirs, tells what theirs hear.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    heard::speaks,
    nic::Nic,
    notice::Weight,
    roster::Entry,
    routers::{Key, PACED, Router, Sender},
    tell,
    world::{Family, Role},
};

/// VRRP's groups (RFC 9568, sections 5.1.1.2 and 5.1.2.2).
const GROUP_IPV4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Groups joined at the most: keepalived's configuration may name another one.
const MAX_GROUPS: usize = 4;
/// A daemon is told after this part of an interval in which it heard nothing; it makes itself owner
/// after three of them, and its skew time.
const DEAF: (u32, u32) = (5, 2);
/// The socket may be asked so much later than the watch about the same advert, or the watch than the socket: a
/// part of an interval.
pub(super) const LATER: u32 = 4;

/// An advert that arrived at a socket like a daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Received {
    /// The interface that the socket is bound to.
    pub ifindex: u32,
    /// Who sent it.
    pub source: IpAddr,
    /// The virtual router.
    pub router_id: u8,
}

/// On which NICs daemons hear nothing, since when that is so, and whom they do not hear.
pub(super) type Deaf = BTreeMap<(u32, Family), (Duration, IpAddr)>;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Since when there is a socket that listens, by interface and family.
    listens: BTreeMap<(u32, Family), Duration>,
    /// Daemons on these NICs hear nothing, since when that is so, and whom they do not hear.
    deaf: Deaf,
    /// When one of them would have heard nothing for too long.
    due: Option<Duration>,
}

impl Probes {
    /// All that is deaf, for a vipshield that takes over.
    pub(super) const fn known(&self) -> &Deaf {
        &self.deaf
    }

    /// Goes on from there.
    pub(super) fn resume(&mut self, deaf: Deaf) {
        self.deaf = deaf;
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.due
    }

    /// NICs on which daemons do not hear somebody whom the watch hears.
    pub(super) fn deaf(&self) -> impl Iterator<Item = (u32, Family, IpAddr)> {
        self.deaf.iter().map(|((nic, family), (_, whom))| (*nic, *family, *whom))
    }
}

/// When an owner was heard, and whether he might have been since.
#[derive(Clone, Copy, Debug)]
struct Ear {
    whom: IpAddr,
    interval: Duration,
    /// The last advert that the socket received, or since when it might have.
    received: Duration,
    /// The first advert since that came to this node.
    missed: Option<Duration>,
}

impl Ear {
    /// When nothing was heard for too long that might have been.
    fn due(&self) -> Option<Duration> {
        let (times, of) = DEAF;
        let silent = self.received.saturating_add(self.interval * times / of);
        Some(silent.max(self.missed?.saturating_add(self.interval / LATER)))
    }
}

impl Engine {
    /// A socket was opened, or has joined more groups. What it could not receive before, it does not miss.
    pub(super) fn probe_opened(&mut self, ifindex: u32, family: Family, now: Duration) {
        if let btree_map::Entry::Vacant(listens) = self.probes.listens.entry((ifindex, family)) {
            listens.insert(now);
            let nics = self.nics.values().filter(|nic| nic.bearer == Some(ifindex));
            nics.for_each(|nic| self.routers.miss_nothing(nic.ifindex, family));
        }
    }

    /// Adverts arrived at a socket like the daemons'. Returns whether that is news.
    pub(super) fn received(&mut self, adverts: &[Received], now: Duration) -> bool {
        for advert in adverts {
            let at = |nic: &&Nic| nic.bearer == Some(advert.ifindex);
            let Some(nic) = self.nics.values().find(at) else { continue };
            self.routers.received(nic.ifindex, advert.router_id, advert.source, now);
        }
        !self.probes.deaf.is_empty()
    }

    /// Finds out whether daemons hear what they should, where their sockets were moved.
    pub(super) fn listen(&mut self, now: Duration) {
        let moved: BTreeSet<(u32, Family)> =
            self.moved().map(|(_, bearer, family)| (bearer, family)).collect();
        self.probes.listens.retain(|at, _| moved.contains(at));
        let mut deaf = BTreeMap::new();
        let mut due = None;
        let listening: Vec<(u32, u32, Family, Duration)> = self
            .moved()
            .filter_map(|(nic, bearer, family)| {
                Some((nic, bearer, family, *self.probes.listens.get(&(bearer, family))?))
            })
            .collect();
        for (nic, bearer, family, since) in listening {
            let ears = self.ears(nic, family, since, now);
            let known = self.probes.deaf.get(&(nic, family)).copied();
            let found = if let Some((from, _)) = known {
                // Until it hears again.
                let hears = ears.iter().flatten().any(|ear| ear.received > from);
                known.filter(|_| !hears)
            } else {
                let is_due = |ear: &&Ear| ear.due().is_some_and(|due| now >= due);
                ears.iter().flatten().find(is_due).map(|ear| (now, ear.whom))
            };
            let next = ears.iter().flatten().filter_map(Ear::due).filter(|due| *due > now).min();
            due = [due, next.filter(|_| found.is_none())].into_iter().flatten().min();
            if known.is_some() && found.is_none() {
                let name = self.nics.get(&nic).map(|nic| nic.name.as_str());
                let text = format!("adverts are heard on {} again", self.world.name_of(bearer));
                tell(&mut self.actions, Weight::Info, name, text);
            }
            if let Some(found) = found {
                deaf.insert((nic, family), found);
            }
        }
        self.world.set_deaf(deaf.keys().copied().collect());
        self.probes.deaf = deaf;
        self.probes.due = due;
    }

    /// NICs whose daemons' sockets are on another interface, and which that is.
    fn moved(&self) -> impl Iterator<Item = (u32, u32, Family)> {
        let listens = |nic: &Nic, family: Family| {
            // One that was told of a failure may have closed its sockets.
            let was_deaf = self.probes.deaf.contains_key(&(nic.ifindex, family));
            let mut daemons =
                self.world.daemons.values().filter(|daemon| daemon.role == Role::Vrrp);
            daemons.any(|daemon| was_deaf || speaks(daemon, nic, family))
        };
        self.nics.values().flat_map(move |nic| {
            let bearer = nic.bearer.filter(|it| *it != nic.ifindex && self.world.has_link(*it));
            let families = [Family::Ipv4, Family::Ipv6].into_iter();
            let families = families.filter(move |family| listens(nic, *family));
            families.filter_map(move |family| Some((nic.ifindex, bearer?, family)))
        })
    }

    /// A socket like the daemons' is opened wherever they are not where they were made.
    pub(super) fn wanted_probes(&self) -> impl Iterator<Item = Action> {
        self.moved().map(|(nic, ifindex, family)| {
            let groups = Some(self.groups(nic, family));
            Action::SetProbe { ifindex, family, groups }
        })
    }

    /// VRRP's group, those that the daemons have joined, and those that adverts go to which count here.
    fn groups(&self, nic: u32, family: Family) -> BTreeSet<IpAddr> {
        let usual = match family {
            Family::Ipv4 => IpAddr::V4(GROUP_IPV4),
            Family::Ipv6 => IpAddr::V6(GROUP_IPV6),
        };
        let routers = self.routers_of(nic, family).map(|(_, router)| router);
        let senders = routers.flat_map(|router| {
            let others = router.others.iter().map(|(_, it)| &it.value);
            let others = others.filter(|it| it.paced >= PACED && router.is_heeded(it));
            router.own.iter().map(|(_, own)| &own.value).chain(others)
        });
        let heard = senders.map(|it| it.advert.destination).filter(IpAddr::is_multicast);
        let sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        let joined = sockets.filter(|socket| socket.family == family).filter_map(|it| it.group);
        let groups = joined.chain(heard);
        let others: BTreeSet<IpAddr> = groups.filter(|group| *group != usual).collect();
        others.into_iter().take(MAX_GROUPS - 1).chain([usual]).collect()
    }

    /// The virtual routers that may be those of this node's daemons: if none is known to be, all.
    fn routers_of(&self, nic: u32, family: Family) -> impl Iterator<Item = (&Key, &Router)> {
        let here = move |key: &Key| key.nic == nic && key.family == family && key.vlan.is_none();
        let known = self.routers.ours().any(|(key, _)| here(key));
        let all = self.routers.table.iter().map(|(key, entry)| (key, &entry.value));
        all.filter(move |(key, router)| here(key) && (router.ours || !known))
    }

    /// What is heard of the virtual routers' owners. While it is not known which routers are the
    /// daemons' own, one that is heard speaks for all.
    fn ears(&self, nic: u32, family: Family, since: Duration, now: Duration) -> Vec<Option<Ear>> {
        let Some(guarded) = self.nics.get(&nic) else { return Vec::new() };
        // What the kernel drops for its source (`rp_filter`) nobody need hear.
        let near = |source: IpAddr| {
            let there = guarded.bearer.into_iter().flat_map(|on| self.world.addresses_of(on));
            guarded.home().chain(there).any(|address| address.covers(source))
        };
        let counts = |router: &Router, source: IpAddr, entry: &Entry<Sender>| {
            entry.is_live(now) && router.counts(source, &entry.value, now) && near(source)
        };
        let ear = |router: &Router| {
            let others = router.others.iter().map(|(source, entry)| (*source, entry));
            let followed = others.filter(|(source, entry)| counts(router, *source, entry));
            followed
                .filter_map(|(source, entry)| ear(source, entry, since))
                .max_by_key(|ear| ear.received)
        };
        let ears = self.routers_of(nic, family).map(|(_, router)| (router.ours, ear(router)));
        let (ours, ears): (Vec<bool>, Vec<Option<Ear>>) = ears.unzip();
        if ours.contains(&true) {
            return ears;
        }
        vec![ears.into_iter().flatten().max_by_key(|ear| ear.received)]
    }

    /// What an operator has to know of a NIC whose daemons hear nothing.
    pub(super) fn deafness(&self, nic: u32, whom: IpAddr) -> String {
        let guarded = self.nics.get(&nic);
        let bearer = guarded.and_then(|nic| nic.bearer).unwrap_or(nic);
        let bearer = self.world.name_of(bearer);
        let nic = guarded.map(|nic| nic.name.as_str()).unwrap_or_default();
        format!(
            "adverts of {whom} reach this node, and no VRRP socket on {bearer} receives them, so that a \
             daemon that waits would make itself a second owner: the likely cause is a firewall that \
             accepts VRRP on {nic} only; accept it on {bearer} too (nft: `iifname \"{bearer}\" meta l4proto \
             112 accept`, iptables: `-i {bearer} -p 112 -j ACCEPT`); until then the daemons are told that \
             the node's address is gone (one with an address of its own configuration, or of IPv6, does \
             not care)"
        )
    }
}

/// None if it does not come to this node.
fn ear(source: IpAddr, entry: &Entry<Sender>, since: Duration) -> Option<Ear> {
    let Sender { advert, received, missed, .. } = &entry.value;
    received.or(*missed)?;
    Some(Ear {
        whom: source,
        interval: advert.interval,
        received: received.unwrap_or(since.max(entry.first)),
        missed: *missed,
    })
}
