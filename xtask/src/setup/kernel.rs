//! Stock Debian kernels for the virtual machine: downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::debian;
use crate::{shell, workspace};

/// The kernel series the scenarios run on: Debian 12's own.
pub(crate) const DEFAULT: &str = "6.1";

/// A kernel on disk, with its modules.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// Below it are `boot/` and `lib/modules/`.
    pub(crate) root: PathBuf,
}

impl Kernel {
    /// The newest kernel on disk that answers to `wanted`: a series such as `6.1`, or a package's
    /// name.
    pub(crate) fn cached(wanted: &str) -> Option<Self> {
        let entries = fs::read_dir(directory().ok()?).ok()?;
        let names =
            entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
        Self::open(&newest(names, wanted)?).ok()
    }

    /// The same, downloaded if it is not there yet.
    pub(crate) fn get(wanted: &str) -> Result<Self> {
        if let Some(kernel) = Self::cached(wanted) {
            return Ok(kernel);
        }
        let package = resolve(wanted)?;
        println!("setup: downloading {package}");
        let directory = directory()?;
        fs::create_dir_all(&directory)?;
        debian::unpack(&package, &directory.join(&package))?;
        Self::open(&package)
    }

    /// The kernel of this package, and the list of what its modules need.
    fn open(package: &str) -> Result<Self> {
        let root = directory()?.join(package);
        let version = package.strip_prefix("linux-image-").unwrap_or(package).to_owned();
        let modules = root.join("lib/modules").join(&version);
        if !modules.join("modules.dep").is_file() {
            let depmod =
                workspace::program("depmod").context("depmod (package kmod) is missing")?;
            shell::run(Command::new(depmod).arg("-b").arg(&root).arg(&version))?;
        }
        Ok(Self { version, root })
    }

    /// The bootable image.
    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.version))
    }

    /// The directory of its modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.version)
    }
}

fn directory() -> Result<PathBuf> {
    Ok(workspace::cache()?.join("kernels"))
}

/// The newest package apt has for what is wanted.
fn resolve(wanted: &str) -> Result<String> {
    debian::freshen();
    newest(debian::search("^linux-image-.*amd64$")?, wanted)
        .with_context(|| format!("apt knows no stock kernel {wanted}: can its sources be reached?"))
}

/// The newest of these packages that answers to `wanted`.
fn newest(packages: impl IntoIterator<Item = String>, wanted: &str) -> Option<String> {
    packages.into_iter().filter(|package| matches(package, wanted)).max_by_key(|name| order(name))
}

/// A package by its own name, or any plain kernel (not a cloud or real-time one, not a
/// meta-package) of a series.
fn matches(package: &str, wanted: &str) -> bool {
    if package == wanted {
        return true;
    }
    let release = package
        .strip_prefix("linux-image-")
        .and_then(|rest| rest.strip_suffix("-amd64"))
        .and_then(|release| release.strip_prefix(wanted))
        .and_then(|rest| rest.strip_prefix('.'));
    let plain =
        |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) || part.starts_with("deb");
    release.is_some_and(|release| release.split(['.', '-', '+']).all(plain))
}

/// Orders versions by their numbers: 6.1.0-9 before 6.1.0-10.
fn order(package: &str) -> Vec<u64> {
    package.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
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

    const KNOWN: [&str; 8] = [
        "linux-image-6.1.0-9-amd64",
        "linux-image-6.1.0-56-amd64",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-57-rt-amd64",
        "linux-image-6.12-amd64",
        "linux-image-6.12.100+deb12-amd64",
        "linux-image-6.12.99+deb12-amd64",
        "linux-image-6.12.117+deb12-rt-amd64",
    ];

    fn pick(wanted: &str) -> Option<String> {
        newest(KNOWN.map(str::to_owned), wanted)
    }

    #[test]
    fn the_newest_plain_kernel_of_a_series_is_taken() {
        assert_eq!(pick("6.1").as_deref(), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(pick("6.12").as_deref(), Some("linux-image-6.12.100+deb12-amd64"));
        assert_eq!(pick("5.10"), None);
    }

    #[test]
    fn a_package_can_be_named() {
        let name = "linux-image-6.1.0-57-cloud-amd64";
        assert_eq!(pick(name).as_deref(), Some(name));
    }

    #[test]
    fn only_modules_that_are_not_built_in_are_loaded() {
        let said = "insmod /k/net/9p/9pnet.ko \nbuiltin virtio\ninsmod /k/fs/9p/9p.ko cache=none\n";
        assert_eq!(inserted(said), [Path::new("/k/net/9p/9pnet.ko"), Path::new("/k/fs/9p/9p.ko")]);
    }
}
