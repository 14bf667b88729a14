//! What else one may do about a NIC that is taken: the same sequence with each, and with vipshield.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock;
use crate::config::{DatapathKind, LabConfig, SecondNic};
use crate::lab::Lab;
use crate::measure::{self, Role, RunResult, RunSpec};
use crate::process::Program;
use crate::report;
use crate::sequence::Sequence;

/// How often is looked which interface has the node's address.
const LOOK: Duration = Duration::from_millis(100);

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// keepalived alone.
    Nothing,
    /// keepalived's `interface_up_down_delays`, as long as three adverts allow.
    Delays,
    /// keepalived.conf is written anew for the interface that has the node's address, and reloaded, within 0.1 s.
    Reload,
    /// keepalived speaks over a second NIC that nobody takes; the VIP is on the first.
    SecondNic,
    /// vipshield.
    Vipshield,
}

impl Peer {
    const ALL: [Self; 5] =
        [Self::Nothing, Self::Delays, Self::Reload, Self::SecondNic, Self::Vipshield];

    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Delays => "delays",
            Self::Reload => "reload",
            Self::SecondNic => "second-nic",
            Self::Vipshield => "vipshield",
        }
    }

    /// Makes the lab what it needs.
    pub(crate) fn configure(self, config: &mut LabConfig) {
        match self {
            Self::Nothing | Self::Reload | Self::Vipshield => {}
            Self::Delays => {
                let delays = format!("interface_up_down_delays {{\n  {} 1.9 1.9\n}}", config.nic);
                config.blocks.push(delays);
            }
            Self::SecondNic => {
                let nic = "ens224".to_owned();
                for instance in &mut config.instances {
                    instance.nic = Some(nic.clone());
                    instance.addresses_on = Some(config.nic.clone());
                }
                let (bridge, network) = ("br-second".to_owned(), [198, 51, 100]);
                config.second = Some(SecondNic { nic, bridge, network });
            }
        }
    }

    /// Does what is done on the first node for as long as this takes.
    pub(crate) async fn beside<T>(
        self,
        lab: &Lab,
        what: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        if self != Self::Reload {
            return what.await;
        }
        tokio::select! {
            done = what => done,
            ended = follow(lab) => Err(ended.expect_err("it goes on for ever")),
        }
    }
}

/// Has keepalived use the interface that has the node's address.
async fn follow(lab: &Lab) -> Result<std::convert::Infallible> {
    let node = lab.node(0)?;
    let own = node.config.addresses.first().context("the node has no address")?.to_string();
    let mut used = lab.config.nic.clone();
    loop {
        clock::pass(LOOK).await;
        let ip = Program::new("ip address", "ip", lab.token())
            .args(["-o", "address", "show", "to", &own])
            .inside(&node.host.namespace)
            .succeed(Duration::from_secs(10))
            .await?;
        let Some(found) = ip.split_whitespace().nth(1).filter(|found| *found != used) else {
            continue;
        };
        found.clone_into(&mut used);
        let mut config = lab.config.clone();
        for instance in &mut config.instances {
            instance.nic = Some(used.clone());
        }
        let conf = node.dir.join("keepalived.conf");
        let text = config.keepalived(&node.config, &node.dir.join("notify").display().to_string());
        std::fs::write(&conf, text).with_context(|| format!("cannot write {}", conf.display()))?;
        node.keepalived.as_ref().context("keepalived does not run")?.reload()?;
    }
}

/// The figures of one of them in a sequence on the owner: medians of all runs. What was not measured is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// Which.
    pub peer: Peer,
    /// How the NIC was taken.
    pub sequence: Sequence,
    /// How often.
    pub runs: usize,
    /// State changes of all instances.
    pub vrrp_transitions: Option<f64>,
    /// The most nodes that had the VIP at a time.
    pub owners_max: Option<f64>,
    /// How long two nodes had it, in milliseconds.
    pub owners_overlap_ms: Option<f64>,
    /// Probes of the VIP that nobody answered, of 1,000 a second.
    pub lost: Option<f64>,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: Option<f64>,
    /// The same with nothing done about it.
    pub baseline_gap_ms: Option<f64>,
    /// The former divided by the latter.
    pub ratio: Option<f64>,
    /// In how many runs the TCP connection lived.
    pub tcp_alive: Option<usize>,
}

/// Takes the owner's NIC with each of them, all in turn, so often.
///
/// # Errors
/// When a lab cannot be built or a sequence cannot be finished.
pub async fn measure(
    datapath: DatapathKind,
    sequences: &[Sequence],
    program: &Path,
    runs: usize,
) -> Result<Vec<Figures>> {
    let mut all = Vec::new();
    for &sequence in sequences {
        let mut results = Peer::ALL.map(|peer| (peer, Vec::new()));
        for _ in 0..runs {
            for (peer, found) in &mut results {
                let mut spec = RunSpec::new(datapath, sequence, Role::Master);
                spec.peer = *peer;
                spec.shield = (*peer == Peer::Vipshield).then(|| program.to_owned());
                let run = measure::run(&spec).await;
                let run = run.with_context(|| format!("{sequence}, {}", peer.name()))?;
                println!("{:<10} {}", peer.name(), report::verdict(&run));
                found.push(run);
            }
        }
        let nothing = results.iter().find(|(peer, _)| *peer == Peer::Nothing);
        let baseline = nothing.and_then(|(_, runs)| gap(runs));
        all.extend(results.iter().map(|(peer, runs)| figures(*peer, sequence, runs, baseline)));
    }
    Ok(all)
}

fn gap(runs: &[RunResult]) -> Option<f64> {
    median(runs, |run| run.probe.as_ref().map(|probe| probe.longest_gap_ms))
}

fn figures(peer: Peer, sequence: Sequence, runs: &[RunResult], baseline: Option<f64>) -> Figures {
    let tcp: Vec<bool> = runs.iter().filter_map(|run| Some(run.tcp?.alive)).collect();
    let own = gap(runs);
    Figures {
        peer,
        sequence,
        runs: runs.len(),
        vrrp_transitions: median(runs, |run| run.vrrp_transitions.map(|number| number as f64)),
        owners_max: median(runs, |run| run.owners_max.map(|number| number as f64)),
        owners_overlap_ms: median(runs, |run| run.owners_overlap_ms),
        lost: median(runs, |run| run.probe.as_ref().map(|probe| probe.lost as f64)),
        longest_gap_ms: own,
        baseline_gap_ms: baseline,
        ratio: own.zip(baseline).map(|(own, baseline)| own / baseline),
        tcp_alive: (!tcp.is_empty()).then(|| tcp.iter().filter(|alive| **alive).count()),
    }
}

/// The middle value; the upper one of two.
fn median(runs: &[RunResult], value: impl Fn(&RunResult) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A row for each of them in each sequence.
#[must_use]
pub fn table(all: &[Figures]) -> String {
    let head = [
        "sequence",
        "what",
        "runs",
        "VRRP",
        "owners",
        "overlap ms",
        "lost",
        "gap ms",
        "ratio",
        "TCP",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for it in all {
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        rows.push(vec![
            it.sequence.to_string(),
            it.peer.name().to_owned(),
            it.runs.to_string(),
            number(it.vrrp_transitions, 0),
            number(it.owners_max, 0),
            number(it.owners_overlap_ms, 0),
            number(it.lost, 0),
            number(it.longest_gap_ms, 1),
            number(it.ratio, 2),
            it.tcp_alive.map_or_else(|| "-".to_owned(), |alive| format!("{alive}/{}", it.runs)),
        ]);
    }
    report::table(&rows)
}
