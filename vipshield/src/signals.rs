//! What tells a vipshield to end: SIGTERM and SIGINT.

use std::io;

use nix::sys::signal::{SigSet, Signal as Number, raise};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// See the [module](self).
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Hears them from now on, and one that was [kept for later](keep_for_later). Needs a tokio runtime.
    pub fn hear() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        SigSet::from(Number::SIGTERM).thread_unblock()?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for one of them, and says which. Cancel safe.
    pub async fn told_to_end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// This process was told to end, and is about to be another program, which is to hear that: what is blocked
/// and pending stays so (`execve(2)`).
pub fn keep_for_later() -> io::Result<()> {
    SigSet::from(Number::SIGTERM).thread_block()?;
    Ok(raise(Number::SIGTERM)?)
}
