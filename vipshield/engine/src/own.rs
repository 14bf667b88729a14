//! Rules of the operator's own, which come before the built-in ones.
//!
//! In the guard's table they let a message pass, and nothing else; in the table of telling they have daemons
//! told sooner than at the deadline. So whatever they say, nothing is withheld that would not be without them,
//! and nothing untrue is kept for longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use vipshield_common::guard::Reason;

use super::{
    Engine,
    nic::{Deadlines, Nic},
    pattern,
    phase::Phase,
    rules::Line,
};

/// All of them, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRules {
    /// Before the guard's table.
    pub guard: Vec<OwnRule<Pass>>,
    /// Before the table of telling.
    pub telling: Vec<OwnRule<Tell>>,
}

/// A rule of one's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRule<T> {
    /// Its name.
    pub name: String,
    /// Which NICs, and when.
    pub scope: Scope,
    /// What of.
    pub of: T,
    /// The reason.
    pub why: String,
}

/// For which NICs a rule is, and when. What is empty is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Names and patterns: one of them has to fit the name under which the daemons know the NIC.
    pub interfaces: Vec<String>,
    /// The NIC is in one of them.
    pub phases: BTreeSet<Phase>,
    /// What this node is to the NIC's VIPs.
    pub role: Option<VipRole>,
}

/// What this node is to VIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VipRole {
    /// A daemon means to have one of the NIC's addresses.
    Owner,
    /// None does.
    Backup,
}

impl VipRole {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Owner, Self::Backup];
}

impl fmt::Display for VipRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Owner => "owner",
            Self::Backup => "backup",
        })
    }
}

/// A message that is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// An address left the NIC.
    AddressRemoval,
    /// The NIC was taken down.
    AdminDown,
    /// The NIC lost its carrier.
    CarrierLoss,
    /// The NIC was renamed.
    Rename,
    /// Another interface has the NIC's name.
    NameConflict,
    /// A bridge's word about its port.
    BridgePort,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::AddressRemoval,
        Self::AdminDown,
        Self::CarrierLoss,
        Self::Rename,
        Self::NameConflict,
        Self::BridgePort,
    ];

    /// For what it would be withheld.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::AddressRemoval => Reason::AddressRemoval,
            Self::AdminDown => Reason::AdminDown,
            Self::CarrierLoss => Reason::CarrierLoss,
            Self::Rename => Reason::Rename,
            Self::NameConflict => Reason::NameConflict,
            Self::BridgePort => Reason::BridgePort,
        }
    }

    /// Whether the built-in rules ever withhold it of a NIC that has failed: see the table `policy`.
    #[must_use]
    pub const fn is_withheld_after_a_failure(self) -> bool {
        matches!(self, Self::AddressRemoval | Self::BridgePort)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressRemoval => "address-removal",
            Self::AdminDown => "admin-down",
            Self::CarrierLoss => "carrier-loss",
            Self::Rename => "rename",
            Self::NameConflict => "name-conflict",
            Self::BridgePort => "bridge-port",
        })
    }
}

/// What rules of the operator's own pass about a NIC: by message the name of the first that does.
pub type LetPass = BTreeMap<Message, String>;

/// These messages pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// Which.
    pub messages: BTreeSet<Message>,
}

/// What daemons are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    /// The link is not as they believe.
    Link,
    /// An address is gone.
    Address,
}

impl Truth {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Link, Self::Address];
}

impl fmt::Display for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::Address => "address",
        })
    }
}

/// This is told, so long after it became so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tell {
    /// What.
    pub truths: BTreeSet<Truth>,
    /// At the latest then.
    pub after: Duration,
}

impl Scope {
    fn holds(&self, nic: &Nic, role: impl FnOnce() -> VipRole) -> bool {
        let named = |name: &String| pattern::matches(name, &nic.name);
        (self.interfaces.is_empty() || self.interfaces.iter().any(named))
            && (self.phases.is_empty() || self.phases.contains(&nic.phase))
            && self.role.is_none_or(|wanted| wanted == role())
    }

    /// Whether it holds wherever the other does.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let covered =
            |narrow: &String| self.interfaces.iter().any(|wide| pattern::covers(wide, narrow));
        let interfaces = self.interfaces.is_empty()
            || !other.interfaces.is_empty() && other.interfaces.iter().all(covered);
        let phases = self.phases.is_empty()
            || !other.phases.is_empty() && other.phases.is_subset(&self.phases);
        interfaces && phases && (self.role.is_none() || self.role == other.role)
    }

    fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        if !self.interfaces.is_empty() {
            all.push(format!("interface {}", self.interfaces.join(" or ")));
        }
        if !self.phases.is_empty() {
            all.push(format!("phase {}", either(&self.phases)));
        }
        all.extend(self.role.map(|role| format!("this node is {role}")));
        all
    }
}

impl OwnRules {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.guard.is_empty() && self.telling.is_empty()
    }

    /// Those of the guard's table, as they are printed.
    pub(super) fn guard_lines(&self) -> Vec<Line> {
        let line = |rule: &OwnRule<Pass>| {
            let mut when = vec![format!("message {}", either(&rule.of.messages))];
            when.extend(rule.scope.conditions());
            rule.line("guard", &when, "pass".to_owned())
        };
        self.guard.iter().map(line).collect()
    }

    /// Those of the table of telling, as they are printed.
    pub(super) fn telling_lines(&self) -> Vec<Line> {
        let line = |rule: &OwnRule<Tell>| {
            let mut when = vec![match rule.of.after {
                Duration::ZERO => format!("the {}", either(&rule.of.truths)),
                after => format!("the {}, for {} ms", either(&rule.of.truths), after.as_millis()),
            }];
            when.extend(rule.scope.conditions());
            rule.line("telling", &when, "tell the daemons".to_owned())
        };
        self.telling.iter().map(line).collect()
    }
}

impl<T> OwnRule<T> {
    fn line(&self, table: &'static str, when: &[String], then: String) -> Line {
        let (name, why) = (self.name.clone().into(), self.why.clone().into());
        Line { table, name, when: when.join(", "), then, why }
    }
}

fn either<T: fmt::Display>(all: &BTreeSet<T>) -> String {
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    all.join(" or ")
}

impl Engine {
    /// Whether daemons of this node mean to have one of a NIC's addresses.
    fn vip_role(&self, nic: &Nic) -> VipRole {
        let is_owner = nic.home().any(|address| self.world.vips.is_wanted(address.ip));
        if is_owner { VipRole::Owner } else { VipRole::Backup }
    }

    /// What the operator's rules let pass about a NIC as it is now.
    pub(super) fn own_passes(&self, nic: &Nic) -> LetPass {
        let rules = self.config.rules.guard.iter();
        let mut passes = LetPass::new();
        for rule in rules.filter(|rule| rule.scope.holds(nic, || self.vip_role(nic))) {
            for message in &rule.of.messages {
                passes.entry(*message).or_insert_with(|| rule.name.clone());
            }
        }
        passes
    }

    /// The operator's rule by which daemons are told this of a NIC, if there is one: the soonest.
    pub(super) fn own_telling(&self, nic: &Nic, truth: Truth) -> Option<&OwnRule<Tell>> {
        let rules = self.config.rules.telling.iter();
        rules
            .filter(|rule| rule.of.truths.contains(&truth))
            .filter(|rule| rule.scope.holds(nic, || self.vip_role(nic)))
            .min_by_key(|rule| rule.of.after)
    }

    /// For how long something may be untrue to daemons, where `deadline` holds for what no rule of one's own
    /// is about.
    pub(super) fn deadlines(&self, nic: &Nic, deadline: Duration) -> Deadlines {
        let of = |truth| {
            self.own_telling(nic, truth).map_or(deadline, |rule| rule.of.after.min(deadline))
        };
        Deadlines { link: of(Truth::Link), address: of(Truth::Address) }
    }
}

/// These messages in words, each with the rule that passes it.
pub(super) fn messages(passes: &LetPass) -> String {
    let all: Vec<String> =
        passes.iter().map(|(message, rule)| format!("{message} (rule {rule})")).collect();
    all.join(" and ")
}
