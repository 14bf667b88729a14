//! Looking for daemons: when, and what becomes of it.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    Driver, DriverError, Parts, clock,
    tasks::{self, AFTER_BIRTH},
};
use crate::{
    causes::causes,
    daemons::{Looked, Scope},
    engine::{Daemon, Event},
};

/// How often known daemons are looked at when nothing else says so: a socket that one opened anew is
/// found by this.
const SCAN: Duration = Duration::from_secs(1);
/// How often every process is looked at: a daemon that starts is told by a tracepoint, but for one that
/// is called otherwise than its executable, or that enters this network namespace later.
const WALK: Duration = Duration::from_secs(10);
/// After a look that failed the next one comes so much later, and ever more so.
const RETRY: Duration = Duration::from_millis(500);
/// A daemon may have begun anew in the meantime, and is not guarded: no later than this.
const RETRY_AT_MOST: Duration = Duration::from_secs(4);

/// When to look for daemons, and where.
#[derive(Default)]
pub(super) struct Looks {
    /// Soonest first.
    due: VecDeque<(Instant, Scope)>,
    /// How many in a row failed.
    failed: u32,
    /// None before that: of the loop's time looks take half at the most, whoever starts what.
    rests_until: Option<Instant>,
    /// When every process was looked at last.
    walked: Option<Instant>,
    /// How many task events were lost until then.
    lost: u64,
}

impl Looks {
    pub(super) fn next(&self) -> Option<Instant> {
        let (at, _) = self.due.front()?;
        Some(self.rests_until.map_or(*at, |until| until.max(*at)))
    }

    pub(super) fn soon(&mut self, scope: Scope, delays: &[Duration]) {
        let now = clock();
        let more = delays.iter().map(|delay| (now + *delay, scope));
        let mut due: Vec<_> = self.due.drain(..).chain(more).collect();
        due.sort_unstable();
        // The first are due now, and the last wait for who was born last.
        let half = tasks::MOST_LOOKS / 2;
        if due.len() > 2 * half {
            due.drain(half..due.len() - half);
        }
        self.due = due.into();
    }

    /// Where to look now. `lost` is how many task events were lost so far.
    fn scope(&self, now: Instant, lost: u64) -> Scope {
        let is_long_ago = |walked| now.saturating_duration_since(walked) >= WALK;
        if self.walked.is_none_or(is_long_ago) || lost != self.lost {
            return Scope::All;
        }
        let due = self.due.iter().take_while(|(at, _)| *at <= now);
        due.map(|(_, scope)| *scope).max().unwrap_or(Scope::Known)
    }

    /// A look is over that began at `at`; `lost` as it was then.
    fn over(&mut self, at: Instant, scope: Scope, lost: u64, failed: bool) {
        self.failed = if failed { self.failed.saturating_add(1) } else { 0 };
        self.due.retain(|(due, _)| *due > at);
        if failed {
            // Who came meanwhile is not known.
            self.walked = None;
        } else if scope == Scope::All {
            (self.walked, self.lost) = (Some(at), lost);
        }
        if self.due.is_empty() {
            self.due.push_back((at + pause(self.failed), Scope::Known));
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
        let (first, event): (Vec<Event>, Event) = match self.look() {
            Ok((daemons, died)) => {
                // Before the kernel's word of it, or where that is not understood.
                let speakers = Event::Speakers { speakers: self.parts.scanner.speakers() };
                let turnover = died.then_some(Event::Turnover).into_iter();
                (turnover.chain([speakers]).collect(), Event::Daemons { daemons })
            }
            Err(DriverError::Scan(error)) => {
                let gone = self.parts.scanner.gone();
                (Vec::new(), Event::DaemonsUnknown { error: causes(&error), gone })
            }
            Err(error) => return Err(error),
        };
        self.feed(first.into_iter().chain([event])).await
    }

    /// Looks for daemons, and says when to look next. The second value: whether one has died.
    pub(super) fn look(&mut self) -> Result<(Vec<Daemon>, bool), DriverError> {
        let begun = clock();
        let Parts { programs, scanner, .. } = &mut self.parts;
        let lost = programs.task_events_lost()?;
        let scope = self.looks.scope(begun, lost);
        let looked = scanner.scan(scope);
        self.looks.over(begun, scope, lost, looked.is_err());
        let ended = clock();
        self.looks.rests_until = Some(ended + ended.saturating_duration_since(begun));
        let Looked { daemons, gone, died } = looked?;
        if died {
            // Its parent starts another one, perhaps under a name of its own.
            self.looks.soon(Scope::All, &AFTER_BIRTH);
        }
        for cookie in gone {
            self.parts.programs.forget_socket(cookie)?;
        }
        Ok((daemons, died))
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

    #[test]
    fn every_process_is_looked_at_now_and_then_and_when_something_was_missed() {
        let begun = clock();
        let mut looks = Looks::default();
        assert_eq!(looks.scope(begun, 0), Scope::All, "at the start");
        looks.over(begun, Scope::All, 0, false);
        let next = looks.next().unwrap();
        assert_eq!((next, looks.scope(next, 0)), (begun + SCAN, Scope::Known));
        assert_eq!(looks.scope(next, 1), Scope::All, "a task event was lost");
        assert_eq!(looks.scope(begun + WALK, 0), Scope::All);
        looks.over(next, Scope::Known, 0, true);
        let next = looks.next().unwrap();
        assert_eq!(looks.scope(next, 0), Scope::All, "a look failed");
        looks.over(next, Scope::All, 1, false);
        let next = looks.next().unwrap();
        assert_eq!(looks.scope(next, 1), Scope::Known, "it was lost before");
    }

    #[test]
    fn of_too_many_looks_the_first_and_the_last_stay() {
        let mut looks = Looks::default();
        let begun = clock();
        for _ in 0..20 {
            looks.soon(Scope::All, &AFTER_BIRTH);
        }
        assert_eq!(looks.due.len(), tasks::MOST_LOOKS);
        assert!(looks.due.front().unwrap().0 < begun + Duration::from_millis(100));
        assert!(looks.due.back().unwrap().0 >= begun + *AFTER_BIRTH.last().unwrap());
    }

    #[test]
    fn of_what_is_due_the_widest_look_is_done() {
        let mut looks = Looks::default();
        looks.over(clock(), Scope::All, 0, false);
        looks.soon(Scope::Known, &AFTER_BIRTH);
        looks.soon(Scope::All, &AFTER_BIRTH);
        let first = looks.next().unwrap();
        let later = first + Duration::from_millis(30);
        assert_eq!(looks.scope(later, 0), Scope::All);
        looks.over(later, Scope::All, 0, false);
        assert!(looks.next().unwrap() > later);
        assert_eq!(looks.scope(later, 0), Scope::Known, "nothing is due");
    }
}
