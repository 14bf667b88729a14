//! One bug in each rule, and the test that catches it.
//!
//! The bug is that the rule is not there: the next that fits decides, and where none does, the last. The tests
//! are those of what a user would notice; that each rule decides of something is tested with the tables.

use std::{env, process::Command, sync::OnceLock};

/// Names the rule that is not there, as `TABLE/RULE`.
const WITHOUT: &str = "VIPSHIELD_WITHOUT_RULE";

/// Whether a rule is not there.
pub(crate) fn is_without(table: &str, rule: &str) -> bool {
    static SEEDED: OnceLock<Option<String>> = OnceLock::new();
    let seeded = SEEDED.get_or_init(|| env::var(WITHOUT).ok());
    seeded.as_deref().and_then(|it| it.split_once('/')) == Some((table, rule))
}
