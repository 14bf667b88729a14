//! For how long the loop is away: what is seen and heard meanwhile has to wait.

use std::{fs::File, os::unix::fs::FileExt as _, time::Duration};

use crate::status::Absence;

/// Of the thread that opens it: the time on a processor, and runnable without one, in nanoseconds (`CONFIG_SCHED_INFO`,
/// `Documentation/scheduler/sched-stats.rst` in Linux).
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";

/// Measures the turns of the loop, which is one thread.
pub(super) struct Turns {
    stat: Option<File>,
    longest: Absence,
}

/// A turn has begun.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    at: Duration,
    waited: Duration,
    moving: bool,
}

impl Turns {
    /// Of this thread.
    pub(super) fn new() -> Self {
        Self { stat: File::open(SCHEDSTAT).ok(), longest: Absence::default() }
    }

    /// One begins now, with a NIC in transition or not.
    pub(super) fn begin(&self, now: Duration, moving: bool) -> Begun {
        Begun { at: now, waited: self.waited(), moving }
    }

    /// It is over.
    pub(super) fn end(&mut self, begun: Begun, now: Duration, moving: bool) {
        let away = now.saturating_sub(begun.at);
        let own = away.saturating_sub(self.waited().saturating_sub(begun.waited));
        let longer = |longest: &mut u64, it: Duration| {
            *longest = u64::try_from(it.as_micros()).unwrap_or(u64::MAX).max(*longest);
        };
        let Absence { longest_us, in_transition_us, own_in_transition_us } = &mut self.longest;
        longer(longest_us, away);
        if begun.moving || moving {
            longer(in_transition_us, away);
            longer(own_in_transition_us, own);
        }
    }

    /// Each of them by itself.
    pub(super) const fn longest(&self) -> Absence {
        self.longest
    }

    /// How long others had this thread's processor; nothing where the kernel does not say.
    fn waited(&self) -> Duration {
        let mut text = [0; 64];
        let read = self.stat.as_ref().and_then(|stat| stat.read_at(&mut text, 0).ok());
        let text = read.and_then(|read| std::str::from_utf8(text.get(..read)?).ok());
        Duration::from_nanos(text.and_then(waited).unwrap_or(0))
    }
}

/// `117774 3804702 2`: on a processor, without one, how often on one.
fn waited(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_longest_of_each_counts() {
        let mut turns = Turns { stat: None, longest: Absence::default() };
        for (from, to, moving) in [(0, 30, false), (40, 50, true), (60, 65, true)] {
            let begun = turns.begin(ms(from), moving);
            turns.end(begun, ms(to), false);
        }
        let begun = turns.begin(ms(70), false);
        turns.end(begun, ms(82), true);
        let expected =
            Absence { longest_us: 30_000, in_transition_us: 12_000, own_in_transition_us: 12_000 };
        assert_eq!(turns.longest(), expected);
    }

    #[test]
    fn what_others_had_the_processor_for_is_read() {
        assert_eq!(waited("117774 3804702 2\n"), Some(3_804_702));
        assert_eq!(waited(""), None);
        assert_eq!(waited("1 x 2"), None);
    }
}
