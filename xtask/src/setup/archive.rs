//! Packages of other suites than this machine's, of Debian and of Ubuntu: fetched and unpacked, never
//! installed.
//!
//! apt is given sources, lists, a cache and a state of its own, all in one directory that is gone
//! afterwards, so that it neither reads nor changes what the machine has.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Where Debian's packages are; apt's own configuration may send it through a proxy.
const MIRROR: &str = "http://deb.debian.org";

/// Where Ubuntu's are.
const UBUNTU: &str = "http://archive.ubuntu.com";

/// With whose keys Ubuntu's lists are signed: a file of the package `ubuntu-keyring`, which Debian has too.
const UBUNTU_KEYS: &str = "usr/share/keyrings/ubuntu-archive-keyring.gpg";

/// Directories that are links into `usr` where that is merged; older packages do not mind.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// With whose keys the mirror's lists are signed, those of all suites.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A suite: where it is on the mirror, and its name.
pub(crate) type Suite = (&'static str, &'static str);

/// What some suites have.
pub(crate) struct Archive {
    /// Everything of apt's; gone with this value.
    directory: PathBuf,
    /// Where it comes from.
    mirror: &'static str,
}

impl Archive {
    /// Fetches the lists of these suites. `parent` is where the directory for it all is made.
    pub(crate) fn open(suites: &[Suite], parent: &Path) -> Result<Self> {
        Self::begin(&sources(suites), MIRROR, parent)
    }

    /// The same of a suite of Ubuntu's. `keys` is a root in which `ubuntu-keyring` was unpacked.
    pub(crate) fn open_ubuntu(suite: &str, keys: &Path, parent: &Path) -> Result<Self> {
        let keys = keys.join(UBUNTU_KEYS);
        ensure!(keys.is_file(), "{} (package ubuntu-keyring) is missing", keys.display());
        let keys = keys.display();
        let line = format!("deb [signed-by={keys}] {UBUNTU}/ubuntu {suite} main universe\n");
        Self::begin(&line, UBUNTU, parent)
    }

    fn begin(sources: &str, mirror: &'static str, parent: &Path) -> Result<Self> {
        ensure!(Path::new(KEYS).is_file(), "{KEYS} (package debian-archive-keyring) is missing");
        // Its own for each process, for two may fetch at once.
        let directory = parent.join(format!(".apt.{}", process::id()));
        let archive = Self { directory, mirror };
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(archive.directory.join(part))
                .with_context(|| archive.directory.display().to_string())?;
        }
        fs::write(archive.directory.join("sources.list"), sources)?;
        // Nothing is installed, whatever the machine has.
        fs::write(archive.directory.join("status"), "")?;
        // Without this a list that cannot be fetched is a warning.
        let update = ["update", "-q", "-o", "APT::Update::Error-Mode=any"];
        said(archive.apt("apt-get").args(update)).with_context(|| {
            format!("the lists of packages cannot be fetched from {mirror} (network?)")
        })?;
        Ok(archive)
    }

    /// The names of packages that match the regular expression.
    pub(crate) fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let mut search = self.apt("apt-cache");
        Ok(names(&said(search.args(["search", "--names-only", pattern]))?))
    }

    /// Unpacks these packages to `root`, all of them or none.
    pub(crate) fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let downloads = self.directory.join("downloads");
        fs::create_dir_all(&downloads)?;
        let mut download = self.apt("apt-get");
        download.args(["download", "-q"]).args(packages).current_dir(&downloads);
        said(&mut download).with_context(|| self.unfetched(&packages.join(", ")))?;
        let unpacked = self.directory.join("root");
        unpack_all(&downloads, &unpacked)?;
        fs::remove_dir_all(&downloads)?;
        put(&unpacked, root)
    }

    /// Unpacks these packages to `root` with all that they need to run there, completed by `finish`.
    pub(crate) fn unpack_whole(
        &self,
        packages: &[&str],
        root: &Path,
        finish: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<()> {
        let mut download = self.apt("apt-get");
        download.args(["install", "-q", "-y", "--download-only", "--no-install-recommends"]);
        said(download.args(packages)).with_context(|| self.unfetched(&packages.join(", ")))?;
        let unpacked = self.directory.join("root");
        for merged in MERGED {
            fs::create_dir_all(unpacked.join("usr").join(merged))?;
            symlink(Path::new("usr").join(merged), unpacked.join(merged))?;
        }
        unpack_all(&self.directory.join("cache/archives"), &unpacked)?;
        finish(&unpacked).with_context(|| unpacked.display().to_string())?;
        put(&unpacked, root)
    }

    fn unfetched(&self, packages: &str) -> String {
        format!("{packages} cannot be fetched from {} (network?)", self.mirror)
    }

    /// A program of apt's that knows these suites, and nothing else.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for (option, place) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.directory.join(place).display()));
        }
        for option in [
            "Dir::Etc::sourceparts=/dev/null",
            "Acquire::Languages=none",
            "Acquire::Retries=2",
            "Acquire::http::Timeout=20",
            // The user that apt fetches with else may not get into this directory.
            "APT::Sandbox::User=",
        ] {
            command.args(["-o", option]);
        }
        command
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        // What is left is in nobody's way.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Unpacks every package in `from`.
fn unpack_all(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg").arg("-x").arg(&package).arg(to))?;
        }
    }
    Ok(())
}

fn put(unpacked: &Path, root: &Path) -> Result<()> {
    match fs::rename(unpacked, root) {
        // Somebody else was faster.
        Err(_) if root.is_dir() => Ok(()),
        result => result.with_context(|| root.display().to_string()),
    }
}

/// What a program of apt's writes; if it fails, the first of its complaints, which the others follow from.
fn said(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().context("apt")?;
    if !output.status.success() {
        bail!("apt: {}", complaint(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first error among lines of which some are warnings.
fn complaint(errors: &str) -> &str {
    let mut lines = errors.lines();
    lines.find_map(|line| line.strip_prefix("E: ")).unwrap_or_else(|| errors.trim())
}

/// The list of sources for these suites.
fn sources(suites: &[Suite]) -> String {
    let line =
        |(place, suite): &Suite| format!("deb [signed-by={KEYS}] {MIRROR}/{place} {suite} main\n");
    suites.iter().map(line).collect()
}

/// `apt-cache search`: lines of `NAME - description`.
fn names(search: &str) -> Vec<String> {
    search
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_before_the_description() {
        let found = "linux-image-6.1.0-56-amd64 - Linux 6.1 for 64-bit PCs (signed)\n\
                     linux-image-6.12-amd64 - Linux for 64-bit PCs (meta-package)\n";
        assert_eq!(names(found), ["linux-image-6.1.0-56-amd64", "linux-image-6.12-amd64"]);
    }

    #[test]
    fn of_what_apt_complains_of_the_first_error_is_told() {
        let errors = "W: one list is old\nE: Failed to fetch it\nE: Some failed to download.\n";
        assert_eq!(complaint(errors), "Failed to fetch it");
        assert_eq!(complaint("no such program\n"), "no such program");
    }

    #[test]
    fn each_suite_has_its_line() {
        let lines = sources(&[("debian-security", "bullseye-security"), ("debian", "sid")]);
        let places: Vec<_> = lines.lines().filter_map(|line| line.split_once("] ")).collect();
        assert_eq!(
            places.iter().map(|(_, place)| *place).collect::<Vec<_>>(),
            [
                "http://deb.debian.org/debian-security bullseye-security main",
                "http://deb.debian.org/debian sid main"
            ]
        );
    }
}
