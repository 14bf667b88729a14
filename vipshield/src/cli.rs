//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::PossibleValue};

use crate::engine::OnStop;

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
    Run(Run),
    /// Show guarded NICs, daemons and counters of the running vipshield.
    ///
    /// Exit status: 0 if it is healthy, 1 if it is degraded or idle, 2 if none answers.
    Status(Query),
    /// Show what the running vipshield saw and decided lately.
    Events(Query),
    /// Take what a vipshield that was killed has left off the daemons of this network namespace.
    Cleanup(Cleanup),
    /// Print a shell's completions.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// `vipshield run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Guard this interface; may be given several times [default: those keepalived uses]
    #[arg(long = "interface", value_name = "NAME", value_parser = interface_name)]
    pub interfaces: Vec<String>,
    /// Guard daemons with this executable name; may be given several times
    #[arg(
        long = "daemon",
        value_name = "NAME",
        default_value = "keepalived",
        value_parser = executable_name
    )]
    pub daemons: Vec<String>,
    /// Withhold something untrue for at most this many milliseconds. What is learned from the
    /// adverts on the wire makes it shorter: 1.9 times the shortest interval of the virtual routers
    /// that this node takes part in
    #[arg(long, value_name = "MS", default_value = "1900", value_parser = milliseconds)]
    pub deadline: Duration,
    /// What is left behind at SIGTERM and SIGINT
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    pub on_stop: OnStop,
    /// Control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Serve Prometheus metrics at this address under /metrics, or `off`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9590")]
    pub metrics: Metrics,
}

/// `vipshield cleanup`.
#[derive(Args, Clone, Debug)]
pub struct Cleanup {
    /// Daemons with this executable name; may be given several times
    #[arg(
        long = "daemon",
        value_name = "NAME",
        default_value = "keepalived",
        value_parser = executable_name
    )]
    pub daemons: Vec<String>,
}

/// A question to the running vipshield.
#[derive(Args, Clone, Debug)]
pub struct Query {
    /// Control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
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

impl ValueEnum for OnStop {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Keep, Self::Release]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Keep => PossibleValue::new("keep").help(
                "while a NIC is a port keepalived's sockets and VIPs stay where they are, for the next \
                 vipshield: it is told nothing. Waits up to 10 s for a move to end; a second signal \
                 ends that",
            ),
            Self::Release => PossibleValue::new("release").help(
                "all is moved back and keepalived is told how things are: while a NIC is a port that \
                 is a failover",
            ),
        })
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

/// The last part of a path: what the kernel tells of an executable in any container.
fn executable_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.contains('/') {
        return Err("an executable's name without its directories, such as keepalived".to_owned());
    }
    Ok(name.to_owned())
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
    fn an_executable_has_a_name_and_no_directory() {
        assert!(executable_name("keepalived").is_ok());
        for name in ["", "/usr/sbin/keepalived", "./keepalived"] {
            assert!(executable_name(name).is_err(), "{name:?}");
        }
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
