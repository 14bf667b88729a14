//! SIGHUP, with which a daemon is told to reload.

use std::io;

use log::info;
use tokio::signal::unix::{SignalKind, signal};

/// Has it ignored from now on, with a word: what it does otherwise is kill, and the filters would stay.
/// Needs a tokio runtime.
pub fn ignore_hangup() -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            info!(
                "SIGHUP is ignored: there is nothing to reload; to change options, start vipshield anew"
            );
        }
    });
    Ok(())
}
