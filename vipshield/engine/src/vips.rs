//! Which addresses the daemons mean to have, and which they gave up.
//!
//! A daemon says so itself: by what it adds and removes, and, once Kube-OVN has moved an address
//! away from under it, by requests that the kernel refuses. Nothing need be configured.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    nic::Nic,
    notice::Weight,
    rules::{Stay, VIP, facts, word},
    tell,
    world::{Address, Link},
};

/// What a daemon that ended in order had given up is kept off a NIC for so long: whoever was moving
/// it may put it back. Later it is nobody's business but the operator's.
const KEPT_OFF_NIC: Duration = Duration::from_secs(10);
/// The same for a bridge, which has it from whoever moved it and waits, or tries again. Also after
/// a daemon that died: the next one may want it within moments, but on the NIC that it knows.
const KEPT_OFF_BRIDGES: Duration = Duration::from_mins(1);
/// What was asked for from a netlink port that belongs to no daemon is remembered for so long: it
/// may be the port of one that has just started, and that the next scan finds.
const UNCLAIMED: Duration = Duration::from_secs(5);
/// So much of that at the most: as much as one can say of all that it may have.
const MAX_UNCLAIMED: usize = MAX_ADDRESSES;
/// What a daemon removed and was not known to have is taken for a VIP so much later: the kernel
/// removes secondary addresses with their primary, in the name of who asked for the one, and says
/// so of that last.
const PRESUMED: Duration = Duration::from_millis(10);
/// Removals remembered, the last from each netlink port: daemons have one or two.
const MAX_REMOVALS: usize = 256;
/// Interfaces on which a daemon asks for one address: the NIC, and the bridge that has its name for a while.
const MAX_INTERFACES: usize = 8;
/// Addresses remembered: many more than anybody has.
pub(super) const MAX_ADDRESSES: usize = 4096;
/// So many are taken off, or moved, at a time: what else is due has its turn in between.
const AT_A_TIME: usize = 64;

/// What a process said of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Netlink port from which it asked.
    pub port: u32,
    /// Sequence number of the request: of two requests from one port the later counts, whichever
    /// is heard first.
    pub sequence: u32,
    /// Index of the interface on which; 0 if that is not known.
    #[serde(default)]
    pub ifindex: u32,
    /// The address.
    pub address: Address,
    /// It asked for the address, not for its removal.
    pub wanted: bool,
    /// The kernel refused.
    pub refused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    wanted: bool,
    port: u32,
    sequence: u32,
    source: Source,
    /// When it asked; none if that is not known.
    #[serde(default)]
    at: Option<Duration>,
}

/// How it is known what a daemon means to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    /// From a request of its own.
    Request,
    /// From the last of its requests, which is kept.
    LastWord,
    /// From what an earlier vipshield did for it.
    Inherited,
    /// From its adverts.
    Adverts,
}

/// In place of a daemon's netlink port where no request of it was seen: the kernel's own number.
/// Whatever it says from then on is later.
const NO_REQUEST: u32 = 0;

/// Every daemon that knew it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Orphan {
    off_nics_until: Duration,
    off_bridges_until: Duration,
}

impl Orphan {
    fn since(now: Duration, off_nics: Duration) -> Self {
        Self {
            off_nics_until: now.saturating_add(off_nics),
            off_bridges_until: now.saturating_add(KEPT_OFF_BRIDGES),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Vip {
    /// What each living daemon said last, by process id.
    said: BTreeMap<u32, Said>,
    /// The interfaces on which they did, or an earlier vipshield did for one of them.
    asked_on: BTreeSet<u32>,
    orphan: Option<Orphan>,
}

impl Vip {
    fn is_wanted(&self) -> bool {
        self.said.values().any(|said| said.wanted)
    }

    /// When the only daemon that knows it asked for it.
    fn asked(&self) -> Option<Duration> {
        let only = self.said.values().next().filter(|_| self.said.len() == 1);
        only.filter(|said| said.wanted)?.at
    }

    /// Nobody who speaks for it means to have it.
    fn is_given_up(&self) -> bool {
        !self.is_wanted() && (!self.said.is_empty() || self.orphan.is_some())
    }
}

/// The last that the kernel said to have removed for a request of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Removal {
    pid: u32,
    intent: Intent,
    /// What the daemon had said of the address before.
    before: Option<Said>,
    /// When the address is taken for a VIP, if it is not known to be one.
    presumed: Option<Duration>,
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vips {
    known: BTreeMap<IpAddr, Vip>,
    /// By netlink port.
    removals: BTreeMap<u32, Removal>,
    /// Said from a port that belongs to no daemon, and when; the oldest first.
    unclaimed: VecDeque<(Duration, Intent)>,
    /// What lasts only so long was looked at then.
    looked_at: Duration,
}

impl Vips {
    /// A daemon said something.
    pub(super) fn hear(&mut self, pid: u32, intent: &Intent, now: Duration) {
        let ip = intent.address.ip;
        // With IPv6 nothing goes along with what a daemon removed.
        if !intent.refused && ip.is_ipv4() && !self.is_its_own(pid, intent, now) {
            return;
        }
        self.said(pid, intent, Source::Request, Some(now));
    }

    /// When the only daemon that knows it asked for it.
    pub(super) fn asked(&self, ip: IpAddr) -> Option<Duration> {
        self.known.get(&ip)?.asked()
    }

    /// How many addresses are known.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// A daemon said this of an address last.
    pub(super) fn hear_last(&mut self, pid: u32, intent: &Intent) {
        self.said(pid, intent, Source::LastWord, None);
    }

    fn said(&mut self, pid: u32, intent: &Intent, source: Source, at: Option<Duration>) {
        let ip = intent.address.ip;
        if !self.known.contains_key(&ip) {
            if !self.make_room() {
                return;
            }
            self.known.insert(ip, Vip::default());
        }
        let Some(vip) = self.known.get_mut(&ip) else { return };
        let Intent { port, sequence, ifindex, wanted, .. } = *intent;
        let is_older = |said: &Said| {
            said.port == port && (sequence.wrapping_sub(said.sequence).cast_signed()) < 0
        };
        if vip.said.get(&pid).is_some_and(is_older) {
            return;
        }
        vip.said.insert(pid, Said { wanted, port, sequence, source, at });
        if ifindex != 0 && vip.asked_on.len() < MAX_INTERFACES {
            vip.asked_on.insert(ifindex);
        }
        vip.orphan = None;
    }

    /// Whether what the kernel did for a request is what the request asked for, as far as can be
    /// told by now. A request is about one address. When a primary address is removed, its
    /// secondaries are announced to be removed before it, or the first of them to be added anew
    /// behind it, all of it in the name and under the number of that request (`__inet_del_ifa` in
    /// `net/ipv4/devinet.c`).
    fn is_its_own(&mut self, pid: u32, intent: &Intent, now: Duration) -> bool {
        let ip = intent.address.ip;
        let same = |removal: &Removal| removal.intent.sequence == intent.sequence;
        if intent.wanted {
            return !self.removals.get(&intent.port).is_some_and(same);
        }
        if !self.removals.contains_key(&intent.port) && self.removals.len() >= MAX_REMOVALS {
            return self.known.contains_key(&ip);
        }
        match self.removals.remove(&intent.port) {
            Some(secondary) if same(&secondary) => {
                // It went along with what is removed now.
                if let Some(vip) = self.known.get_mut(&secondary.intent.address.ip) {
                    vip.said.remove(&pid);
                    vip.said.extend(secondary.before.map(|before| (pid, before)));
                }
            }
            Some(earlier) => self.presume(&earlier, now),
            None => {}
        }
        let known = self.known.get(&ip);
        let before = known.and_then(|vip| vip.said.get(&pid).cloned());
        let presumed = known.is_none().then(|| now.saturating_add(PRESUMED));
        let is_known = known.is_some();
        let intent = intent.clone();
        self.removals.insert(intent.port, Removal { pid, intent, before, presumed });
        is_known
    }

    /// What a daemon asked to be removed is one of its VIPs, though it was not known.
    fn presume(&mut self, removal: &Removal, now: Duration) {
        if removal.presumed.is_some() {
            self.hear(removal.pid, &Intent { refused: true, ..removal.intent.clone() }, now);
        }
    }

    /// An earlier vipshield had heard a daemon say that it means to have this.
    pub(super) fn inherit(&mut self, pid: u32, ip: IpAddr, ifindex: u32) {
        if self.known.contains_key(&ip) || !self.make_room() {
            return;
        }
        self.assume(pid, ip, Source::Inherited).asked_on.insert(ifindex);
    }

    /// Somebody who is no daemon yet said something.
    pub(super) fn overhear(&mut self, intent: &Intent, now: Duration) {
        if self.unclaimed.len() >= MAX_UNCLAIMED {
            self.unclaimed.pop_front();
        }
        self.unclaimed.push_back((now, intent.clone()));
    }

    /// Daemons were looked for: what one of them said before it was found counts too.
    pub(super) fn claim(&mut self, daemon_at: impl Fn(u32) -> Option<u32>, now: Duration) {
        for (at, intent) in std::mem::take(&mut self.unclaimed) {
            if let Some(pid) = daemon_at(intent.port) {
                self.hear(pid, &intent, now);
            } else if now < at.saturating_add(UNCLAIMED) {
                self.unclaimed.push_back((at, intent));
            }
        }
    }

    /// Forgets one that nobody wants if there are too many. False: there is no room.
    fn make_room(&mut self) -> bool {
        if self.known.len() < MAX_ADDRESSES {
            return true;
        }
        let unwanted = self.known.iter().find(|(_, vip)| !vip.is_wanted()).map(|(ip, _)| *ip);
        unwanted.is_some_and(|ip| self.known.remove(&ip).is_some())
    }

    /// A daemon has this address, as its adverts say: whatever it asks for counts more.
    pub(super) fn witness(&mut self, pid: u32, ip: IpAddr) {
        if !self.is_known(ip) && self.make_room() {
            self.assume(pid, ip, Source::Adverts);
        }
    }

    fn assume(&mut self, pid: u32, ip: IpAddr, source: Source) -> &mut Vip {
        let said = Said { wanted: true, port: NO_REQUEST, sequence: 0, source, at: None };
        let vip = self.known.entry(ip).or_default();
        vip.said.insert(pid, said);
        vip
    }

    /// Addresses that are wanted as far as adverts say.
    pub(super) fn witnessed(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let witnessed = |vip: &Vip| vip.said.values().all(|said| said.source == Source::Adverts);
        let found = self.known.iter().filter(move |(_, vip)| vip.is_wanted() && witnessed(vip));
        found.map(|(ip, _)| *ip)
    }

    /// The adverts for an address have stopped.
    pub(super) fn lapse(&mut self, ip: IpAddr) {
        if let Some(vip) = self.known.get_mut(&ip) {
            vip.said.retain(|_, said| said.source != Source::Adverts);
        }
    }

    /// Addresses that are wanted as far as an earlier vipshield knew, and of which nobody has spoken since.
    pub(super) fn inherited(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let inherited = |vip: &Vip| vip.said.values().all(|said| said.source == Source::Inherited);
        let found = self.known.iter().filter(move |(_, vip)| vip.is_wanted() && inherited(vip));
        found.map(|(ip, _)| *ip)
    }

    /// Its daemon gave it up while no vipshield ran.
    pub(super) fn give_up_inherited(&mut self, ip: IpAddr) {
        let said = self.known.get_mut(&ip).into_iter().flat_map(|vip| vip.said.values_mut());
        said.filter(|said| said.source == Source::Inherited).for_each(|said| said.wanted = false);
    }

    /// Whether there is no room for another that somebody may want.
    pub(super) fn is_full(&self) -> bool {
        self.known.len() >= MAX_ADDRESSES && self.known.values().all(Vip::is_wanted)
    }

    /// Whether a daemon has said anything of it lately, or its adverts have.
    pub(super) fn is_known(&self, ip: IpAddr) -> bool {
        self.known.contains_key(&ip)
    }

    /// A daemon is gone. Returns what it had wanted, and nobody else wants; and what stays: what it asked for at a
    /// time (`for_good`), and not as owner of a virtual router, is no VIP (`static_ipaddress`).
    pub(super) fn bury(
        &mut self,
        pid: u32,
        now: Duration,
        for_good: impl Fn(IpAddr, Duration) -> bool,
    ) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let (mut orphans, mut staying) = (Vec::new(), Vec::new());
        let last: Vec<_> = self.removals.extract_if(.., |_, it| it.pid == pid).collect();
        for (_, removal) in last {
            self.presume(&removal, now);
        }
        self.known.retain(|ip, vip| {
            let at = vip.asked().filter(|_| vip.said.contains_key(&pid));
            let stays = at.is_some_and(|at| for_good(*ip, at));
            staying.extend(stays.then_some(*ip));
            !stays
        });
        for (ip, vip) in &mut self.known {
            let Some(said) = vip.said.remove(&pid) else { continue };
            if said.wanted && !vip.is_wanted() {
                orphans.push(*ip);
            }
            if vip.said.is_empty() {
                // A NIC may have it from the next daemon, which is not known yet.
                let off_nics = if said.wanted { Duration::ZERO } else { KEPT_OFF_NIC };
                vip.orphan = Some(Orphan::since(now, off_nics));
            }
        }
        (orphans, staying)
    }

    /// This is a VIP whose daemon is gone.
    pub(super) fn orphan(&mut self, ip: IpAddr, ifindex: u32, now: Duration) {
        if self.known.contains_key(&ip) || self.make_room() {
            let vip = self.known.entry(ip).or_default();
            vip.asked_on.insert(ifindex);
            vip.orphan = vip.said.is_empty().then(|| Orphan::since(now, Duration::ZERO));
        }
    }

    /// Events were lost. What is nowhere was removed, as far as anybody can tell, and what nobody
    /// wanted and is somewhere may be wanted by now: nothing may be done for the one as if it were
    /// wanted, and nothing against the other. Returns the former. Not doubted is what was told right before
    /// to be the last that all daemons said.
    pub(super) fn doubt(&mut self, is_somewhere: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        self.unclaimed.clear();
        self.removals.clear();
        let is_certain = |vip: &Vip| {
            !vip.said.is_empty() && vip.said.values().all(|said| said.source == Source::LastWord)
        };
        let is_doubtful =
            |ip: &IpAddr, vip: &mut Vip| !is_certain(vip) && vip.is_wanted() != is_somewhere(*ip);
        let doubtful = self.known.extract_if(.., is_doubtful);
        doubtful.filter(|(_, vip)| vip.is_wanted()).map(|(ip, _)| ip).collect()
    }

    /// What has lasted long enough is forgotten.
    pub(super) fn expire(&mut self, now: Duration) {
        self.looked_at = now;
        let due = |removal: &&Removal| removal.presumed.is_some_and(|at| at <= now);
        let due: Vec<Removal> = self.removals.values().filter(due).cloned().collect();
        for removal in due {
            self.presume(&removal, now);
            // Its number still tells what goes along with it.
            if let Some(done) = self.removals.get_mut(&removal.intent.port) {
                done.presumed = None;
            }
        }
        for vip in self.known.values_mut() {
            vip.orphan = vip.orphan.filter(|orphan| now < orphan.off_bridges_until);
        }
        self.known.retain(|_, vip| !vip.said.is_empty() || vip.orphan.is_some());
    }

    /// When something is to be forgotten.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let ends = self.known.values().filter_map(|vip| Some(vip.orphan?.off_bridges_until));
        ends.chain(self.removals.values().filter_map(|removal| removal.presumed)).min()
    }

    /// When somebody may put on a NIC again what a daemon that is gone had given up.
    pub(super) fn next_release(&self, after: Duration) -> Option<Duration> {
        let ends = self.known.values().filter_map(|vip| Some(vip.orphan?.off_nics_until));
        ends.filter(|end| *end > after).min()
    }

    /// What daemons mean to have, or did.
    pub(super) fn known(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.known.keys().copied()
    }

    /// What daemons mean to have.
    pub(super) fn wanted(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.known.iter().filter(|(_, vip)| vip.is_wanted()).map(|(ip, _)| *ip)
    }

    /// The same, each with a process that does.
    pub(super) fn wishes(&self) -> impl Iterator<Item = (IpAddr, u32)> + '_ {
        self.known.iter().flat_map(|(ip, vip)| {
            let wishing = vip.said.iter().filter(|(_, said)| said.wanted);
            wishing.map(|(pid, _)| (*ip, *pid))
        })
    }

    /// Whether a daemon means to have it.
    pub(super) fn is_wanted(&self, ip: IpAddr) -> bool {
        self.known.get(&ip).is_some_and(Vip::is_wanted)
    }

    /// Everything of which a daemon was heard to say that it means to have it.
    pub(super) fn spoken_for(&self) -> impl Iterator<Item = IpAddr> {
        let heard = |vip: &Vip| {
            vip.said.values().any(|said| said.wanted && said.source != Source::Inherited)
        };
        self.known.iter().filter(move |(_, vip)| heard(vip)).map(|(ip, _)| *ip)
    }

    /// What is given up.
    fn given_up(&self) -> impl Iterator<Item = IpAddr> {
        self.known.iter().filter(|(_, vip)| vip.is_given_up()).map(|(ip, _)| *ip)
    }

    /// Whether every living daemon that knows it gave it up, or those who knew it ended a short
    /// time ago.
    pub(super) fn is_given_up(&self, ip: IpAddr) -> bool {
        self.known.get(&ip).is_some_and(Vip::is_given_up)
    }

    /// The interfaces on which daemons asked for it, or for its removal.
    pub(super) fn asked_on(&self, ip: IpAddr) -> impl Iterator<Item = u32> + '_ {
        self.known.get(&ip).into_iter().flat_map(|vip| vip.asked_on.iter().copied())
    }

    /// Whether one that was given up has to go should it be on an interface.
    pub(super) fn must_go(&self, ip: IpAddr, from_a_bridge: bool, may_be_claimed: bool) -> bool {
        use facts::vip::{KNOWN, LATELY, MAY_BE_CLAIMED, ON_BRIDGE};
        let vip = self.known.get(&ip);
        let orphan = vip.and_then(|vip| vip.orphan);
        let facts = word([
            (KNOWN, vip.is_some_and(|vip| !vip.said.is_empty())),
            (LATELY, orphan.is_some_and(|orphan| self.looked_at < orphan.off_nics_until)),
            (ON_BRIDGE, from_a_bridge),
            (MAY_BE_CLAIMED, may_be_claimed),
        ]);
        VIP.decide(facts).then == Stay::Goes
    }
}

impl Engine {
    /// Whether an address of a guarded NIC may be on an interface: on the NIC, its bearers, and any
    /// bridge, which may become its bearer. Other interfaces may have it for reasons of their own, as
    /// `lo` has for load balancing.
    pub(super) fn is_home(&self, ifindex: u32) -> bool {
        self.world.is_bridge(ifindex)
            || self.nics.values().any(|nic| nic.bearers.contains(&ifindex))
    }

    /// Whether this node has an address where one of a guarded NIC may be.
    pub(super) fn is_at_home(&self, ip: IpAddr) -> bool {
        self.world.holders(ip).any(|holder| self.is_home(holder))
    }

    /// Whether an address of a NIC that is on an interface came there with the NIC's traffic, or to a bridge
    /// that is about to take it: one that has other addresses of the NIC's, or nothing of its own yet.
    /// Link-local addresses say nothing: each VLAN of the NIC has its hardware address.
    fn took(&self, ifindex: u32, nic: &Nic, ip: IpAddr) -> bool {
        if nic.bearers.contains(&ifindex) {
            return true;
        }
        let Some(bridge) = self.world.link(ifindex).filter(|link| link.is_bridge()) else {
            return false;
        };
        let others = || {
            let others = self.world.addresses_of(ifindex);
            others.filter(|address| address.ip != ip && !address.is_link_local())
        };
        let is_the_nics = |address: Address| nic.home().any(|known| known.ip == address.ip);
        let is_its_own =
            |address: Address| !is_the_nics(address) && !self.world.vips.is_known(address.ip);
        let is_elses = |port: &Link| port.ifindex != nic.ifindex;
        let has_ports = self.world.first_port(bridge).is_some_and(is_elses);
        others().any(is_the_nics) || !has_ports && !others().any(is_its_own)
    }

    /// A NIC is guarded no longer: what took its addresses is where its daemon's have to leave without it.
    pub(super) fn remember_takers(&mut self, nic: &Nic) {
        let there = nic.home().flat_map(|it| self.world.holders(it.ip).map(move |on| (it.ip, on)));
        let takers = there.filter(|(ip, holder)| self.took(*holder, nic, *ip)).map(|(_, on)| on);
        let takers = takers.chain(nic.bearers.iter().copied()).collect();
        let world = &self.world;
        self.takers.retain(|_, takers| takers.iter().any(|taker| world.has_link(*taker)));
        self.takers.insert(nic.ifindex, takers);
    }

    /// Whether an interface has what was on a NIC that is gone.
    fn has_taken(&self, ifindex: u32, nic: u32) -> bool {
        self.takers.get(&nic).is_some_and(|takers| takers.contains(&ifindex))
    }

    /// Whether an address that no daemon means to have is to leave an interface: where a daemon had asked
    /// for it on a guarded NIC, that NIC and what took its addresses; and a bridge on which it did so
    /// itself. Whoever else has that address has it for reasons of his own.
    fn is_to_leave(&self, ifindex: u32, ip: IpAddr) -> bool {
        let asked_on = || self.world.vips.asked_on(ip).filter(|on| self.world.has_link(*on));
        let concerns =
            |nic: &&Nic| asked_on().next().is_none() || asked_on().any(|on| self.took(on, nic, ip));
        self.nics.values().filter(concerns).any(|nic| self.took(ifindex, nic, ip))
            || self.world.is_bridge(ifindex) && asked_on().any(|on| on == ifindex)
            || self.world.vips.asked_on(ip).any(|on| self.has_taken(ifindex, on))
    }

    /// From where an address that no daemon means to have is to be taken, the lowest index first.
    fn places_to_leave(&self, ip: IpAddr) -> impl Iterator<Item = (u32, Address)> {
        let places = self.world.holders(ip).filter(move |holder| self.is_to_leave(*holder, ip));
        places.flat_map(move |place| self.world.forms_of(place, ip).map(move |it| (place, it)))
    }

    /// Has an address taken off wherever it may not be now.
    pub(super) fn take_down(&mut self, ip: IpAddr) {
        let there: Vec<(u32, Address)> = self.places_to_leave(ip).collect();
        self.leaving.extend(there);
    }

    /// False: not now.
    fn take_off(&mut self, ifindex: u32, address: Address) -> bool {
        // Whatever else fails or takes its time: another node may have it in this moment.
        let wanted = self.want(Action::RemoveVip { ifindex, address });
        if wanted {
            let name = self.world.name_of(ifindex);
            let text = format!("{address} is taken off {name}: no daemon here means to have it");
            tell(&mut self.actions, Weight::Info, None, text);
        }
        wanted
    }

    /// The VIP is where the daemon's clients reach it exactly while a daemon means to have it.
    pub(super) fn settle_vips(&mut self) {
        let given_up = self.world.vips.given_up().flat_map(|ip| self.places_to_leave(ip));
        // In the order of interfaces.
        let mut unwanted: BTreeSet<(u32, Address)> = given_up
            .filter(|(ifindex, address)| {
                let a_bridge = self.world.is_bridge(*ifindex);
                let may_be_claimed = self.grants.may_be_claimed(address.ip);
                self.world.vips.must_go(address.ip, a_bridge, may_be_claimed)
            })
            .collect();
        unwanted.append(&mut self.leaving);
        unwanted.retain(|(ifindex, address)| {
            self.world.vips.is_given_up(address.ip) && self.world.has_address(*ifindex, *address)
        });
        let mut left = AT_A_TIME;
        for (ifindex, address) in unwanted {
            if left == 0 {
                self.leaving.insert((ifindex, address));
            } else if self.take_off(ifindex, address) {
                left -= 1;
            }
        }
        let mut wanted = Vec::new();
        // Whether all else is on the bridge does not matter: a daemon that begins anew while a
        // sequence has paused puts it on the NIC, which becomes a port with it.
        for nic in self.nics.values() {
            let Some(to) = nic.bearer.filter(|bearer| *bearer != nic.ifindex) else { continue };
            for address in self.world.addresses_of(nic.ifindex) {
                if self.world.vips.is_wanted(address.ip) && !address.is_link_local() {
                    wanted.push(Action::MoveVip { address, from: nic.ifindex, to });
                }
            }
        }
        wanted.extend(self.nics.values().flat_map(|nic| self.strayed(nic)));
        for action in wanted {
            if left == 0 {
                break;
            }
            left -= usize::from(self.want(action));
        }
    }

    /// Moves for the link-local VIPs of a NIC that are not on its bearer. Nobody else moves them, and
    /// those of IPv6 are lost with every other when the NIC is taken down.
    fn strayed(&self, nic: &Nic) -> Vec<Action> {
        let works = |to: &u32| self.world.link(*to).is_some_and(|link| link.up);
        let Some(to) = nic.bearer.filter(works) else { return Vec::new() };
        let strays = nic.link_local_vips(&self.world);
        strays
            .filter(|address| !self.world.has_ip(to, address.ip))
            .map(|address| {
                let mut known = nic.bearers.iter().copied();
                let from = known.find(|ifindex| self.world.has_ip(*ifindex, address.ip));
                Action::MoveVip { address, from: from.unwrap_or(to), to }
            })
            .collect()
    }
}
