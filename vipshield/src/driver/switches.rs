//! Whether the switches that NICs are ports of take new flows: asked now and then.

use std::{future::pending, thread};

use log::debug;
use tokio::sync::oneshot;

use crate::{causes::causes, net::is_served};

/// One question at a time, in a thread of its own: Open vSwitch answers nobody while one of its ports comes
/// or goes, which may take as long as that port's driver does.
#[derive(Default)]
pub(super) struct Inquiry(Option<oneshot::Receiver<Vec<(u32, bool)>>>);

impl Inquiry {
    /// Asks about these switches, unless the last question is still open.
    pub(super) fn make(&mut self, switches: impl Iterator<Item = u32>) {
        let switches: Vec<u32> = switches.collect();
        if self.0.is_some() || switches.is_empty() {
            return;
        }
        let (tell, told) = oneshot::channel();
        let begun = thread::Builder::new().name("switches".to_owned()).spawn(move || {
            let found = |ifindex: u32| Some((ifindex, ask(ifindex)?));
            // Nobody waits for it when vipshield ends.
            let _ = tell.send(switches.into_iter().filter_map(found).collect());
        });
        match begun {
            Ok(_) => self.0 = Some(told),
            Err(error) => debug!("asking whether switches take new flows: {error}"),
        }
    }

    /// What was found, once. One that cannot be told is not in it.
    pub(super) async fn answer(&mut self) -> Vec<(u32, bool)> {
        let Some(told) = &mut self.0 else { return pending().await };
        let found = told.await.unwrap_or_default();
        self.0 = None;
        found
    }
}

fn ask(ifindex: u32) -> Option<bool> {
    is_served(ifindex)
        .inspect_err(|error| debug!("whether a switch takes new flows: {}", causes(error)))
        .ok()
        .flatten()
}
