//! Guarded daemons: finding them, and working on duplicates of their sockets.
//!
//! A daemon is not changed and not told. Its sockets are duplicated with `pidfd_getfd(2)` (Linux
//! 5.6, needs `CAP_SYS_PTRACE`) for the moment of one operation only: a duplicate kept open would
//! keep a socket alive that the daemon has closed.

mod borrow;
mod cgroup;
mod configured;
mod errno;
mod home;
mod mark;
mod membership;
mod privilege;
mod probe;
mod proc;
mod scan;
mod socket;
mod sockopt;
mod speakers;
mod wanted;

pub use self::{
    borrow::{BorrowError, borrow},
    cgroup::{CgroupError, cgroup, cgroup_directory},
    home::{home, is_port},
    mark::{Mark, is_marked, set_mark},
    membership::{Membership, all as all_memberships, is_member, of as memberships, usual_groups},
    privilege::Privilege,
    probe::Probes,
    proc::{ScanError, holders},
    scan::{Kin, Looked, Scanner, Scope},
    socket::{
        AttachedFilter, SocketError, attached_filter, cookie, detach_filter,
        network_namespace_cookie, port, rebind, rebind_sender, resync_link, speak_from_anywhere,
    },
    wanted::Wanted,
};
