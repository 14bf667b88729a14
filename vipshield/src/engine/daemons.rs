//! What is done to the daemons: their sockets are guarded, and kept where their NIC's traffic is.

use super::{
    Engine,
    action::Action,
    names::is_of,
    phase::Phase,
    world::{Family, Filter, SocketId},
};

impl Engine {
    pub(super) fn guarded_sockets(&self) -> Vec<SocketId> {
        self.world
            .daemons
            .values()
            .flat_map(|daemon| &daemon.monitors)
            .filter(|monitor| monitor.filter == Filter::Guard)
            .map(|monitor| monitor.id)
            .collect()
    }

    /// Puts the guard on every monitor socket that carries no filter of somebody else.
    pub(super) fn guard_daemons(&mut self) {
        let mut wanted = Vec::new();
        for daemon in self.world.daemons.values() {
            for monitor in &daemon.monitors {
                match monitor.filter {
                    Filter::None | Filter::Stale => {
                        wanted.push(Action::Guard { socket: monitor.id });
                    }
                    Filter::Foreign | Filter::Guard => {}
                }
            }
            for command in &daemon.commands {
                match command.filter {
                    Filter::None | Filter::Stale => {
                        wanted.push(Action::Listen { socket: command.id });
                    }
                    Filter::Foreign | Filter::Guard => {}
                }
            }
        }
        for action in wanted {
            self.want(action);
        }
    }

    /// Moves VRRP sockets to where their NIC's frames go up the stack.
    pub(super) fn rebind(&mut self) {
        let mut wanted = Vec::new();
        for nic in self.nics.values() {
            let Some(to) = nic.bearer.filter(|to| self.world.has_link(*to)) else {
                continue;
            };
            for socket in self.world.daemons.values().flat_map(|daemon| &daemon.vrrp) {
                // Bound to an interface that is gone: its bridge, deleted while no vipshield ran.
                // Of an instance with `unicast_peer` nothing tells whose it was.
                let home = socket.home.filter(|home| self.world.has_link(*home));
                let orphan = |bound: u32| {
                    !self.world.has_link(bound)
                        && home.map_or(self.nics.len() == 1, |home| home == nic.ifindex)
                };
                // While names are exchanged, a daemon that opens its sockets anew may bind them to
                // the one interface, and join VRRP's group on the other some moments later.
                let is_member_elsewhere =
                    socket.home.is_some_and(|home| home != to && nic.bearers.contains(&home));
                let unplaced = (to != nic.ifindex || is_member_elsewhere)
                    && self.placed.get(&socket.id) != Some(&(to, socket.home));
                if socket.bound.is_some_and(|bound| {
                    (bound != to || unplaced) && (nic.bearers.contains(&bound) || orphan(bound))
                }) {
                    wanted.push(Action::Rebind { socket: *socket, nic: nic.ifindex, to });
                }
            }
        }
        for action in wanted {
            self.want(action);
        }
    }

    /// Lets IPv6 VRRP sockets send from an address that their NIC does not have, as IPv4 ones may,
    /// whose packets bear their own header. When a NIC is taken down it loses its link-local address,
    /// and it may not be used again before duplicate address detection is done with it: a second or
    /// two without adverts, and another node takes over.
    pub(super) fn let_speak(&mut self) {
        let nics = || self.nics.values();
        let sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        let wanted: Vec<SocketId> = sockets
            .filter(|socket| {
                socket.family == Family::Ipv6
                    && nics().any(|nic| is_of(socket, nic))
                    && !self.speaking.contains(&socket.id)
            })
            .map(|socket| socket.id)
            .collect();
        for socket in wanted {
            self.want(Action::Speak { socket, from_anywhere: true });
        }
    }

    /// Tells daemons that are newly guarded what the NIC's address is, which they cannot have read
    /// while it is on the bridge. Not within a transition: Kube-OVN might put the address on the
    /// NIC in the same moment.
    pub(super) fn introduce(&mut self) {
        let guarded = self.guarded_sockets();
        self.introduced.retain(|(socket, ifindex)| {
            guarded.contains(socket) && self.nics.contains_key(ifindex)
        });
        let mut wanted = Vec::new();
        for nic in self.nics.values() {
            let settled = matches!(nic.phase, Phase::Free | Phase::Bridged);
            let known =
                guarded.iter().all(|socket| self.introduced.contains(&(*socket, nic.ifindex)));
            let Some(source) = nic.source().filter(|_| settled && !known) else { continue };
            let has = |ifindex| self.world.has_ip(ifindex, source.ip);
            if has(nic.ifindex) {
                wanted.push((nic.ifindex, None));
            } else if nic.bearer.is_some_and(has) {
                wanted.push((nic.ifindex, Some(source)));
            }
        }
        for (ifindex, address) in wanted {
            if self.want(Action::ShowAddress { ifindex, address }) {
                self.introduced.extend(guarded.iter().map(|socket| (*socket, ifindex)));
            }
        }
    }

    /// A daemon's processes share one view of what it means to do: what one of them asked for is
    /// no news that another must be spared.
    pub(super) fn allow_ports(&mut self) {
        let commands = self.world.daemons.values().flat_map(|daemon| &daemon.commands);
        let mut ports: Vec<u32> = commands.map(|command| command.port).collect();
        ports.sort_unstable();
        ports.dedup();
        if self.command_ports.as_ref() != Some(&ports)
            && self.want(Action::SetCommandPorts { ports: ports.clone() })
        {
            self.command_ports = Some(ports);
        }
    }
}
