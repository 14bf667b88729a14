//! Whether a bridge lets through what its ports are to carry, told from adverts: those of this node, which
//! the bearer sends and the NIC puts on the wire, and those of others, which the NIC receives and the bearer
//! hands to the stack. What took the shunt went past the bridge, and says nothing of it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{super::world::World, Nic};

/// A bridge has so long for a frame: Open vSwitch asks a process first what becomes of the first of its kind.
const PASSES_WITHIN: Duration = Duration::from_millis(50);

/// A way that nobody has tried for so long may be open again: a daemon that was told of a failure sends
/// nothing that would show it.
const QUIET: Duration = Duration::from_secs(10);

/// A switch that takes no new flows for so long is as good as none, whatever still gets through it: one that
/// is begun anew, as at an upgrade, takes seconds to a minute.
const UNSERVED: Duration = Duration::from_mins(1);

/// Why nobody reaches the node through the bridge, though it has the NIC's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum CutOff {
    /// Adverts do not get through.
    Lost,
    /// What is no old flow does not, and has not for long.
    Unserved,
}

impl fmt::Display for CutOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "behind a bridge that adverts do not get through",
            Self::Unserved => "behind a switch that has taken no new flows for a minute",
        })
    }
}

/// Which way a frame takes through the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// From the bearer to the NIC.
    Out,
    /// From the NIC to the bearer.
    In,
}

/// What was seen at the two ends of a way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ends {
    /// The first and the last that went in since something came out.
    missing: Option<(Duration, Duration)>,
    /// What comes out is seen: no other program takes frames away before vipshield's.
    visible: bool,
}

impl Ends {
    /// Since when what goes in does not come out.
    fn lost_since(&self, now: Duration) -> Option<Duration> {
        let (first, last) = self.missing?;
        let is_lost =
            now >= first.saturating_add(PASSES_WITHIN) && now < last.saturating_add(QUIET);
        is_lost.then_some(first)
    }
}

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Passage {
    /// The bearer, and since when the NIC is its port and works.
    began: Option<(u32, Duration)>,
    out: Ends,
    into: Ends,
    /// Something has come through since.
    open: bool,
    /// This node said last that it is the owner: whoever heeds it is silent, and what others put on the wire
    /// need not come in.
    speaks: bool,
    /// Nothing came through any more when it was last looked at.
    lost: bool,
}

impl Passage {
    /// The NIC works, and is a port of this bearer; or not.
    fn settle(&mut self, bearer: Option<u32>, now: Duration) {
        if self.began.map(|(bearer, _)| bearer) != bearer {
            let out = Ends { missing: None, ..self.out };
            *self = Self { began: bearer.map(|bearer| (bearer, now)), out, ..Self::default() };
        }
    }

    /// An advert is at the bridge.
    pub(in super::super) fn went_in(&mut self, way: Way, now: Duration) {
        if self.began.is_some() {
            self.speaks |= way == Way::Out;
            let missing = &mut self.ends(way).missing;
            *missing = Some((missing.map_or(now, |(first, _)| first), now));
        }
    }

    /// An advert to a single host took the shunt: no copy of it is at the bridge, and nothing is missing.
    pub(in super::super) const fn went_past(&mut self, way: Way) {
        let ends = self.ends(way);
        ends.visible = true;
        ends.missing = None;
    }

    /// An advert is on the other side.
    pub(in super::super) fn came_out(&mut self, way: Way, shunted: bool, now: Duration) {
        let ends = self.ends(way);
        ends.visible = true;
        if shunted {
            return;
        }
        let was_lost = ends.lost_since(now).is_some();
        if ends.missing.take().is_none() {
            return;
        }
        self.open = true;
        self.speaks = way == Way::Out;
        // A bridge that was closed and lets the one through lets the other through, too.
        if was_lost {
            self.out.missing = None;
            self.into.missing = None;
        }
    }

    /// Something has come through the bridge since the NIC is its port.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Since when nothing comes through any more. What is lost from the start is lost since the NIC
    /// joined: a shunt carries for it until the `deadline`, which counts from then.
    fn lost_since(&mut self, deadline: Duration, now: Duration) -> Option<Duration> {
        let (_, began) = self.began?;
        // Once it is known to be closed, anything that is missing counts.
        let out = self.out.visible || self.lost;
        let into = self.into.visible && !self.speaks || self.lost;
        let ends = [(out, self.out), (into, self.into)].into_iter().filter(|(counts, _)| *counts);
        let lost = ends.filter_map(|(_, ends)| ends.lost_since(now)).min();
        self.lost = lost.is_some();
        lost.map(|first| {
            let from_the_start = !self.open && first <= began.saturating_add(deadline);
            if from_the_start { began } else { first }
        })
    }

    /// When that may be otherwise, though nothing was seen.
    fn next_look(&self, now: Duration) -> Option<Duration> {
        let missing = [self.out, self.into].into_iter().filter_map(|ends| ends.missing);
        let looks = missing.flat_map(|(first, last)| {
            [first.saturating_add(PASSES_WITHIN), last.saturating_add(QUIET)]
        });
        looks.filter(|at| *at > now).min()
    }

    const fn ends(&mut self, way: Way) -> &mut Ends {
        match way {
            Way::Out => &mut self.out,
            Way::In => &mut self.into,
        }
    }
}

impl Nic {
    /// Whether the bridge does what it is there for. What a NIC without a carrier loses says nothing of it.
    pub(super) fn watch_bridge(&mut self, world: &World, deadline: Duration, now: Duration) {
        let port = world.taker(self.ifindex).is_some();
        let works = world.link(self.ifindex).is_some_and(|link| link.up && link.running);
        let bearer = self.bearer.filter(|bearer| port && works && *bearer != self.ifindex);
        self.passage.settle(bearer, now);
        let unserved = world.unserved_since(self.ifindex).map(|at| at.saturating_add(UNSERVED));
        let lost = self.passage.lost_since(deadline, now).map(|since| (since, CutOff::Lost));
        let given_up = unserved.filter(|at| *at <= now).map(|since| (since, CutOff::Unserved));
        self.cut_off = lost.or(given_up);
        let looks = unserved.filter(|at| *at > now).into_iter().chain(self.passage.next_look(now));
        self.looks_at = looks.min();
    }

    /// Why nobody reaches the node through the bridge.
    pub(in super::super) fn cut_off(&self) -> Option<CutOff> {
        self.cut_off.map(|(_, why)| why)
    }
}
