//! Stock Debian kernels for the virtual machine: fetched and unpacked, never installed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::archive::{Archive, Suite};
use crate::{shell, workspace};

/// The kernel series the scenarios run on: Debian 12's own.
pub(crate) const DEFAULT: &str = "6.1";

/// The newest kernel that Debian's stable release can be had with.
pub(crate) const NEWEST: &str = "newest";

/// Debian 11 has 5.10, Debian 12 6.1 and 6.12, Debian 13's backports the newest.
const SUITES: [Suite; 3] = [
    ("debian-security", "bullseye-security"),
    ("debian-security", "bookworm-security"),
    ("debian", "trixie-backports"),
];

/// What comes before a kernel's version in the name of a package of it. The first names the directory that
/// it is unpacked to; from 6.19 on that package is empty, and the others have the files.
const PARTS: [&str; 4] = ["linux-image-", "linux-base-", "linux-binary-", "linux-modules-"];

/// A kernel on disk, with its modules.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// Its modules are in `lib/modules/` below it.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// The newest kernel on disk that answers to `wanted`: the beginning of a version, such as `6.1`,
    /// or [`NEWEST`], which is the one that was so when the mirror was last asked.
    pub(crate) fn cached(wanted: &str) -> Option<Self> {
        let directory = directory().ok()?;
        if wanted == NEWEST {
            return Self::open(fs::read_to_string(directory.join(NEWEST)).ok()?.trim()).ok();
        }
        let entries = fs::read_dir(directory).ok()?;
        let names =
            entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        Self::open(&newest(names, wanted)?).ok()
    }

    /// The same, fetched if it is not there yet. Which one is the newest the mirror is asked each time.
    pub(crate) fn get(wanted: &str) -> Result<Self> {
        match Self::cached(wanted) {
            Some(kernel) if wanted != NEWEST => Ok(kernel),
            Some(kernel) => Self::fetch(wanted).or_else(|error| {
                println!("setup: {error:#}; going on with kernel {}", kernel.version);
                Ok(kernel)
            }),
            None => Self::fetch(wanted).with_context(|| format!("kernel {wanted}")),
        }
    }

    /// The newest kernel that Debian has for what is wanted.
    fn fetch(wanted: &str) -> Result<Self> {
        let directory = directory()?;
        fs::create_dir_all(&directory)?;
        let archive = Archive::open(&SUITES, &directory)?;
        let known = archive.search("^linux-(image|base|binary|modules)-[0-9].*-amd64$")?;
        let version = newest(known.iter().cloned(), wanted).with_context(|| {
            let suites = SUITES.map(|(_, suite)| suite).join(", ");
            format!("there is none in Debian's {suites}")
        })?;
        let root = root(&version)?;
        if !root.is_dir() {
            let packages: Vec<_> = PARTS
                .map(|part| format!("{part}{version}"))
                .into_iter()
                .filter(|package| known.contains(package))
                .collect();
            println!("setup: downloading {}", packages.join(", "));
            archive.unpack(&packages, &root)?;
        }
        if wanted == NEWEST {
            fs::write(directory.join(NEWEST), &version)?;
        }
        Self::open(&version)
    }

    /// The kernel of this version, and the list of what its modules need.
    fn open(version: &str) -> Result<Self> {
        let kernel = Self { version: version.to_owned(), root: root(version)? };
        ensure!(kernel.root.is_dir(), "there is no {}", kernel.root.display());
        // In newer packages everything is below `usr`; whoever looks for modules looks here.
        if kernel.root.join("usr/lib/modules").is_dir()
            && let Err(error) = symlink("usr/lib", kernel.root.join("lib"))
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error).with_context(|| kernel.root.display().to_string());
        }
        if !kernel.modules().join("modules.dep").is_file() {
            let depmod =
                workspace::program("depmod").context("depmod (package kmod) is missing")?;
            shell::run(Command::new(depmod).arg("-b").arg(&kernel.root).arg(version))?;
        }
        Ok(kernel)
    }

    /// The bootable image: among the modules in newer packages.
    pub(crate) fn image(&self) -> PathBuf {
        let image = self.root.join("boot").join(format!("vmlinuz-{}", self.version));
        if image.is_file() { image } else { self.modules().join("vmlinuz") }
    }

    /// The directory of its modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.version)
    }
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("kernels"))
}

fn root(version: &str) -> Result<PathBuf> {
    Ok(directory()?.join(format!("{}{version}", PARTS[0])))
}

/// The version of the newest of these packages that answers to `wanted`.
fn newest(packages: impl IntoIterator<Item = String>, wanted: &str) -> Option<String> {
    packages
        .into_iter()
        .filter_map(|package| package.strip_prefix(PARTS[0]).map(str::to_owned))
        .filter(|version| answers(version, wanted))
        .max_by_key(|version| order(version))
}

/// Whether it is the version that is wanted, or a plain kernel (not a cloud or real-time one, not a
/// meta-package) of the versions that begin so.
fn answers(version: &str, wanted: &str) -> bool {
    if version == wanted {
        return true;
    }
    let Some(release) = version.strip_suffix("-amd64") else { return false };
    let of_series =
        release.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(['.', '-', '+']));
    let plain =
        |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) || part.starts_with("deb");
    // A meta-package has the series alone for a version.
    let parts: Vec<_> = release.split(['.', '-', '+']).collect();
    (wanted == NEWEST || of_series) && parts.len() > 2 && parts.into_iter().all(plain)
}

/// Orders versions by their numbers: 6.1.0-9 before 6.1.0-10.
fn order(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The modules to load, in order, so that `module` works: what `modprobe --show-depends` says.
pub(crate) fn dependencies(kernel: &Kernel, module: &str) -> Result<Vec<PathBuf>> {
    let modprobe = workspace::program("modprobe").context("modprobe (package kmod) is missing")?;
    let said = shell::output(Command::new(modprobe).arg("-d").arg(&kernel.root).args([
        "-S",
        &kernel.version,
        "--show-depends",
        module,
    ]))?;
    Ok(inserted(&said))
}

/// Lines of `insmod PATH [OPTION ...]`, or `builtin NAME` where there is nothing to load.
fn inserted(said: &str) -> Vec<PathBuf> {
    said.lines()
        .filter_map(|line| line.strip_prefix("insmod "))
        .filter_map(|rest| rest.split_whitespace().next())
        .map(|path| Path::new(path).to_path_buf())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 12] = [
        "linux-image-5.10.0-46-amd64-unsigned",
        "linux-image-5.10.0-46-amd64",
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-57-rt-amd64",
        "linux-image-6.12-amd64",
        "linux-image-6.12.100+deb12-amd64",
        "linux-image-6.12.99+deb12-amd64",
        "linux-image-6.12.117+deb12-rt-amd64",
        "linux-image-7.3.4+deb13-amd64",
        "linux-modules-7.3.5+deb13-amd64",
    ];

    fn pick(wanted: &str) -> Option<String> {
        newest(KNOWN.map(str::to_owned), wanted)
    }

    #[test]
    fn the_newest_plain_kernel_of_a_series_is_taken() {
        assert_eq!(pick("6.1").as_deref(), Some("6.1.0-56-amd64"));
        assert_eq!(pick("6.12").as_deref(), Some("6.12.100+deb12-amd64"));
        assert_eq!(pick("6.12.99").as_deref(), Some("6.12.99+deb12-amd64"));
        assert_eq!(pick("5.10").as_deref(), Some("5.10.0-46-amd64"));
        assert_eq!(pick("5.1"), None);
    }

    #[test]
    fn the_newest_of_all_is_one_that_can_be_booted() {
        assert_eq!(pick(NEWEST).as_deref(), Some("7.3.4+deb13-amd64"));
    }

    #[test]
    fn a_kernel_can_be_named() {
        let name = "6.1.0-57-cloud-amd64";
        assert_eq!(pick(name).as_deref(), Some(name));
    }

    #[test]
    fn only_modules_that_are_not_built_in_are_loaded() {
        let said = "insmod /k/net/9p/9pnet.ko \nbuiltin virtio\ninsmod /k/fs/9p/9p.ko cache=none\n";
        assert_eq!(inserted(said), [Path::new("/k/net/9p/9pnet.ko"), Path::new("/k/fs/9p/9p.ko")]);
    }
}
