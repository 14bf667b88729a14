//! The guard's heartbeat, and the thread that keeps it.
//!
//! The loop waits for the kernel. A request over rtnetlink is carried out within the system call that
//! sends it, behind whoever holds the one lock on the network's configuration (`rtnl_lock`,
//! `net/core/rtnetlink.c`): a NIC's driver that takes its time to take it down holds it for seconds, and
//! what became of the NIC is announced at the end of that. A heartbeat that stopped whenever the loop
//! does would let just that message pass. So a thread keeps it, which makes no such request. But it
//! keeps it only for as long as the loop comes back: what is withheld has to be told some day.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use aya::maps::{Array, MapData};
use log::error;
use vipshield_common::{
    guard::{HEARTBEAT_LIFETIME_NS, STALL_NS},
    maps,
};

use super::BpfError;
use crate::causes::causes;

/// How often the heartbeat is renewed; several times within its lifetime.
const PERIOD: Duration = Duration::from_millis(250);

/// Until when the guard may withhold anything.
pub(super) struct Heartbeat(Array<MapData, u64>);

impl Heartbeat {
    pub(super) const fn new(map: Array<MapData, u64>) -> Self {
        Self(map)
    }

    /// Lets the guard withhold for another [`HEARTBEAT_LIFETIME_NS`] after `now_ns`
    /// (`CLOCK_MONOTONIC`).
    pub(super) fn beat(&mut self, now_ns: u64) -> Result<(), BpfError> {
        self.set(now_ns.saturating_add(HEARTBEAT_LIFETIME_NS))
    }

    /// Makes every guard pass everything from now on.
    pub(super) fn still(&mut self) -> Result<(), BpfError> {
        self.set(0)
    }

    fn set(&mut self, until_ns: u64) -> Result<(), BpfError> {
        let result = self.0.set(0, until_ns, 0);
        result.map_err(|source| BpfError::Map { map: maps::HEARTBEAT, source })
    }

    /// Has a thread renew it, by the clock `now_ns` (`CLOCK_MONOTONIC`), for as long as the loop says
    /// that it is [alive](Pulse::alive). The guard passes everything [`STALL_NS`] after it said so
    /// last, and once the pulse is dropped.
    pub(super) fn keep(self, now_ns: fn() -> u64) -> io::Result<Pulse> {
        let times = Arc::new(Times { alive: AtomicU64::new(now_ns()), until: AtomicU64::new(0) });
        let (end, ended) = mpsc::channel();
        let seen = Arc::clone(&times);
        let beating = thread::Builder::new().name("heartbeat".to_owned());
        let thread = beating.spawn(move || keep(self, &seen, &ended, now_ns))?;
        Ok(Pulse { times, end: Some(end), thread: Some(thread), now_ns })
    }
}

/// What the loop and the thread tell each other, in `CLOCK_MONOTONIC` nanoseconds.
#[derive(Debug)]
struct Times {
    /// When the loop said last that it is alive.
    alive: AtomicU64,
    /// Until when the guard may withhold anything, as the programs know it.
    until: AtomicU64,
}

fn keep(mut heartbeat: Heartbeat, times: &Times, ended: &mpsc::Receiver<()>, now_ns: fn() -> u64) {
    loop {
        let until = until(now_ns(), times.alive.load(Ordering::Relaxed));
        if let Err(error) = heartbeat.set(until) {
            // It goes stale, and everything passes.
            error!("the guard withholds nothing any more: {}", causes(&error));
            return;
        }
        times.until.store(until, Ordering::Relaxed);
        match ended.recv_timeout(PERIOD) {
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    if let Err(error) = heartbeat.still() {
        error!("the guard withholds until its heartbeat is stale: {}", causes(&error));
    }
}

/// Until when the guard may withhold anything at `now_ns`, if the loop was alive at `alive_ns`.
const fn until(now_ns: u64, alive_ns: u64) -> u64 {
    let beat = now_ns.saturating_add(HEARTBEAT_LIFETIME_NS);
    let stall = alive_ns.saturating_add(STALL_NS);
    if beat < stall { beat } else { stall }
}

/// A heartbeat that is kept. Dropping it makes every guard pass everything.
pub struct Pulse {
    times: Arc<Times>,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    now_ns: fn() -> u64,
}

impl Pulse {
    /// The loop has come so far, and told by now what was due.
    pub fn alive(&self) {
        self.times.alive.store((self.now_ns)(), Ordering::Relaxed);
    }

    /// Whether the guard goes on to withhold for so long at the least, whatever the loop does.
    #[must_use]
    pub fn withholds(&self, long: Duration) -> bool {
        let long = u64::try_from(long.as_nanos()).unwrap_or(u64::MAX);
        (self.now_ns)().saturating_add(long) < self.times.until.load(Ordering::Relaxed)
    }

    /// Whether the heartbeat is kept still.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, the heartbeat goes stale all the same.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_does_not_come_back_withholds_nothing_in_the_end() {
        let now = 100_000_000_000;
        assert_eq!(until(now, now), now + HEARTBEAT_LIFETIME_NS);
        assert_eq!(until(now, now - 1_000_000_000), now - 1_000_000_000 + STALL_NS);
        assert!(until(now, now - STALL_NS) <= now);
        assert!(until(now, now - 10 * STALL_NS) < now);
    }
}
