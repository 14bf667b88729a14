//! What is prepared for a NIC, or done for its traffic while it is on its way.

use std::fmt;

use vipshield_common::rule::When;

use self::{
    facts::{DISTURBED, EXPECTED, HOME, LINGERS, MOVING, PORT, WORKS},
    shunt::{HEIR, IS_PORT, WIRE},
};
use super::{Table, rule};

/// See [`CARRY`].
pub(crate) mod facts {
    vipshield_common::facts! {
        /// It is up and has a carrier.
        WORKS => "works";
        /// The phase is leaving or returning.
        MOVING => "phase leaving or returning";
        /// It became free a moment ago: routes come back behind the addresses.
        LINGERS => "free since a moment ago";
        /// It lacks an address or a route that belongs to it.
        DISTURBED => "lacks something of its own";
        /// It is a port of something.
        PORT => "port";
        /// A bridge appeared some seconds ago.
        EXPECTED => "a bridge appeared";
        /// It is free and has its own name.
        HOME => "free, with its name";
    }
}

/// See [`SHUNT`].
pub(crate) mod shunt {
    vipshield_common::facts! {
        /// It is a port of something.
        IS_PORT => "port";
        /// A bridge that it is no port of has all its addresses.
        HEIR => "a bridge has its addresses";
        /// Its bridge, or that one, is up and has its hardware address.
        WIRE => "the bridge is up, with its hardware address";
    }
}

/// What is carried for a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    /// Nothing.
    Nothing,
    /// Its IPv6 addresses.
    Late,
    /// All that belongs to it.
    All,
    /// The same, with an anchor that nobody takes for the node's address.
    Ahead,
}

impl fmt::Display for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Late => "carry its IPv6 addresses",
            Self::All => "carry its addresses and routes",
            Self::Ahead => "carry them, with the anchor behind its addresses",
        })
    }
}

/// What keeps a NIC in use.
pub(crate) static CARRY: Table<Carry> = Table {
    name: "carry",
    about: "What of a NIC's addresses and routes is kept in use beside the main table (decision 5).",
    facts: facts::NAMES,
    rules: &[
        rule("no-carrier", When::none(WORKS), Carry::Nothing, "What has no carrier leads nowhere."),
        rule(
            "late-on-bridge",
            When::all(PORT | MOVING | DISTURBED),
            Carry::Late,
            "A bridge that had no port before makes nothing of its IPv6 addresses until it has a carrier.",
        ),
        rule(
            "moving",
            When::all(MOVING | DISTURBED),
            Carry::All,
            "Between the first address that leaves and the port that joins nothing else leads anywhere.",
        ),
        rule(
            "lingers",
            When::all(LINGERS | DISTURBED),
            Carry::All,
            "Routes are put back behind the addresses.",
        ),
        rule(
            "ahead",
            When::all(EXPECTED | HOME),
            Carry::Ahead,
            "The first address that leaves may be the last, and what the kernel flushes with it nobody puts \
             back in time.",
        ),
    ],
    otherwise: rule(
        "at-rest",
        When::ALWAYS,
        Carry::Nothing,
        "A node is as it is without vipshield.",
    ),
};

/// The shunt that is laid for a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Laid {
    /// None.
    Nothing,
    /// To its bridge, thrown when it leaves.
    Cut,
    /// To the bridge that has its addresses, thrown when it joins.
    Join,
}

impl fmt::Display for Laid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "none",
            Self::Cut => "laid to its bridge, thrown when the port leaves",
            Self::Join => "laid to that bridge, thrown when the port joins",
        })
    }
}

/// What makes a NIC and its bridge one wire.
pub(crate) static SHUNT: Table<Laid> = Table {
    name: "shunt",
    about: "Which shunt lies ready for the moment in which a port joins or leaves (decision 8).",
    facts: shunt::NAMES,
    rules: &[
        rule("cut", When::all(IS_PORT | WIRE), Laid::Cut, "It may leave at any time."),
        rule("join", When::all(HEIR | WIRE), Laid::Join, "It is about to join."),
    ],
    otherwise: rule(
        "no-wire",
        When::ALWAYS,
        Laid::Nothing,
        "Nobody takes it, or a stack takes what was sent to its hardware address for another host's.",
    ),
};
