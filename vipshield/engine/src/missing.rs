//! VIPs that a daemon of this node owns, as its adverts say, and that are on no interface.
//!
//! keepalived that becomes owner in the moment in which an interface goes or is renamed is refused what it asks
//! for ("Netlink: error: No such device"), and does not ask again: it sends adverts, so that nobody else takes over,
//! and the VIP is nowhere. While vipshield guards it does not get there; while none does, as after a crash, it may.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Engine,
    action::Action,
    notice::Weight,
    tell,
    world::{Address, Family},
};

/// Where a VIP that is nowhere belongs, and whose it is.
#[derive(Clone, Copy, Debug)]
struct Missing {
    nic: u32,
    bearer: u32,
    family: Family,
    router_id: u8,
    pid: u32,
    /// The last advert for it, and the time between two.
    last: Duration,
    interval: Duration,
}

impl Engine {
    /// Has such VIPs put where they belong, once their daemon has gone on as owner for as long as anything may be
    /// untrue to it, and had the time to put them there itself.
    pub(super) fn restore_vips(&mut self, now: Duration) {
        let found = self.vips_nowhere(now);
        self.missing_since.retain(|ip, _| found.contains_key(ip));
        for (ip, it) in found {
            let since = *self.missing_since.entry(ip).or_insert(now);
            let patience = self.patience(it.nic).deadline;
            if now < since.saturating_add(patience) || it.last < since.saturating_add(it.interval) {
                continue;
            }
            let known =
                self.nics.get(&it.nic).and_then(|nic| nic.home().find(|home| home.ip == ip));
            let address = known.unwrap_or_else(|| Address::host(ip));
            if self.want(Action::MoveVip { address, from: it.bearer, to: it.bearer }) {
                // It is taken off with its daemon.
                self.world.vips.witness(it.pid, ip);
                let name = self.nics.get(&it.nic).map(|nic| nic.name.clone());
                let text = format!(
                    "{address} is on no interface, though process {} sends adverts of virtual router {} for it: it is \
                     put on {}",
                    it.pid,
                    it.router_id,
                    self.world.name_of(it.bearer)
                );
                tell(&mut self.actions, Weight::Warning, name.as_deref(), text);
            }
        }
    }

    /// Those of which nobody else is the owner, on NICs with which nothing is the matter.
    fn vips_nowhere(&self, now: Duration) -> BTreeMap<IpAddr, Missing> {
        let mut all = BTreeMap::new();
        let mut contested = BTreeSet::new();
        for (key, router) in self.routers.ours() {
            let rivals = router.others.iter().filter(|(_, entry)| entry.is_live(now));
            contested.extend(rivals.flat_map(|(_, it)| it.value.advert.addresses.iter().copied()));
            let Some((_, own)) = router.own.as_ref().filter(|(_, own)| own.is_live(now)) else {
                continue;
            };
            let Some(nic) = self.nics.get(&key.nic).filter(|nic| nic.is_calm(now)) else {
                continue;
            };
            let works =
                |ifindex: &u32| self.world.link(*ifindex).is_some_and(|it| it.up && it.running);
            let (Some(bearer), Some(pid)) =
                (nic.bearer.filter(works), self.only_speaker(nic, key.family))
            else {
                continue;
            };
            let hindered = !works(&nic.ifindex)
                || nic.cut_off().is_some()
                || key.vlan.is_some()
                || self.world.is_deaf(nic.ifindex, key.family);
            if hindered {
                continue;
            }
            for ip in &own.value.advert.addresses {
                let it = Missing {
                    nic: key.nic,
                    bearer,
                    family: key.family,
                    router_id: key.router_id,
                    pid,
                    last: own.last,
                    interval: own.value.advert.interval,
                };
                all.insert(*ip, it);
            }
        }
        all.retain(|ip, it| {
            Family::of(*ip) == it.family
                && !contested.contains(ip)
                && !self.world.vips.is_given_up(*ip)
                && self.world.holders(*ip).next().is_none()
        });
        all
    }
}
