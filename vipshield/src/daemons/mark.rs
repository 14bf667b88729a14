//! By what a vipshield knows the filters of one that is gone.
//!
//! The kernel does not tell which program a socket carries (`sk_get_filter` in `net/core/filter.c` answers
//! EACCES for eBPF), and which programs are loaded only to who has `CAP_SYS_ADMIN`. But a socket has a mark
//! (`SO_MARK`, `socket(7)`) that whoever duplicates it can read, and that means something for packets alone:
//! nothing reads that of a netlink socket (`net/netlink`). To set it needs `CAP_NET_ADMIN`.
//!
//! ```text
//!  0x76 73 4d 1 k
//!     v  s  M | kind: 1 guard, 2 intent
//!             version of the layout
//! ```
//!
//! A filter of any version is known, and may be replaced or taken off, which asks nothing of it.

use std::{io, os::fd::AsFd};

use super::{
    socket::{SocketError, failed},
    sockopt,
};

/// "vsM", version 1, no kind.
const MARK: u32 = 0x7673_4d10;
/// The part of a mark that says that it is vipshield's.
const OURS: u32 = 0xffff_ff00;

/// What a marked socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The guard of a monitor socket.
    Guard,
    /// What listens on a command socket.
    Intent,
}

impl Mark {
    const fn value(self) -> u32 {
        match self {
            Self::Guard => MARK | 1,
            Self::Intent => MARK | 2,
        }
    }
}

/// Marks a socket as one that carries a filter of vipshield's. Before it does: one that carried it without
/// a mark would be nobody's.
pub fn set_mark(socket: impl AsFd, mark: Mark) -> Result<(), SocketError> {
    set(socket, mark.value())
}

/// Takes vipshield's mark off a socket; any other stays.
pub(super) fn clear_mark(socket: impl AsFd) -> Result<(), SocketError> {
    if is_marked(&socket)? { set(socket, 0) } else { Ok(()) }
}

/// Whether a socket bears the mark of any vipshield. Without an eBPF filter that means nothing: a
/// vipshield was killed before it had put it there, or somebody took it off.
pub fn is_marked(socket: impl AsFd) -> Result<bool, SocketError> {
    let (value, _) =
        sockopt::get::<u32>(socket, libc::SOL_SOCKET, libc::SO_MARK).map_err(failed("SO_MARK"))?;
    Ok(value & OURS == MARK & OURS)
}

fn set(socket: impl AsFd, value: u32) -> Result<(), SocketError> {
    let set: io::Result<()> = sockopt::set(socket, libc::SOL_SOCKET, libc::SO_MARK, &value);
    set.map_err(failed("SO_MARK"))
}
