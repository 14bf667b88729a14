//! The guard withholds only as long as a heartbeat is fresh.

use libtest_mimic::Failed;
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

pub(crate) fn kept() -> Result<(), Failed> {
    fn now() -> u64 {
        monotonic_ns().unwrap_or_default()
    }
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    // Nobody but the thread renews it from now on, and it has just said that it is alive.
    let pulse = stage.programs.keep_heartbeat(now)?;
    let removal = |stage: &mut Stage| {
        stage.add_address("nic", "192.0.2.11/24")?;
        stage.delete_address("nic", "192.0.2.11/24")?;
        let gone = Seen::AddressGone("192.0.2.11".parse()?);
        Ok::<_, Failed>(stage.seen()?.contains(&gone))
    };
    let began = now();
    while now() < began + 2 * STALL_NS {
        pulse.alive();
        let seen = removal(&mut stage)?;
        // What happened while this test was not given a turn is none of the guard's.
        check(!seen || !pulse.is_fresh(), "withheld for as long as the loop is alive")?;
    }
    check(stage.count(Counter::WithheldAddress)? > 0, "and counted")?;
    check(pulse.is_kept(), "the thread runs")?;
    // The loop does not come back.
    let hung = now();
    while !removal(&mut stage)? {
        check(now() < hung + 2 * STALL_NS, "withheld for too long after the loop hung")?;
    }
    pulse.alive();
    while removal(&mut stage)? {
        check(now() < hung + 6 * STALL_NS, "a loop that is back is alive")?;
        pulse.alive();
    }
    drop(pulse);
    check(removal(&mut stage)?, "once it is dropped everything passes")
}
