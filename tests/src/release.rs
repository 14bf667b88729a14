//! Which keepalived a lab runs: the installed one, or one of another release in a root of its own.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};

/// The program as a shell finds it, and where packages put it.
const PROGRAM: &str = "keepalived";
const PLACE: &str = "usr/sbin/keepalived";

/// What labs run that are not told anything else.
static USUAL: Mutex<Option<Release>> = Mutex::new(None);

/// A keepalived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The program, as it is called within the root.
    pub program: PathBuf,
    /// What it sees as the root of the file system, if that is one of its own.
    pub root: Option<PathBuf>,
}

impl Release {
    /// The one that is installed.
    #[must_use]
    pub fn installed() -> Self {
        Self { program: PROGRAM.into(), root: None }
    }

    /// The one that labs run that are not told anything else: the installed one, or what was chosen.
    #[must_use]
    pub fn usual() -> Self {
        let usual = USUAL.lock().unwrap_or_else(PoisonError::into_inner).clone();
        usual.unwrap_or_else(Self::installed)
    }

    /// Make it the usual one.
    pub fn choose(self) {
        *USUAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(self);
    }

    /// The one in this root below the directory.
    #[must_use]
    pub fn below(directory: &Path, suite: &str) -> Self {
        Self { program: Path::new("/").join(PLACE), root: Some(directory.join(suite)) }
    }

    /// The one of this version, or in the root of this name.
    ///
    /// # Errors
    /// When there is none; it names those that there are.
    pub fn find(directory: Option<&Path>, wanted: &str) -> Result<Self> {
        let mut there = Vec::new();
        let names = directory.map(fs::read_dir).into_iter().flatten().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        let below = |name: String| Some((Self::below(directory?, &name), name));
        let installed = (Self::installed(), "installed".to_owned());
        for (release, name) in names.filter_map(below).chain([installed]) {
            let Ok(version) = release.version() else { continue };
            if version == wanted || name == wanted {
                return Ok(release);
            }
            there.push(format!("{version} ({name})"));
        }
        there.sort_unstable();
        bail!(
            "there is no keepalived {wanted}, only {}; `cargo xtask setup` fetches those of other releases",
            there.join(", ")
        )
    }

    /// Where the program is on this machine.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn executable(&self) -> Result<PathBuf> {
        if let Some(root) = &self.root {
            return Ok(root.join(PLACE));
        }
        let path = std::env::var_os("PATH").context("no PATH")?;
        let mut found = std::env::split_paths(&path).map(|directory| directory.join(&self.program));
        found.find(|file| file.is_file()).context("keepalived is not installed")
    }

    /// What it says its version is.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn version(&self) -> Result<String> {
        let mut command = match &self.root {
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        let said = command.arg("--version").output().with_context(|| format!("{self}"))?;
        let said = String::from_utf8_lossy(&said.stderr);
        version(&said).with_context(|| format!("{self} says {said:?} of its version"))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.root.as_deref().unwrap_or(Path::new(""));
        write!(f, "{}{}", root.display(), self.program.display())
    }
}

/// `Keepalived v2.2.7 (01/16,2022)` is how it begins.
fn version(said: &str) -> Option<String> {
    let rest = said.trim_start().strip_prefix("Keepalived v")?;
    rest.split_whitespace().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_version_is_in_its_first_line() {
        let said = "Keepalived v2.2.7 (01/16,2022)\n\nCopyright(C) 2001-2022\n";
        assert_eq!(version(said).as_deref(), Some("2.2.7"));
        assert_eq!(version("keepalived: not found"), None);
    }

    #[test]
    fn one_that_is_not_there_is_told_by_those_that_are() {
        let error =
            Release::find(Some(Path::new("/nonexistent")), "1.2.3").unwrap_err().to_string();
        assert!(error.contains("no keepalived 1.2.3"), "{error}");
    }
}
