//! Telling the network where a VIP is, after it moved to another interface of this node, or that interface got
//! another hardware address: a Linux bridge takes that of a port that joins.
//!
//! A daemon announces its VIP when it takes it, on the interface that it knows. Of a move it knows
//! nothing, and neither do the switches on the way, or a bridge on which the address is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Engine, action::Action};

/// How often a move is announced. RFC 5944 (4.6) and RFC 4861 (7.2.6) let single frames be lost.
const TIMES: u8 = 3;
/// So many are made at a time: what else is due has its turn in between.
const AT_A_TIME: usize = 64;
/// The time between two announcements (`MAX_NEIGHBOR_ADVERTISEMENT` frames, `RetransTimer` apart).
const PACE: Duration = Duration::from_secs(1);

/// An interface that has a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    ifindex: u32,
    /// Its hardware address, of a kind that can be announced.
    mac: Option<[u8; 6]>,
}

/// Where a VIP is.
#[derive(Clone, Copy, Debug)]
struct Place {
    spot: Spot,
    /// Announcements left, and when the next is due.
    left: u8,
    next: Duration,
}

/// Where each VIP was last of use, and what is still to be said of that.
///
/// Nothing waits in a queue: an announcement that has become untrue is not made.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcer(BTreeMap<IpAddr, Place>);

impl Announcer {
    /// Takes in where the VIPs are now that daemons mean to have, and which of those interfaces
    /// their daemons do not know. One that is on its way stays known where it was. Returns what is
    /// to be announced at once.
    fn look(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        places: &BTreeMap<IpAddr, (Spot, bool)>,
        now: Duration,
    ) -> Vec<(IpAddr, Spot)> {
        self.0.retain(|ip, _| wanted.contains(ip));
        let mut due = Vec::new();
        for (ip, (spot, unknown)) in places {
            let moved = self.0.get(ip).map_or(*unknown, |place| place.spot != *spot);
            let fresh = Place { spot: *spot, left: if moved { TIMES } else { 0 }, next: now };
            let place = self.0.entry(*ip).or_insert(fresh);
            if moved {
                *place = fresh;
            }
            if place.left > 0 && place.next <= now && due.len() < AT_A_TIME {
                place.left -= 1;
                place.next = now.saturating_add(PACE);
                due.push((*ip, *spot));
            }
        }
        // What is said of a place where it no longer is would be untrue.
        for place in self.0.iter_mut().filter(|(ip, _)| !places.contains_key(ip)) {
            place.1.left = 0;
        }
        due
    }

    /// When the next announcement is due.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.0.values().filter(|place| place.left > 0).map(|place| place.next).min()
    }
}

impl Engine {
    /// Announces VIPs that have moved.
    pub(super) fn announce(&mut self, now: Duration) {
        let wanted: BTreeSet<IpAddr> = self.world.vips.spoken_for().collect();
        let mut places = BTreeMap::new();
        for nic in self.nics.values() {
            let Some(bearer) = nic.bearer else { continue };
            // Other kinds of hardware than Ethernet have addresses of other lengths.
            let mac = self.world.link(bearer).and_then(|link| link.mac.as_slice().try_into().ok());
            let spot = Spot { ifindex: bearer, mac };
            for ip in wanted.iter().filter(|ip| self.world.has_ip(bearer, **ip)) {
                places.insert(*ip, (spot, bearer != nic.ifindex));
            }
        }
        for (address, Spot { ifindex, mac }) in self.announcer.look(&wanted, &places, now) {
            if mac.is_some() {
                self.want(Action::Announce { ifindex, address });
            }
        }
    }
}
