//! Rules of the operator's own, as the file has them.

use std::{collections::BTreeSet, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    nearest::instead,
    parse::{LONGEST, interfaces},
    reader::{Reader, Span, Value, value},
};
use crate::engine::{
    Message, OwnRule, OwnRules, Pass, Phase, Scope, Tell, Truth, VipRole, pattern, rules,
};

/// So many rules of one's own there may be.
const MOST: usize = 64;
const KEYS: [&str; 5] = ["table", "name", "when", "then", "why"];
const NO_REASON: &str = "The configuration says so.";

/// What rules are compared with.
pub(super) struct Around {
    /// What is guarded, if the file says so.
    pub(super) interfaces: Vec<String>,
    /// The longest that something untrue is withheld.
    pub(super) deadline: Duration,
}

/// All rules of the list.
pub(super) fn read(reader: &mut Reader<'_>, list: &Value<'_>, around: &Around) -> OwnRules {
    let mut own = OwnRules::default();
    let DeValue::Array(rules) = list.get_ref() else {
        let text = "rules is a list of tables: write [[rules]], with two brackets, before each";
        reader.wrong(list.span(), text);
        return own;
    };
    if rules.len() > MOST {
        reader.wrong(list.span(), format!("{} rules are more than {MOST}", rules.len()));
    }
    for rule in rules.iter().take(MOST) {
        let DeValue::Table(table) = rule.get_ref() else {
            reader.wrong(rule.span(), "a rule is a table: write [[rules]] and its keys below");
            continue;
        };
        one(reader, rule.span(), table, around, &mut own);
    }
    own
}

fn one(
    reader: &mut Reader<'_>,
    whole: Span,
    table: &DeTable<'_>,
    around: &Around,
    own: &mut OwnRules,
) {
    reader.only(table, " of a rule", &KEYS);
    let name = name(reader, &whole, table, own);
    let why = value(table, "why").and_then(|why| reader.string("why", why, "a sentence"));
    let why = why.unwrap_or_else(|| NO_REASON.to_owned());
    let Some(when) = value(table, "when") else {
        reader.wrong(whole, "the rule has no \"when\": write when = { message = ... }");
        return;
    };
    let DeValue::Table(conditions) = when.get_ref() else {
        reader.wrong(when.span(), "when is a table: write when = { message = \"carrier-loss\" }");
        return;
    };
    match table_of(reader, &whole, table).as_deref() {
        Some("guard") => {
            then(
                reader,
                &whole,
                table,
                "pass",
                "in the table guard a rule of one's own can only pass",
            );
            let pass = messages(reader, &when.span(), conditions);
            let scope = scope(reader, &["message"], conditions, around);
            let (Some(name), Some(of)) = (name, pass) else { return };
            let rule = OwnRule { name, scope, of, why };
            if let Some(text) = never_passes(&rule, &own.guard) {
                reader.wrong(when.span(), text);
            }
            own.guard.push(rule);
        }
        Some("telling") => {
            then(
                reader,
                &whole,
                table,
                "tell",
                "in the table telling a rule of one's own can only tell",
            );
            let tell = truths(reader, &when.span(), conditions, around);
            let scope = scope(reader, &["untrue", "for"], conditions, around);
            let (Some(name), Some(of)) = (name, tell) else { return };
            let rule = OwnRule { name, scope, of, why };
            if let Some(text) = never_tells(&rule, &own.telling) {
                reader.wrong(when.span(), text);
            }
            own.telling.push(rule);
        }
        Some(_) | None => {}
    }
}

/// The table that a rule is of.
fn table_of(reader: &mut Reader<'_>, whole: &Span, table: &DeTable<'_>) -> Option<String> {
    let Some(found) = value(table, "table") else {
        reader.wrong(whole.clone(), "the rule has no \"table\": write table = \"guard\"");
        return None;
    };
    let text = reader.string("table", found, "\"guard\"")?;
    let is_builtin = rules::lines(&OwnRules::default()).iter().any(|line| line.table == text);
    match text.as_str() {
        "guard" | "telling" => return Some(text),
        "policy" => reader.wrong(
            found.span(),
            "the table \"policy\" takes no rules of one's own: to have a message passed write table = \"guard\"",
        ),
        _ if is_builtin => reader.wrong(
            found.span(),
            format!(
                "the table {text:?} takes no rules of one's own, for they could break what vipshield promises: \
                 expected \"guard\" or \"telling\""
            ),
        ),
        _ => {
            let text = format!("unknown table {text:?}: {}", instead(&text, &["guard", "telling"]));
            reader.wrong(found.span(), text);
        }
    }
    None
}

fn name(
    reader: &mut Reader<'_>,
    whole: &Span,
    table: &DeTable<'_>,
    own: &OwnRules,
) -> Option<String> {
    let Some(found) = value(table, "name") else {
        reader.wrong(
            whole.clone(),
            "the rule has no name, which logs and status show: write name = \"...\"",
        );
        return None;
    };
    let name = reader.string("name", found, "\"quick-carrier\"")?;
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(is_plain) {
        reader.wrong(found.span(), "a rule's name has 1 to 40 of a-z, 0-9 and -");
        return None;
    }
    let mut others = own.guard.iter().map(|rule| &rule.name);
    let mut told = own.telling.iter().map(|rule| &rule.name);
    if others.any(|other| *other == name) || told.any(|other| *other == name) {
        reader.wrong(
            found.span(),
            format!("another rule is called {name:?}: give each its own name"),
        );
        return None;
    }
    if rules::lines(&OwnRules::default()).iter().any(|line| line.name == name) {
        reader.wrong(
            found.span(),
            format!("a built-in rule is called {name:?}: choose another name"),
        );
        return None;
    }
    Some(name)
}

fn then(reader: &mut Reader<'_>, whole: &Span, table: &DeTable<'_>, only: &str, why: &str) {
    let Some(found) = value(table, "then") else {
        reader.wrong(whole.clone(), format!("the rule has no \"then\": write then = {only:?}"));
        return;
    };
    if let Some(text) = reader.string("then", found, &format!("{only:?}"))
        && text != only
    {
        reader.wrong(found.span(), format!("{why}: write then = {only:?}"));
    }
}

fn messages(reader: &mut Reader<'_>, place: &Span, when: &DeTable<'_>) -> Option<Pass> {
    let Some(found) = value(when, "message") else {
        let text =
            "when has no \"message\": write message = \"carrier-loss\", or a list of messages";
        reader.wrong(place.clone(), text);
        return None;
    };
    let messages: BTreeSet<Message> =
        reader.words("message", found, &Message::ALL).into_iter().collect();
    (!messages.is_empty()).then_some(Pass { messages })
}

fn truths(
    reader: &mut Reader<'_>,
    place: &Span,
    when: &DeTable<'_>,
    around: &Around,
) -> Option<Tell> {
    let after = value(when, "for").map_or(Some(Duration::ZERO), |found| {
        let after = reader.duration("for", found, (Duration::ZERO, LONGEST))?;
        if after >= around.deadline {
            let deadline = around.deadline.as_millis();
            let text = format!(
                "the rule never decides: daemons are told after {deadline} ms in any case: write a shorter time"
            );
            reader.wrong(found.span(), text);
        }
        Some(after)
    });
    let Some(found) = value(when, "untrue") else {
        let text = "when has no \"untrue\": write untrue = \"link\" or untrue = \"address\"";
        reader.wrong(place.clone(), text);
        return None;
    };
    let truths: BTreeSet<Truth> = reader.words("untrue", found, &Truth::ALL).into_iter().collect();
    Some(Tell { truths, after: after? }).filter(|tell| !tell.truths.is_empty())
}

fn scope(reader: &mut Reader<'_>, others: &[&str], when: &DeTable<'_>, around: &Around) -> Scope {
    let keys: Vec<&str> = others.iter().copied().chain(["interface", "phase", "role"]).collect();
    reader.only(when, " in when", &keys);
    let mut scope = Scope::default();
    if let Some(found) = value(when, "interface") {
        for (name, span) in interfaces(reader, "interface", found) {
            let known = &around.interfaces;
            if !known.is_empty() && !known.iter().any(|other| pattern::overlap(other, &name)) {
                let text = format!(
                    "the rule never matches: {name:?} is none of the interfaces that are guarded ({})",
                    known.join(", ")
                );
                reader.wrong(span, text);
            }
            scope.interfaces.push(name);
        }
    }
    if let Some(found) = value(when, "phase") {
        scope.phases = reader.words("phase", found, &Phase::ALL).into_iter().collect();
    }
    if let Some(found) = value(when, "role")
        && let Some(text) = reader.string("role", found, "\"owner\" or \"backup\"")
    {
        scope.role = reader.word("role", (&text, found.span()), &VipRole::ALL);
    }
    scope
}

fn never_passes(rule: &OwnRule<Pass>, before: &[OwnRule<Pass>]) -> Option<String> {
    let Pass { messages } = &rule.of;
    let after_a_failure = rule.scope.phases.iter().eq([&Phase::Down]);
    if after_a_failure && !messages.iter().any(|message| message.is_withheld_after_a_failure()) {
        return Some(
            "the rule never matches: in phase \"down\" the built-in rules pass that already: name another \
             phase, or leave the rule out"
                .to_owned(),
        );
    }
    let covers = |other: &&OwnRule<Pass>| {
        messages.is_subset(&other.of.messages) && other.scope.covers(&rule.scope)
    };
    before.iter().find(covers).map(|other| behind(&other.name))
}

fn never_tells(rule: &OwnRule<Tell>, before: &[OwnRule<Tell>]) -> Option<String> {
    let covers = |other: &&OwnRule<Tell>| {
        rule.of.truths.is_subset(&other.of.truths)
            && other.of.after <= rule.of.after
            && other.scope.covers(&rule.scope)
    };
    before.iter().find(covers).map(|other| behind(&other.name))
}

fn behind(other: &str) -> String {
    format!(
        "the rule never matches: {other:?} before it decides all of it: take one of the two out"
    )
}
