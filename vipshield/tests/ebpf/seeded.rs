//! One bug in each of the guard's rules, and the test that catches it: the rule is not there.
//!
//! Those of the engine's tables, and of this one what a daemon as a whole misses, are the engine's tests'.

use std::{env, process::Command, thread, time::Duration};

use libtest_mimic::Failed;
use vipshield_common::{
    guard::rules::{Entry, RULES, TABLE},
    rule::When,
};

use super::{check, namespace::PATIENCE};

/// Names the rule that is not there, as `TABLE/RULE`.
const WITHOUT: &str = "VIPSHIELD_WITHOUT_RULE";
const IN_VAIN: Duration = Duration::from_secs(3);
const AT_ONCE: usize = 5;

/// By rule, the test that fails without it; none where the next rule that fits says the same, and only the
/// counter is another.
const CAUGHT: [(&str, Option<&str>); RULES.len()] = [
    ("malformed", Some("what is too short to be understood passes")),
    ("unrelated", Some("dumps, answers and unrelated messages pass")),
    ("dump", Some("dumps, answers and unrelated messages pass")),
    ("stale-heartbeat", Some("without a heartbeat everything passes")),
    ("unknown-socket", Some("a socket that is not in the table sees everything")),
    ("answer", Some("a lost carrier is withheld within a transition")),
    ("own-rule", Some("what a rule of one's own lets pass is seen, and nothing else")),
    ("name-conflict", Some("a rename and the impostor are withheld")),
    ("other-interface", Some("an address of another interface passes")),
    ("route-dropped", Some("a route of keepalived's that the kernel dropped is withheld")),
    ("route", None),
    ("bridge-port", Some("a bridge's word about its port is withheld")),
    ("nic-removed", Some("that the NIC is gone passes")),
    ("rename", Some("a rename and the impostor are withheld")),
    ("rename-held", Some("of two things of which one is withheld the other goes with it")),
    ("rename-allowed", Some("of two things of which one is withheld the other goes with it")),
    ("admin-down", Some("a NIC that was taken down stays up to the daemon until it works again")),
    ("admin-down-held", Some("of two things of which one is withheld the other goes with it")),
    ("admin-down-allowed", Some("of two things of which one is withheld the other goes with it")),
    ("carrier-loss", Some("a lost carrier is withheld within a transition")),
    (
        "carrier-loss-held",
        Some("a NIC that was taken down stays up to the daemon until it works again"),
    ),
    ("carrier-loss-allowed", Some("a lost carrier passes outside a transition")),
    ("link-works", None),
    ("own-request", Some("what the daemon removed itself passes")),
    ("replay", Some("a removal that is replayed passes")),
    ("replay-begins", Some("a removal that is replayed passes")),
    ("own-address", Some("an address of vipshield's own is never seen")),
    ("address-removal", Some("a removed address is withheld and reported")),
    ("known-address", Some("an address that is back, to a daemon that was not told it had left")),
    ("address", None),
];

/// How long a test waits for what it expects. One that lacks a rule waits in vain, and not for a busy machine.
pub(crate) fn patience() -> Duration {
    if env::var_os(WITHOUT).is_some() { IN_VAIN } else { PATIENCE }
}

/// The guard's table, without the rule that is named.
pub(crate) fn table() -> [Entry; RULES.len()] {
    let mut table = TABLE;
    let seeded = env::var(WITHOUT).unwrap_or_default();
    let without = seeded.strip_prefix("guard/");
    for (entry, rule) in table.iter_mut().zip(&RULES) {
        if without == Some(rule.name) {
            entry.when = When { mask: 0, value: 1 };
        }
    }
    table
}

/// Each test is run without its rule, in a process of its own, and fails.
pub(crate) fn each() -> Result<(), Failed> {
    for (rule, (name, _)) in RULES.iter().zip(CAUGHT) {
        check(rule.name == name, format!("{} is not {name}", rule.name))?;
    }
    // They wait for most of their time.
    let parts: Vec<_> = CAUGHT.chunks(CAUGHT.len().div_ceil(AT_ONCE)).collect();
    let found = thread::scope(|scope| {
        let runs: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| missing(part))).collect();
        runs.into_iter().map(|run| run.join().map_err(|_| "it panicked")).collect::<Vec<_>>()
    });
    for missing in found {
        let missing = missing??;
        check(missing.is_empty(), missing.join("; "))?;
    }
    Ok(())
}

/// The rules whose tests do not miss them.
fn missing(caught: &[(&str, Option<&str>)]) -> Result<Vec<String>, Failed> {
    let program = env::current_exe()?;
    let mut missing = Vec::new();
    for (name, test) in caught {
        let Some(test) = test else { continue };
        let mut run = Command::new(&program);
        let run = run.args(["--exact", test]).env(WITHOUT, format!("guard/{name}")).output()?;
        let said = String::from_utf8_lossy(&run.stdout);
        check(said.contains("running 1 test"), format!("there is no test {test:?}"))?;
        if run.status.success() {
            missing.push(format!("{test:?} does not miss the rule {name}"));
        }
    }
    Ok(missing)
}
