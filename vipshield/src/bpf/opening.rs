//! How VRRP sockets that guarded daemons open anew find their NIC's traffic while names are exchanged: the
//! program on the daemons' control groups, and what it is told.

use std::{collections::BTreeMap, fs::File, os::unix::fs::MetadataExt as _};

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

/// See the [module](self).
pub(super) struct Openings {
    bearers: HashMap<MapData, u32, u32>,
    bound_to: HashMap<MapData, IfName, u32>,
    /// What may be in these maps, by NIC.
    known: BTreeMap<u32, Opening>,
    /// By the inode of the control group, while there is anything in the maps.
    attached: BTreeMap<u64, CgroupSockoptLinkId>,
    /// The kernel may take the program.
    usable: bool,
}

/// The cookie of this thread's network namespace. Linux 5.14.
pub(super) fn network_namespace() -> Option<u64> {
    let cookie = network_namespace_cookie();
    cookie
        .inspect_err(|error| {
            info!("a daemon that is reloaded while names are exchanged will fail once: {error}");
        })
        .ok()
}

impl Openings {
    pub(super) fn new(ebpf: &mut Ebpf, usable: bool) -> Result<Self, BpfError> {
        Ok(Self {
            bearers: take(ebpf, maps::BEARERS)?,
            bound_to: take(ebpf, maps::BOUND_TO)?,
            known: BTreeMap::new(),
            attached: BTreeMap::new(),
            usable,
        })
    }

    /// Has VRRP sockets of a NIC opened so, and not as before, by the processes in these control groups.
    pub(super) fn set(
        &mut self,
        ebpf: &mut Ebpf,
        nic: u32,
        opening: Option<&Opening>,
        cgroups: &[File],
    ) -> Result<(), BpfError> {
        self.tell(nic, opening)?;
        if self.known.is_empty() {
            for (_, link) in std::mem::take(&mut self.attached) {
                take_off(ebpf, link);
            }
        }
        for cgroup in cgroups.iter().filter(|_| opening.is_some()) {
            self.attach(ebpf, cgroup)?;
        }
        Ok(())
    }

    fn tell(&mut self, nic: u32, opening: Option<&Opening>) -> Result<(), BpfError> {
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
                .insert(bearer, 1, 0)
                .map_err(|source| BpfError::Map { map: maps::BEARERS, source })?;
        }
        if let Some(bound_to) = &wanted.bound_to {
            self.bound_to
                .insert(if_name(&wanted.name)?, bound_to, 0)
                .map_err(|source| BpfError::Map { map: maps::BOUND_TO, source })?;
        }
        match opening {
            Some(_) => self.known.insert(nic, wanted),
            None => self.known.remove(&nic),
        };
        Ok(())
    }

    /// Puts the program on a control group, once. A kernel that does not take it never will.
    fn attach(&mut self, ebpf: &mut Ebpf, cgroup: &File) -> Result<(), BpfError> {
        // One that is gone has no processes any more.
        let Ok(inode) = cgroup.metadata().map(|it| it.ino()) else { return Ok(()) };
        if self.usable && !self.attached.contains_key(&inode) {
            if let Err(error) = load(ebpf) {
                self.usable = false;
                info!(
                    "a daemon that is reloaded while names are exchanged will fail once: the kernel does \
                     not take {}: {}",
                    programs::SOCKET_OPENING,
                    causes(&error)
                );
                return Ok(());
            }
            self.attached.insert(inode, put_on(ebpf, cgroup)?);
        }
        Ok(())
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut CgroupSockopt, BpfError> {
    let name = programs::SOCKET_OPENING;
    ebpf.program_mut(name).ok_or(BpfError::Missing(name))?.try_into().map_err(failed)
}

fn failed(source: ProgramError) -> BpfError {
    BpfError::of(programs::SOCKET_OPENING, source)
}

/// Has the kernel take the program, once.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let program = program(ebpf)?;
    if program.fd().is_ok() { Ok(()) } else { program.load().map_err(failed) }
}

fn put_on(ebpf: &mut Ebpf, cgroup: &File) -> Result<CgroupSockoptLinkId, BpfError> {
    // A link allows for those of others in any case (`cgroup_bpf_link_attach`).
    program(ebpf)?.attach(cgroup, CgroupAttachMode::Single).map_err(failed)
}

fn take_off(ebpf: &mut Ebpf, link: CgroupSockoptLinkId) {
    let Ok(program) = program(ebpf) else { return };
    if let Err(error) = program.detach(link) {
        info!("{}: {}", programs::SOCKET_OPENING, causes(&error));
    }
}
