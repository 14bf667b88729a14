//! Duplicates of another process's sockets.

use std::os::fd::OwnedFd;

use rustix::{
    fs::fstat,
    io::Errno,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};
use thiserror::Error;

use super::errno::{NEEDS_PTRACE, Says, of_descriptor, of_pidfd, way_out};
use crate::engine::SocketId;

/// A socket of another process could not be had.
#[derive(Debug, Error)]
pub enum BorrowError {
    /// The process is gone, was never there, or cannot be held.
    #[error("process {pid}: {source}{}", hint(*source))]
    Process {
        /// Its id.
        pid: u32,
        /// From `pidfd_open`.
        source: Errno,
    },
    /// The descriptor is closed, or duplicating it is not allowed.
    #[error("duplicating descriptor {fd} of process {pid}: {source}{}", hint(*source))]
    Descriptor {
        /// The process.
        pid: u32,
        /// Its descriptor.
        fd: i32,
        /// From `pidfd_getfd`.
        source: Errno,
    },
    /// The descriptor means another socket now: the daemon closed the one that was asked for.
    #[error("descriptor {fd} of process {pid} is another socket now")]
    Replaced {
        /// The process.
        pid: u32,
        /// Its descriptor.
        fd: i32,
    },
}

impl BorrowError {
    /// Whether it says that the socket is gone, and with it all that was done to it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.says() == Says::Gone
    }

    /// What it says of the socket.
    pub(super) fn says(&self) -> Says {
        match self {
            Self::Process { source, .. } => of_pidfd(*source),
            Self::Descriptor { source, .. } => of_descriptor(*source),
            Self::Replaced { .. } => Says::Gone,
        }
    }
}

fn hint(errno: Errno) -> &'static str {
    if errno == Errno::PERM { NEEDS_PTRACE } else { way_out(&errno.into()) }
}

/// Duplicates a socket of another process, and makes sure it is the one that is meant.
pub fn borrow(id: SocketId) -> Result<OwnedFd, BorrowError> {
    let SocketId { pid, fd, inode } = id;
    let process = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(BorrowError::Process { pid, source: Errno::SRCH })?;
    let process = pidfd_open(process, PidfdFlags::empty())
        .map_err(|source| BorrowError::Process { pid, source })?;
    let failed = |source| BorrowError::Descriptor { pid, fd, source };
    let duplicate = pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).map_err(failed)?;
    if fstat(&duplicate).map_err(failed)?.st_ino != inode {
        return Err(BorrowError::Replaced { pid, fd });
    }
    Ok(duplicate)
}
