//! Finding the NICs to guard: by what a vipshield that is gone has left, by name, or by where VRRP
//! sockets are.

use std::{net::IpAddr, time::Duration};

use super::{
    Engine, TURNOVER,
    action::Action,
    carry::Plan,
    nic::Nic,
    notice::Weight,
    tell,
    world::{Daemon, Filter, Link},
};

impl Engine {
    /// Guards the NICs asked for, or those the daemons use; lets go of those that are gone.
    pub(super) fn find_nics(&mut self, now: Duration) {
        let gone: Vec<u32> =
            self.nics.keys().copied().filter(|ifindex| !self.world.has_link(*ifindex)).collect();
        for ifindex in gone {
            self.part_with(ifindex, Weight::Warning, "the interface was removed; the daemons know");
        }
        for ifindex in self.asked_for_no_longer(now) {
            self.left.names.remove(&ifindex);
            let why = "the configuration names it no longer: guarded no longer";
            self.part_with(ifindex, Weight::Info, why);
        }
        for ifindex in self.given_up_by_all(now) {
            self.left.names.remove(&ifindex);
            self.part_with(ifindex, Weight::Info, "no daemon uses it any more: guarded no longer");
        }
        for (ifindex, name) in self.left_behind() {
            self.begin_to_guard(ifindex, name, now);
        }
        for (ifindex, name) in self.asked_for() {
            self.begin_to_guard(ifindex, name, now);
        }
    }

    fn part_with(&mut self, ifindex: u32, weight: Weight, why: &str) {
        let Some(nic) = self.nics.remove(&ifindex) else { return };
        self.remember_takers(&nic);
        tell(&mut self.actions, weight, Some(&nic.name), why.to_owned());
        let old = nic.carried.all();
        let new = Plan::default();
        let detours = Some(self.detours_with(ifindex, &new));
        self.detours.clone_from(&detours);
        self.want(Action::Carry { ifindex, old, new, detours });
    }

    /// The NICs of a vipshield that is gone. Where names are exchanged nothing else tells by which one
    /// its daemons know a NIC.
    fn left_behind(&self) -> Vec<(u32, String)> {
        let wanted = |name: &String| {
            self.config.chooses(name) && !self.nics.values().any(|nic| nic.name == *name)
        };
        let left = self.left.names.iter().filter(|(_, name)| wanted(name));
        left.map(|(ifindex, name)| (*ifindex, name.clone())).collect()
    }

    /// The NICs that the operator named, or else those that daemons use.
    fn asked_for(&self) -> Vec<(u32, String)> {
        let missing = self.missing().into_iter();
        let named = missing.filter_map(|name| {
            let nic = self.nic_behind(self.world.link_named(&name)?)?;
            Some((nic.ifindex, name))
        });
        let mut found: Vec<(u32, String)> = named.collect();
        if !self.config.goes_by_use() {
            return found;
        }
        let sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        let spoken = sockets.filter_map(|socket| {
            let bound = self.world.link(socket.bound?);
            bound.or_else(|| self.world.link(socket.home?))
        });
        // A bridge may have the NIC's name.
        let is_chosen = |link: &Link, nic: &Link| {
            self.config.chooses(&link.name) || self.config.chooses(&nic.name)
        };
        let used = spoken
            .chain(self.places_of_vips())
            .filter(|link| !self.nics.values().any(|nic| nic.bearers.contains(&link.ifindex)))
            .filter_map(|link| self.nic_behind(link).filter(|nic| is_chosen(link, nic)))
            .filter(|nic| nic.may_be_nic())
            .map(|nic| (nic.ifindex, nic.name.clone()));
        found.extend(used);
        found
    }

    /// NICs that the configuration does not choose any more. A move has to be over.
    fn asked_for_no_longer(&self, now: Duration) -> Vec<u32> {
        let is_over = |nic: &&Nic| {
            !self.config.chooses(&nic.name)
                && nic.is_home()
                && nic.is_calm(now)
                && !nic.carried.is_any()
        };
        self.nics.values().filter(is_over).map(|nic| nic.ifindex).collect()
    }

    /// Where daemons have the addresses that they mean to have: it may be another interface than the one
    /// they speak on. A bridge is none: whose it is, the NIC that is guarded tells.
    fn places_of_vips(&self) -> impl Iterator<Item = &Link> {
        let holders = self.world.vips.wanted().flat_map(|ip| self.world.holders(ip));
        holders.filter_map(|holder| self.world.link(holder)).filter(|link| !link.is_bridge())
    }

    /// Whether an address may be a VIP on an interface that no daemon speaks on.
    pub(super) fn may_be_elsewhere(&self, ip: IpAddr) -> bool {
        let mut holders = self.world.holders(ip).filter_map(|holder| self.world.link(holder));
        let is_nic =
            |link: &Link| !link.is_bridge() && link.may_be_nic() && self.config.chooses(&link.name);
        self.config.goes_by_use() && holders.any(is_nic)
    }

    fn begin_to_guard(&mut self, ifindex: u32, name: String, now: Duration) {
        let Some(link) = self.world.link(ifindex) else { return };
        if self.nics.contains_key(&ifindex) {
            return;
        }
        let called =
            if link.name == name { String::new() } else { format!(", now called {}", link.name) };
        let how = if self.config.observe { "observed" } else { "guarded" };
        let text = format!("{how} from now on (interface {ifindex}{called})");
        tell(&mut self.actions, Weight::Info, Some(&name), text);
        let mut nic = Nic::new(link, name, now);
        if let Some(remembered) = self.left.remembered.remove(&ifindex) {
            nic.resume(remembered);
        }
        if let Some(carried) = self.left.carried.remove(&ifindex) {
            if carried.stands_in {
                self.turnover_until = Some(now.saturating_add(TURNOVER));
                self.applied.found(Action::StandIn { ifindex, wanted: true });
            }
            nic.adopt(carried, &self.world);
            // Rules of whatever version are replaced.
            self.detours = None;
        }
        for address in self.left.held.remove(&ifindex).unwrap_or_default() {
            nic.suspect(address);
        }
        self.takers.remove(&ifindex);
        self.nics.insert(ifindex, nic);
    }

    /// A vipshield that is gone has left VRRP sockets on what was the bearer of their NIC: they are that
    /// NIC's, whatever it is a port of by now. A daemon's membership in VRRP's group on the NIC tells;
    /// with `unicast_peer` there is none, but Kube-OVN gives the bridge the NIC's hardware address.
    pub(super) fn recognise_bearers(&mut self) {
        let stale = |daemon: &&Daemon| daemon.monitors.iter().any(|m| m.filter == Filter::Stale);
        let sockets = self.world.daemons.values().filter(stale).flat_map(|daemon| &daemon.vrrp);
        for socket in sockets {
            let bound = socket.bound.and_then(|bound| self.world.link(bound));
            let Some(bridge) = bound.filter(|link| link.is_bridge()) else { continue };
            let world = &self.world;
            let is_twin = |nic: &Nic| {
                world.link(nic.ifindex).is_some_and(|l| !l.mac.is_empty() && l.mac == bridge.mac)
            };
            let is_its = |nic: &&mut Nic| match socket.home {
                Some(home) => home == nic.ifindex,
                None => is_twin(nic),
            };
            if let Some(nic) = self.nics.values_mut().find(is_its) {
                nic.bearers.insert(bridge.ifindex);
            }
        }
    }

    /// The physical interface behind `link`: itself, or the port of the bridge that it is, or what
    /// it is a virtual interface of.
    fn nic_behind<'a>(&'a self, link: &'a Link) -> Option<&'a Link> {
        if let Some(lower) = link.lower() {
            return self.world.link(lower);
        }
        if !link.is_bridge() {
            return Some(link);
        }
        self.world.first_port(link)
    }

    pub(super) fn missing(&self) -> Vec<String> {
        self.config
            .named()
            .filter(|name| !self.nics.values().any(|nic| nic.name == **name))
            .cloned()
            .collect()
    }
}
