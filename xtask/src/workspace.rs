//! Where things are, and who runs this.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The directory of the workspace's `Cargo.toml`.
pub(crate) fn root() -> Result<&'static Path> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().context("the package is the root of the file system")
}

/// Where cargo leaves what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    let root = root()?;
    Ok(env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir)))
}

/// The release binary of this name.
pub(crate) fn release(name: &str) -> Result<PathBuf> {
    Ok(target()?.join("release").join(name))
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo() -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    // What cargo says of this package's build is no matter of the next one's.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    Ok(command)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The program of this name in `PATH` or among the system's own, which an ordinary user's `PATH`
/// leaves out on Debian.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Where downloads are kept between runs and checkouts.
pub(crate) fn cache() -> Result<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    Ok(base.filter(|base| base.is_absolute()).map_or(target()?, |base| base).join("vipshield"))
}
