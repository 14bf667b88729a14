//! The binary that packages and images are made of: it needs no library, and is the same wherever it is built.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::setup::{self, Part};
use crate::{build, shell, workspace};

/// musl is linked in; rustup has it for its own toolchains.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds it. Returns where it is.
pub(crate) fn build() -> Result<PathBuf> {
    setup::ensure(&[Part::Build])?;
    let installed =
        shell::output(std::process::Command::new("rustup").args(["target", "list", "--installed"]))
            .unwrap_or_default();
    if !installed.lines().any(|target| target == TARGET) {
        shell::run(std::process::Command::new("rustup").args(["target", "add", TARGET]))
            .with_context(|| format!("`rustup target add {TARGET}` is needed once"))?;
    }
    // Nothing of this machine's directories is to be in the binary.
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut flags =
        vec![format!("--remap-path-prefix={}=/vipshield", workspace::root()?.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    shell::run(
        workspace::cargo()?
            .args(["build", "--release", "--package", build::VIPSHIELD, "--target", TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")),
    )?;
    Ok(workspace::target()?.join(TARGET).join("release").join(build::VIPSHIELD))
}
