//! Whether an address that daemons spoke of may stay on an interface.

use std::fmt;

use vipshield_common::rule::When;

use self::facts::{KNOWN, LATELY, MAY_BE_CLAIMED, ON_BRIDGE};
use super::{Table, rule};

/// See [`VIP`].
pub(crate) mod facts {
    vipshield_common::facts! {
        /// A living daemon has spoken of it.
        KNOWN => "a living daemon knows it";
        /// A daemon that ended in order gave it up a short time ago.
        LATELY => "given up lately";
        /// The interface is a bridge.
        ON_BRIDGE => "on a bridge";
        /// An IPv6 address that was just granted to somebody not known yet.
        MAY_BE_CLAIMED => "a daemon may just have asked for it";
    }
}

/// Whether it may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// It may.
    Stays,
    /// It is taken off.
    Goes,
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stays => "leave",
            Self::Goes => "take off",
        })
    }
}

/// Which addresses have to go.
pub(crate) static VIP: Table<Stay> = Table {
    name: "vip",
    about: "Whether an address that daemons gave up may stay where a NIC's VIPs may be.",
    facts: facts::NAMES,
    rules: &[
        rule(
            "may-be-claimed",
            When::all(MAY_BE_CLAIMED),
            Stay::Stays,
            "Whose doing it was is known in a moment.",
        ),
        rule(
            "off-bridges",
            When::all(ON_BRIDGE),
            Stay::Goes,
            "A bridge has it from whoever moved it; no daemon will take it off there.",
        ),
        rule(
            "given-up",
            When::all(KNOWN),
            Stay::Goes,
            "While its daemon lives and does not mean to have it, another node may have it.",
        ),
        rule(
            "given-up-lately",
            When::all(LATELY),
            Stay::Goes,
            "Whoever was moving it may put it back once more.",
        ),
    ],
    otherwise: rule(
        "operators",
        When::ALWAYS,
        Stay::Stays,
        "Its daemon died, or ended some time ago: on a NIC it is the next one's, or the operator's.",
    ),
};
