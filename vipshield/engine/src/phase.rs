//! Where a guarded NIC stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use vipshield_common::rule::Rule;

use super::rules::{PHASE, POLICY, Withholds, facts, word};

/// Phase of a guarded NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It carries its own addresses.
    Free,
    /// It is being taken: something of it is gone, renamed or down, and it is not yet a port
    /// whose bridge carries all its addresses.
    Leaving,
    /// It is a port, and the bridge carries its addresses.
    Bridged,
    /// It is being given back: no port any more, and not all of its addresses are back.
    Returning,
    /// It failed, and the daemons know.
    Down,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Free, Self::Leaving, Self::Bridged, Self::Returning, Self::Down];

    /// Whether the world is expected to become consistent by itself.
    #[must_use]
    pub const fn is_transition(self) -> bool {
        matches!(self, Self::Leaving | Self::Returning)
    }

    /// What the guard withholds in this phase: bits of [`vipshield_common::guard::withhold`]. `settles`: the
    /// NIC is down, or was a moment ago.
    #[must_use]
    pub fn withhold(self, settles: bool) -> u32 {
        self.policy(settles, false).then.0
    }

    /// The rule by which that is so.
    pub(super) fn policy(self, settles: bool, names_known: bool) -> &'static Rule<Withholds> {
        use facts::policy::{MOVING, NAMES_KNOWN, SETTLES, TOLD};
        let facts = word([
            (TOLD, self == Self::Down),
            (MOVING, self.is_transition()),
            (SETTLES, settles),
            (NAMES_KNOWN, names_known),
        ]);
        POLICY.decide(facts)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free",
            Self::Leaving => "leaving",
            Self::Bridged => "bridged",
            Self::Returning => "returning",
            Self::Down => "down",
        })
    }
}

/// Everything about a NIC that its phase follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent observations, not a state")]
pub struct Signs {
    /// The interface exists.
    pub exists: bool,
    /// It is a port of something.
    pub port: bool,
    /// It was told to be up, and has the name the daemons know, or its bridge has it.
    pub in_place: bool,
    /// It is up and has a carrier.
    pub running: bool,
    /// All its addresses are on it.
    pub at_home: bool,
    /// Its bridge is up and carries all its addresses.
    pub carried: bool,
    /// The daemons were told of a failure that lasts.
    pub told: bool,
}

impl Signs {
    fn facts(self, was: Phase) -> u32 {
        use facts::phase::{
            AT_HOME, CARRIED, EXISTS, IN_PLACE, PORT, RUNNING, TOLD, WAS_BRIDGED, WAS_LEAVING,
            WAS_RETURNING,
        };
        word([
            (EXISTS, self.exists),
            (IN_PLACE, self.in_place),
            (RUNNING, self.running),
            (TOLD, self.told),
            (PORT, self.port),
            (AT_HOME, self.at_home),
            (CARRIED, self.carried),
            (WAS_LEAVING, was == Phase::Leaving),
            (WAS_BRIDGED, was == Phase::Bridged),
            (WAS_RETURNING, was == Phase::Returning),
        ])
    }
}

/// The phase that follows from `signs` when the NIC was in phase `was`: see [`rules`](crate::rules).
#[must_use]
pub fn derive(was: Phase, signs: Signs) -> Phase {
    decide(was, signs).then
}

/// The rule by which a phase follows.
pub(super) fn decide(was: Phase, signs: Signs) -> &'static Rule<Phase> {
    PHASE.decide(signs.facts(was))
}
