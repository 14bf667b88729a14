//! One vipshield hands over to another, while both run: an upgrade costs nothing.
//!
//! The one that starts prepares all that can fail, and then asks the one that runs, over its control socket or
//! the abstract one by which it holds the network namespace.
//! That one waits until no move is under way, says what it knows, and decides nothing any more; but it lives:
//! its guard is on the daemons' sockets and withholds what it withheld, until the other has put its own in its
//! place. When that has everything it says so, and the first one ends. If it dies before, or has not taken over in
//! time, which ends it, the first one begins anew with what it knew: the other may have changed anything.
//!
//! ```text
//! successor                                        predecessor
//!   {"request":"hand_over","instance":I}     -->     waits, 10 s at the most; then decides nothing
//!                                            <--     {"answer":"handed_over","layout":1,"state":..}
//!   adopts, guards                                   renews what is carried; withholds for 1.9 s at the most
//!   {"request":"at_work"}, at each step      -->     waits 3 s for the next word, 12 s in all
//!   {"request":"taken"}                      -->     ends with 0
//! ```
//!
//! What is said is a line of JSON. A state of another layout is not looked at: all is learned from the kernel,
//! as after a kill.

mod memory;
mod predecessor;
mod successor;

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::{
    memory::{keep, recall},
    predecessor::{Answered, Connected, Predecessor, Succession},
    successor::Successor,
};
use crate::{claim::Holder, engine::Handover};

/// The longest line, in bytes: thousands of VIPs.
const LONGEST: u64 = 16 << 20;
/// A line that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// The vipshield that runs does not hand over.
#[derive(Debug, Error)]
pub enum SuccessionError {
    /// It cannot be asked.
    #[error(
        "another vipshield already guards this network namespace ({holder}), and cannot be asked to hand over: \
         {source}; stop it first"
    )]
    Unreachable {
        /// The other.
        holder: Holder,
        /// Why.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error(
        "another vipshield already guards this network namespace ({0}), and another process answers for it: \
         stop it first"
    )]
    Stranger(Holder),
    /// It says no, or what is of another version.
    #[error("the vipshield that runs does not hand over: {0}; stop it first")]
    Refused(String),
    /// It fell silent.
    #[error("the vipshield that runs did not hand over: {0}")]
    Silent(#[source] io::Error),
}

/// What the one that runs answers.
#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum Answer {
    /// From now on it decides nothing.
    HandedOver {
        /// [`Handover::VERSION`], which says what `state` is.
        layout: u32,
        /// Its version.
        release: String,
        /// Which one it is, of several that start again by themselves.
        instance: Option<String>,
        state: serde_json::Value,
    },
    /// The asking one is to wait until this one has ended: it is about to; or the asking one is the one from
    /// which it took over, started again by whoever watches that.
    StandBy,
}

/// What the successor says while it takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Word {
    /// It has come a step further.
    AtWork,
    /// It has everything.
    Taken,
}
