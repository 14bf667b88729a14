//! What one event costs the engine.

use nix::time::{ClockId, clock_gettime};

use super::crowd::{Crowd, Happening};

/// Nanoseconds of CPU time for an event, as it happens `runs` times: what else the machine does takes
/// none of them.
pub(crate) fn of_an_event(crowd: &mut Crowd, what: Happening, runs: u32) -> nix::Result<f64> {
    let begin = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    for _ in 0..runs {
        crowd.happen(what);
    }
    let took = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)? - begin;
    let nanoseconds = took.tv_sec() as f64 * 1e9 + took.tv_nsec() as f64;
    Ok(nanoseconds / f64::from(runs * what.events()))
}
