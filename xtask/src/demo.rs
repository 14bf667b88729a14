//! `cargo xtask demo`: the sequences without vipshield and with it, side by side.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::{self, Part};
use crate::vm::{LabRun, Machine};
use crate::{build, shell, workspace};

/// What takes the NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Datapath {
    /// A Linux bridge, on the running kernel
    Bridge,
    /// Open vSwitch, on a stock kernel in a virtual machine
    Ovs,
}

/// Options of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What takes the NIC
    #[arg(long, value_enum, default_value = "bridge")]
    datapath: Datapath,
    /// Sequences, separated by commas: bind, unbind, exchange, unexchange, or all
    #[arg(long, default_value = "bind,unbind")]
    sequence: String,
    /// What node1 is: master, backup, or all
    #[arg(long, default_value = "master")]
    role: String,
    /// Whose NIC is taken: one (node1's), or all (three masters' at once) [default: both, one after
    /// the other]
    #[arg(long, value_parser = ["one", "all"])]
    nodes: Option<String>,
    /// How often each is run
    #[arg(long, value_name = "N", default_value_t = 1)]
    runs: u32,
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the logs of keepalived, Open vSwitch and vipshield in this directory
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

impl Options {
    /// The command.
    pub(crate) fn run(&self) -> Result<()> {
        match self.datapath {
            Datapath::Bridge => self.here(),
            Datapath::Ovs => self.in_vm(),
        }
    }

    fn here(&self) -> Result<()> {
        if !workspace::is_root() {
            bail!("the demo makes network namespaces: it needs root");
        }
        setup::ensure(&[Part::Build, Part::Lab])?;
        build::release()?;
        let mut lab = Command::new(workspace::release(build::LAB)?);
        lab.arg("demo").args(self.arguments("bridge"));
        lab.arg("--vipshield").arg(workspace::release(build::VIPSHIELD)?);
        if let Some(json) = &self.json {
            lab.arg("--json").arg(json);
        }
        if let Some(logs) = &self.logs {
            lab.arg("--logs").arg(logs);
        }
        shell::run(&mut lab)
    }

    fn in_vm(&self) -> Result<()> {
        setup::ensure(&[Part::Build, Part::Lab, Part::Vm])?;
        build::release()?;
        let mut lab = LabRun::new("demo");
        lab.arguments = self.arguments("ovs");
        lab.json.clone_from(&self.json);
        lab.logs.clone_from(&self.logs);
        lab.run(&Machine::new(self.time_limit()))?.succeeded()
    }

    /// Seconds after which a virtual machine hangs: booting and a run of each kind take half of it.
    fn time_limit(&self) -> u64 {
        let sequences = if self.sequence == "all" { 4 } else { self.sequence.split(',').count() };
        let roles = if self.role == "all" { 2 } else { 1 };
        // Three nodes take the time of three.
        let labs = match self.nodes.as_deref() {
            Some("one") => roles,
            Some(_) => 3,
            None => roles + 3,
        };
        120 + 2 * 80 * sequences as u64 * labs * u64::from(self.runs)
    }

    fn arguments(&self, datapath: &str) -> Vec<String> {
        let runs = self.runs.to_string();
        let mut given = vec![
            ["--datapath", datapath],
            ["--sequence", &self.sequence],
            ["--role", &self.role],
            ["--shield", "both"],
            ["--runs", &runs],
        ];
        given.extend(self.nodes.as_deref().map(|nodes| ["--nodes", nodes]));
        given.concat().into_iter().map(str::to_owned).collect()
    }
}
