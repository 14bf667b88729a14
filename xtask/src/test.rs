//! `cargo xtask test`: every ring of tests, from the fastest to the most real.

use std::env;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::{self, Part, kernel, kube_ovn, promtool, releases};
use crate::tally::Tally;
use crate::vm::{
    EBPF_TEST, LabRun, Machine, Outcome, SEQUENCES, TIME_LIMIT, run_programs, run_trial,
};
use crate::{build, clock, lint, shell, workspace};

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
    /// All scenarios of the lab, also those of which others show as much, and all four sequences on every kernel
    /// that is known to work
    #[arg(long)]
    all: bool,
    /// The keepalived that the lab runs, by its version or its release (focal, bullseye, jammy, trixie,
    /// sid) [default: the one that is installed]
    #[arg(long, value_name = "VERSION")]
    keepalived: Option<String>,
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
            let (result, took) = clock::timed(|| ring.run(self));
            let tally = result.unwrap_or_else(|error| {
                println!("test: ring {}: {error:#}", ring.name());
                Tally::FAILED
            });
            rows.push((ring.name(), tally, took));
        }
        let total: Tally = rows.iter().map(|(_, tally, _)| tally.clone()).sum();
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

    fn run(self, options: &Options) -> Result<Tally> {
        if let Some(why) = self.hindrance() {
            println!("test: ring {}: skipped: {why}", self.name());
            return Ok(Tally::SKIPPED);
        }
        match self {
            Self::Lint => {
                if let Err(error) = setup::ensure(&[Part::Lint]) {
                    println!("test: {error:#}; alerts are not tried out");
                }
                Ok(lint::all())
            }
            Self::Unit => unit(),
            Self::Ebpf => {
                let test = ["test", "--package", build::VIPSHIELD, "--test", EBPF_TEST];
                cargo_test(workspace::cargo()?.args(test))
            }
            Self::Lab => lab(options),
            Self::Vm => vm(options.all),
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

fn lab(options: &Options) -> Result<Tally> {
    if let Err(error) = setup::ensure(&[Part::Releases]) {
        println!("test: {error:#}; scenarios with a keepalived that is not there are skipped");
    }
    build::release()?;
    let mut lab = Command::new(workspace::release(build::LAB)?);
    lab.args(["test", "--datapath", "bridge", "--jobs", JOBS]);
    if options.every_step || options.all {
        lab.arg("--every-step");
    }
    if options.all {
        lab.arg("--extra");
    }
    if let Some(keepalived) = &options.keepalived {
        lab.args(["--keepalived", keepalived]);
    }
    lab.arg("--releases").arg(releases::directory()?);
    if let Some(prometheus) = promtool::server() {
        lab.arg("--prometheus").arg(prometheus);
    }
    lab.arg("--vipshield")
        .arg(workspace::release(build::VIPSHIELD)?)
        .arg("--json")
        .arg(workspace::target()?.join("lab.json"));
    let run = shell::watch(&mut lab, None)?;
    Ok(Tally::of_run(&run.lines, run.status.success()))
}

/// The eBPF programs and scenarios on Debian 12's kernel; with `all` the sequences on the others, from the
/// oldest to the newest.
fn vm(all: bool) -> Result<Tally> {
    let programs = of_machine(&run_programs(&Machine::new(TIME_LIMIT))?);
    build::release()?;
    let mut core = lab_on_ovs(&["--core"]);
    let mut tally = programs;
    match kube_ovn::get() {
        Ok(daemon) => core.kube_ovn = Some(daemon),
        // Where everything is to be tried, what is left out is a failure.
        Err(error) => {
            println!("test: {error:#}; scenarios with Kube-OVN's own daemon are skipped");
            if env::var_os("CI").is_some_and(|ci| ci == "true") {
                tally = tally + Tally::FAILED;
            }
        }
    }
    tally = tally + of_machine(&core.run(&Machine::counted(TIME_LIMIT))?);
    let others = if all { &["5.10", "6.12", kernel::NEWEST][..] } else { &[] };
    for kernel in others {
        let tried = trial(&SEQUENCES, &Machine::with_kernel(kernel, TIME_LIMIT));
        tally = tally
            + tried.unwrap_or_else(|error| {
                println!("test: ring vm: {error:#}");
                Tally::FAILED
            });
    }
    Ok(tally)
}

/// The eBPF programs, then these scenarios on Open vSwitch.
fn trial(scenarios: &[&str], machine: &Machine) -> Result<Tally> {
    Ok(of_machine(&run_trial(&lab_on_ovs(scenarios), machine)?))
}

/// These scenarios, on Open vSwitch.
fn lab_on_ovs(scenarios: &[&str]) -> LabRun {
    let mut lab = LabRun::new("test");
    let arguments = ["--datapath", "ovs"].iter().chain(scenarios);
    lab.arguments = arguments.map(|word| (*word).to_owned()).collect();
    lab
}

fn of_machine(outcome: &Outcome) -> Tally {
    if let Err(error) = &outcome.exit {
        println!("test: ring vm: {error:#}");
    }
    Tally::of_run(&outcome.lines, matches!(outcome.exit, Ok(0)))
}

/// What failed, then a line for each ring.
fn summary(rows: &[(&str, Tally, Duration)]) -> String {
    let failures = rows.iter().flat_map(|(ring, tally, _)| {
        tally.failures.iter().map(move |failure| format!("failed in ring {ring}: {failure}\n"))
    });
    let counts = rows
        .iter()
        .map(|(name, tally, took)| format!("{name:<6} {:>5} s  {tally}\n", took.as_secs()));
    failures.chain(counts).collect()
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
        let failed = Tally { failures: vec!["bind (why)".to_owned()], ..Tally::FAILED };
        let rows = [("lab", failed, Duration::from_secs(7))];
        let expected =
            "failed in ring lab: bind (why)\nlab        7 s  0 passed, 1 failed, 0 skipped\n";
        assert_eq!(summary(&rows), expected);
    }
}
