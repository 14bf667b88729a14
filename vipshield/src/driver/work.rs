//! The engine at work, a wake at a time.
//!
//! What was seen goes in, all that the engine wants of it is done, and what came of that goes in with what
//! is seen next. What a wake does is bounded: each source hands over so much at a time ([`Turn`]), the
//! engine wants so much at a time, and nothing more is begun once the wake has lasted for [`LONGEST`].

use std::{mem, time::Duration};

use log::debug;

use crate::{
    engine::{Action, Engine, Event, record::Entry},
    recording::Recorder,
};

/// Nothing more is begun in a wake that has lasted for so long. What is not done is tried again, by what
/// the world is like by then.
pub const LONGEST: Duration = Duration::from_secs(1);
/// An action that took so long may be why others came late.
const LONG: Duration = Duration::from_millis(5);
/// So often what came of actions may lead to further ones in one wake. The longest chain that one event
/// begins is shorter, unless it has no end, or there is very much to be done.
const FOLLOW_UPS: usize = 4;
/// What becomes of an action that is not begun.
const PUT_OFF: &str = "not begun: what had to be done before took too long";

/// How far an action has come.
#[derive(Debug)]
pub enum Done {
    /// It is done. This was seen in doing it, if that is news.
    Now(Option<Event>),
    /// Another thread is at it, and what comes of it is an event by itself.
    UnderWay,
}

/// Who carries out what the engine wants, and reads the clock.
#[expect(async_fn_in_trait, reason = "all is done in one thread")]
pub trait Hands {
    /// What stops the loop.
    type Error;

    /// The time, as the engine has it.
    fn now(&self) -> Result<Duration, Self::Error>;

    /// Carries out an action. The inner error is what the engine is told of one that failed.
    async fn carry_out(
        &mut self,
        engine: &Engine,
        action: &Action,
    ) -> Result<Result<Done, String>, Self::Error>;
}

/// What the end has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Sockets and VIPs stay as they are, for the next vipshield.
    pub kept: bool,
    /// So much could not be done.
    pub undone: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Work {
    /// The engine.
    pub engine: Engine,
    /// What it was told, and what it asked for.
    pub recorder: Recorder,
    /// What came of the last actions.
    results: Vec<Event>,
    /// When nothing more is begun in this wake, and when nothing more of what follows.
    until: Duration,
    soon: Duration,
    /// The engine has done its last.
    pub finished: Option<End>,
}

impl Work {
    /// An engine with nothing to do yet.
    #[must_use]
    pub const fn new(engine: Engine, recorder: Recorder) -> Self {
        Self {
            engine,
            recorder,
            results: Vec::new(),
            until: Duration::MAX,
            soon: Duration::MAX,
            finished: None,
        }
    }

    /// The loop is back. Whether it is abreast: it has done all that was wanted when it was last here. One
    /// that is not has no time to tell the truth, so nothing may be withheld on its word.
    pub fn wake(&mut self, now: Duration) -> bool {
        self.until = now.saturating_add(LONGEST);
        self.soon = now.saturating_add(LONGEST / 4);
        !self.is_behind()
    }

    /// Whether the engine has not heard yet what came of the last actions.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        !self.results.is_empty()
    }

    /// Hands events to the engine, in this order, behind what came of the last actions, and carries out what
    /// it wants.
    pub async fn feed<H: Hands>(
        &mut self,
        events: impl IntoIterator<Item = Event>,
        hands: &mut H,
    ) -> Result<(), H::Error> {
        let mut seen = mem::take(&mut self.results);
        seen.extend(events);
        if seen.is_empty() {
            return Ok(());
        }
        for event in &seen {
            debug!("{event:?}");
        }
        let mut entry = Entry { at: hands.now()?, events: seen.clone(), actions: Vec::new() };
        self.engine.handle_all(seen, entry.at);
        while let Some(action) = self.engine.poll_action() {
            entry.actions.push(action.clone());
            let begun = hands.now()?;
            let done = if begun < self.until || self.engine.is_ending() {
                let done = hands.carry_out(&self.engine, &action).await?;
                let took = hands.now()?.saturating_sub(begun);
                if took >= LONG {
                    debug!("{action}: took {} ms", took.as_millis());
                }
                done
            } else {
                Err(PUT_OFF.to_owned())
            };
            match (action, done) {
                (Action::Finish { kept, undone }, _) => {
                    self.finished = Some(End { kept, undone });
                }
                (Action::Tell { .. }, _) | (_, Ok(Done::UnderWay)) => {}
                (action, Ok(Done::Now(seen))) => {
                    self.results.extend(seen.into_iter().chain([Event::Succeeded { action }]));
                }
                (action, Err(error)) => self.results.push(Event::Failed { action, error }),
            }
        }
        self.recorder.keep(&self.engine, entry);
        Ok(())
    }

    /// Ends a wake: what follows from what was done in it.
    pub async fn settle<H: Hands>(&mut self, hands: &mut H) -> Result<(), H::Error> {
        for _ in 0..FOLLOW_UPS {
            // What is begun is to come to its end in this wake.
            if hands.now()? >= self.soon {
                break;
            }
            self.feed([], hands).await?;
        }
        Ok(())
    }
}

/// Where events come from, those first that have to be heard first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Source {
    Beat = 1 << 0,
    Intents = 1 << 1,
    Monitor = 1 << 2,
    Reports = 1 << 3,
    Probes = 1 << 4,
    Frames = 1 << 5,
    Tasks = 1 << 6,
    Deadline = 1 << 7,
    Scan = 1 << 8,
    Switches = 1 << 9,
    Placings = 1 << 10,
    Signals = 1 << 11,
    Requests = 1 << 12,
    Scrapes = 1 << 13,
    Reload = 1 << 14,
}

/// Which sources had their turn in this wake: each has one, however much it has to say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn(u16);

impl Turn {
    pub(super) const fn take(&mut self, source: Source) {
        self.0 |= source as u16;
    }

    pub(super) const fn awaits(self, source: Source) -> bool {
        self.0 & source as u16 == 0
    }

    /// Whether any had.
    pub(super) const fn has_begun(self) -> bool {
        self.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        convert::Infallible,
        future::Future,
        net::Ipv4Addr,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use vipshield_common::guard::STALL_NS;

    use super::*;
    use crate::engine::{
        Address, CommandSocket, Config, Daemon, Family, Filter, Intent, Link, MonitorSocket,
        OnStop, OwnRules, Role, SocketId, VrrpSocket, record::Clocks,
    };

    const NIC: u32 = 2;
    const BRIDGE: u32 = 3;
    const PORT: u32 = 77;
    /// What the driver waits for an answer.
    const ANSWER: Duration = Duration::from_secs(5);
    const STALL: Duration = Duration::from_nanos(STALL_NS);
    /// Invariant: everything passes by then.
    const OPEN: Duration = Duration::from_secs(2);

    /// A kernel that needs so long for each action, and does not answer some.
    struct Kernel {
        now: Duration,
        takes: Duration,
        frozen: Option<String>,
        /// From when until when it did not answer.
        stalls: Vec<(Duration, Duration)>,
        kinds: BTreeSet<String>,
    }

    impl Hands for Kernel {
        type Error = Infallible;

        fn now(&self) -> Result<Duration, Infallible> {
            Ok(self.now)
        }

        async fn carry_out(
            &mut self,
            _: &Engine,
            action: &Action,
        ) -> Result<Result<Done, String>, Infallible> {
            let kind = kind(action);
            let freezes = self.frozen.as_ref() == Some(&kind);
            if !matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                self.kinds.insert(kind);
                self.now += self.takes;
            }
            if freezes {
                self.stalls.push((self.now, self.now + ANSWER));
                self.now += ANSWER;
                return Ok(Err("no answer".to_owned()));
            }
            Ok(Ok(Done::Now(None)))
        }
    }

    /// The loop, as [`Driver::run`](super::super::Driver::run) has it.
    struct Loop {
        work: Work,
        kernel: Kernel,
        /// When it said that it is alive.
        alive: Vec<Duration>,
        /// From when until when each wake lasted.
        wakes: Vec<(Duration, Duration)>,
    }

    fn kind(action: &Action) -> String {
        let text = format!("{action:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    /// Nothing here waits.
    fn done<T>(future: impl Future<Output = Result<T, Infallible>>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(value)) => value,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn address(last: u32, prefix_len: u8) -> Address {
        Address { ip: Ipv4Addr::from(0xc000_0200 + last).into(), prefix_len }
    }

    fn link(ifindex: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
        let (up, running, kind) = (true, true, kind.map(str::to_owned));
        let (name, mac) = (name.to_owned(), vec![2, 0, 0, 0, 0, 1]);
        Link { ifindex, name, up, running, master, kind, mac, ..Link::default() }
    }

    fn daemon() -> Daemon {
        let socket = |fd| SocketId { pid: 700, fd, inode: 1 };
        let (bound, home) = (Some(NIC), Some(NIC));
        Daemon {
            pid: 700,
            start_time: 1,
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            commands: vec![CommandSocket { id: socket(3), port: PORT, filter: Filter::None }],
            monitors: vec![MonitorSocket { id: socket(4), filter: Filter::None }],
            vrrp: vec![VrrpSocket {
                id: socket(5),
                family: Family::Ipv4,
                bound,
                home,
                multicast: None,
                group: None,
                sends: false,
            }],
            trouble: None,
            polls: false,
            excluded: Vec::new(),
        }
    }

    fn asks(sequence: u32, address: Address, wanted: bool) -> Event {
        let intent = Intent { port: PORT, sequence, ifindex: 0, address, wanted, refused: true };
        Event::Intent { intent }
    }

    impl Loop {
        fn new(frozen: Option<&str>, takes: Duration) -> Self {
            let config = Config {
                interfaces: vec!["ens192".to_owned()],
                deadline: Duration::from_secs(1),
                replay_port: 1,
                own_addresses: Vec::new(),
                on_stop: OnStop::default(),
                rules: OwnRules::default(),
                observe: false,
            };
            let frozen = frozen.map(str::to_owned);
            let (now, stalls, kinds) = (Duration::from_secs(100), Vec::new(), BTreeSet::new());
            Self {
                work: Work::new(
                    Engine::new(config.clone()),
                    Recorder::new(config, Clocks::default()),
                ),
                kernel: Kernel { now, takes, frozen, stalls, kinds },
                alive: vec![now],
                wakes: Vec::new(),
            }
        }

        /// A wake in which these are seen.
        fn wake(&mut self, seen: impl IntoIterator<Item = Event>) {
            let begun = self.kernel.now;
            if self.work.wake(begun) {
                self.alive.push(begun);
            }
            done(self.work.feed(seen, &mut self.kernel));
            done(self.work.settle(&mut self.kernel));
            self.wakes.push((begun, self.kernel.now));
        }

        /// Time goes by, with a wake at least as often as the driver has one.
        fn pass(&mut self, time: Duration) {
            let until = self.kernel.now + time;
            while self.kernel.now < until {
                if !self.work.is_behind() {
                    self.kernel.now += Duration::from_millis(50);
                }
                self.wake([Event::Tick]);
            }
        }

        /// A NIC with these VIPs is taken, and comes to grief.
        fn play(&mut self, vips: u32) {
            let vip = |number: u32| address(256 + number, 32);
            let names = BTreeMap::new();
            let addresses = vec![(NIC, address(11, 24))];
            self.wake([
                Event::Inherited { names, held: BTreeMap::new() },
                Event::Snapshot {
                    links: vec![link(NIC, "ens192", None, None)],
                    addresses,
                    routes: Vec::new(),
                    rules: Vec::new(),
                },
            ]);
            self.wake([Event::Daemons { daemons: vec![daemon()] }]);
            let requester = PORT;
            self.wake((0..vips).map(|n| asks(n, vip(n), true)));
            self.wake((0..vips).map(|number| {
                let address = vip(number);
                Event::Address { ifindex: NIC, address, requester }
            }));
            self.wake([
                Event::Turnover,
                Event::Link { link: link(BRIDGE, "br-provider", Some("bridge"), None) },
            ]);
            let all = || (0..vips).map(vip).chain([address(11, 24)]);
            self.wake(all().map(|address| Event::AddressRemoved {
                ifindex: NIC,
                address,
                requester: 5,
            }));
            self.wake(all().map(|address| Event::Address {
                ifindex: BRIDGE,
                address,
                requester: 5,
            }));
            self.wake([Event::Link { link: link(NIC, "ens192", None, Some(BRIDGE)) }]);
            self.pass(Duration::from_secs(3));
            // One that the daemon put on the port; and it gives up all others.
            let late = address(200, 32);
            self.wake([
                asks(vips, late, true),
                Event::Address { ifindex: NIC, address: late, requester },
            ]);
            self.wake((0..vips).map(|n| asks(vips + 1 + n, vip(n), false)));
            self.pass(Duration::from_secs(12));
            self.wake([
                Event::AddressRemoved { ifindex: BRIDGE, address: address(11, 24), requester: 5 },
                Event::LinkRemoved { ifindex: BRIDGE },
            ]);
            let mut down = link(NIC, "ens192", None, None);
            (down.up, down.running) = (false, false);
            self.wake([Event::Link { link: down }]);
            self.pass(Duration::from_secs(12));
        }

        /// Whether the guard may withhold anything at this moment.
        fn is_open(&self, at: Duration) -> bool {
            let last = self.alive.iter().rfind(|alive| **alive <= at);
            last.is_none_or(|alive| *alive + STALL <= at)
        }

        fn longest(&self) -> Duration {
            self.wakes.iter().map(|(from, to)| to.saturating_sub(*from)).max().unwrap_or_default()
        }
    }

    #[test]
    fn whatever_is_not_answered_everything_passes_in_time() {
        let mut free = Loop::new(None, Duration::from_micros(50));
        free.play(3);
        assert!(free.longest() < Duration::from_millis(10), "{:?}", free.longest());
        let kinds = free.kernel.kinds;
        for kind in ["SetPolicy", "Guard", "Listen", "Rebind", "Carry", "MoveVip", "RemoveVip"] {
            assert!(kinds.contains(kind), "no {kind}, but {kinds:?}");
        }
        assert!(kinds.contains("ReplayRemoval") && kinds.contains("ResyncLink"), "{kinds:?}");
        for kind in &kinds {
            let mut stalled = Loop::new(Some(kind), Duration::from_micros(50));
            stalled.play(3);
            assert!(!stalled.kernel.stalls.is_empty(), "{kind} was never wanted");
            for (from, to) in &stalled.kernel.stalls {
                for at in [*from + OPEN, to.saturating_sub(Duration::from_millis(1))] {
                    assert!(stalled.is_open(at), "{kind} does not answer, and it withholds");
                }
            }
            // Whatever waits behind it is put off.
            assert!(stalled.longest() <= LONGEST + ANSWER + ANSWER / 10, "{kind}");
        }
    }

    #[test]
    fn a_loop_that_gets_through_its_work_withholds_all_the_time() {
        let mut loops = Loop::new(None, Duration::from_micros(50));
        loops.play(300);
        assert!(loops.longest() < Duration::from_millis(100), "{:?}", loops.longest());
        let (from, to) = (loops.alive[0], loops.kernel.now);
        let mut at = from;
        while at < to {
            assert!(!loops.is_open(at), "{at:?} of {from:?} to {to:?}");
            at += Duration::from_millis(100);
        }
    }

    /// It comes back all the time, and always with something left to do.
    #[test]
    fn a_loop_that_never_gets_through_its_work_withholds_nothing() {
        let mut slow = Loop::new(None, Duration::from_micros(50));
        slow.play(400);
        let vip = |number: u32| address(256 + number, 32);
        slow.kernel.takes = Duration::from_millis(15);
        slow.wake((0..400).map(|n| Event::Address { ifindex: NIC, address: vip(n), requester: 5 }));
        let begun = slow.kernel.now;
        assert!(slow.work.is_behind());
        let mut wakes = 0;
        while slow.work.is_behind() {
            slow.wake([]);
            assert!(slow.longest() <= LONGEST + Duration::from_millis(100), "{:?}", slow.longest());
            wakes += 1;
        }
        let ended = slow.kernel.now;
        assert!(ended > begun + OPEN + STALL && wakes > 3, "{ended:?} in {wakes} wakes");
        assert!(slow.is_open(begun + OPEN) && slow.is_open(ended));
        slow.wake([]);
        assert!(!slow.is_open(slow.kernel.now), "it is through");
    }

    #[test]
    fn each_source_has_one_turn_in_a_wake() {
        let mut turn = Turn::default();
        assert!(!turn.has_begun());
        for source in [Source::Intents, Source::Monitor, Source::Scrapes, Source::Beat] {
            assert!(turn.awaits(source));
            turn.take(source);
            assert!(!turn.awaits(source) && turn.has_begun());
        }
        assert!(turn.awaits(Source::Frames));
    }
}
