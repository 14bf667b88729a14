//! Who says on the wire that an address of a virtual router is its own, by hardware address.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    Engine,
    notice::Weight,
    roster::{Entry, Roster},
    tell,
};
use crate::wire::Mac;

/// Hardware addresses remembered of each.
pub(super) const MAX_CLAIMANTS: usize = 16;
/// Addresses of which claims are remembered.
pub(super) const MAX_CLAIMED: usize = 1024;
/// After it has become owner, a node may hear the last words of the owner before for so long; and an
/// owner that somebody takes the address from gives it up within this.
const CHANGEOVER: Duration = Duration::from_millis(500);
/// A claim stands for so long.
const LIFETIME: Duration = Duration::from_secs(10);

/// So many hardware addresses that this node had are remembered, those that it had last.
const MAX_FORMER: usize = 64;

/// An address that nobody claims is forgotten after this, and a hardware address that this node had.
const MEMORY: Duration = Duration::from_mins(1);

/// Whoever claims an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimant {
    /// An interface of this node has the hardware address, or had it a while ago.
    pub(super) own: bool,
    /// Since when it claims what this node owns.
    rival_since: Option<Duration>,
}

/// One address.
#[derive(Clone, Debug, Default)]
pub(super) struct Claimed {
    pub(super) macs: Roster<Mac, Claimant, MAX_CLAIMANTS>,
    /// Since when this node owns it.
    owned_since: Option<Duration>,
    /// Somebody else claims what this node owns: who was heard first.
    pub(super) conflict: Option<Mac>,
}

impl Claimed {
    /// When a rival that is heard, and has not fallen silent, is more than a changeover.
    fn rivals(&self, now: Duration) -> impl Iterator<Item = (Duration, Duration, Mac)> {
        self.macs.iter().filter_map(move |(mac, entry)| {
            let from = entry.value.rival_since?.saturating_add(CHANGEOVER);
            let until = entry.last.saturating_add(LIFETIME);
            (now < until).then_some((from, until, *mac))
        })
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    pub(super) of: BTreeMap<IpAddr, Claimed>,
    /// Claims of addresses for which there was no place.
    pub(super) crowded: u64,
    /// Evictions of addresses that are forgotten by now.
    evicted: u64,
    /// How often a conflict began.
    pub(super) conflicts: u64,
    /// Hardware addresses that NICs and bridges of this node had, and when one had them last.
    former: BTreeMap<Mac, Duration>,
}

impl Claims {
    /// An interface of this node has another hardware address from now on, or is gone. What was said with the old
    /// one may be heard later, and neighbours may have it for a while.
    pub(super) fn was_own(&mut self, mac: &[u8], now: Duration) {
        let Ok(mac) = mac.try_into() else { return };
        self.former.retain(|_, last| now < last.saturating_add(MEMORY));
        self.former.insert(Mac(mac), now);
        if self.former.len() > MAX_FORMER
            && let Some((oldest, _)) = self.former.iter().min_by_key(|(_, last)| **last)
        {
            let oldest = *oldest;
            self.former.remove(&oldest);
        }
    }

    /// Whether it was one of this node's a while ago.
    pub(super) fn is_former(&self, mac: Mac, now: Duration) -> bool {
        self.former.get(&mac).is_some_and(|last| now < last.saturating_add(MEMORY))
    }

    /// Claimants that made place for others.
    pub(super) fn evicted(&self) -> u64 {
        self.crowded + self.evicted + self.of.values().map(|it| it.macs.evicted).sum::<u64>()
    }

    /// When one who was heard has fallen silent, or is forgotten.
    pub(super) fn next_silence(&self, after: Duration) -> Option<Duration> {
        let all = self.of.values().flat_map(|claimed| claimed.macs.iter());
        let ends = |last: Duration| [LIFETIME, MEMORY].map(|time| last.saturating_add(time));
        all.flat_map(|(_, entry)| ends(entry.last)).filter(|end| *end > after).min()
    }

    /// When something is to be looked at again.
    pub(super) fn next_deadline(&self, after: Duration) -> Option<Duration> {
        self.of
            .values()
            .flat_map(|claimed| {
                claimed
                    .rivals(after)
                    .map(|(from, until, _)| if from > after { from } else { until })
            })
            .min()
    }
}

impl Engine {
    /// A host says that it has this address. What is no virtual router's is not remembered, nor what
    /// is said in a VLAN in which this node does not speak VRRP.
    pub(super) fn claim(
        &mut self,
        nic: u32,
        vlan: Option<u16>,
        ip: IpAddr,
        mac: Mac,
        own: bool,
        now: Duration,
    ) {
        let mut routers = self.routers.ours().filter(|(key, _)| key.nic == nic).peekable();
        let here = if routers.peek().is_none() {
            vlan.is_none()
        } else {
            routers.any(|(key, _)| key.vlan == vlan)
        };
        if !here || !(self.world.vips.is_known(ip) || self.advertised().any(|own| own == ip)) {
            return;
        }
        let claims = &mut self.claims;
        if !claims.of.contains_key(&ip) && claims.of.len() >= MAX_CLAIMED {
            claims.crowded += 1;
            return;
        }
        let claimed = claims.of.entry(ip).or_default();
        let settled =
            claimed.owned_since.is_some_and(|since| now >= since.saturating_add(CHANGEOVER));
        let keep = |_: &Mac, claimant: &Claimant| claimant.own;
        let admitted = claimed.macs.admit(mac, LIFETIME, now, Claimant::default, keep);
        let Some(Entry { value, .. }) = admitted else { return };
        value.own |= own;
        if settled && !value.own {
            value.rival_since.get_or_insert(now);
        }
    }

    /// Addresses that this node has sent adverts for. What others say of them is anybody's to
    /// invent.
    pub(super) fn advertised(&self) -> impl Iterator<Item = IpAddr> {
        let own = self.routers.ours().filter_map(|(_, router)| router.own.as_ref());
        own.flat_map(|(_, entry)| entry.value.advert.addresses.iter().copied())
    }

    /// Looks for addresses that this node owns, and that somebody else says are his. That is said
    /// and counted; whose it is, VRRP decides.
    pub(super) fn find_conflicts(&mut self, now: Duration) {
        let owned: Vec<(IpAddr, bool)> = self
            .claims
            .of
            .keys()
            .map(|ip| (*ip, self.world.vips.is_wanted(*ip) && self.is_at_home(*ip)))
            .collect();
        for (ip, owned) in owned {
            let Some(claimed) = self.claims.of.get_mut(&ip) else { continue };
            if owned {
                claimed.owned_since.get_or_insert(now);
            } else {
                claimed.owned_since = None;
            }
            for (_, entry) in claimed.macs.values_mut() {
                let silent = now >= entry.last.saturating_add(LIFETIME);
                if !owned || entry.value.own || silent {
                    entry.value.rival_since = None;
                }
            }
            let rival = claimed.rivals(now).filter(|(from, ..)| *from <= now).min();
            let rival = rival.map(|(_, _, mac)| mac);
            if rival.is_some() == claimed.conflict.is_some() {
                continue;
            }
            claimed.conflict = rival;
            let (weight, text) = if let Some(mac) = rival {
                self.claims.conflicts += 1;
                let text = format!("{mac} answers for {ip}, which this node owns: two owners");
                (Weight::Warning, text)
            } else {
                (Weight::Info, format!("nobody else answers for {ip} any more, or it was given up"))
            };
            tell(&mut self.actions, weight, None, text);
        }
        let Self { claims, .. } = self;
        let evicted: u64 = claims
            .of
            .extract_if(.., |_, claimed| {
                let silent = |entry: &Entry<Claimant>| now >= entry.last.saturating_add(MEMORY);
                claimed.macs.iter().all(|(_, entry)| silent(entry))
            })
            .map(|(_, claimed)| claimed.macs.evicted)
            .sum();
        claims.evicted += evicted;
    }
}
