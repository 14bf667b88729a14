//! Who uses a NIC: a daemon that speaks VRRP there, or has asked for an address there.
//!
//! Where none was ever guarded nothing is put on the node: a vipshield that sees no daemon, or guards
//! another interface than they use, is as good as none.

use std::time::Duration;

use super::{
    Engine,
    action::Action,
    names::is_of,
    nic::Nic,
    world::{Daemon, Filter, VrrpSocket},
};

/// A daemon that is gone may be back so soon that nothing need be said of it: keepalived that is reloaded
/// opens its sockets anew.
const BACK_SOON: Duration = Duration::from_secs(5);
/// A daemon that has not come back by then is not waited for, and a NIC that nobody named is let go of.
const WAITED_FOR: Duration = Duration::from_mins(1);

impl Engine {
    /// Takes in who uses which NIC now.
    pub(super) fn find_users(&mut self, now: Duration) {
        let mut places: Vec<(u32, u32)> = Vec::new();
        for (ip, pid) in self.world.vips.wishes() {
            let is_new = |nic: &&Nic| {
                let has_it = |holder| nic.bearers.contains(&holder);
                !nic.tenants.contains(&pid) && self.world.holders(ip).any(has_it)
            };
            places.extend(self.nics.values().filter(is_new).map(|nic| (nic.ifindex, pid)));
        }
        for (ifindex, pid) in places {
            if let Some(nic) = self.nics.get_mut(&ifindex) {
                nic.tenants.insert(pid);
            }
        }
        let mut found = Vec::new();
        for nic in self.nics.values() {
            let engaged = self.users(nic).any(|daemon| daemon.is_guarded() || was_guarded(daemon));
            found.push((nic.ifindex, engaged, self.users(nic).next().is_some()));
        }
        for (ifindex, engaged, used) in found {
            let Some(nic) = self.nics.get_mut(&ifindex) else { continue };
            nic.tenants.retain(|pid| self.world.daemons.contains_key(pid));
            nic.engaged |= engaged;
            self.engaged |= engaged;
            nic.unused_since = if used { None } else { Some(nic.unused_since.unwrap_or(now)) };
        }
    }

    /// The daemons that use a NIC.
    pub(super) fn users(&self, nic: &Nic) -> impl Iterator<Item = &Daemon> {
        let all = self.world.daemons.values();
        all.filter(|daemon| nic.tenants.contains(&daemon.pid) || self.speaks_on(daemon, nic))
    }

    /// Whether a daemon that uses a NIC is guarded.
    pub(super) fn is_guarded(&self, nic: &Nic) -> bool {
        self.users(nic).any(Daemon::is_guarded)
    }

    fn speaks_on(&self, daemon: &Daemon, nic: &Nic) -> bool {
        let lower = |socket: &VrrpSocket| self.world.link(socket.bound?)?.lower();
        let unbound = |socket: &VrrpSocket| socket.bound.is_none() && socket.home.is_none();
        let on = |socket: &VrrpSocket| {
            is_of(socket, nic)
                || socket.home.is_some_and(|home| nic.bearers.contains(&home))
                || lower(socket) == Some(nic.ifindex)
        };
        // Of one that binds none of its sockets nothing tells where it speaks.
        daemon.vrrp.iter().any(on) || !daemon.vrrp.is_empty() && daemon.vrrp.iter().all(unbound)
    }

    /// Whether nothing like this may be done to the node yet.
    pub(super) fn is_too_early(&self, action: &Action) -> bool {
        match action {
            Action::Carry { ifindex, .. }
            | Action::Shunt { ifindex, .. }
            | Action::StandIn { ifindex, .. }
            | Action::ShowAddress { ifindex, .. } => {
                !self.left.marks && self.nics.get(ifindex).is_some_and(|nic| !nic.engaged)
            }
            Action::RemoveVip { .. }
            | Action::MoveVip { .. }
            | Action::Announce { .. }
            | Action::RestoreRoutes { .. } => !self.left.marks && !self.engaged,
            // Of sockets of daemons, of vipshield's own programs, or the end of what was withheld.
            Action::SetPolicy { .. }
            | Action::ClearPolicy { .. }
            | Action::SetCommandPorts { .. }
            | Action::Guard { .. }
            | Action::Listen { .. }
            | Action::Unguard { .. }
            | Action::Rebind { .. }
            | Action::SetOpening { .. }
            | Action::SetProbe { .. }
            | Action::Speak { .. }
            | Action::ResyncLink { .. }
            | Action::ReplayRemoval { .. }
            | Action::Rescan
            | Action::Watch { .. }
            | Action::WatchAddresses { .. }
            | Action::Answer { .. }
            | Action::Tell { .. }
            | Action::Finish { .. } => false,
        }
    }

    /// Whether a NIC has lost its daemon just now, and for how long that is nothing to speak of.
    pub(super) fn is_back_soon(&self, nic: &Nic, now: Duration) -> bool {
        self.is_left(nic) && unused(nic, now).is_some_and(|time| time < BACK_SOON)
    }

    /// Whether the daemon of a NIC is waited for.
    pub(super) fn is_waited_for(&self, nic: &Nic, now: Duration) -> bool {
        self.is_left(nic) && unused(nic, now).is_some_and(|time| time < WAITED_FOR)
    }

    fn is_left(&self, nic: &Nic) -> bool {
        nic.engaged || self.left.marks
    }

    /// NICs that nobody named, and that no daemon has used for long. What was done for one has to be over.
    pub(super) fn given_up_by_all(&self, now: Duration) -> Vec<u32> {
        let is_over = |nic: &&Nic| {
            nic.is_home()
                && !nic.carried.is_any()
                && unused(nic, now).is_some_and(|time| time >= WAITED_FOR)
        };
        let all = self.nics.values().filter(|nic| !self.config.names(&nic.name));
        all.filter(is_over).map(|nic| nic.ifindex).collect()
    }

    /// When something follows from a NIC's not being used.
    pub(super) fn next_disuse(&self, after: Duration) -> Option<Duration> {
        let is_concerned = |nic: &&Nic| !self.config.names(&nic.name) || self.is_left(nic);
        let concerned = self.nics.values().filter(is_concerned);
        let since = concerned.filter_map(|nic| nic.unused_since);
        let times =
            since.flat_map(|since| [BACK_SOON, WAITED_FOR].map(|it| since.saturating_add(it)));
        times.filter(|at| *at > after).min()
    }
}

/// By a vipshield that is gone.
fn was_guarded(daemon: &Daemon) -> bool {
    daemon.monitors.iter().any(|monitor| monitor.filter == Filter::Stale)
}

/// For how long no daemon has used a NIC.
fn unused(nic: &Nic, now: Duration) -> Option<Duration> {
    Some(now.saturating_sub(nic.unused_since?))
}
