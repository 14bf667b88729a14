//! The tables, whole: every combination of facts, and every rule by what would be otherwise without it.

use std::{collections::BTreeSet, env, fmt::Debug, fs, path::Path};

use vipshield_common::{
    counters::Counter,
    guard::rules::{
        self as guard, ADDRESS, ANSWER, BRIDGE_PORT, DOWN, DUMP, Entry, GUARDED, HELD,
        HIDES_CARRIER, HIDES_DOWN, HIDES_NAMES, HIDES_REMOVALS, KNOWN, MALFORMED, NAME_CONFLICT,
        NO_CARRIER, OF_DAEMON, OWN_ADDRESS, OWN_RULE, REMOVAL, RENAMED, REPLAYED, ROUTE, RULES,
        STALE, TABLE, UNKNOWN_SOCKET, Verdict, judge,
    },
};

use super::{facts::phase, *};
use crate::OwnRules;

/// After a wanted change: `VIPSHIELD_WRITE_DOCS=1 cargo test -p vipshield-engine rules`.
#[test]
fn the_rules_in_the_docs_are_those_that_decide() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    if env::var_os("VIPSHIELD_WRITE_DOCS").is_some() {
        fs::write(&path, markdown()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == markdown(), "docs/rules.md differs: see the comment of this test");
}

#[test]
fn names_are_stable_words_and_each_is_its_tables_only() {
    let lines = lines(&OwnRules::default());
    let mut seen = BTreeSet::new();
    for Line { table, name, why, when, .. } in &lines {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
        assert!(seen.insert((*table, name.clone())), "{table} has two rules {name}");
        assert!(why.ends_with('.') && !when.is_empty(), "{table} {name}");
    }
    let else_where: Vec<_> = lines.iter().filter(|line| line.when == "else").collect();
    let tables: BTreeSet<_> = lines.iter().map(|line| line.table).collect();
    assert_eq!(else_where.len(), tables.len(), "each table ends with what is so else");
    let text = text(&OwnRules::default());
    assert!(text.lines().any(|line| line.contains("admin-down ")), "{text}");
}

#[test]
fn every_rule_of_the_guards_has_its_counter() {
    for (rule, counter) in RULES.iter().zip(Counter::ALL) {
        let verdict = if rule.then.reason() == 0 { "passed" } else { "withheld" };
        let name = format!("guard_{verdict}_{}", rule.name.replace('-', "_"));
        assert_eq!(counter.name(), name);
    }
    let next = Counter::ALL.get(RULES.len()).map(|counter| counter.name());
    assert_eq!(next, Some("guard_reports_lost"));
}

fn by_table(facts: u32) -> Verdict {
    judge(|number| TABLE[number].when, |number| TABLE[number].then, facts)
}

/// What ends the look leaves all other facts at 0, and must decide alone: see `look` in the eBPF program.
#[test]
fn of_all_facts_about_a_message_one_rule_decides() {
    let ends = [MALFORMED, DUMP, STALE, UNKNOWN_SOCKET, ANSWER];
    let mut hit = BTreeSet::new();
    for facts in 0..1_u32 << guard::NAMES.len() {
        let verdict = by_table(facts);
        let number = usize::from(verdict.rule);
        let fits = |entry: &Entry| entry.when.fits(facts);
        assert_eq!(TABLE.iter().position(fits), Some(number), "{facts:b}");
        assert_eq!(verdict.then, RULES[number].then);
        if facts & OWN_RULE != 0 {
            assert_eq!(verdict.then.reason(), 0, "a rule of one's own passes: {facts:b}");
        }
        if facts & (guard::LINK | ADDRESS | ROUTE) == 0 {
            assert!(number <= 1, "{facts:b}");
        } else if let Some(end) = ends.iter().find(|end| facts & **end != 0) {
            assert_eq!(verdict.then, by_table(facts & (guard::LINK | ADDRESS | ROUTE) | end).then);
        }
        hit.insert(number);
    }
    assert_eq!(hit.len(), RULES.len(), "each decides of some message");
}

/// Of each rule a message of which it decides, and what would become of that without the rule.
const MESSAGES: [(&str, u32, bool); RULES.len()] = {
    let link = guard::LINK | GUARDED;
    let down = link | DOWN | HIDES_DOWN;
    let gone = ADDRESS | REMOVAL | GUARDED | HIDES_REMOVALS;
    // The name of the rule, the facts, and whether its absence turns the verdict about.
    [
        ("malformed", down | MALFORMED, true),
        ("unrelated", 0, false),
        ("dump", down | DUMP, true),
        ("stale-heartbeat", gone | STALE, true),
        ("unknown-socket", gone | UNKNOWN_SOCKET, true),
        ("answer", down | ANSWER, true),
        ("own-rule", down | OWN_RULE, true),
        ("name-conflict", guard::LINK | NAME_CONFLICT, true),
        ("other-interface", ADDRESS | REMOVAL | HIDES_REMOVALS, true),
        ("route-dropped", ROUTE | GUARDED | HIDES_REMOVALS, true),
        ("route", ROUTE | GUARDED, false),
        ("bridge-port", link | BRIDGE_PORT | REMOVAL, true),
        ("nic-removed", down | REMOVAL, true),
        ("rename", link | RENAMED | HIDES_NAMES, true),
        ("rename-held", link | RENAMED | HELD, true),
        ("rename-allowed", down | RENAMED, true),
        ("admin-down", down, true),
        ("admin-down-held", link | DOWN | HELD, true),
        ("admin-down-allowed", link | DOWN | NO_CARRIER | HIDES_CARRIER, true),
        ("carrier-loss", link | NO_CARRIER | HIDES_CARRIER, true),
        ("carrier-loss-held", link | NO_CARRIER | HELD, true),
        // Else the next would take it for a link that works.
        ("carrier-loss-allowed", link | NO_CARRIER | HIDES_DOWN, false),
        ("link-works", link | HIDES_DOWN, false),
        ("own-request", gone | OF_DAEMON, true),
        ("replay", gone | REPLAYED, true),
        ("replay-begins", ADDRESS | GUARDED | REPLAYED, true),
        ("own-address", ADDRESS | GUARDED | OWN_ADDRESS, true),
        ("address-removal", gone, true),
        ("known-address", ADDRESS | GUARDED | KNOWN | HIDES_REMOVALS, true),
        ("address", ADDRESS | GUARDED | HIDES_REMOVALS, false),
    ]
};

#[test]
fn without_any_of_its_rules_the_guard_judges_otherwise() {
    for (number, (name, facts, turns)) in MESSAGES.into_iter().enumerate() {
        let verdict = by_table(facts);
        assert_eq!(RULES[usize::from(verdict.rule)].name, name, "{facts:b}");
        // What never fits is as good as not there.
        let never = When { mask: 0, value: 1 };
        let without =
            judge(|n| if n == number { never } else { TABLE[n].when }, |n| TABLE[n].then, facts);
        let was = (verdict.then.reason(), verdict.then.settles());
        let now = (without.then.reason(), without.then.settles());
        assert_eq!((was.0 == 0) != (now.0 == 0), turns, "{name}: {was:?}, without it {now:?}");
        if !turns && number + 1 < RULES.len() {
            assert_ne!(verdict.rule, without.rule, "{name}");
        }
    }
}

/// A table that has no entry that fits withholds nothing.
#[test]
fn a_table_without_an_answer_passes() {
    let never = When { mask: 0, value: 1 };
    assert_eq!(judge(|_| never, |n| TABLE[n].then, u32::MAX).then.reason(), 0);
}

/// Every combination that may be hits a rule, each rule is hit, and without it something else follows.
fn is_whole<T: Copy + Debug + PartialEq>(table: &Table<T>, may_be: fn(u32) -> bool) {
    let all = || (0..1_u32 << table.facts.len()).filter(|facts| may_be(*facts));
    for (number, rule) in table.rules.iter().enumerate() {
        let without = |facts: u32| {
            let mut others = table.rules.iter().enumerate().filter(|(n, _)| *n != number);
            others
                .find(|(_, rule)| rule.when.fits(facts))
                .map_or(&table.otherwise, |(_, rule)| rule)
        };
        let hits: Vec<u32> = all().filter(|f| table.decide(*f).name == rule.name).collect();
        assert!(!hits.is_empty(), "{} {}: nothing hits it", table.name, rule.name);
        assert!(
            hits.iter().any(|facts| without(*facts).then != rule.then),
            "{} {}: without it the same follows",
            table.name,
            rule.name
        );
    }
    assert!(all().any(|facts| table.decide(facts).name == table.otherwise.name), "{}", table.name);
}

#[test]
fn every_combination_of_facts_hits_a_rule_and_none_is_idle() {
    is_whole(&POLICY, |_| true);
    is_whole(&PHASE, |facts| {
        (facts & (phase::WAS_LEAVING | phase::WAS_BRIDGED | phase::WAS_RETURNING)).count_ones() <= 1
    });
    is_whole(&WHEREABOUTS, |_| true);
    is_whole(&LINK, |_| true);
    is_whole(&TELLING, |_| true);
    is_whole(&VIP, |_| true);
    is_whole(&CARRY, |_| true);
    is_whole(&SHUNT, |_| true);
}
