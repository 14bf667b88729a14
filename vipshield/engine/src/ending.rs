//! The end: what is waited for, what is left behind, and what could not be done.
//!
//! A NIC that is a port is something the daemons do not know of: to tell them is a failover. So vipshield
//! leaves what makes that bearable, for the next one to adopt, unless it is told to release it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    carry::{Detours, Plan},
    event::Event,
    failed::is_optional,
    nic::{Deadlines, Nic},
    notice::Weight,
    settings::Setting,
    tell,
    world::{Address, Filter, SocketId},
};

/// For so long a stop waits until no transition runs: within what supervisors grant before they kill
/// (systemd 90 s, Kubernetes 30 s), and longer than Kube-OVN takes for any of its sequences.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// A bridge that appeared takes a NIC within that time, or none.
pub(super) const AWAITED: Duration = Duration::from_secs(10);

/// What a vipshield that is told to end leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStop {
    /// While a NIC is a port its sockets and VIPs stay where they are, and the daemons are told nothing
    /// that does not come true by it.
    #[default]
    Keep,
    /// The daemons are told how things are, and all that was moved is moved back.
    Release,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nobody has asked for it.
    #[default]
    No,
    /// As soon as no transition runs, and then at the latest.
    Waits { until: Duration },
    /// The last actions are under way: nothing is decided any more.
    Last { kept: bool, undone: u32 },
    /// All of them have been tried.
    Over,
}

impl Engine {
    /// Told to end. Told so again it does at once.
    pub(super) fn told_to_stop(&mut self, now: Duration) {
        let patient = self.ending == Ending::No && self.config.on_stop == OnStop::Keep;
        let until = if patient { now.saturating_add(GRACE) } else { now };
        self.ending = Ending::Waits { until };
        if patient && !self.is_calm(now) {
            let text = format!(
                "told to end while a NIC is on its way, or about to be: that is waited for, {} s at \
                 the most",
                GRACE.as_secs()
            );
            tell(&mut self.actions, Weight::Info, None, text);
        }
    }

    /// Whether it was told to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.ending != Ending::No
    }

    /// Whether the last actions are under way.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        matches!(self.ending, Ending::Last { .. } | Ending::Over)
    }

    /// Whether the time to end has come, whatever is under way.
    pub(super) fn must_end(&self, now: Duration) -> bool {
        matches!(self.ending, Ending::Waits { until } if now >= until)
    }

    /// Whether it was told to end, and nothing is under way.
    pub(super) fn may_end(&self, now: Duration) -> bool {
        matches!(self.ending, Ending::Waits { .. }) && self.is_calm(now)
    }

    /// When it ends at the latest.
    pub(super) fn end(&self) -> Option<Duration> {
        match self.ending {
            Ending::Waits { until } => Some(until),
            Ending::No | Ending::Last { .. } | Ending::Over => None,
        }
    }

    /// Whether a bridge appeared, and has taken no NIC yet.
    fn awaits_a_transition(&self) -> bool {
        let is_later = |at| self.nics.values().all(|nic| nic.transition_since < at);
        self.bridge_since.is_some_and(is_later)
    }

    /// Whether nothing is under way: no NIC is taken or given back, and nothing is to be done or undone.
    #[must_use]
    pub fn is_calm(&self, now: Duration) -> bool {
        self.pending.is_empty()
            && self.to_mend().all(|(action, _)| is_optional(action))
            && !self.awaits_a_transition()
            && self.nics.values().all(|nic| nic.is_calm(now))
    }

    /// Leaves every daemon with the truth and without the guard; or, while a NIC is a port, as it is.
    pub(super) fn let_go(&mut self, now: Duration) {
        let keeps = self.config.on_stop == OnStop::Keep;
        let kept = keeps && !self.nics.values().all(Nic::is_home);
        let mut last = self.end_of_carry();
        if kept {
            last.extend(self.truths(now));
            last.extend(self.marked());
        } else {
            last.extend(self.way_back());
        }
        for nic in self.nics.values_mut() {
            // None keeps what another takes back.
            nic.carried.asked(Plan::default());
        }
        if !keeps {
            // A classifier that goes may cost packets (before Linux 6.6), and the next one adopts it.
            let is_watch =
                |setting: &Setting| matches!(setting, Setting::Answers(_) | Setting::Watch(_));
            last.extend(self.applied.undo(is_watch));
        }
        if !kept {
            last.extend(self.end_of_guard());
        }
        let text = if kept {
            "ending: sockets and VIPs stay where they are while a NIC is a port"
        } else {
            "ending: every daemon is told how things are, and let go"
        };
        tell(&mut self.actions, Weight::Info, None, text.to_owned());
        self.pending.extend(last.iter().cloned());
        self.actions.extend(last);
        self.ending = Ending::Last { kept, undone: 0 };
        self.finish();
    }

    /// What is carried, and what stands in for an address: it is no use to anybody for long.
    fn end_of_carry(&self) -> Vec<Action> {
        let mut last = Vec::new();
        for nic in self.nics.values() {
            let ifindex = nic.ifindex;
            let none = Some(Detours::new());
            if nic.carried.is_any() || self.detours != none {
                let (old, new) = (nic.carried.all(), Plan::default());
                last.push(Action::Carry { ifindex, old, new, detours: none });
            }
        }
        last.extend(self.applied.undo(|setting| matches!(setting, Setting::StandIn(_))));
        last
    }

    /// What is not true and was to be told: it is told now, for nobody will.
    fn truths(&mut self, now: Duration) -> Vec<Action> {
        let sockets = self.guarded_sockets();
        let mut last = Vec::new();
        for nic in self.nics.values().filter(|_| !sockets.is_empty()) {
            let due = nic.overdue(Deadlines::NONE, now);
            if due.is_empty() {
                continue;
            }
            let text = "not all of it is as it was, and vipshield ends: the daemons are told";
            tell(&mut self.actions, Weight::Warning, Some(&nic.name), text.to_owned());
            for truth in due {
                last.extend(nic.telling(truth, &sockets, &self.world));
            }
            last.extend(self.missed_vips(nic));
        }
        last
    }

    /// VIPs that stay on a bridge are marked, whoever put them there: the next vipshield has to know them,
    /// should their daemon be gone by then.
    fn marked(&self) -> Vec<Action> {
        let mut marked = Vec::new();
        for nic in self.nics.values() {
            let Some(to) = nic.bearer.filter(|bearer| *bearer != nic.ifindex) else { continue };
            let vips = self.world.addresses_of(to).filter(|it| self.world.vips.is_wanted(it.ip));
            let asked = |ip| self.world.vips.asked(ip);
            let vips = vips.filter(|it| {
                !asked(it.ip).is_some_and(|asked| self.routers.is_for_good(it.ip, asked))
            });
            marked.extend(vips.map(|address| Action::MoveVip { address, from: to, to }));
        }
        marked
    }

    /// The VIPs on its bridge that daemons give up now, and miss there.
    fn missed_vips(&self, nic: &Nic) -> Vec<Action> {
        let mut missed = Vec::new();
        for address in nic.home().filter(|it| !self.world.has_ip(nic.ifindex, it.ip)) {
            for bearer in nic.bearers.iter().filter(|bearer| **bearer != nic.ifindex) {
                if self.world.vips.is_wanted(address.ip) && self.world.has_ip(*bearer, address.ip) {
                    missed.push(Action::RemoveVip { ifindex: *bearer, address });
                }
            }
        }
        missed
    }

    /// Moves sockets and VIPs back, and tells the daemons everything.
    fn way_back(&self) -> Vec<Action> {
        let sockets = self.guarded_sockets();
        let mut last = Vec::new();
        for nic in self.nics.values() {
            let ifindex = nic.ifindex;
            for socket in self.world.daemons.values().flat_map(|daemon| &daemon.vrrp) {
                // One that found the bridge by the NIC's name made it there.
                let first = || self.made.get(&socket.id).copied().flatten();
                let made = socket
                    .home
                    .or_else(first)
                    .filter(|made| nic.bearers.contains(made) && self.world.has_link(*made));
                let to = made.unwrap_or(ifindex);
                if socket.bound.is_some_and(|b| b != to && nic.bearers.contains(&b)) {
                    last.push(Action::Rebind { socket: *socket, nic: ifindex, to: Some(to) });
                }
            }
            let is_its = |setting: &Setting| {
                [Setting::Shunt(ifindex), Setting::Policy(ifindex)].contains(setting)
            };
            last.extend(self.applied.undo(is_its));
            let away = |address: &Address| !self.world.has_ip(ifindex, address.ip);
            for address in nic.link_local_vips(&self.world).filter(away) {
                let held = |ifindex: &&u32| self.world.has_ip(**ifindex, address.ip);
                if let Some(from) = nic.bearers.iter().find(held) {
                    last.push(Action::MoveVip { address, from: *from, to: ifindex });
                }
            }
            if sockets.is_empty() {
                continue;
            }
            for address in nic.home().filter(|it| !self.world.has_ip(ifindex, it.ip)) {
                last.push(Action::ReplayRemoval { ifindex, address });
            }
            last.extend(self.missed_vips(nic));
            for socket in &sockets {
                last.push(Action::ResyncLink { socket: *socket, ifindex });
            }
        }
        last
    }

    /// Takes vipshield's options and filters off the daemons' sockets.
    fn end_of_guard(&self) -> Vec<Action> {
        let speak = self.applied.undo(|setting| matches!(setting, Setting::Source(_)));
        let commands = self.world.daemons.values().flat_map(|daemon| &daemon.commands);
        let listened = commands.filter(|command| command.filter == Filter::Guard);
        let filtered: Vec<SocketId> =
            self.guarded_sockets().into_iter().chain(listened.map(|it| it.id)).collect();
        speak
            .into_iter()
            .chain(filtered.into_iter().map(|socket| Action::Unguard { socket }))
            .collect()
    }

    /// One of the last actions is over, or something was seen that nothing follows from any more.
    pub(super) fn at_the_end(&mut self, event: Event) {
        match event {
            Event::Succeeded { action } => self.pending.retain(|pending| *pending != action),
            // What was on its way to be set when the end came is missed by nobody.
            Event::Failed { action, .. } if action.is_set() => {
                self.pending.retain(|pending| *pending != action);
            }
            Event::Failed { action, error } => {
                self.pending.retain(|pending| *pending != action);
                let text = format!("{action}: {error}; it was the last attempt");
                tell(&mut self.actions, Weight::Warning, None, text);
                if let Ending::Last { undone, .. } = &mut self.ending {
                    *undone = undone.saturating_add(1);
                }
            }
            Event::Snapshot { .. }
            | Event::Inherited { .. }
            | Event::TakenOver { .. }
            | Event::Carried { .. }
            | Event::Link { .. }
            | Event::LinkRemoved { .. }
            | Event::Address { .. }
            | Event::AddressRemoved { .. }
            | Event::Heard { .. }
            | Event::Received { .. }
            | Event::Intent { .. }
            | Event::LastWords { .. }
            | Event::Moved { .. }
            | Event::Granted { .. }
            | Event::Route { .. }
            | Event::RouteRemoved { .. }
            | Event::Rule { .. }
            | Event::RuleRemoved { .. }
            | Event::Switch { .. }
            | Event::Turnover
            | Event::Speakers { .. }
            | Event::Daemons { .. }
            | Event::DaemonsUnknown { .. }
            | Event::Withheld { .. }
            | Event::Configured { .. }
            | Event::Tick
            | Event::Stop => {}
        }
        self.finish();
    }

    /// Ends once nothing is under way any more.
    fn finish(&mut self) {
        let Ending::Last { kept, undone } = self.ending else { return };
        if !self.pending.is_empty() {
            return;
        }
        let (weight, text) = match (kept, undone) {
            (true, 0) => (
                Weight::Info,
                "ended: what was moved stays for the next vipshield, and the guard passes everything"
                    .to_owned(),
            ),
            (false, 0) => {
                (Weight::Info, "ended: no daemon carries the guard any more".to_owned())
            }
            (_, undone) => (
                Weight::Warning,
                format!(
                    "ended, and {undone} things that had to be done could not be: see above; start \
                     vipshield again, or run `vipshield cleanup`"
                ),
            ),
        };
        tell(&mut self.actions, weight, None, text);
        self.actions.push_back(Action::Finish { kept, undone });
        self.ending = Ending::Over;
    }
}
