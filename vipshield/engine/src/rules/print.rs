//! The tables for people and programs.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
};

use serde::Serialize;
use vipshield_common::rule::{Rule, When};

use super::{Table, address, guard, link, phase, policy, prepare, vip};
use crate::OwnRules;

/// A rule, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its table.
    pub table: &'static str,
    /// Its name in that.
    pub name: Cow<'static, str>,
    /// What must be so, unless a rule before it decides.
    pub when: String,
    /// What follows.
    pub then: String,
    /// The reason.
    pub why: Cow<'static, str>,
}

/// A table, as it is printed.
pub(super) struct Printed {
    pub(super) about: &'static str,
    pub(super) lines: Vec<Line>,
}

fn printed(own: &OwnRules) -> [Printed; 9] {
    [
        guard::printed().behind(own.guard_lines()),
        policy::POLICY.printed(),
        phase::PHASE.printed(),
        address::WHEREABOUTS.printed(),
        link::LINK.printed(),
        link::TELLING.printed().behind(own.telling_lines()),
        vip::VIP.printed(),
        prepare::CARRY.printed(),
        prepare::SHUNT.printed(),
    ]
}

/// All rules, in the order in which they decide: of each table the operator's own first.
#[must_use]
pub fn lines(own: &OwnRules) -> Vec<Line> {
    printed(own).into_iter().flat_map(|table| table.lines).collect()
}

/// All tables, for a terminal.
#[must_use]
pub fn text(own: &OwnRules) -> String {
    let mut text = String::new();
    for table in printed(own) {
        let width = table.lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
        let name = table.lines.first().map_or("", |line| line.table);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {}", table.about);
        for Line { name, when, then, why, .. } in &table.lines {
            let _ = writeln!(text, "  {name:width$}  {when} -> {then}");
            let _ = writeln!(text, "  {:width$}  {why}", "");
        }
        text.push('\n');
    }
    text
}

/// All tables, as `docs/rules.md` has them.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for table in printed(&OwnRules::default()) {
        let name = table.lines.first().map_or("", |line| line.table);
        let _ = writeln!(text, "\n## {name}\n{}\n", table.about);
        text.push_str("| rule | when | then | why |\n|---|---|---|---|\n");
        for Line { name, when, then, why, .. } in &table.lines {
            let _ = writeln!(text, "| `{name}` | {when} | {then} | {why} |");
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Rules
What vipshield decides, as tables. Of each table the first rule that fits decides; this page, \
`vipshield rules` and the program are made of the same lines, and a test keeps it so. Names are for \
good: counters, logs and recordings bear them.
";

/// The line of a rule.
pub(super) fn line<T>(
    table: &'static str,
    names: &[&str],
    rule: &Rule<T>,
    then: impl Display,
) -> Line {
    let when = condition(rule.when, names);
    Line { table, name: rule.name.into(), when, then: then.to_string(), why: rule.why.into() }
}

impl Printed {
    /// With these lines before its own.
    fn behind(mut self, own: Vec<Line>) -> Self {
        self.lines.splice(0..0, own);
        self
    }
}

impl<T: Display> Table<T> {
    pub(super) fn printed(&self) -> Printed {
        let rules = self.rules.iter().chain([&self.otherwise]);
        let lines = rules.map(|rule| line(self.name, self.facts, rule, &rule.then)).collect();
        Printed { about: self.about, lines }
    }
}

/// A condition in words.
fn condition(when: When, names: &[&str]) -> String {
    let bits = (0_u32..).zip(names).map(|(bit, name)| (1 << bit, name));
    let words: Vec<String> = bits
        .filter(|(bit, _)| when.mask & bit != 0)
        .map(
            |(bit, name)| {
                if when.value & bit == 0 { format!("not {name}") } else { (*name).to_owned() }
            },
        )
        .collect();
    if words.is_empty() { "else".to_owned() } else { words.join(", ") }
}
