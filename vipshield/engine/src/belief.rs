//! What guarded daemons believe: what they have been told of each link, name and address.
//!
//! A daemon believes what it read when it began, and what it was told since. Of a guarded NIC that differs
//! from the world for as long as the guard withholds something, and no longer than the deadline: [`OfNic`]
//! says what is untrue and since when, and what daemons were told. That is the same for all of them; what
//! single ones were told besides, because they began while the NIC was on its way, is in [`OfDaemons`].
//! [`audit`](crate::audit) holds it against the world.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    pairs,
    world::{Address, SocketId},
};

/// A daemon by its process id, and a NIC by its index.
pub(super) type On = (u32, u32);

/// A failure of a link of which daemons know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Failure {
    /// Told by vipshield, because it lasts, and it lasts still.
    Told,
    /// They have not been told yet that it is over.
    Known,
}

/// What daemons believe of an address, or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Believed {
    /// What is so.
    True,
    /// That it is there, or works, which has not been so for some time.
    Untrue,
    /// That it is gone, or has failed.
    Failed,
}

impl fmt::Display for Believed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "as it is",
            Self::Untrue => "there, or working, which it is not",
            Self::Failed => "gone, or failed: they were told",
        })
    }
}

/// What all guarded daemons believe of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OfNic {
    /// Since when they take the link to work, and it does not.
    astray: Option<Duration>,
    /// A rule of one's own let them see that.
    passed: bool,
    failure: Option<Failure>,
    /// Addresses that they believe to be there and that are nowhere, since when.
    #[serde(with = "pairs")]
    absent: BTreeMap<Address, Duration>,
    /// Addresses that they were told are gone.
    gone: BTreeSet<Address>,
}

impl OfNic {
    /// What is untrue to them, since when: the link, or an address.
    pub(super) fn untrue(&self) -> impl Iterator<Item = (Option<Address>, Duration)> + '_ {
        let addresses = self.absent.iter().map(|(address, since)| (Some(*address), *since));
        self.astray.into_iter().map(|since| (None, since)).chain(addresses)
    }

    /// What they believe of the link.
    pub(super) const fn link(&self) -> Believed {
        match (self.astray, self.failure) {
            (Some(_), _) => Believed::Untrue,
            (None, Some(_)) => Believed::Failed,
            (None, None) => Believed::True,
        }
    }

    /// What they believe of an address that belongs to the NIC, or did.
    pub(super) fn address(&self, address: Address) -> Believed {
        if self.absent.contains_key(&address) {
            Believed::Untrue
        } else if self.is_gone(address) {
            Believed::Failed
        } else {
            Believed::True
        }
    }

    /// The link is as they believe, or they know; it runs, or not.
    pub(super) const fn link_is_known(&mut self, running: bool) {
        self.astray = None;
        self.passed &= !running;
    }

    /// The link is not as they believe; what the kernel has said of that was passed, or not.
    pub(super) fn link_is_astray(&mut self, now: Duration, passed: bool) {
        self.astray.get_or_insert(now);
        self.passed |= passed;
    }

    /// The link failed, and the guard does not withhold that.
    pub(super) fn failure_is_seen(&mut self) {
        self.failure.get_or_insert(Failure::Known);
    }

    /// It works, under its name: what they were told is true no longer.
    pub(super) fn link_works(&mut self) {
        if self.is_told() {
            self.failure = Some(Failure::Known);
        }
    }

    /// They are being told that the link is not as they believed.
    pub(super) const fn tell_link(&mut self) {
        self.astray = None;
        self.failure = Some(Failure::Told);
    }

    /// They are being told that the failure is over, of which they know. True if they know of one.
    pub(super) fn tell_recovery(&mut self) -> bool {
        self.failure.take().is_some()
    }

    /// Whether vipshield has told them of a failure that lasts.
    pub(super) const fn is_told(&self) -> bool {
        matches!(self.failure, Some(Failure::Told))
    }

    /// Whether they know of a failure, and not that it is over.
    pub(super) const fn knows_failure(&self) -> bool {
        self.failure.is_some()
    }

    /// Since when the link is not as they believe.
    pub(super) const fn astray(&self) -> Option<Duration> {
        self.astray
    }

    /// Whether a rule of one's own let them see what the link is.
    pub(super) const fn is_passed(&self) -> bool {
        self.passed
    }

    /// Addresses that are nowhere, since when.
    pub(super) const fn absent(&self) -> &BTreeMap<Address, Duration> {
        &self.absent
    }

    /// This address is where they believe it to be, or as good as there.
    pub(super) fn is_there(&mut self, address: Address) {
        self.absent.remove(&address);
    }

    /// It is nowhere, since then, if that is not known for longer.
    pub(super) fn is_absent(&mut self, address: Address, since: Duration) {
        self.absent.entry(address).or_insert(since);
    }

    /// Nothing else may be absent.
    pub(super) fn retain_absent(&mut self, is_its: impl Fn(&Address) -> bool) {
        self.absent.retain(|address, _| is_its(address));
    }

    /// They are being told that an address is gone.
    pub(super) fn tell_gone(&mut self, address: Address) {
        self.forget(address);
        self.gone.insert(address);
    }

    /// They know of it all there is to know: they took it off themselves.
    pub(super) fn forget(&mut self, address: Address) {
        self.absent.retain(|known, _| known.ip != address.ip);
        self.gone.retain(|known| known.ip != address.ip);
    }

    /// Whether they were told that an address is gone, and not that it is back.
    pub(super) fn is_gone(&self, address: Address) -> bool {
        self.gone.iter().any(|gone| gone.ip == address.ip)
    }

    /// The addresses of which they were told that.
    pub(super) const fn gone(&self) -> &BTreeSet<Address> {
        &self.gone
    }

    /// These are back where the kernel has announced them.
    pub(super) fn retain_gone(&mut self, is_still: impl Fn(&Address) -> bool) {
        self.gone.retain(is_still);
    }

    /// They are being shown an address that is back.
    pub(super) fn show(&mut self, address: Address) {
        self.gone.remove(&address);
    }
}

/// What single daemons were told besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OfDaemons {
    /// Since when sockets are guarded: what was said before may have got through.
    #[serde(with = "pairs")]
    guarded_since: BTreeMap<SocketId, Duration>,
    /// Guarded sockets whose daemons were told a NIC's address, and when.
    #[serde(with = "pairs")]
    introduced: BTreeMap<(SocketId, u32), Duration>,
    /// Whether the bridge that has a NIC's name works, as sockets were told last.
    #[serde(with = "pairs")]
    bridges: BTreeMap<(SocketId, u32), bool>,
    /// Daemons that know what is called how: they were told, or found it so.
    names: BTreeSet<On>,
    /// VRRP sockets, and daemons without any, for which they were told.
    disclosed: (BTreeSet<SocketId>, BTreeSet<On>),
    /// Daemons that have heard the end of something of which a vipshield that was killed had withheld the
    /// beginning.
    muddled: BTreeSet<u32>,
}

impl OfDaemons {
    /// A socket is guarded from now on.
    pub(super) fn guarded(&mut self, socket: SocketId, now: Duration) {
        self.guarded_since.entry(socket).or_insert(now);
    }

    /// Since when; from the beginning on if that is not known.
    pub(super) fn guarded_since(&self, socket: SocketId) -> Duration {
        self.guarded_since.get(&socket).copied().unwrap_or_default()
    }

    /// Only these sockets and NICs are there still.
    pub(super) fn retain(
        &mut self,
        sockets: &BTreeSet<SocketId>,
        is_guarded: impl Fn(u32) -> bool,
    ) {
        self.guarded_since.retain(|socket, _| sockets.contains(socket));
        self.introduced.retain(|(socket, nic), _| sockets.contains(socket) && is_guarded(*nic));
    }

    /// When a socket's daemon was told a NIC's address.
    pub(super) fn introduced(&self, socket: SocketId, nic: u32) -> Option<Duration> {
        self.introduced.get(&(socket, nic)).copied()
    }

    /// These are being told a NIC's address.
    pub(super) fn introduce(&mut self, sockets: &[SocketId], nic: u32, now: Duration) {
        self.introduced.extend(sockets.iter().map(|socket| ((*socket, nic), now)));
    }

    /// A NIC's address did not get there.
    pub(super) fn not_introduced(&mut self, nic: u32) {
        self.introduced.retain(|(_, introduced), _| *introduced != nic);
    }

    /// These daemons and VRRP sockets are there still; those lack any.
    pub(super) fn retain_names(
        &mut self,
        is_old: impl Fn(u32) -> bool,
        sockets: &BTreeSet<SocketId>,
        lacks: impl Fn(&On) -> bool,
    ) {
        self.disclosed.0.retain(|socket| sockets.contains(socket));
        self.disclosed.1.retain(lacks);
        self.names.retain(|on| is_old(on.0));
        self.muddled.retain(|pid| is_old(*pid));
    }

    /// These know what is called how.
    pub(super) fn know_names(&mut self, all: impl IntoIterator<Item = On>) {
        self.names.extend(all);
    }

    /// These have heard a part of an exchange only.
    pub(super) fn muddle(&mut self, pids: impl IntoIterator<Item = u32>) {
        self.muddled.extend(pids);
    }

    /// Whether a daemon has heard a part of an exchange only.
    pub(super) fn is_muddled(&self, pid: u32) -> bool {
        self.muddled.contains(&pid)
    }

    /// Whether a daemon knows what a NIC is called.
    pub(super) fn knows_name(&self, on: On) -> bool {
        self.names.contains(&on)
    }

    /// The NIC is called as ever.
    pub(super) fn forget_names(&mut self, is_home: impl Fn(u32) -> bool) {
        self.names.retain(|(_, nic)| !is_home(*nic));
    }

    /// Whether the names were told for a VRRP socket that was refused, or for a daemon without any.
    pub(super) fn is_disclosed(&self, socket: SocketId) -> bool {
        self.disclosed.0.contains(&socket)
    }

    /// See [`Self::is_disclosed`].
    pub(super) fn is_disclosed_to(&self, on: On) -> bool {
        self.disclosed.1.contains(&on)
    }

    /// A daemon is being told what its NIC is called, for these sockets; `mute`: it has none. What it was
    /// told of the bridge before, it has forgotten.
    pub(super) fn disclose(&mut self, on: On, sockets: Vec<SocketId>, mute: bool) {
        self.disclosed.0.extend(sockets);
        self.disclosed.1.extend(Some(on).filter(|_| mute));
        self.names.insert(on);
        self.bridges.retain(|(socket, _), _| socket.pid != on.0);
    }

    /// What a socket was told of a bridge.
    pub(super) fn bridge(&self, socket: SocketId, bridge: u32) -> Option<bool> {
        self.bridges.get(&(socket, bridge)).copied()
    }

    /// What sockets are being told of bridges, all of it.
    pub(super) fn tell_bridges(&mut self, bridges: BTreeMap<(SocketId, u32), bool>) {
        self.bridges = bridges;
    }

    /// That did not get there.
    pub(super) fn not_told(&mut self, socket: SocketId, bridge: u32) {
        self.bridges.remove(&(socket, bridge));
    }
}
