//! `cargo xtask bench`: what vipshield costs, and what it saves.
//!
//! Absolute times depend on the machine. So each figure stands beside another of the same run: a
//! sequence beside an idle window of the same length, a give-up with an enslaved NIC beside one with
//! a free NIC, an eBPF program beside an empty one, an event on a large node beside one on a small.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Deserialize;

use crate::setup::{self, Part};
use crate::{build, shell, workspace};

/// The benchmark of the eBPF programs.
const COST: &str = "cost";
/// The benchmark of the engine.
const ENGINE: &str = "engine";

/// What is measured, in this order: what is left of a lab may keep the machine busy for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// What an event costs the engine with few interfaces and with many; needs no root
    Engine,
    /// What the eBPF programs cost a packet and a netlink message
    Programs,
    /// How soon the VIP is gone once keepalived gives it up
    GiveUp,
    /// What a sequence costs the traffic, without vipshield and with it
    Sequences,
    /// What vipshield takes of a node on which nothing happens, and how soon it guards
    Process,
    /// What else one may do about a NIC that is taken, beside vipshield
    Peers,
}

/// Options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these subjects [default: all]
    #[arg(long, value_enum, value_name = "SUBJECT", num_args = 1..)]
    subject: Vec<Subject>,
    /// How often each sequence is run, without vipshield and with it
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u32,
    /// How often the VIP is given up with the NIC a port; a quarter as often with the NIC free
    #[arg(long, value_name = "N", default_value_t = 200)]
    give_ups: u32,
    /// For how long vipshield is looked at with the NIC free, and as long with it a port
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Sequences, separated by commas: bind, unbind, exchange, unexchange, or all
    #[arg(long, default_value = "bind,unbind")]
    sequence: String,
}

/// What is read of a run's result.
#[derive(Debug, Clone, Deserialize)]
struct Run {
    sequence: String,
    shield: bool,
    probe: Option<Probe>,
    idle: Option<Probe>,
}

/// A probe of the VIP, 1,000 packets a second.
#[derive(Debug, Clone, Deserialize)]
struct Probe {
    lost: u64,
    longest_gap_ms: f64,
}

impl Options {
    /// The command.
    pub(crate) fn run(&self) -> Result<()> {
        let is_wanted =
            |subject: &&Subject| self.subject.is_empty() || self.subject.contains(subject);
        let wanted: Vec<Subject> =
            Subject::value_variants().iter().filter(is_wanted).copied().collect();
        if wanted == [Subject::Engine] {
            setup::ensure(&[Part::Build])?;
        } else {
            if !workspace::is_root() {
                bail!("the lab makes network namespaces: it needs root");
            }
            setup::ensure(&[Part::Build, Part::Lab])?;
            build::release()?;
        }
        for subject in wanted {
            self.measure(subject)?;
        }
        println!("\nbench: the figures are in {}/bench-*.json", workspace::target()?.display());
        Ok(())
    }

    fn measure(&self, subject: Subject) -> Result<()> {
        let json = |name: &str| workspace::target().map(|target| target.join(name));
        match subject {
            Subject::Engine => {
                println!("\nbench: the engine, nanoseconds of CPU time for an event");
                cargo_bench(build::ENGINE, ENGINE, &json("bench-engine.json")?)
            }
            Subject::Programs => {
                println!("\nbench: eBPF programs, nanoseconds by BPF_PROG_TEST_RUN");
                cargo_bench(build::VIPSHIELD, COST, &json("bench-programs.json")?)
            }
            Subject::GiveUp => {
                println!("\nbench: keepalived gives the VIP up");
                self.give_up(&json("bench-give-up.json")?)
            }
            Subject::Sequences => {
                println!("\nbench: sequences, 1,000 probes a second");
                self.sequences(&json("bench-sequences.json")?)
            }
            Subject::Process => {
                println!("\nbench: vipshield and keepalived on a node on which nothing happens");
                self.process(&json("bench-process.json")?)
            }
            Subject::Peers => {
                println!("\nbench: what else one may do, 1,000 probes a second");
                self.peers(&json("bench-peers.json")?)
            }
        }
    }

    fn give_up(&self, json: &Path) -> Result<()> {
        let mut lab = Command::new(workspace::release(build::LAB)?);
        lab.args(["give-up", "--runs", &self.give_ups.to_string(), "--vipshield"])
            .arg(workspace::release(build::VIPSHIELD)?)
            .arg("--json")
            .arg(json);
        shell::run(&mut lab)
    }

    fn peers(&self, json: &Path) -> Result<()> {
        let runs = self.runs.to_string();
        let mut lab = Command::new(workspace::release(build::LAB)?);
        lab.args(["peers", "--sequence", &self.sequence, "--runs", &runs, "--vipshield"])
            .arg(workspace::release(build::VIPSHIELD)?)
            .arg("--json")
            .arg(json);
        shell::run(&mut lab)
    }

    fn process(&self, json: &Path) -> Result<()> {
        let mut lab = Command::new(workspace::release(build::LAB)?);
        lab.args(["footprint", "--seconds", &self.seconds.to_string(), "--vipshield"])
            .arg(workspace::release(build::VIPSHIELD)?)
            .arg("--json")
            .arg(json);
        shell::run(&mut lab)
    }

    fn sequences(&self, json: &Path) -> Result<()> {
        let runs = self.runs.to_string();
        let mut lab = Command::new(workspace::release(build::LAB)?);
        lab.args(["demo", "--shield", "both", "--sequence", &self.sequence, "--runs", &runs])
            .arg("--vipshield")
            .arg(workspace::release(build::VIPSHIELD)?)
            .arg("--json")
            .arg(json);
        shell::run(&mut lab)?;
        let runs: Vec<Run> =
            serde_json::from_slice(&fs::read(json)?).with_context(|| json.display().to_string())?;
        println!("{}", table(&runs));
        Ok(())
    }
}

fn cargo_bench(package: &str, name: &str, json: &Path) -> Result<()> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["bench", "--quiet", "--package", package, "--bench", name, "--"]);
    shell::run(cargo.arg("--json").arg(json))
}

/// A line for each sequence, without and with vipshield.
fn table(runs: &[Run]) -> String {
    let mut keys: Vec<_> = runs.iter().map(|run| (run.sequence.as_str(), run.shield)).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut lines = vec![
        "sequence    shield  runs    lost  longest gap, ms  idle, ms   ratio  (medians)".to_owned(),
    ];
    for (sequence, shield) in keys {
        let probes: Vec<_> = runs
            .iter()
            .filter(|run| run.sequence == sequence && run.shield == shield)
            .filter_map(|run| Some((run.probe.as_ref()?, run.idle.as_ref()?)))
            .collect();
        let lost = median(probes.iter().map(|(probe, _)| probe.lost as f64));
        let gap = median(probes.iter().map(|(probe, _)| probe.longest_gap_ms));
        let idle = median(probes.iter().map(|(_, idle)| idle.longest_gap_ms));
        let ratio =
            median(probes.iter().map(|(probe, idle)| probe.longest_gap_ms / idle.longest_gap_ms));
        let number =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        lines.push(format!(
            "{sequence:<10}  {:<6}  {:>4}  {:>6}  {:>15}  {:>8}  {:>6}",
            if shield { "on" } else { "off" },
            probes.len(),
            number(lost),
            number(gap),
            number(idle),
            number(ratio),
        ));
    }
    lines.join("\n")
}

/// The middle value; the upper one of two. `None` if there is none.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([f64::NAN, 4.0].into_iter()), Some(4.0));
        assert_eq!(median([].into_iter()), None);
    }

    #[test]
    fn shielded_and_unshielded_stand_in_lines_of_their_own() {
        let run = |shield: bool, lost: u64, gap: f64| Run {
            sequence: "bind".to_owned(),
            shield,
            probe: Some(Probe { lost, longest_gap_ms: gap }),
            idle: Some(Probe { lost: 0, longest_gap_ms: 2.0 }),
        };
        let table = table(&[run(true, 0, 3.0), run(false, 900, 900.0)]);
        let lines: Vec<_> = table.lines().collect();
        let expected = "bind        off        1   900.0            900.0       2.0   450.0";
        assert_eq!(lines.get(1), Some(&expected));
        let expected = "bind        on         1     0.0              3.0       2.0     1.5";
        assert_eq!(lines.get(2), Some(&expected));
    }
}
