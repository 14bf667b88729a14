//! `vipshield check`: whether vipshield can work here, and what of this node and its keepalived it cannot mend.
//!
//! One file for each group of findings. What is read and what is judged are apart: judging is pure.

mod firewall;
mod hazards;
mod keepalived;
mod kernel;
mod limits;
mod network;
mod others;
mod process;
mod report;
mod security;
mod sysctls;

use std::{fmt, time::Duration};

use serde::Serialize;

use crate::{
    causes::causes,
    daemons::{Scanner, Scope, Wanted},
    engine::Daemon,
};

pub(crate) use self::process::NEEDED;
pub use self::report::{brief_text, report_text};

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// The NICs that are to be guarded, and patterns of them; none: those that keepalived uses.
    pub interfaces: Vec<String>,
    /// The daemons that are.
    pub daemons: Vec<Wanted>,
    /// The longest that something untrue is withheld.
    pub deadline: Duration,
}

/// What a finding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Pass,
    /// It cannot be looked at, or does not matter here.
    Skip,
    /// Something works less well than it could.
    Warn,
    /// vipshield does not work so, or keepalived does not.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about: `process`, `security`, `kernel`, `network`, `keepalived`.
    pub group: &'static str,
    /// What was looked at; the same in every release.
    pub name: String,
    /// What it says.
    pub verdict: Verdict,
    /// What was found.
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way_out: Option<String>,
}

impl Finding {
    fn new(verdict: Verdict, group: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self { group, name: name.to_owned(), verdict, text: text.into(), way_out: None }
    }

    fn pass(group: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, group, name, text)
    }

    fn skip(group: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self::new(Verdict::Skip, group, name, text)
    }

    fn warn(
        group: &'static str,
        name: &str,
        text: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { way_out: Some(way_out.into()), ..Self::new(Verdict::Warn, group, name, text) }
    }

    fn fail(
        group: &'static str,
        name: &str,
        text: impl Into<String>,
        way_out: impl Into<String>,
    ) -> Self {
        Self { way_out: Some(way_out.into()), ..Self::new(Verdict::Fail, group, name, text) }
    }
}

/// In one line, for a log.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)?;
        self.way_out.as_ref().map_or(Ok(()), |way_out| write!(f, " ({way_out})"))
    }
}

/// All that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of the vipshield that looked.
    pub version: &'static str,
    /// The worst of the findings.
    pub verdict: Verdict,
    /// In the order of their groups.
    pub findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.verdict).max();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            verdict: worst.unwrap_or(Verdict::Pass),
            findings,
        }
    }

    /// Exit status of the command: 0, 1 if there are warnings, 2 if something fails.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self.verdict {
            Verdict::Pass | Verdict::Skip => 0,
            Verdict::Warn => 1,
            Verdict::Fail => 2,
        }
    }
}

/// The daemons of this network namespace, or why none can be looked for.
struct Seen {
    daemons: Vec<Daemon>,
    trouble: Option<String>,
}

/// Looks at everything. It changes nothing: eBPF programs are loaded and let go of again. Needs a tokio
/// `LocalSet`.
pub async fn check(question: &Question) -> Report {
    let seen = look(&question.daemons);
    let mut findings = process::findings(!seen.daemons.is_empty());
    findings.extend(security::findings());
    let names: Vec<String> = question.daemons.iter().map(|it| it.name.clone()).collect();
    findings.extend(kernel::findings(&names));
    findings.extend(sysctls::findings());
    findings.extend(network::findings(question, &seen).await);
    findings.extend(others::findings());
    findings.extend(keepalived::findings(question, &seen));
    Report::new(findings)
}

/// What `run` says at its start, of all that is cheap to look at: only what an operator should mend.
#[must_use]
pub fn at_start() -> Vec<Finding> {
    let mut findings = process::own();
    findings.extend(security::findings());
    findings.retain(|finding| finding.verdict >= Verdict::Warn);
    findings
}

fn look(wanted: &[Wanted]) -> Seen {
    let found = Scanner::new(wanted.to_vec()).and_then(|mut scanner| scanner.scan(Scope::All));
    match found {
        Ok(looked) => Seen { daemons: looked.daemons, trouble: None },
        Err(error) => Seen { daemons: Vec::new(), trouble: Some(causes(&error)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_makes_the_exit_status() {
        let of = |verdicts: &[Verdict]| {
            let finding = |verdict: &Verdict| Finding::new(*verdict, "kernel", "it", "text");
            Report::new(verdicts.iter().map(finding).collect()).exit_status()
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[Verdict::Pass, Verdict::Skip]), 0);
        assert_eq!(of(&[Verdict::Warn, Verdict::Pass]), 1);
        assert_eq!(of(&[Verdict::Fail, Verdict::Warn]), 2);
    }
}
