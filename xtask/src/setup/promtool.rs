//! promtool, which tries alerts out: out of Debian's package of Prometheus, whose service is not wanted.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::archive::Archive;
use crate::workspace;

const PACKAGE: &str = "prometheus";
/// The suite that it is taken from.
const SUITE: &str = "bookworm";

/// The program, if it is there.
pub(crate) fn cached() -> Option<PathBuf> {
    let own = || Some(directory().ok()?.join("usr/bin/promtool")).filter(|it| it.is_file());
    workspace::program("promtool").or_else(own)
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("promtool"))
}

/// Fetches it if it is missing.
pub(super) fn get() -> Result<()> {
    if cached().is_some() {
        return Ok(());
    }
    println!("setup: downloading promtool");
    let (directory, parent) = (directory()?, workspace::cache()?);
    fs::create_dir_all(&parent).with_context(|| parent.display().to_string())?;
    Archive::open(&[("debian", SUITE)], &parent)?.unpack(&[PACKAGE.to_owned()], &directory)
}
