//! One guarded NIC: what belongs to it, what the daemons do not know of it, and for how long.

mod carry;
mod passage;
mod remembered;
mod transitions;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use vipshield_common::rule::Rule;

use self::passage::Passage;
pub use self::transitions::{BOUNDS, Transitions};
pub(super) use self::{
    passage::{CutOff, Way},
    remembered::Remembered,
};
use super::{
    action::Action,
    belief::{Believed, OfNic},
    carry::Route,
    in_force::InForce,
    own::{LetPass, Message},
    phase::{self, Phase, Signs},
    rules::{self, Standing, TELLING, Telling, WHEREABOUTS, Whereabouts, Withholds, word},
    world::{Address, Family, Link, SocketId, World},
};

/// For so long after it was taken down a NIC may have no carrier. The kernel looks at carriers once a
/// second (`net/core/link_watch.c`): one that is up again within that time says at first that it runs.
const CARRIER_SETTLES: Duration = Duration::from_millis(1_500);

/// Where an address was seen that belongs to the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Seen {
    /// On the NIC itself: the daemons believe it is there.
    OnNic,
    /// On its bearer only: it may belong to the bridge alone.
    OnBearer,
    /// On the NIC, and nowhere since events were lost: a daemon may have given it up, and another node
    /// may have it. The daemons are told that it is gone, but nothing speaks for it.
    Doubted,
}

/// A guarded NIC.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent memories, not a state")]
pub(super) struct Nic {
    pub(super) ifindex: u32,
    /// The name under which the daemons know it.
    pub(super) name: String,
    pub(super) phase: Phase,
    pub(super) phase_since: Duration,
    /// The rule by which it is in that phase.
    pub(super) phase_rule: &'static str,
    /// Where frames from its wire go up the stack; none while that cannot be told.
    pub(super) bearer: Option<u32>,
    /// Every interface that has been its bearer, or had its name: a VRRP socket bound to one of them
    /// is the NIC's.
    pub(super) bearers: BTreeSet<u32>,
    /// A guarded daemon has used it, some time.
    pub(super) engaged: bool,
    /// Since when no daemon uses it.
    pub(super) unused_since: Option<Duration>,
    /// Processes of daemons that had an address here, by their own wish.
    pub(super) tenants: BTreeSet<u32>,
    /// The addresses that belong to it, wherever they are.
    home: BTreeMap<Address, Seen>,
    /// It has been looked at.
    looked_at: bool,
    /// The routes that belong to it, wherever they are.
    routes: BTreeSet<Route>,
    /// What is carried for it.
    pub(super) carried: InForce,
    /// Its addresses that have left an interface, and with which routes of others may have gone; since when.
    pub(super) unsourced: BTreeMap<IpAddr, Duration>,
    /// Whether adverts get through its bridge.
    pub(super) passage: Passage,
    /// Nobody reaches the node through the bridge, since when.
    cut_off: Option<(Duration, CutOff)>,
    /// When that may be otherwise, though nothing was seen.
    looks_at: Option<Duration>,
    /// What the daemons believe of it.
    pub(super) belief: OfNic,
    /// It is down, or was a moment ago: until then a missing carrier may be due to that.
    settles_until: Option<Duration>,
    /// It is not called as the daemons know it.
    renamed: bool,
    /// All daemons that use it know what is called how.
    pub(super) names_known: bool,
    /// A vipshield that is gone had withheld that addresses left it.
    pub(super) was_masked: bool,
    /// What rules of one's own let the guard pass, as last asked for.
    pub(super) passes: LetPass,
    /// Messages withheld since the phase was last free, bridged or down.
    pub(super) withheld: u64,
    /// Truths told in that time.
    pub(super) released: u64,
    /// When the current or last transition began.
    pub(super) transition_since: Duration,
    /// Those that are over.
    pub(super) transitions: [Transitions; 3],
}

/// For how long something may be untrue to daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadlines {
    /// The link.
    pub(super) link: Duration,
    /// An address.
    pub(super) address: Duration,
}

impl Deadlines {
    /// Nothing may be untrue any more.
    pub(super) const NONE: Self = Self { link: Duration::ZERO, address: Duration::ZERO };

    /// That of an address, or of the link.
    pub(super) const fn of(self, address: Option<Address>) -> Duration {
        if address.is_some() { self.address } else { self.link }
    }
}

/// A truth whose deadline has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The link is not as the daemons believe.
    Link,
    /// This address is gone.
    Address(Address),
}

impl Nic {
    pub(super) fn new(link: &Link, name: String, now: Duration) -> Self {
        Self {
            ifindex: link.ifindex,
            name,
            phase: Phase::Free,
            phase_since: now,
            phase_rule: "",
            bearer: Some(link.ifindex),
            bearers: BTreeSet::from([link.ifindex]),
            engaged: false,
            unused_since: None,
            tenants: BTreeSet::new(),
            home: BTreeMap::new(),
            looked_at: false,
            routes: BTreeSet::new(),
            carried: InForce::nothing(),
            unsourced: BTreeMap::new(),
            passage: Passage::default(),
            cut_off: None,
            looks_at: None,
            belief: OfNic::default(),
            passes: LetPass::new(),
            settles_until: None,
            renamed: false,
            names_known: false,
            was_masked: false,
            withheld: 0,
            released: 0,
            transition_since: now,
            transitions: Transitions::none(),
        }
    }

    /// The addresses that belong to the NIC, wherever they are.
    pub(super) fn home(&self) -> impl Iterator<Item = Address> + '_ {
        self.home.keys().copied()
    }

    /// The addresses that the daemons believe to be on it, or may.
    pub(super) fn believed(&self) -> impl Iterator<Item = Address> + '_ {
        let all = self.home.iter().filter(|(_, seen)| **seen != Seen::OnBearer);
        all.map(|(address, _)| *address)
            .filter(|address| self.belief.address(*address) != Believed::Failed)
    }

    /// The IPv4 address that a daemon would take for the NIC's own: the one its routes prefer, or
    /// else the one with the largest subnet.
    pub(super) fn source(&self) -> Option<Address> {
        let preferred =
            |address: &Address| self.routes.iter().any(|route| route.source == Some(address.ip));
        self.movable()
            .filter(|address| address.ip.is_ipv4())
            .min_by_key(|address| (!preferred(address), address.prefix_len))
    }

    /// A guarded daemon took this address off the NIC itself: nothing is withheld, and it does
    /// not belong here any more.
    pub(super) fn forget(&mut self, address: Address) {
        self.home.retain(|known, _| known.ip != address.ip);
        self.belief.forget(address);
    }

    /// Whether nothing is under way: nothing that is not true has to be told, its routes had the time to come
    /// back, and it has its name again once it has all else.
    pub(super) fn is_calm(&self, now: Duration) -> bool {
        let lingers =
            self.carried.is_any() && self.lingers_until().is_some_and(|until| now < until);
        let unnamed = self.phase == Phase::Free && self.renamed;
        let moves = self.phase.is_transition() || lingers || unnamed;
        !moves && self.belief.untrue().next().is_none()
    }

    /// Whether it is as it is when nothing has been done to it.
    pub(super) fn is_home(&self) -> bool {
        self.phase == Phase::Free && !self.renamed
    }

    /// Whether the NIC is settled as a port, and this address is on its bridge alone.
    pub(super) fn is_elsewhere(&self, world: &World, address: Address) -> bool {
        self.phase == Phase::Bridged
            && !world.has_ip(self.ifindex, address.ip)
            && self.bearer.is_some_and(|bearer| world.has_ip(bearer, address.ip))
    }

    /// Addresses of which the daemons were told that they are gone, and which the bridge has now.
    /// They belong to the NIC again. Each is returned once.
    pub(super) fn take_back(&mut self, world: &World) -> Vec<Address> {
        // One that is back on the NIC itself was announced there.
        self.belief.retain_gone(|address| !world.has_ip(self.ifindex, address.ip));
        if self.cut_off.is_some() {
            return Vec::new();
        }
        let back: Vec<Address> = self
            .belief
            .gone()
            .iter()
            .copied()
            .filter(|address| !world.is_deaf(self.ifindex, Family::of(address.ip)))
            .filter(|address| self.is_elsewhere(world, *address))
            .collect();
        for address in &back {
            self.belief.show(*address);
            self.home.retain(|known, _| known.ip != address.ip);
            self.home.insert(*address, Seen::OnNic);
        }
        back
    }

    /// The guard withheld that this address left the NIC, so the daemons believe that it is there;
    /// all that was announced of it may have been lost.
    pub(super) fn remember(&mut self, address: Address) {
        if !self.home.keys().any(|known| known.ip == address.ip) {
            self.home.insert(address, Seen::OnNic);
        }
    }

    /// A vipshield that is gone has withheld that this address left: the daemons may believe that it is there.
    pub(super) fn suspect(&mut self, address: Address) {
        self.was_masked = true;
        if !self.home.keys().any(|known| known.ip == address.ip) {
            self.home.insert(address, Seen::Doubted);
        }
    }

    /// Events were lost, and an address that a daemon wanted is nowhere.
    pub(super) fn doubt(&mut self, ip: IpAddr) {
        let doubted = self.home.iter_mut().filter(|(known, _)| known.ip == ip);
        doubted.for_each(|(_, seen)| *seen = Seen::Doubted);
    }

    /// Looks at the world anew. Returns the phase it was in when that changed.
    pub(super) fn observe(
        &mut self,
        world: &World,
        deadline: Duration,
        now: Duration,
    ) -> Option<Phase> {
        let link = world.link(self.ifindex);
        if let Some(link) = link {
            let home: BTreeSet<Address> = self.home.keys().copied().collect();
            self.bearer = world.bearer(link, &home, self.bearer);
            self.bearers.extend(self.bearer);
            self.renamed = link.name != self.name;
            // A daemon that opens its sockets anew binds them by the name.
            let named = world.link_named(&self.name).filter(|named| named.is_bridge());
            self.bearers.extend(named.filter(|_| self.renamed).map(|named| named.ifindex));
        }
        self.watch_bridge(world, deadline, now);
        self.settle_home(world, world.taker(self.ifindex).is_some());
        self.looked_at = true;
        let signs = self.signs(world, link);
        self.watch_link(world, signs, now);
        self.watch_addresses(world, now);

        let was = self.phase;
        let settles = self.settle_carrier(signs, link, now);
        let seen_from = match was {
            Phase::Free | Phase::Bridged if settles => Phase::Leaving,
            was => was,
        };
        let rule = phase::decide(seen_from, Signs { told: self.belief.is_told(), ..signs });
        (self.phase, self.phase_rule) = (rule.then, rule.name);
        if self.phase == Phase::Down {
            self.belief.failure_is_seen();
        }
        if self.phase != was {
            self.phase_since = now;
            if self.phase.is_transition() && !was.is_transition() {
                self.transition_since = now;
            }
            if was.is_transition()
                && let Some(same) = self.transitions.iter_mut().find(|it| it.to == self.phase)
            {
                same.count(now.saturating_sub(self.transition_since));
            }
        }
        self.settle_routes(world, now);
        (self.phase != was).then_some(was)
    }

    /// Whether it lacks a carrier because it was taken down just now, as a part of a transition.
    fn settle_carrier(&mut self, signs: Signs, link: Option<&Link>, now: Duration) -> bool {
        let up = link.is_some_and(|link| link.up);
        self.settles_until = match self.settles_until {
            _ if !up && signs.exists => Some(Duration::MAX),
            Some(Duration::MAX) => Some(now.saturating_add(CARRIER_SETTLES)),
            until => until.filter(|until| now < *until),
        };
        self.settles_until.is_some() && up && !signs.running
    }

    /// The rule by which the guard withholds what it is to.
    pub(super) fn policy_rule(&self) -> &'static str {
        self.policy().name
    }

    fn policy(&self) -> &'static Rule<Withholds> {
        self.phase.policy(self.settles_until.is_some(), self.names_known)
    }

    /// What the guard is to withhold.
    pub(super) fn withhold(&self) -> u32 {
        self.policy().then.0
    }

    fn signs(&self, world: &World, link: Option<&Link>) -> Signs {
        let Some(link) = link else {
            return Signs {
                exists: false,
                port: false,
                in_place: false,
                running: false,
                at_home: false,
                carried: false,
                told: self.belief.is_told(),
            };
        };
        let carrier = self.bearer.filter(|bearer| *bearer != self.ifindex);
        let named =
            link.name == self.name || world.link_named(&self.name).is_some_and(Link::is_bridge);
        Signs {
            exists: true,
            port: world.taker(self.ifindex).is_some(),
            in_place: link.up && named,
            running: link.up && link.running,
            at_home: self.movable().all(|address| world.has_ip(self.ifindex, address.ip)),
            carried: carrier.is_some_and(|bearer| {
                world.link(bearer).is_some_and(|link| link.up)
                    && self.movable().all(|address| world.has_ip(bearer, address.ip))
            }),
            told: self.belief.is_told(),
        }
    }

    /// The addresses that move to a bridge and back; link-local ones stay.
    fn movable(&self) -> impl Iterator<Item = Address> + '_ {
        self.home().filter(|address| !address.is_link_local())
    }

    /// The VIPs among its link-local addresses, which Kube-OVN does not move: those that a daemon is
    /// known to want, and IPv6 ones of a prefix length that the kernel gives none of its own.
    pub(super) fn link_local_vips<'a>(
        &'a self,
        world: &'a World,
    ) -> impl Iterator<Item = Address> + 'a {
        let is_vip = |address: &Address| {
            world.vips.is_wanted(address.ip) || address.ip.is_ipv6() && address.prefix_len == 128
        };
        self.home().filter(Address::is_link_local).filter(is_vip)
    }

    /// What the NIC has belongs to it; what its bearer has, as long as it is a port, too.
    ///
    /// What a daemon gave up belongs to nobody, wherever it still is.
    fn settle_home(&mut self, world: &World, port: bool) {
        let is_ours = |address: &Address| !world.vips.is_given_up(address.ip);
        self.home.retain(|known, _| is_ours(known));
        self.belief.retain_absent(is_ours);
        for address in world.addresses_of(self.ifindex).filter(is_ours) {
            self.home.retain(|known, _| known.ip != address.ip || *known == address);
            self.home.insert(address, Seen::OnNic);
        }
        if let Some(bearer) = self.bearer.filter(|bearer| port && *bearer != self.ifindex) {
            // At the first look nothing tells which of the bridge's addresses were the NIC's; all
            // of them is what Kube-OVN makes of it.
            let seen = if self.looked_at { Seen::OnBearer } else { Seen::OnNic };
            // What was told to be gone is not back as long as nobody can reach it there.
            let is_gone = |address: &Address| self.belief.is_gone(*address);
            let (ifindex, served) = (self.ifindex, self.cut_off.is_none());
            let usable =
                |address: &Address| served && !world.is_deaf(ifindex, Family::of(address.ip));
            for address in world.addresses_of(bearer).filter(|address| {
                !address.is_link_local()
                    && is_ours(address)
                    && (usable(address) || !is_gone(address))
            }) {
                if !self.home.keys().any(|known| known.ip == address.ip) {
                    self.home.insert(address, seen);
                }
            }
        }
        // Back to being its own master, the NIC has no claim on what only ever was the bridge's:
        // it is given back with the first look that finds it on the NIC.
        if !port {
            let lost: Vec<Address> = self
                .home
                .iter()
                .filter(|(_, seen)| **seen == Seen::OnBearer)
                .map(|(address, _)| *address)
                .collect();
            for address in lost {
                self.home.remove(&address);
                self.belief.is_there(address);
            }
        }
    }

    fn watch_link(&mut self, world: &World, signs: Signs, now: Duration) {
        use rules::facts::link::{RUNNING, TOLD, USURPED};
        if signs.in_place && signs.running {
            self.belief.link_works();
        }
        let facts = word([
            (TOLD, self.belief.is_told()),
            (RUNNING, signs.running),
            (USURPED, self.usurper(world).is_some()),
        ]);
        match rules::LINK.decide(facts).then {
            Standing::Known => self.belief.link_is_known(signs.running),
            Standing::Astray => self.belief.link_is_astray(now, self.lets_see(world)),
        }
    }

    /// Whether what the kernel has said of the link as it is was passed by a rule of one's own.
    fn lets_see(&self, world: &World) -> bool {
        let message = match world.link(self.ifindex) {
            Some(link) if link.name != self.name => Message::Rename,
            Some(link) if !link.up => Message::AdminDown,
            Some(link) if !link.running => Message::CarrierLoss,
            Some(_) | None => return false,
        };
        self.passes.contains_key(&message)
    }

    /// The other interface, no bridge, that has the name under which the daemons know the NIC.
    pub(super) fn usurper(&self, world: &World) -> Option<u32> {
        world
            .link_named(&self.name)
            .filter(|link| link.ifindex != self.ifindex && !link.is_bridge())
            .map(|link| link.ifindex)
    }

    fn watch_addresses(&mut self, world: &World, now: Duration) {
        let cut_off = self.cut_off.map_or(now, |(since, _)| since);
        let found: Vec<(Address, Whereabouts)> =
            self.home().map(|address| (address, self.whereabouts(world, address))).collect();
        for (address, whereabouts) in found {
            let since = match whereabouts {
                Whereabouts::Here => {
                    self.belief.is_there(address);
                    if let Some(seen @ Seen::Doubted) = self.home.get_mut(&address) {
                        *seen = Seen::OnNic;
                    }
                    continue;
                }
                Whereabouts::Gone => now,
                Whereabouts::CutOff => cut_off,
                Whereabouts::Overdue => Duration::ZERO,
            };
            self.belief.is_absent(address, since);
        }
        self.belief.retain_absent(|address| self.home.contains_key(address));
    }

    /// Where an address of its own is.
    fn whereabouts(&self, world: &World, address: Address) -> Whereabouts {
        use rules::facts::address::{CUT_OFF, DEAF, ON_BRIDGE, ON_NIC, WANTED};
        let on_bearer = self.bearer.is_some_and(|bearer| world.has_ip(bearer, address.ip));
        let facts = word([
            (ON_NIC, world.has_ip(self.ifindex, address.ip)),
            (ON_BRIDGE, on_bearer || (!address.is_link_local() && world.on_a_bridge(address.ip))),
            (WANTED, world.vips.is_wanted(address.ip)),
            (DEAF, world.is_deaf(self.ifindex, Family::of(address.ip))),
            (CUT_OFF, self.cut_off.is_some()),
        ]);
        WHEREABOUTS.decide(facts).then
    }

    /// What has to be told now.
    pub(super) fn overdue(&self, deadlines: Deadlines, now: Duration) -> Vec<Overdue> {
        use rules::facts::telling::{ADDRESS, DUE, IS_LINK, PASSED, UNHEARD};
        let is_told = |what: u32, due: Duration| {
            let facts = word([
                (what, true),
                (DUE, now >= due),
                (UNHEARD, self.phase == Phase::Down && self.renamed),
                (PASSED, self.belief.is_passed()),
            ]);
            TELLING.decide(facts).then == Telling::Tell
        };
        let Deadlines { link, address } = deadlines;
        let link =
            self.belief.astray().filter(|since| is_told(IS_LINK, since.saturating_add(link)));
        let link = link.map(|_| Overdue::Link);
        let is_due = |since: Duration| is_told(ADDRESS, since.saturating_add(address));
        let addresses = self.belief.absent().iter().filter(|(_, since)| is_due(**since));
        let addresses = addresses.map(|(address, _)| Overdue::Address(*address));
        link.into_iter().chain(addresses).collect()
    }

    /// Whether a failure is over of which the daemons know: all is settled, and the interface of
    /// the NIC's name works. True once for each.
    pub(super) fn recovered(&mut self, world: &World) -> bool {
        let over = self.belief.knows_failure()
            && matches!(self.phase, Phase::Free | Phase::Bridged)
            && world.link_named(&self.name).is_some_and(|link| link.running);
        over && self.belief.tell_recovery()
    }

    /// The truth was told, or is being told.
    pub(super) fn settle(&mut self, overdue: Overdue) {
        match overdue {
            Overdue::Link => self.belief.tell_link(),
            Overdue::Address(address) => {
                self.forget(address);
                self.belief.tell_gone(address);
            }
        }
    }

    /// What tells the daemons that this is so.
    pub(super) fn telling(
        &self,
        truth: Overdue,
        sockets: &[SocketId],
        world: &World,
    ) -> Vec<Action> {
        let ifindex = self.ifindex;
        match truth {
            Overdue::Link => {
                let links = [Some(ifindex), self.usurper(world)];
                let all = sockets.iter().flat_map(|socket| {
                    links.into_iter().flatten().map(|ifindex| (*socket, ifindex))
                });
                all.map(|(socket, ifindex)| Action::ResyncLink { socket, ifindex }).collect()
            }
            Overdue::Address(_) if sockets.is_empty() => Vec::new(),
            Overdue::Address(address) => vec![Action::ReplayRemoval { ifindex, address }],
        }
    }

    /// When something has to be told at the latest, or the carrier is no part of a transition any
    /// more.
    pub(super) fn next_deadline(&self, deadlines: Deadlines) -> Option<Duration> {
        self.belief
            .untrue()
            .map(|(address, since)| since.saturating_add(deadlines.of(address)))
            .chain(self.settles_until.filter(|until| *until < Duration::MAX))
            .chain(self.looks_at)
            .min()
    }
}
