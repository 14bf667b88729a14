//! What is done to the daemons: their sockets are guarded, and kept where their NIC's traffic is.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Engine,
    action::Action,
    names::is_of,
    nic::Nic,
    phase::Phase,
    settings::Setting,
    world::{Family, Filter, SocketId, VrrpSocket},
};

/// A daemon whose guard is so old when a NIC begins to be taken has heard nothing of that: it is longer than
/// anything takes from the kernel to this engine.
const GUARDED_BEFORE: Duration = Duration::from_secs(1);

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
    ///
    /// Those from which IPv6 adverts are sent stay: keepalived names the NIC in each message, a port may send,
    /// and where a socket is bound to another interface the kernel accepts that only if the destination names
    /// the NIC as well, as it does since keepalived 2.2.5 (`ip6_datagram_send_ctl` in `net/ipv6/datagram.c`).
    /// What one of them is bound to must be there, that is all.
    ///
    /// To single peers the way is the bridge then, and a socket that is bound has no other than its interface's
    /// (`RT6_LOOKUP_F_IFACE` of `ip6_route_output_flags` in `net/ipv6/route.c`): its adverts fail (ENETUNREACH). So it is
    /// let go of, as keepalived 2.0 has it at any time.
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
                if socket.sends_to_peers() {
                    let is_home = to == nic.ifindex;
                    let astray = match socket.bound {
                        Some(bound) => nic.bearers.contains(&bound) || orphan(bound),
                        None => is_home && self.was_let_go(socket, nic),
                    };
                    let to = Some(nic.ifindex).filter(|_| is_home);
                    if astray && socket.bound != to {
                        wanted.push(Action::Rebind { socket: *socket, nic: nic.ifindex, to });
                    }
                    continue;
                }
                // While names are exchanged, a daemon that opens its sockets anew may bind them to
                // the one interface, and join VRRP's group on the other some moments later.
                let is_member_elsewhere =
                    socket.home.is_some_and(|home| home != to && nic.bearers.contains(&home));
                let unplaced = (to != nic.ifindex || is_member_elsewhere)
                    && self.placed.get(&socket.id) != Some(&(Some(to), socket.home));
                let stays = socket.sends && socket.family == Family::Ipv6;
                let to = if stays { nic.ifindex } else { to };
                if socket.bound.is_some_and(|bound| {
                    let astray = if stays {
                        ![Some(nic.ifindex), nic.bearer].contains(&Some(bound))
                    } else {
                        bound != to || unplaced
                    };
                    astray && (nic.bearers.contains(&bound) || orphan(bound))
                }) {
                    wanted.push(Action::Rebind { socket: *socket, nic: nic.ifindex, to: Some(to) });
                }
            }
        }
        for action in wanted {
            self.want(action);
        }
    }

    /// Whether a socket that is bound to no interface was let go of by vipshield, and was one of this NIC.
    fn was_let_go(&self, socket: &VrrpSocket, nic: &Nic) -> bool {
        let made = self.made.get(&socket.id).copied().flatten();
        matches!(self.placed.get(&socket.id), Some((None, _)))
            && made.map_or(self.nics.len() == 1, |made| nic.bearers.contains(&made))
    }

    /// IPv6 VRRP sockets may send from an address that their NIC does not have, as IPv4 ones may, whose packets
    /// bear their own header. When a NIC is taken down it loses its link-local address, and it may not be used
    /// again before duplicate address detection is done with it: a second or two without adverts, and another
    /// node takes over. One that may once does for good.
    pub(super) fn wanted_sources(&self) -> impl Iterator<Item = Action> {
        let is_of_a_nic = |socket: &&VrrpSocket| {
            self.nics.values().any(|nic| is_of(socket, nic))
                || self.applied.last(Setting::Source(socket.id)).is_some()
        };
        let sockets = self.vrrp_sockets_of_ipv6().filter(is_of_a_nic);
        sockets.map(|socket| Action::Speak { socket: socket.id, from_anywhere: true })
    }

    pub(super) fn vrrp_sockets_of_ipv6(&self) -> impl Iterator<Item = &VrrpSocket> {
        let sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
        sockets.filter(|socket| socket.family == Family::Ipv6)
    }

    /// Tells daemons that are newly guarded what the NIC's address is, which they cannot have read
    /// while it is on the bridge. Not within a transition: Kube-OVN might put the address on the
    /// NIC in the same moment.
    pub(super) fn introduce(&mut self, now: Duration) {
        // One with the filter of a vipshield that handed over was told by that.
        let monitors = self.world.daemons.values().flat_map(|daemon| &daemon.monitors);
        let there: BTreeSet<SocketId> = monitors
            .filter(|monitor| matches!(monitor.filter, Filter::Guard | Filter::Stale))
            .map(|monitor| monitor.id)
            .collect();
        self.told.retain(&there, |nic| self.nics.contains_key(&nic));
        let guarded = self.guarded_sockets();
        let mut wanted = Vec::new();
        for nic in self.nics.values() {
            let settled = matches!(nic.phase, Phase::Free | Phase::Bridged);
            let known = guarded.iter().all(|socket| self.knows_address(*socket, nic));
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
                self.told.introduce(&guarded, ifindex, now);
            }
        }
    }

    /// Whether the daemon that has this socket was told a NIC's address, and has not heard since that it left.
    /// It may have, where the guard came in the same moment in which the NIC began to be taken.
    fn knows_address(&self, socket: SocketId, nic: &Nic) -> bool {
        let Some(introduced) = self.told.introduced(socket, nic.ifindex) else { return false };
        let guarded = self.told.guarded_since(socket);
        introduced >= nic.phase_since
            || nic.transition_since > guarded.saturating_add(GUARDED_BEFORE)
    }

    /// A daemon's processes share one view of what it means to do: what one of them asked for is
    /// no news that another must be spared.
    pub(super) fn wanted_ports(&self) -> Action {
        let commands = self.world.daemons.values().flat_map(|daemon| &daemon.commands);
        let ports: BTreeSet<u32> = commands.map(|command| command.port).collect();
        Action::SetCommandPorts { ports: ports.into_iter().collect() }
    }
}
