//! What the engine was told and what it asked for, kept: the last minutes of it in memory, to be written
//! down and played again ([`replay`](crate::replay)).
//!
//! A recording is a [`Header`] and [`Entry`]s, each a line of JSON. Its first entry is the start, or, if what
//! was before has been dropped, a checkpoint: events that tell an engine that knows nothing how the world is.
//! Values are kept, and serialised when somebody asks.

mod checkpoint;
mod size;

use std::{mem, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Action, Config, Event};

/// The version of what [`Header`] and [`Entry`] look like.
pub const FORMAT: u32 = 1;

/// Of so many links, addresses, events or their like a half of what is kept in memory is: of each some 200
/// bytes, so that there are some 3 MB in each half.
pub const ROOM: usize = 16_384;

/// The first line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub recording: u32,
    /// Of the vipshield that recorded it: another one may decide otherwise.
    pub version: String,
    /// The clocks at one moment.
    pub clocks: Clocks,
    /// It begins with the start of vipshield, not with a checkpoint.
    pub whole: bool,
    /// The engine's configuration.
    pub config: Config,
}

/// What two clocks said in one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clocks {
    /// The engine's time, in nanoseconds.
    pub monotonic_ns: u64,
    /// Milliseconds since 1970 (UTC).
    pub unix_ms: u64,
}

impl Clocks {
    /// A time of the engine's as what has passed of its day (UTC).
    #[must_use]
    pub fn since_midnight(self, at: Duration) -> Duration {
        const DAY_MS: u128 = 86_400_000;
        let began = Duration::from_nanos(self.monotonic_ns);
        let unix = Duration::from_millis(self.unix_ms).saturating_add(at).saturating_sub(began);
        Duration::from_millis(u64::try_from(unix.as_millis() % DAY_MS).unwrap_or(0))
    }

    /// The same in hours, minutes, seconds and milliseconds.
    #[must_use]
    pub fn time_of_day(self, at: Duration) -> String {
        let time = self.since_midnight(at);
        let seconds = time.as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        format!("{hours:02}:{minutes:02}:{:02}.{:03}", seconds % 60, time.subsec_millis())
    }
}

/// Any other line: what was told at a time, and what was then asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The engine's time.
    #[serde(rename = "at_ns", with = "nanos")]
    pub at: Duration,
    /// In their order.
    pub events: Vec<Event>,
    /// In their order.
    pub actions: Vec<Action>,
}

/// Entries from a start or a checkpoint on.
#[derive(Clone, Debug, Default)]
struct Half {
    begins_whole: bool,
    entries: Vec<Entry>,
    size: usize,
}

/// The last entries, in two halves: when the newer is full it becomes the older, whose place it takes.
#[derive(Clone, Debug)]
pub struct Recent {
    older: Option<Half>,
    newer: Half,
}

impl Default for Recent {
    fn default() -> Self {
        Self { older: None, newer: Half { begins_whole: true, ..Half::default() } }
    }
}

impl Recent {
    /// Keeps an entry.
    pub fn keep(&mut self, entry: Entry) {
        self.newer.size = self.newer.size.saturating_add(entry.size());
        self.newer.entries.push(entry);
    }

    /// Whether there is to be a checkpoint, behind which the next entries are kept.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.newer.size >= ROOM
    }

    /// Begins the next half with this checkpoint, and drops the oldest.
    pub fn begin(&mut self, checkpoint: Entry) {
        let full = mem::take(&mut self.newer);
        self.older = Some(full);
        // How large it is does not count, or a large world would be kept and nothing else.
        self.newer.entries.push(checkpoint);
    }

    /// Whether nothing was dropped since the start.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.older.as_ref().unwrap_or(&self.newer).begins_whole
    }

    /// What is kept, the oldest first. The checkpoint in its middle is left out.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        let older = self.older.iter().flat_map(|half| &half.entries);
        let known = usize::from(self.older.is_some());
        older.chain(self.newer.entries.iter().skip(known))
    }
}

mod nanos {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(at.as_nanos()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: u64, events: usize) -> Entry {
        let at = Duration::from_secs(second);
        Entry { at, events: vec![Event::Tick; events], actions: Vec::new() }
    }

    #[test]
    fn what_is_kept_is_bounded_and_begins_with_what_the_rest_needs() {
        let mut recent = Recent::default();
        assert!(recent.is_whole());
        recent.keep(entry(1, ROOM));
        assert!(recent.is_full() && recent.is_whole());
        recent.begin(entry(2, 5));
        recent.keep(entry(3, ROOM));
        let kept =
            |recent: &Recent| recent.entries().map(|entry| entry.at.as_secs()).collect::<Vec<_>>();
        assert_eq!(kept(&recent), [1, 3], "nothing is cut yet, so no checkpoint is needed");
        assert!(recent.is_whole());
        recent.begin(entry(4, 5));
        recent.keep(entry(5, 1));
        assert_eq!(
            kept(&recent),
            [2, 3, 5],
            "the oldest is dropped, and a checkpoint is the first"
        );
        assert!(!recent.is_whole() && !recent.is_full());
    }
}
