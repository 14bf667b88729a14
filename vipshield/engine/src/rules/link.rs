//! Whether a NIC's link is what daemons believe, and when they are told of what is not as they believe.

use std::fmt;

use vipshield_common::rule::When;

use self::{
    facts::{RUNNING, TOLD, USURPED},
    telling::{ADDRESS, DUE, IS_LINK, PASSED, UNHEARD},
};
use super::{Table, rule};

/// See [`LINK`].
pub(crate) mod facts {
    vipshield_common::facts! {
        /// The daemons were told that it failed.
        TOLD => "told";
        /// It is up and has a carrier.
        RUNNING => "running";
        /// Another interface, no bridge, has its name.
        USURPED => "another NIC has its name";
    }
}

/// See [`TELLING`].
pub(crate) mod telling {
    vipshield_common::facts! {
        /// The link is not as the daemons believe.
        IS_LINK => "the link";
        /// An address is gone.
        ADDRESS => "an address";
        /// It has not been so for as long as the deadline.
        DUE => "the deadline has come";
        /// The failure's own messages bear another name than the daemons know: they are withheld.
        UNHEARD => "down and renamed";
        /// A rule of one's own let daemons see it.
        PASSED => "passed by a rule of one's own";
    }
}

/// What the link is to those who believe that it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As they believe, or they know.
    Known,
    /// Not so, and they do not know.
    Astray,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "nothing to tell",
            Self::Astray => "untrue: see telling",
        })
    }
}

/// Whether the link is as daemons believe.
pub(crate) static LINK: Table<Standing> = Table {
    name: "link",
    about: "Whether a NIC's link is what the daemons believe.",
    facts: facts::NAMES,
    rules: &[
        rule("told", When::all(TOLD), Standing::Known, "Once is enough."),
        rule(
            "usurped",
            When::all(USURPED),
            Standing::Astray,
            "A name that another NIC has is lost; one that a bridge has is exchanged.",
        ),
        rule(
            "works",
            When::all(RUNNING),
            Standing::Known,
            "A NIC that works under another name did not fail.",
        ),
    ],
    otherwise: rule("fails", When::ALWAYS, Standing::Astray, "It is down, or has no carrier."),
};

/// What is done about something untrue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// It is withheld still.
    Keep,
    /// Daemons are told.
    Tell,
}

impl fmt::Display for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Tell => "tell the daemons",
        })
    }
}

/// When daemons are told.
pub(crate) static TELLING: Table<Telling> = Table {
    name: "telling",
    about: "When daemons are told of what is not as they believe: of a link by an answer on their own \
            socket (resync), of an address by its removal, said again (replay).",
    facts: telling::NAMES,
    rules: &[
        rule(
            "link-unheard",
            When::all(IS_LINK | UNHEARD),
            Telling::Tell,
            "A failure passes by itself, unless its messages bear another name.",
        ),
        rule(
            "link-passed",
            When::all(IS_LINK | PASSED),
            Telling::Tell,
            "They have seen it: it counts as told, and its end will be told too.",
        ),
        rule("link-due", When::all(IS_LINK | DUE), Telling::Tell, "It has not come back in time."),
        rule("address-due", When::all(ADDRESS | DUE), Telling::Tell, "It is nowhere still."),
    ],
    otherwise: rule("in-time", When::ALWAYS, Telling::Keep, "It may become true again."),
};
