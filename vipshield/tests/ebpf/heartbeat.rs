//! The guard withholds only as long as a heartbeat is fresh.

use std::time::Duration;

use futures_util::FutureExt as _;
use libtest_mimic::Failed;
use vipshield::{
    bpf::Pulse,
    driver::work::{Done, Hands, Work},
    engine::{Action, Config, Engine, Event, Link, OnStop, OwnRules, record::Clocks},
    recording::Recorder,
};
use vipshield_common::{counters::Counter, guard::STALL_NS};

use super::{
    FREE, check,
    namespace::{Seen, Stage, monotonic_ns},
};

pub(crate) fn stale() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.programs.still()?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    let seen = stage.seen()?;
    check(
        seen.contains(&Seen::AddressGone("192.0.2.11".parse()?)),
        format!("the removal is seen: {seen:?}"),
    )?;
    check(stage.count(Counter::PassedStale)? > 0, "and counted")?;
    // A heartbeat in the past is none.
    stage.programs.beat(monotonic_ns()?.saturating_sub(2_000_000_000))?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "within 2 s of the last heartbeat everything passes")
}

/// Longer than it takes to look.
const SOON: Duration = Duration::from_millis(500);

pub(crate) fn kept() -> Result<(), Failed> {
    fn now() -> u64 {
        monotonic_ns().unwrap_or_default()
    }
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    // Nobody but the thread renews it from now on, and it has just said that it is alive.
    let pulse = stage.programs.keep_heartbeat(now)?;
    let began = now();
    while now() < began + 2 * STALL_NS {
        pulse.alive();
        // What happens while this test is not given a turn is none of the guard's.
        let sure = pulse.withholds(SOON);
        let asked = now();
        let seen = removal(&mut stage)?;
        let late = now() > asked + u64::try_from(SOON.as_nanos())?;
        check(!seen || !sure || late, "withheld for as long as the loop is alive")?;
    }
    check(stage.count(Counter::WithheldAddress)? > 0, "and counted")?;
    check(pulse.is_kept(), "the thread runs")?;
    // The loop does not come back.
    let hung = now();
    while !removal(&mut stage)? {
        check(now() < hung + 2 * STALL_NS, "withheld for too long after the loop hung")?;
    }
    check(!pulse.withholds(Duration::ZERO), "it is known that nothing is withheld")?;
    pulse.alive();
    while removal(&mut stage)? {
        check(now() < hung + 6 * STALL_NS, "a loop that is back is alive")?;
        pulse.alive();
    }
    drop(pulse);
    check(removal(&mut stage)?, "once it is dropped everything passes")
}

/// The one action that is not answered looks on.
struct Frozen<'a> {
    stage: &'a mut Stage,
    pulse: &'a Pulse,
    /// When the guard was seen to pass a removal.
    open: Option<u64>,
}

impl Hands for Frozen<'_> {
    type Error = Failed;

    fn now(&self) -> Result<Duration, Failed> {
        Ok(Duration::from_nanos(monotonic_ns()?))
    }

    async fn carry_out(
        &mut self,
        _: &Engine,
        action: &Action,
    ) -> Result<Result<Done, String>, Failed> {
        if !matches!(action, Action::Watch { .. }) || self.open.is_some() {
            return Ok(Ok(Done::Now(None)));
        }
        let sure = self.pulse.withholds(SOON);
        check(!removal(self.stage)? || !sure, "withheld at first")?;
        let frozen = monotonic_ns()?;
        while self.open.is_none() {
            let begun = monotonic_ns()?;
            self.open = removal(self.stage)?.then(|| begun.saturating_sub(frozen));
            check(begun < frozen + 2 * STALL_NS, "withheld for too long")?;
        }
        Ok(Err("no answer".to_owned()))
    }
}

fn removal(stage: &mut Stage) -> Result<bool, Failed> {
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    Ok(stage.seen()?.contains(&Seen::AddressGone("192.0.2.11".parse()?)))
}

/// The loop is within an action that is not answered: what happens meanwhile is seen.
pub(crate) fn not_answered() -> Result<(), Failed> {
    fn now() -> u64 {
        monotonic_ns().unwrap_or_default()
    }
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    let pulse = stage.programs.keep_heartbeat(now)?;
    let config = Config {
        interfaces: vec!["nic".to_owned()],
        deadline: Duration::from_secs(1),
        replay_port: 1,
        own_addresses: Vec::new(),
        on_stop: OnStop::default(),
        rules: OwnRules::default(),
        observe: false,
    };
    let recorder = Recorder::new(config.clone(), Clocks::default());
    let mut work = Work::new(Engine::new(config), recorder);
    let link =
        Link { ifindex: nic, name: "nic".to_owned(), up: true, running: true, ..Link::default() };
    let snapshot = Event::Snapshot {
        links: vec![link],
        addresses: Vec::new(),
        routes: Vec::new(),
        rules: Vec::new(),
    };
    check(work.wake(Duration::from_nanos(now())), "nothing is left to do")?;
    pulse.alive();
    let mut hands = Frozen { stage: &mut stage, pulse: &pulse, open: None };
    work.feed([snapshot], &mut hands).now_or_never().ok_or("it waits")??;
    let open = hands.open.ok_or("nothing was to be watched")?;
    check(open <= 2_000_000_000, format!("open {} ms after it froze", open / 1_000_000))?;
    // It has to hear what came of that first.
    check(!work.wake(Duration::from_nanos(now())), "it is not through")?;
    work.settle(&mut hands).now_or_never().ok_or("it waits")??;
    check(!work.is_behind() && work.wake(Duration::from_nanos(now())), "it is through")?;
    pulse.alive();
    let back = now();
    while removal(&mut stage)? {
        check(now() < back + 2 * STALL_NS, "a loop that is back withholds")?;
        pulse.alive();
    }
    Ok(())
}
