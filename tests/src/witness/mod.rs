//! Witnesses: what happened, seen from where vipshield has no say.

pub mod advert;
pub mod announcement;
pub mod arp;
pub mod arrivals;
pub mod monitor;
mod nd;
pub mod probe;
pub mod stall;
pub mod tcp;
pub mod timeline;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::clock;
use crate::netns::Netns;
use crate::process::be_punctual;

/// A thread that witnesses until told to stop. Dropping it stops and joins it.
#[derive(Debug)]
pub(crate) struct Watcher {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Run `work` on a thread of its own; it looks at the flag at least every
    /// 100 ms and returns when it is set.
    pub(crate) fn start(
        name: &str,
        work: impl FnOnce(&AtomicBool) + Send + 'static,
    ) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&over);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // On an emulated machine it would be punctual at the cost of what it watches.
                if clock::is_brisk() {
                    be_punctual();
                }
                work(&flag);
            })
            .with_context(|| format!("cannot start the thread of witness {name}"))?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket made inside `namespace`.
pub(crate) fn socket_in(
    namespace: &Netns,
    domain: socket2::Domain,
    kind: socket2::Type,
    protocol: Option<socket2::Protocol>,
) -> Result<socket2::Socket> {
    namespace.run(|| socket2::Socket::new(domain, kind, protocol).context("witness socket"))
}
