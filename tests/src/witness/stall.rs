//! How long the machine kept an ordinary program waiting that wanted to run.
//!
//! VRRP's timers are real time. On a machine that stands still for a good part of an advert interval
//! nothing that depends on them can be told: neither that vipshield was late nor that it was not.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Watcher;
use crate::clock;
use crate::process::be_ordinary;

/// How often it wants to run.
const PERIOD: Duration = Duration::from_millis(10);

/// As long as a pause has to be to be remembered: far longer than a busy machine's time slice, far
/// shorter than what is left of a VRRP timer when vipshield's deadline has come.
pub const STANDSTILL: Duration = Duration::from_millis(300);

/// So many are remembered.
const REMEMBERED: usize = 10_000;

/// Watches for pauses until dropped.
#[derive(Debug)]
pub struct StallWitness {
    seen: Arc<Mutex<Vec<(Instant, Duration)>>>,
    _watcher: Watcher,
}

impl StallWitness {
    /// Begin.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start() -> Result<Self> {
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let watcher = Watcher::start("stalls", move |over| {
            be_ordinary();
            let mut before = clock::now();
            while !over.load(Ordering::Relaxed) {
                clock::nap(PERIOD);
                let now = clock::now();
                let pause = now.saturating_duration_since(before).saturating_sub(PERIOD);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if pause >= STANDSTILL && kept.len() < REMEMBERED {
                    kept.push((now, pause));
                }
                before = now;
            }
        })?;
        Ok(Self { seen, _watcher: watcher })
    }

    /// The longest pause that ended since then, if there was any of [`STANDSTILL`] or more.
    #[must_use]
    pub fn longest_since(&self, from: Instant) -> Option<Duration> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|(at, _)| *at >= from).map(|(_, pause)| *pause).max()
    }
}
