//! The scenarios: what is to be proved, each with the assertion that proves it.

mod cases;
mod changes;
mod check;
mod cleanup;
mod cluster;
mod configuration;
mod deaf;
mod failover;
mod failures;
mod foreign;
mod forged;
mod ground;
mod groups;
mod handovers;
mod harmless;
mod kube_ovn;
mod kube_ovn_changes;
mod left;
mod lost;
mod many;
mod matrix;
mod middle;
mod midway;
mod misconfigured;
mod neighbours;
mod observe;
mod owners;
mod page;
mod pods;
mod prometheus;
mod real_failures;
mod releases;
mod restarts;
mod rough;
mod rules;
mod scene;
mod scripts;
mod stops;
mod strangers;
mod switches;
mod unseen;
mod uplinks;
mod variants;
mod wire;

pub use self::cases::scenario as of_case;

use std::path::PathBuf;
use std::pin::Pin;

use anyhow::Result;

use crate::config::{DatapathKind, NicShape};
use crate::datapath;
use crate::enslaver::Enslaver;
use crate::lab;
use crate::measure::RunResult;

/// What a scenario is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// What takes the NIC.
    pub datapath: DatapathKind,
    /// vipshield's program. Empty for scenarios that do without.
    pub vipshield: PathBuf,
    /// Where keepalived of other releases is.
    pub releases: Option<PathBuf>,
    /// The program that is Kube-OVN's own daemon, where there is one.
    pub kube_ovn: Option<PathBuf>,
    /// The program that is Prometheus, where there is one.
    pub prometheus: Option<PathBuf>,
    /// How often a measured sequence is repeated.
    pub runs: u32,
    /// Where logs are copied, a directory per scenario.
    pub logs: Option<PathBuf>,
}

/// What a scenario returns: its measured runs, if it measures any.
pub type Runs = Result<Vec<RunResult>>;

type Work = Pin<Box<dyn Future<Output = Runs>>>;
type Needs = Box<dyn Fn(&Context) -> Result<()>>;

/// One scenario.
pub struct Scenario {
    /// Its name: what it does, then how.
    pub name: String,
    /// What it proves, in one line.
    pub about: String,
    /// Whether it needs vipshield.
    pub shielded: bool,
    /// Whether it measures packets, which many other labs at a time would disturb.
    pub measures: bool,
    /// Whether it is run only if named or asked for.
    pub extra: bool,
    shape: NicShape,
    only: Option<DatapathKind>,
    /// Who takes the NIC in it.
    enslaver: Enslaver,
    /// The release whose keepalived it is about.
    release: Option<&'static str>,
    /// What else has to be there.
    needs: Needs,
    work: Box<dyn Fn(Context) -> Work>,
}

impl Scenario {
    fn new<F: Future<Output = Runs> + 'static>(
        name: &str,
        about: &str,
        shielded: bool,
        work: impl Fn(Context) -> F + 'static,
    ) -> Self {
        let work = Box::new(move |context| Box::pin(work(context)) as Work);
        Self {
            name: name.to_owned(),
            about: about.to_owned(),
            shielded,
            measures: false,
            extra: false,
            shape: NicShape::Plain,
            only: None,
            enslaver: Enslaver::Replay,
            release: None,
            needs: Box::new(|_| Ok(())),
            work,
        }
    }

    /// Why it cannot run here, if so.
    #[must_use]
    pub fn hindrance(&self, context: &Context) -> Option<String> {
        if let Err(error) = datapath::available(context.datapath) {
            return Some(format!("{error:#}"));
        }
        if let Some(only) = self.only.filter(|only| *only != context.datapath) {
            return Some(format!("it is about {only}"));
        }
        if let Err(error) = lab::available(self.shape) {
            return Some(format!("{error:#}"));
        }
        if let Some(suite) = self.release
            && !context.releases.as_ref().is_some_and(|releases| releases.join(suite).is_dir())
        {
            return Some(format!(
                "there is no keepalived of {suite}: `cargo xtask setup` fetches it"
            ));
        }
        if self.enslaver == Enslaver::KubeOvn && context.kube_ovn.is_none() {
            return Some(
                "Kube-OVN's own daemon is not there: `cargo xtask setup` builds it".to_owned(),
            );
        }
        if let Err(error) = (self.needs)(context) {
            return Some(format!("{error:#}"));
        }
        (self.shielded && !context.vipshield.exists())
            .then(|| format!("no vipshield at {}", context.vipshield.display()))
    }

    /// Run it. An error is a failed assertion, or a lab that cannot be had.
    ///
    /// # Errors
    /// What was expected and what was seen instead.
    pub async fn run(&self, context: Context) -> Runs {
        (self.work)(context).await
    }
}

/// What came of a scenario.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// What took the NIC.
    pub datapath: DatapathKind,
    /// `ok`, `FAILED` or `skipped`.
    pub result: &'static str,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Its measured runs.
    pub runs: Vec<RunResult>,
}

/// How the names of scenarios end that take minutes: they do something at each step of a sequence.
pub const EVERY_STEP: &str = "-every-step";

/// What is played on Open vSwitch too: an emulated machine has the time for these.
const CORE: &[&str] = &[
    "bind-unshielded",
    "unbind-unshielded",
    "cluster-bind-unshielded",
    "bind-shielded",
    "unbind-shielded",
    "exchange-shielded",
    "unexchange-shielded",
    "cluster-bind-shielded",
    "cluster-unbind-shielded",
    "cluster-exchange-shielded",
    "cluster-unexchange-shielded",
    "bind-backup-shielded",
    "exchange-backup-shielded",
    "bind-dual-shielded",
    "carrier-loss-free",
    "fail-open",
    "exit-resync",
    "bind-again",
    "give-up-bind-kill",
    "daemon-restart-bind",
    "node-vlan",
    "keepalived-unicast",
    "switch-cleared",
    "switch-killed-between-3s",
    "switch-held-join-10s-backup",
    "kube-ovn-bind-shielded",
    "kube-ovn-unbind-shielded",
    "kube-ovn-changes",
    "case-lvs",
];

/// Whether a scenario is one of those.
#[must_use]
pub fn is_core(name: &str) -> bool {
    CORE.iter().any(|pattern| matches(pattern, name))
}

/// All scenarios, in the order in which they are begun: the long ones first.
#[must_use]
pub fn all() -> Vec<Scenario> {
    let mut all = rough::scenarios();
    all.extend(middle::scenarios());
    all.sort_by_key(|scenario| !scenario.name.ends_with(EVERY_STEP));
    all.extend(matrix::scenarios());
    all.extend(cluster::scenarios());
    all.extend(kube_ovn::scenarios());
    all.extend(kube_ovn_changes::scenarios());
    all.extend(failures::scenarios());
    all.extend(left::scenarios());
    all.extend(cleanup::scenarios());
    all.extend(configuration::scenarios());
    all.extend(neighbours::scenarios());
    all.extend(variants::scenarios());
    all.extend(uplinks::scenarios());
    all.extend(failover::scenarios());
    all.extend(observe::scenarios());
    all.extend(owners::scenarios());
    all.extend(page::scenarios());
    all.extend(pods::scenarios());
    all.extend(many::scenarios());
    all.extend(prometheus::scenarios());
    all.extend(real_failures::scenarios());
    all.extend(restarts::scenarios());
    all.extend(releases::scenarios());
    all.extend(lost::scenarios());
    all.extend(groups::scenarios());
    all.extend(stops::scenarios());
    all.extend(changes::scenarios());
    all.extend(handovers::scenarios());
    all.extend(scripts::scenarios());
    all.extend(rules::scenarios());
    all.extend(harmless::scenarios());
    all.extend(switches::scenarios());
    all.extend(unseen::scenarios());
    all.extend(strangers::scenarios());
    all.extend(midway::scenarios());
    all.extend(check::scenarios());
    all.extend(misconfigured::scenarios());
    all.extend(forged::scenarios());
    all.extend(foreign::scenarios());
    all.extend(deaf::scenarios());
    all.extend(wire::scenarios());
    all.extend(cases::scenarios());
    all
}

/// Whether `name` matches a pattern in which `*` stands for any characters.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| matches(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(matches("bind-shielded", "bind-shielded"));
        assert!(!matches("bind", "bind-shielded"));
        assert!(matches("bind-*", "bind-shielded"));
        assert!(matches("*-shielded", "bind-shielded"));
        assert!(!matches("*-shielded", "bind-unshielded"));
        assert!(matches("*bind*shielded*", "unbind-backup-shielded"));
        assert!(matches("*", ""));
    }

    #[test]
    fn names_are_unique_and_plain() {
        let names: Vec<_> = all().into_iter().map(|scenario| scenario.name).collect();
        for (number, name) in names.iter().enumerate() {
            let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.chars().all(is_plain), "{name}");
            assert!(!names[..number].contains(name), "{name} twice");
        }
    }
}
