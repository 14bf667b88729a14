//! `cargo xtask build`: the release binary, with the eBPF programs in it, and the lab.

use anyhow::Result;

use crate::setup::{self, Part};
use crate::{shell, toolchain, workspace};

/// The daemon.
pub(crate) const VIPSHIELD: &str = "vipshield";
/// What vipshield decides with.
pub(crate) const ENGINE: &str = "vipshield-engine";
/// The command of the lab.
pub(crate) const LAB: &str = "vipshield-lab";

/// The command.
pub(crate) fn run() -> Result<()> {
    setup::ensure(&[Part::Build])?;
    println!("build: eBPF programs by {}", toolchain::find()?);
    release()?;
    println!("build: {}", workspace::release(VIPSHIELD)?.display());
    Ok(())
}

/// Builds the release binaries.
pub(crate) fn release() -> Result<()> {
    let mut cargo = workspace::cargo()?;
    shell::run(cargo.args(["build", "--release", "--package", VIPSHIELD, "--package", LAB]))
}
