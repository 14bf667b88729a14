//! What is tried on a kernel: the eBPF programs, then scenarios, in one machine.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::{LabRun, Machine, Outcome, SHARE};
use crate::{build, shell, workspace};

/// The integration test that loads the programs into the running kernel.
pub(crate) const EBPF_TEST: &str = "ebpf";

/// The same where the kernel gives less.
const STRAITS: &str = include_str!("straits.sh");

/// The scenarios that are tried on each kernel: the sequences, on the owner.
pub(crate) const SEQUENCES: [&str; 4] =
    ["bind-shielded", "unbind-shielded", "exchange-shielded", "unexchange-shielded"];

/// Runs the eBPF programs' test, then the lab; the release binaries are built.
pub(crate) fn run(lab: &LabRun, machine: &Machine) -> Result<Outcome> {
    let test = ebpf_test()?;
    lab.run_after(machine, |directory| {
        fs::copy(&test, directory.join(EBPF_TEST))?;
        fs::write(directory.join("straits.sh"), STRAITS)?;
        Ok(format!(
            "{SHARE}/{0} check -o json > {SHARE}/check.json\n\
             {SHARE}/{EBPF_TEST} --color never || status=$?\n\
             sh {SHARE}/straits.sh {SHARE}/{EBPF_TEST} {SHARE}/{0} || status=$?\n",
            build::VIPSHIELD,
        ))
    })
}

/// Runs the eBPF programs' test alone.
pub(crate) fn run_programs(machine: &Machine) -> Result<Outcome> {
    let test = ebpf_test()?;
    machine.run(|directory| {
        fs::copy(&test, directory.join(EBPF_TEST))?;
        Ok(format!("exec {SHARE}/{EBPF_TEST} --color never"))
    })
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
