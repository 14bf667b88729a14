//! What is in force, and stays so until it is made otherwise: policies, shunts, what is watched and
//! answered. What is carried is told plan by plan ([`carry`](super::carry)).
//!
//! One value says what should be in force ([`Engine::desired`]), computed from what is known now; another
//! says what is, as far as that can be told ([`Applied`]). The difference is asked for, here and nowhere
//! else, and tried again as any other action that fails. What nobody desires any more is unset.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Engine,
    action::Action,
    watch::Answers,
    world::{Family, SocketId},
};

/// What can be set, each thing apart from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting {
    /// What the guard withholds about a NIC.
    Policy(u32),
    /// The shunt of a NIC.
    Shunt(u32),
    /// For what the neighbours of a NIC are answered.
    Answers(u32),
    /// What stands in for the address of a NIC.
    StandIn(u32),
    /// Where VRRP sockets for a NIC are bound that are opened anew.
    Opening(u32),
    /// Whose requests the guard passes.
    CommandPorts,
    /// What a VRRP socket may send from.
    Source(SocketId),
    /// Whether an interface is watched.
    Watch(u32),
    /// Whose claims are reported.
    WatchedAddresses,
    /// A socket like the daemons'.
    Probe(u32, Family),
}

/// What a setting is, as far as that can be told.
#[derive(Clone, Debug)]
struct State {
    /// What was asked for last.
    last: Action,
    /// It has not failed: it is as asked for, or on the way there.
    sure: bool,
}

/// Settings that are not as if nobody had ever set them, or may not be.
#[derive(Debug, Default)]
pub(super) struct Applied(BTreeMap<Setting, State>);

impl Applied {
    /// What was asked for last, whether or not it could be done.
    pub(super) fn last(&self, setting: Setting) -> Option<&Action> {
        self.0.get(&setting).map(|state| &state.last)
    }

    /// Found so, or left so by the vipshield before.
    pub(super) fn found(&mut self, action: Action) {
        if let Some(setting) = action.sets() {
            self.0.insert(setting, State { last: action, sure: true });
        }
    }

    /// It was done. What is unset is no setting.
    pub(super) fn succeeded(&mut self, action: &Action) {
        let Some(setting) = action.sets() else { return };
        if action.is_unset() && self.0.get(&setting).is_some_and(|state| state.last == *action) {
            self.0.remove(&setting);
        }
    }

    /// It is neither what was asked for nor what was before.
    pub(super) fn failed(&mut self, action: &Action) {
        let state = action.sets().and_then(|setting| self.0.get_mut(&setting));
        if let Some(state) = state.filter(|state| state.last == *action) {
            state.sure = false;
        }
    }

    /// Sockets that may send from any address.
    pub(super) fn sources(&self) -> impl Iterator<Item = SocketId> {
        self.0.keys().filter_map(|setting| match setting {
            Setting::Source(socket) => Some(*socket),
            _ => None,
        })
    }

    /// What it is about is gone, and the setting with it.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Setting) -> bool) {
        self.0.retain(|setting, _| is_there(setting));
    }

    /// What leads from what is in force to what should be. What is to be unset comes first.
    fn difference(&self, desired: &BTreeMap<Setting, Action>) -> Vec<Action> {
        let unset = self.0.iter().filter(|(setting, _)| !desired.contains_key(setting));
        let unset = unset.filter_map(|(setting, state)| Some((setting, state.last.unset()?)));
        let unset: Vec<(&Setting, Action)> = unset.collect();
        let set = desired.iter().map(|(setting, action)| (setting, action.clone()));
        let is_so = |setting: &Setting, action: &Action| {
            self.0.get(setting).is_some_and(|state| state.sure && state.last == *action)
        };
        let all = unset.into_iter().chain(set);
        all.filter(|(setting, action)| !is_so(setting, action)).map(|(_, action)| action).collect()
    }

    /// Everything that unsets what `which` says.
    pub(super) fn undo(&self, which: impl Fn(&Setting) -> bool) -> Vec<Action> {
        let states = self.0.iter().filter(|(setting, _)| which(setting));
        states.filter_map(|(_, state)| state.last.unset()).collect()
    }
}

impl Action {
    /// What it sets, and what has the same thing as if nobody had ever set it; none if it sets nothing.
    fn setting(&self) -> Option<(Setting, Self)> {
        Some(match self {
            Self::SetPolicy { ifindex, name, .. } | Self::ClearPolicy { ifindex, name } => (
                Setting::Policy(*ifindex),
                Self::ClearPolicy { ifindex: *ifindex, name: name.clone() },
            ),
            Self::Shunt { ifindex, .. } => {
                (Setting::Shunt(*ifindex), Self::Shunt { ifindex: *ifindex, shunt: None })
            }
            Self::Answer { ifindex, .. } => (
                Setting::Answers(*ifindex),
                Self::Answer { ifindex: *ifindex, answers: Answers::default() },
            ),
            Self::StandIn { ifindex, .. } => {
                (Setting::StandIn(*ifindex), Self::StandIn { ifindex: *ifindex, wanted: false })
            }
            Self::SetOpening { nic, .. } => {
                (Setting::Opening(*nic), Self::SetOpening { nic: *nic, opening: None })
            }
            Self::SetCommandPorts { .. } => {
                (Setting::CommandPorts, Self::SetCommandPorts { ports: Vec::new() })
            }
            Self::Speak { socket, .. } => {
                (Setting::Source(*socket), Self::Speak { socket: *socket, from_anywhere: false })
            }
            Self::Watch { ifindex, .. } => {
                (Setting::Watch(*ifindex), Self::Watch { ifindex: *ifindex, wanted: false })
            }
            Self::WatchAddresses { .. } => {
                (Setting::WatchedAddresses, Self::WatchAddresses { addresses: BTreeSet::new() })
            }
            Self::SetProbe { ifindex, family, .. } => (
                Setting::Probe(*ifindex, *family),
                Self::SetProbe { ifindex: *ifindex, family: *family, groups: None },
            ),
            Self::Guard { .. }
            | Self::Listen { .. }
            | Self::Unguard { .. }
            | Self::Rebind { .. }
            | Self::RemoveVip { .. }
            | Self::MoveVip { .. }
            | Self::Announce { .. }
            | Self::Carry { .. }
            | Self::ResyncLink { .. }
            | Self::ReplayRemoval { .. }
            | Self::ShowAddress { .. }
            | Self::Rescan
            | Self::Tell { .. }
            | Self::RestoreRoutes { .. }
            | Self::Finish { .. } => return None,
        })
    }

    /// What it sets, if it is of that kind.
    pub(super) fn sets(&self) -> Option<Setting> {
        self.setting().map(|(setting, _)| setting)
    }

    fn unset(&self) -> Option<Self> {
        self.setting().map(|(_, unset)| unset)
    }

    /// Whether it sets something that nobody had set.
    pub(super) fn is_set(&self) -> bool {
        self.unset().is_some_and(|unset| unset != *self)
    }

    fn is_unset(&self) -> bool {
        self.unset().is_some_and(|unset| unset == *self)
    }
}

impl Engine {
    /// Everything that should be in force. What is as if nobody had ever set it is left out.
    fn desired(&self) -> BTreeMap<Setting, Action> {
        let policies = self.nics.values().map(|nic| Action::SetPolicy {
            ifindex: nic.ifindex,
            name: nic.name.clone(),
            withhold: nic.withhold(),
            passes: nic.passes.clone(),
        });
        let all = policies
            .chain(self.wanted_shunts())
            .chain(self.wanted_stand_ins())
            .chain(self.wanted_answers())
            .chain(self.wanted_openings())
            .chain([self.wanted_ports()])
            .chain(self.wanted_sources())
            .chain(self.wanted_watch())
            .chain(self.wanted_probes());
        let set = all.filter(|action| !action.is_unset());
        set.filter_map(|action| Some((action.sets()?, action))).collect()
    }

    /// Has everything set as it should be.
    pub(super) fn reconcile(&mut self, now: Duration) {
        let nics: Vec<u32> = self.nics.keys().copied().collect();
        for ifindex in nics {
            self.carry(ifindex, now);
        }
        // The kernel took it with its link, or its process.
        let sources: BTreeSet<SocketId> = self.vrrp_sockets_of_ipv6().map(|it| it.id).collect();
        let world = &self.world;
        self.applied.retain(|setting| match setting {
            Setting::StandIn(ifindex) => world.has_link(*ifindex),
            Setting::Source(socket) => sources.contains(socket),
            Setting::Policy(_)
            | Setting::Shunt(_)
            | Setting::Answers(_)
            | Setting::Opening(_)
            | Setting::CommandPorts
            | Setting::Watch(_)
            | Setting::WatchedAddresses
            | Setting::Probe(..) => true,
        });
        for action in self.applied.difference(&self.desired()) {
            if self.want(action.clone()) {
                self.applied.found(action);
            }
        }
    }

    /// Shunts, to be laid before they are needed.
    fn wanted_shunts(&self) -> impl Iterator<Item = Action> {
        self.nics.values().filter_map(|nic| {
            let shunt = nic.wanted_shunt(&self.world, self.patience(nic.ifindex).deadline)?;
            Some(Action::Shunt { ifindex: nic.ifindex, shunt: Some(shunt) })
        })
    }

    /// A port has no address of its own; a daemon that starts must find one on it.
    fn wanted_stand_ins(&self) -> impl Iterator<Item = Action> {
        let starts = self.turnover_until.is_some();
        let is_port = |ifindex: &u32| self.world.taker(*ifindex).is_some();
        let ports = self.nics.keys().copied().filter(move |ifindex| starts && is_port(ifindex));
        ports.map(|ifindex| Action::StandIn { ifindex, wanted: true })
    }

    /// Whether something stands in for the address of a NIC, or may.
    pub(super) fn is_stood_in(&self, ifindex: u32) -> bool {
        let last = self.applied.last(Setting::StandIn(ifindex));
        matches!(last, Some(Action::StandIn { wanted: true, .. }))
    }
}

/// What comes first of all that one look has asked for: a VIP that must go, the guard, what carries traffic;
/// then the daemons; what only looks comes last, for it may take the kernel long to let it go.
pub(super) const fn urgency(action: &Action) -> u8 {
    match action {
        Action::RemoveVip { .. } => 0,
        // The way to the pods is gone by then: before rules and routes of the carry's are taken back one by one.
        Action::SetPolicy { .. } | Action::ClearPolicy { .. } | Action::RestoreRoutes { .. } => 1,
        Action::Carry { .. } => 2,
        Action::Shunt { .. } | Action::Answer { .. } => 3,
        Action::StandIn { .. } | Action::SetOpening { .. } | Action::SetCommandPorts { .. } => 4,
        Action::Rebind { .. } | Action::MoveVip { .. } | Action::Announce { .. } => 5,
        Action::Speak { .. }
        | Action::Guard { .. }
        | Action::Listen { .. }
        | Action::Unguard { .. }
        | Action::ResyncLink { .. }
        | Action::ReplayRemoval { .. }
        | Action::ShowAddress { .. } => 6,
        Action::SetProbe { .. } | Action::Watch { .. } | Action::WatchAddresses { .. } => 7,
        Action::Rescan | Action::Tell { .. } | Action::Finish { .. } => 8,
    }
}
