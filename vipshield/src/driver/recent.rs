//! What the operator was told lately.

use std::{collections::VecDeque, time::Duration};

use crate::engine::{Notice, Weight};

/// Notices remembered, of each weight.
const MANY: usize = 256;

/// What was told, with its number since the start and when.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) number: u64,
    pub(super) at: Duration,
    pub(super) notice: Notice,
}

/// The last of each weight: details push no transition out.
#[derive(Debug, Default)]
pub(super) struct Recent {
    told: u64,
    details: VecDeque<Told>,
    infos: VecDeque<Told>,
    warnings: VecDeque<Told>,
}

impl Recent {
    pub(super) fn keep(&mut self, at: Duration, notice: Notice) {
        self.told = self.told.saturating_add(1);
        let ring = match notice.weight {
            Weight::Detail => &mut self.details,
            Weight::Info => &mut self.infos,
            Weight::Warning => &mut self.warnings,
        };
        if ring.len() == MANY {
            ring.pop_front();
        }
        ring.push_back(Told { number: self.told, at, notice });
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<&Told> {
        let mut all: Vec<&Told> =
            self.details.iter().chain(&self.infos).chain(&self.warnings).collect();
        all.sort_by_key(|told| told.number);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_push_no_transition_out() {
        let mut recent = Recent::default();
        let told = |weight, text: &str| Notice { weight, nic: None, text: text.to_owned() };
        recent.keep(Duration::ZERO, told(Weight::Info, "bridged"));
        for _ in 0..2 * MANY {
            recent.keep(Duration::from_secs(1), told(Weight::Detail, "noise"));
        }
        recent.keep(Duration::from_secs(2), told(Weight::Warning, "down"));
        let all = recent.all();
        assert_eq!(all.len(), MANY + 2);
        let ends = [all.first(), all.last()].map(|it| it.map(|told| told.notice.text.as_str()));
        assert_eq!(ends, [Some("bridged"), Some("down")]);
        assert_eq!(all.last().map(|told| told.number), Some(2 * MANY as u64 + 2));
        assert!(all.is_sorted_by_key(|told| told.number));
    }
}
