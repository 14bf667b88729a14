//! The rules: what vipshield decides, as tables. Of each table the first line that fits the facts decides.
//!
//! What is printed of them (`vipshield rules`, `docs/rules.md`) is made of the very lines that decide.

use vipshield_common::rule::{Rule, When};

mod address;
mod guard;
mod link;
mod phase;
mod policy;
mod prepare;
mod print;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests are no engine")]
mod tests;
mod vip;

pub(crate) use self::{
    address::{WHEREABOUTS, Whereabouts},
    link::{LINK, Standing, TELLING, Telling},
    phase::PHASE,
    policy::{POLICY, Withholds},
    prepare::{CARRY, Carry, Laid, SHUNT},
    vip::{Stay, VIP},
};
pub use self::{
    guard::GuardRule,
    print::{Line, lines, markdown, text},
};

/// Facts of each table.
pub(crate) mod facts {
    pub(crate) use super::{
        address::facts as address, link::facts as link, link::telling, phase::facts as phase,
        policy::facts as policy, prepare::facts as carry, prepare::shunt, vip::facts as vip,
    };
}

/// A table of rules. Total: where no rule fits, `otherwise` does.
#[derive(Debug)]
pub(crate) struct Table<T: 'static> {
    name: &'static str,
    /// What it decides, in a sentence.
    about: &'static str,
    /// What each bit of its facts says.
    facts: &'static [&'static str],
    rules: &'static [Rule<T>],
    otherwise: Rule<T>,
}

impl<T> Table<T> {
    /// Whether a rule is left out, to see which test misses it.
    #[cfg(test)]
    fn lacks(&self, rule: &Rule<T>) -> bool {
        super::tests::seeded::is_without(self.name, rule.name)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "as in tests")]
    const fn lacks(&self, _: &Rule<T>) -> bool {
        false
    }

    /// The rule that decides.
    pub(crate) fn decide(&self, facts: u32) -> &Rule<T> {
        let mut rules = self.rules.iter().filter(|rule| !self.lacks(rule));
        let last = if self.lacks(&self.otherwise) { self.rules.last() } else { None };
        let otherwise = last.unwrap_or(&self.otherwise);
        rules.find(|rule| rule.when.fits(facts)).unwrap_or(otherwise)
    }
}

/// These facts, as far as they are so.
pub(crate) fn word<const N: usize>(facts: [(u32, bool); N]) -> u32 {
    facts.into_iter().filter(|(_, is_so)| *is_so).fold(0, |word, (fact, _)| word | fact)
}

const fn rule<T: Copy>(name: &'static str, when: When, then: T, why: &'static str) -> Rule<T> {
    Rule { name, when, then, why }
}
