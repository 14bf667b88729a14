//! What the guard is to withhold about a NIC.

use std::fmt;

use vipshield_common::{guard::withhold, rule::When};

use self::facts::{MOVING, NAMES_KNOWN, SETTLES, TOLD};
use super::{Table, rule};

/// See [`POLICY`].
pub(crate) mod facts {
    vipshield_common::facts! {
        /// The phase is down.
        TOLD => "phase down";
        /// The phase is leaving or returning.
        MOVING => "phase leaving or returning";
        /// It is down, or was a moment ago.
        SETTLES => "taken down a moment ago";
        /// All daemons that use it take the bridge that has its name for their interface.
        NAMES_KNOWN => "its daemons use the bridge by its name";
    }
}

/// Bits of [`withhold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Withholds(pub(crate) u32);

const FIRST_STEPS: u32 = withhold::ADDRESS_REMOVAL | withhold::ADMIN_DOWN | withhold::RENAME;
const ALL: Withholds = Withholds(FIRST_STEPS | withhold::CARRIER_LOSS);

impl fmt::Display for Withholds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (withhold::ADDRESS_REMOVAL, "removals of addresses"),
            (withhold::ADMIN_DOWN, "taken down"),
            (withhold::CARRIER_LOSS, "carrier"),
            (withhold::RENAME, "names"),
        ];
        let words = words.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, word)| *word);
        write!(f, "withhold {}", words.collect::<Vec<_>>().join(", "))
    }
}

/// The policies.
pub(crate) static POLICY: Table<Withholds> = Table {
    name: "policy",
    about: "What the guard is to withhold about a NIC (the guard's facts \"policy\").",
    facts: facts::NAMES,
    rules: &[
        rule(
            "failed",
            When::all(TOLD),
            Withholds(withhold::ADDRESS_REMOVAL),
            "From a failure on the daemons learn what the link does, and what has its name.",
        ),
        rule(
            "names-known",
            When::all(NAMES_KNOWN),
            Withholds(withhold::ADDRESS_REMOVAL),
            "To them the bridge is the interface: that it goes down, or goes away, is true and has to be known, or \
             they take what has the name next for one that never failed.",
        ),
        rule("moving", When::all(MOVING), ALL, "All of it goes and comes back within a move."),
        rule(
            "carrier-settles",
            When::all(SETTLES),
            ALL,
            "A NIC that was taken down comes up before its carrier does.",
        ),
    ],
    otherwise: rule(
        "at-rest",
        When::ALWAYS,
        Withholds(FIRST_STEPS),
        "A move may begin with any of these; a lost carrier is a failure.",
    ),
};
