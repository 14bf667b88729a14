//! Whether a NIC's address, which daemons believe to be on it, still is where it is of use.

use std::fmt;

use vipshield_common::rule::When;

use self::facts::{CUT_OFF, DEAF, ON_BRIDGE, ON_NIC, WANTED};
use super::{Table, rule};

/// See [`WHEREABOUTS`].
pub(crate) mod facts {
    vipshield_common::facts! {
        /// The NIC has it.
        ON_NIC => "on the NIC";
        /// Its bearer has it, or, unless it is link-local, any bridge.
        ON_BRIDGE => "on a bridge";
        /// A daemon means to have it.
        WANTED => "a daemon's VIP";
        /// Daemons hear no adverts on the bridge.
        DEAF => "daemons hear nothing there";
        /// Nothing gets through the bridge.
        CUT_OFF => "nothing gets through the bridge";
    }
}

/// What an address is to those who believe that it is on the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// As good as there.
    Here,
    /// Gone, since it was first found to be.
    Gone,
    /// Gone, since the bridge lets nothing through.
    CutOff,
    /// Gone for long enough: the deadline is over.
    Overdue,
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "keep",
            Self::Gone => "gone: tell at the deadline",
            Self::CutOff => "gone since the bridge failed: tell at the deadline",
            Self::Overdue => "gone: tell now",
        })
    }
}

/// Where addresses are.
pub(crate) static WHEREABOUTS: Table<Whereabouts> = Table {
    name: "address",
    about: "Whether an address of a NIC's may be believed to be there; if not, its removal is said again \
            (replay).",
    facts: facts::NAMES,
    rules: &[
        rule("on-nic", When::all(ON_NIC), Whereabouts::Here, "It is true."),
        rule(
            "vip-on-bridge",
            When::all(ON_BRIDGE | WANTED),
            Whereabouts::Here,
            "A VIP is its daemon's to give up, which it does when the node's address is gone.",
        ),
        rule(
            "deaf",
            When::all(ON_BRIDGE | DEAF),
            Whereabouts::Overdue,
            "Who does not hear the owner makes itself a second one; that took its time already.",
        ),
        rule(
            "cut-off",
            When::all(ON_BRIDGE | CUT_OFF),
            Whereabouts::CutOff,
            "Nobody reaches it there any more.",
        ),
        rule(
            "on-bridge",
            When::all(ON_BRIDGE),
            Whereabouts::Here,
            "It is on its way, or there: the node still has it.",
        ),
    ],
    otherwise: rule("nowhere", When::ALWAYS, Whereabouts::Gone, "The node does not have it."),
};
