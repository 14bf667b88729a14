//! The rules engine: decides what guarded daemons get to see, and where their VRRP sockets are.
//!
//! It does no I/O. Hand it what was seen with [`Engine::handle`], take what is to be done with
//! [`Engine::poll_action`], and wake it with [`Event::Tick`] at [`Engine::next_deadline`]. Time is
//! an argument: the monotonic time since some fixed moment. It never panics and never fails.
//!
//! It is level-triggered: every decision follows from the whole observed [`World`] and from what
//! was already asked for, so that starting in the middle of a transition, or losing an event, is
//! an ordinary case.

mod action;
mod announce;
mod audit;
mod belief;
mod carry;
mod claims;
mod configuration;
mod daemons;
mod ending;
mod event;
mod failed;
mod find;
mod grants;
mod handover;
mod health;
mod heard;
mod heeding;
mod in_force;
mod intake;
mod left;
mod missing;
mod names;
mod nic;
mod notice;
mod own;
mod pairs;
pub mod pattern;
mod phase;
mod probe;
pub mod record;
pub mod replay;
mod rest;
mod roster;
mod routers;
pub mod rules;
mod settings;
mod sourced;
mod speakers;
mod status;
#[cfg(test)]
#[expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests are no engine"
)]
mod tests;
mod unseen;
mod users;
mod vips;
mod warnings;
mod watch;
pub mod wire;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

pub use self::{
    action::Action,
    belief::Believed,
    carry::{Carried, Detour, Detours, Plan, Route, Shunt, Trigger},
    configuration::Config,
    ending::OnStop,
    event::{About, Event, Withheld},
    handover::Handover,
    health::Health,
    heard::Heard,
    names::Opening,
    nic::{BOUNDS as TRANSITION_BOUNDS, Transitions},
    notice::{Notice, Weight},
    own::{LetPass, Message, OwnRule, OwnRules, Pass, Scope, Tell, Truth, VipRole},
    phase::{Phase, Signs, derive},
    probe::Received,
    speakers::Speaker,
    status::{
        ClaimStatus, ClaimantStatus, DaemonStatus, EngineStatus, Interface, NicStatus,
        RouterStatus, SenderStatus, VipStatus, VrrpStatus,
    },
    vips::Intent,
    watch::Answers,
    world::{
        Address, CommandSocket, Daemon, Excluded, Family, Filter, Link, MonitorSocket, Place, Role,
        Rule, RuleKind, SocketId, VrrpSocket, World, refusal,
    },
};
use self::{
    announce::Announcer,
    audit::Audit,
    belief::OfDaemons,
    claims::Claims,
    ending::{AWAITED, Ending},
    failed::Failure,
    grants::Grants,
    heard::Tally,
    heeding::Strangers,
    left::Left,
    names::Names,
    nic::{Nic, Overdue},
    probe::Probes,
    rest::Rest,
    routers::{Patience, Routers},
    settings::{Applied, urgency},
    status::Counts,
    unseen::Unseen,
};

/// After a daemon was seen to start or to end, a port has a stand-in for its address for so long:
/// keepalived waits some seconds before it starts a process again that ended more than once.
const TURNOVER: Duration = Duration::from_secs(10);

/// So many truths are told at a time: what else is due has its turn in between.
const TRUTHS_AT_A_TIME: usize = 64;

/// What is heard of an IPv6 address within this time after its loss was said again is that.
const FLASH: Duration = Duration::from_millis(500);

/// The engine. See the [module](self).
#[derive(Debug)]
pub struct Engine {
    config: Config,
    /// What takes its place once daemons have been told all that is untrue.
    next_config: Option<Config>,
    world: World,
    nics: BTreeMap<u32, Nic>,
    /// The rules by which all NICs are carried for, as last asked for; none if what there is is not known.
    detours: Option<Detours>,
    /// What took the addresses of NICs that are guarded no longer.
    takers: BTreeMap<u32, BTreeSet<u32>>,
    /// What a vipshield before this one has left.
    left: Left,
    /// IPv6 addresses whose loss was said again, on which interface, and until when to expect to hear
    /// of it.
    flashes: Vec<(u32, Address, Duration)>,
    /// IPv6 addresses that were granted.
    grants: Grants,
    actions: VecDeque<Action>,
    failed: BTreeMap<Action, Failure>,
    /// Actions under way.
    pending: BTreeSet<Action>,
    /// Addresses that are to be taken off interfaces, and have not had their turn.
    leaving: BTreeSet<(u32, Address)>,
    /// What single daemons were told; what all were is in [`Nic`].
    told: OfDaemons,
    /// Where VRRP sockets were bound when they were first seen; none for those that an earlier
    /// vipshield may have moved.
    made: BTreeMap<SocketId, Option<u32>>,
    /// Where VRRP sockets were put, none if on no interface, and where they were known to be members of VRRP's group
    /// by then.
    placed: BTreeMap<SocketId, (Option<u32>, Option<u32>)>,
    /// What daemons know of names.
    names: Names,
    /// None if the last look at the daemons did not fail.
    unseen: Option<Unseen>,
    /// They were looked at once.
    looked: bool,
    /// Who speaks VRRP here and is none of them.
    speakers: Vec<Speaker>,
    /// A guarded daemon has used a guarded NIC.
    engaged: bool,
    /// What was told last of how all is, [`Health::Degraded`] left out.
    told_health: Option<Health>,
    /// What is set.
    applied: Applied,
    /// Things an operator was told of and need not be told again.
    mentioned: BTreeSet<String>,
    /// Virtual routers on the wire.
    routers: Routers,
    /// Whether daemons hear their adverts.
    probes: Probes,
    /// Those of other clusters among them.
    strangers: Strangers,
    /// Who claims their addresses.
    claims: Claims,
    tally: Tally,
    /// When the last bridge appeared that may take a NIC next.
    bridge_since: Option<Duration>,
    /// A daemon may start and read what is there, until then.
    turnover_until: Option<Duration>,
    /// Where VIPs are, and what is to be said of that.
    announcer: Announcer,
    /// Whether daemons were told in time.
    audit: Audit,
    /// VIPs that are nowhere though a daemon here owns them, since when.
    missing_since: BTreeMap<IpAddr, Duration>,
    /// Whether what concerns no NIC needs no look at everything.
    rest: Rest,
    /// When everything was looked at last: what was due by then is done, or will be tried again.
    evaluated: Duration,
    started: bool,
    ending: Ending,
    counts: Counts,
}

impl Engine {
    /// An engine that has seen nothing yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            next_config: None,
            world: World::default(),
            nics: BTreeMap::new(),
            detours: Some(Detours::new()),
            takers: BTreeMap::new(),
            left: Left::default(),
            flashes: Vec::new(),
            grants: Grants::default(),
            actions: VecDeque::new(),
            failed: BTreeMap::new(),
            pending: BTreeSet::new(),
            leaving: BTreeSet::new(),
            told: OfDaemons::default(),
            made: BTreeMap::new(),
            placed: BTreeMap::new(),
            names: Names::default(),
            unseen: None,
            looked: false,
            speakers: Vec::new(),
            engaged: false,
            told_health: None,
            applied: Applied::default(),
            mentioned: BTreeSet::new(),
            bridge_since: None,
            routers: Routers::default(),
            probes: Probes::default(),
            strangers: Strangers::default(),
            claims: Claims::default(),
            tally: Tally::default(),
            turnover_until: None,
            announcer: Announcer::default(),
            audit: Audit::default(),
            missing_since: BTreeMap::new(),
            rest: Rest::default(),
            evaluated: Duration::ZERO,
            started: false,
            ending: Ending::No,
            counts: Counts::default(),
        }
    }

    /// Takes in what was seen at `now`.
    pub fn handle(&mut self, event: Event, now: Duration) {
        self.handle_all([event], now);
    }

    /// The same for all that was seen by `now`, in this order, before anything is decided.
    pub fn handle_all(&mut self, events: impl IntoIterator<Item = Event>, now: Duration) {
        let asked_before = self.actions.len();
        let mut news = false;
        for event in events {
            if self.is_ending() {
                self.at_the_end(event);
            } else {
                news |= self.take_in(event, now);
            }
        }
        let must_end = self.must_end(now);
        if self.started && !must_end && !self.is_ending() {
            self.look(news, now);
            self.urgent_first(asked_before);
        }
        if must_end || self.may_end(now) {
            self.let_go(now);
        }
    }

    /// Each action behind the first `before` stays behind those that were asked for before it, but for what is
    /// more urgent.
    fn urgent_first(&mut self, before: usize) {
        let mut asked = self.actions.split_off(before.min(self.actions.len()));
        asked.make_contiguous().sort_by_key(urgency);
        self.actions.append(&mut asked);
    }

    /// The next thing to do, if there is any.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Tick`] is due, if at all.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.is_ending() || !self.started {
            return None;
        }
        self.nics
            .values()
            .flat_map(|nic| {
                let carry = nic.next_carry().filter(|at| *at > self.evaluated);
                let deadlines = self.deadlines(nic, self.patience(nic.ifindex).deadline);
                [nic.next_deadline(deadlines), carry]
            })
            .flatten()
            .chain(self.bridge_since.map(|at| at.saturating_add(AWAITED)))
            .chain(self.turnover_until)
            .chain(self.next_retry())
            .chain(self.world.vips.next_deadline())
            .chain(self.routers.next_deadline(self.evaluated))
            .chain(self.claims.next_deadline(self.evaluated))
            .chain(self.probes.next_deadline())
            .chain(self.announcer.next_deadline())
            .chain(self.grants.next_deadline())
            .chain(self.next_disuse(self.evaluated))
            .chain(self.next_overdue())
            .chain(self.end())
            // What is due then is not done.
            .filter(|at| !self.config.observe || *at > self.evaluated)
            .min()
    }

    /// Asks for an action, unless the same is under way or has just failed, or nothing may be put on the
    /// node yet. False: not now.
    fn want(&mut self, action: Action) -> bool {
        if self.config.observe && !action.only_looks()
            || self.pending.contains(&action)
            || self.is_too_early(&action)
            || self.is_put_off(&action)
        {
            return false;
        }
        self.pending.insert(action.clone());
        self.actions.push_back(action);
        true
    }

    /// Tells the operator something once for as long as vipshield runs.
    fn mention(&mut self, nic: Option<&str>, text: String) {
        if self.mentioned.insert(text.clone()) {
            tell(&mut self.actions, Weight::Warning, nic, text);
        }
    }

    fn evaluate(&mut self, now: Duration) {
        self.evaluated = now;
        self.take_configuration();
        let again = self.retries(now);
        self.bridge_since = self.bridge_since.filter(|at| at.saturating_add(AWAITED) > now);
        self.turnover_until = self.turnover_until.filter(|until| *until > now);
        self.world.vips.expire(now);
        self.find_nics(now);
        self.recognise_bearers();
        self.find_users(now);
        self.learn_patience(now);
        self.listen(now);
        let indexes: Vec<u32> = self.nics.keys().copied().collect();
        for ifindex in indexes {
            self.evaluate_nic(ifindex, now);
        }
        self.restore_routes(now);
        self.settle_vips();
        self.restore_vips(now);
        self.mind_silence(now);
        self.find_strangers(now);
        self.find_conflicts(now);
        self.announce(now);
        self.rebind();
        self.reconcile(now);
        self.guard_daemons();
        self.introduce(now);
        self.disclose();
        self.inform();
        self.warn(now);
        for action in again {
            if self.is_still_owed(&action) {
                self.want(action);
            }
        }
        self.settle_failures();
        self.audit(now);
        self.tell_health(now);
    }

    fn evaluate_nic(&mut self, ifindex: u32, now: Duration) {
        let patience = self.patience(ifindex);
        let Some(nic) = self.nics.get_mut(&ifindex) else { return };
        let bearer = nic.bearer;
        let was = nic.observe(&self.world, patience.deadline, now);
        let Some(nic) = self.nics.get(&ifindex) else { return };
        let mut overdue = nic.overdue(self.deadlines(nic, patience.now()), now);
        let Some(nic) = self.nics.get_mut(&ifindex) else { return };
        overdue.truncate(TRUTHS_AT_A_TIME);
        if !overdue.is_empty() {
            for truth in &overdue {
                nic.settle(*truth);
            }
            if self.config.observe {
                overdue.clear();
            }
            nic.released += overdue.len() as u64;
            // With the truth told, the phase is another one.
            nic.observe(&self.world, patience.deadline, now);
        }
        if nic.bearer != bearer {
            let text = match nic.bearer {
                Some(to) if to == ifindex => "the NIC carries its own traffic again".to_owned(),
                Some(to) => {
                    format!("the NIC's traffic now goes through {}", self.world.name_of(to))
                }
                None => "the NIC is a port, but of which bridge cannot be told yet".to_owned(),
            };
            tell(&mut self.actions, Weight::Info, Some(&nic.name), text);
        }
        let (name, phase) = (nic.name.clone(), nic.phase);
        let owes_recovery = nic.recovered(&self.world);
        if let Some(was) = was.filter(|was| *was != phase) {
            let text = phase_story(nic, was, &self.world, now);
            let weight = if phase == Phase::Down { Weight::Warning } else { Weight::Info };
            tell(&mut self.actions, weight, Some(&name), text);
            if !phase.is_transition() {
                nic.withheld = 0;
                nic.released = 0;
            }
        }
        self.let_pass(ifindex);
        if owes_recovery {
            self.tell_recovery(&name);
        }
        self.show_addresses(ifindex);
        self.counts.released += overdue.len() as u64;
        for truth in overdue.drain(..) {
            self.tell_daemons(ifindex, &name, truth, patience);
        }
    }

    /// What the guard lets pass about a NIC because its daemons know it, or by rules of one's own.
    fn let_pass(&mut self, ifindex: u32) {
        let passes = self.nics.get(&ifindex).map(|nic| self.own_passes(nic));
        let names_known = self.nics.get(&ifindex).is_some_and(|nic| self.know_names(nic));
        if let Some((nic, passes)) = self.nics.get_mut(&ifindex).zip(passes) {
            nic.passes = passes;
            nic.names_known = names_known;
        }
    }

    /// The deadline has come: the daemons get to know.
    fn tell_daemons(&mut self, ifindex: u32, name: &str, truth: Overdue, patience: Patience) {
        let what = match truth {
            Overdue::Link => {
                self.all_informed(ifindex);
                "the link is not as it was".to_owned()
            }
            Overdue::Address(address) => match self.nics.get(&ifindex).and_then(Nic::cut_off) {
                Some(why) => format!("{address} is {why}"),
                None if self.world.is_deaf(ifindex, Family::of(address.ip)) => {
                    format!("{address} is where the daemons hear no adverts")
                }
                None => format!("{address} is on no interface"),
            },
        };
        let then = match truth {
            Overdue::Link => "the daemons are told",
            // Whether they were is said once they were.
            Overdue::Address(_) => "the kernel is to say so",
        };
        let why = self.why_now(ifindex, truth, patience);
        let text = format!("{what}, and {why}: {then}");
        tell(&mut self.actions, Weight::Warning, Some(name), text);
        let sockets = self.guarded_sockets();
        let nic = self.nics.get(&ifindex);
        for action in nic.map(|nic| nic.telling(truth, &sockets, &self.world)).into_iter().flatten()
        {
            self.want(action);
        }
    }

    /// Why daemons are told this now.
    fn why_now(&self, ifindex: u32, truth: Overdue, patience: Patience) -> String {
        let Some(nic) = self.nics.get(&ifindex) else { return patience.to_string() };
        let kind = match truth {
            Overdue::Link if nic.belief.is_passed() => {
                return "a rule of the configuration's has let them see it".to_owned();
            }
            Overdue::Link => Truth::Link,
            Overdue::Address(_) => Truth::Address,
        };
        match self.own_telling(nic, kind).filter(|rule| rule.of.after < patience.now()) {
            Some(rule) => {
                format!("{} ms have passed (rule {})", rule.of.after.as_millis(), rule.name)
            }
            None => patience.to_string(),
        }
    }

    /// The daemons were told of a failure that is over. Where names are exchanged, the NIC's own
    /// messages bear another name and are withheld: the interface that has the name now, the
    /// bridge, is what the daemons can use.
    fn tell_recovery(&mut self, name: &str) {
        let Some(ifindex) = self.world.link_named(name).map(|link| link.ifindex) else { return };
        for socket in self.guarded_sockets() {
            self.want(Action::ResyncLink { socket, ifindex });
        }
    }

    /// The daemons were told that an address is gone, and now the bridge has it: they do not look
    /// there, and would never know.
    fn show_addresses(&mut self, ifindex: u32) {
        let Some(nic) = self.nics.get_mut(&ifindex) else { return };
        let mut back = nic.take_back(&self.world);
        if self.config.observe {
            back.clear();
        }
        for address in back {
            let text = format!("{address} is back, on the bridge: the daemons are shown it");
            let name = self.nics.get(&ifindex).map(|nic| nic.name.as_str());
            tell(&mut self.actions, Weight::Info, name, text);
            if !self.guarded_sockets().is_empty() {
                self.want(Action::ShowAddress { ifindex, address: Some(address) });
            }
        }
    }

    /// The switches that a guarded NIC is a port of and that may cease to take new flows: the datapaths of
    /// Open vSwitch, which a process of its own has to tell about each. With each, whether it does, as last
    /// told ([`Event::Switch`]).
    #[must_use]
    pub fn switches(&self) -> BTreeMap<u32, bool> {
        let of = |ifindex: &u32| {
            let switch = self.world.taker(*ifindex).filter(|taker| taker.is_open_vswitch())?;
            Some((switch.ifindex, self.world.unserved_since(*ifindex).is_none()))
        };
        self.nics.keys().filter_map(of).collect()
    }

    /// Whether a NIC is on its way.
    #[must_use]
    pub fn in_transition(&self) -> bool {
        self.nics.values().any(|nic| nic.phase.is_transition())
    }

    /// What is in force for the NICs, which lasts only as long as it is renewed.
    pub fn carried(&self) -> impl Iterator<Item = (u32, &Plan)> {
        let plans = self
            .nics
            .values()
            .flat_map(|nic| nic.carried.plans().iter().map(|it| (nic.ifindex, it)));
        plans.filter(|(_, plan)| !plan.is_empty())
    }

    /// The NICs that have an address which stands in for their own. It lasts only as long as it is renewed, too.
    pub fn stood_in(&self) -> impl Iterator<Item = u32> {
        self.nics.keys().copied().filter(|ifindex| self.is_stood_in(*ifindex))
    }

    /// All that is in force on the NICs, or may be in part.
    #[must_use]
    pub fn in_force(&self) -> BTreeMap<u32, Carried> {
        let on = |nic: &Nic| {
            let plans = nic.carried.all().into_iter().filter(|plan| !plan.is_empty()).collect();
            (nic.ifindex, Carried { plans, stands_in: self.is_stood_in(nic.ifindex) })
        };
        self.nics.values().map(on).collect()
    }
}

/// The line that says why a phase began.
fn phase_story(nic: &Nic, was: Phase, world: &World, now: Duration) -> String {
    let bearer = nic.bearer.map_or_else(|| "no bridge".to_owned(), |b| world.name_of(b));
    let took = now.saturating_sub(nic.transition_since).as_millis();
    let sum = format!("{} messages withheld, {} truths told", nic.withheld, nic.released);
    match nic.phase {
        Phase::Free if was == Phase::Down => "the link works again".to_owned(),
        Phase::Free => format!("free again after {took} ms: its addresses are back; {sum}"),
        Phase::Leaving => "being taken: addresses are leaving, or the link changed".to_owned(),
        Phase::Bridged => format!("bridged after {took} ms: {bearer} has its addresses; {sum}"),
        Phase::Returning => "being given back: it is no port any more".to_owned(),
        Phase::Down => format!("down (it was {was}): the daemons know"),
    }
}

fn tell(actions: &mut VecDeque<Action>, weight: Weight, nic: Option<&str>, text: String) {
    let notice = Notice { weight, nic: nic.map(str::to_owned), text };
    actions.push_back(Action::Tell { notice });
}
