//! Virtual routers, as their adverts on the wire show them, and what follows from them: how long
//! something may be withheld, and whether this node still is the one to own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    heard::speaks,
    notice::Weight,
    phase::Phase,
    probe::LATER,
    roster::{Entry, Roster},
    tell,
    world::Family,
};
use crate::wire::{Advert, Mac, Version};

/// Virtual routers remembered: a NIC has 255 of a family and version.
pub(super) const MAX_ROUTERS: usize = 512;
/// Senders remembered of each, this node aside.
pub(super) const MAX_SENDERS: usize = 8;
/// Of a sender that is not this node so many addresses are remembered.
const MAX_ADDRESSES: usize = 32;
/// An interval that was not heard for so long counts no more.
pub(super) const MEMORY: Duration = Duration::from_mins(1);
/// A sender's interval counts once so many of its adverts came at that pace.
pub(super) const PACED: u32 = 2;
/// What is withheld is told after this part of an interval: (3 - 1) intervals, three being
/// keepalived's `down_timer_adverts`, and a twentieth of that to spare.
const DEADLINE: (u32, u32) = (19, 10);
/// No advert makes it shorter: with less a transition cannot be told from a failure.
pub(super) const SHORTEST: Duration = Duration::from_millis(50);

/// An owner's first advert and its requests are no further apart than this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The least that time goes on by.
const INSTANT: Duration = Duration::from_nanos(1);

/// Names a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Key {
    /// The guarded NIC it is heard on.
    pub(super) nic: u32,
    pub(super) vlan: Option<u16>,
    pub(super) family: Family,
    pub(super) version: Version,
    pub(super) router_id: u8,
}

/// What one sender says of a virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sender {
    pub(super) mac: Mac,
    /// Its last advert.
    pub(super) advert: Advert,
    /// The last advert that came at its pace, or too late.
    beat: Duration,
    pub(super) paced: u32,
    /// It is for an address that a daemon of this node has asked for.
    pub(super) asked: bool,
    /// When a socket like those of this node's daemons received an advert last.
    pub(super) received: Option<Duration>,
    /// Since when adverts come to this node that it has not received.
    pub(super) missed: Option<Duration>,
    /// How often this node went on as owner after an advert like the last one, which outranks it.
    pub(super) ignored: u32,
}

impl Sender {
    fn new(advert: &Advert, now: Duration) -> Self {
        Self {
            mac: Mac::default(),
            advert: advert.clone(),
            beat: now,
            paced: 0,
            asked: false,
            received: None,
            missed: None,
            ignored: 0,
        }
    }

    fn receive(&mut self, now: Duration) {
        self.received = Some(now);
        self.missed = None;
    }

    fn hear(&mut self, mac: Mac, advert: Advert, now: Duration) {
        let pause = now.saturating_sub(self.beat);
        if advert.interval != self.advert.interval || pause > advert.interval * 3 / 2 {
            (self.beat, self.paced) = (now, 0);
        } else if pause >= advert.interval / 2 {
            (self.beat, self.paced) = (now, self.paced.saturating_add(1));
        }
        if advert != self.advert {
            self.ignored = 0;
        }
        self.mac = mac;
        self.advert = advert;
    }
}

impl Entry<Sender> {
    /// It would be taken for the owner: three of its intervals have not gone by.
    pub(super) fn is_live(&self, now: Duration) -> bool {
        let Advert { priority, interval, .. } = &self.value.advert;
        *priority != 0 && now <= self.last.saturating_add(lifetime(*interval))
    }
}

/// After this long without an advert a router makes itself owner (RFC 9568, section 6.1; of the
/// skew, which is less than an interval, all).
fn lifetime(interval: Duration) -> Duration {
    interval * 4
}

/// What an advert is to this node.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other, not a state")]
pub(super) struct Hearing {
    /// This node sent it.
    pub(super) own: bool,
    /// A daemon of this node takes part in the virtual router.
    pub(super) ours: bool,
    /// It is for an address that a daemon of this node has asked for.
    pub(super) asked: bool,
    /// It came from the wire, to this node.
    pub(super) arrived: bool,
    /// No socket of a daemon is anywhere else than where it came.
    pub(super) received: bool,
    /// The NIC is as it is when nothing has been done to it: so are the daemons' sockets.
    pub(super) at_home: bool,
}

/// One virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Router {
    /// A daemon of this node takes part in it.
    pub(super) ours: bool,
    /// This node, from which address.
    pub(super) own: Option<(IpAddr, Entry<Sender>)>,
    /// Everybody else, by source address.
    pub(super) others: Roster<IpAddr, Sender, MAX_SENDERS>,
}

impl Router {
    /// Whose adverts say that it is the owner, and have the highest priority, of those that count.
    pub(super) fn owner(&self, now: Duration) -> Option<(IpAddr, &Entry<Sender>)> {
        let own = self.own.iter().filter(|(_, entry)| entry.is_live(now));
        let own = own.map(|(source, entry)| (*source, entry));
        let others = self.others.iter().map(|(source, entry)| (*source, entry));
        let others = others.filter(|(source, entry)| {
            entry.is_live(now) && self.counts(*source, &entry.value, now)
        });
        own.chain(others).max_by_key(|(source, entry)| (entry.value.advert.priority, *source))
    }

    /// The intervals that may be believed: this node's own, and that of the owner whom it heeds.
    fn intervals(&self, now: Duration) -> impl Iterator<Item = Duration> {
        let remembered = move |entry: &&Entry<Sender>| now <= entry.last.saturating_add(MEMORY);
        let own = self.own.iter().map(|(_, entry)| entry).filter(remembered);
        let owner = self
            .others
            .iter()
            .filter(|(_, entry)| remembered(entry) && entry.value.paced >= PACED)
            .filter(|(source, entry)| self.counts(**source, &entry.value, now))
            .max_by_key(|(source, entry)| {
                (entry.is_live(now), entry.value.advert.priority, **source)
            });
        own.chain(owner.map(|(_, entry)| entry)).map(|entry| entry.value.advert.interval)
    }

    /// Whether this node's daemon goes by a sender: as owner by one to whom it would yield, else by
    /// whom it heeds.
    pub(super) fn counts(&self, source: IpAddr, sender: &Sender, now: Duration) -> bool {
        if self.own.as_ref().is_some_and(|(_, own)| own.is_live(now)) {
            self.yields_to(source, sender)
        } else {
            self.is_heeded(sender)
        }
    }

    /// Whether somebody is heard to whom this node has to yield.
    fn is_outranked(&self, now: Duration) -> bool {
        self.others
            .iter()
            .any(|(source, entry)| entry.is_live(now) && self.yields_to(*source, &entry.value))
    }

    fn hear(&mut self, hearing: Hearing, mac: Mac, mut advert: Advert, now: Duration) {
        let source = advert.source;
        if hearing.own {
            if hearing.at_home {
                self.went_on();
            }
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
            .max_by_key(|(source, entry)| {
                let sender = &entry.value;
                (self.is_heeded(sender), sender.advert.priority, **source)
            })
            .map(|(source, _)| *source);
        let fresh = || Sender::new(&advert, now);
        let lifetime = lifetime(advert.interval);
        let keep = |source: &IpAddr, _: &Sender| Some(*source) == owner;
        if let Some(entry) = self.others.admit(source, lifetime, now, fresh, keep) {
            entry.value.asked = hearing.asked;
            // The socket's word of this very advert may have come before the watch's.
            let apart = advert.interval / LATER;
            let came = |received: Duration| now.saturating_sub(received) < apart;
            if hearing.arrived && !entry.value.received.is_some_and(came) {
                entry.value.missed.get_or_insert(now);
            }
            if hearing.received {
                entry.value.receive(now);
            }
            entry.value.hear(mac, advert, now);
        }
    }
}

/// How long something may be withheld on a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        hearing: Hearing,
        mac: Mac,
        advert: Advert,
        now: Duration,
    ) {
        let keep = |_: &Key, router: &Router| router.own.is_some();
        let Some(entry) = self.table.admit(key, MEMORY, now, Router::default, keep) else { return };
        entry.value.ours |= hearing.ours;
        entry.value.hear(hearing, mac, advert, now);
    }

    /// The virtual router of this name, if it was heard.
    pub(super) fn get(&self, key: &Key) -> Option<&Router> {
        self.table.get(key).map(|entry| &entry.value)
    }

    /// Whether a daemon that asked for this address then did not do so as owner of a virtual router, as far as can be
    /// told: no advert names it, adverts were heard since, and this node sent none around that time. keepalived
    /// asks for its VIPs, those in no advert too, in the moment in which it sends the first one; for what it gives a
    /// node for good (`static_ipaddress`) when it starts.
    pub(super) fn is_for_good(&self, ip: IpAddr, asked: Duration) -> bool {
        let routers = || self.table.iter().map(|(_, entry)| &entry.value);
        let senders = || {
            let own = routers().filter_map(|router| router.own.as_ref().map(|(_, own)| own));
            own.chain(routers().flat_map(|router| router.others.iter().map(|(_, entry)| entry)))
        };
        let owned_then = |router: &Router| {
            router.own.as_ref().is_some_and(|(_, own)| {
                own.first <= asked.saturating_add(AT_ONCE)
                    && asked <= own.last.saturating_add(lifetime(own.value.advert.interval))
            })
        };
        senders().all(|entry| !entry.value.advert.addresses.contains(&ip))
            && senders().any(|entry| entry.last >= asked)
            && !routers().any(owned_then)
    }

    /// Who has sent adverts for an address for a while, where this node has sent none.
    fn another_owner(&self, ip: IpAddr, now: Duration) -> Option<IpAddr> {
        let silent =
            |router: &&Router| router.own.as_ref().is_none_or(|(_, own)| !own.is_live(now));
        let routers = self.table.iter().map(|(_, entry)| &entry.value).filter(silent);
        let mut others = routers.flat_map(|router| router.others.iter());
        let owns = |(_, entry): &(&IpAddr, &Entry<Sender>)| {
            let Sender { advert, paced, .. } = &entry.value;
            entry.is_live(now) && *paced >= PACED && advert.addresses.contains(&ip)
        };
        others.find(owns).map(|(source, _)| *source)
    }

    /// A socket like those of this node's daemons has received an advert.
    pub(super) fn received(&mut self, nic: u32, router_id: u8, source: IpAddr, now: Duration) {
        let is_it = |key: &Key| {
            let family = if source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
            (key.nic, key.vlan, key.family, key.router_id) == (nic, None, family, router_id)
        };
        for (_, entry) in self.table.values_mut().filter(|(key, _)| is_it(key)) {
            let senders = entry.value.others.values_mut();
            for (_, sender) in senders.filter(|(known, _)| **known == source) {
                sender.value.receive(now);
            }
        }
    }

    /// What was not received on a NIC until now is not missed.
    pub(super) fn miss_nothing(&mut self, nic: u32, family: Family) {
        let here = |key: &Key| (key.nic, key.family) == (nic, family);
        for (_, entry) in self.table.values_mut().filter(|(key, _)| here(key)) {
            entry.value.others.values_mut().for_each(|(_, sender)| sender.value.missed = None);
        }
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

    /// Those of which this node means to be the owner, and says nothing.
    pub(super) fn silent(&self) -> impl Iterator<Item = &Key> {
        self.silent.iter()
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
            let times = [lifetime(sender.value.advert.interval), MEMORY];
            // Until then, it is not over yet.
            times.map(|time| sender.last.saturating_add(time).saturating_add(INSTANT))
        };
        senders.flat_map(ends).filter(|end| *end > after).min()
    }

    /// When the adverts of this node are overdue: before anybody else makes itself owner.
    fn silent_at(&self, key: Key, router: &Router) -> Option<Duration> {
        let (_, own) = router.own.as_ref().filter(|(_, own)| own.value.advert.priority != 0)?;
        let able = self.able.get(&key.nic)?;
        Some(own.last.max(*able).saturating_add(own.value.advert.interval * 5 / 2))
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
                    .flat_map(|(_, entry)| entry.value.intervals(now))
                    .min()
            })
            .min()
    }

    fn is_outranked(&self, nic: u32, now: Duration) -> bool {
        self.routers.ours().any(|(key, router)| {
            key.nic == nic && self.means_to_own(router) && router.is_outranked(now)
        })
    }

    /// Whether this node has said that it owns a router, and has not given its addresses up.
    fn means_to_own(&self, router: &Router) -> bool {
        router.own.as_ref().is_some_and(|(_, own)| {
            own.value.advert.priority != 0
                && own.value.advert.addresses.iter().any(|ip| self.world.vips.is_wanted(*ip))
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
        let mut live = BTreeSet::new();
        for (key, router) in self.routers.ours() {
            if let Some((_, own)) = router.own.as_ref().filter(|(_, own)| own.is_live(now)) {
                live.extend(own.value.advert.addresses.iter().copied());
                let daemons = self.world.daemons.keys();
                live.extend(daemons.flat_map(|pid| self.world.excluded(*pid, key.router_id)));
            }
        }
        let lapsed: Vec<IpAddr> = self
            .world
            .vips
            .witnessed()
            .filter(|ip| !live.contains(ip) && !self.is_at_home(*ip))
            .collect();
        for ip in lapsed {
            self.world.vips.lapse(ip);
        }
        self.give_up_what_another_owns(now);
    }

    /// What an earlier vipshield left for a daemon was given up while no vipshield ran, if another node has been
    /// its owner for a while and this one says nothing.
    fn give_up_what_another_owns(&mut self, now: Duration) {
        let inherited = self.world.vips.inherited();
        let owned = inherited.filter_map(|ip| Some((ip, self.routers.another_owner(ip, now)?)));
        for (ip, owner) in owned.collect::<Vec<_>>() {
            let text = format!(
                "{ip} was left by an earlier vipshield; {owner} sends adverts for it, and this node sends none: \
                 its daemon has given it up"
            );
            tell(&mut self.actions, Weight::Warning, None, text);
            self.world.vips.give_up_inherited(ip);
        }
    }
}
