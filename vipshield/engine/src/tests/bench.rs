//! The bench: a node, a guard, a daemon and the engine between them, on virtual time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use vipshield_common::guard::withhold;

use super::{
    super::{
        Action, Address, Answers, Carried, Config, Daemon, Detours, Engine, EngineStatus, Event,
        Family, Filter, Health, Heard, Intent, LetPass, NicStatus, OnStop, Opening, OwnRules,
        Phase, Place, Plan, Received, Shunt, carry::detours,
    },
    guard::{Guard, View},
    keepalived::Keepalived,
    kube_ovn::{Sequence, Step},
    node::{Datapath, Message, NIC, NIC_INDEX, Node, Op, VIP, address},
};
use crate::wire::{Content, Frame};

/// The engine's deadline in these tests.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);
/// Netlink port of the daemon's command socket.
pub(super) const COMMAND_PORT: u32 = 1234;
/// Netlink port of replayed removals.
pub(super) const REPLAY_PORT: u32 = 4242;
/// An address of vipshield's own.
pub(super) const OWN: &str = "169.254.52.52";
/// Netlink port of vipshield's other requests.
pub(super) const OTHER_PORT: u32 = 4343;
/// What is carried ends by itself after this time.
const LIFETIME: Duration = Duration::from_secs(4);
/// No scenario here wants more than this of the engine in one moment.
const ENOUGH: usize = 200;

/// Something that must not stay hidden from the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Untrue {
    /// It takes the link for good, and the link is not.
    Link(u32),
    /// It believes the NIC has this address, and no interface has it.
    Address(u32, IpAddr),
}

/// See the [module](self).
#[expect(clippy::struct_excessive_bools, reason = "each makes something of the node otherwise")]
pub(super) struct Bench {
    pub(super) node: Node,
    pub(super) guard: Guard,
    pub(super) daemon: Option<Keepalived>,
    pub(super) engine: Engine,
    pub(super) now: Duration,
    /// Everything the engine asked for, with when.
    pub(super) log: Vec<(Duration, Action)>,
    /// Everything the engine was told, with when.
    pub(super) told: Vec<(Duration, Event)>,
    /// Which actions fail.
    pub(super) fails: fn(&Action) -> bool,
    /// Events reach the engine.
    pub(super) heard: bool,
    /// What rtnetlink says is lost on its way.
    pub(super) deaf: bool,
    /// What the guard reports is lost on its way.
    pub(super) unreported: bool,
    /// What a probe received is told before the watch's word of the same advert.
    pub(super) received_first: bool,
    /// The plans in force, the empty ones left out.
    pub(super) carried: BTreeMap<u32, Plan>,
    /// The rules in force.
    pub(super) detours: Detours,
    pub(super) shunts: BTreeMap<u32, Shunt>,
    /// Interfaces that are watched.
    pub(super) watched: BTreeSet<u32>,
    pub(super) watched_addresses: BTreeSet<IpAddr>,
    /// By NIC; those that answer nothing are left out.
    pub(super) answers: BTreeMap<u32, Answers>,
    /// By NIC: how VRRP sockets are opened anew; and whether the kernel lets that be seen to.
    pub(super) openings: BTreeMap<u32, Opening>,
    pub(super) corrects: bool,
    /// Sockets like the daemon's, with the groups that they joined; and whether a firewall keeps all from
    /// them.
    pub(super) probes: BTreeMap<(u32, Family), BTreeSet<IpAddr>>,
    pub(super) firewall: bool,
    /// NICs that have a stand-in for their address.
    pub(super) stood_in: BTreeSet<u32>,
    /// How much longer than the deadline something may stay hidden.
    pub(super) grace: Duration,
    /// The policies of an engine that is gone, on the guard that a daemon's socket still carries.
    left: BTreeMap<u32, String>,
    /// The addresses of which it had withheld that they left.
    withheld: BTreeMap<u32, BTreeSet<Address>>,
    /// When that was.
    killed: Duration,
    /// Requests are numbered.
    sequence: u32,
    untrue: BTreeMap<Untrue, Duration>,
}

/// Guards [`NIC`].
pub(super) fn engine() -> Engine {
    engine_for(&[NIC])
}

/// Guards these NICs; with none, those that daemons use.
pub(super) fn engine_for(nics: &[&str]) -> Engine {
    Engine::new(Config {
        interfaces: nics.iter().map(|nic| (*nic).to_owned()).collect(),
        deadline: DEADLINE,
        replay_port: REPLAY_PORT,
        own_addresses: vec![OWN.parse().unwrap()],
        on_stop: OnStop::Release,
        rules: OwnRules::default(),
        observe: false,
    })
}

/// The first engine, but that it leaves things as they are at its end.
pub(super) fn keeping() -> Engine {
    let mut engine = engine();
    engine.config.on_stop = OnStop::Keep;
    engine
}

impl Bench {
    /// A node with a daemon and an engine that has just begun.
    pub(super) fn new(datapath: Datapath) -> Self {
        let mut bench = Self::unshielded(datapath);
        bench.begin();
        bench
    }

    /// The same before the engine begins.
    pub(super) fn unshielded(datapath: Datapath) -> Self {
        let node = Node::new(datapath);
        Self {
            daemon: Some(Keepalived::start(700, &node, NIC)),
            node,
            guard: Guard::default(),
            engine: engine(),
            now: Duration::from_secs(100),
            log: Vec::new(),
            told: Vec::new(),
            fails: |_| false,
            heard: true,
            deaf: false,
            unreported: false,
            received_first: false,
            carried: BTreeMap::new(),
            detours: Detours::new(),
            shunts: BTreeMap::new(),
            watched: BTreeSet::new(),
            watched_addresses: BTreeSet::new(),
            answers: BTreeMap::new(),
            openings: BTreeMap::new(),
            corrects: false,
            probes: BTreeMap::new(),
            firewall: false,
            stood_in: BTreeSet::new(),
            grace: Duration::ZERO,
            left: BTreeMap::new(),
            withheld: BTreeMap::new(),
            killed: Duration::ZERO,
            sequence: 0,
            untrue: BTreeMap::new(),
        }
    }

    /// A node whose daemon has just become owner.
    pub(super) fn owner_of_vip(datapath: Datapath) -> Self {
        let mut bench = Self::unshielded(datapath);
        bench.node.apply(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
        bench.begin();
        bench.daemon_asks(address(VIP), true);
        bench
    }

    /// A new engine that looks at everything: what vipshield does when it starts.
    pub(super) fn begin(&mut self) {
        self.begin_with(engine());
    }

    /// The same with this one.
    pub(super) fn begin_with(&mut self, engine: Engine) {
        self.engine = engine;
        self.heard = true;
        let mut names = std::mem::take(&mut self.left);
        // The maps of a guard that no socket carries are gone.
        names.retain(|_, _| self.daemon.as_ref().is_some_and(|it| it.filter == Filter::Stale));
        if self.now >= self.killed.saturating_add(LIFETIME) {
            self.carried.clear();
        }
        let nics: BTreeSet<u32> = self.carried.keys().chain(&self.stood_in).copied().collect();
        let found = |nic: u32| {
            let plans = self.carried.get(&nic).cloned().into_iter().collect();
            (nic, Carried { plans, stands_in: self.stood_in.contains(&nic) })
        };
        let nics = nics.into_iter().map(found).collect();
        self.feed(Event::Carried { nics });
        let held = std::mem::take(&mut self.withheld);
        self.feed(Event::Inherited { names, held });
        self.feed(self.node.snapshot());
        self.scan();
        self.sweep();
    }

    /// Another engine takes over from this one, which knows what this one writes down for it.
    pub(super) fn hand_over(&mut self) {
        assert!(self.engine.may_hand_over(self.now), "something is under way");
        let told = serde_json::to_string(&self.engine.hand_over()).unwrap();
        let on_stop = self.engine.config.on_stop;
        self.kill_engine();
        self.engine.config.on_stop = on_stop;
        self.heard = true;
        let from = serde_json::from_str(&told).unwrap();
        self.feed(Event::TakenOver { from });
        let engine = std::mem::replace(&mut self.engine, engine());
        self.begin_with(engine);
    }

    /// What is carried for nobody is taken back.
    fn sweep(&mut self) {
        let in_force = self.engine.in_force();
        let is_in_force = |nic: &u32| in_force.get(nic).is_some_and(|it| !it.plans.is_empty());
        self.carried.retain(|nic, _| is_in_force(nic));
        if in_force.values().all(|carried| carried.plans.is_empty()) {
            self.detours.clear();
        }
        self.stood_in.retain(|nic| in_force.get(nic).is_some_and(|carried| carried.stands_in));
    }

    /// vipshield is gone without a word: nothing is withheld any more.
    pub(super) fn kill_engine(&mut self) {
        self.heard = false;
        self.engine = engine();
        self.probes.clear();
        let guard = std::mem::take(&mut self.guard);
        self.withheld = guard.held();
        let policies = guard.policies;
        self.left = policies.into_iter().map(|(ifindex, (name, ..))| (ifindex, name)).collect();
        self.killed = self.now;
        self.shunts.clear();
        self.watched.clear();
        self.watched_addresses.clear();
        self.answers.clear();
        let filters = self.daemon.iter_mut().flat_map(|d| [&mut d.filter, &mut d.listened]);
        for filter in filters.filter(|filter| **filter == Filter::Guard) {
            *filter = Filter::Stale;
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.status().health == Health::Healthy
    }

    /// Daemons are looked for.
    pub(super) fn scan(&mut self) {
        self.scanned(self.found());
    }

    /// The daemons as a scan finds them.
    pub(super) fn found(&self) -> Vec<Daemon> {
        self.daemon.iter().map(Keepalived::found).collect()
    }

    /// A scan has found these.
    pub(super) fn scanned(&mut self, daemons: Vec<Daemon>) {
        self.feed(Event::Daemons { daemons });
    }

    /// Lets the time go by, with a tick whenever the engine wants one.
    pub(super) fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while self.heard
            && let Some(deadline) = self.engine.next_deadline().filter(|at| *at <= until)
        {
            self.now = self.now.max(deadline);
            self.feed(Event::Tick);
            let next = self.engine.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a busy loop: {next:?}");
        }
        self.now = until;
        self.audit();
    }

    /// Carries out steps, each in its time.
    pub(super) fn run(&mut self, steps: &[Step]) {
        for step in steps {
            self.advance(step.takes);
            self.change(&step.op);
        }
    }

    /// The steps of a sequence as things now are.
    /// A bridge appears: it may take a NIC next.
    pub(super) fn expect_transition(&mut self) {
        self.change(&Op::AddBridge(format!("br-{}", self.node.links.len())));
    }

    pub(super) fn steps(&self, sequence: Sequence) -> Vec<Step> {
        sequence.steps(&self.node)
    }

    /// The daemon is gone, if there was one, and a new one has begun and is found.
    pub(super) fn restart_daemon(&mut self, pid: u32) {
        self.feed(Event::Turnover);
        self.daemon = Some(Keepalived::start(pid, &self.node, NIC));
        self.scan();
    }

    /// The daemon reads its configuration again, and is looked at as often as after any change.
    pub(super) fn reload_daemon(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.open(&self.node, self.openings.get(&NIC_INDEX).filter(|_| self.corrects));
        }
        self.scan();
        // The last of the looks that follow a reload.
        self.advance(Duration::from_millis(400));
        self.scan();
    }

    /// A whole sequence, and a while for things to settle.
    pub(super) fn sequence(&mut self, sequence: Sequence) {
        self.run(&self.steps(sequence));
        self.advance(3 * DEADLINE);
    }

    /// Changes the node now: every message is judged before userspace runs.
    pub(super) fn change(&mut self, op: &Op) {
        if let Op::RemoveAddress(_, address, COMMAND_PORT) = op {
            self.daemon_knows_gone(*address);
        }
        let messages = self.node.apply(op);
        let events = self.broadcast(&messages);
        for event in events {
            self.feed(event);
        }
        self.audit();
    }

    /// The daemon asks for an address, or for its removal, where it believes its NIC is.
    pub(super) fn daemon_asks(&mut self, address: Address, wanted: bool) {
        let there = self.node.addresses.get(&NIC_INDEX).is_some_and(|all| all.contains(&address));
        if there != wanted {
            let messages = self.node.ask(NIC_INDEX, address, wanted, COMMAND_PORT);
            let events = self.broadcast(&messages);
            for event in events {
                self.feed(event);
            }
            return self.audit();
        }
        if !wanted {
            self.daemon_knows_gone(address);
        }
        let Some(daemon) = &mut self.daemon else { return };
        if daemon.listened == Filter::Guard {
            self.sequence += 1;
            let sequence = self.sequence;
            let port = COMMAND_PORT;
            let ifindex = NIC_INDEX;
            let intent = Intent { port, sequence, ifindex, address, wanted, refused: true };
            self.feed(Event::Intent { intent });
        }
        self.audit();
    }

    /// Nobody has to tell the daemon what it asked for itself.
    pub(super) fn daemon_knows_gone(&mut self, address: Address) {
        let view = self.daemon.as_mut().map(|daemon| &mut daemon.view.addresses);
        if let Some(known) = view.and_then(|all| all.get_mut(&NIC_INDEX)) {
            known.remove(&address.ip);
        }
    }

    /// A process with the port that daemons have here puts an address on a link.
    pub(super) fn daemon_asks_on(&mut self, index: u32, address: Address) {
        let messages = self.node.ask(index, address, true, COMMAND_PORT);
        let events = self.broadcast(&messages);
        for event in events {
            self.feed(event);
        }
    }

    /// The daemon's process is gone.
    pub(super) fn kill_daemon(&mut self) {
        self.daemon = None;
        self.scan();
    }

    /// On which links an address is.
    pub(super) fn places(&self, address: Address) -> Vec<String> {
        let all = self.node.addresses.iter().filter(|(_, all)| all.contains(&address));
        all.map(|(index, _)| self.node.links[index].name.clone()).collect()
    }

    pub(super) fn feed(&mut self, event: Event) {
        if !self.heard {
            return;
        }
        let received = self.receive(&event);
        let mut events: VecDeque<Event> = [event].into_iter().chain(received).collect();
        if self.received_first {
            events.rotate_left(1);
        }
        let mut asked = 0;
        while let Some(event) = events.pop_front() {
            self.told.push((self.now, event.clone()));
            self.engine.handle(event, self.now);
            while let Some(action) = self.engine.poll_action() {
                asked += 1;
                assert!(asked < ENOUGH, "no end of actions, the last of them {action:?}");
                self.log.push((self.now, action.clone()));
                if matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                    continue;
                }
                if (self.fails)(&action) {
                    let error = "made to fail".to_owned();
                    events.push_back(Event::Failed { action, error });
                    continue;
                }
                let result = self.carry_out(&action);
                events.push_back(match &result {
                    Ok(_) => Event::Succeeded { action },
                    Err(error) => Event::Failed { action, error: (*error).to_owned() },
                });
                events.extend(result.unwrap_or_default());
            }
        }
    }

    /// What sockets like the daemon's receive of what the watch hears.
    fn receive(&self, event: &Event) -> Option<Event> {
        let Event::Heard { frames } = event else { return None };
        let mut adverts = Vec::new();
        for Heard { sent, frame, .. } in frames {
            let Ok(Frame { content: Content::Advert(advert), vlan: None, .. }) = frame else {
                continue;
            };
            let to = advert.destination;
            let hears = |probe: &(&(u32, Family), &BTreeSet<IpAddr>)| {
                probe.0.1 == Family::of(to) && (!to.is_multicast() || probe.1.contains(&to))
            };
            let probes = self.probes.iter().filter(|probe| !sent && !self.firewall && hears(probe));
            adverts.extend(probes.map(|((ifindex, _), _)| Received {
                ifindex: *ifindex,
                source: advert.source,
                router_id: advert.router_id,
            }));
        }
        (!adverts.is_empty()).then_some(Event::Received { adverts })
    }

    /// To the daemon, if its guard lets it pass, and to vipshield.
    pub(super) fn broadcast(&mut self, messages: &[Message]) -> Vec<Event> {
        let mut withheld = Vec::new();
        for message in messages {
            let Some(daemon) = &mut self.daemon else { continue };
            let verdict = if daemon.filter == Filter::Guard {
                self.guard.judge(message, daemon.pid)
            } else {
                None
            };
            match verdict {
                Some(message) => withheld.push(Event::Withheld { message }),
                None => daemon.learn(message, &self.node),
            }
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let heard = messages.iter().filter(|_| !self.deaf);
        withheld.retain(|_| !self.unreported);
        heard.flat_map(|message| message.events(sequence)).chain(withheld).collect()
    }

    /// Nothing that must not be hidden is hidden for longer than the deadline, and the rules in force
    /// are those that the plans in force need.
    fn audit(&mut self) {
        let place = |family| self.detours.get(&family).map(|detour| detour.place);
        let place = |family| place(family).or(Some(Place::default()));
        let needed = detours(&self.carried.values().collect::<Vec<_>>(), place);
        assert_eq!(self.detours, needed, "{:?}", self.carried);
        if self.grace == Duration::ZERO {
            assert_eq!(self.engine.audit.overdue, 0, "the engine's own audit");
        }
        let untrue = self.untrue();
        let known = self.engine.audit.untrue();
        for what in untrue.iter().filter(|_| self.heard && self.grace == Duration::ZERO) {
            let is_known = known.iter().any(|(ifindex, address)| match what {
                Untrue::Link(link) => address.is_none() && link == ifindex,
                Untrue::Address(nic, ip) => {
                    nic == ifindex && address.is_some_and(|address| address.ip == *ip)
                }
            });
            assert!(
                is_known,
                "BELIEF {what:?} {known:?} {:?}",
                self.engine.nics.values().map(|n| (n.phase, &n.belief)).collect::<Vec<_>>()
            );
        }
        self.untrue.retain(|known, _| untrue.contains(known));
        for new in untrue {
            self.untrue.entry(new).or_insert(self.now);
        }
        for (what, since) in &self.untrue {
            assert!(
                self.now <= (*since + DEADLINE).saturating_add(self.grace),
                "{what:?} is hidden since {since:?}, and now it is {:?}",
                self.now
            );
        }
    }

    fn untrue(&self) -> BTreeSet<Untrue> {
        let mut untrue = BTreeSet::new();
        let guarded = self.daemon.as_ref().filter(|daemon| daemon.filter == Filter::Guard);
        let Some(daemon) = guarded else { return untrue };
        for (ifindex, (name, ..)) in &self.guard.policies {
            let Some(link) = self.node.links.get(ifindex) else { continue };
            // A name is not a failure, unless another NIC has it (decision 6).
            let usurped = self.node.links.values().any(|other| {
                other.name == *name && other.ifindex != *ifindex && !other.is_bridge()
            });
            let works = link.up && link.running && !usurped;
            if daemon.view.trusts(*ifindex, name) && !works {
                untrue.insert(Untrue::Link(*ifindex));
            }
            let believed = daemon.view.addresses.get(ifindex).into_iter().flatten();
            for ip in believed.filter(|ip| !self.node.has_somewhere(**ip)) {
                untrue.insert(Untrue::Address(*ifindex, *ip));
            }
        }
        untrue
    }

    pub(super) fn status(&self) -> EngineStatus {
        self.engine.status(self.now)
    }

    /// The only guarded NIC.
    pub(super) fn nic(&self) -> NicStatus {
        let nics = self.status().nics;
        assert_eq!(nics.len(), 1, "{nics:?}");
        nics.into_iter().next().unwrap()
    }

    pub(super) fn phase(&self) -> Phase {
        self.nic().phase
    }

    pub(super) fn keepalived(&self) -> &Keepalived {
        self.daemon.as_ref().unwrap()
    }

    /// What is left once all is quiet: phase, bearer, policies and bindings.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome {
            nics: self
                .status()
                .nics
                .into_iter()
                .map(|nic| (nic.name, nic.phase, nic.bearer.map(|bearer| bearer.name)))
                .collect(),
            policies: self.guard.policies.clone(),
            bound: self.daemon.as_ref().map(|daemon| daemon.bound),
            filter: self.daemon.as_ref().map(|daemon| daemon.filter),
        }
    }

    /// What the engine asked for since the log had `from` entries, without words to the operator.
    pub(super) fn asked(&self, from: usize) -> impl Iterator<Item = &(Duration, Action)> {
        self.log[from..].iter().filter(|(_, action)| !matches!(action, Action::Tell { .. }))
    }

    /// What the daemon was told of failures, and of addresses that are gone.
    pub(super) fn releases(&self) -> impl Iterator<Item = Action> + '_ {
        self.log.iter().map(|(_, action)| action.clone()).filter(|action| {
            matches!(action, Action::ResyncLink { .. } | Action::ReplayRemoval { .. })
        })
    }

    pub(super) fn released(&self) -> bool {
        self.releases().next().is_some()
    }

    /// Whether the guard withholds the loss of the NIC's carrier.
    pub(super) fn hides_carrier_loss(&self) -> bool {
        self.guard.policies.values().any(|(_, bits, _)| bits & withhold::CARRIER_LOSS != 0)
    }

    /// Whether the daemon takes all to be as it was at the start.
    pub(super) fn is_calm(&self) -> bool {
        let view = &self.keepalived().view;
        let start = View::of(&Node::new(self.node.datapath));
        view.trusts(NIC_INDEX, NIC)
            && start.addresses[&NIC_INDEX].iter().all(|ip| view.has(NIC_INDEX, *ip))
    }
}

/// See [`Bench::outcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    nics: Vec<(String, Phase, Option<String>)>,
    policies: BTreeMap<u32, (String, u32, LetPass)>,
    bound: Option<[u32; 2]>,
    filter: Option<Filter>,
}
