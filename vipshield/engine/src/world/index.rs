//! An index: interfaces by something that several of them may have.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// See the [module](self). What no interface has takes no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index<K>(BTreeMap<K, BTreeSet<u32>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Index<K> {
    pub(super) fn add(&mut self, key: K, ifindex: u32) {
        self.0.entry(key).or_default().insert(ifindex);
    }

    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q, ifindex: u32)
    where
        K: Borrow<Q>,
    {
        let Some(interfaces) = self.0.get_mut(key) else { return };
        interfaces.remove(&ifindex);
        if interfaces.is_empty() {
            self.0.remove(key);
        }
    }

    /// Forgets a key. Returns who had it.
    pub(super) fn take<Q: Ord + ?Sized>(&mut self, key: &Q) -> BTreeSet<u32>
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).unwrap_or_default()
    }

    /// Who has it, the lowest index first.
    pub(super) fn at<'a, Q: Ord + ?Sized>(
        &'a self,
        key: &Q,
    ) -> impl Iterator<Item = u32> + use<'a, K, Q>
    where
        K: Borrow<Q>,
    {
        self.0.get(key).into_iter().flatten().copied()
    }

    /// Who has any key within a range.
    pub(super) fn between(&self, range: Range<K>) -> impl Iterator<Item = u32> + use<'_, K> {
        self.0.range(range).flat_map(|(_, interfaces)| interfaces).copied()
    }

    /// Whether anybody has it.
    pub(super) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }
}
