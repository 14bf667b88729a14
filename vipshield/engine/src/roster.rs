//! A table of those who were heard, with a fixed number of places.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::pairs;

/// Who was heard, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry<V> {
    /// Since when it is heard without a pause.
    pub(super) first: Duration,
    /// When it was heard last.
    pub(super) last: Duration,
    /// How often it was heard.
    pub(super) count: u64,
    /// What it said last.
    pub(super) value: V,
}

/// At most `N` entries.
///
/// Whoever invents names cannot drive out those that are known: a newcomer takes the place of one
/// that has fallen silent or, if all are heard, of the newest. An entry that is to be kept stays
/// whatever comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize, V: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de>"
))]
pub(super) struct Roster<K, V, const N: usize> {
    #[serde(with = "pairs")]
    entries: BTreeMap<K, Entry<V>>,
    /// Entries that made place, and newcomers that found none.
    pub(super) evicted: u64,
}

impl<K, V, const N: usize> Default for Roster<K, V, N> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), evicted: 0 }
    }
}

impl<K: Ord + Copy, V, const N: usize> Roster<K, V, N> {
    /// One that was heard now. None: there is no place for it. One that was not heard for
    /// `lifetime` begins anew.
    pub(super) fn admit(
        &mut self,
        key: K,
        lifetime: Duration,
        now: Duration,
        new: impl FnOnce() -> V,
        keep: impl Fn(&K, &V) -> bool,
    ) -> Option<&mut Entry<V>> {
        if !self.entries.contains_key(&key) && self.entries.len() >= N {
            self.evicted += 1;
            let last_resort = self.place(lifetime, now, keep)?;
            self.entries.remove(&last_resort);
        }
        let fresh = || Entry { first: now, last: now, count: 0, value: new() };
        let entry = self.entries.entry(key).or_insert_with(fresh);
        if now > entry.last.saturating_add(lifetime) {
            entry.first = now;
        }
        entry.last = now;
        entry.count += 1;
        Some(entry)
    }

    /// Whose place a newcomer takes.
    fn place(&self, lifetime: Duration, now: Duration, keep: impl Fn(&K, &V) -> bool) -> Option<K> {
        let others = || self.entries.iter().filter(|(key, entry)| !keep(key, &entry.value));
        let silent = others()
            .filter(|(_, entry)| now > entry.last.saturating_add(lifetime))
            .min_by_key(|(_, entry)| entry.last);
        let newest = || others().max_by_key(|(_, entry)| entry.first);
        silent.or_else(newest).map(|(key, _)| *key)
    }

    pub(super) fn get(&self, key: &K) -> Option<&Entry<V>> {
        self.entries.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Entry<V>)> {
        self.entries.iter()
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = (&K, &mut Entry<V>)> {
        self.entries.iter_mut()
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &Entry<V>) -> bool) {
        self.entries.retain(|key, entry| keep(key, entry));
    }
}
