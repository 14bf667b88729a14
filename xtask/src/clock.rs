//! How long things take: the one place that reads a clock.

use std::time::{Duration, Instant};

/// Runs something and says how long it took.
#[expect(clippy::disallowed_methods, reason = "measures real work; nothing is decided by it")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}
