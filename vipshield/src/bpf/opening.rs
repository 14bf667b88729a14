//! How VRRP sockets that guarded daemons open anew find their NIC's traffic while names are exchanged: the
//! program on the daemons' control groups, and what it is told.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    os::unix::fs::MetadataExt as _,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{
        CgroupAttachMode, CgroupSockopt, ProgramError, cgroup_sockopt::CgroupSockoptLinkId,
    },
};
use log::info;
use vipshield_common::{guard::IfName, maps, programs};

use super::{BpfError, absent_is_fine, if_name, take};
use crate::{causes::causes, daemons::network_namespace_cookie, engine::Opening};

/// Control groups with the program on them, the last ones: a daemon in a container gets another each
/// time it is started.
const MAX_CGROUPS: usize = 16;

/// See the [module](self).
pub(super) struct Openings {
    bearers: HashMap<MapData, u32, u32>,
    bound_to: HashMap<MapData, IfName, IfName>,
    /// What may be in these maps, by NIC.
    known: BTreeMap<u32, Opening>,
    /// By the inode of the control group.
    attached: VecDeque<(u64, CgroupSockoptLinkId)>,
    /// The kernel may take the program.
    usable: bool,
}

/// The cookie of this thread's network namespace. Linux 5.14.
pub(super) fn network_namespace() -> Option<u64> {
    let cookie = network_namespace_cookie();
    cookie.inspect_err(|error| info!("this network namespace: {error}")).ok()
}

impl Openings {
    pub(super) fn new(ebpf: &mut Ebpf, usable: bool) -> Result<Self, BpfError> {
        Ok(Self {
            bearers: take(ebpf, maps::BEARERS)?,
            bound_to: take(ebpf, maps::BOUND_TO)?,
            known: BTreeMap::new(),
            attached: VecDeque::new(),
            usable,
        })
    }

    /// Puts the program on a control group, once. Where the kernel does not let it, a daemon that is
    /// reloaded while names are exchanged fails once.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, cgroup: &File) {
        let Ok(inode) = cgroup.metadata().map(|it| it.ino()) else { return };
        if !self.usable || self.attached.iter().any(|(known, _)| *known == inode) {
            return;
        }
        match put_on(ebpf, cgroup) {
            Ok(link) => {
                self.attached.push_back((inode, link));
                if self.attached.len() > MAX_CGROUPS
                    && let Some((_, oldest)) = self.attached.pop_front()
                {
                    take_off(ebpf, oldest);
                }
            }
            Err(error) => {
                self.usable = false;
                info!(
                    "a daemon that is reloaded while names are exchanged will fail once: the kernel does \
                     not let {} be used: {}",
                    programs::SOCKET_OPENING,
                    causes(&error)
                );
            }
        }
    }

    /// Has VRRP sockets of a NIC opened so, and not as before.
    pub(super) fn set(&mut self, nic: u32, opening: Option<&Opening>) -> Result<(), BpfError> {
        let wanted = opening.cloned().unwrap_or_default();
        let known = self.known.get(&nic).cloned().unwrap_or_default();
        // Until all of it is done, any of both may be there.
        let mut either = known.clone();
        either.bearers.extend(&wanted.bearers);
        self.known.insert(nic, either);
        if known.bound_to.is_some() && (known.name != wanted.name || wanted.bound_to.is_none()) {
            absent_is_fine(maps::BOUND_TO, self.bound_to.remove(&if_name(&known.name)?))?;
        }
        for gone in known.bearers.difference(&wanted.bearers) {
            absent_is_fine(maps::BEARERS, self.bearers.remove(gone))?;
        }
        for bearer in &wanted.bearers {
            self.bearers
                .insert(bearer, nic, 0)
                .map_err(|source| BpfError::Map { map: maps::BEARERS, source })?;
        }
        if let Some(bound_to) = &wanted.bound_to {
            self.bound_to
                .insert(if_name(&wanted.name)?, if_name(bound_to)?, 0)
                .map_err(|source| BpfError::Map { map: maps::BOUND_TO, source })?;
        }
        match opening {
            Some(_) => self.known.insert(nic, wanted),
            None => self.known.remove(&nic),
        };
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut CgroupSockopt, BpfError> {
    let name = programs::SOCKET_OPENING;
    let failed = |source| BpfError::Program { program: name, source };
    ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(failed)
}

fn put_on(ebpf: &mut Ebpf, cgroup: &File) -> Result<CgroupSockoptLinkId, BpfError> {
    let failed =
        |source: ProgramError| BpfError::Program { program: programs::SOCKET_OPENING, source };
    let program = program(ebpf)?;
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    // A link allows for those of others in any case (`cgroup_bpf_link_attach`).
    program.attach(cgroup, CgroupAttachMode::Single).map_err(failed)
}

fn take_off(ebpf: &mut Ebpf, link: CgroupSockoptLinkId) {
    let Ok(program) = program(ebpf) else { return };
    if let Err(error) = program.detach(link) {
        info!("{}: {}", programs::SOCKET_OPENING, causes(&error));
    }
}
