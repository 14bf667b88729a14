//! What `vipshield status` and `vipshield events` show, and the unix socket they ask.
//!
//! One request a connection: a line of JSON there, a line of JSON back.

mod client;
mod server;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    client::{ClientError, ask},
    server::{Asked, Server, ServerError},
    text::{brief_text, events_text, status_text},
};
use crate::engine::{
    ClaimStatus, DaemonStatus, Health, NicStatus, Notice, RouterStatus, VipStatus,
};

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How are things?
    Status,
    /// What happened lately?
    Events,
    /// May another vipshield take over? See [`succession`](crate::succession).
    HandOver {
        /// Which one it is, of several that start again by themselves.
        #[serde(default)]
        instance: Option<String>,
    },
    /// What was seen and done in the last minutes?
    Record,
    /// Take the configuration file anew.
    Reload,
}

/// The state of a running vipshield.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Inode of the network namespace it guards.
    pub network_namespace: u64,
    /// For how long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// How all is.
    #[serde(flatten)]
    pub health: Health,
    /// Guarded NICs.
    pub nics: Vec<NicStatus>,
    /// Interfaces that were asked for and do not exist.
    pub missing: Vec<String>,
    /// What an operator should mend.
    pub warnings: Vec<String>,
    /// Guarded daemons.
    pub daemons: Vec<DaemonStatus>,
    /// Virtual routers on the wire.
    #[serde(default)]
    pub routers: Vec<RouterStatus>,
    /// Who claims the addresses of those that this node takes part in.
    #[serde(default)]
    pub claims: Vec<ClaimStatus>,
    /// What daemons have, or had lately.
    #[serde(default)]
    pub vips: Vec<VipStatus>,
    /// For how long the loop was away.
    #[serde(default)]
    pub absence: Absence,
    /// Actions that failed, by what they are called.
    #[serde(default)]
    pub failed_actions: BTreeMap<String, u64>,
    /// Messages that the configuration's own rules have passed, by the rule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub own_rules: BTreeMap<String, u64>,
    /// Event counters since start.
    pub counters: BTreeMap<String, u64>,
}

/// For how long one turn of the loop took at the most, in microseconds: what was seen meanwhile had to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// At any time.
    pub longest_us: u64,
    /// While a NIC was in transition.
    pub in_transition_us: u64,
    /// The same, less the time in which others had its processor.
    #[serde(default)]
    pub own_in_transition_us: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEvent {
    /// How many there were up to this one since vipshield started.
    #[serde(default)]
    pub number: u64,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
    /// What.
    #[serde(flatten)]
    pub notice: Notice,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Events`], oldest first.
    Events(Vec<PastEvent>),
    /// To [`Request::Record`].
    Recording {
        /// The recording, as it is in a file.
        recording: String,
    },
    /// To [`Request::Reload`].
    Reloaded {
        /// What is so now.
        reloaded: String,
    },
    /// To anything that is not a request, or cannot be done.
    Refused {
        /// Why.
        error: String,
    },
}
