//! The only reader of the clock, and how long the lab is willing to wait.
//!
//! An emulated machine is some twenty times slower than a real one. Deadlines
//! are stretched there; what a scenario asserts about VRRP never is.

use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The environment variable that stretches deadlines: a whole number, 1 or more.
pub const SLOW_ENV: &str = "VIPSHIELD_LAB_SLOW";

/// The environment variable that says that the machine's clock counts instructions: 1, or 0.
const COUNTED_ENV: &str = "VIPSHIELD_LAB_COUNTED";

static SLOW: AtomicU32 = AtomicU32::new(1);

/// Stretch every deadline of [`patience`] by this factor.
pub fn set_slow(factor: u32) {
    SLOW.store(factor.max(1), Ordering::Relaxed);
}

/// The time now, on the monotonic clock that all witnesses share.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is the lab's one reader of the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// How long to wait for something that takes `limit` on a machine of ordinary speed.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    limit * SLOW.load(Ordering::Relaxed)
}

/// Whether this is a machine of ordinary speed.
#[must_use]
pub fn is_brisk() -> bool {
    SLOW.load(Ordering::Relaxed) == 1
}

/// Whether the machine's clock counts instructions: whatever else the host does, what is measured is what
/// happens.
#[must_use]
pub fn is_counted() -> bool {
    std::env::var(COUNTED_ENV).is_ok_and(|counted| counted == "1")
}

/// Let `duration` go by: a measuring window, never a way to wait for a condition.
pub async fn pass(duration: Duration) {
    tokio::time::sleep_until((now() + duration).into()).await;
}

/// The same for a thread that is not a task.
#[expect(clippy::disallowed_methods, reason = "pacing a witness's own thread is what this is for")]
pub fn nap(duration: Duration) {
    std::thread::sleep(duration);
}

/// Ask `condition` every 10 ms until it yields something.
///
/// # Errors
/// When `limit` (stretched, see [`patience`]) has gone by, or `condition` itself fails.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut condition: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = now() + patience(limit);
    loop {
        if let Some(value) = condition().await? {
            return Ok(value);
        }
        if now() >= deadline {
            bail!("waited {:?} in vain: {what}", patience(limit));
        }
        pass(Duration::from_millis(10)).await;
    }
}

/// Milliseconds with fractions.
#[must_use]
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
