//! The driver: the only reader of the clock, and the only place where things are done.
//!
//! It hands events to the engine and carries out its actions, one after the other, in one thread.
//! Nothing it does waits for anything but the kernel's answer to a request.

mod answers;
mod attach;
mod look;
mod switches;
mod tasks;

use std::{collections::VecDeque, future::pending, io, net::IpAddr, time::Duration};

use log::{Level, debug, log, warn};
use nix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{Instant, MissedTickBehavior, error::Elapsed, interval, sleep_until, timeout},
};
use vipshield_common::tasks::TaskEvent;

use self::{
    attach::{cookies, guard, listen, set_opening},
    look::Looks,
    switches::Inquiry,
};
use crate::{
    bpf::{self, BpfError, Programs, Pulse},
    causes::causes,
    daemons::{self, BorrowError, ScanError, Scanner, Scope, SocketError},
    engine::{Action, Config, Engine, Event, Notice, VrrpSocket, Weight},
    metrics::Scrapes,
    net::{
        AnnounceError, Announcer, Carrier, CarryError, ClsactError, GroupError, Groups, Monitor,
        MonitorError, Replay, ReplayError, VipError, Vips,
    },
    status::{Answer, Request, Server, Status},
    watch::watch,
};

/// How often what is carried is renewed, several times within its lifetime; and how often the loop
/// comes back at the least.
const BEAT: Duration = Duration::from_millis(250);
/// How long the kernel may take to answer a request. It answers within the system call; an answer that
/// is longer under way is lost, and the request may be repeated.
const ANSWER: Duration = Duration::from_secs(5);
/// Events kept for `vipshield events`.
const RECENT: usize = 256;

/// vipshield cannot go on.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The eBPF side.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The rtnetlink monitor.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// Looking for daemons.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// What a vipshield that died has left could not be read.
    #[error("looking for guards that were left behind: {0}")]
    Inherit(#[source] io::Error),
    /// Waiting for signals.
    #[error("waiting for signals: {0}")]
    Signal(#[source] io::Error),
    /// The guard would withhold nothing.
    #[error("the heartbeat could not be renewed")]
    Heartbeat,
    /// The clock.
    #[error("CLOCK_MONOTONIC: {0}")]
    Clock(#[source] nix::Error),
}

/// An action failed.
#[derive(Debug, Error)]
enum ActionError {
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Borrow(#[from] BorrowError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Replay(#[from] ReplayError),
    #[error(transparent)]
    Carry(#[from] CarryError),
    #[error(transparent)]
    Clsact(#[from] ClsactError),
    #[error(transparent)]
    Group(#[from] GroupError),
    #[error(transparent)]
    Vip(#[from] VipError),
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    #[error("the kernel has not answered for {} s", ANSWER.as_secs())]
    Unanswered(#[from] Elapsed),
}

/// Everything the driver works with.
pub struct Parts {
    /// eBPF programs, loaded.
    pub programs: Programs,
    /// The rtnetlink monitor, its groups joined.
    pub monitor: Monitor,
    /// For [`Action::ReplayRemoval`] and [`Action::ShowAddress`].
    pub replay: Replay,
    /// For [`Action::Carry`] and [`Action::StandIn`].
    pub carrier: Carrier,
    /// For [`Action::Answer`].
    pub groups: Groups,
    /// For [`Action::RemoveVip`] and [`Action::MoveVip`].
    pub vips: Vips,
    /// For [`Action::Announce`].
    pub announcer: Announcer,
    /// Looks for daemons.
    pub scanner: Scanner,
    /// The control socket.
    pub server: Server,
    /// Scrapes, if metrics are served.
    pub scrapes: Option<Scrapes>,
    /// The engine's configuration.
    pub config: Config,
}

/// See the [module](self).
pub struct Driver {
    parts: Parts,
    /// The guard's heartbeat.
    pulse: Pulse,
    engine: Engine,
    started: Duration,
    /// What was told lately, with when.
    recent: VecDeque<(Duration, Notice)>,
    looks: Looks,
    inquiry: Inquiry,
    finished: bool,
}

/// What woke the driver.
enum Wake {
    Events(Vec<Event>),
    /// Some were lost. These were heard before.
    EventsLost(Vec<Event>),
    Beat,
    Tick,
    Scan,
    Tasks(Vec<TaskEvent>),
    /// Whether switches take new flows.
    Switches(Vec<(u32, bool)>),
    Asked(Request, oneshot::Sender<Answer>),
    Scraped(oneshot::Sender<Status>),
    Stop(&'static str),
}

impl Driver {
    /// Guards until SIGTERM or SIGINT.
    pub async fn run(mut parts: Parts) -> Result<(), DriverError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(DriverError::Signal)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DriverError::Signal)?;
        let mut driver = Self {
            engine: Engine::new(parts.config.clone()),
            pulse: parts.programs.keep_heartbeat(monotonic_ns)?,
            parts,
            started: monotonic()?,
            recent: VecDeque::with_capacity(RECENT),
            looks: Looks::default(),
            inquiry: Inquiry::default(),
            finished: false,
        };
        driver.begin().await?;
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !driver.finished {
            let wake = driver.wait(&mut beat, &mut terminate, &mut interrupt).await?;
            driver.pulse.alive();
            driver.serve(wake).await?;
        }
        let Self { parts: Parts { mut programs, carrier, .. }, pulse, .. } = driver;
        drop(pulse);
        let unused = programs.unused_clsacts(true)?;
        if let Err(error) = carrier.release_clsact(&unused).await {
            warn!("{error}");
        }
        Ok(())
    }

    /// Alive before anything is guarded, and everything seen before anything is decided.
    async fn begin(&mut self) -> Result<(), DriverError> {
        let snapshot = self.parts.monitor.snapshot(Vec::new()).await?;
        let (daemons, _) = self.look()?;
        let names = self.parts.programs.inherited_names(&cookies(&daemons));
        let names = names.map_err(DriverError::Inherit)?;
        self.feed(Event::Inherited { names }).await?;
        self.feed(snapshot).await?;
        self.feed(Event::Daemons { daemons }).await?;
        match self.parts.vips.moved().await {
            Ok(moved) => {
                let addresses = moved.into_iter().map(|(_, address)| address).collect();
                self.feed(Event::Moved { addresses }).await
            }
            Err(error) => {
                warn!("what an earlier vipshield has moved cannot be told: {error}");
                Ok(())
            }
        }
    }

    async fn wait(
        &mut self,
        beat: &mut tokio::time::Interval,
        terminate: &mut Signal,
        interrupt: &mut Signal,
    ) -> Result<Wake, DriverError> {
        let now = monotonic()?;
        let tick =
            self.engine.next_deadline().map(|deadline| clock() + deadline.saturating_sub(now));
        let scan = self.looks.next();
        let Parts { programs, monitor, server, scrapes, .. } = &mut self.parts;
        let mut events = Vec::new();
        let mut reports = Vec::new();
        let mut intents = Vec::new();
        let mut tasks = Vec::new();
        let mut frames = Vec::new();
        let wake = tokio::select! {
            biased;
            _ = beat.tick() => Wake::Beat,
            // Before what the monitor says: whose an IPv6 address is has to be known when it appears.
            read = programs.intents.read(|record| intents.extend(bpf::intent(record))) => {
                read?;
                Wake::Events(intents)
            }
            complete = monitor.read(|event| events.push(event)) => {
                if complete? { Wake::Events(events) } else { Wake::EventsLost(events) }
            }
            read = programs.reports.read(|record| reports.extend(bpf::withheld(record))) => {
                read?;
                Wake::Events(
                    reports.into_iter().map(|message| Event::Withheld { message }).collect(),
                )
            }
            read = programs.frames.read(|record| frames.extend(bpf::heard(record))) => {
                read?;
                Wake::Events(vec![Event::Heard { frames }])
            }
            read = programs.tasks.read(|record| tasks.extend(bpf::task_event(record))) => {
                read?;
                Wake::Tasks(tasks)
            }
            () = at(tick) => Wake::Tick,
            () = at(scan) => Wake::Scan,
            found = self.inquiry.answer() => Wake::Switches(found),
            _ = terminate.recv() => Wake::Stop("SIGTERM"),
            _ = interrupt.recv() => Wake::Stop("SIGINT"),
            Some((request, back)) = server.next() => Wake::Asked(request, back),
            Some(back) = next_scrape(scrapes) => Wake::Scraped(back),
        };
        Ok(wake)
    }

    async fn serve(&mut self, wake: Wake) -> Result<(), DriverError> {
        match wake {
            Wake::Events(events) => {
                for event in events {
                    self.feed(event).await?;
                }
            }
            Wake::EventsLost(events) => {
                let intents = events.into_iter().filter_map(|event| match event {
                    Event::Intent { intent } => Some(intent),
                    _ => None,
                });
                let snapshot = self.parts.monitor.snapshot(intents.collect()).await?;
                self.feed(snapshot).await?;
            }
            Wake::Beat => {
                if !self.pulse.is_kept() {
                    return Err(DriverError::Heartbeat);
                }
                self.renew().await;
                self.inquiry.make(self.engine.switches().into_keys());
            }
            Wake::Switches(found) => {
                let known = self.engine.switches();
                for (ifindex, served) in found {
                    if known.get(&ifindex).is_some_and(|known| *known != served) {
                        self.feed(Event::Switch { ifindex, served }).await?;
                    }
                }
            }
            Wake::Tick => self.feed(Event::Tick).await?,
            Wake::Scan => self.scan().await?,
            Wake::Tasks(tasks) => {
                if tasks::is_hint(&tasks) {
                    self.feed(Event::Hint).await?;
                }
                let kin = |pid| self.parts.scanner.kin(pid);
                if let Some((scope, delays)) = tasks::looks(&tasks, kin) {
                    self.looks.soon(scope, delays);
                }
                if tasks::is_turnover(&tasks, kin) {
                    self.feed(Event::Turnover).await?;
                }
            }
            Wake::Asked(request, back) => {
                let answer = match request {
                    Request::Status => Answer::Status(Box::new(self.status()?)),
                    Request::Events => Answer::Events(self.events()?),
                };
                // A client that does not wait for its answer is its own affair.
                let _ = back.send(answer);
            }
            Wake::Scraped(back) => {
                let _ = back.send(self.status()?);
            }
            Wake::Stop(signal) => {
                debug!("{signal}");
                self.feed(Event::Stop).await?;
            }
        }
        Ok(())
    }

    /// What is carried ends by itself soon after vipshield does.
    async fn renew(&self) {
        for (ifindex, plan) in self.engine.carried() {
            // The transition may have moved on in this very moment; if not, the next beat comes long
            // before the lifetime ends.
            match timeout(ANSWER, self.parts.carrier.renew(ifindex, plan)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("interface {ifindex}: {}", causes(&error)),
                Err(error) => debug!("interface {ifindex}: {}", ActionError::from(error)),
            }
        }
    }

    /// Hands an event to the engine and carries out what follows, and what follows from that.
    async fn feed(&mut self, event: Event) -> Result<(), DriverError> {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            debug!("{event:?}");
            self.engine.handle(event, monotonic()?);
            self.pulse.alive();
            while let Some(action) = self.engine.poll_action() {
                match action {
                    Action::Tell { notice } => self.tell(notice)?,
                    Action::Finish => self.finished = true,
                    action => {
                        let done = timeout(ANSWER, self.carry_out(&action)).await;
                        events.push_back(match done.map_err(Into::into).flatten() {
                            Ok(()) => Event::Succeeded { action },
                            Err(error) => Event::Failed { action, error: causes(&error) },
                        });
                    }
                }
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, action: &Action) -> Result<(), ActionError> {
        let Parts { programs, replay, carrier, groups, vips, announcer, scanner, .. } =
            &mut self.parts;
        match action {
            Action::SetPolicy { ifindex, name, withhold } => {
                programs.set_policy(*ifindex, name, *withhold)?;
            }
            Action::ClearPolicy { ifindex, name } => programs.clear_policy(*ifindex, name)?,
            Action::SetCommandPorts { ports } => programs.set_command_ports(ports)?,
            Action::Guard { socket } => guard(programs, scanner, *socket, replay.port)?,
            Action::Listen { socket } => listen(programs, scanner, *socket, replay.port)?,
            Action::SetOpening { nic, opening } => set_opening(programs, *nic, opening.as_ref())?,
            Action::RemoveVip { ifindex, address } => vips.remove(*ifindex, *address).await?,
            Action::MoveVip { address, from, to } => vips.relocate(*address, *from, *to).await?,
            Action::Announce { ifindex, address, mac } => {
                announcer.announce(*ifindex, *address, *mac)?;
            }
            Action::Unguard { socket } => {
                let duplicate = daemons::borrow(*socket)?;
                programs.unguard(&duplicate, daemons::cookie(&duplicate)?)?;
                scanner.forget(*socket);
            }
            Action::Rebind { socket, nic, to } => {
                let VrrpSocket { id, family, bound, home } = *socket;
                let from: Vec<u32> = bound.into_iter().chain(home).collect();
                daemons::rebind(daemons::borrow(id)?, family, &from, *to, *nic)?;
            }
            Action::Speak { socket, from_anywhere } => {
                daemons::speak_from_anywhere(daemons::borrow(*socket)?, *from_anywhere)?;
            }
            Action::Carry { ifindex, old, new, detours } => {
                carrier.change(*ifindex, old, new, detours.as_ref()).await?;
            }
            Action::Shunt { ifindex, shunt } => {
                let laid = programs.set_shunt(*ifindex, *shunt);
                // Also where it could not be laid: nothing is left of the attempt.
                let unused = programs.unused_clsacts(false)?;
                let released = carrier.release_clsact(&unused).await;
                laid?;
                released?;
            }
            Action::Watch { ifindex, wanted } => {
                let set = programs.set_watch(*ifindex, *wanted);
                let unused = programs.unused_clsacts(false)?;
                let released = carrier.release_clsact(&unused).await;
                set?;
                released?;
            }
            Action::WatchAddresses { addresses } => programs.set_watched(addresses)?,
            Action::Answer { ifindex, answers } => {
                programs.set_answers(*ifindex, answers)?;
                groups.hold(*ifindex, &answers.addresses)?;
            }
            Action::StandIn { ifindex, wanted } => carrier.stand_in(*ifindex, *wanted).await?,
            Action::ResyncLink { socket, ifindex } => {
                daemons::resync_link(daemons::borrow(*socket)?, *ifindex)?;
            }
            Action::ReplayRemoval { ifindex, address } => {
                let IpAddr::V6(ip) = address.ip else {
                    return Ok(replay.removal(*ifindex, *address).await?);
                };
                programs.pass_removal(ip, true)?;
                let replayed = replay.removal(*ifindex, *address).await;
                programs.pass_removal(ip, false)?;
                replayed?;
            }
            Action::ShowAddress { ifindex, address } => replay.show(*ifindex, *address).await?,
            Action::Rescan => self.looks.soon(Scope::Known, &[Duration::ZERO]),
            Action::Tell { .. } | Action::Finish => {}
        }
        Ok(())
    }

    fn tell(&mut self, notice: Notice) -> Result<(), DriverError> {
        let level = match notice.weight {
            Weight::Detail => Level::Debug,
            Weight::Info => Level::Info,
            Weight::Warning => Level::Warn,
        };
        log!(level, "{notice}");
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((monotonic()?, notice));
        Ok(())
    }
}

async fn next_scrape(scrapes: &mut Option<Scrapes>) -> Option<oneshot::Sender<Status>> {
    match scrapes {
        Some(scrapes) => scrapes.recv().await,
        None => pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}

/// `CLOCK_MONOTONIC`: the clock of `bpf_ktime_get_ns` too.
fn monotonic() -> Result<Duration, DriverError> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).map_err(DriverError::Clock)
}

/// The same in nanoseconds; a clock that cannot be read stands still, and the heartbeat with it.
fn monotonic_ns() -> u64 {
    monotonic().map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

#[expect(clippy::disallowed_methods, reason = "the driver is the one reader of the clock")]
fn clock() -> Instant {
    Instant::now()
}

/// Writes what the eBPF programs log to this process's log.
pub fn forward_ebpf_log(programs: &mut Programs) {
    let logger = aya_log::EbpfLogger::init(programs.object_mut())
        .map_err(|error| error.to_string())
        .and_then(|logger| watch(logger).map_err(|error| error.to_string()));
    match logger {
        Ok(mut logger) => {
            tokio::spawn(async move {
                while let Ok(mut guard) = logger.readable_mut().await {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
            });
        }
        Err(error) => warn!("what the eBPF programs log is not shown: {error}"),
    }
}
