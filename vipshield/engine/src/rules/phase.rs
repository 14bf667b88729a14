//! Which phase a NIC is in.

use vipshield_common::rule::When;

use self::facts::{
    AT_HOME, CARRIED, EXISTS, IN_PLACE, PORT, RUNNING, TOLD, WAS_BRIDGED, WAS_LEAVING,
    WAS_RETURNING,
};
use super::{Table, rule};
use crate::phase::Phase;

/// See [`Signs`](crate::phase::Signs).
pub(crate) mod facts {
    vipshield_common::facts! {
        /// The interface exists.
        EXISTS => "exists";
        /// It was told to be up, and has its name, or its bridge has it.
        IN_PLACE => "in place";
        /// It is up and has a carrier.
        RUNNING => "running";
        /// The daemons were told of a failure that lasts.
        TOLD => "told";
        /// It is a port of something.
        PORT => "port";
        /// All its addresses are on it.
        AT_HOME => "at home";
        /// Its bridge is up and has all of them.
        CARRIED => "carried";
        /// It was leaving.
        WAS_LEAVING => "was leaving";
        /// It was bridged.
        WAS_BRIDGED => "was bridged";
        /// It was returning.
        WAS_RETURNING => "was returning";
    }
}

/// What lost its carrier while nothing was under way.
const OUTSIDE_A_MOVE: u32 = RUNNING | WAS_LEAVING | WAS_RETURNING;

/// The phases.
pub(crate) static PHASE: Table<Phase> = Table {
    name: "phase",
    about: "Which phase a NIC is in, by what is seen of it and the phase before; \
            docs/phases.md has all combinations.",
    facts: facts::NAMES,
    rules: &[
        rule("gone", When::none(EXISTS), Phase::Down, "What does not exist carries nothing."),
        rule(
            "link-told",
            When::all(TOLD).but(RUNNING),
            Phase::Down,
            "No carrier for longer than the deadline is a failure.",
        ),
        rule(
            "name-told",
            When::all(TOLD).but(IN_PLACE),
            Phase::Down,
            "Taken down, or without its name, for longer than the deadline: a failure.",
        ),
        rule(
            "home",
            When::all(IN_PLACE | RUNNING | AT_HOME).but(PORT),
            Phase::Free,
            "All is as it should be.",
        ),
        rule(
            "carried",
            When::all(IN_PLACE | RUNNING | PORT | CARRIED),
            Phase::Bridged,
            "The bridge is up and has every address.",
        ),
        rule(
            "carrier-lost",
            When::all(IN_PLACE | AT_HOME).but(PORT | OUTSIDE_A_MOVE),
            Phase::Down,
            "Nothing but the carrier is missing: outside a move a failure.",
        ),
        rule(
            "port-carrier-lost",
            When::all(IN_PLACE | PORT | CARRIED).but(OUTSIDE_A_MOVE),
            Phase::Down,
            "The same of a port.",
        ),
        rule(
            "still-bridged",
            When::all(PORT | WAS_BRIDGED),
            Phase::Bridged,
            "A bridge that lacks an address once had them all.",
        ),
        rule(
            "carrier-returning",
            When::all(IN_PLACE | PORT | CARRIED | WAS_RETURNING),
            Phase::Returning,
            "A port again before its carrier is back: the move goes on.",
        ),
        rule(
            "given-back",
            When::all(WAS_BRIDGED).but(PORT),
            Phase::Returning,
            "No port any more, and not all of it is back.",
        ),
        rule(
            "still-returning",
            When::all(WAS_RETURNING).but(PORT),
            Phase::Returning,
            "Not all of it is back.",
        ),
    ],
    otherwise: rule(
        "taken",
        When::ALWAYS,
        Phase::Leaving,
        "Something of it is gone, renamed or down, which is how a move begins.",
    ),
};
