//! A guarded NIC as it is explained.

use std::{collections::BTreeSet, time::Duration};

use serde::Serialize;

use super::words;
use crate::{Engine, belief::Believed, nic::Nic, phase::Phase, world::Address};

/// Something that is not as the daemons believe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untrue {
    /// `link`, or an address.
    pub what: String,
    /// When they are told unless it comes true, in nanoseconds of the engine's time.
    pub due_ns: u64,
}

/// What the daemons believe of a link, or of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Belief {
    /// `link`, or an address.
    pub what: String,
    /// What they believe of it.
    pub is: Believed,
}

/// Where a guarded NIC stands, and by which rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NicView {
    /// The name under which the daemons know it.
    pub nic: String,
    /// Its phase.
    pub phase: Phase,
    /// The rule by which it is.
    pub phase_rule: &'static str,
    /// What carries its traffic; null while that cannot be told.
    pub bearer: Option<String>,
    /// What the guard withholds about it.
    pub policy: String,
    /// The rule by which it does.
    pub policy_rule: &'static str,
    /// What is carried for it.
    pub carry: String,
    /// The rule by which that is carried.
    pub carry_rule: &'static str,
    /// The shunt that lies ready.
    pub shunt: String,
    /// The rule by which it does.
    pub shunt_rule: &'static str,
    /// What the daemons believe: of the link first, then of each address.
    pub believed: Vec<Belief>,
    /// What is not as they believe.
    pub untrue: Vec<Untrue>,
}

impl Engine {
    pub(super) fn views(&self) -> Vec<NicView> {
        self.nics.values().map(|nic| self.view(nic)).collect()
    }

    fn view(&self, nic: &Nic) -> NicView {
        let deadlines = self.deadlines(nic, self.patience(nic.ifindex).now());
        let untrue = nic.belief.untrue().map(|(address, since)| Untrue {
            what: address.map_or_else(|| "link".to_owned(), |address| address.to_string()),
            due_ns: nanos(since.saturating_add(deadlines.of(address))),
        });
        let carry = nic.carry_rule(&self.world, self.bridge_since.is_some(), self.evaluated);
        let (shunt, _) = nic.shunt_rule(&self.world);
        NicView {
            nic: nic.name.clone(),
            phase: nic.phase,
            phase_rule: nic.phase_rule,
            bearer: nic.bearer.map(|bearer| self.world.name_of(bearer)),
            policy: words::policy(nic.withhold(), &self.own_passes(nic)),
            policy_rule: nic.policy_rule(),
            carry: carry.then.to_string(),
            carry_rule: carry.name,
            shunt: shunt.then.to_string(),
            shunt_rule: shunt.name,
            believed: believed(nic),
            untrue: untrue.collect(),
        }
    }
}

/// What all daemons believe of a NIC.
fn believed(nic: &Nic) -> Vec<Belief> {
    let link = Belief { what: "link".to_owned(), is: nic.belief.link() };
    let addresses: BTreeSet<Address> =
        nic.home().chain(nic.belief.gone().iter().copied()).collect();
    let of =
        |address: Address| Belief { what: address.to_string(), is: nic.belief.address(address) };
    std::iter::once(link).chain(addresses.into_iter().map(of)).collect()
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

/// What is another in `after`, a line each.
pub(super) fn changes(before: &[NicView], after: &[NicView], at: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    for nic in after {
        let name = &nic.nic;
        let Some(was) = before.iter().find(|was| was.nic == *name) else {
            lines.push(format!("{name}: guarded, {} ({})", nic.phase, nic.phase_rule));
            lines.push(format!("{name}: {} ({})", nic.policy, nic.policy_rule));
            continue;
        };
        if nic.phase != was.phase {
            lines.push(format!("{name}: {} -> {} ({})", was.phase, nic.phase, nic.phase_rule));
        }
        if nic.bearer != was.bearer {
            let to = nic.bearer.as_deref().unwrap_or("unknown");
            lines.push(format!("{name}: traffic goes through {to}"));
        }
        if nic.policy != was.policy {
            lines.push(format!("{name}: {} ({})", nic.policy, nic.policy_rule));
        }
        if nic.carry_rule != was.carry_rule {
            lines.push(format!("{name}: carry: {} ({})", nic.carry, nic.carry_rule));
        }
        if nic.shunt_rule != was.shunt_rule {
            lines.push(format!("{name}: shunt: {} ({})", nic.shunt, nic.shunt_rule));
        }
        for untrue in nic.untrue.iter().filter(|it| !was.untrue.contains(it)) {
            let left = Duration::from_nanos(untrue.due_ns).saturating_sub(at).as_millis();
            lines.push(format!("{name}: untrue: {}, told in {left} ms", untrue.what));
        }
        let is_over = |it: &&Untrue| !nic.untrue.iter().any(|other| other.what == it.what);
        for untrue in was.untrue.iter().filter(is_over) {
            lines.push(format!("{name}: untrue no longer: {}", untrue.what));
        }
    }
    let is_gone = |was: &&NicView| !after.iter().any(|nic| nic.nic == was.nic);
    lines
        .extend(before.iter().filter(is_gone).map(|was| format!("{}: guarded no longer", was.nic)));
    lines
}
