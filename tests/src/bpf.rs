//! What a process has of eBPF, and whether it is still loaded once the process is gone.
//!
//! eBPF objects belong to no namespace, and several labs may run at once: so they are known by the
//! ids that the process itself held (`/proc/PID/fdinfo`).

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::libc;
use nix::unistd::Pid;

use crate::clock;

/// A kind of eBPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Program,
    Map,
    Link,
}

impl Kind {
    /// The key of its id in `/proc/PID/fdinfo`.
    const fn key(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
        }
    }

    /// The command of bpf(2) that opens it by id (`linux/bpf.h`; links: Linux 5.8).
    const fn command(self) -> libc::c_int {
        match self {
            Self::Program => 13,
            Self::Map => 14,
            Self::Link => 30,
        }
    }
}

/// The eBPF objects that a process held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects(BTreeSet<(Kind, u32)>);

impl BpfObjects {
    /// Those of a process that runs.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/fdinfo");
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&path).with_context(|| path.clone())?.flatten() {
            // A descriptor may be closed by now.
            found.extend(ids(&std::fs::read_to_string(entry.path()).unwrap_or_default()));
        }
        Ok(Self(found))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of them that are still loaded, in words, after the kernel had 2 s (stretched) to free
    /// what nobody uses any more: it does so some moments later.
    pub async fn left(&self) -> Vec<String> {
        let deadline = clock::now() + clock::patience(Duration::from_secs(2));
        loop {
            let left: Vec<_> = self.0.iter().filter(|(kind, id)| is_loaded(*kind, *id)).collect();
            if left.is_empty() || clock::now() >= deadline {
                return left.into_iter().map(|(kind, id)| format!("eBPF {kind} {id}")).collect();
            }
            clock::pass(Duration::from_millis(20)).await;
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Program => "program",
            Self::Map => "map",
            Self::Link => "link",
        })
    }
}

/// The ids in one file of `fdinfo`. A link's names its program too.
fn ids(text: &str) -> Vec<(Kind, u32)> {
    let id = |kind: Kind| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind.key()))?;
        Some((kind, line.trim().parse().ok()?))
    };
    [Kind::Program, Kind::Map, Kind::Link].into_iter().filter_map(id).collect()
}

/// Whether the kernel has an object with this id. It is opened for a moment.
fn is_loaded(kind: Kind, id: u32) -> bool {
    // `union bpf_attr`: the id, the id to begin after, flags.
    let attributes: [u32; 3] = [id, 0, 0];
    // SAFETY: the kernel reads as many bytes as it is told, all of them initialised; these commands
    // write nothing back.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            kind.command(),
            attributes.as_ptr(),
            size_of_val(&attributes) as libc::c_uint,
        )
    };
    if descriptor < 0 {
        return false;
    }
    // SAFETY: the descriptor was just opened and is nobody else's.
    drop(unsafe {
        <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor as i32)
    });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_its_program() {
        let text = "pos:\t0\nflags:\t02\nlink_type:\traw_tracepoint\nlink_id:\t7\nprog_id:\t12\n";
        assert_eq!(ids(text), [(Kind::Program, 12), (Kind::Link, 7)]);
        assert_eq!(ids("pos:\t0\nmap_type:\t2\nmap_id:\t33\n"), [(Kind::Map, 33)]);
        assert_eq!(ids("pos:\t0\n"), []);
    }
}
