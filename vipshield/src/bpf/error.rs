//! What can go wrong with the eBPF programs and their maps, and what an operator can do about it.

use std::{fmt, io};

use aya::{EbpfError, maps::MapError, programs::ProgramError};
use log::debug;
use thiserror::Error;

use crate::daemons::SocketError;

/// Something about the eBPF programs or their maps failed.
#[derive(Debug, Error)]
pub enum BpfError {
    /// The object was not accepted.
    #[error("loading the eBPF object")]
    Load(#[from] EbpfError),
    /// Something is missing that vipshield cannot do without.
    #[error("{}", lacks.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Lacking {
        /// What.
        lacks: Vec<Lack>,
        /// How that showed.
        #[source]
        source: Box<BpfError>,
    },
    /// A program was not accepted by the kernel.
    #[error("the kernel does not take the eBPF program {program}{reason}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What the verifier said last, if anything.
        reason: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program could not be put in place.
    #[error("the eBPF program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// A program could not be put on an interface.
    #[error("the eBPF program {program} on interface {ifindex}")]
    Place {
        /// Its name.
        program: &'static str,
        /// Interface index.
        ifindex: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A map could not be read or written.
    #[error("the eBPF map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// The object lacks something: it was not built from this tree.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// A ring buffer's descriptor could not be watched.
    #[error("watching an eBPF ring buffer: {0}")]
    Watch(#[source] io::Error),
    /// The heartbeat's thread.
    #[error("a thread for the heartbeat: {0}")]
    Thread(#[source] io::Error),
    /// The thread that puts programs on interfaces.
    #[error("putting eBPF programs on interfaces: {0}")]
    Placer(#[source] io::Error),
    /// It is not known how many CPUs there may be.
    #[error("counting CPUs: {0}")]
    Cpus(#[source] io::Error),
    /// An interface that is not there.
    #[error("interface {ifindex}")]
    Interface {
        /// Interface index.
        ifindex: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The interfaces could not be listed.
    #[error("listing interfaces: {0}")]
    Interfaces(#[source] io::Error),
    /// A daemon's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// An interface name that no interface can have.
    #[error("{0:?} is no interface name: at most 15 bytes, not empty")]
    Name(String),
}

impl BpfError {
    /// What happened to a program. All that the verifier writes of one is for a developer.
    pub(super) fn of(program: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                debug!("{program}: {log}");
                let last = last_words(&log);
                let reason = last.map(|last| format!(" ({last})")).unwrap_or_default();
                Self::Refused { program, reason, source: io_error }
            }
            source => Self::Program { program, source },
        }
    }

    /// Whether a map could not be made because the kernel does not allow it.
    pub(super) fn is_map_not_allowed(&self) -> bool {
        matches!(
            self,
            Self::Load(EbpfError::MapError(MapError::CreateError { io_error, .. }))
                if io_error.raw_os_error() == Some(libc::EPERM)
        )
    }
}

/// The last line of what the verifier wrote that is not about its own work.
fn last_words(log: &str) -> Option<&str> {
    const OF_ITSELF: [&str; 4] =
        ["processed ", "verification time ", "stack depth ", "insns processed"];
    let mut lines = log.lines().rev().map(|line| line.trim_matches([' ', '\0']));
    lines.find(|line| !line.is_empty() && !OF_ITSELF.iter().any(|own| line.starts_with(own)))
}

/// Something that vipshield cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What it is, and what it costs.
    pub text: String,
    /// What to do.
    pub way_out: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.text, self.way_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_verifier_objects_to_comes_last() {
        let log = "; let known = 0\n5: (85) call bpf_get_netns_cookie#122\n\
                   unknown func bpf_get_netns_cookie#122\nverification time 20 usec\nstack depth 0\n\
                   processed 6 insns (limit 1000000) max_states_per_insn 0\n\0";
        assert_eq!(last_words(log), Some("unknown func bpf_get_netns_cookie#122"));
        assert_eq!(last_words("processed 6 insns\n"), None);
        assert_eq!(last_words(""), None);
    }

    #[test]
    fn a_lack_is_said_with_its_way_out() {
        let lack = Lack { text: "no ring".to_owned(), way_out: "use Linux 5.8".to_owned() };
        let source = Box::new(BpfError::Missing("it"));
        let error = BpfError::Lacking { lacks: vec![lack.clone(), lack], source };
        assert_eq!(error.to_string(), "no ring: use Linux 5.8; no ring: use Linux 5.8");
    }
}
