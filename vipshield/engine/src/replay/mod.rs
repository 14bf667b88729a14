//! A recording, played through the engine again: what followed from each event, and by which rules.

pub mod picture;
pub mod svg;
mod view;
mod words;

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

pub use self::view::{Belief, NicView, Untrue};
use crate::{
    Action, Engine, Event,
    record::{Entry, Header},
};

/// What a checkpoint leads to is done in no more rounds than this.
const ROUNDS: usize = 64;

/// One entry of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The engine's time, in nanoseconds.
    pub at_ns: u64,
    /// Each event in a line.
    pub events: Vec<String>,
    /// What is another than before, each in a line.
    pub changes: Vec<String>,
    /// What was asked for, each in a line.
    pub actions: Vec<String>,
    /// What was asked for and is not now, and what is now and was not, each in a line. Empty if this engine
    /// decides as the one that was recorded.
    pub differs: Vec<String>,
    /// The guarded NICs after it.
    pub nics: Vec<NicView>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Replay {
    engine: Engine,
    /// The next entry is a checkpoint.
    begins: bool,
    nics: Vec<NicView>,
}

impl Replay {
    /// Before the first entry of what has this header.
    #[must_use]
    pub fn new(header: &Header) -> Self {
        let engine = Engine::new(header.config.clone());
        Self { engine, begins: !header.whole, nics: Vec::new() }
    }

    /// Plays the next entry.
    pub fn play(&mut self, entry: &Entry) -> Step {
        let is_checkpoint = std::mem::take(&mut self.begins);
        self.engine.handle_all(entry.events.iter().cloned(), entry.at);
        let actions = self.asked();
        let differs = if is_checkpoint {
            // That was done when it was recorded.
            self.settle(actions, entry.at);
            Vec::new()
        } else {
            difference(&entry.actions, &actions)
        };
        let nics = self.engine.views();
        let changes = view::changes(&self.nics, &nics, entry.at);
        self.nics.clone_from(&nics);
        Step {
            at_ns: u64::try_from(entry.at.as_nanos()).unwrap_or(u64::MAX),
            events: if is_checkpoint {
                vec!["checkpoint: all that was observed and is in force".to_owned()]
            } else {
                entry.events.iter().map(words::event).collect()
            },
            changes,
            actions: entry.actions.iter().map(words::action).collect(),
            differs,
            nics,
        }
    }

    fn asked(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.engine.poll_action()).collect()
    }

    fn settle(&mut self, mut actions: Vec<Action>, at: Duration) {
        for _ in 0..ROUNDS {
            let done: Vec<Event> = actions
                .into_iter()
                .filter(|action| !matches!(action, Action::Tell { .. } | Action::Finish { .. }))
                .map(|action| Event::Succeeded { action })
                .collect();
            if done.is_empty() {
                break;
            }
            self.engine.handle_all(done, at);
            actions = self.asked();
        }
    }
}

/// Lines for what only one of them has; one for another order.
fn difference(recorded: &[Action], replayed: &[Action]) -> Vec<String> {
    if recorded == replayed {
        return Vec::new();
    }
    let mut rest: VecDeque<&Action> = replayed.iter().collect();
    let mut lines = Vec::new();
    for action in recorded {
        if let Some(at) = rest.iter().position(|other| *other == action) {
            rest.remove(at);
        } else {
            lines.push(format!("recorded only: {}", words::action(action)));
        }
    }
    lines
        .extend(rest.into_iter().map(|action| format!("replayed only: {}", words::action(action))));
    if lines.is_empty() {
        lines.push("the same actions in another order".to_owned());
    }
    lines
}
