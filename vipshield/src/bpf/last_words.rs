//! The last word of each command socket on each address, where there was no room for what was said.

use aya::maps::{HashMap, MapData, MapError};
use vipshield_common::{
    intent::{IntentReport, WordKey},
    maps,
};

use super::{BpfError, absent_is_fine};

/// See the [module](self).
pub(super) struct LastWords {
    map: HashMap<MapData, WordKey, IntentReport>,
    /// How many requests had found no room elsewhere when they were last asked for.
    late: u64,
}

impl LastWords {
    pub(super) const fn new(map: HashMap<MapData, WordKey, IntentReport>) -> Self {
        Self { map, late: 0 }
    }

    /// Whether more found no room elsewhere than the last time: `late` of them by now.
    pub(super) const fn are_news(&mut self, late: u64) -> bool {
        let news = late != self.late;
        self.late = late;
        news
    }

    /// All of them. A word on an address stays, and another one takes its place. One that names no
    /// address does not, and is said but once.
    pub(super) fn read(&mut self) -> Result<Vec<IntentReport>, BpfError> {
        let mut words = Vec::new();
        let mut nameless = Vec::new();
        for entry in &self.map {
            // What is removed meanwhile is a socket's that is gone.
            match entry {
                Ok((key, word)) => {
                    nameless.extend((key.family == 0).then_some(key));
                    words.push(word);
                }
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(BpfError::Map { map: maps::LAST_WORDS, source }),
            }
        }
        for key in nameless {
            absent_is_fine(maps::LAST_WORDS, self.map.remove(&key))?;
        }
        Ok(words)
    }

    /// A socket is gone, or not listened to any more.
    pub(super) fn forget(&mut self, cookie: u64) -> Result<(), BpfError> {
        let failed = |source| BpfError::Map { map: maps::LAST_WORDS, source };
        let keys =
            self.map.keys().filter(|key| key.as_ref().map_or(true, |key| key.cookie == cookie));
        for key in keys.collect::<Result<Vec<_>, _>>().map_err(failed)? {
            absent_is_fine(maps::LAST_WORDS, self.map.remove(&key))?;
        }
        Ok(())
    }
}
