//! `cargo xtask lint`: what can be said of the code without running it.

use std::env::consts::ARCH;
use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::{helm, promtool};
use crate::tally::Tally;
use crate::{chart, docs, shell, toolchain, workspace};

/// The command.
pub(crate) fn run() -> Result<()> {
    let tally = all();
    println!("{tally}");
    if tally.failed > 0 {
        bail!("{} of the checks failed", tally.failed);
    }
    Ok(())
}

/// What a check found, if it could run; why it could not otherwise.
enum Verdict {
    Good,
    Skipped(String),
}

type Check = fn() -> Result<Verdict>;

const CHECKS: [(&str, Check); 8] = [
    ("format", format),
    ("clippy", clippy),
    ("clippy of the eBPF programs", clippy_ebpf),
    ("documentation", documentation),
    ("dependencies", dependencies),
    ("commands in the documents", commands),
    ("alerts", alerts),
    ("chart", helm_chart),
];

/// Runs every check, also after one has failed.
pub(crate) fn all() -> Tally {
    CHECKS
        .iter()
        .map(|(name, check)| {
            println!("lint: {name}");
            match check() {
                Ok(Verdict::Good) => Tally::PASSED,
                Ok(Verdict::Skipped(why)) => {
                    println!("lint: {name}: skipped: {why}");
                    Tally::SKIPPED
                }
                Err(error) => {
                    println!("lint: {name}: {error:#}");
                    Tally::FAILED
                }
            }
        })
        .sum()
}

fn format() -> Result<Verdict> {
    if !has("fmt")? {
        return Ok(Verdict::Skipped("`rustup component add rustfmt` installs it".to_owned()));
    }
    shell::run(workspace::cargo()?.args(["fmt", "--all", "--check"]))?;
    Ok(Verdict::Good)
}

fn clippy() -> Result<Verdict> {
    if !has("clippy")? {
        return Ok(Verdict::Skipped("`rustup component add clippy` installs it".to_owned()));
    }
    let arguments = ["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"];
    shell::run(workspace::cargo()?.args(arguments))?;
    Ok(Verdict::Good)
}

/// The programs are not among the packages that are built for the host: they are checked for the
/// kernel's target, by the compiler that builds them. Without a clippy of that compiler, by its
/// own warnings.
fn clippy_ebpf() -> Result<Verdict> {
    let compiler = toolchain::find()?;
    let cargo = || {
        let mut command = if compiler.toolchain.is_empty() {
            Command::new("cargo")
        } else {
            let mut command = Command::new("rustup");
            command.args(["run", &compiler.toolchain, "cargo"]);
            command
        };
        for name in ["RUSTC", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "CARGO"] {
            command.env_remove(name);
        }
        command
    };
    let clippy = shell::output(cargo().args(["clippy", "--version"])).is_ok();
    let flags = format!("--cfg=bpf_target_arch=\"{ARCH}\"\x1f-Dwarnings");
    let mut check = cargo();
    check
        .current_dir(workspace::root()?)
        .arg(if clippy { "clippy" } else { "check" })
        .args(["--quiet", "--package", "vipshield-ebpf", "--bins", "-Z", "build-std=core"])
        .args(["--release", "--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(workspace::target()?.join("lint-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    if !compiler.nightly {
        check.env("RUSTC_BOOTSTRAP", "1");
    }
    shell::run(&mut check)?;
    if !clippy {
        println!("lint: {compiler} has no clippy: its own warnings were checked");
    }
    Ok(Verdict::Good)
}

/// The documentation is for those who work on the code: private items belong to it, and links to
/// them are no mistake.
fn documentation() -> Result<Verdict> {
    let arguments = ["doc", "--quiet", "--no-deps", "--document-private-items"];
    let flags = "-D warnings -A rustdoc::private-intra-doc-links";
    shell::run(workspace::cargo()?.args(arguments).env("RUSTDOCFLAGS", flags))?;
    Ok(Verdict::Good)
}

/// What `deny.toml` says, but for the advisories: a new one is no fault of the change at hand, and
/// asking for them needs the network. `cargo deny check` asks.
fn dependencies() -> Result<Verdict> {
    if !has("deny")? {
        return Ok(Verdict::Skipped("`cargo install cargo-deny` installs it".to_owned()));
    }
    shell::run(workspace::cargo()?.args([
        "deny",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]))?;
    Ok(Verdict::Good)
}

fn commands() -> Result<Verdict> {
    let wrong = docs::wrong_commands()?;
    if wrong.is_empty() {
        return Ok(Verdict::Good);
    }
    bail!("{}", wrong.join("\n  "))
}

/// Each alert fires where it should, and where all is well none does.
fn alerts() -> Result<Verdict> {
    let Some(promtool) = promtool::cached() else {
        return Ok(Verdict::Skipped("`cargo xtask setup` fetches promtool".to_owned()));
    };
    let directory = workspace::root()?.join("packaging/prometheus");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts-test.yaml"]] {
        shell::output(Command::new(&promtool).args(arguments).current_dir(&directory))?;
    }
    Ok(Verdict::Good)
}

/// Helm makes of the chart what `vipshield manifest` prints.
fn helm_chart() -> Result<Verdict> {
    let Some(helm) = helm::cached() else {
        let why = "`cargo xtask setup` builds Helm, where there is Go";
        return Ok(Verdict::Skipped(why.to_owned()));
    };
    chart::check(&helm)?;
    Ok(Verdict::Good)
}

/// Whether cargo has this subcommand.
fn has(subcommand: &str) -> Result<bool> {
    Ok(shell::output(workspace::cargo()?.args([subcommand, "--version"])).is_ok())
}
