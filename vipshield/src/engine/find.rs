//! Finding the NICs to guard, by name, by where VRRP sockets are, or by what a vipshield that died
//! has left.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Engine,
    action::Action,
    carry::Plan,
    nic::Nic,
    notice::Weight,
    tell,
    world::{Filter, Link},
};

impl Engine {
    /// Guards the NICs asked for, or those the daemons use; lets go of those that are gone.
    pub(super) fn find_nics(&mut self, now: Duration) {
        let gone: Vec<u32> = self
            .nics
            .keys()
            .copied()
            .filter(|ifindex| !self.world.links.contains_key(ifindex))
            .collect();
        for ifindex in gone {
            if let Some(nic) = self.nics.remove(&ifindex) {
                let text = "the interface was removed; the daemons know".to_owned();
                tell(&mut self.actions, Weight::Warning, Some(&nic.name), text);
                let old = nic.carried();
                self.want(Action::ClearPolicy { ifindex, name: nic.name });
                self.want(Action::Carry { ifindex, old, new: Plan::default() });
                self.want(Action::Shunt { ifindex, shunt: None });
            }
        }
        let wanted: Vec<(u32, String)> = if self.config.interfaces.is_empty() {
            self.world
                .daemons
                .values()
                .flat_map(|daemon| &daemon.vrrp)
                .filter_map(|socket| {
                    let bound = self.world.links.get(&socket.bound?);
                    bound.or_else(|| self.world.links.get(&socket.home?))
                })
                .filter(|link| !self.nics.values().any(|nic| nic.bearers.contains(&link.ifindex)))
                .filter_map(|link| self.nic_behind(link).map(|nic| (nic.ifindex, nic.name.clone())))
                .collect()
        } else {
            self.config
                .interfaces
                .iter()
                .filter(|name| !self.nics.values().any(|nic| nic.name == **name))
                .filter_map(|name| {
                    let nic = self.nic_behind(self.world.link_named(name)?)?;
                    Some((nic.ifindex, name.clone()))
                })
                .collect()
        };
        for (ifindex, name) in wanted {
            if self.nics.contains_key(&ifindex) {
                continue;
            }
            if let Some(link) = self.world.links.get(&ifindex) {
                let text = format!("guarded from now on (interface {ifindex})");
                tell(&mut self.actions, Weight::Info, Some(&name), text);
                self.nics.insert(ifindex, Nic::new(link, name, now));
            }
        }
        self.find_renamed(now);
        for name in self.missing() {
            self.mention(
                None,
                format!("there is no interface {name} to guard; it will be once it appears"),
            );
        }
    }

    /// A vipshield that died while names were exchanged has left its guard on a daemon that knows
    /// the NIC by its name of before: the NIC is where that daemon's VRRP sockets are. Without the
    /// guard a name that is missing may be anything, a slip of the operator's included.
    fn find_renamed(&mut self, now: Duration) {
        let missing = self.missing();
        let [name] = missing.as_slice() else { return };
        let bound: BTreeSet<u32> = self
            .world
            .daemons
            .values()
            .filter(|daemon| daemon.monitors.iter().any(|m| m.filter == Filter::Stale))
            .flat_map(|daemon| &daemon.vrrp)
            .filter_map(|socket| socket.bound)
            .filter(|ifindex| !self.nics.values().any(|nic| nic.bearers.contains(ifindex)))
            .collect();
        let Some(bound) = bound.first().copied().filter(|_| bound.len() == 1) else { return };
        let Some(link) = self.world.links.get(&bound) else { return };
        // It died before it could move them from a bridge that has just let go of the NIC. Kube-OVN
        // gives the bridge the NIC's hardware address.
        let like = |other: &&Link| {
            if link.is_bridge() {
                !other.is_bridge() && other.mac == link.mac
            } else {
                other.ifindex == link.ifindex
            }
        };
        let mut alike = self.world.links.values().filter(like);
        let (Some(link), None) = (alike.next(), alike.next()) else { return };
        let ifindex = link.ifindex;
        let text = format!("guarded from now on (interface {ifindex}, now called {})", link.name);
        tell(&mut self.actions, Weight::Info, Some(name), text);
        let mut nic = Nic::new(link, name.clone(), now);
        nic.bearers.insert(bound);
        self.nics.insert(ifindex, nic);
    }

    /// The physical interface behind `link`: itself, or the port of the bridge that it is, or what
    /// it is a virtual interface of.
    fn nic_behind<'a>(&'a self, link: &'a Link) -> Option<&'a Link> {
        if let Some(lower) = link.lower() {
            return self.world.links.get(&lower);
        }
        if !link.is_bridge() {
            return Some(link);
        }
        self.world.links.values().find(|port| {
            !port.is_bridge()
                && port.master.is_some_and(|master| {
                    master == link.ifindex
                        || (link.kind.as_deref() == Some("openvswitch")
                            && port.mac == link.mac
                            && self.world.links.get(&master).is_some_and(|master| {
                                master.kind.as_deref() == Some("openvswitch")
                            }))
                })
        })
    }

    pub(super) fn missing(&self) -> Vec<String> {
        self.config
            .interfaces
            .iter()
            .filter(|name| !self.nics.values().any(|nic| nic.name == **name))
            .cloned()
            .collect()
    }
}
