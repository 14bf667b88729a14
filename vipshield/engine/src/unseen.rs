//! Daemons that cannot be looked at for the moment: all that was known of them stays, but for those
//! that are gone for certain.

use std::time::Duration;

use super::{Engine, notice::Weight, tell};

/// The looks that failed since the last one that did not.
#[derive(Debug)]
pub(super) struct Unseen {
    /// Why the last of them did.
    error: String,
    times: u32,
}

impl Unseen {
    /// As the status has it.
    pub(super) fn warning(&self) -> String {
        format!(
            "the daemons cannot be looked at: {}; it is tried again; until then all that is known of \
             them stays, and one that starts, or opens a socket anew, is not guarded",
            self.error
        )
    }
}

impl Engine {
    pub(super) fn daemons_unknown(&mut self, error: String, gone: &[u32], now: Duration) {
        let times = self.unseen.as_ref().map_or(0, |unseen| unseen.times).saturating_add(1);
        let unseen = Unseen { error, times };
        // What is met first may be another process each time: that is no news.
        let weight = if times == 1 { Weight::Warning } else { Weight::Detail };
        tell(&mut self.actions, weight, None, unseen.warning());
        self.unseen = Some(unseen);
        let mut orphans = self.bury(|daemon| !gone.contains(&daemon.pid), now);
        self.world.daemons.retain(|pid, _| !gone.contains(pid));
        orphans.retain(|ip| !self.world.vips.is_wanted(*ip));
        for ip in orphans {
            self.take_down(ip);
        }
    }

    /// A look did not fail.
    pub(super) fn daemons_known(&mut self) {
        if let Some(Unseen { times, .. }) = self.unseen.take() {
            let text = format!("the daemons are looked at again, after {times} looks that failed");
            tell(&mut self.actions, Weight::Info, None, text);
        }
    }
}
