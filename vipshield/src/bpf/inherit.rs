//! What a vipshield that is gone has left in the kernel: as long as a daemon's socket carries its guard,
//! the maps of that guard are there. They say which sockets were its own, and by which names the daemons
//! know their NICs.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
};

use aya::{
    maps::{HashMap, Map, MapData, MapError, MapInfo},
    programs::{ProgramError, ProgramInfo, loaded_programs},
};
use log::debug;
use thiserror::Error;
use vipshield_common::{
    guard::{GuardedSocket, NicPolicy},
    maps,
};

use super::{FILTERS, decode::interface_name};
use crate::causes::{causes, passing};

/// A guard that was left behind cannot be looked into.
#[derive(Debug, Error)]
enum InheritError {
    #[error("listing its maps")]
    Program(#[from] ProgramError),
    #[error("reading its maps")]
    Map(#[from] MapError),
}

/// What the maps of a guard say.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Cookies of the sockets that carry a filter of its vipshield.
    pub(super) sockets: BTreeSet<u64>,
    /// The names under which daemons know their NICs, by interface index.
    pub(super) names: BTreeMap<u32, String>,
}

/// What all guards that are loaded say, but for the programs with the ids in `own`. Some are those of
/// other network namespaces; no two sockets of a machine have the same cookie (`__sock_gen_cookie` in
/// `net/core/sock_diag.c`; since Linux 5.4 not even in two network namespaces).
///
/// Nothing without `CAP_SYS_ADMIN`. An error only if the system lacks something for the moment.
pub(super) fn left(own: &[u32]) -> io::Result<Vec<Left>> {
    let mut all = Vec::new();
    for program in loaded_programs() {
        // One that is unloaded in this moment was on no socket.
        let Some(program) = known(program)? else { continue };
        let is_filter = program.name_as_str().is_some_and(|name| FILTERS.contains(&name));
        if is_filter && !own.contains(&program.id()) {
            all.extend(known(left_by(&program))?);
        }
    }
    Ok(all)
}

/// Whether the kernel tells this process of loaded programs.
pub(super) fn tells() -> bool {
    loaded_programs().next().is_none_or(|program| program.is_ok())
}

/// None: it is gone, may not be asked, or is of another version.
fn known<T, E: Error + 'static>(result: Result<T, E>) -> io::Result<Option<T>> {
    result.map(Some).or_else(|error| {
        debug!("a guard that may have been left behind tells nothing: {}", causes(&error));
        passing(&error).map_or(Ok(None), |errno| Err(io::Error::from_raw_os_error(errno)))
    })
}

fn left_by(guard: &ProgramInfo) -> Result<Left, InheritError> {
    let mut left = Left::default();
    for id in guard.map_ids()?.unwrap_or_default() {
        match MapInfo::from_id(id)?.name_as_str() {
            Some(maps::SOCKETS) => {
                let sockets = open::<u64, GuardedSocket>(id)?;
                left.sockets = sockets.keys().collect::<Result<_, _>>()?;
            }
            Some(maps::NICS) => {
                for entry in &open::<u32, NicPolicy>(id)? {
                    let (ifindex, policy) = entry?;
                    left.names.insert(ifindex, interface_name(&policy.name));
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(left)
}

fn open<K: aya::Pod, V: aya::Pod>(id: u32) -> Result<HashMap<MapData, K, V>, MapError> {
    HashMap::try_from(Map::from_map_data(MapData::from_id(id)?)?)
}
