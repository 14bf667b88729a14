//! What one vipshield tells the next of a NIC.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    super::{belief::OfNic, pairs, phase::Phase, world::Address},
    CutOff, Nic, Passage, Seen,
};

/// What the kernel does not tell of a NIC: what belongs to it, and what the daemons were told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Remembered {
    name: String,
    phase: Phase,
    phase_since: Duration,
    bearers: BTreeSet<u32>,
    engaged: bool,
    tenants: BTreeSet<u32>,
    #[serde(with = "pairs")]
    home: BTreeMap<Address, Seen>,
    looked_at: bool,
    belief: OfNic,
    passage: Passage,
    cut_off: Option<(Duration, CutOff)>,
    transition_since: Duration,
}

impl Remembered {
    /// The name under which the daemons know it.
    pub(in super::super) fn name(&self) -> &str {
        &self.name
    }
}

impl Nic {
    /// What a vipshield that takes over is to know of it.
    pub(in super::super) fn remembered(&self) -> Remembered {
        Remembered {
            name: self.name.clone(),
            phase: self.phase,
            phase_since: self.phase_since,
            bearers: self.bearers.clone(),
            engaged: self.engaged,
            tenants: self.tenants.clone(),
            home: self.home.clone(),
            looked_at: self.looked_at,
            belief: self.belief.clone(),
            passage: self.passage,
            cut_off: self.cut_off,
            transition_since: self.transition_since,
        }
    }

    /// Goes on from there.
    pub(in super::super) fn resume(&mut self, remembered: Remembered) {
        let Remembered { name, phase, phase_since, bearers, engaged, tenants, .. } = remembered;
        let Remembered { passage, cut_off, transition_since, .. } = remembered;
        (self.passage, self.cut_off) = (passage, cut_off);
        self.transition_since = transition_since;
        (self.name, self.phase, self.phase_since) = (name, phase, phase_since);
        (self.bearers, self.engaged, self.tenants) = (bearers, engaged, tenants);
        let Remembered { home, looked_at, belief, .. } = remembered;
        (self.home, self.looked_at, self.belief) = (home, looked_at, belief);
    }
}
