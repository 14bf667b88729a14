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
    server::{Server, ServerError},
    text::{events_text, status_text},
};
use crate::engine::{ClaimStatus, DaemonStatus, Health, NicStatus, Notice, RouterStatus};

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How are things?
    Status,
    /// What happened lately?
    Events,
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
    /// Event counters since start.
    pub counters: BTreeMap<String, u64>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastEvent {
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
    /// To anything that is not a request.
    Refused {
        /// Why.
        error: String,
    },
}
