//! What the adapters would do to a bench's node, and what vipshield would see of it.

use super::{
    super::{Action, Address, Event, Filter, SocketId},
    bench::{Bench, OTHER_PORT, REPLAY_PORT},
    keepalived::Keepalived,
    node::{Message, Node},
};

impl Bench {
    /// Does what the adapters would. Returns what is seen of it.
    pub(super) fn carry_out(&mut self, action: &Action) -> Result<Vec<Event>, &'static str> {
        match action {
            Action::SetPolicy { ifindex, name, withhold, passes } => {
                self.guard.set(*ifindex, name, *withhold, passes);
            }
            Action::ClearPolicy { ifindex, name } => self.guard.clear(*ifindex, name),
            Action::SetCommandPorts { ports } => self.guard.ports = ports.iter().copied().collect(),
            Action::Guard { socket } => self.set_filter(*socket, Filter::Guard),
            Action::Unguard { socket } => self.set_filter(*socket, Filter::None),
            Action::Listen { socket } => {
                if let Some(daemon) = self.daemon_of(socket.pid) {
                    assert_eq!(*socket, daemon.command().id);
                    daemon.listened = Filter::Guard;
                }
            }
            Action::RemoveVip { ifindex, address } => {
                let messages = self.node.ask(*ifindex, *address, false, REPLAY_PORT);
                return Ok(self.broadcast(&messages));
            }
            Action::MoveVip { address, from, to } => {
                let mut messages = self.node.ask(*to, *address, true, OTHER_PORT);
                if from != to {
                    messages.extend(self.node.ask(*from, *address, false, OTHER_PORT));
                }
                return Ok(self.broadcast(&messages));
            }
            Action::Rebind { to: None, .. } => return Err("nothing here sends to IPv6 peers"),
            Action::Rebind { socket, to: Some(to), .. } => {
                if !self.node.links.contains_key(to) {
                    return Err("ENODEV");
                }
                if let Some(daemon) = self.daemon_of(socket.id.pid) {
                    let bound = daemon.bound.iter_mut().zip(20..);
                    for (bound, _) in bound.filter(|(_, fd)| *fd == socket.id.fd) {
                        *bound = *to;
                    }
                }
            }
            Action::ResyncLink { socket, ifindex } => {
                self.guard.begin_epoch(*ifindex);
                let link = self.node.links.get(ifindex).cloned();
                let node = self.node.clone();
                if let Some((daemon, link)) = self.daemon_of(socket.pid).zip(link) {
                    daemon.learn(&Message::Link(link), &node);
                }
            }
            Action::Carry { ifindex, new, detours, .. } => {
                if let Some(detours) = detours {
                    self.detours.clone_from(detours);
                }
                self.carried.remove(ifindex);
                if !new.is_empty() {
                    self.carried.insert(*ifindex, new.clone());
                }
            }
            Action::Shunt { ifindex, shunt } => {
                self.shunts.remove(ifindex);
                self.shunts.extend(shunt.map(|shunt| (*ifindex, shunt)));
            }
            Action::Watch { ifindex, wanted: true } => {
                if !self.node.links.contains_key(ifindex) {
                    return Err("ENODEV");
                }
                self.watched.insert(*ifindex);
            }
            Action::Watch { ifindex, .. } => {
                self.watched.remove(ifindex);
            }
            Action::WatchAddresses { addresses } => self.watched_addresses.clone_from(addresses),
            Action::Answer { ifindex, answers } => {
                self.answers.remove(ifindex);
                if !answers.addresses.is_empty() {
                    self.answers.insert(*ifindex, answers.clone());
                }
            }
            Action::SetOpening { nic, opening } => {
                self.openings.remove(nic);
                self.openings.extend(opening.clone().map(|opening| (*nic, opening)));
            }
            Action::SetProbe { ifindex, family, groups } => {
                self.probes.remove(&(*ifindex, *family));
                self.probes.extend(groups.clone().map(|groups| ((*ifindex, *family), groups)));
            }
            Action::StandIn { ifindex, wanted: true } => {
                self.stood_in.insert(*ifindex);
            }
            Action::StandIn { ifindex, .. } => {
                self.stood_in.remove(ifindex);
            }
            Action::ReplayRemoval { .. } | Action::ShowAddress { .. } => {
                return self.replay(action);
            }
            // What else the engine may do leaves nothing that this node, or this daemon, can see.
            _ => {}
        }
        Ok(Vec::new())
    }

    /// Has the node say something of an address again.
    fn replay(&mut self, action: &Action) -> Result<Vec<Event>, &'static str> {
        let there = |node: &Node, ifindex: &u32, address: &Address| {
            node.addresses.get(ifindex).is_some_and(|there| there.contains(address))
        };
        let (ifindex, address, port) = match action {
            Action::ReplayRemoval { ifindex, address } => {
                if there(&self.node, ifindex, address) {
                    return Ok(Vec::new());
                }
                (*ifindex, *address, REPLAY_PORT)
            }
            Action::ShowAddress { ifindex, address: Some(address) } => {
                self.guard.begin_epoch(*ifindex);
                if there(&self.node, ifindex, address) {
                    let message = Message::Address(*ifindex, *address, OTHER_PORT);
                    return Ok(self.broadcast(&[message]));
                }
                (*ifindex, *address, OTHER_PORT)
            }
            _ => return Ok(Vec::new()),
        };
        if !self.node.links.contains_key(&ifindex) {
            return Err("ENODEV");
        }
        Ok(self.broadcast(&[
            Message::Address(ifindex, address, port),
            Message::AddressRemoved(ifindex, address, port),
        ]))
    }

    fn daemon_of(&mut self, pid: u32) -> Option<&mut Keepalived> {
        self.daemon.as_mut().filter(|daemon| daemon.pid == pid)
    }

    fn set_filter(&mut self, socket: SocketId, filter: Filter) {
        if let Some(daemon) = self.daemon_of(socket.pid) {
            if socket == daemon.command().id {
                daemon.listened = filter;
                return;
            }
            assert_ne!(daemon.filter, Filter::Foreign, "somebody else's filter");
            daemon.filter = filter;
        }
    }
}
