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

/// An interface that has a VIP, as it is now.
#[derive(Clone, Copy, Debug)]
struct Found {
    spot: Spot,
    /// Its VIP's daemon does not know it.
    unknown: bool,
    /// It is up and has a carrier. On one that was set up just now the kernel drops what is sent until it says so
    /// (`noop_qdisc` in `net/sched/sch_generic.c`).
    runs: bool,
}

/// Where a VIP is.
#[derive(Clone, Copy, Debug)]
struct Place {
    spot: Spot,
    runs: bool,
    /// Announcements left, and when the next is due.
    left: u8,
    next: Duration,
    /// How many that fail are still made good.
    spare: u8,
}

/// Where each VIP was last of use, and what is still to be said of that.
///
/// Nothing waits in a queue: an announcement that has become untrue is not made.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcer(BTreeMap<IpAddr, Place>);

impl Announcer {
    /// Takes in where the VIPs are now that daemons mean to have. One that is on its way stays known where it
    /// was. Returns what is to be announced at once.
    fn look(
        &mut self,
        wanted: &BTreeSet<IpAddr>,
        places: &BTreeMap<IpAddr, Found>,
        now: Duration,
    ) -> Vec<(IpAddr, Spot)> {
        self.0.retain(|ip, _| wanted.contains(ip));
        let mut due = Vec::new();
        for (ip, Found { spot, unknown, runs }) in places {
            let moved = self.0.get(ip).map_or(*unknown, |place| place.spot != *spot);
            let left = if moved { TIMES } else { 0 };
            let fresh = Place { spot: *spot, runs: *runs, left, next: now, spare: left };
            let place = self.0.entry(*ip).or_insert(fresh);
            if moved {
                *place = fresh;
            }
            place.runs = *runs;
            if place.next_deadline().is_some_and(|next| next <= now) && due.len() < AT_A_TIME {
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
        self.0.values().filter_map(Place::next_deadline).min()
    }

    /// One was not made: it is made good, though not for ever. The interface may have been set down since it was
    /// last heard of.
    pub(super) fn failed(&mut self, ifindex: u32, address: IpAddr) {
        let place = self.0.get_mut(&address).filter(|place| place.spot.ifindex == ifindex);
        if let Some(place) = place
            && place.spare > 0
        {
            place.spare -= 1;
            place.left += 1;
        }
    }
}

impl Place {
    fn next_deadline(&self) -> Option<Duration> {
        (self.left > 0 && self.runs).then_some(self.next)
    }
}

impl Engine {
    /// Announces VIPs that have moved.
    pub(super) fn announce(&mut self, now: Duration) {
        let wanted: BTreeSet<IpAddr> = self.world.vips.spoken_for().collect();
        let mut places = BTreeMap::new();
        for nic in self.nics.values() {
            let Some(bearer) = nic.bearer else { continue };
            let link = self.world.link(bearer);
            // Other kinds of hardware than Ethernet have addresses of other lengths.
            let mac = link.and_then(|link| link.mac.as_slice().try_into().ok());
            let spot = Spot { ifindex: bearer, mac };
            let runs = link.is_some_and(|link| link.up && link.running);
            let found = Found { spot, unknown: bearer != nic.ifindex, runs };
            for ip in wanted.iter().filter(|ip| self.world.has_ip(bearer, **ip)) {
                places.insert(*ip, found);
            }
        }
        for (address, Spot { ifindex, mac }) in self.announcer.look(&wanted, &places, now) {
            if mac.is_some() {
                self.want(Action::Announce { ifindex, address });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_does_not_run_yet_is_announced_on_once_it_does() {
        let ip = IpAddr::from([192, 0, 2, 10]);
        let spot = Spot { ifindex: 3, mac: Some([2, 0, 0, 0, 0, 1]) };
        let mut announcer = Announcer::default();
        let mut look = |runs, seconds| {
            let places = BTreeMap::from([(ip, Found { spot, unknown: true, runs })]);
            let now = Duration::from_secs(seconds);
            let due = announcer.look(&BTreeSet::from([ip]), &places, now).len();
            (due, announcer.next_deadline().map(|at| at.as_secs()))
        };
        assert_eq!(look(false, 7), (0, None), "what is sent now is dropped, and nothing waits");
        assert_eq!(look(true, 9), (1, Some(10)));
        assert_eq!(look(false, 10), (0, None));
        assert_eq!(look(true, 20), (1, Some(21)));
        assert_eq!(look(true, 21), (1, None));
        assert_eq!(look(true, 22), (0, None));
    }
}
