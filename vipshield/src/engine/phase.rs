//! Where a guarded NIC stands.

use std::fmt;

use serde::{Deserialize, Serialize};
use vipshield_common::guard::withhold;

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

    /// What the guard withholds in this phase: bits of [`withhold`].
    ///
    /// A lost carrier is withheld within a transition only; outside it is a real failure. What
    /// could be the first step of a transition is withheld until a deadline, but from a failure on
    /// the daemons learn which interface has the NIC's name.
    #[must_use]
    pub const fn withhold(self) -> u32 {
        match self {
            Self::Free | Self::Bridged => {
                withhold::ADDRESS_REMOVAL | withhold::ADMIN_DOWN | withhold::RENAME
            }
            Self::Leaving | Self::Returning => {
                withhold::ADDRESS_REMOVAL
                    | withhold::ADMIN_DOWN
                    | withhold::CARRIER_LOSS
                    | withhold::RENAME
            }
            Self::Down => withhold::ADDRESS_REMOVAL,
        }
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

/// The phase that follows from `signs` when the NIC was in phase `was`.
///
/// | is a port | addresses | link | phase |
/// |---|---|---|---|
/// | no | all on the NIC | up, running | free |
/// | no | all on the NIC | no carrier | down, unless within a transition |
/// | no | else, or the link taken down or renamed | | leaving; returning if it was bridged |
/// | yes | all on the bridge | running | bridged |
/// | yes | all on the bridge | no carrier | down, unless within a transition |
/// | yes | else | | bridged if it was, else leaving |
#[must_use]
pub const fn derive(was: Phase, signs: Signs) -> Phase {
    if !signs.exists || (signs.told && !(signs.running && signs.in_place)) {
        return Phase::Down;
    }
    let undisturbed = signs.in_place && if signs.port { signs.carried } else { signs.at_home };
    if undisturbed {
        return match (signs.running, signs.port, was) {
            (true, false, _) => Phase::Free,
            (true, true, _) => Phase::Bridged,
            (false, _, Phase::Leaving) => Phase::Leaving,
            (false, _, Phase::Returning) => Phase::Returning,
            (false, _, Phase::Free | Phase::Bridged | Phase::Down) => Phase::Down,
        };
    }
    match (signs.port, was) {
        (true, Phase::Bridged) => Phase::Bridged,
        (true, Phase::Free | Phase::Leaving | Phase::Returning | Phase::Down)
        | (false, Phase::Free | Phase::Leaving | Phase::Down) => Phase::Leaving,
        (false, Phase::Bridged | Phase::Returning) => Phase::Returning,
    }
}
