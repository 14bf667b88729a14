//! `cargo xtask test`: every ring of tests, from the fastest to the most real.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::{self, Part};
use crate::tally::Tally;
use crate::vm::{self, LabRun, Machine, Outcome, TIME_LIMIT};
use crate::{build, clock, lint, shell, workspace};

/// The integration test that loads the programs into the running kernel; a ring of its own.
const EBPF_TEST: &str = "ebpf";

/// Scenarios at a time, of those that measure no packets: they wait for VRRP's timers most of the
/// time.
const JOBS: &str = "8";

/// A ring of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ring {
    /// Format, clippy, documentation, dependencies
    Lint,
    /// Everything pure; needs no root
    Unit,
    /// The eBPF programs on the running kernel; needs root
    Ebpf,
    /// Scenarios on a Linux bridge in network namespaces; needs root
    Lab,
    /// Scenarios on Open vSwitch on a stock kernel in QEMU
    Vm,
}

/// Options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these rings [default: all]
    #[arg(long, value_enum, value_name = "RING", num_args = 1..)]
    ring: Vec<Ring>,
    /// Also the lab's scenarios that try every step of a sequence; they take a quarter of an hour
    #[arg(long)]
    every_step: bool,
}

impl Options {
    /// The command. Its last line is the count, whatever came of it.
    pub(crate) fn run(&self) -> ExitCode {
        let every = [Ring::Lint, Ring::Unit, Ring::Ebpf, Ring::Lab, Ring::Vm];
        let rings: Vec<_> = every
            .into_iter()
            .filter(|ring| self.ring.is_empty() || self.ring.contains(ring))
            .collect();
        let mut parts: Vec<_> = rings.iter().flat_map(|ring| ring.parts()).copied().collect();
        parts.dedup();
        let (setup, took) = clock::timed(|| setup::ensure(&parts));
        let mut tally = Tally::default();
        if let Err(error) = setup {
            println!("test: set-up: {error:#}");
            // Where nothing can be installed it is for the rings to say what they lack.
            if setup::can_install() {
                tally = Tally::FAILED;
            }
        }
        let mut rows = vec![("setup", tally, took)];
        for ring in rings {
            println!("\ntest: ring {}", ring.name());
            let (result, took) = clock::timed(|| ring.run(self.every_step));
            let tally = result.unwrap_or_else(|error| {
                println!("test: ring {}: {error:#}", ring.name());
                Tally::FAILED
            });
            rows.push((ring.name(), tally, took));
        }
        let total: Tally = rows.iter().map(|(_, tally, _)| *tally).sum();
        println!("\n{}{total}", summary(&rows));
        if total.failed > 0 || total.passed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

impl Ring {
    const fn name(self) -> &'static str {
        match self {
            Self::Lint => "lint",
            Self::Unit => "unit",
            Self::Ebpf => "ebpf",
            Self::Lab => "lab",
            Self::Vm => "vm",
        }
    }

    /// What it needs to be installed.
    const fn parts(self) -> &'static [Part] {
        match self {
            Self::Lint | Self::Unit | Self::Ebpf => &[Part::Build],
            Self::Lab => &[Part::Build, Part::Lab],
            Self::Vm => &[Part::Build, Part::Lab, Part::Vm],
        }
    }

    /// Why it cannot run here.
    fn hindrance(self) -> Option<String> {
        if matches!(self, Self::Ebpf | Self::Lab) && !workspace::is_root() {
            return Some("it needs root".to_owned());
        }
        self.parts().iter().find_map(|part| setup::missing(*part))
    }

    fn run(self, every_step: bool) -> Result<Tally> {
        if let Some(why) = self.hindrance() {
            println!("test: ring {}: skipped: {why}", self.name());
            return Ok(Tally::SKIPPED);
        }
        match self {
            Self::Lint => Ok(lint::all()),
            Self::Unit => unit(),
            Self::Ebpf => {
                let test = ["test", "--package", build::VIPSHIELD, "--test", EBPF_TEST];
                cargo_test(workspace::cargo()?.args(test))
            }
            Self::Lab => lab(every_step),
            Self::Vm => vm(),
        }
    }
}

/// Unit tests and the integration tests that want nothing of the kernel.
fn unit() -> Result<Tally> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    for test in integration_tests()? {
        cargo.args(["--test", &test]);
    }
    let tests = cargo_test(&mut cargo)?;
    let examples = cargo_test(workspace::cargo()?.args(["test", "--no-fail-fast", "--doc"]))?;
    Ok(tests + examples)
}

/// The names of the workspace's integration tests, but for the one that needs root.
fn integration_tests() -> Result<Vec<String>> {
    let arguments = ["metadata", "--no-deps", "--format-version", "1"];
    let metadata = shell::output(workspace::cargo()?.args(arguments))?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata")?;
    Ok(test_targets(&metadata))
}

fn test_targets(metadata: &serde_json::Value) -> Vec<String> {
    let list = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(|list| list.as_array()).cloned().unwrap_or_default()
    };
    list(metadata, "packages")
        .iter()
        .flat_map(|package| list(package, "targets"))
        .filter(|target| list(target, "kind").iter().any(|kind| kind == "test"))
        .filter_map(|target| Some(target.get("name")?.as_str()?.to_owned()))
        .filter(|name| name != EBPF_TEST)
        .collect()
}

fn cargo_test(cargo: &mut Command) -> Result<Tally> {
    let run = shell::watch(cargo, None)?;
    Ok(Tally::of_run(&run.lines, run.status.success()))
}

fn lab(every_step: bool) -> Result<Tally> {
    build::release()?;
    let mut lab = Command::new(workspace::release(build::LAB)?);
    lab.args(["test", "--datapath", "bridge", "--jobs", JOBS]);
    if every_step {
        lab.arg("--every-step");
    }
    lab.arg("--vipshield")
        .arg(workspace::release(build::VIPSHIELD)?)
        .arg("--json")
        .arg(workspace::target()?.join("lab.json"));
    let run = shell::watch(&mut lab, None)?;
    Ok(Tally::of_run(&run.lines, run.status.success()))
}

/// The eBPF programs and the scenarios on a stock kernel.
fn vm() -> Result<Tally> {
    let ebpf = of_machine(&vm::run_test(&Machine::new(TIME_LIMIT), &ebpf_test()?)?);
    build::release()?;
    let mut lab = LabRun::new("test");
    lab.arguments = ["--datapath", "ovs", "--core"].map(str::to_owned).to_vec();
    Ok(ebpf + of_machine(&lab.run(&Machine::new(TIME_LIMIT))?))
}

fn of_machine(outcome: &Outcome) -> Tally {
    if let Err(error) = &outcome.exit {
        println!("test: ring vm: {error:#}");
    }
    Tally::of_run(&outcome.lines, matches!(outcome.exit, Ok(0)))
}

/// Builds the test that loads the eBPF programs; returns where it is.
fn ebpf_test() -> Result<PathBuf> {
    let mut cargo = workspace::cargo()?;
    cargo.args(["test", "--package", build::VIPSHIELD, "--test", EBPF_TEST, "--no-run"]);
    let messages = shell::output(cargo.args(["--message-format", "json"]))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message.pointer("/target/name").is_some_and(|name| name == EBPF_TEST))
        .find_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .context("cargo did not say where the test is")
}

/// A line for each ring.
fn summary(rows: &[(&str, Tally, Duration)]) -> String {
    rows.iter().fold(String::new(), |before, (name, tally, took)| {
        format!("{before}{name:<6} {:>5} s  {tally}\n", took.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_are_found_but_not_the_one_that_needs_root() {
        let metadata = serde_json::json!({"packages": [
            {"targets": [
                {"kind": ["lib"], "name": "vipshield"},
                {"kind": ["test"], "name": "replay"},
                {"kind": ["test"], "name": "ebpf"},
            ]},
            {"targets": [{"kind": ["bin"], "name": "xtask"}]},
        ]});
        assert_eq!(test_targets(&metadata), ["replay"]);
    }

    #[test]
    fn each_ring_has_its_line() {
        let rows = [("lint", Tally::PASSED, Duration::from_secs(63))];
        assert_eq!(summary(&rows), "lint      63 s  1 passed, 0 failed, 0 skipped\n");
    }
}
