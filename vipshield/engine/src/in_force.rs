//! What is carried for a NIC, as far as that can be told.
//!
//! Unlike a setting ([`settings`](crate::settings)) a plan is many objects of the kernel's. One that failed is in
//! force in any part, beside any part of what was before; all of it is what the next one has to replace.

use super::carry::Plan;

/// Plans in a row that could not be put in force and are remembered, to be taken back.
const MAX_PLANS: usize = 8;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct InForce {
    /// The plan that is in force, or on the way there; of more than one, any part.
    plans: Vec<Plan>,
    /// The one that could then not be put in force, or not wholly.
    failed: Option<Plan>,
}

impl InForce {
    /// Nothing is carried.
    pub(super) fn nothing() -> Self {
        Self { plans: vec![Plan::default()], failed: None }
    }

    /// Any part of these was found.
    pub(super) fn found(plans: Vec<Plan>) -> Self {
        Self { plans: std::iter::once(Plan::default()).chain(plans).collect(), failed: None }
    }

    /// What has to be replaced to have this plan in force; none if it is. `rules`: theirs are others.
    pub(super) fn replaced_by(&self, wanted: &Plan, rules: bool) -> Option<Vec<Plan>> {
        match &self.failed {
            // The same again.
            Some(failed) if failed == wanted => Some(self.plans.clone()),
            Some(_) => Some(self.all()),
            None if self.plans == [wanted.clone()] && !rules => None,
            None => Some(self.plans.clone()),
        }
    }

    /// This plan was asked for.
    pub(super) fn asked(&mut self, plan: Plan) {
        *self = Self { plans: vec![plan], failed: None };
    }

    /// It could not be put in force in place of those.
    pub(super) fn failed(&mut self, replaced: &[Plan], plan: Plan) {
        *self = Self { plans: replaced.to_vec(), failed: Some(plan) };
    }

    /// What was there of IPv4 may be gone.
    pub(super) fn lost_ipv4(&mut self) {
        if let Some(lost) = self.plans.pop_if(|plan| plan.is_ipv4()) {
            self.plans = vec![Plan::default()];
            self.failed.get_or_insert(lost);
        }
    }

    /// Everything of which a part may be in force.
    pub(super) fn all(&self) -> Vec<Plan> {
        let failed = self.failed.iter().filter(|failed| !self.plans.contains(failed));
        let plans = self.plans.len().saturating_add(failed.clone().count());
        let all = self.plans.iter().chain(failed);
        all.skip(plans.saturating_sub(MAX_PLANS)).cloned().collect()
    }

    /// The plans that are in force, or on the way there.
    pub(super) fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The last that was asked for: a part of it is better than nothing.
    pub(super) fn last(&self) -> Option<&Plan> {
        self.failed.as_ref().or(self.plans.last())
    }

    /// Whether anything may be in force.
    pub(super) fn is_any(&self) -> bool {
        self.plans.iter().chain(&self.failed).any(|plan| !plan.is_empty())
    }
}
