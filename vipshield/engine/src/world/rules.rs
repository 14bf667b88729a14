//! Routing rules of others, in the order in which the kernel asks them, and the place that they leave for
//! vipshield's.
//!
//! That place is right before the rule that sends everything to the main table, in the priority before
//! its own and behind all others of that priority: whatever others decide is decided, and what is left
//! would go by the main table.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
};

use serde::{Deserialize, Serialize};

use super::Family;

/// Rules of one family that are followed, no more.
const MAX_RULES: usize = 4096;

/// A rule of somebody else's, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// The lowest is asked first; of two alike the older one.
    pub priority: u32,
    /// What it does.
    pub kind: RuleKind,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// Every packet is looked up in the table of local addresses.
    Local,
    /// Every packet is looked up in the main table.
    Main,
    /// The first rule of this priority is asked next.
    Goto(u32),
    /// Anything else.
    Other,
}

/// Where vipshield's rules go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Behind all that have this priority.
    pub priority: u32,
    /// It grows when somebody's rule got behind vipshield's: they have to be put there anew.
    pub turn: u32,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Refusal {
    NoMain,
    /// None before this priority, the main table's.
    NoLocal(u32),
    /// Other rules have this priority, the main table's, and come before it.
    NoRoom(u32),
    /// A rule leads to this priority.
    Goto(u32),
    TooMany,
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(BTreeMap<Family, List>);

#[derive(Clone, Debug, Default)]
struct List {
    /// In the kernel's order.
    rules: Vec<Rule>,
    /// There are more than are followed.
    overflowed: bool,
    turn: u32,
}

impl Rules {
    /// Those of each family in the kernel's order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().flat_map(|list| &list.rules)
    }

    /// All that there are, in their order. Which of them came before or after vipshield's is not known.
    pub(super) fn list(&mut self, rules: Vec<Rule>) {
        for list in self.0.values_mut() {
            list.rules.clear();
            list.overflowed = false;
            list.turn = list.turn.wrapping_add(1);
        }
        for rule in rules {
            self.of(rule.family).insert(rule);
        }
    }

    /// One was added. Returns whether vipshield's are to be elsewhere now.
    pub(super) fn see(&mut self, rule: Rule) -> bool {
        self.change(rule.family, |list| {
            let overtakes = list.place().is_ok_and(|place| place.priority == rule.priority);
            list.turn = list.turn.wrapping_add(overtakes.into());
            list.insert(rule);
        })
    }

    /// One is gone. Returns whether vipshield's are to be elsewhere now.
    pub(super) fn forget(&mut self, rule: Rule) -> bool {
        self.change(rule.family, |list| {
            // The kernel, too, takes the first of several alike.
            if let Some(at) = list.rules.iter().position(|known| *known == rule) {
                list.rules.remove(at);
            }
        })
    }

    pub(super) fn place(&self, family: Family) -> Result<Place, Refusal> {
        self.0.get(&family).map_or(Err(Refusal::NoMain), List::place)
    }

    fn of(&mut self, family: Family) -> &mut List {
        self.0.entry(family).or_default()
    }

    fn change(&mut self, family: Family, change: impl FnOnce(&mut List)) -> bool {
        let list = self.of(family);
        let before = list.place();
        change(list);
        list.place() != before
    }
}

/// Why vipshield's rules have no place among these, which are in the kernel's order; none if they have one.
#[must_use]
pub fn refusal(rules: &[Rule], family: Family) -> Option<String> {
    let mut listed = Rules::default();
    listed.list(rules.to_vec());
    listed.place(family).err().map(|refusal| refusal.to_string())
}

impl List {
    fn insert(&mut self, rule: Rule) {
        if self.rules.len() >= MAX_RULES {
            self.overflowed = true;
            return;
        }
        let at = self.rules.partition_point(|known| known.priority <= rule.priority);
        self.rules.insert(at, rule);
    }

    fn place(&self) -> Result<Place, Refusal> {
        if self.overflowed {
            return Err(Refusal::TooMany);
        }
        let is_main = |rule: &Rule| rule.kind == RuleKind::Main;
        let at = self.rules.iter().position(is_main).ok_or(Refusal::NoMain)?;
        let (before, after) = self.rules.split_at(at);
        let main = after.first().map_or(0, |rule| rule.priority);
        if !before.iter().any(|rule| rule.kind == RuleKind::Local) {
            return Err(Refusal::NoLocal(main));
        }
        let priority = main.checked_sub(1).ok_or(Refusal::NoRoom(main))?;
        if before.last().is_some_and(|rule| rule.priority == main) {
            return Err(Refusal::NoRoom(main));
        }
        if self.rules.iter().any(|rule| rule.kind == RuleKind::Goto(priority)) {
            return Err(Refusal::Goto(priority));
        }
        Ok(Place { priority, turn: self.turn })
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMain => f.write_str(
                "no rule sends every packet to the main table; there is one by default: \
                 from all lookup main, priority 32766",
            ),
            Self::NoLocal(main) => write!(
                f,
                "no rule before priority {main} sends every packet to the local table; there is one by \
                 default: from all lookup local, priority 0"
            ),
            Self::NoRoom(main) => write!(
                f,
                "another rule has the main table's priority, {main}, and comes before it; give it a \
                 lower one"
            ),
            Self::Goto(priority) => write!(
                f,
                "a rule leads to priority {priority} (goto), where vipshield's rules would be; lead it to \
                 another one"
            ),
            Self::TooMany => write!(
                f,
                "there are more than {MAX_RULES} rules, and no more are followed; restart vipshield once \
                 there are fewer"
            ),
        }
    }
}

/// What a node has unless somebody changes it.
#[cfg(test)]
pub(in super::super) fn usual() -> Vec<Rule> {
    let rules = |family| {
        [(0, RuleKind::Local), (32_766, RuleKind::Main), (32_767, RuleKind::Other)]
            .map(|(priority, kind)| Rule { family, priority, kind })
    };
    [Family::Ipv4, Family::Ipv6].into_iter().flat_map(rules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, kind: RuleKind) -> Rule {
        Rule { family: Family::Ipv4, priority, kind }
    }

    fn place(rules: &[Rule]) -> Result<u32, Refusal> {
        let mut all = Rules::default();
        all.list(rules.to_vec());
        all.place(Family::Ipv4).map(|place| place.priority)
    }

    #[test]
    fn the_place_is_right_before_the_main_table_and_behind_the_local_one() {
        let (local, main) = (rule(0, RuleKind::Local), rule(32_766, RuleKind::Main));
        let other = |priority| rule(priority, RuleKind::Other);
        assert_eq!(place(&[local, main]), Ok(32_765));
        assert_eq!(place(&[local, other(100), other(32_765), main, other(32_767)]), Ok(32_765));
        let behind = rule(32_765, RuleKind::Local);
        assert_eq!(place(&[other(1000), behind, main]), Ok(32_765));
        assert_eq!(place(&[local, rule(1000, RuleKind::Main), main]), Ok(999));
    }

    #[test]
    fn without_a_place_it_says_why() {
        let (local, main) = (rule(0, RuleKind::Local), rule(32_766, RuleKind::Main));
        let other = |priority| rule(priority, RuleKind::Other);
        assert_eq!(place(&[]), Err(Refusal::NoMain));
        assert_eq!(place(&[local, other(32_766)]), Err(Refusal::NoMain));
        assert_eq!(place(&[other(0), main]), Err(Refusal::NoLocal(32_766)));
        assert_eq!(place(&[main, rule(32_767, RuleKind::Local)]), Err(Refusal::NoLocal(32_766)));
        assert_eq!(place(&[local, other(32_766), main]), Err(Refusal::NoRoom(32_766)));
        assert_eq!(place(&[local, rule(0, RuleKind::Main)]), Err(Refusal::NoRoom(0)));
        let leads = rule(7, RuleKind::Goto(32_765));
        assert_eq!(place(&[local, leads, main]), Err(Refusal::Goto(32_765)));
        let many = vec![other(1); MAX_RULES + 1];
        assert_eq!(place(&[vec![local], many, vec![main]].concat()), Err(Refusal::TooMany));
    }

    /// A rule that comes to the very place is behind vipshield's, and all others are not.
    #[test]
    fn a_rule_in_the_same_place_makes_it_another_turn() {
        let mut rules = Rules::default();
        rules.list(usual());
        let [other, same] = [100, 32_765].map(|priority| rule(priority, RuleKind::Other));
        let turn = |rules: &Rules| rules.place(Family::Ipv4).unwrap().turn;
        let before = turn(&rules);
        assert!(!rules.see(other) && !rules.see(rule(40_000, RuleKind::Other)));
        assert_eq!(turn(&rules), before);
        assert!(rules.see(same));
        assert_eq!(turn(&rules), before + 1);
        assert!(!rules.forget(same) && !rules.forget(other) && !rules.forget(other));
        assert_eq!(turn(&rules), before + 1);
        let main = rule(32_766, RuleKind::Main);
        assert!(rules.forget(main));
        assert_eq!(rules.place(Family::Ipv4), Err(Refusal::NoMain));
        assert!(rules.see(main));
        assert_eq!(rules.place(Family::Ipv4).unwrap().priority, 32_765);
        rules.list(usual());
        assert_eq!(turn(&rules), before + 2, "events were lost");
    }
}
