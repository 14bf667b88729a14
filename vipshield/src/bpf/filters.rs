//! The filters on daemons' sockets. A socket carries a stub that goes on to the filter itself through an
//! array which this process alone holds open: with it, the filters are gone, and everything passes.

use std::os::fd::AsFd;

use aya::{
    Ebpf,
    maps::{HashMap, MapData, ProgramArray},
    programs::SocketFilter,
};
use vipshield_common::{filters, guard::GuardedSocket, maps, programs};

use super::{BpfError, absent_is_fine, take};
use crate::daemons::{Mark, detach_filter, set_mark};

/// The filter that a kind of socket has.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// [`programs::NETLINK_GUARD`].
    Guard,
    /// [`programs::NETLINK_INTENT`].
    Intent,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Guard, Self::Intent];

    /// Its place in the array, what is there, what leads there, and how a socket is marked that carries
    /// that.
    const fn parts(self) -> (u32, &'static str, &'static str, Mark) {
        match self {
            Self::Guard => {
                (filters::GUARD, programs::NETLINK_GUARD, programs::GUARD_STUB, Mark::Guard)
            }
            Self::Intent => {
                (filters::INTENT, programs::NETLINK_INTENT, programs::INTENT_STUB, Mark::Intent)
            }
        }
    }
}

pub(super) struct Filters {
    /// Never to be pinned, nor handed to anybody: see the [module](self).
    _array: ProgramArray<MapData>,
    pub(super) sockets: HashMap<MapData, u64, GuardedSocket>,
}

impl Filters {
    /// Loads the filters, and the stubs that lead to them.
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut array: ProgramArray<MapData> = take(ebpf, maps::FILTERS)?;
        for (place, name, stub, _) in Kind::ALL.map(Kind::parts) {
            load(ebpf, stub)?;
            let filter = load(ebpf, name)?;
            let fd = filter.fd().map_err(|error| BpfError::of(name, error))?;
            let set = array.set(place, fd, 0);
            set.map_err(|source| BpfError::Map { map: maps::FILTERS, source })?;
        }
        Ok(Self { _array: array, sockets: take(ebpf, maps::SOCKETS)? })
    }

    /// Puts a filter on a socket in place of any that is there: no message is missed. The guard judges for
    /// sockets that it knows, so the entry is there first; and the next vipshield knows by the mark whose
    /// filter it finds.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        kind: Kind,
        socket: impl AsFd,
        cookie: u64,
        entry: GuardedSocket,
    ) -> Result<(), BpfError> {
        let (_, _, stub, mark) = kind.parts();
        set_mark(&socket, mark)?;
        self.sockets
            .insert(cookie, entry, 0)
            .map_err(|source| BpfError::Map { map: maps::SOCKETS, source })?;
        let attached = filter(ebpf, stub)?.attach(socket);
        if attached.is_err() {
            self.forget(cookie)?;
        }
        attached.map(drop).map_err(|error| BpfError::of(stub, error))
    }

    /// Takes the filter off a socket, whichever it is.
    pub(super) fn detach(&mut self, socket: impl AsFd, cookie: u64) -> Result<(), BpfError> {
        detach_filter(socket)?;
        self.forget(cookie)
    }

    /// Drops what is known of a socket that is gone.
    pub(super) fn forget(&mut self, cookie: u64) -> Result<(), BpfError> {
        absent_is_fine(maps::SOCKETS, self.sockets.remove(&cookie))
    }
}

fn filter<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SocketFilter, BpfError> {
    ebpf.program_mut(name)
        .ok_or(BpfError::Missing(name))?
        .try_into()
        .map_err(|error| BpfError::of(name, error))
}

fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SocketFilter, BpfError> {
    let filter = filter(ebpf, name)?;
    filter.load().map_err(|error| BpfError::of(name, error))?;
    Ok(filter)
}
