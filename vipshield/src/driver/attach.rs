//! Filters on daemons' sockets.

use std::os::fd::OwnedFd;

use log::info;
use vipshield_common::guard::GuardedSocket;

use super::ActionError;
use crate::{
    bpf::Programs,
    causes::causes,
    daemons::{self, Scanner},
    engine::{Daemon, Filter, SocketId},
};

/// Puts the guard on a monitor socket.
pub(super) fn guard(
    programs: &mut Programs,
    scanner: &mut Scanner,
    id: SocketId,
    replay_port: u32,
) -> Result<(), ActionError> {
    let (socket, cookie, entry) = to_attach(id, replay_port)?;
    programs.guard(&socket, cookie, entry)?;
    scanner.remember(id, cookie);
    mind_openings(programs, id.pid);
    Ok(())
}

/// The daemon does without, and fails once if it is reloaded while names are exchanged.
fn mind_openings(programs: &mut Programs, pid: u32) {
    match daemons::cgroup(pid) {
        Ok(cgroup) => programs.mind_openings(&cgroup),
        Err(error) => info!(
            "process {pid} will fail once should it be reloaded while names are exchanged: {}",
            causes(&error)
        ),
    }
}

/// Has what the kernel refuses on a command socket reported.
pub(super) fn listen(
    programs: &mut Programs,
    scanner: &mut Scanner,
    id: SocketId,
    replay_port: u32,
) -> Result<(), ActionError> {
    let (socket, cookie, entry) = to_attach(id, replay_port)?;
    programs.listen(&socket, cookie, entry)?;
    scanner.remember(id, cookie);
    Ok(())
}

/// A duplicate of the socket, its cookie, and what the guard has to know of it.
fn to_attach(id: SocketId, replay_port: u32) -> Result<(OwnedFd, u64, GuardedSocket), ActionError> {
    let socket = daemons::borrow(id)?;
    let (cookie, port) = (daemons::cookie(&socket)?, daemons::port(&socket)?);
    Ok((socket, cookie, GuardedSocket { port, replay_port }))
}

/// The cookies of the sockets that carry the guard of a vipshield that is gone.
pub(super) fn cookies(daemons: &[Daemon]) -> Vec<u64> {
    let monitors = daemons.iter().flat_map(|daemon| &daemon.monitors);
    let stale = monitors.filter(|monitor| monitor.filter == Filter::Stale);
    // One that was closed in this moment tells nothing.
    stale.filter_map(|monitor| daemons::cookie(daemons::borrow(monitor.id).ok()?).ok()).collect()
}
