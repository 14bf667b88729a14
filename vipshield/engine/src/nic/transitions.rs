//! How long a NIC's transitions took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::phase::Phase;

/// Upper bounds of the classes in which they are counted, in milliseconds.
pub const BOUNDS: [u64; 10] = [25, 50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 30_000];

/// Those that ended in one phase, since vipshield started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transitions {
    /// The phase.
    pub to: Phase,
    /// How many there were.
    pub number: u64,
    /// How long all of them took, in microseconds.
    pub took_us: u64,
    /// How many took no longer than each of the [`BOUNDS`], and longer than the one before.
    pub classes: [u64; BOUNDS.len()],
}

impl Transitions {
    /// None, for each phase that one can end in.
    pub(super) fn none() -> [Self; 3] {
        [Phase::Free, Phase::Bridged, Phase::Down].map(|to| Self {
            to,
            number: 0,
            took_us: 0,
            classes: [0; BOUNDS.len()],
        })
    }

    /// One more.
    pub(super) fn count(&mut self, took: Duration) {
        self.number = self.number.saturating_add(1);
        self.took_us = self.took_us.saturating_add(took.as_micros() as u64);
        let within = |bound: &u64| took <= Duration::from_millis(*bound);
        let class = BOUNDS.iter().position(within).and_then(|at| self.classes.get_mut(at));
        if let Some(class) = class {
            *class = class.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_in_its_class() {
        let [mut free, ..] = Transitions::none();
        for ms in [0, 25, 26, 30_000, 30_001] {
            free.count(Duration::from_millis(ms));
        }
        assert_eq!((free.number, free.took_us), (5, 60_052_000));
        assert_eq!(free.classes, [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
