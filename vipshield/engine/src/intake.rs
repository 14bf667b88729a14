//! Taking in what was seen: the world is brought up to date, and nothing is decided yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{
    Engine, FLASH, TURNOVER,
    action::Action,
    carry::Route,
    event::{About, Event, Withheld},
    notice::Weight,
    tell,
    vips::Intent,
    world::{Address, Daemon, Filter, Link, Role, SocketId},
};

impl Engine {
    /// Returns whether what there is to do may be something else now.
    pub(super) fn take_in(&mut self, event: Event, now: Duration) -> bool {
        match event {
            Event::Snapshot { links, addresses, routes, rules } => {
                self.flashes.clear();
                self.begin_with(links, addresses, routes, now);
                self.world.list_rules(rules);
            }
            Event::Inherited { names, held } => {
                self.left.names.extend(names);
                self.left.held = held;
            }
            Event::TakenOver { from } => self.take_over(*from),
            Event::Carried { nics } => {
                self.left.marks |= !nics.is_empty();
                self.left.carried = nics;
            }
            Event::Link { link } => return self.link_seen(link, now),
            Event::LinkRemoved { ifindex } => {
                let concerns = self.concerns_known_link(ifindex);
                self.note_mac(ifindex, None, now);
                self.world.forget_link(ifindex);
                return concerns;
            }
            Event::Address { ifindex, address, requester } => {
                if requester == self.config.replay_port || self.is_flash(ifindex, address, now) {
                    // It is gone by now.
                } else if self.is_own(address) {
                    self.world.see_own_address(ifindex, address.ip);
                } else if self.world.see_address(ifindex, address) {
                    self.appeared(ifindex, address, now);
                }
                return self.is_home(ifindex) || self.world.vips.is_wanted(address.ip);
            }
            Event::AddressRemoved { ifindex, address, requester } => {
                if requester == self.config.replay_port || self.is_flash(ifindex, address, now) {
                    // It never was there to stay.
                    self.flashes.retain(|flash| (flash.0, flash.1) != (ifindex, address));
                } else if self.is_own(address) {
                    self.world.forget_own_address(ifindex, address.ip);
                    if !self.world.has_ipv4(ifindex)
                        && let Some(nic) = self.nics.get_mut(&ifindex)
                    {
                        nic.lose_carry();
                    }
                } else {
                    self.address_removed(ifindex, address, requester);
                    self.source_left(address.ip, now);
                }
                let concerns = self.is_home(ifindex) || self.is_rival(ifindex);
                if address.ip.is_ipv4() {
                    self.world.address_left(ifindex);
                }
                return concerns;
            }
            Event::Heard { frames } => return self.heard(frames, now),
            Event::Intent { intent } => return self.intent_heard(&intent, now),
            Event::LastWords { intents } => {
                for intent in &intents {
                    self.word_kept(intent, now);
                }
            }
            Event::Moved { addresses } => {
                self.left.marks |= !addresses.is_empty();
                self.inherit(&addresses, now);
            }
            Event::Granted { port, sequence } => return self.granted(port, sequence, now),
            Event::Route { ifindex, route, replaces } => {
                let to = (route.destination, route.prefix_len, route.metric);
                let concerns = replaces && self.route_replaced(to);
                self.world.see_route(ifindex, route);
                return concerns || self.concerns_route(ifindex, &route);
            }
            Event::RouteRemoved { ifindex, route } => {
                self.world.forget_route(ifindex, route);
                return self.concerns_route(ifindex, &route);
            }
            Event::Switch { ifindex, served } => self.world.see_switch(ifindex, served, now),
            Event::Received { adverts } => return self.received(&adverts, now),
            Event::Rule { rule } => return self.world.see_rule(rule),
            Event::RuleRemoved { rule } => return self.world.forget_rule(rule),
            Event::Turnover => self.turnover_until = Some(now.saturating_add(TURNOVER)),
            Event::Speakers { speakers } => {
                let news = self.speakers != speakers;
                self.speakers = speakers;
                return news;
            }
            Event::Daemons { daemons } => {
                self.daemons_known();
                self.looked = true;
                self.daemons_found(daemons, now);
            }
            Event::DaemonsUnknown { error, gone } => self.daemons_unknown(error, &gone, now),
            Event::Withheld { message } => self.withheld(&message, now),
            Event::Succeeded { action } => self.succeeded(&action, now),
            Event::Failed { action, error } => self.action_failed(action, &error, now),
            Event::Configured { config } => {
                self.next_config = Some(*config);
                self.take_configuration();
            }
            Event::Tick => self.grants.all_heard(now),
            Event::Stop => self.told_to_stop(now),
        }
        true
    }

    /// All that there is is told anew.
    fn begin_with(
        &mut self,
        links: Vec<Link>,
        addresses: Vec<(u32, Address)>,
        routes: Vec<(u32, Route)>,
        now: Duration,
    ) {
        let ours = self.nics.values().flat_map(|nic| &nic.bearers);
        let known: BTreeSet<(u32, Address)> = ours
            .flat_map(|ifindex| self.world.addresses_of(*ifindex).map(|it| (*ifindex, it)))
            .collect();
        self.world.forget_interfaces();
        for link in links {
            self.world.see_link(link);
        }
        for (ifindex, address) in addresses {
            if self.is_own(address) {
                self.world.see_own_address(ifindex, address.ip);
            } else {
                self.world.see_address(ifindex, address);
                // A daemon may have taken it just now: whose it is was lost with all that was announced.
                if !known.contains(&(ifindex, address)) {
                    self.appeared(ifindex, address, now);
                }
            }
        }
        for (ifindex, route) in routes {
            self.world.list_route(ifindex, route);
        }
        for ip in self.world.doubt() {
            self.nics.values_mut().for_each(|nic| nic.doubt(ip));
        }
        self.started = true;
    }

    /// Whether an address only came because vipshield had the kernel say that it is gone. Of IPv6 the
    /// kernel does not say who asked.
    fn is_flash(&mut self, ifindex: u32, address: Address, now: Duration) -> bool {
        self.flashes.retain(|flash| now < flash.2);
        self.flashes.iter().any(|flash| (flash.0, flash.1) == (ifindex, address))
    }

    fn is_own(&self, address: Address) -> bool {
        self.config.own_addresses.contains(&address.ip)
    }

    fn link_seen(&mut self, link: Link, now: Duration) -> bool {
        // A new bridge is the first step of taking a NIC.
        if link.is_bridge() && !self.world.has_link(link.ifindex) {
            self.bridge_since = Some(now);
        }
        let ifindex = link.ifindex;
        let concerned = self.concerns_known_link(ifindex);
        self.note_mac(ifindex, Some(&link), now);
        self.world.see_link(link);
        concerned || self.concerns_known_link(ifindex)
    }

    /// A link is about to be another, or to be forgotten. Pods' have nothing to do with VIPs.
    fn note_mac(&mut self, ifindex: u32, new: Option<&Link>, now: Duration) {
        if let Some(link) = self.world.link(ifindex)
            && (link.is_bridge() || self.nics.contains_key(&ifindex))
            && new.is_none_or(|new| new.mac != link.mac)
        {
            self.claims.was_own(&link.mac, now);
        }
    }

    fn route_replaced(&mut self, to: (IpAddr, u8, u32)) -> bool {
        let replaced = self.world.route_replaced(to);
        replaced.into_iter().any(|ifindex| self.is_home(ifindex))
    }

    fn address_removed(&mut self, ifindex: u32, address: Address, requester: u32) {
        self.world.forget_address(ifindex, address);
        if self.world.daemon_at(requester).is_some()
            && let Some(nic) = self.nics.get_mut(&ifindex)
        {
            nic.forget(address);
        }
    }

    /// Returns whether a daemon said it.
    pub(super) fn intent_heard(&mut self, intent: &Intent, now: Duration) -> bool {
        let Some(pid) = self.world.daemon_at(intent.port) else {
            self.world.vips.overhear(intent, now);
            return false;
        };
        if intent.wanted && !intent.refused {
            self.grants.taken(now);
        }
        let ip = intent.address.ip;
        let before = self.world.vips.is_wanted(ip);
        self.world.vips.hear(pid, intent, now);
        // Of IPv6 the removal itself does not say whose doing it was.
        if ip.is_ipv6() && !intent.wanted && !intent.refused {
            self.nics.values_mut().for_each(|nic| nic.forget(intent.address));
        }
        self.tell_change_of_mind(pid, intent, before);
        true
    }

    /// What a daemon said last of an address, whatever else was lost.
    fn word_kept(&mut self, intent: &Intent, now: Duration) {
        let Some(pid) = self.world.daemon_at(intent.port) else {
            return self.world.vips.overhear(intent, now);
        };
        let before = self.world.vips.is_wanted(intent.address.ip);
        self.world.vips.hear_last(pid, intent);
        if !intent.wanted && !intent.refused {
            self.nics.values_mut().for_each(|nic| nic.forget(intent.address));
        }
        self.tell_change_of_mind(pid, intent, before);
    }

    fn tell_change_of_mind(&mut self, pid: u32, intent: &Intent, before: bool) {
        if self.world.vips.is_wanted(intent.address.ip) != before {
            let verb = if intent.wanted { "takes" } else { "gives up" };
            let text = format!("process {pid} {verb} {}", intent.address);
            tell(&mut self.actions, Weight::Info, None, text);
        }
    }

    /// A vipshield that was killed had moved these for a daemon that meant to have them. Which of
    /// them it still means to have is heard later; if it is gone, nobody does.
    fn inherit(&mut self, addresses: &[(u32, Address)], now: Duration) {
        let speakers = self.world.daemons.values().filter(|daemon| daemon.role == Role::Vrrp);
        let speakers: Vec<u32> = speakers.map(|daemon| daemon.pid).collect();
        for (ifindex, address) in addresses {
            match speakers.as_slice() {
                [] => {
                    let text = format!("{address} was left by a daemon that is gone");
                    tell(&mut self.actions, Weight::Warning, None, text);
                    self.world.vips.orphan(address.ip, *ifindex, now);
                }
                [pid] => self.world.vips.inherit(*pid, address.ip, *ifindex),
                // Nothing tells whose it is.
                [_, _, ..] => {}
            }
        }
    }

    fn daemons_found(&mut self, daemons: Vec<Daemon>, now: Duration) {
        let found: BTreeMap<u32, Daemon> =
            daemons.into_iter().map(|daemon| (daemon.pid, daemon)).collect();
        let is_there = |daemon: &Daemon| {
            found.get(&daemon.pid).is_some_and(|now| now.start_time == daemon.start_time)
        };
        let mut orphans = self.bury(is_there, now);
        let before = std::mem::replace(&mut self.world.daemons, found);
        let mut vips = std::mem::take(&mut self.world.vips);
        vips.claim(|port| self.world.daemon_at(port), now);
        self.world.vips = vips;
        let there = |socket: &SocketId| {
            let daemon = self.world.daemons.get(&socket.pid);
            daemon.is_some_and(|daemon| daemon.vrrp.iter().any(|vrrp| vrrp.id == *socket))
        };
        self.placed.retain(|socket, _| there(socket));
        self.made.retain(|socket, _| there(socket));
        for daemon in self.world.daemons.values() {
            let stale = daemon.monitors.iter().any(|monitor| monitor.filter == Filter::Stale);
            for socket in &daemon.vrrp {
                self.made.entry(socket.id).or_insert(socket.bound.filter(|_| !stale));
            }
        }
        self.look_for_sockets(&before, now);
        // One of those that were found now may have said already that it takes it over.
        orphans.retain(|ip| !self.world.vips.is_wanted(*ip));
        for ip in orphans {
            self.take_down(ip);
        }
    }

    /// Parts with the daemons that are not there any more. Returns the VIPs that they alone meant to
    /// have.
    pub(super) fn bury(
        &mut self,
        is_there: impl Fn(&Daemon) -> bool,
        now: Duration,
    ) -> Vec<IpAddr> {
        let mut orphans = Vec::new();
        let mut died = false;
        for (pid, daemon) in self.world.daemons.iter().filter(|(_, daemon)| !is_there(daemon)) {
            died |= daemon.role == Role::Vrrp;
            let for_good = |ip, asked| self.routers.is_for_good(ip, asked);
            let (wanted, staying) = self.world.vips.bury(*pid, now, for_good);
            orphans.extend(wanted);
            let text = format!("{} {pid} is gone", daemon.name);
            tell(&mut self.actions, Weight::Info, None, text);
            if let Some(first) = staying.first() {
                let others = match staying.len() {
                    1 => String::new(),
                    number => format!(" and {} others", number - 1),
                };
                let text = format!(
                    "{first}{others}: no virtual router of {} {pid} went along with it; it stays on the node \
                     (static_ipaddress)",
                    daemon.name
                );
                tell(&mut self.actions, Weight::Info, None, text);
            }
            self.failed.retain(|action, _| action.pid() != Some(*pid));
            self.pending.retain(|action| action.pid() != Some(*pid));
        }
        if died {
            self.routers.disown();
        }
        orphans
    }

    fn withheld(&mut self, message: &Withheld, now: Duration) {
        self.counts.withheld += 1;
        self.tell_removal_of_unwanted(message);
        let Some(nic) = self.nics.values_mut().find(|nic| match &message.about {
            About::NameConflict { name } => nic.name == *name,
            _ => nic.ifindex == message.ifindex,
        }) else {
            return;
        };
        if let About::AddressRemoval { address } = message.about
            && self.world.daemon_at(message.requester).is_none()
        {
            nic.remember(address);
        }
        // That nothing is new is no sign of a move.
        if !matches!(message.about, About::KnownAddress { .. }) {
            if !nic.phase.is_transition() && nic.withheld == 0 {
                nic.transition_since = now;
            }
            nic.withheld += 1;
        }
        let what = match &message.about {
            About::AddressRemoval { address } => format!("{} left the NIC", address.ip),
            About::AdminDown => "the NIC was taken down".to_owned(),
            About::CarrierLoss => "the NIC has no carrier".to_owned(),
            About::Rename { name } => format!("the NIC is now called {name}"),
            About::NameConflict { name } => {
                format!("interface {} is called {name} too", message.ifindex)
            }
            About::BridgePort => "a bridge spoke of its port".to_owned(),
            About::OwnAddress { ip } => format!("vipshield's own address {ip}"),
            About::RouteRemoval { destination } => {
                format!("the kernel dropped keepalived's route to {destination}")
            }
            About::KnownAddress { ip } => {
                format!("{ip} is on the NIC, as the daemon believes it is")
            }
        };
        let who = match message.requester {
            0 => String::new(),
            port => format!(" (asked for by netlink port {port})"),
        };
        let text = format!("withheld by rule {}: {what}{who}", message.rule);
        tell(&mut self.actions, Weight::Detail, Some(&nic.name), text);
    }

    /// What the daemons gave up belongs to no NIC, so nobody looks out for it. If somebody had put it
    /// back, and it is gone once more, they have seen the one and not the other.
    fn tell_removal_of_unwanted(&mut self, message: &Withheld) {
        let Withheld { ifindex, about: About::AddressRemoval { address }, .. } = *message else {
            return;
        };
        if self.nics.contains_key(&ifindex) && self.world.vips.is_given_up(address.ip) {
            self.want(Action::ReplayRemoval { ifindex, address });
        }
    }

    fn succeeded(&mut self, action: &Action, now: Duration) {
        self.pending.remove(action);
        self.note_success(action);
        self.applied.succeeded(action);
        match action {
            Action::Guard { socket } | Action::Listen { socket } => {
                self.set_filter(*socket, Filter::Guard);
                self.told.guarded(*socket, now);
            }
            Action::ReplayRemoval { ifindex, address } => {
                self.removal_replayed(*ifindex, *address, now);
            }
            Action::SetProbe { ifindex, family, groups: Some(_) } => {
                self.probe_opened(*ifindex, *family, now);
            }
            // What vipshield asks for itself is told by nobody else.
            Action::RemoveVip { ifindex, address } => {
                self.world.forget_address(*ifindex, *address);
            }
            Action::MoveVip { address, from, to } => {
                self.world.forget_address(*from, *address);
                self.world.see_address(*to, *address);
            }
            Action::Announce { .. } => self.counts.announced += 1,
            Action::Unguard { socket } => self.set_filter(*socket, Filter::None),
            Action::Rebind { socket, to, .. } => {
                self.counts.rebound += 1;
                self.placed.insert(socket.id, (*to, socket.home));
                if let Some(found) = self
                    .world
                    .daemons
                    .get_mut(&socket.id.pid)
                    .and_then(|daemon| daemon.vrrp.iter_mut().find(|vrrp| vrrp.id == socket.id))
                {
                    found.bound = *to;
                }
            }
            Action::SetPolicy { .. }
            | Action::SetCommandPorts { .. }
            | Action::SetOpening { .. }
            | Action::Carry { .. }
            | Action::RestoreRoutes { .. }
            | Action::Shunt { .. }
            | Action::Speak { .. }
            | Action::StandIn { .. }
            | Action::ClearPolicy { .. }
            | Action::ResyncLink { .. }
            | Action::ShowAddress { .. }
            | Action::Rescan
            | Action::Watch { .. }
            | Action::WatchAddresses { .. }
            | Action::Answer { .. }
            | Action::SetProbe { .. }
            | Action::Tell { .. }
            | Action::Finish { .. } => {}
        }
    }

    /// The kernel was asked to say that an address is gone. It says nothing if the address is there, as one
    /// that it checks for duplicates is before it says so.
    fn removal_replayed(&mut self, ifindex: u32, address: Address, now: Duration) {
        let name = self.nics.get(&ifindex).map(|nic| nic.name.as_str());
        if self.world.has_ip(ifindex, address.ip) {
            let text = format!("{address} is there by now: the daemons were told nothing");
            return tell(&mut self.actions, Weight::Info, name, text);
        }
        let text = format!("the daemons were told that {address} is gone");
        tell(&mut self.actions, Weight::Warning, name, text);
        if address.ip.is_ipv6() {
            self.flashes.push((ifindex, address, now.saturating_add(FLASH)));
        }
    }

    fn set_filter(&mut self, socket: SocketId, filter: Filter) {
        let Some(daemon) = self.world.daemons.get_mut(&socket.pid) else { return };
        let monitors = daemon.monitors.iter_mut().map(|found| (found.id, &mut found.filter));
        let commands = daemon.commands.iter_mut().map(|found| (found.id, &mut found.filter));
        for (_, found) in monitors.chain(commands).filter(|(id, _)| *id == socket) {
            *found = filter;
        }
    }

    fn action_failed(&mut self, action: Action, error: &str, now: Duration) {
        self.pending.remove(&action);
        *self.counts.failures.entry(action.kind()).or_default() += 1;
        self.applied.failed(&action);
        match &action {
            Action::Carry { ifindex, old, new, detours } => {
                if detours.is_some() {
                    self.detours = None;
                }
                if let Some(nic) = self.nics.get_mut(ifindex) {
                    nic.carried.failed(old, new.clone());
                }
            }
            Action::ShowAddress { ifindex, .. } => {
                self.told.not_introduced(*ifindex);
            }
            Action::ResyncLink { socket, ifindex } => self.told.not_told(*socket, *ifindex),
            Action::Announce { ifindex, address } => self.announcer.failed(*ifindex, *address),
            Action::SetPolicy { .. }
            | Action::ClearPolicy { .. }
            | Action::RestoreRoutes { .. }
            | Action::Shunt { .. }
            | Action::SetCommandPorts { .. }
            | Action::SetOpening { .. }
            | Action::Watch { .. }
            | Action::WatchAddresses { .. }
            | Action::Answer { .. }
            | Action::StandIn { .. }
            | Action::SetProbe { .. }
            | Action::Guard { .. }
            | Action::Listen { .. }
            | Action::Unguard { .. }
            | Action::Rebind { .. }
            | Action::Speak { .. }
            | Action::RemoveVip { .. }
            | Action::MoveVip { .. }
            | Action::ReplayRemoval { .. }
            | Action::Rescan
            | Action::Tell { .. }
            | Action::Finish { .. } => {}
        }
        self.note_failure(action, error, now);
    }
}
