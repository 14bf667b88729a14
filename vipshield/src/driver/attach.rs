//! Filters on daemons' sockets.

use std::{fs::File, os::fd::OwnedFd};

use log::warn;
use vipshield_common::guard::GuardedSocket;

use super::ActionError;
use crate::{
    bpf::Programs,
    causes::causes,
    daemons::{self, CgroupError, Scanner},
    engine::{Daemon, Filter, Opening, SocketId},
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
    Ok(())
}

/// Has the VRRP sockets that daemons open anew bound where their NIC's traffic is.
pub(super) fn set_opening(
    programs: &mut Programs,
    nic: u32,
    opening: Option<&Opening>,
) -> Result<(), ActionError> {
    let daemons = opening.iter().flat_map(|opening| &opening.daemons);
    let found = |pid: &u32| {
        let cgroup = daemons::cgroup(*pid);
        let unseen = |error: &CgroupError| {
            warn!(
                "process {pid} will fail once should it be reloaded while names are exchanged: {}",
                causes(error)
            );
        };
        cgroup.inspect_err(unseen).ok()
    };
    let cgroups: Vec<File> = daemons.filter_map(found).collect();
    Ok(programs.set_opening(nic, opening, &cgroups)?)
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
