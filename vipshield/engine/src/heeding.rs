//! Whether a daemon of this node heeds an advert, judged by what the advert says as keepalived judges it
//! (`vrrp_check_packet`), and routers of other clusters, which it does not heed.
//!
//! What the daemon is configured for shows in what it has sent. While it has sent nothing, it waits for
//! the owner of what it has asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use super::{
    Engine,
    notice::Weight,
    roster::Entry,
    routers::{Key, MEMORY, PACED, Router, Sender},
    tell,
};
use crate::wire::{Advert, Authentication, Checksum, Version};

/// A daemon that went on as owner after so many adverts that it would have yielded to does not heed them.
const IGNORED: u32 = 2;

/// Why an advert is not heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Difference {
    Addresses,
    AuthenticationType,
    Password,
    Interval,
    Cast,
    Checksum,
    Trailer,
    Version,
    /// Nothing that shows, but the daemon went on as owner.
    Hidden,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Addresses => "other addresses",
            Self::AuthenticationType => "another auth_type",
            Self::Password => "another password",
            Self::Interval => "another advert_int",
            Self::Cast => "unicast for multicast, or the other way round",
            Self::Checksum => "another kind of checksum",
            Self::Trailer => "authentication that only one of the two has",
            Self::Version => "another version of VRRP",
            Self::Hidden => "something that does not show",
        })
    }
}

impl Sender {
    /// What keeps a receiver that is configured as `own` is from heeding this one.
    ///
    /// Addresses count if none of them are the same: until keepalived 2.3.2 a list that is not exactly the
    /// same is not heeded, since then any is. Whoever has none of this node's addresses is no second owner
    /// of them, and a daemon that yields to him does so by itself.
    fn differences(&self, own: &Self) -> BTreeSet<Difference> {
        let (theirs, ours) = (&self.advert, &own.advert);
        let authentication = match (theirs.authentication, ours.authentication) {
            (Authentication::Password(theirs), Authentication::Password(ours)) => {
                (theirs != ours).then_some(Difference::Password)
            }
            (theirs, ours) => (theirs != ours).then_some(Difference::AuthenticationType),
        };
        let other = |ip: &IpAddr| !ours.addresses.contains(ip);
        let ignored = self.ignored >= IGNORED;
        // The order is nothing to keepalived.
        let alike =
            theirs.addresses.len() == ours.addresses.len() && !theirs.addresses.iter().any(other);
        let interval = theirs.version == Version::V2 && theirs.interval != ours.interval;
        // keepalived has one setting for what it sends and what it takes (`v3_checksum_as_v2`).
        let bare = |advert: &Advert| advert.checksum == Checksum::NoPseudoHeader;
        let found: BTreeSet<Difference> = [
            (theirs.addresses.iter().all(other) || ignored && !alike)
                .then_some(Difference::Addresses),
            authentication,
            interval.then_some(Difference::Interval),
            (theirs.is_unicast() != ours.is_unicast()).then_some(Difference::Cast),
            (bare(theirs) != bare(ours)).then_some(Difference::Checksum),
            (theirs.trailer != ours.trailer).then_some(Difference::Trailer),
        ]
        .into_iter()
        .flatten()
        .collect();
        if ignored && found.is_empty() { BTreeSet::from([Difference::Hidden]) } else { found }
    }
}

impl Router {
    /// What keeps this node's daemon from heeding a sender; nothing, as far as is known, if it is empty.
    fn differences(&self, sender: &Sender) -> BTreeSet<Difference> {
        if let Some((_, own)) = &self.own {
            return sender.differences(&own.value);
        }
        let strange = !sender.asked && self.others.iter().any(|(_, it)| it.value.asked);
        strange.then_some(Difference::Addresses).into_iter().collect()
    }

    /// Whether it would follow this sender.
    pub(super) fn is_heeded(&self, sender: &Sender) -> bool {
        self.differences(sender).is_empty()
    }

    /// Whether it would yield to this sender as owner.
    pub(super) fn yields_to(&self, source: IpAddr, sender: &Sender) -> bool {
        self.own.as_ref().is_some_and(|(own_source, own)| {
            (sender.advert.priority, source) > (own.value.advert.priority, *own_source)
        }) && self.is_heeded(sender)
    }

    /// This node goes on as owner, its sockets being where its daemon put them: whoever was heard since
    /// it spoke last, and has a higher priority, it does not heed.
    pub(super) fn went_on(&mut self) {
        let Some((own_source, own)) = &self.own else { return };
        let (priority, since) = (own.value.advert.priority, own.last);
        for (source, entry) in self.others.values_mut() {
            let outranks = (entry.value.advert.priority, *source) > (priority, *own_source);
            if outranks && priority != 0 && entry.last >= since {
                entry.value.ignored = entry.value.ignored.saturating_add(1);
            }
        }
    }

    /// Whoever is heard at his pace and is not heeded; of several the one with the highest priority.
    fn stranger(&self, now: Duration) -> Option<(IpAddr, &Entry<Sender>, BTreeSet<Difference>)> {
        let others =
            self.others.iter().filter(|(_, it)| it.is_live(now) && it.value.paced >= PACED);
        others
            .map(|(source, it)| (*source, it, self.differences(&it.value)))
            .filter(|(.., differences)| !differences.is_empty())
            .max_by_key(|(source, it, _)| (it.value.advert.priority, *source))
    }
}

/// Routers of other clusters that have the id of one of this node's.
#[derive(Clone, Debug, Default)]
pub(super) struct Strangers {
    /// What is to be mended, by the virtual router of this node.
    pub(super) heard: BTreeMap<Key, String>,
    /// When that was said: no more often than one is remembered, whoever forges adverts.
    said: BTreeMap<Key, Duration>,
}

impl Engine {
    /// Looks for routers that this node's daemons do not heed, and says so.
    pub(super) fn find_strangers(&mut self, now: Duration) {
        let heard = self.strangers(now);
        let strangers = &mut self.strangers;
        strangers.said.retain(|_, at| now <= at.saturating_add(MEMORY));
        for (key, text) in &heard {
            strangers.said.entry(*key).or_insert_with(|| {
                let nic = self.nics.get(&key.nic).map(|nic| nic.name.as_str());
                tell(&mut self.actions, Weight::Warning, nic, text.clone());
                now
            });
        }
        strangers.heard = heard;
    }

    fn strangers(&self, now: Duration) -> BTreeMap<Key, String> {
        let other_version = |key: &Key| {
            let version = match key.version {
                Version::V2 => Version::V3,
                Version::V3 => Version::V2,
            };
            let key = Key { version, ..*key };
            let router = self.routers.get(&key).filter(|router| !router.ours)?;
            let others = router.others.iter();
            let mut paced = others.filter(|(_, it)| it.is_live(now) && it.value.paced >= PACED);
            let (source, it) = paced.next()?;
            Some((*source, it, BTreeSet::from([Difference::Version])))
        };
        let one = |(key, router): (&Key, &Router)| {
            let stranger = router.stranger(now).or_else(|| other_version(key))?;
            Some((*key, describe(key, &stranger)))
        };
        self.routers.ours().filter_map(one).collect()
    }
}

fn describe(key: &Key, stranger: &(IpAddr, &Entry<Sender>, BTreeSet<Difference>)) -> String {
    let (source, entry, differences) = stranger;
    let Sender { mac, advert: Advert { priority, addresses, .. }, .. } = &entry.value;
    let differences: Vec<String> = differences.iter().map(Difference::to_string).collect();
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    format!(
        "{source} ({mac}) sends adverts of virtual router {} for {}, with priority {priority}, which the \
         daemon here does not heed: they have {}; if it is a router of another cluster, give one of the \
         two another virtual_router_id (keepalived puts off its own next advert with each that it does \
         not heed, unless lower_prio_no_advert is set, and may fall silent); if it is a peer, configure \
         the two alike",
        key.router_id,
        addresses.join(", "),
        differences.join(", ")
    )
}
