//! The world and what the engine remembers of it as events: what an engine that knows nothing has to be told
//! to go on from here.

use std::time::Duration;

use super::Entry;
use crate::{Engine, Event};

impl Engine {
    /// A checkpoint: what another vipshield would be told and find that takes over. What was under way is not
    /// in it, nor what was counted.
    #[must_use]
    pub fn checkpoint(&self, at: Duration) -> Entry {
        let mut events = vec![Event::Configured { config: Box::new(self.config.clone()) }];
        events.extend(
            self.next_config
                .iter()
                .map(|config| Event::Configured { config: Box::new(config.clone()) }),
        );
        events.extend([
            Event::Carried { nics: self.in_force() },
            Event::TakenOver { from: Box::new(self.hand_over()) },
            self.world.snapshot(),
            Event::Speakers { speakers: self.speakers.clone() },
            Event::Daemons { daemons: self.world.daemons.values().cloned().collect() },
        ]);
        Entry { at, events, actions: Vec::new() }
    }
}
