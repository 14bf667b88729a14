//! What a vipshield that is gone has left in the kernel: as long as a daemon's socket carries its guard,
//! the maps of that guard are there, and say by which names the daemons know their NICs.

use std::collections::BTreeMap;

use aya::{
    maps::{HashMap, Map, MapData, MapError, MapInfo},
    programs::{ProgramError, ProgramInfo, loaded_programs},
};
use log::warn;
use thiserror::Error;
use vipshield_common::{
    guard::{GuardedSocket, NicPolicy},
    maps, programs,
};

use super::decode::interface_name;
use crate::causes::causes;

/// A guard that was left behind cannot be looked into.
#[derive(Debug, Error)]
enum InheritError {
    #[error("listing its maps")]
    Program(#[from] ProgramError),
    #[error("reading its maps")]
    Map(#[from] MapError),
}

/// The names under which daemons know their NICs, by interface index, as the guards have them that are
/// on the sockets with these cookies, but for the programs with the ids in `own`. Other guards are
/// those of other network namespaces.
pub(super) fn names(own: &[u32], cookies: &[u64]) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    let guards = loaded_programs().filter_map(Result::ok).filter(|program| {
        program.name_as_str() == Some(programs::NETLINK_GUARD) && !own.contains(&program.id())
    });
    for guard in guards {
        match names_of(&guard, cookies) {
            Ok(found) => names.extend(found),
            // Of another version perhaps: the NIC is looked for as if nothing had been left.
            Err(error) => warn!("a guard that was left behind tells nothing: {}", causes(&error)),
        }
    }
    names
}

fn names_of(guard: &ProgramInfo, cookies: &[u64]) -> Result<BTreeMap<u32, String>, InheritError> {
    let (mut sockets, mut nics) = (None, None);
    for id in guard.map_ids()?.unwrap_or_default() {
        match MapInfo::from_id(id)?.name_as_str() {
            Some(maps::SOCKETS) => sockets = Some(open::<u64, GuardedSocket>(id)?),
            Some(maps::NICS) => nics = Some(open::<u32, NicPolicy>(id)?),
            Some(_) | None => {}
        }
    }
    let mut names = BTreeMap::new();
    let is_theirs = |sockets: &HashMap<MapData, u64, GuardedSocket>| {
        cookies.iter().any(|cookie| sockets.get(cookie, 0).is_ok())
    };
    for entry in
        nics.iter().filter(|_| sockets.as_ref().is_some_and(is_theirs)).flat_map(HashMap::iter)
    {
        let (ifindex, policy) = entry?;
        names.insert(ifindex, interface_name(&policy.name));
    }
    Ok(names)
}

fn open<K: aya::Pod, V: aya::Pod>(id: u32) -> Result<HashMap<MapData, K, V>, MapError> {
    HashMap::try_from(Map::from_map_data(MapData::from_id(id)?)?)
}
