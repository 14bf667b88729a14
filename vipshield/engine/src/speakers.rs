//! Who speaks VRRP on this node and is no daemon that was found, so that nothing guards it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Somebody who is not guarded, and whom an operator may have meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "speaker", rename_all = "snake_case")]
pub enum Speaker {
    /// A process whose executable has another name has VRRP sockets in this network namespace.
    Renamed {
        /// Process id.
        pid: u32,
        /// Name of its executable.
        name: String,
    },
    /// There are VRRP sockets in this network namespace, and nobody is seen who has them.
    Hidden {
        /// The system refused to show some process or other.
        refused: bool,
    },
    /// A process with a daemon's executable, in another network namespace, while this is not that of the
    /// node's first process.
    Elsewhere {
        /// Process id.
        pid: u32,
        /// Name of its executable.
        name: String,
    },
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed { pid, name } => write!(
                f,
                "{name} {pid} speaks VRRP in this network namespace and is not guarded: if it is \
                 keepalived by another name, give --daemon {name}"
            ),
            Self::Hidden { refused: false } => f.write_str(
                "somebody speaks VRRP in this network namespace, and no such process is seen: give \
                 vipshield the host's PID namespace (hostPID: true), or that of keepalived's pod \
                 (shareProcessNamespace: true)",
            ),
            Self::Hidden { refused: true } => f.write_str(
                "somebody speaks VRRP in this network namespace, and the process may not be looked \
                 at: give vipshield the capability SYS_PTRACE and the host's PID namespace (hostPID: \
                 true)",
            ),
            Self::Elsewhere { pid, name } => write!(
                f,
                "{name} {pid} is in another network namespace than vipshield, and none is in this: \
                 run vipshield in keepalived's, on a node the host's (hostNetwork: true)"
            ),
        }
    }
}
