//! What daemons know of names.
//!
//! While names are exchanged, and on the way there and back, the NIC is called otherwise than the
//! daemons know it, and they are not told: to them it is the same interface, by its number. One that
//! begins anew in that time looks for its interface by the name. It may find the bridge; and if it
//! only opens its sockets anew, it binds them by the name, asks for multicast by the number, is
//! refused, and goes on as an owner whom nobody hears.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    belief::On,
    nic::Nic,
    notice::Weight,
    pairs, tell,
    world::{Daemon, Family, Filter, Role, SocketId, VrrpSocket, World},
};

/// A daemon that opens its sockets anew lacks some for a moment, and for longer on a busy node: one that
/// lacks them for less than this is left in peace. Far below the time after which its peers give an owner
/// up, three intervals between adverts.
const OPENING: Duration = Duration::from_millis(250);

/// How VRRP sockets that daemons open anew find the traffic of a NIC that is called otherwise than they
/// know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Opening {
    /// The name by which they bind them.
    pub name: String,
    /// The interface that they are bound to then; none while that cannot be told.
    pub bound_to: Option<u32>,
    /// The NIC, and whatever bears its traffic or has its name: one that is bound to one of these sends
    /// through that, whatever it asks for.
    pub bearers: BTreeSet<u32>,
    /// The processes that open them.
    pub daemons: BTreeSet<u32>,
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    /// Daemons have been looked for: what is found from now on is new.
    looked: bool,
    /// VRRP sockets that the last scan found without their other half, and since when.
    #[serde(with = "pairs")]
    suspects: BTreeMap<SocketId, Duration>,
    /// Those of them that will get no other: it was no moment between two.
    alone: BTreeSet<SocketId>,
    /// Daemons that the last scan found without any of the VRRP sockets they had on a NIC, and since
    /// when.
    #[serde(with = "pairs")]
    bereft: BTreeMap<On, Duration>,
    /// Those of them that will open none.
    mute: BTreeSet<On>,
}

impl Engine {
    /// The daemons were looked for: `before` are those that were known.
    pub(super) fn look_for_sockets(&mut self, before: &BTreeMap<u32, Daemon>, now: Duration) {
        let is_new = |pid: u32, daemon: &Daemon| {
            before.get(&pid).is_none_or(|known| known.start_time != daemon.start_time)
        };
        let (new, old): (Vec<_>, Vec<_>) =
            self.world.daemons.iter().partition(|(pid, daemon)| is_new(**pid, daemon));
        let new: BTreeSet<u32> = new.into_iter().map(|(pid, _)| *pid).collect();
        let old: BTreeSet<u32> = old.into_iter().map(|(pid, _)| *pid).collect();
        let speak_now = self.speakers(&self.world.daemons);
        let bereft: BTreeSet<On> = self
            .speakers(before)
            .into_iter()
            .chain(self.names.bereft.keys().copied())
            .filter(|on| old.contains(&on.0) && !speak_now.contains(on))
            .collect();
        let halves = self.halves();
        let astray: Vec<u32> = self.astray().map(|nic| nic.ifindex).collect();
        let sockets: BTreeSet<SocketId> = self
            .world
            .daemons
            .values()
            .flat_map(|daemon| &daemon.vrrp)
            .map(|socket| socket.id)
            .collect();
        let moved_on = self.at_home_elsewhere();
        // One that began when the bridge had the name already was spared nothing of the NIC's.
        let masked = |on: &&On| self.nics.get(&on.1).is_some_and(|nic| nic.was_masked);
        let muddled: Vec<u32> = moved_on.iter().filter(masked).map(|on| on.0).collect();
        let names = &mut self.names;
        (names.bereft, names.mute) = lasting(&names.bereft, bereft, now);
        (names.suspects, names.alone) = lasting(&names.suspects, halves, now);
        let lacks = |on: &On| names.bereft.contains_key(on);
        self.told.retain_names(|pid| old.contains(&pid), &sockets, lacks);
        let found = new.into_iter().flat_map(|pid| astray.iter().map(move |nic| (pid, *nic)));
        // One that was there before vipshield, and has no socket on the NIC any more, or opened them on the
        // bridge that has its name, was told while nobody withheld it.
        let knows = |on: &On| names.looked || !speak_now.contains(on) || moved_on.contains(on);
        if !names.looked {
            self.told.muddle(muddled);
        }
        self.told.know_names(found.filter(knows));
        names.looked = true;
    }

    /// NICs that are not called as the daemons know them.
    fn renamed(&self) -> impl Iterator<Item = &Nic> {
        let is =
            |nic: &&Nic| self.world.link(nic.ifindex).is_some_and(|link| link.name != nic.name);
        self.nics.values().filter(is)
    }

    /// A daemon that opens its sockets anew while the NIC is called otherwise than it knows binds them by
    /// the name, which nothing or the bridge has, and asks to send through the NIC, by the number.
    pub(super) fn wanted_openings(&self) -> impl Iterator<Item = Action> {
        self.renamed()
            .map(|nic| Action::SetOpening { nic: nic.ifindex, opening: Some(self.opening(nic)) })
    }

    fn opening(&self, nic: &Nic) -> Opening {
        let exists = |ifindex: &u32| self.world.has_link(*ifindex);
        let speak = |daemon: &&Daemon| daemon.role == Role::Vrrp;
        Opening {
            name: nic.name.clone(),
            bound_to: nic.bearer.filter(exists),
            bearers: nic.bearers.iter().copied().filter(exists).collect(),
            daemons: self.world.daemons.values().filter(speak).map(|daemon| daemon.pid).collect(),
        }
    }

    /// NICs that a daemon that starts now does not find as those do that have known them for long.
    fn astray(&self) -> impl Iterator<Item = &Nic> {
        self.nics.values().filter(|nic| {
            self.world
                .link(nic.ifindex)
                .is_some_and(|link| link.name != nic.name || !link.up || !link.running)
        })
    }

    /// Which daemons have VRRP sockets on which NICs.
    fn speakers(&self, daemons: &BTreeMap<u32, Daemon>) -> BTreeSet<On> {
        let on = |daemon: &Daemon| {
            let nics = self.nics.values();
            nics.filter(|nic| daemon.vrrp.iter().any(|socket| is_of(socket, nic)))
                .map(|nic| (daemon.pid, nic.ifindex))
                .collect::<Vec<On>>()
        };
        daemons.values().flat_map(on).collect()
    }

    /// Which daemons have joined VRRP's group on the bridge that has the name of which NIC: they asked for it
    /// by its number, which nothing but its name has told them.
    fn at_home_elsewhere(&self) -> BTreeSet<On> {
        let bridges = self
            .renamed()
            .filter_map(|nic| Some((nic.ifindex, bridge_in_place(nic, &self.world)?.0)));
        let on = |(nic, bridge): (u32, u32)| {
            let daemons = self.world.daemons.values();
            let there = daemons
                .filter(move |daemon| daemon.vrrp.iter().any(|socket| socket.home == Some(bridge)));
            there.map(move |daemon| (daemon.pid, nic))
        };
        bridges.flat_map(on).collect()
    }

    /// VRRP sockets of which a daemon has an odd number on a NIC. keepalived opens them in pairs, to
    /// receive and to send, and goes on without the one that the kernel refuses it. One that binds none of
    /// those it sends from, as up to 2.0.20, is refused none, and of IPv4 nothing tells whose they are.
    fn halves(&self) -> BTreeSet<SocketId> {
        let mut halves = BTreeSet::new();
        for nic in self.nics.values() {
            for daemon in self.world.daemons.values() {
                for family in Family::ALL {
                    let unbound =
                        |socket: &VrrpSocket| socket.family == family && socket.bound.is_none();
                    if daemon.vrrp.iter().any(unbound) {
                        continue;
                    }
                    let sockets: Vec<SocketId> = daemon
                        .vrrp
                        .iter()
                        .filter(|socket| socket.family == family && is_of(socket, nic))
                        .map(|socket| socket.id)
                        .collect();
                    if !sockets.len().is_multiple_of(2) {
                        halves.extend(sockets);
                    }
                }
            }
        }
        halves
    }

    /// Daemons that lack a socket on a NIC that is called otherwise than they know.
    pub(super) fn half_deaf(&self) -> impl Iterator<Item = (&Daemon, &Nic)> {
        self.renamed().flat_map(|nic| {
            let daemons = self.world.daemons.values();
            daemons
                .filter(|daemon| {
                    self.names.mute.contains(&(daemon.pid, nic.ifindex))
                        || self.lost(daemon, nic).next().is_some()
                })
                .map(move |daemon| (daemon, nic))
        })
    }

    fn lost<'a>(&'a self, daemon: &'a Daemon, nic: &'a Nic) -> impl Iterator<Item = SocketId> + 'a {
        let sockets = daemon.vrrp.iter().filter(|socket| is_of(socket, nic)).map(|it| it.id);
        sockets.filter(|socket| self.names.alone.contains(socket))
    }

    /// A daemon that opens its sockets anew while the NIC is called otherwise than it knows is refused
    /// them, and would stay an owner that says nothing, beside the one that takes over. It is told
    /// what the NIC is called: it fails, and begins anew with what has the name.
    pub(super) fn disclose(&mut self) {
        let mut wanted = Vec::new();
        for (daemon, nic) in self.half_deaf() {
            let on = (daemon.pid, nic.ifindex);
            let sockets: Vec<SocketId> = self.lost(daemon, nic).collect();
            let monitors = guarded(daemon);
            let mute = self.names.mute.contains(&on) && !self.told.is_disclosed_to(on);
            let news = sockets.iter().any(|socket| !self.told.is_disclosed(*socket));
            if (mute || news) && !monitors.is_empty() {
                wanted.push((on, nic.name.clone(), monitors, sockets));
            }
        }
        for (on, name, monitors, sockets) in wanted {
            let text = format!(
                "process {} has no socket to send from since it was reloaded: it is told that the \
                 NIC is called {} now",
                on.0,
                self.world.name_of(on.1)
            );
            tell(&mut self.actions, Weight::Warning, Some(&name), text);
            for socket in monitors {
                self.want(Action::ResyncLink { socket, ifindex: on.1 });
            }
            self.told.disclose(on, sockets, self.names.mute.contains(&on));
        }
    }

    /// Whether all daemons that use a NIC know what is called how, and it is not as it was.
    pub(super) fn know_names(&self, nic: &Nic) -> bool {
        let mut users = self.users(nic).peekable();
        !nic.is_home()
            && users.peek().is_some()
            && users.all(|daemon| self.told.knows_name((daemon.pid, nic.ifindex)))
    }

    /// All daemons are being told what a NIC is called.
    pub(super) fn all_informed(&mut self, nic: u32) {
        self.told.know_names(self.world.daemons.keys().map(|pid| (*pid, nic)));
    }

    /// A daemon that knows the names uses the bridge that has its NIC's. What the kernel says of that
    /// is withheld, because it is no news to the others; so it is told when the bridge works, and when
    /// not. And it may have paid no heed to its address before.
    pub(super) fn inform(&mut self) {
        let home: BTreeSet<u32> =
            self.nics.values().filter(|nic| nic.is_home()).map(|nic| nic.ifindex).collect();
        self.told.forget_names(|nic| home.contains(&nic));
        let mut current = BTreeMap::new();
        let mut addresses = Vec::new();
        let mut news = Vec::new();
        for nic in self.renamed() {
            let Some((bridge, works)) = bridge_in_place(nic, &self.world) else { continue };
            let informed = self
                .world
                .daemons
                .values()
                .filter(|daemon| self.told.knows_name((daemon.pid, nic.ifindex)));
            let mut is_new = false;
            for socket in informed.flat_map(guarded) {
                // The name must be nobody's before it can be another's.
                if self.told.bridge(socket, bridge).is_none() {
                    is_new = true;
                    news.push((socket, nic.ifindex));
                }
                current.insert((socket, bridge), works);
            }
            let source =
                nic.source().and_then(|source| self.world.forms_of(bridge, source.ip).next());
            addresses.extend(source.filter(|_| is_new).map(|source| (bridge, source)));
        }
        let is_new = |((socket, bridge), works): &(&(SocketId, u32), &bool)| {
            self.told.bridge(*socket, *bridge) != Some(**works)
        };
        news.extend(current.iter().filter(is_new).map(|(to, _)| *to));
        for (socket, ifindex) in news {
            self.want(Action::ResyncLink { socket, ifindex });
        }
        self.told.tell_bridges(current);
        for (ifindex, address) in addresses {
            self.want(Action::ShowAddress { ifindex, address: Some(address) });
        }
    }
}

/// What was found now, and since when it has been; and what has been for too long.
fn lasting<K: Ord + Copy>(
    before: &BTreeMap<K, Duration>,
    found: BTreeSet<K>,
    now: Duration,
) -> (BTreeMap<K, Duration>, BTreeSet<K>) {
    let since = |key: K| (key, before.get(&key).copied().unwrap_or(now));
    let all: BTreeMap<K, Duration> = found.into_iter().map(since).collect();
    let lasts = all.iter().filter(|(_, since)| now.saturating_sub(**since) >= OPENING);
    let lasting = lasts.map(|(key, _)| *key).collect();
    (all, lasting)
}

/// The bridge that has the NIC's name and is its bearer; and whether it works.
fn bridge_in_place(nic: &Nic, world: &World) -> Option<(u32, bool)> {
    let bearer = nic.bearer.filter(|bearer| *bearer != nic.ifindex)?;
    let link = world.link(bearer).filter(|link| link.name == nic.name)?;
    Some((bearer, link.up && link.running))
}

fn guarded(daemon: &Daemon) -> Vec<SocketId> {
    let guarded = daemon.monitors.iter().filter(|monitor| monitor.filter == Filter::Guard);
    guarded.map(|monitor| monitor.id).collect()
}

/// Whether a socket is on a NIC: bound there, or sending there.
pub(super) fn is_of(socket: &VrrpSocket, nic: &Nic) -> bool {
    socket.bound.or(socket.multicast).is_some_and(|on| nic.bearers.contains(&on))
}
