//! Kube-OVN's own daemon for the lab: a Go module of this project's, which Kube-OVN's is a part of.
//!
//! It is built once. Where there is no Go that can, it is done without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::go;
use crate::{shell, workspace};

/// The release of Kube-OVN, as one asks for it.
pub(crate) const VERSION: &str = "1.16";

const PROGRAM: &str = "kube-ovn-node";
/// What it was built from, beside it.
const SOURCES: &str = "kube-ovn-node.sources";

/// The program, built if it is not there or its sources have changed.
pub(crate) fn get() -> Result<PathBuf> {
    let directory = workspace::cache()?.join("kube-ovn");
    let (program, built_from) = (directory.join(PROGRAM), directory.join(SOURCES));
    let sources = sources()?;
    if is_current(&program, &built_from, &sources) {
        return Ok(program);
    }
    let go = find_go()?;
    println!(
        "setup: building Kube-OVN's daemon with {}: some minutes the first time",
        go.display()
    );
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let fresh = directory.join(format!("{PROGRAM}.{}", std::process::id()));
    // Static, so that it runs on any kernel's root; its symbols would be as much again.
    let mut build = Command::new(&go);
    build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"]).arg(&fresh);
    shell::run(build.arg(".").current_dir(module()?).env("CGO_ENABLED", "0"))?;
    fs::rename(&fresh, &program).with_context(|| program.display().to_string())?;
    fs::write(&built_from, sources).with_context(|| built_from.display().to_string())?;
    Ok(program)
}

/// Whether it is there and up to date.
pub(crate) fn is_there() -> bool {
    let look = || -> Result<bool> {
        let directory = workspace::cache()?.join("kube-ovn");
        Ok(is_current(&directory.join(PROGRAM), &directory.join(SOURCES), &sources()?))
    };
    look().unwrap_or(false)
}

/// Why it cannot be built here, if it cannot.
pub(crate) fn objection() -> Option<String> {
    find_go().err().map(|error| format!("{error:#}"))
}

fn is_current(program: &Path, built_from: &Path, sources: &str) -> bool {
    program.is_file() && fs::read_to_string(built_from).is_ok_and(|before| before == sources)
}

fn module() -> Result<PathBuf> {
    Ok(workspace::root()?.join("tests/kube-ovn"))
}

/// All that decides what is built, in one text.
fn sources() -> Result<String> {
    let module = module()?;
    let mut files: Vec<PathBuf> = fs::read_dir(&module)
        .with_context(|| module.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.iter().filter(|file| file.is_file()).try_fold(String::new(), |before, file| {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok(before + &text)
    })
}

/// A Go that the module can be built with.
fn find_go() -> Result<PathBuf> {
    let module = module()?;
    let text = fs::read_to_string(module.join("go.mod")).context("go.mod")?;
    let needed = text.lines().find_map(|line| line.strip_prefix("go ")).context("go.mod")?;
    go::find("Kube-OVN's daemon", needed, &module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_source_is_built_anew() {
        let directory = std::env::temp_dir().join(format!("kube-ovn-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (program, built_from) = (directory.join(PROGRAM), directory.join(SOURCES));
        fs::write(&built_from, "a").unwrap();
        assert!(!is_current(&program, &built_from, "a"));
        fs::write(&program, "").unwrap();
        assert!(is_current(&program, &built_from, "a"));
        assert!(!is_current(&program, &built_from, "b"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
