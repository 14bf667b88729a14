//! The guard's table: what becomes of a message on a daemon's monitor socket.
//!
//! The eBPF program, the tests' model of a node and `vipshield rules` read the same lines. Facts are
//! looked up in the order of the rules; once one of those that end the look is found, the others are
//! left at 0: rules about them come later.

use super::{IfName, NicPolicy, REASONS, Reason, withhold};
use crate::{
    facts,
    rule::{Rule, When},
};

facts! {
    /// It ends before it can be understood. Ends the look.
    MALFORMED => "cut off";
    /// `RTM_NEWLINK` or `RTM_DELLINK`. Without this, [`ADDRESS`] and [`ROUTE`] the look ends.
    LINK => "about a link";
    /// `RTM_NEWADDR` or `RTM_DELADDR`.
    ADDRESS => "about an address";
    /// `RTM_DELROUTE` of a route of keepalived's in the main table, for which nobody has asked.
    ROUTE => "about a route of keepalived's that the kernel dropped";
    /// `RTM_DELLINK` or `RTM_DELADDR`.
    REMOVAL => "it is gone";
    /// `NLM_F_MULTI`. Ends the look.
    DUMP => "part of a dump";
    /// Nobody is alive who would tell the truth later. Ends the look at a link.
    STALE => "heartbeat stale";
    /// The socket is not in the guard's table. Ends the look.
    UNKNOWN_SOCKET => "socket unknown";
    /// It answers a request that was made on this very socket. Ends the look.
    ANSWER => "answers this socket";
    /// It is about a guarded NIC. Without this the look ends; of a link, after [`NAME_CONFLICT`].
    GUARDED => "of a guarded NIC";
    /// The link has the name of a guarded NIC whose policy withholds renames.
    NAME_CONFLICT => "has a guarded NIC's name";
    /// A bridge speaks of its port (`AF_BRIDGE`).
    BRIDGE_PORT => "said by a bridge";
    /// The daemons know the NIC by another name.
    RENAMED => "renamed";
    /// Without `IFF_UP`.
    DOWN => "not up";
    /// Without `IFF_RUNNING`.
    NO_CARRIER => "not running";
    /// The last message about the link was withheld, and the policy withholds anything at all.
    HELD => "the last one was withheld";
    /// A guarded daemon asked for the change. Ends the look.
    OF_DAEMON => "a daemon asked for it";
    /// vipshield has the kernel say it again. Ends the look.
    REPLAYED => "replayed";
    /// The address is one of vipshield's own.
    OWN_ADDRESS => "vipshield's own address";
    /// That the address left was withheld from this socket, and nothing of it has passed since.
    KNOWN => "the daemon believes it there";
    /// A rule of the operator's own lets it pass ([`NicPolicy::passes`]).
    OWN_RULE => "a rule of one's own passes it";
    /// [`withhold::ADDRESS_REMOVAL`].
    HIDES_REMOVALS => "policy: removals";
    /// [`withhold::ADMIN_DOWN`].
    HIDES_DOWN => "policy: taken down";
    /// [`withhold::CARRIER_LOSS`].
    HIDES_CARRIER => "policy: carrier";
    /// [`withhold::RENAME`].
    HIDES_NAMES => "policy: names";
}

/// How far the bits of [`withhold`] are shifted to be facts.
const POLICY_SHIFT: u32 = HIDES_REMOVALS.trailing_zeros();

const _: () = assert!(HIDES_REMOVALS == withhold::ADDRESS_REMOVAL << POLICY_SHIFT);
const _: () = assert!(HIDES_DOWN == withhold::ADMIN_DOWN << POLICY_SHIFT);
const _: () = assert!(HIDES_CARRIER == withhold::CARRIER_LOSS << POLICY_SHIFT);
const _: () = assert!(HIDES_NAMES == withhold::RENAME << POLICY_SHIFT);

/// What becomes of a message: the low byte is the [`Reason`] to withhold it, 0 to pass it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Then(pub u32);

impl Then {
    const HOLD: u32 = 1 << 8;
    const SETTLE: u32 = 1 << 9;

    /// It passes.
    pub const PASS: Self = Self(0);
    /// It passes, and what was withheld about the link is untrue by now.
    pub const PASS_AND_SETTLE: Self = Self(Self::SETTLE);

    /// It is withheld.
    #[must_use]
    pub const fn withhold(reason: Reason) -> Self {
        Self(reason as u32)
    }

    /// It is withheld, and so will be what else is not well with the link until it works.
    #[must_use]
    pub const fn withhold_and_hold(reason: Reason) -> Self {
        Self(reason as u32 | Self::HOLD)
    }

    /// The number of the [`Reason`] to withhold it; 0 if it passes.
    #[inline(always)]
    #[must_use]
    pub const fn reason(self) -> u8 {
        self.0 as u8
    }

    /// Whether the link counts as held from now on ([`HELD`]), or the address as known ([`KNOWN`]).
    #[inline(always)]
    #[must_use]
    pub const fn holds(self) -> bool {
        self.0 & Self::HOLD != 0
    }

    /// Whether the link does not count as held any more.
    #[inline(always)]
    #[must_use]
    pub const fn settles(self) -> bool {
        self.0 & Self::SETTLE != 0
    }
}

const fn rule(name: &'static str, when: When, then: Then, why: &'static str) -> Rule<Then> {
    Rule { name, when, then, why }
}

/// The rules; the number of each is that of its [`Counter`](crate::counters::Counter).
pub const RULES: [Rule<Then>; 30] = [
    rule("malformed", When::all(MALFORMED), Then::PASS, "What is not understood is not judged."),
    rule(
        "unrelated",
        When::none(LINK | ADDRESS | ROUTE),
        Then::PASS,
        "Only links, addresses and what the kernel drops with them are ever untrue.",
    ),
    rule("dump", When::all(DUMP), Then::PASS, "Who asks for all there is gets the truth."),
    rule(
        "stale-heartbeat",
        When::all(STALE),
        Then::PASS,
        "Nothing is withheld if nobody is there who tells it later (fail open).",
    ),
    rule(
        "unknown-socket",
        When::all(UNKNOWN_SOCKET),
        Then::PASS,
        "The socket is guarded no longer, or not yet.",
    ),
    rule(
        "answer",
        When::all(ANSWER),
        Then::PASS,
        "That is how a daemon is told the truth, and what it asks itself.",
    ),
    rule(
        "own-rule",
        When::all(OWN_RULE),
        Then::PASS,
        "The operator has said so: the configuration's rules come first, and in this table they only pass.",
    ),
    rule(
        "name-conflict",
        When::all(LINK | NAME_CONFLICT).but(GUARDED),
        Then::withhold(Reason::NameConflict),
        "While names are exchanged, the bridge has the NIC's; a daemon would take it for the NIC.",
    ),
    rule("other-interface", When::none(GUARDED), Then::PASS, "It is nobody's business here."),
    rule(
        "route-dropped",
        When::all(ROUTE | HIDES_REMOVALS),
        Then::withhold(Reason::RouteRemoval),
        "It went with its source, which is on its way; whoever moves that makes the route anew. If the source \
         does not come back, that is told.",
    ),
    rule("route", When::all(ROUTE), Then::PASS, "It is gone with an interface that has failed."),
    rule(
        "bridge-port",
        When::all(LINK | BRIDGE_PORT),
        Then::withhold(Reason::BridgePort),
        "A bridge says of its port that it joined or left; keepalived takes the latter for the NIC's end.",
    ),
    rule("nic-removed", When::all(LINK | REMOVAL), Then::PASS, "A NIC that is gone has failed."),
    rule(
        "rename",
        When::all(LINK | RENAMED | HIDES_NAMES),
        Then::withhold_and_hold(Reason::Rename),
        "Names are exchanged within a move, and a name is not a failure.",
    ),
    rule(
        "rename-held",
        When::all(LINK | RENAMED | HELD),
        Then::withhold_and_hold(Reason::Rename),
        "What began withheld stays so until the link works or the policy is another one.",
    ),
    rule(
        "rename-allowed",
        When::all(LINK | RENAMED),
        Then::PASS,
        "After a failure the daemons learn what is called how.",
    ),
    rule(
        "admin-down",
        When::all(LINK | DOWN | HIDES_DOWN),
        Then::withhold_and_hold(Reason::AdminDown),
        "Being taken down may be the first step of a move.",
    ),
    rule(
        "admin-down-held",
        When::all(LINK | DOWN | HELD),
        Then::withhold_and_hold(Reason::AdminDown),
        "What began withheld stays so until the link works or the policy is another one.",
    ),
    rule(
        "admin-down-allowed",
        When::all(LINK | DOWN),
        Then::PASS,
        "The daemons know of the failure already.",
    ),
    rule(
        "carrier-loss",
        When::all(LINK | NO_CARRIER | HIDES_CARRIER),
        Then::withhold_and_hold(Reason::CarrierLoss),
        "Within a move the carrier goes and comes back.",
    ),
    rule(
        "carrier-loss-held",
        When::all(LINK | NO_CARRIER | HELD),
        Then::withhold_and_hold(Reason::CarrierLoss),
        "A NIC that comes up has no carrier for a moment, sooner than the policy can be widened.",
    ),
    rule(
        "carrier-loss-allowed",
        When::all(LINK | NO_CARRIER),
        Then::PASS,
        "A carrier that is lost outside a move is a real failure.",
    ),
    rule(
        "link-works",
        When::all(LINK),
        Then::PASS_AND_SETTLE,
        "All is well again; what was withheld about the link is untrue now.",
    ),
    rule("own-request", When::all(OF_DAEMON), Then::PASS, "The daemons know what they asked for."),
    rule(
        "replay",
        When::all(REMOVAL | REPLAYED),
        Then::PASS,
        "That is how daemons are told that an address is gone.",
    ),
    rule(
        "replay-begins",
        When::all(REPLAYED),
        Then::withhold(Reason::KnownAddress),
        "It is there to leave at once; keepalived up to 2.0.20 would note it down, and one of two would stay.",
    ),
    rule(
        "own-address",
        When::all(OWN_ADDRESS),
        Then::withhold(Reason::OwnAddress),
        "A daemon might send from it.",
    ),
    rule(
        "address-removal",
        When::all(REMOVAL | HIDES_REMOVALS),
        Then::withhold_and_hold(Reason::AddressRemoval),
        "Addresses leave the NIC for the bridge, and come back.",
    ),
    rule(
        "known-address",
        When::all(KNOWN).but(REMOVAL),
        Then::withhold(Reason::KnownAddress),
        "To the daemon it never left; keepalived up to 2.0.20 would note it down twice.",
    ),
    rule("address", When::ALWAYS, Then::PASS, "It is true, and may be known."),
];

/// A rule as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// What must be so.
    pub when: When,
    /// What follows.
    pub then: Then,
}

const _: () = assert!(size_of::<Entry>() == 12);

/// The rules as the kernel has them.
#[expect(clippy::indexing_slicing, reason = "a constant: what is out of bounds does not compile")]
pub const TABLE: [Entry; RULES.len()] = {
    let mut table = [Entry { when: When::ALWAYS, then: Then::PASS }; RULES.len()];
    let mut number = 0;
    while number < RULES.len() {
        table[number] = Entry { when: RULES[number].when, then: RULES[number].then };
        number += 1;
    }
    table
};

/// What was decided, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The number of the rule in [`RULES`].
    pub rule: u8,
    /// What follows.
    pub then: Then,
}

/// What follows from `facts` by the first entry of a table that fits; if there is none, it passes.
/// `when` and `then` read those of an entry of [`RULES`]`.len()`; the latter is asked for once.
#[inline(always)]
pub fn judge(when: impl Fn(usize) -> When, then: impl Fn(usize) -> Then, facts: u32) -> Verdict {
    for number in 0..RULES.len() {
        if when(number).fits(facts) {
            return Verdict { rule: number as u8, then: then(number) };
        }
    }
    Verdict { rule: RULES.len() as u8 - 1, then: Then::PASS }
}

/// A link message, as much of it as is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkSaid {
    /// `IFLA_IFNAME`.
    pub name: IfName,
    /// Without `IFF_UP`.
    pub is_down: bool,
    /// Without `IFF_RUNNING`.
    pub lacks_carrier: bool,
    /// Of family `AF_BRIDGE`.
    pub of_bridge: bool,
}

/// What a link message says of the interface that has this policy, if it is guarded. `is_held` and
/// `namesake`, the policy of the guarded NIC that is known under the link's name, are looked up only
/// if they matter.
#[inline(always)]
pub fn facts_of_link<'a>(
    link: &LinkSaid,
    policy: Option<&NicPolicy>,
    is_held: impl FnOnce() -> bool,
    namesake: impl FnOnce() -> Option<&'a NicPolicy>,
) -> u32 {
    let Some(policy) = policy else {
        return match namesake() {
            Some(namesake) if namesake.withhold & withhold::RENAME != 0 => {
                with_own_rule(namesake, LINK | NAME_CONFLICT)
            }
            _ => LINK,
        };
    };
    let mut facts = LINK | facts_of_policy(policy);
    let said = [
        (link.of_bridge, BRIDGE_PORT),
        (link.name != policy.name, RENAMED),
        (link.is_down, DOWN),
        (link.lacks_carrier, NO_CARRIER),
        (policy.withhold != 0 && is_held(), HELD),
    ];
    for (is_so, fact) in said {
        if is_so {
            facts |= fact;
        }
    }
    with_own_rule(policy, facts)
}

/// The rule of one's own that passes a message with these facts, by its place; 0 if there is none.
#[expect(clippy::indexing_slicing, reason = "the index is masked")]
#[inline(always)]
#[must_use]
pub const fn own_rule(policy: &NicPolicy, facts: u32) -> u8 {
    let reason = if facts & ADDRESS != 0 {
        if facts & REMOVAL == 0 || facts & OWN_ADDRESS != 0 {
            return 0;
        }
        Reason::AddressRemoval
    } else if facts & NAME_CONFLICT != 0 {
        Reason::NameConflict
    } else if facts & BRIDGE_PORT != 0 {
        Reason::BridgePort
    } else if facts & RENAMED != 0 {
        Reason::Rename
    } else if facts & DOWN != 0 {
        Reason::AdminDown
    } else if facts & NO_CARRIER != 0 {
        Reason::CarrierLoss
    } else {
        return 0;
    };
    policy.passes[reason as usize & (REASONS - 1)]
}

#[inline(always)]
const fn with_own_rule(policy: &NicPolicy, facts: u32) -> u32 {
    if own_rule(policy, facts) == 0 { facts } else { facts | OWN_RULE }
}

/// The facts of a route of keepalived's that the kernel dropped, by the policy of its interface.
#[inline(always)]
#[must_use]
pub const fn facts_of_route(policy: Option<&NicPolicy>) -> u32 {
    match policy {
        Some(policy) => ROUTE | facts_of_policy(policy),
        None => ROUTE,
    }
}

/// The facts of an address message that nobody asked for whom the guard knows.
#[inline(always)]
#[must_use]
pub const fn facts_of_address(policy: &NicPolicy, is_own: bool, is_removal: bool) -> u32 {
    let facts = ADDRESS | facts_of_policy(policy);
    match (is_own, is_removal) {
        (true, _) => facts | OWN_ADDRESS,
        (false, true) => with_own_rule(policy, facts | REMOVAL),
        (false, false) => facts,
    }
}

/// The facts of a NIC that has this policy.
#[inline(always)]
#[must_use]
pub const fn facts_of_policy(policy: &NicPolicy) -> u32 {
    GUARDED | policy.withhold << POLICY_SHIFT
}

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (its size is asserted above), every bit pattern is a value.
unsafe impl aya::Pod for Entry {}
