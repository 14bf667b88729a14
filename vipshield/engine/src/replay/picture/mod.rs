//! A transition as a picture: who said, was told, decided and did what, in lanes over one axis of time.
//!
//! What is in it is decided here, and how it looks in [`svg`](super::svg).

mod band;
mod gather;
mod lanes;
mod messages;
mod short;

use std::time::Duration;

use thiserror::Error;

use self::gather::Gather;
use super::Replay;
use crate::{
    phase::Phase,
    record::{Clocks, Entry, Header},
};

/// So much is shown before and after a transition: an advert of the usual interval is in each.
const MARGIN: Duration = Duration::from_millis(1_100);

/// So much after one that nobody shielded: what comes of it takes three adverts that are not heard, and a skew.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Transitions closer than this are one: while names are exchanged a NIC is free in between.
const APART: Duration = Duration::from_millis(500);

/// So many transitions are named where there are several.
const NAMED: usize = 5;

/// From when to when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The engine's time.
    pub from: Duration,
    /// Not before `from`.
    pub to: Duration,
}

impl Extent {
    fn with_margin(self, margin: Duration) -> Self {
        Self { from: self.from.saturating_sub(margin), to: self.to.saturating_add(margin) }
    }

    fn has(self, at: Duration) -> bool {
        self.from <= at && at <= self.to
    }

    fn length(self) -> Duration {
        self.to.saturating_sub(self.from)
    }
}

/// A transition with what surrounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What happened, in a line.
    pub title: String,
    /// When, and who recorded it.
    pub about: String,
    /// All that is shown.
    pub shown: Extent,
    /// The transition itself.
    pub transition: Extent,
    /// From top to bottom.
    pub lanes: Vec<Lane>,
    /// What there was no room for, a line each.
    pub left_out: Vec<String>,
}

/// One row of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Lanes of one group follow each other.
    pub group: String,
    /// What it is about.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What a lane shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Moments, the earliest first.
    Marks(Vec<Mark>),
    /// What was so for some time; none overlaps the next.
    Band(Vec<Span>),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Duration,
    /// What kind of thing it was.
    pub kind: Kind,
    /// A few words.
    pub short: String,
    /// A line.
    pub text: String,
}

/// Kinds of marks; the last of several is shown for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The kernel said so.
    Said,
    /// A daemon was told.
    Told,
    /// A daemon was not told.
    Withheld,
    /// An advert from elsewhere.
    Heard,
    /// An advert of this node's.
    Sent,
    /// vipshield did something.
    Done,
    /// It could not.
    Failed,
}

/// Something that was so for some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// For how long.
    pub time: Extent,
    /// How things stood.
    pub shade: Shade,
    /// In words.
    pub text: String,
}

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shade {
    /// Of no concern to this node.
    Idle,
    /// The NIC has it.
    Home,
    /// Another interface has it.
    Away,
    /// vipshield keeps it reachable.
    Kept,
    /// On its way.
    Moving,
    /// Nowhere, or failed.
    Bad,
}

/// Why there is no picture.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NoPicture {
    /// Nothing happened.
    #[error("there is no transition in the recording: no NIC changed its phase")]
    NoTransition,
    /// Nothing happened then.
    #[error("there is no transition at {at}; there is one at {}", known.join(", at "))]
    NotThen {
        /// The time of day.
        at: String,
        /// When there were some.
        known: Vec<String>,
    },
}

/// Draws the last transition of a recording, or the one at a time.
pub fn picture(
    header: &Header,
    entries: &[Entry],
    at: Option<Duration>,
) -> Result<Picture, NoPicture> {
    let transition = choose(&transitions(header, entries), at, header.clocks)?;
    let mut shown = transition.with_margin(MARGIN);
    if header.config.observe {
        shown.to = transition.to.saturating_add(AFTERMATH);
    }
    let mut gather = Gather::new(transition, shown, &header.config);
    let mut replay = Replay::new(header);
    for entry in entries.iter().take_while(|entry| entry.at <= shown.to) {
        gather.before(&replay.engine, entry);
        replay.play(entry);
        gather.after(&replay.engine, entry.at);
    }
    Ok(gather.picture(header))
}

/// When NICs were on their way, or failed, the earliest first.
fn transitions(header: &Header, entries: &[Entry]) -> Vec<Extent> {
    let mut replay = Replay::new(header);
    let mut found: Vec<Extent> = Vec::new();
    let mut phases: Vec<(u32, Phase)> = Vec::new();
    let mut was_moving = false;
    for entry in entries {
        replay.play(entry);
        let nics = replay.engine.nics.values();
        let now: Vec<_> = nics.map(|nic| (nic.ifindex, nic.phase)).collect();
        let is_moving = now.iter().any(|(_, phase)| phase.is_transition());
        let is_another = |(nic, phase): &(u32, Phase)| {
            phases.iter().any(|(other, was)| other == nic && was != phase)
        };
        if is_moving || now.iter().any(is_another) {
            match found.last_mut() {
                Some(last) if was_moving || entry.at <= last.to.saturating_add(APART) => {
                    last.to = entry.at;
                }
                _ => found.push(Extent { from: entry.at, to: entry.at }),
            }
        }
        (phases, was_moving) = (now, is_moving);
    }
    found
}

fn choose(found: &[Extent], at: Option<Duration>, clocks: Clocks) -> Result<Extent, NoPicture> {
    let last = *found.last().ok_or(NoPicture::NoTransition)?;
    let Some(at) = at else { return Ok(last) };
    let away = |extent: &&Extent| {
        extent.from.saturating_sub(at).saturating_add(at.saturating_sub(extent.to))
    };
    let near = found.iter().filter(|extent| extent.with_margin(MARGIN).has(at)).min_by_key(away);
    near.copied().ok_or_else(|| {
        let mut nearest: Vec<&Extent> = found.iter().collect();
        nearest.sort_by_key(away);
        nearest.truncate(NAMED);
        nearest.sort_by_key(|extent| extent.from);
        let known = nearest.into_iter().map(|extent| clocks.time_of_day(extent.from)).collect();
        NoPicture::NotThen { at: clocks.time_of_day(at), known }
    })
}
