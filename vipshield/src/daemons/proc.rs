//! Processes as /proc shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    borrow::BorrowError,
    errno::{Says, of_proc, way_out},
    socket::SocketError,
};
use crate::engine::SocketId;

/// The inode of the initial PID namespace (`linux/proc_ns.h`, Linux 3.8).
const PROC_PID_INIT_INO: u64 = 0xEFFF_FFFC;

/// As much as the kernel makes of a file of /proc at a time.
const PAGE: usize = 4096;

/// The daemons could not be looked at. Nothing follows from that of those that were known.
#[derive(Debug, Error)]
pub enum ScanError {
    /// Something in /proc could not be read.
    #[error("reading {}: {source}{}", path.display(), way_out(source))]
    Proc {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be had, and may be there all the same.
    #[error(transparent)]
    Borrow(#[from] BorrowError),
    /// A socket could not be asked.
    #[error("{id}: {source}{}", way_out(&source.source))]
    Socket {
        /// Which.
        id: SocketId,
        /// What, and why.
        source: SocketError,
    },
}

/// Why nothing is seen of a process.
pub(super) enum Unseen {
    /// It is gone.
    Gone,
    /// It may not be looked at.
    Hidden(io::Error),
    /// It may be a daemon.
    Failed(ScanError),
}

impl From<ScanError> for Unseen {
    fn from(error: ScanError) -> Self {
        Self::Failed(error)
    }
}

/// The process ids of all that run.
pub(super) fn processes() -> Result<Vec<u32>, ScanError> {
    let proc = Path::new("/proc");
    let failed = |source| ScanError::Proc { path: proc.to_owned(), source };
    let mut pids = Vec::new();
    for entry in fs::read_dir(proc).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        pids.extend(entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(pids)
}

/// Which process holds each of these sockets, as far as can be seen; of several, the one of the lowest
/// process id.
pub fn holders(inodes: &BTreeSet<u64>) -> Result<BTreeMap<u64, u32>, ScanError> {
    let mut holders = BTreeMap::new();
    for pid in processes()? {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in descriptors.flatten() {
            if let Ok(Some(id)) = socket_id(pid, &entry)
                && inodes.contains(&id.inode)
            {
                holders.entry(id.inode).or_insert(pid);
            }
        }
    }
    Ok(holders)
}

/// Whether this process is in the initial PID namespace, whose numbers eBPF programs tell
/// (`bpf_get_current_pid_tgid` in `kernel/bpf/helpers.c`).
pub(super) fn is_first_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == PROC_PID_INIT_INO)
}

/// Looks at something of a process.
pub(super) fn seen<T>(path: &Path, look: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, Unseen> {
    look(path).map_err(|source| match of_proc(&source) {
        Says::Gone => Unseen::Gone,
        Says::Refused => Unseen::Hidden(source),
        Says::Nothing => ScanError::Proc { path: path.to_owned(), source }.into(),
    })
}

/// A name may have any bytes.
pub(super) fn text(path: &Path) -> Result<String, Unseen> {
    let bytes = seen(path, read)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// In one piece as a rule: a file of /proc says that it is empty, and would be read some bytes at a time.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(PAGE);
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// None: it is no socket, or closed by now.
pub(super) fn socket_id(pid: u32, entry: &fs::DirEntry) -> Result<Option<SocketId>, Unseen> {
    let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
        return Ok(None);
    };
    let target = match fs::read_link(entry.path()) {
        // A path longer than a page is a file's.
        Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => return Ok(None),
        target => match seen(&entry.path(), |_| target) {
            Err(Unseen::Gone) => return Ok(None),
            target => target?,
        },
    };
    let inode = |target: &str| target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Ok(target.to_str().and_then(inode).map(|inode| SocketId { pid, fd, inode }))
}

/// The parent's process id and the start time.
pub(super) fn origin(directory: &Path) -> Result<(u32, u64), Unseen> {
    let path = directory.join("stat");
    let cut = || io::Error::from(io::ErrorKind::InvalidData);
    let found = parent_and_start(&text(&path)?);
    found.ok_or_else(|| ScanError::Proc { path, source: cut() }.into())
}

/// Fields 4 and 22 of `/proc/PID/stat`. The second, a name in parentheses, may hold anything.
fn parent_and_start(stat: &str) -> Option<(u32, u64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_start_time_are_found_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parent_and_start(&format!("12 (keepalived) {rest}")), Some((1, 4711)));
        assert_eq!(parent_and_start(&format!("12 (a) b) (c) {rest}")), Some((1, 4711)));
        assert_eq!(parent_and_start("12 (cut"), None);
        assert_eq!(parent_and_start("12 (cut) S 1"), None);
        assert_eq!(parent_and_start(""), None);
    }
}
