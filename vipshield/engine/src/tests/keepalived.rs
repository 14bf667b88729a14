//! A model of keepalived's VRRP process: its sockets, and what it believes.

use super::{
    super::{
        CommandSocket, Daemon, Excluded, Family, Filter, MonitorSocket, Opening, Role, SocketId,
        VrrpSocket,
    },
    bench::COMMAND_PORT,
    guard::View,
    node::{Message, NIC, NIC_INDEX, Node},
};

/// The descriptor of the socket that receives; the next one sends.
const RECEIVES: i32 = 20;

/// A process that watches the node, and speaks VRRP over it.
#[derive(Clone, Debug)]
pub(super) struct Keepalived {
    pub(super) pid: u32,
    pub(super) filter: Filter,
    /// The filter on its command socket.
    pub(super) listened: Filter,
    /// Where its two VRRP sockets are bound.
    pub(super) bound: [u32; 2],
    /// Where they have joined VRRP's group, if that is told.
    pub(super) joined: Option<u32>,
    /// The second of them, from which it sends, was refused.
    pub(super) mute: bool,
    /// It has none at all: it knows of no interface of that name, or nothing had it when it opened
    /// them.
    pub(super) closed: bool,
    /// That one is bound to no interface (keepalived up to 2.0.20).
    pub(super) unbound: bool,
    /// How often it has opened its VRRP sockets anew.
    pub(super) opened: u64,
    /// VIPs that it has configured and does not name.
    pub(super) excluded: Vec<Excluded>,
    pub(super) view: View,
}

impl Keepalived {
    /// One that starts now and has found the interface it is configured for.
    pub(super) fn start(pid: u32, node: &Node, nic: &str) -> Self {
        let bound = [node.index(nic).unwrap_or(NIC_INDEX); 2];
        Self {
            pid,
            filter: Filter::None,
            listened: Filter::None,
            bound,
            joined: None,
            mute: false,
            unbound: false,
            closed: false,
            opened: 0,
            excluded: Vec::new(),
            view: View::of(node),
        }
    }

    /// It opens its sockets anew: bound by the name, which only the kernel resolves, and sending by
    /// the number that it knows for it.
    pub(super) fn open(&mut self, node: &Node, opening: Option<&Opening>) {
        let by_name = opening.and_then(|opening| opening.bound_to).or_else(|| node.index(NIC));
        self.closed = by_name.is_none();
        let Some(by_name) = by_name else { return };
        self.mute = !self.unbound
            && self.interface() != Some(by_name)
            && !opening.is_some_and(|opening| opening.bearers.contains(&by_name));
        self.bound = [by_name; 2];
        self.joined = self.joined.and(self.interface());
        self.opened += 1;
    }

    /// The interface that it takes for its own.
    pub(super) fn interface(&self) -> Option<u32> {
        self.view.links.values().find(|link| link.name == NIC).map(|link| link.ifindex)
    }

    /// It is told something. An interface that is lost, or found, is one to begin anew with.
    pub(super) fn learn(&mut self, message: &Message, node: &Node) {
        let before = self.interface();
        self.view.learn(message);
        let now = self.interface();
        if now != before {
            self.closed = true;
            if let Some(ifindex) = now {
                self.view.forget_addresses(ifindex);
                self.open(node, None);
            }
        }
    }

    pub(super) fn monitor(&self) -> SocketId {
        SocketId { pid: self.pid, fd: 10, inode: u64::from(self.pid) * 100 }
    }

    pub(super) fn command(&self) -> CommandSocket {
        let id = SocketId { pid: self.pid, fd: 11, inode: u64::from(self.pid) * 100 + 1 };
        CommandSocket { id, port: COMMAND_PORT, filter: self.listened }
    }

    pub(super) fn vrrp(&self) -> Vec<VrrpSocket> {
        self.bound
            .iter()
            .take(if self.closed {
                0
            } else if self.mute {
                1
            } else {
                2
            })
            .zip(RECEIVES..)
            .map(|(bound, fd)| VrrpSocket {
                id: SocketId {
                    pid: self.pid,
                    fd,
                    inode: u64::from(self.pid) * 100 + fd as u64 + 10 * self.opened,
                },
                family: Family::Ipv4,
                bound: Some(*bound).filter(|_| !self.unbound || fd == RECEIVES),
                home: self.joined,
                multicast: None,
                group: None,
                sends: fd != RECEIVES,
            })
            .collect()
    }

    /// As a scan finds it.
    pub(super) fn found(&self) -> Daemon {
        Daemon {
            pid: self.pid,
            start_time: u64::from(self.pid),
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            commands: vec![self.command()],
            monitors: vec![MonitorSocket { id: self.monitor(), filter: self.filter }],
            vrrp: self.vrrp(),
            trouble: None,
            polls: false,
            excluded: self.excluded.clone(),
        }
    }
}
