//! Go, which builds what is had as a module only. Where there is none that can, it is done without.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{shell, workspace};

/// Where Go's own distribution is unpacked to, whether `PATH` says so or not.
const GO: &str = "/usr/local/go/bin/go";

/// A Go that is not older than `needed`, in a directory: from 1.21 on Go fetches a newer one of itself if the module
/// there asks for it.
pub(super) fn find(whose: &str, needed: &str, directory: &Path) -> Result<PathBuf> {
    let installed =
        workspace::program("go").or_else(|| Some(GO.into()).filter(|go: &PathBuf| go.is_file()));
    let Some(go) = installed else {
        bail!("{whose} needs Go {needed} or later, and there is none (Debian 12's is older)")
    };
    let version =
        shell::output(Command::new(&go).args(["env", "GOVERSION"]).current_dir(directory))?;
    if !is_enough(version.trim(), needed) {
        bail!("{whose} needs Go {needed} or later, {} is {}", go.display(), version.trim());
    }
    Ok(go)
}

/// Whether `go1.26.8` is not older than `1.26.4`.
fn is_enough(version: &str, needed: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        let plain = text.trim_start_matches("go").split([' ', '-']).next().unwrap_or_default();
        plain.split('.').map_while(|part| part.parse().ok()).collect()
    };
    numbers(version) >= numbers(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_enough("go1.26.8", "1.26.4"));
        assert!(is_enough("go1.100", "1.26.4"));
        assert!(!is_enough("go1.19.8", "1.26.4"));
        assert!(!is_enough("go1.26.3", "1.26.4"));
        assert!(!is_enough("devel", "1.26.4"));
    }
}
