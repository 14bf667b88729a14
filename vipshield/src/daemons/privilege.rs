//! Who may change the network of this network namespace.
//!
//! A name proves nothing: anybody may call a program keepalived, and bind any abstract name. What counts
//! is what the kernel asks before it does anything for a process (`rtnetlink_rcv_msg` in
//! `net/core/rtnetlink.c`): `CAP_NET_ADMIN` in the user namespace that owns the network namespace. A
//! process has that if it has the capability in its own user namespace, and that one owns the network
//! namespace or is an ancestor of the one that does (`cap_capable` in `security/commoncap.c`). Whoever
//! makes a user namespace of his own has every capability in there, and none here.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::PathBuf,
};

use rustix::fs::fstat;

use super::proc::{ScanError, Unseen, seen, text};

/// `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;

/// This thread's network namespace.
pub(super) const NAMESPACE: &str = "/proc/thread-self/ns/net";

mod ioctl {
    //! `linux/nsfs.h`, Linux 4.9. Both answer EPERM for what lies outside of the asker's own user
    //! namespace (`ns_get_owner` in `kernel/user_namespace.c`), and ask for no capability.

    use nix::ioctl_none;

    const NSIO: u8 = 0xb7;
    ioctl_none!(owner, NSIO, 1);
    ioctl_none!(parent, NSIO, 2);
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Privilege {
    /// Inodes of the user namespaces whose capabilities count.
    users: BTreeSet<u64>,
}

impl Privilege {
    /// That over this thread's network namespace.
    pub fn here() -> Result<Self, ScanError> {
        let found = rulers();
        let users = found.map_err(|source| ScanError::Proc { path: NAMESPACE.into(), source })?;
        Ok(Self { users })
    }

    /// Whether a process has it. It counts what the process may have at any time: some lower their
    /// capabilities while they do not need them.
    pub(super) fn has(&self, pid: u32) -> Result<bool, Unseen> {
        if !may_administrate(pid)? {
            return Ok(false);
        }
        let path = PathBuf::from(format!("/proc/{pid}/ns/user"));
        let user = seen(&path, |path| fs::metadata(path))?;
        Ok(self.users.contains(&user.ino()))
    }

    /// Whether capabilities count in the user namespace with this inode number.
    pub(super) fn counts(&self, user_namespace: u32) -> bool {
        self.users.contains(&user_namespace.into())
    }

    /// The same, where nothing follows from a process that cannot be looked at.
    #[must_use]
    pub fn is_seen_to_have(&self, pid: u32) -> bool {
        self.has(pid).unwrap_or(false)
    }
}

/// Whether a process may have `CAP_NET_ADMIN` in its own user namespace.
fn may_administrate(pid: u32) -> Result<bool, Unseen> {
    let status = text(&PathBuf::from(format!("/proc/{pid}/status")))?;
    Ok(permitted(&status).is_some_and(|set| set & (1 << CAP_NET_ADMIN) != 0))
}

/// The permitted capabilities in `/proc/PID/status`, which everybody may read.
fn permitted(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// The user namespace that owns this network namespace, and its ancestors, as far as this process may
/// know of them: up to its own.
fn rulers() -> io::Result<BTreeSet<u64>> {
    let mut users = BTreeSet::new();
    let mut user = related(File::open(NAMESPACE)?, ioctl::owner)?;
    loop {
        users.insert(fstat(&user)?.st_ino);
        user = match related(&user, ioctl::parent) {
            Ok(parent) => parent,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(users),
            Err(error) => return Err(error),
        };
    }
}

fn related(
    namespace: impl AsFd,
    ask: unsafe fn(libc::c_int) -> nix::Result<libc::c_int>,
) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is open for as long as the call lasts, and the request has no argument.
    let answer = unsafe { ask(namespace.as_fd().as_raw_fd()) }?;
    // SAFETY: the kernel has opened it for this process just now (`open_related_ns` in `fs/nsfs.c`),
    // and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_user_namespace_is_one_of_them() {
        let users = rulers().unwrap();
        let own = fs::metadata("/proc/self/ns/user").unwrap().ino();
        assert!(users.contains(&own), "{own} in {users:?}");
    }

    #[test]
    fn permitted_capabilities_are_read() {
        let status =
            "Name:\tCapPrm:\nCapInh:\t0000000000000000\nCapPrm:\t0000000000001000\nCapEff:\t0\n";
        assert_eq!(permitted(status), Some(1 << CAP_NET_ADMIN));
        for garbled in ["", "CapPrm:", "CapPrm:\tx", "CapEff:\t0000000000001000"] {
            assert_eq!(permitted(garbled), None, "{garbled}");
        }
    }

    #[test]
    fn who_is_gone_has_none() {
        let privilege = Privilege::here().unwrap();
        assert!(!privilege.is_seen_to_have(u32::MAX));
        assert!(!privilege.is_seen_to_have(0));
    }
}
