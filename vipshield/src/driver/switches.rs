//! Whether the switches that NICs are ports of take new flows: asked now and then.

use std::{collections::BTreeMap, future::pending, thread};

use log::debug;
use tokio::sync::oneshot;

use crate::{
    causes::causes,
    net::{Service, service},
};

/// A switch that has questions waiting whenever it is looked at, so many times in a row, answers none.
const STUCK: u32 = 8;

/// One question at a time, in a thread of its own: Open vSwitch answers nobody while one of its ports comes
/// or goes, which may take as long as that port's driver does.
#[derive(Default)]
pub(super) struct Inquiry {
    answer: Option<oneshot::Receiver<Vec<(u32, Service)>>>,
    /// How often in a row a switch had questions waiting.
    behind: BTreeMap<u32, u32>,
}

impl Inquiry {
    /// Asks about these switches, unless the last question is still open.
    pub(super) fn make(&mut self, switches: impl Iterator<Item = u32>) {
        let switches: Vec<u32> = switches.collect();
        if self.answer.is_some() || switches.is_empty() {
            return;
        }
        let (tell, told) = oneshot::channel();
        let begun = thread::Builder::new().name("switches".to_owned()).spawn(move || {
            let found = |ifindex: u32| Some((ifindex, ask(ifindex)?));
            // Nobody waits for it when vipshield ends.
            let _ = tell.send(switches.into_iter().filter_map(found).collect());
        });
        match begun {
            Ok(_) => self.answer = Some(told),
            Err(error) => debug!("asking whether switches take new flows: {error}"),
        }
    }

    /// What was found, once: whether each takes new flows. One that cannot be told is not in it.
    pub(super) async fn answer(&mut self) -> Vec<(u32, bool)> {
        let Some(told) = &mut self.answer else { return pending().await };
        let found = told.await.unwrap_or_default();
        self.answer = None;
        self.judge(found)
    }

    fn judge(&mut self, found: Vec<(u32, Service)>) -> Vec<(u32, bool)> {
        let before = std::mem::take(&mut self.behind);
        let mut judged = Vec::new();
        for (ifindex, service) in found {
            judged.push((
                ifindex,
                match service {
                    Service::Gone => false,
                    Service::Behind => {
                        let times =
                            before.get(&ifindex).copied().unwrap_or_default().saturating_add(1);
                        self.behind.insert(ifindex, times);
                        times < STUCK
                    }
                    Service::Prompt => true,
                },
            ));
        }
        judged
    }
}

fn ask(ifindex: u32) -> Option<Service> {
    service(ifindex)
        .inspect_err(|error| debug!("whether a switch takes new flows: {}", causes(error)))
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_always_has_questions_waiting_is_stuck() {
        let mut inquiry = Inquiry::default();
        let mut look = |service| inquiry.judge(vec![(7, service), (8, Service::Prompt)]);
        let [stuck, well] = [vec![(7, false), (8, true)], vec![(7, true), (8, true)]];
        for _ in 1..STUCK {
            assert_eq!(look(Service::Behind), well);
        }
        assert_eq!(look(Service::Behind), stuck);
        assert_eq!(look(Service::Behind), stuck);
        assert_eq!(look(Service::Prompt), well, "all was answered");
        assert_eq!(look(Service::Behind), well, "it is counted anew");
        assert_eq!(look(Service::Gone), stuck);
    }
}
