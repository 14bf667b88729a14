//! Filters on daemons' sockets.

use std::{fs::File, os::fd::OwnedFd};

use log::{debug, warn};
use vipshield_common::guard::GuardedSocket;

use super::ActionError;
use crate::{
    bpf::{BpfError, Programs},
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
    attach(scanner, id, replay_port, |socket, cookie, entry| programs.guard(socket, cookie, entry))
}

/// Has what the kernel refuses on a command socket reported.
pub(super) fn listen(
    programs: &mut Programs,
    scanner: &mut Scanner,
    id: SocketId,
    replay_port: u32,
) -> Result<(), ActionError> {
    attach(scanner, id, replay_port, |socket, cookie, entry| programs.listen(socket, cookie, entry))
}

/// Has `put` put a filter on a duplicate of the socket, and remembers that.
fn attach(
    scanner: &mut Scanner,
    id: SocketId,
    replay_port: u32,
    put: impl FnOnce(OwnedFd, u64, GuardedSocket) -> Result<(), BpfError>,
) -> Result<(), ActionError> {
    let socket = daemons::borrow(id)?;
    let (cookie, port) = (daemons::cookie(&socket)?, daemons::port(&socket)?);
    put(socket, cookie, GuardedSocket { port, replay_port })?;
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
        let unseen = |error: &CgroupError| match error {
            // It has ended, and opens nothing any more.
            CgroupError::Process { .. } => debug!("{}", causes(error)),
            CgroupError::None(_) | CgroupError::Unseen { .. } => warn!(
                "process {pid} will fail once should it be reloaded while names are exchanged: {}",
                causes(error)
            ),
        };
        cgroup.inspect_err(unseen).ok()
    };
    let cgroups: Vec<File> = daemons.filter_map(found).collect();
    Ok(programs.set_opening(nic, opening, &cgroups)?)
}

/// The cookies of the sockets that carry the guard of a vipshield that is gone.
pub(super) fn cookies(daemons: &[Daemon]) -> Vec<u64> {
    let monitors = daemons.iter().flat_map(|daemon| &daemon.monitors);
    let stale = monitors.filter(|monitor| monitor.filter == Filter::Stale);
    // One that was closed in this moment tells nothing.
    stale.filter_map(|monitor| daemons::cookie(daemons::borrow(monitor.id).ok()?).ok()).collect()
}
