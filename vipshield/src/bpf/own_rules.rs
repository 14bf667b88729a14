//! How often rules of the operator's own let a message pass, each by its name.

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use vipshield_common::{
    guard::{OWN_RULES, Passes, REASONS},
    maps,
};

use super::{BpfError, take};
use crate::engine::LetPass;

/// The places of the rules in their map. One that was given is not given again: what another configuration says is
/// counted apart.
pub(super) struct OwnRules {
    counts: PerCpuArray<MapData, u64>,
    /// The first has place 1.
    names: Vec<String>,
}

impl OwnRules {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self { counts: take(ebpf, maps::OWN_RULES)?, names: Vec::new() })
    }

    /// These rules as the guard has them.
    pub(super) fn places(&mut self, passes: &LetPass) -> Passes {
        let mut places = [0; REASONS];
        for (message, rule) in passes {
            if let Some(place) = places.get_mut(message.reason() as usize) {
                *place = self.place(rule);
            }
        }
        places
    }

    fn place(&mut self, rule: &str) -> u8 {
        place(&mut self.names, rule)
    }

    /// How many messages each has passed.
    pub(super) fn counts(&self) -> Result<Vec<(String, u64)>, BpfError> {
        let count = |(name, place): (&String, u32)| {
            let per_cpu = self.counts.get(&place, 0);
            let per_cpu =
                per_cpu.map_err(|source| BpfError::Map { map: maps::OWN_RULES, source })?;
            Ok((name.clone(), per_cpu.iter().sum()))
        };
        self.names.iter().zip(1..).map(count).collect()
    }
}

/// The place of a rule, which is given one if it has none. Where all are taken they share the last.
fn place(names: &mut Vec<String>, rule: &str) -> u8 {
    const SHARED: u8 = (OWN_RULES - 1) as u8;
    if let Some(at) = names.iter().position(|name| name == rule) {
        return at as u8 + 1;
    }
    if names.len() + 1 >= usize::from(SHARED) {
        return SHARED;
    }
    names.push(rule.to_owned());
    names.len() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_keeps_its_place() {
        let mut names = Vec::new();
        assert_eq!((place(&mut names, "a"), place(&mut names, "b")), (1, 2));
        assert_eq!((place(&mut names, "a"), place(&mut names, "c")), (1, 3));
        for number in 0..400 {
            assert_ne!(place(&mut names, &format!("rule-{number}")), 0, "0 is none");
        }
        let last = names.len() as u8;
        assert_eq!((last, place(&mut names, "one more")), (254, 255));
        assert_eq!(place(&mut names, "b"), 2);
    }
}
