//! The driver: the only reader of the clock, and the only place where things are done.
//!
//! It hands events to the engine and carries out its actions, one after the other, in one thread.
//! Nothing it does waits for anything but the kernel's answer to a request, and what a wake does is bounded
//! ([`work`]).

mod absence;
mod adapters;
mod answers;
mod attach;
mod handover;
mod look;
mod recent;
mod reload;
mod switches;
mod tasks;
pub mod work;

use std::{
    collections::HashMap,
    future::{pending, ready},
    io, mem,
    path::PathBuf,
    time::Duration,
};

use log::{debug, info, warn};
use nix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tokio::{
    signal::unix::Signal,
    sync::oneshot,
    time::{Instant, MissedTickBehavior, error::Elapsed, interval, sleep_until, timeout},
};
use vipshield_common::tasks::TaskEvent;

use self::{
    absence::Turns,
    adapters::{ActionError, Adapters},
    attach::cookies,
    handover::Heirs,
    look::Looks,
    recent::Recent,
    switches::Inquiry,
    work::{End, Source, Turn, Work},
};
use crate::{
    bpf::{self, BPFFS, BpfError, Pins, Placed, Programs, Pulse, Ticket},
    causes::causes,
    config::Reloader,
    daemons::{Probes, ScanError, Scanner},
    engine::{Action, Config, Engine, Event, Handover, OnStop, record::Clocks},
    metrics::Scrapes,
    net::{
        Announcer, Carrier, CarryError, Groups, Monitor, MonitorError, Neighbours, Read, Replay,
        Vips,
    },
    recording::{Recorder, WriteError},
    signals::Signals,
    status::{Answer, Asked, Request, Server, ServerError, Status},
    succession::{Succession, Successor},
    watch::watch,
};

/// How often what is carried is renewed, several times within its lifetime; and how often the loop
/// comes back at the least.
const BEAT: Duration = Duration::from_millis(250);
/// How long the kernel may take to answer a request. It answers within the system call; an answer that
/// is longer under way is lost, and the request may be repeated.
const ANSWER: Duration = Duration::from_secs(5);

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
    /// The file in which all is to be recorded.
    #[error(transparent)]
    Record(#[from] WriteError),
    /// Waiting for signals.
    #[error("waiting for signals: {0}")]
    Signal(#[source] io::Error),
    /// The guard would withhold nothing.
    #[error("the heartbeat could not be renewed")]
    Heartbeat,
    /// The control socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The clock.
    #[error("CLOCK_MONOTONIC: {0}")]
    Clock(#[source] nix::Error),
    /// The end was not all that it should have been; what was not is in the log.
    #[error("{0} things that had to be done at the end could not be")]
    Undone(u32),
}

/// Everything the driver works with.
pub struct Parts {
    /// eBPF programs, loaded.
    pub programs: Programs,
    /// What outlives it if it is killed.
    pub pins: Pins,
    /// The rtnetlink monitor, its groups joined.
    pub monitor: Monitor,
    /// For `Action::ReplayRemoval` and `Action::ShowAddress`.
    pub replay: Replay,
    /// For `Action::Carry` and `Action::StandIn`.
    pub carrier: Carrier,
    /// Who is known where.
    pub neighbours: Neighbours,
    /// For `Action::Answer`.
    pub groups: Groups,
    /// For `Action::RemoveVip` and `Action::MoveVip`.
    pub vips: Vips,
    /// For `Action::Announce`.
    pub announcer: Announcer,
    /// For `Action::SetProbe`.
    pub probes: Probes,
    /// Looks for daemons.
    pub scanner: Scanner,
    /// The control socket.
    pub server: Server,
    /// Scrapes, if metrics are served.
    pub scrapes: Option<Scrapes>,
    /// The engine's configuration.
    pub config: Config,
    /// Takes it anew.
    pub reloader: Reloader,
    /// Asks for that.
    pub hangup: Signal,
    /// Where all is recorded.
    pub record: Option<PathBuf>,
    /// Which vipshield this is, of several that start again by themselves.
    pub instance: Option<String>,
}

/// What a vipshield begins with.
#[derive(Debug)]
pub enum Beginning {
    /// What is found in the kernel.
    Nothing,
    /// What it knew before it began anew.
    Itself(Box<Handover>),
    /// What another one knows, which waits.
    Other(Box<Succession>),
}

impl Beginning {
    /// Which one the other is.
    fn instance(&self) -> Option<String> {
        match self {
            Self::Nothing | Self::Itself(_) => None,
            Self::Other(succession) => succession.instance.clone(),
        }
    }
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// It was told to.
    Ended,
    /// Another vipshield has taken over.
    HandedOver,
    /// Another vipshield was to take over, and may have changed anything, or was to hand over, and has not
    /// ended: begin anew, with what this one knew.
    Anew(Option<Box<Handover>>),
}

/// See the [module](self).
pub struct Driver {
    parts: Parts,
    /// The guard's heartbeat.
    pulse: Pulse,
    work: Work,
    started: Duration,
    recent: Recent,
    turns: Turns,
    looks: Looks,
    inquiry: Inquiry,
    heirs: Heirs,
    /// Actions that wait for programs on interfaces.
    placings: HashMap<Ticket, Action>,
    /// The probes where ports join and leave were posted, as far as they could be.
    probed: bool,
    /// Which vipshield has handed over to this one.
    predecessor: Option<String>,
}

/// What woke the driver.
enum Wake {
    Intents(Vec<Event>),
    /// Something is due. This was said by then.
    Deadline(Vec<Event>),
    Events(Vec<Event>),
    /// Some were lost. These were heard before.
    EventsLost(Vec<Event>),
    Beat,
    Scan,
    Tasks(Vec<TaskEvent>),
    /// Whether switches take new flows.
    Switches(Vec<(u32, bool)>),
    /// Programs were put on interfaces, or taken off them.
    Placed(Placed),
    Asked(Request, oneshot::Sender<Answer>),
    HandOver(Successor),
    Scraped(oneshot::Sender<Status>),
    Reload,
    Stop(&'static str),
}

impl Driver {
    /// Guards until SIGTERM or SIGINT, or until another vipshield has taken over; goes on where one was that
    /// hands over to this, or where this one was itself.
    pub async fn run(mut parts: Parts, from: Beginning) -> Result<Outcome, DriverError> {
        let mut signals = Signals::hear().map_err(DriverError::Signal)?;
        let mut recorder = Recorder::new(parts.config.clone(), clocks()?);
        if let Some(path) = parts.record.take() {
            recorder.write_to(path)?;
        }
        let mut driver = Self {
            work: Work::new(Engine::new(parts.config.clone()), recorder),
            pulse: parts.programs.keep_heartbeat(monotonic_ns)?,
            parts,
            started: monotonic()?,
            recent: Recent::default(),
            turns: Turns::new(),
            looks: Looks::default(),
            inquiry: Inquiry::default(),
            heirs: Heirs::default(),
            placings: HashMap::new(),
            probed: false,
            predecessor: from.instance(),
        };
        if !driver.begin(from).await? {
            let known = driver.work.engine.hand_over();
            driver.abandon();
            return Ok(Outcome::Anew(Some(Box::new(known))));
        }
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            if let Some(end) = driver.work.finished {
                break end;
            }
            let mut turn = Turn::default();
            let mut due = driver.next(&mut turn, &mut beat, &mut signals).await?;
            let now = monotonic()?;
            let begun = driver.turns.begin(now, driver.work.engine.in_transition());
            // Here and at the beginning, nowhere else, or a loop that never comes back would withhold for ever.
            if driver.work.wake(now) {
                driver.pulse.alive();
            }
            while let Some(wake) = due.take() {
                driver.serve(wake).await?;
                if driver.work.finished.is_none() {
                    due = driver.next(&mut turn, &mut beat, &mut signals).await?;
                }
            }
            driver.settle().await?;
            let moving = driver.work.engine.in_transition();
            driver.turns.end(begun, monotonic()?, moving);
            if let Some(outcome) = driver.hand_over(&mut signals).await? {
                driver.abandon();
                return Ok(outcome);
            }
        };
        Box::pin(driver.end(end)).await.map(|()| Outcome::Ended)
    }

    /// What lasts for longer than this process is left, or taken away, once nothing is withheld any more.
    async fn end(self, End { kept, mut undone }: End) -> Result<(), DriverError> {
        let Self { parts: Parts { mut programs, carrier, pins, config, .. }, work, pulse, .. } =
            self;
        drop(pulse);
        match work.engine.on_stop() {
            // Dropped, they would take with them what is attached.
            OnStop::Keep => mem::forget(programs),
            OnStop::Release => {
                programs.tidy_all().await?;
                let unused = programs.unused_clsacts(true)?;
                if let Err(error) = carrier.release_clsact(&unused).await {
                    warn!("{error}");
                    undone = undone.saturating_add(1);
                }
            }
        }
        // The next one reads them.
        if !kept
            && !config.observe
            && let Err(error) = pins.remove()
        {
            warn!("tables of names and sockets stay pinned in {BPFFS}: {error}");
            undone = undone.saturating_add(1);
        }
        if undone == 0 { Ok(()) } else { Err(DriverError::Undone(undone)) }
    }

    /// Alive before anything is guarded, and everything seen before anything is decided. False: the one that
    /// handed over has not waited for this one, and may guard again.
    async fn begin(&mut self, from: Beginning) -> Result<bool, DriverError> {
        let (state, mut succession) = match from {
            Beginning::Nothing => (None, None),
            Beginning::Itself(state) => (Some(state), None),
            Beginning::Other(mut succession) => {
                (succession.state.take().map(Box::new), Some(succession))
            }
        };
        match self.parts.carrier.found().await {
            Ok(nics) => self.feed([Event::Carried { nics }]).await?,
            Err(error) => warn!("what an earlier vipshield carries cannot be told: {error}"),
        }
        self.at_work(&mut succession).await;
        let snapshot = self.parts.monitor.snapshot().await?;
        self.at_work(&mut succession).await;
        let (daemons, _) = self.look()?;
        self.at_work(&mut succession).await;
        let cookies = cookies(&daemons);
        let (names, held) = (self.parts.pins.names(&cookies), self.parts.pins.held(&cookies));
        self.feed([Event::Inherited { names, held }]).await?;
        if let Some(from) = state {
            self.feed([Event::TakenOver { from }]).await?;
        }
        self.feed([snapshot]).await?;
        self.at_work(&mut succession).await;
        let speakers = self.parts.scanner.speakers();
        self.feed([Event::Speakers { speakers }, Event::Daemons { daemons }]).await?;
        match self.parts.vips.moved().await {
            Ok(moved) => self.feed([Event::Moved { addresses: moved }]).await?,
            Err(error) => warn!("what an earlier vipshield has moved cannot be told: {error}"),
        }
        self.at_work(&mut succession).await;
        self.settle().await?;
        self.at_work(&mut succession).await;
        if !self.parts.config.observe {
            // Only now does the table of NICs say as much as that of the one before.
            self.parts.pins.keep(&self.parts.programs);
            // By now it is known what of it is wanted.
            match self.parts.carrier.sweep(&self.work.engine.in_force()).await {
                Ok(0) => {}
                Ok(swept) => info!("{swept} objects of an earlier vipshield taken back"),
                Err(error) => warn!("what an earlier vipshield has left stays: {}", causes(&error)),
            }
        }
        let Some(succession) = succession else { return Ok(true) };
        self.parts.server.step_in()?;
        Ok(succession.taken().await)
    }

    /// It has come a step further with its beginning: it is alive, and the vipshield from which it takes over is to
    /// know that it is not stuck.
    async fn at_work(&self, succession: &mut Option<Box<Succession>>) {
        self.pulse.alive();
        if let Some(succession) = succession {
            succession.at_work().await;
        }
    }

    /// What is due, of each source once in a wake; waits for the first. None: all that had something had
    /// their turn.
    async fn next(
        &mut self,
        turn: &mut Turn,
        beat: &mut tokio::time::Interval,
        signals: &mut Signals,
    ) -> Result<Option<Wake>, DriverError> {
        let now = monotonic()?;
        let tick =
            self.work.engine.next_deadline().map(|deadline| clock() + deadline.saturating_sub(now));
        let scan = self.looks.next();
        let Parts { programs, monitor, server, scrapes, probes, hangup, .. } = &mut self.parts;
        let mut events = Vec::new();
        let mut reports = Vec::new();
        let mut intents = Vec::new();
        let mut tasks = Vec::new();
        let mut frames = Vec::new();
        let had = *turn;
        let is_over = had.has_begun() || self.work.is_behind();
        let (source, wake) = tokio::select! {
            biased;
            _ = beat.tick(), if had.awaits(Source::Beat) => (Source::Beat, Wake::Beat),
            // Before what the monitor says: whose an IPv6 address is has to be known when it appears.
            read = programs.intents.read(|record| intents.extend(bpf::intent(record))),
                if had.awaits(Source::Intents) =>
            {
                read?;
                (Source::Intents, Wake::Intents(intents))
            }
            read = monitor.read(|event| events.push(event)), if had.awaits(Source::Monitor) => {
                let wake = match read? {
                    Read::Complete | Read::Losing => Wake::Events(events),
                    Read::Lost => Wake::EventsLost(events),
                };
                (Source::Monitor, wake)
            }
            read = programs.reports.read(|record| reports.extend(bpf::withheld(record))),
                if had.awaits(Source::Reports) =>
            {
                read?;
                let events = reports.into_iter().map(|message| Event::Withheld { message });
                (Source::Reports, Wake::Events(events.collect()))
            }
            // Before what the watch heard, or what both have seems to be missed.
            adverts = probes.read(), if had.awaits(Source::Probes) => {
                (Source::Probes, Wake::Events(vec![Event::Received { adverts }]))
            }
            read = programs.frames.read(|record| frames.extend(bpf::heard(record))),
                if had.awaits(Source::Frames) =>
            {
                read?;
                (Source::Frames, Wake::Events(vec![Event::Heard { frames }]))
            }
            read = programs.tasks.read(|record| tasks.extend(bpf::task_event(record))),
                if had.awaits(Source::Tasks) =>
            {
                read?;
                (Source::Tasks, Wake::Tasks(tasks))
            }
            () = at(tick), if had.awaits(Source::Deadline) => {
                // What daemons have said by now may be what is waited for.
                programs.intents.read_now(|record| intents.extend(bpf::intent(record)));
                (Source::Deadline, Wake::Deadline(intents))
            }
            () = at(scan), if had.awaits(Source::Scan) => (Source::Scan, Wake::Scan),
            found = self.inquiry.answer(), if had.awaits(Source::Switches) => {
                (Source::Switches, Wake::Switches(found))
            }
            placed = programs.placings.next(), if had.awaits(Source::Placings) => {
                (Source::Placings, Wake::Placed(placed?))
            }
            signal = signals.told_to_end(), if had.awaits(Source::Signals) => {
                (Source::Signals, Wake::Stop(signal))
            }
            _ = hangup.recv(), if had.awaits(Source::Reload) => (Source::Reload, Wake::Reload),
            Some(asked) = server.next(), if had.awaits(Source::Requests) => {
                let wake = match asked {
                    Asked::Question(request, back) => Wake::Asked(request, back),
                    Asked::HandOver(successor) => Wake::HandOver(successor),
                };
                (Source::Requests, wake)
            }
            Some(back) = next_scrape(scrapes), if had.awaits(Source::Scrapes) => {
                (Source::Scrapes, Wake::Scraped(back))
            }
            () = ready(()), if is_over => return Ok(None),
        };
        turn.take(source);
        Ok(Some(wake))
    }

    async fn serve(&mut self, wake: Wake) -> Result<(), DriverError> {
        match wake {
            Wake::Intents(intents) => {
                let late = self.parts.programs.late_intents()?;
                self.feed(intents.into_iter().chain(late)).await?;
            }
            Wake::Deadline(intents) => {
                let late = self.parts.programs.late_intents()?;
                self.feed(intents.into_iter().chain(late).chain([Event::Tick])).await?;
            }
            Wake::Events(events) => self.feed(events).await?,
            Wake::EventsLost(heard) => {
                let snapshot = self.parts.monitor.snapshot().await?;
                // What daemons say is not lost: what they said last of each address is kept. It is read after
                // what there is, or what they take meanwhile seems to be nobody's.
                let programs = &mut self.parts.programs;
                let mut said = Vec::new();
                programs.intents.read_now(|record| said.extend(bpf::intent(record)));
                let words = programs.last_words()?;
                self.feed(heard.into_iter().chain(said).chain(words).chain([snapshot])).await?;
            }
            Wake::Beat => {
                if !self.pulse.is_kept() {
                    return Err(DriverError::Heartbeat);
                }
                self.renew().await;
                if let Err(error) = self.parts.neighbours.hear(monotonic()?) {
                    debug!("{}", causes(&error));
                }
                self.tidy().await?;
                self.inquiry.make(self.work.engine.switches().into_keys());
                // The ring buffer wakes before it is counted that something had no room in it.
                let late = self.parts.programs.late_intents()?;
                self.feed(late).await?;
            }
            Wake::Switches(found) => {
                let known = self.work.engine.switches();
                let is_news = |(ifindex, served): &(u32, bool)| {
                    known.get(ifindex).is_some_and(|known| known != served)
                };
                let news = found.into_iter().filter(is_news);
                self.feed(news.map(|(ifindex, served)| Event::Switch { ifindex, served })).await?;
            }
            Wake::Placed(placed) => {
                let Parts { programs, monitor, .. } = &mut self.parts;
                let done = programs.placed(placed);
                let waited = done.and_then(|(ticket, done)| {
                    let action = self.placings.remove(&ticket)?;
                    Some(adapters::placed(monitor, action, done))
                });
                self.feed(waited).await?;
            }
            Wake::Scan => self.scan().await?,
            Wake::Tasks(tasks) => {
                let scanner = &self.parts.scanner;
                let tasks = tasks::known(&tasks, |task| scanner.kin(task));
                let turnover = tasks::is_turnover(&tasks).then_some(Event::Turnover);
                if let Some((scope, delays)) = tasks::looks(&tasks) {
                    self.looks.soon(scope, delays);
                }
                self.feed(turnover).await?;
            }
            Wake::Asked(request, back) => {
                // A client that does not wait for its answer is its own affair.
                let answer = match request {
                    Request::Reload => self.reload().await?,
                    Request::Status
                    | Request::Events
                    | Request::Record
                    | Request::HandOver { .. } => self.answer(&request)?,
                };
                let _ = back.send(answer);
            }
            Wake::Reload => {
                debug!("SIGHUP");
                self.reload().await?;
            }
            Wake::HandOver(successor) => self.asked_to_hand_over(successor).await?,
            Wake::Scraped(back) => {
                let _ = back.send(self.status()?);
            }
            Wake::Stop(signal) => {
                debug!("{signal}");
                self.feed([Event::Stop]).await?;
            }
        }
        Ok(())
    }

    /// Does what takes the kernel long while nothing is under way: probes are posted, once; then what is of no use
    /// any more is taken off, one at a time.
    async fn tidy(&mut self) -> Result<(), DriverError> {
        let Self { parts: Parts { programs, carrier, config, .. }, work, probed, .. } = self;
        if !work.engine.is_calm(monotonic()?) || work.is_behind() {
            return Ok(());
        }
        if !*probed && !config.observe {
            // Functions of a module that is not loaded yet are looked for when a shunt is laid.
            programs.see_ports_leave();
            *probed = true;
        }
        if !programs.tidy()? {
            return Ok(());
        }
        let unused = programs.unused_clsacts(false)?;
        if let Err(error) = carrier.release_clsact(&unused).await {
            warn!("{}", causes(&error));
        }
        Ok(())
    }

    /// What is carried ends by itself soon after vipshield does, and so does what stands in.
    async fn renew(&self) {
        let Self { parts: Parts { carrier, .. }, work: Work { engine, .. }, .. } = self;
        // The transition may have moved on in this very moment; if not, the next beat comes long before the
        // lifetime ends.
        let said = |ifindex, renewed: Result<Result<(), CarryError>, Elapsed>| match renewed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!("interface {ifindex}: {}", causes(&error)),
            Err(error) => debug!("interface {ifindex}: {}", ActionError::from(error)),
        };
        for (ifindex, plan) in engine.carried() {
            said(ifindex, timeout(ANSWER, carrier.renew(ifindex, plan)).await);
        }
        for ifindex in engine.stood_in() {
            said(ifindex, timeout(ANSWER, carrier.stand_in(ifindex, true)).await);
        }
    }

    /// Hands events to the engine and carries out what follows.
    async fn feed(&mut self, events: impl IntoIterator<Item = Event>) -> Result<(), DriverError> {
        let (work, mut hands) = self.hands();
        work.feed(events, &mut hands).await
    }

    async fn settle(&mut self) -> Result<(), DriverError> {
        let (work, mut hands) = self.hands();
        work.settle(&mut hands).await
    }

    const fn hands(&mut self) -> (&mut Work, Adapters<'_>) {
        let Self { parts, looks, recent, work, pulse, placings, .. } = self;
        (work, Adapters { parts, looks, recent, pulse, placings })
    }
}

async fn next_scrape(scrapes: &mut Option<Scrapes>) -> Option<oneshot::Sender<Status>> {
    match scrapes {
        Some(scrapes) => scrapes.next().await,
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

/// The clocks of this moment.
fn clocks() -> Result<Clocks, DriverError> {
    let unix = clock_gettime(ClockId::CLOCK_REALTIME).map(Duration::from);
    let unix = unix.map_err(DriverError::Clock)?.as_millis();
    Ok(Clocks { monotonic_ns: monotonic_ns(), unix_ms: u64::try_from(unix).unwrap_or(u64::MAX) })
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
