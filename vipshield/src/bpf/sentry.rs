//! What sees something in the kernel before it is announced. A shunt is thrown in time by a filter on
//! vipshield's own rtnetlink monitor, and, where the kernel lets them in, by probes where ports join and leave
//! their bridges. Another probe sees which IPv6 address is asked for.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
};

use aya::{
    Ebpf,
    programs::{KProbe, ProgramError, SocketFilter},
};
use log::info;
use vipshield_common::{programs, shunt::Devices};

use super::{BpfError, btf};
use crate::causes::causes;

/// The function that each probe watches. All are in modules, which come with the first bridge of
/// their kind.
const PROBES: [(&str, &str); 5] = [
    // Linux 2.6.13.
    (programs::BRIDGE_JOIN_SENTRY, "br_add_if"),
    (programs::BRIDGE_CUT_SENTRY, "br_del_if"),
    // Linux 3.3.
    (programs::OVS_CUT_SENTRY, "ovs_vport_del"),
    (programs::OVS_LOOK_SENTRY, "ovs_vport_get_stats"),
    (programs::OVS_REQUEST_SENTRY, "ovs_vport_cmd_del"),
];

/// Where requests for IPv6 addresses are handled. Linux 2.6.20.
const ADDRESSES: (&str, &str) = (programs::ADDRESS_SENTRY, "inet6_rtm_newaddr");

/// This thread's network namespace.
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Puts the sentry on vipshield's own rtnetlink monitor.
pub(super) fn post_link_sentry(ebpf: &mut Ebpf, monitor: impl AsFd) -> Result<(), BpfError> {
    let failed = |error| BpfError::of(programs::LINK_SENTRY, error);
    let sentry: &mut SocketFilter = ebpf
        .program_mut(programs::LINK_SENTRY)
        .ok_or(BpfError::Missing(programs::LINK_SENTRY))?
        .try_into()
        .map_err(failed)?;
    sentry.load().map_err(failed)?;
    sentry.attach(monitor).map_err(failed)?;
    Ok(())
}

/// Has the kernel say which IPv6 address a task asks for. Without it an address is matched with the grant of
/// about the same moment.
pub(super) fn post_address_sentry(ebpf: &mut Ebpf) {
    let (name, function) = ADDRESSES;
    match probe(ebpf, name, function) {
        Err(error) if !is_absent(&error) => info!(
            "{function} cannot be watched, so that an IPv6 address that keepalived takes is told from others by the \
             moment: {}",
            causes(&error)
        ),
        Ok(()) | Err(_) => {}
    }
}

/// How probes tell whose an interface is, if the running kernel says so.
pub(super) fn devices(types: &btf::Types) -> Option<Devices> {
    let own = fs::metadata(NAMESPACE).inspect_err(|error| info!("{NAMESPACE}: {error}")).ok()?;
    Some(Devices {
        ifindex: types.offset("net_device", "ifindex")?,
        // A pointer is all there is in this member's type (`possible_net_t`).
        net: types.offset("net_device", "nd_net")?,
        inode: types.offset("net", "ns")? + types.offset("ns_common", "inum")?,
        own: u32::try_from(own.ino()).ok()?,
    })
}

/// The probes that are, or may yet be, in place. Without them a shunt is thrown a little later.
pub(super) struct PortSentries {
    /// Those whose function was not there when it was last looked for.
    waiting: Vec<(&'static str, &'static str)>,
    posted: bool,
}

impl PortSentries {
    /// None is in place. `usable`: the programs know the kernel's types.
    pub(super) fn new(usable: bool) -> Self {
        Self { waiting: if usable { PROBES.to_vec() } else { Vec::new() }, posted: false }
    }

    /// Posts those whose function is there by now. True: at least one is in place.
    pub(super) fn post(&mut self, ebpf: &mut Ebpf) -> bool {
        let waiting = std::mem::take(&mut self.waiting);
        for (name, function) in waiting {
            match probe(ebpf, name, function) {
                Ok(()) => self.posted = true,
                Err(error) if is_absent(&error) => self.waiting.push((name, function)),
                Err(error) => info!(
                    "{function} cannot be watched, so that ports are seen to join or leave a little later: \
                     {}",
                    causes(&error)
                ),
            }
        }
        self.posted
    }
}

/// Puts a probe on each function that the kernel has.
pub(super) fn try_probes(ebpf: &mut Ebpf) -> Result<(), ProgramError> {
    for (name, function) in PROBES.into_iter().chain([ADDRESSES]) {
        match probe(ebpf, name, function) {
            Err(error) if !is_absent(&error) => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn probe(ebpf: &mut Ebpf, name: &str, function: &str) -> Result<(), ProgramError> {
    let Some(program) = ebpf.program_mut(name) else { return Ok(()) };
    let sentry: &mut KProbe = program.try_into()?;
    if sentry.fd().is_err() {
        sentry.load()?;
    }
    sentry.attach(function, 0).map(drop)
}

/// Whether the kernel has no such function (yet).
fn is_absent(error: &(dyn std::error::Error + 'static)) -> bool {
    let absent = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT));
    absent || error.source().is_some_and(is_absent)
}
