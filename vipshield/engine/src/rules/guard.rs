//! The guard's table, which `vipshield-common` has for the kernel's sake.

use std::fmt;

use serde::{Deserialize, Serialize};
use vipshield_common::guard::{
    Reason,
    rules::{NAMES, RULES, Then},
};

use super::print::{Printed, line};

/// A rule of the guard's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuardRule(u8);

impl GuardRule {
    /// The rule that has this number in the kernel's table, if there is one.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        RULES.get(usize::from(number)).map(|_| Self(number))
    }

    /// The rule of this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        (0..).zip(&RULES).find(|(_, rule)| rule.name == name).map(|(number, _)| Self(number))
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        RULES.get(usize::from(self.0)).map_or("", |rule| rule.name)
    }
}

impl fmt::Display for GuardRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<GuardRule> for String {
    fn from(rule: GuardRule) -> Self {
        rule.name().to_owned()
    }
}

impl TryFrom<String> for GuardRule {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::named(&name).ok_or_else(|| format!("the guard has no rule {name:?}"))
    }
}

pub(super) fn printed() -> Printed {
    Printed {
        about: "What becomes of a message that the kernel has for a daemon's monitor socket \
                (netlink, before it is queued).",
        lines: RULES.iter().map(|rule| line("guard", NAMES, rule, follows(rule.then))).collect(),
    }
}

fn follows(then: Then) -> String {
    let what = match Reason::from_u8(then.reason()) {
        None => "pass".to_owned(),
        Some(reason) => format!("withhold: {}", reason_name(reason)),
    };
    match (then.holds(), then.settles()) {
        (true, _) => what + ", and hold",
        (false, true) => what + ", and end the hold",
        (false, false) => what,
    }
}

const fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::AddressRemoval => "an address is gone",
        Reason::AdminDown => "the link is down",
        Reason::CarrierLoss => "the link has no carrier",
        Reason::Rename => "the link has another name",
        Reason::NameConflict => "another link has the name",
        Reason::BridgePort => "a bridge's word",
        Reason::OwnAddress => "vipshield's own address",
        Reason::KnownAddress => "an address that is known",
        Reason::RouteRemoval => "a route is gone",
    }
}
