//! One vipshield in a network namespace: the one that has a name of vipshield's there.
//!
//! Abstract unix sockets belong to a network namespace, and vanish with their process (`unix(7)`). But
//! anybody may bind any of them. So a name only counts if its holder could be a vipshield; and whoever
//! holds one that does not count stands in nobody's way: there are more names than anybody can hold, or
//! guess. Two vipshields cannot miss each other: each has a name before it looks who else has one.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use log::warn;
use rustix::{fs::fstat, process::geteuid};
use thiserror::Error;

use crate::{
    daemons::{Privilege, ScanError, holders},
    net::{NamedSocket, named},
};

/// The usual name; others begin so, and go on with [`BETWEEN`].
const NAME: &str = "vipshield";
const BETWEEN: u8 = b'-';
/// So many other names are tried: nobody can have bound what nobody can guess.
const OTHERS: usize = 4;

/// So many holders that do not count are told: anybody may bind thousands of names.
const TOLD: usize = 3;

/// The network namespace is this process's for as long as this lives.
#[derive(Debug)]
pub struct Claim {
    listener: UnixListener,
}

impl Claim {
    /// Its socket once more, for who asks to take over: every process of the network namespace reaches it,
    /// whatever it sees of the file system.
    pub fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

/// The network namespace could not be claimed.
#[derive(Debug, Error)]
pub enum ClaimError {
    /// Another vipshield guards it.
    #[error("another vipshield already guards this network namespace ({0}): stop it first")]
    Held(Holder),
    /// No name could be bound.
    #[error("binding an abstract unix socket (@{NAME}): {0}")]
    Bind(#[source] io::Error),
    /// It cannot be told who else has a name.
    #[error(
        "asking the kernel who holds @{NAME}: {0} (it needs CONFIG_UNIX_DIAG: modprobe unix_diag)"
    )]
    Ask(#[source] io::Error),
    /// The processes that hold names could not be looked at.
    #[error(transparent)]
    Look(#[from] ScanError),
}

/// Who holds a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    name: String,
    user: Option<u32>,
    process: Option<u32>,
}

impl Holder {
    fn new(socket: &NamedSocket, process: Option<u32>) -> Self {
        let name = String::from_utf8_lossy(&socket.name).into_owned();
        Self { name, user: socket.user, process }
    }

    /// Its abstract name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }

    /// Its process id, unless it cannot be seen from here.
    #[must_use]
    pub const fn process(&self) -> Option<u32> {
        self.process
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{} is held by ", self.name)?;
        match (self.process, self.user) {
            (Some(process), Some(user)) => write!(f, "process {process} of user {user}"),
            (Some(process), None) => write!(f, "process {process}"),
            (None, Some(user)) => write!(f, "user {user}"),
            (None, None) => f.write_str("somebody the kernel does not name"),
        }
    }
}

/// Makes this the only vipshield of its network namespace, but for one that is to hand over to it.
pub fn claim(beside: Option<&Holder>) -> Result<Claim, ClaimError> {
    let failed = ClaimError::Bind;
    let listener = if let Some(listener) = bind(NAME).map_err(failed)? {
        listener
    } else {
        // Before it has a name itself, or of two that start at once each would give way.
        for passed in strangers(None, beside)? {
            warn!("{passed}, who may not change this network, and is no vipshield: passed over");
        }
        bind_another().map_err(failed)?
    };
    let inode = fstat(&listener).map_err(|errno| failed(errno.into()))?.st_ino;
    strangers(Some(inode), beside)?;
    Ok(Claim { listener })
}

/// Who has names of vipshield's, but for this process's own and that of the one beside it, and does not
/// count; an error if anybody counts.
fn strangers(own: Option<u64>, beside: Option<&Holder>) -> Result<Vec<Holder>, ClaimError> {
    let named = named(NAME.as_bytes()).map_err(ClaimError::Ask)?;
    let others = named.into_iter().filter(|it| is_ours(&it.name) && Some(it.inode) != own);
    let is_root = |user| user == 0 || user == geteuid().as_raw();
    let (roots, strangers): (Vec<_>, Vec<_>) =
        others.partition(|other| other.user.is_none_or(is_root));
    let mut strangers: Vec<Holder> =
        strangers.iter().map(|other| Holder::new(other, None)).collect();
    if !roots.is_empty() {
        let privilege = Privilege::here()?;
        let processes = holders(&roots.iter().map(|other| other.inode).collect())?;
        for other in roots {
            let process = processes.get(&other.inode).copied();
            let holder = Holder::new(&other, process);
            if Some(&holder) == beside {
                continue;
            }
            // One that cannot be seen may be a vipshield in a container of its own.
            if process.is_none_or(|process| privilege.is_seen_to_have(process)) {
                return Err(ClaimError::Held(holder));
            }
            strangers.push(holder);
        }
    }
    strangers.truncate(TOLD);
    Ok(strangers)
}

/// None: somebody has this name.
fn bind(name: &str) -> io::Result<Option<UnixListener>> {
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        bound => bound.map(Some),
    }
}

fn bind_another() -> io::Result<UnixListener> {
    let mut names = (0..OTHERS).map(|_| format!("{NAME}{}{:016x}", char::from(BETWEEN), random()));
    let bound = names.find_map(|name| bind(&name).transpose());
    bound.unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

/// The kernel's own randomness is in the keys of each state.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn is_ours(name: &[u8]) -> bool {
    let rest = name.strip_prefix(NAME.as_bytes());
    rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == BETWEEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_vipshield_are_told_from_others() {
        for (name, ours) in [
            ("vipshield", true),
            ("vipshield-0123", true),
            ("vipshielded", false),
            ("vipshiel", false),
            ("", false),
        ] {
            assert_eq!(is_ours(name.as_bytes()), ours, "{name}");
        }
        assert_ne!(random(), random());
    }
}
