//! keepalived of other releases than this machine's, each in a root of its own: the lab runs them there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::archive::Archive;
use crate::workspace;

/// Whose suite it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distribution {
    Debian,
    Ubuntu,
}

/// A release of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Release {
    distribution: Distribution,
    /// The name of the suite, and of the directory below which it is unpacked.
    suite: &'static str,
    /// Its keepalived.
    version: &'static str,
}

/// Those of other releases. Debian 12's own, 2.2.7, is installed. With the first come Ubuntu's keys.
const RELEASES: [Release; 5] = [
    Release { distribution: Distribution::Debian, suite: "trixie", version: "2.3.3" },
    Release { distribution: Distribution::Debian, suite: "bullseye", version: "2.1.5" },
    Release { distribution: Distribution::Debian, suite: "sid", version: "the newest" },
    Release { distribution: Distribution::Ubuntu, suite: "jammy", version: "2.2.4" },
    Release { distribution: Distribution::Ubuntu, suite: "focal", version: "2.0.19" },
];

/// The daemon, and a shell for its scripts.
const PACKAGES: [&str; 2] = ["keepalived", "dash"];
/// Ubuntu's keys, which not every release of Debian has.
const KEYS: &str = "ubuntu-keyring";

/// What is mounted in a root when a keepalived is started there, and what it looks a user up in.
const DIRECTORIES: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];
const FILES: [(&str, &str); 2] =
    [("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\n")];

/// Where the roots are.
pub(crate) fn directory() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("keepalived"))
}

/// What is missing, in words.
pub(crate) fn missing() -> Option<String> {
    let directory = directory().unwrap_or_default();
    let is_missing = |release: &&Release| !directory.join(release.suite).is_dir();
    let missing: Vec<_> = RELEASES
        .iter()
        .filter(is_missing)
        .map(|Release { suite, version, .. }| format!("{version} ({suite})"))
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

/// Fetches what is missing.
pub(super) fn get() -> Result<()> {
    let directory = directory()?;
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for Release { distribution, suite, version } in RELEASES {
        let root = directory.join(suite);
        if root.is_dir() {
            continue;
        }
        println!("setup: downloading keepalived {version} of {suite}");
        let (first, keys) = (RELEASES[0].suite, directory.join(RELEASES[0].suite));
        let archive = match distribution {
            Distribution::Debian => Archive::open(&[("debian", suite)], &directory)?,
            Distribution::Ubuntu => Archive::open_ubuntu(suite, &keys, &directory)?,
        };
        let mut packages = PACKAGES.to_vec();
        if suite == first {
            packages.push(KEYS);
        }
        archive.unpack_whole(&packages, &root, finish)?;
    }
    Ok(())
}

/// What packages put there when they are installed, and these were not.
fn finish(root: &Path) -> io::Result<()> {
    for directory in DIRECTORIES {
        fs::create_dir_all(root.join(directory))?;
    }
    let etc = root.join("etc");
    FILES.iter().try_for_each(|(name, text)| fs::write(etc.join(name), text))
}
