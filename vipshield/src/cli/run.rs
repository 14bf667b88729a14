//! The command line of `vipshield run`, and of what has it take its file anew.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{
    DEFAULT_SOCKET, Leave, LogFormat, Metrics, Query, executable_name, interface_pattern,
    milliseconds,
};

/// What is guarded, and for how long something untrue is withheld. What is not said here is in the environment, in the
/// configuration file, or the default.
#[derive(Args, Clone, Debug)]
pub struct Guarded {
    /// Configuration file [default: /etc/vipshield/vipshield.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "VIPSHIELD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Guard this interface; or, as in 'ens*', those of the interfaces keepalived uses that fit; may be given
    /// several times [default: those keepalived uses]
    #[arg(
        long = "interface",
        value_name = "NAME",
        env = "VIPSHIELD_INTERFACES",
        value_delimiter = ',',
        value_parser = interface_pattern
    )]
    pub interfaces: Vec<String>,
    /// Guard daemons with this executable name; may be given several times [default: keepalived]
    #[arg(
        long = "daemon",
        value_name = "NAME",
        env = "VIPSHIELD_DAEMONS",
        value_delimiter = ',',
        value_parser = executable_name
    )]
    pub daemons: Vec<String>,
    /// Withhold something untrue for at most this many milliseconds. What is learned from the
    /// adverts on the wire makes it shorter: 1.9 times the shortest interval of the virtual routers
    /// that this node takes part in [default: 1900]
    #[arg(long, value_name = "MS", env = "VIPSHIELD_DEADLINE", value_parser = milliseconds)]
    pub deadline: Option<Duration>,
}

/// `vipshield run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// What is guarded.
    #[command(flatten)]
    pub guarded: Guarded,
    /// What is left behind at SIGTERM and SIGINT [default: keep]
    #[arg(long, value_name = "WHAT", env = "VIPSHIELD_ON_STOP")]
    pub on_stop: Option<Leave>,
    /// Which vipshield this is, where something starts each again that ends, as Kubernetes does a pod's
    /// containers: one that has handed over and is started again stands by until the other ends
    #[arg(long, value_name = "ID", env = "VIPSHIELD_INSTANCE")]
    pub instance: Option<String>,
    /// Only look: withhold nothing and change nothing, of the node or of a daemon; to see beforehand what happens, in
    /// `vipshield events` and in recordings
    #[arg(long, env = "VIPSHIELD_OBSERVE")]
    pub observe: bool,
    /// Control socket
    #[arg(long, value_name = "PATH", env = "VIPSHIELD_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Serve Prometheus metrics at this address under /metrics, or `off` [default: 127.0.0.1:9590]
    #[arg(long, value_name = "ADDRESS", env = "VIPSHIELD_METRICS")]
    pub metrics: Option<Metrics>,
    /// Record all that is seen and done in this file, for `vipshield explain`; at 64 MiB it becomes FILE.1
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// How lines of the log look
    #[arg(long, value_name = "FORMAT", env = "VIPSHIELD_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// `vipshield reload`.
#[derive(Args, Clone, Debug)]
pub struct Reload {
    /// Whom to ask, and how.
    #[command(flatten)]
    pub query: Query,
}
