//! promtool, which tries alerts out, and Prometheus itself, for the lab: out of Debian's package, whose service
//! is not wanted.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::archive::Archive;
use crate::workspace;

const PACKAGE: &str = "prometheus";
/// The suite that it is taken from.
const SUITE: &str = "bookworm";

/// promtool, if it is there.
pub(crate) fn cached() -> Option<PathBuf> {
    found("promtool")
}

/// Prometheus, if it is there.
pub(crate) fn server() -> Option<PathBuf> {
    found("prometheus")
}

fn found(program: &str) -> Option<PathBuf> {
    let own = || Some(directory().ok()?.join("usr/bin").join(program)).filter(|it| it.is_file());
    workspace::program(program).or_else(own)
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("promtool"))
}

/// Fetches it if it is missing.
pub(super) fn get() -> Result<()> {
    if cached().is_some() && server().is_some() {
        return Ok(());
    }
    println!("setup: downloading promtool and Prometheus");
    let (directory, parent) = (directory()?, workspace::cache()?);
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    Archive::open(&[("debian", SUITE)], &parent)?.unpack(&[PACKAGE.to_owned()], &directory)
}
