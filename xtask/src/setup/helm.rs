//! Helm, which tries the chart out: built of its Go module, whose checksum is known here. The sums of what it is
//! built with are in the module itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::go;
use crate::{shell, workspace};

/// The release.
pub(crate) const VERSION: &str = "3.19.2";
/// Of the module, as in a `go.sum`.
const SUM: &str = "h1:psQjaM8aIWrSVEly6PgYtLu/y6MRSmok4ERiGhZmtUY=";
/// What the module's `go.mod` asks for.
const GO: &str = "1.24";

/// What `go mod download -json` says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    dir: PathBuf,
    sum: String,
}

/// The program, if it is there.
pub(crate) fn cached() -> Option<PathBuf> {
    let own = || program().ok().filter(|program| program.is_file());
    workspace::program("helm").or_else(own)
}

fn program() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("helm").join(format!("helm-{VERSION}")))
}

/// Why it cannot be built here, if it cannot.
pub(super) fn objection() -> Option<String> {
    go::find("Helm", GO, Path::new("/")).err().map(|error| format!("{error:#}"))
}

/// Builds it if it is missing.
pub(super) fn get() -> Result<()> {
    if cached().is_some() {
        return Ok(());
    }
    let go = go::find("Helm", GO, Path::new("/"))?;
    println!("setup: building Helm {VERSION} with {}: some minutes the first time", go.display());
    let module = format!("helm.sh/helm/v3@v{VERSION}");
    let said = shell::output(
        Command::new(&go).args(["mod", "download", "-json", &module]).current_dir("/"),
    )?;
    let Download { dir, sum } = serde_json::from_str(&said).context("what go downloaded")?;
    if sum != SUM {
        bail!("{module} is {sum}, and was to be {SUM}");
    }
    let program = program()?;
    let parent = program.parent().context("the cache")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let fresh = program.with_extension(std::process::id().to_string());
    let mut build = Command::new(&go);
    build.args(["build", "-mod=readonly", "-buildvcs=false", "-ldflags=-s -w", "-o"]).arg(&fresh);
    shell::run(build.arg("./cmd/helm").current_dir(dir))?;
    fs::rename(&fresh, &program).with_context(|| program.display().to_string())
}
