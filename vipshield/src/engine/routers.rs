//! Virtual routers, as their adverts on the wire show them, and what follows from them: how long
//! something may be withheld, and whether this node still is the one to own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use super::{
    Engine,
    action::Action,
    heard::speaks,
    notice::Weight,
    phase::Phase,
    roster::{Entry, Roster},
    tell,
    world::Family,
};
use crate::wire::{Advert, Authentication, Checksum, Mac, Version};

/// Virtual routers remembered: a NIC has 255 of a family and version.
pub(super) const MAX_ROUTERS: usize = 512;
/// Senders remembered of each, this node aside.
pub(super) const MAX_SENDERS: usize = 8;
/// Of a sender that is not this node so many addresses are remembered.
const MAX_ADDRESSES: usize = 32;
/// An interval that was not heard for so long counts no more.
const MEMORY: Duration = Duration::from_mins(1);
/// A sender's interval counts once so many of its adverts came at that pace.
const PACED: u32 = 2;
/// What is withheld is told after this part of an interval: (3 - 1) intervals, three being
/// keepalived's `down_timer_adverts`, and a twentieth of that to spare.
const DEADLINE: (u32, u32) = (19, 10);
/// No advert makes it shorter: with less a transition cannot be told from a failure.
pub(super) const SHORTEST: Duration = Duration::from_millis(50);

/// The least that time goes on by.
const INSTANT: Duration = Duration::from_nanos(1);

/// Names a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The guarded NIC it is heard on.
    pub(super) nic: u32,
    pub(super) vlan: Option<u16>,
    pub(super) family: Family,
    pub(super) version: Version,
    pub(super) router_id: u8,
}

/// What one sender says of a virtual router.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) mac: Mac,
    pub(super) priority: u8,
    pub(super) interval: Duration,
    pub(super) addresses: Vec<IpAddr>,
    unicast: bool,
    authentication: Authentication,
    checksum: Checksum,
    /// The last advert that came at its pace, or too late.
    beat: Duration,
    paced: u32,
}

impl Sender {
    fn new(advert: &Advert, now: Duration) -> Self {
        Self {
            mac: Mac::default(),
            priority: advert.priority,
            interval: advert.interval,
            addresses: Vec::new(),
            unicast: advert.is_unicast(),
            authentication: advert.authentication,
            checksum: advert.checksum,
            beat: now,
            paced: 0,
        }
    }

    fn hear(&mut self, mac: Mac, advert: Advert, now: Duration) {
        let pause = now.saturating_sub(self.beat);
        if advert.interval != self.interval || pause > advert.interval * 3 / 2 {
            (self.beat, self.paced) = (now, 0);
        } else if pause >= advert.interval / 2 {
            (self.beat, self.paced) = (now, self.paced.saturating_add(1));
        }
        self.mac = mac;
        self.priority = advert.priority;
        self.interval = advert.interval;
        self.unicast = advert.is_unicast();
        self.authentication = advert.authentication;
        self.checksum = advert.checksum;
        self.addresses = advert.addresses;
    }
}

impl Entry<Sender> {
    /// It would be taken for the owner: three of its intervals have not gone by.
    pub(super) fn is_live(&self, now: Duration) -> bool {
        self.value.priority != 0 && now <= self.last.saturating_add(lifetime(self.value.interval))
    }
}

/// After this long without an advert a router makes itself owner (RFC 9568, section 6.1; of the
/// skew, which is less than an interval, all).
fn lifetime(interval: Duration) -> Duration {
    interval * 4
}

/// One virtual router.
#[derive(Clone, Debug, Default)]
pub(super) struct Router {
    /// A daemon of this node takes part in it.
    pub(super) ours: bool,
    /// This node, from which address.
    pub(super) own: Option<(IpAddr, Entry<Sender>)>,
    /// Everybody else, by source address.
    pub(super) others: Roster<IpAddr, Sender, MAX_SENDERS>,
}

impl Router {
    /// Whose adverts say that it is the owner, and have the highest priority. While this node says so
    /// of itself, that of others counts if it would yield to them.
    pub(super) fn owner(
        &self,
        version: Version,
        now: Duration,
    ) -> Option<(IpAddr, &Entry<Sender>)> {
        let own = self.own.iter().filter(|(_, entry)| entry.is_live(now));
        let own = own.map(|(source, entry)| (*source, entry));
        let speaks = own.clone().next().is_some();
        let others = self.others.iter().map(|(source, entry)| (*source, entry));
        let others = others.filter(|(source, entry)| {
            entry.is_live(now) && (!speaks || self.is_heeded(version, *source, &entry.value))
        });
        own.chain(others).max_by_key(|(source, entry)| (entry.value.priority, *source))
    }

    /// The intervals that may be believed: this node's own, and that of the owner whom it heeds.
    fn intervals(&self, version: Version, now: Duration) -> impl Iterator<Item = Duration> {
        let remembered = move |entry: &&Entry<Sender>| now <= entry.last.saturating_add(MEMORY);
        let own = self.own.iter().map(|(_, entry)| entry).filter(remembered);
        let owner = self
            .others
            .iter()
            .filter(|(_, entry)| remembered(entry) && entry.value.paced >= PACED)
            .filter(|(source, entry)| self.is_heeded(version, **source, &entry.value))
            .max_by_key(|(source, entry)| (entry.is_live(now), entry.value.priority, **source));
        own.chain(owner.map(|(_, entry)| entry)).map(|entry| entry.value.interval)
    }

    /// Whether a daemon of this node would yield to this sender: a higher priority, and what a
    /// receiver compares with its own configuration (RFC 3768, section 7.1), which shows in what
    /// this node has sent.
    fn is_heeded(&self, version: Version, source: IpAddr, sender: &Sender) -> bool {
        let Some((own_source, own)) = &self.own else { return true };
        let own = &own.value;
        // keepalived has one setting for what it sends and what it takes (`v3_checksum_as_v2`).
        let bare = |sender: &Sender| sender.checksum == Checksum::NoPseudoHeader;
        (sender.priority, source) > (own.priority, *own_source)
            && sender.unicast == own.unicast
            && sender.authentication == own.authentication
            && bare(sender) == bare(own)
            && (version == Version::V3 || sender.interval == own.interval)
    }

    /// Whether somebody is heard to whom this node has to yield.
    fn is_outranked(&self, version: Version, now: Duration) -> bool {
        self.others.iter().any(|(source, entry)| {
            entry.is_live(now) && self.is_heeded(version, *source, &entry.value)
        })
    }

    fn hear(&mut self, own: bool, mac: Mac, mut advert: Advert, now: Duration) {
        let source = advert.source;
        if own {
            let fresh =
                || Entry { first: now, last: now, count: 0, value: Sender::new(&advert, now) };
            let (from, entry) = self.own.get_or_insert_with(|| (source, fresh()));
            *from = source;
            entry.last = now;
            entry.count += 1;
            return entry.value.hear(mac, advert, now);
        }
        advert.addresses.truncate(MAX_ADDRESSES);
        // The owner has a place whatever comes.
        let owner = self
            .others
            .iter()
            .filter(|(_, entry)| entry.is_live(now))
            .max_by_key(|(source, entry)| (entry.value.priority, **source))
            .map(|(source, _)| *source);
        let fresh = || Sender::new(&advert, now);
        let lifetime = lifetime(advert.interval);
        let keep = |source: &IpAddr, _: &Sender| Some(*source) == owner;
        if let Some(entry) = self.others.admit(source, lifetime, now, fresh, keep) {
            entry.value.hear(mac, advert, now);
        }
    }
}

/// How long something may be withheld on a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience {
    /// For so long.
    pub(super) deadline: Duration,
    /// Not at all: this node has to yield, and what is withheld keeps it owner.
    pub(super) outranked: bool,
}

impl Patience {
    /// For how long from now.
    pub(super) const fn now(self) -> Duration {
        if self.outranked { Duration::ZERO } else { self.deadline }
    }
}

/// What a daemon is told something for.
impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.outranked {
            f.write_str("another router has a higher priority")
        } else {
            write!(f, "{} ms have passed", self.deadline.as_millis())
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Routers {
    pub(super) table: Roster<Key, Router, MAX_ROUTERS>,
    /// By NIC.
    patience: BTreeMap<u32, Patience>,
    /// Since when a NIC can send.
    able: BTreeMap<u32, Duration>,
    /// Routers of which this node means to be the owner, and says nothing.
    silent: BTreeSet<Key>,
    /// How often that began.
    pub(super) silences: u64,
}

impl Routers {
    pub(super) fn hear(
        &mut self,
        key: Key,
        ours: bool,
        own: bool,
        mac: Mac,
        advert: Advert,
        now: Duration,
    ) {
        let keep = |_: &Key, router: &Router| router.own.is_some();
        let Some(entry) = self.table.admit(key, MEMORY, now, Router::default, keep) else { return };
        entry.value.ours |= ours;
        entry.value.hear(own, mac, advert, now);
    }

    /// Daemons came or went: which routers are theirs is to be found out again.
    pub(super) fn disown(&mut self) {
        for (_, entry) in self.table.values_mut() {
            entry.value.ours = false;
            entry.value.own = None;
        }
        self.silent.clear();
    }

    /// Routers that this node takes part in.
    pub(super) fn ours(&self) -> impl Iterator<Item = (&Key, &Router)> {
        self.table.iter().filter(|(_, entry)| entry.value.ours).map(|(key, it)| (key, &it.value))
    }

    /// Senders that made place for others.
    pub(super) fn senders_evicted(&self) -> u64 {
        self.table.iter().map(|(_, entry)| entry.value.others.evicted).sum()
    }

    /// When something is to be looked at again.
    pub(super) fn next_deadline(&self, after: Duration) -> Option<Duration> {
        self.ours()
            .filter(|(key, _)| !self.silent.contains(key))
            .filter_map(|(key, router)| self.silent_at(*key, router))
            .filter(|at| *at > after)
            .min()
    }

    /// When one who was heard would be taken for owner no longer, or is forgotten.
    pub(super) fn next_silence(&self, after: Duration) -> Option<Duration> {
        let senders = self.table.iter().flat_map(|(_, entry)| {
            let own = entry.value.own.iter().map(|(_, own)| own);
            own.chain(entry.value.others.iter().map(|(_, other)| other))
        });
        let ends = |sender: &Entry<Sender>| {
            let times = [lifetime(sender.value.interval), MEMORY];
            // Until then, it is not over yet.
            times.map(|time| sender.last.saturating_add(time).saturating_add(INSTANT))
        };
        senders.flat_map(ends).filter(|end| *end > after).min()
    }

    /// When the adverts of this node are overdue: before anybody else makes itself owner.
    fn silent_at(&self, key: Key, router: &Router) -> Option<Duration> {
        let (_, own) = router.own.as_ref().filter(|(_, own)| own.value.priority != 0)?;
        let able = self.able.get(&key.nic)?;
        Some(own.last.max(*able).saturating_add(own.value.interval * 5 / 2))
    }
}

impl Engine {
    /// How long something may be withheld on this NIC.
    pub(super) fn patience(&self, nic: u32) -> Patience {
        let unlearned = Patience { deadline: self.config.deadline, outranked: false };
        self.routers.patience.get(&nic).copied().unwrap_or(unlearned)
    }

    /// Learns from the adverts how long something may be withheld.
    pub(super) fn learn_patience(&mut self, now: Duration) {
        self.routers.table.retain(|key, _| self.nics.contains_key(&key.nic));
        self.routers.patience = self
            .nics
            .keys()
            .map(|nic| {
                let learned = self.shortest_interval(*nic, now).map(|interval| {
                    let (times, of) = DEADLINE;
                    (interval * times / of).max(SHORTEST)
                });
                let deadline =
                    learned.map_or(self.config.deadline, |it| it.min(self.config.deadline));
                (*nic, Patience { deadline, outranked: self.is_outranked(*nic, now) })
            })
            .collect();
    }

    /// The shortest interval of the virtual routers in which daemons of this node take part.
    ///
    /// A daemon that has been waiting since before vipshield started has said nothing that tells
    /// which are its own. Then all that are heard at the pace they state may be.
    fn shortest_interval(&self, nic: u32, now: Duration) -> Option<Duration> {
        let guarded = self.nics.get(&nic)?;
        let families = [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| {
            self.world.daemons.values().any(|daemon| speaks(daemon, guarded, *family))
        });
        families
            .filter_map(|family| {
                let heard = || {
                    let heard = self.routers.table.iter();
                    heard.filter(move |(key, _)| key.nic == nic && key.family == family)
                };
                let known = heard().any(|(_, entry)| entry.value.ours);
                let counts = |entry: &Entry<Router>| entry.value.ours || !known;
                heard()
                    .filter(|(_, entry)| counts(entry))
                    .flat_map(|(key, entry)| entry.value.intervals(key.version, now))
                    .min()
            })
            .min()
    }

    fn is_outranked(&self, nic: u32, now: Duration) -> bool {
        self.routers.ours().any(|(key, router)| {
            key.nic == nic && self.means_to_own(router) && router.is_outranked(key.version, now)
        })
    }

    /// Whether this node has said that it owns a router, and has not given its addresses up.
    fn means_to_own(&self, router: &Router) -> bool {
        router.own.as_ref().is_some_and(|(_, own)| {
            own.value.priority != 0
                && own.value.addresses.iter().any(|ip| self.world.vips.is_wanted(*ip))
        })
    }

    /// Looks for routers that this node means to own and says nothing of: its sockets may be where
    /// nobody hears them. Whoever waits makes itself owner soon.
    pub(super) fn mind_silence(&mut self, now: Duration) {
        self.lapse(now);
        let world = &self.world;
        let able = |nic: &super::nic::Nic| {
            let works = |ifindex| world.link(ifindex).is_some_and(|it| it.up && it.running);
            works(nic.ifindex) && nic.bearer.is_some_and(works) && nic.phase != Phase::Down
        };
        let able: BTreeSet<u32> =
            self.nics.values().filter(|nic| able(nic)).map(|nic| nic.ifindex).collect();
        self.routers.able.retain(|nic, _| able.contains(nic));
        for nic in able {
            self.routers.able.entry(nic).or_insert(now);
        }
        let silent: BTreeSet<Key> = self
            .routers
            .ours()
            .filter(|(key, router)| {
                self.means_to_own(router)
                    && self.routers.silent_at(**key, router).is_some_and(|at| now >= at)
            })
            .map(|(key, _)| *key)
            .collect();
        let news: Vec<Key> = silent.difference(&self.routers.silent).copied().collect();
        self.routers.silent = silent;
        for key in news {
            self.routers.silences += 1;
            let name = self.nics.get(&key.nic).map(|nic| nic.name.as_str());
            let text = format!(
                "this node owns virtual router {} and sends no adverts any more: its sockets are \
                 looked at again",
                key.router_id
            );
            tell(&mut self.actions, Weight::Warning, name, text);
            if let Some(nic) = self.nics.get(&key.nic) {
                let of = |socket: &super::VrrpSocket| {
                    socket.bound.is_some_and(|bound| nic.bearers.contains(&bound))
                };
                let sockets = self.world.daemons.values().flat_map(|daemon| &daemon.vrrp);
                for socket in sockets.filter(|socket| of(socket)) {
                    self.placed.remove(&socket.id);
                }
            }
            self.want(Action::Rescan);
        }
    }

    /// An address of which only the adverts said that it is wanted, and that is nowhere, was given
    /// up once they have stopped: of IPv6 the kernel does not say who removed an address.
    fn lapse(&mut self, now: Duration) {
        let live: BTreeSet<IpAddr> = self
            .routers
            .ours()
            .filter_map(|(_, router)| router.own.as_ref())
            .filter(|(_, own)| own.is_live(now))
            .flat_map(|(_, own)| own.value.addresses.iter().copied())
            .collect();
        let lapsed: Vec<IpAddr> = self
            .world
            .vips
            .witnessed()
            .filter(|ip| !live.contains(ip) && !self.is_at_home(*ip))
            .collect();
        for ip in lapsed {
            self.world.vips.lapse(ip);
        }
    }
}
