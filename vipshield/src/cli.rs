//! The command line.

mod recordings;
mod run;

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::{
    recordings::{Explain, Moment, Record, Rules, TableOutput},
    run::{Guarded, Reload, Run},
};
use crate::{
    engine::{OnStop, pattern},
    manifest::Kind,
};

/// Keeps keepalived calm, and its VIP reachable, while a node's only NIC is taken and given back.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Guard the daemons of this network namespace until SIGTERM or SIGINT.
    ///
    /// Beside a vipshield that runs it takes over from that, which ends: nothing is unguarded meanwhile.
    Run(Run),
    /// Show guarded NICs, daemons and counters of the running vipshield.
    ///
    /// Exit status: 0 if it is healthy, 1 if it is degraded or idle, 2 if none answers.
    Status(Status),
    /// Show what the running vipshield saw and decided lately.
    Events(Events),
    /// See whether vipshield can work here, and what of this node and its keepalived stands in its way.
    ///
    /// It changes nothing, and may be run before vipshield is installed, or beside it. Exit status: 0 if all is
    /// well, 1 if there are warnings, 2 if something fails.
    Check(Check),
    /// Print what Kubernetes needs to run vipshield, as YAML.
    Manifest(Manifest),
    /// Have the running vipshield take its configuration file anew, wholly or not at all.
    ///
    /// Exit status: 0 if it has, 1 if the file is not taken and nothing has changed, 2 if no vipshield answers.
    Reload(Reload),
    /// Print the rules by which vipshield decides, those of the configuration file first.
    ///
    /// Exit status: 2 if something is wrong with the file; all of it is said.
    Rules(Rules),
    /// Write down what the running vipshield saw and did in the last minutes.
    Record(Record),
    /// Show what followed from each event of a recording, and by which rules; or draw a transition (`--svg`).
    Explain(Explain),
    /// Take what a vipshield that was killed has left off the daemons of this network namespace.
    Cleanup(Cleanup),
    /// Print a shell's completions.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages, for packages.
    #[command(hide = true)]
    Man {
        /// Where.
        directory: PathBuf,
    },
}

/// `vipshield check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// What would be guarded.
    #[command(flatten)]
    pub guarded: Guarded,
    /// Show only what is not well
    #[arg(long)]
    pub brief: bool,
    /// Format of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// `vipshield manifest`.
#[derive(Args, Clone, Debug)]
pub struct Manifest {
    /// What for
    pub kind: Kind,
    /// Namespace of the objects
    #[arg(long, value_name = "NAME", default_value = "kube-system", value_parser = label)]
    pub namespace: String,
    /// Image of vipshield
    #[arg(long, value_name = "REFERENCE", default_value = DEFAULT_IMAGE, value_parser = image)]
    pub image: String,
    /// Guard this interface; may be given several times [default: those keepalived uses]
    #[arg(long = "interface", value_name = "NAME", value_parser = interface_name)]
    pub interfaces: Vec<String>,
    /// Serve metrics at the node's address instead of on loopback (IPv4)
    #[arg(long)]
    pub scrape: bool,
}

const DEFAULT_IMAGE: &str = concat!("vipshield:", env!("CARGO_PKG_VERSION"));

/// `vipshield cleanup`.
#[derive(Args, Clone, Debug)]
pub struct Cleanup {
    /// What was guarded.
    #[command(flatten)]
    pub guarded: Guarded,
}

/// `vipshield status`.
#[derive(Args, Clone, Debug)]
pub struct Status {
    /// Whom to ask, and how.
    #[command(flatten)]
    pub query: Query,
    /// Ask only whether a vipshield answers: exit status 0 if one does, however things are, and 2 if not; for
    /// probes
    #[arg(long)]
    pub answers: bool,
    /// Say how it is in one line
    #[arg(long)]
    pub brief: bool,
    /// Wait so long for it to be healthy, as in 60s or 2m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// Show it again every second
    #[arg(long, conflicts_with = "wait")]
    pub watch: bool,
}

/// `vipshield events`.
#[derive(Args, Clone, Debug)]
pub struct Events {
    /// Whom to ask, and how.
    #[command(flatten)]
    pub query: Query,
    /// Only what happened within this time, as in 30s or 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub since: Option<Duration>,
    /// Go on with what happens from now on; with `-o json` one object a line
    #[arg(long, short)]
    pub follow: bool,
}

/// A question to the running vipshield.
#[derive(Args, Clone, Debug)]
pub struct Query {
    /// Control socket
    #[arg(long, value_name = "PATH", env = "VIPSHIELD_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Format of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

const DEFAULT_SOCKET: &str = "/run/vipshield/vipshield.sock";

/// Format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How lines of the log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line, with `time`, `level`, `target`, `message` and, where there is one, `nic`.
    Json,
}

/// What is left behind at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Leave {
    /// While a NIC is a port keepalived's sockets and VIPs stay where they are, for the next vipshield: it
    /// is told nothing. Waits up to 10 s for a move to end; a second signal ends that.
    Keep,
    /// All is moved back and keepalived is told how things are: while a NIC is a port that is a failover.
    Release,
}

impl Leave {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Keep, Self::Release];
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Release => "release",
        })
    }
}

impl From<Leave> for OnStop {
    fn from(leave: Leave) -> Self {
        match leave {
            Leave::Keep => Self::Keep,
            Leave::Release => Self::Release,
        }
    }
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// Nowhere.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl fmt::Display for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for Metrics {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse()
            .map(Self::At)
            .map_err(|error| format!("{error}: expected an address like 127.0.0.1:9590, or off"))
    }
}

/// What the kernel takes for an interface name (`dev_valid_name` in `net/core/dev.c`).
fn interface_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| !c.is_whitespace() && c != '/' && c != ':';
    if name.is_empty()
        || name.len() > 15
        || name == "."
        || name == ".."
        || !name.chars().all(allowed)
    {
        return Err("an interface name has 1 to 15 bytes, without spaces, '/' and ':'".to_owned());
    }
    Ok(name.to_owned())
}

/// The same, or a pattern of such names.
pub(crate) fn interface_pattern(name: &str) -> Result<String, String> {
    // A star may be no character at all.
    let bare = name.replace('*', "");
    if pattern::is_pattern(name) && bare.is_empty() && name.len() <= 15 {
        return Ok(name.to_owned());
    }
    interface_name(&bare).map(|_| name.to_owned())
}

/// The last part of a path: what the kernel tells of an executable in any container.
pub(crate) fn executable_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains('/') {
        return Err("an executable's name without its directories, such as keepalived".to_owned());
    }
    Ok(name.to_owned())
}

/// A name of a namespace in Kubernetes (RFC 1123).
fn label(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let dash = |name: &str| name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) || dash(name) {
        return Err("1 to 63 of a-z, 0-9 and -, which neither begins nor ends it".to_owned());
    }
    Ok(name.to_owned())
}

fn image(reference: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if reference.is_empty() || !reference.chars().all(allowed) {
        return Err("an image such as registry.example/vipshield:0.1.0".to_owned());
    }
    Ok(reference.to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(number @ 50..=60_000) => Ok(Duration::from_millis(number)),
        Ok(number) => Err(format!("{number} ms is not between 50 and 60000")),
        Err(error) => Err(format!("{error}: expected a number of milliseconds")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn names_no_interface_can_have_are_refused() {
        for name in ["", "a b", "ens192:1", "../x", "0123456789abcdef", "..", "tab\t"] {
            assert!(interface_name(name).is_err(), "{name:?}");
        }
        assert!(interface_name("br-provider").is_ok());
    }

    #[test]
    fn a_pattern_stands_for_names_that_there_can_be() {
        for pattern in ["ens192", "ens*", "*", "e?s1*", "0123456789abcd*"] {
            assert!(interface_pattern(pattern).is_ok(), "{pattern:?}");
        }
        for pattern in ["", "ens *", "0123456789abcde?", "a/*", "*:1"] {
            assert!(interface_pattern(pattern).is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn an_executable_has_a_name_and_no_directory() {
        assert!(executable_name("keepalived").is_ok());
        for name in ["", "/usr/sbin/keepalived", "./keepalived"] {
            assert!(executable_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_goes_into_a_manifest_is_checked() {
        for name in ["", "Kube", "a b", "-a", "a-", "a\nb"] {
            assert!(label(name).is_err(), "{name:?}");
        }
        assert!(label("kube-system").is_ok());
        assert!(image("a b").is_err() && image("").is_err());
        assert!(image("registry.example:5000/vipshield@sha256:00").is_ok());
    }

    #[test]
    fn a_deadline_has_bounds() {
        assert!(milliseconds("0").is_err());
        assert!(milliseconds("1.5").is_err());
        assert_eq!(milliseconds("1900"), Ok(Duration::from_millis(1900)));
    }

    #[test]
    fn metrics_are_off_or_at_an_address() {
        assert_eq!("off".parse(), Ok(Metrics::Off));
        assert!("9590".parse::<Metrics>().is_err());
        assert!("127.0.0.1:9590".parse::<Metrics>().is_ok());
    }
}
