//! What outlives a vipshield that is killed: by which names the daemons know their NICs, and which addresses
//! they believe there because it was withheld that they left.
//!
//! While names are exchanged nothing in the network says so. The tables that the guard has of NICs, of
//! sockets and of such addresses are therefore pinned in a bpffs, if there is one to be written to: where there is none, what a
//! NIC is called is learned again from the kernel, as far as that tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
    pin::PinError,
};
use log::{debug, info};
use thiserror::Error;
use vipshield_common::{
    guard::{GuardedSocket, Held, HeldAddress, NicPolicy},
    maps,
};

use super::{
    Programs,
    decode::{interface_name, ip},
};
use crate::{causes::causes, engine::Address};

/// Where the kernel's documents have it mounted.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Of what the tables contain. Those of another version are not looked at.
const VERSION: &str = "v3";

/// Tables cannot be kept.
#[derive(Debug, Error)]
enum KeepError {
    #[error("making {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("pinning {path}")]
    Pin { path: PathBuf, source: PinError },
    #[error("renaming to {path}")]
    Rename { path: PathBuf, source: io::Error },
}

/// The pinned tables of one network namespace.
pub struct Pins {
    directory: PathBuf,
}

impl Pins {
    /// Those of the network namespace with this inode, in this bpffs.
    #[must_use]
    pub fn new(bpffs: &Path, namespace: u64) -> Self {
        Self { directory: bpffs.join("vipshield").join(namespace.to_string()) }
    }

    /// A bpffs takes no names with a dot (`bpf_lookup` in `kernel/bpf/inode.c`).
    fn path(&self, map: &str) -> PathBuf {
        self.directory.join(format!("{map}_{VERSION}"))
    }

    /// The names under which daemons know their NICs, by interface index, if the vipshield that pinned
    /// them has guarded a socket with one of these cookies: no two sockets of a machine have the same, not
    /// even in two network namespaces (`__sock_gen_cookie` in `net/core/sock_diag.c`; Linux 5.4).
    #[must_use]
    pub fn names(&self, cookies: &[u64]) -> BTreeMap<u32, String> {
        let read = || {
            let sockets = self.open::<u64, GuardedSocket>(maps::SOCKETS)?;
            let known: Vec<u64> = sockets.keys().collect::<Result<_, _>>()?;
            if !known.iter().any(|cookie| cookies.contains(cookie)) {
                return Ok(BTreeMap::new());
            }
            let nics = self.open::<u32, NicPolicy>(maps::NICS)?;
            let names = nics.iter().map(|nic| nic.map(|(at, it)| (at, interface_name(&it.name))));
            names.collect::<Result<_, MapError>>()
        };
        read().unwrap_or_else(|error| {
            debug!("nothing is known of a vipshield before this one: {}", causes(&error));
            BTreeMap::new()
        })
    }

    /// The addresses of NICs, by interface index, of which the vipshield that pinned this had withheld from
    /// one of these sockets that they left. Its owner may have learned since that one is gone: that it
    /// is said again does no harm.
    #[must_use]
    pub fn held(&self, cookies: &[u64]) -> BTreeMap<u32, BTreeSet<Address>> {
        let read = || {
            let held = self.open_lru::<HeldAddress, Held>(maps::ADDRESSES_HELD)?;
            let mut found = BTreeMap::<u32, BTreeSet<Address>>::new();
            for entry in &held {
                let (of, held) = entry?;
                let family = u8::try_from(of.key.family).unwrap_or_default();
                let ip = ip(family, of.key.address).filter(|_| cookies.contains(&of.cookie));
                let (Some(ip), Ok(prefix_len)) = (ip, u8::try_from(held.prefix_len)) else {
                    continue;
                };
                found.entry(of.ifindex).or_default().insert(Address { ip, prefix_len });
            }
            Ok::<_, MapError>(found)
        };
        read().unwrap_or_else(|error| {
            debug!("nothing is known of what was withheld before: {}", causes(&error));
            BTreeMap::new()
        })
    }

    fn open_lru<K: Pod, V: Pod>(&self, map: &str) -> Result<HashMap<MapData, K, V>, MapError> {
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(self.path(map))?))
    }

    fn open<K: Pod, V: Pod>(&self, map: &str) -> Result<HashMap<MapData, K, V>, MapError> {
        HashMap::try_from(Map::from_map_data(MapData::from_pin(self.path(map))?)?)
    }

    /// Keeps the tables of these programs from now on, in place of those that are there.
    pub fn keep(&self, programs: &Programs) {
        let kept = fs::create_dir_all(&self.directory)
            .map_err(|source| KeepError::Directory { path: self.directory.clone(), source })
            .and_then(|()| self.put(maps::NICS, |path| programs.nics.map().pin(path)))
            .and_then(|()| self.put(maps::SOCKETS, |path| programs.filters.sockets.map().pin(path)))
            .and_then(|()| self.put(maps::ADDRESSES_HELD, |path| programs.held.map().pin(path)));
        if let Err(error) = kept {
            // Old tables would say what is not so any more.
            let _ = self.remove();
            info!(
                "if this vipshield is killed while names are exchanged, the next one has to guess what NICs \
                 were called (mount a bpffs at {BPFFS}): {}",
                causes(&error)
            );
        }
    }

    /// At no time there is none.
    fn put(
        &self,
        map: &str,
        pin: impl FnOnce(&Path) -> Result<(), PinError>,
    ) -> Result<(), KeepError> {
        let path = self.path(map);
        // What is left of one that was killed right here.
        let new = self.directory.join(format!("{map}_new"));
        let _ = fs::remove_file(&new);
        pin(&new).map_err(|source| KeepError::Pin { path: new.clone(), source })?;
        fs::rename(&new, &path).map_err(|source| KeepError::Rename { path, source })
    }

    /// Nothing is kept any more. Returns whether there was anything.
    pub fn remove(&self) -> io::Result<bool> {
        let found = match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            removed => removed.map(|()| true)?,
        };
        // It is that of other network namespaces too.
        if let Some(parent) = self.directory.parent() {
            let _ = fs::remove_dir(parent);
        }
        Ok(found)
    }
}
