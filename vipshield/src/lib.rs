//! vipshield keeps keepalived calm, and its VIP reachable, while a node's only NIC is taken by a
//! bridge and given back.
//!
//! ```text
//!             kernel                            userspace
//! netlink filters   --ring buffer-->  bpf     \                   / daemons   attach, rebind, resync
//! exec, fork, exit  --ring buffer-->  bpf      > driver  engine  <  net       replay, carry
//! rtnetlink         ------------------> net   /  (Event) (Action) \ bpf       policy, heartbeat
//! ```
//!
//! [`engine`] decides and does no I/O; [`driver`] is the only reader of the clock and carries
//! events in and actions out; everything else is a thin adapter.

pub mod bpf;
mod causes;
pub mod check;
pub mod claim;
pub mod cli;
pub mod config;
pub mod daemons;
pub mod driver;
mod keepalived;
pub mod logging;
pub mod manifest;
pub mod metrics;
pub mod net;
pub mod recording;
pub mod signals;
pub mod status;
pub mod succession;
mod watch;

pub use vipshield_engine::{self as engine, wire};
