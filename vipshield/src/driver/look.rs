//! Looking for daemons: when, and what becomes of it.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Driver, DriverError, clock, tasks};
use crate::{
    causes::causes,
    engine::{Daemon, Event},
};

/// How often daemons are looked for when nothing else says so: a socket that a daemon opened anew
/// is found by this.
const SCAN: Duration = Duration::from_secs(1);
/// After a look that failed the next one comes so much later, and ever more so.
const RETRY: Duration = Duration::from_millis(500);
/// A daemon may have begun anew in the meantime, and is not guarded: no later than this.
const RETRY_AT_MOST: Duration = Duration::from_secs(4);

/// When to look for daemons.
#[derive(Default)]
pub(super) struct Looks {
    /// Soonest first.
    due: VecDeque<Instant>,
    /// How many in a row failed.
    failed: u32,
}

impl Looks {
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.front().copied()
    }

    pub(super) fn now(&mut self) {
        self.due.push_front(clock());
    }

    pub(super) fn soon(&mut self, delays: &[Duration]) {
        let now = clock();
        let mut due: Vec<Instant> =
            self.due.drain(..).chain(delays.iter().map(|delay| now + *delay)).collect();
        due.sort_unstable();
        due.truncate(tasks::MOST_LOOKS);
        self.due = due.into();
    }

    /// One is over that began at `at`.
    fn over(&mut self, at: Instant, failed: bool) {
        self.failed = if failed { self.failed.saturating_add(1) } else { 0 };
        self.due.retain(|due| *due > at);
        if self.due.is_empty() {
            self.due.push_back(at + pause(self.failed));
        }
    }
}

/// How long after a look the next one comes, if nothing else says so.
fn pause(failed: u32) -> Duration {
    let Some(doubled) = failed.checked_sub(1) else { return SCAN };
    RETRY.saturating_mul(2_u32.saturating_pow(doubled)).min(RETRY_AT_MOST)
}

impl Driver {
    /// A look that fails leaves all as it was: nothing follows from it but that the operator hears of
    /// it. Daemons that are gone are seen to be all the same.
    pub(super) async fn scan(&mut self) -> Result<(), DriverError> {
        let event = match self.look() {
            Ok(daemons) => Event::Daemons { daemons },
            Err(DriverError::Scan(error)) => {
                let gone = self.parts.scanner.gone();
                Event::DaemonsUnknown { error: causes(&error), gone }
            }
            Err(error) => return Err(error),
        };
        self.feed(event).await
    }

    /// Looks for daemons, and says when to look next.
    pub(super) fn look(&mut self) -> Result<Vec<Daemon>, DriverError> {
        let begun = clock();
        let programs = &self.parts.programs;
        let mut known = None;
        let mut leftover = || *known.get_or_insert_with(|| programs.is_other_guard_loaded());
        let looked = self.parts.scanner.scan(&mut leftover);
        self.looks.over(begun, looked.is_err());
        let (daemons, gone) = looked?;
        for cookie in gone {
            self.parts.programs.forget_socket(cookie)?;
        }
        Ok(daemons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_failed_is_repeated_soon_and_then_less_often() {
        let pauses: Vec<u128> = (0..7).map(|failed| pause(failed).as_millis()).collect();
        assert_eq!(pauses, [1000, 500, 1000, 2000, 4000, 4000, 4000]);
        assert_eq!(pause(u32::MAX), RETRY_AT_MOST);
    }
}
