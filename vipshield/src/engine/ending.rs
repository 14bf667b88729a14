//! What is left behind when vipshield ends.

use super::{
    Engine,
    action::Action,
    carry::{Detours, Plan},
    notice::Weight,
    tell,
    world::{Address, Filter},
};

impl Engine {
    /// Leaves every daemon with the truth and without the guard.
    pub(super) fn let_go(&mut self) {
        let sockets = self.guarded_sockets();
        let mut last = Vec::new();
        for nic in self.nics.values() {
            for socket in self.world.daemons.values().flat_map(|daemon| &daemon.vrrp) {
                // One that found the bridge by the NIC's name made it there.
                let first = || self.made.get(&socket.id).copied().flatten();
                let made = socket
                    .home
                    .or_else(first)
                    .filter(|made| nic.bearers.contains(made) && self.world.has_link(*made));
                let to = made.unwrap_or(nic.ifindex);
                if socket.bound.is_some_and(|b| b != to && nic.bearers.contains(&b)) {
                    last.push(Action::Rebind { socket: *socket, nic: nic.ifindex, to });
                }
            }
            let detours = Detours::new();
            if nic.is_carried() || self.detours.as_ref() != Some(&detours) {
                let (old, new) = (nic.carried(), Plan::default());
                let detours = Some(detours);
                last.push(Action::Carry { ifindex: nic.ifindex, old, new, detours });
            }
            if nic.shunt.is_some() || nic.half_laid {
                last.push(Action::Shunt { ifindex: nic.ifindex, shunt: None });
            }
            if nic.stood_in {
                last.push(Action::StandIn { ifindex: nic.ifindex, wanted: false });
            }
            last.push(Action::ClearPolicy { ifindex: nic.ifindex, name: nic.name.clone() });
            let away = |address: &Address| !self.world.has_ip(nic.ifindex, address.ip);
            for address in nic.link_local_vips(&self.world).filter(away) {
                let held = |ifindex: &&u32| self.world.has_ip(**ifindex, address.ip);
                if let Some(from) = nic.bearers.iter().find(held) {
                    last.push(Action::MoveVip { address, from: *from, to: nic.ifindex });
                }
            }
            if sockets.is_empty() {
                continue;
            }
            for address in nic.home().filter(|a| !self.world.has_ip(nic.ifindex, a.ip)) {
                last.push(Action::ReplayRemoval { ifindex: nic.ifindex, address });
                // The daemon gives it up now, and misses it where it is.
                for bearer in nic.bearers.iter().filter(|bearer| **bearer != nic.ifindex) {
                    if self.world.vips.is_wanted(address.ip)
                        && self.world.has_ip(*bearer, address.ip)
                    {
                        last.push(Action::RemoveVip { ifindex: *bearer, address });
                    }
                }
            }
            for socket in &sockets {
                last.push(Action::ResyncLink { socket: *socket, ifindex: nic.ifindex });
            }
        }
        last.extend(self.end_of_watch());
        let commands = self.world.daemons.values().flat_map(|daemon| &daemon.commands);
        let speakers = self.speaking.iter().copied();
        last.extend(speakers.map(|socket| Action::Speak { socket, from_anywhere: false }));
        let listened = commands.filter(|command| command.filter == Filter::Guard);
        let sockets = sockets.into_iter().chain(listened.map(|command| command.id));
        last.extend(sockets.map(|socket| Action::Unguard { socket }));
        last.push(Action::Finish);
        tell(
            &mut self.actions,
            Weight::Info,
            None,
            "ending: every daemon is told how things are, and let go".to_owned(),
        );
        self.actions.extend(last);
    }
}
