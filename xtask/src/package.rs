//! `cargo xtask package`: the Debian package.
//!
//! The binary is static, so that one package fits every release of Debian and Ubuntu.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};

use crate::{build, sbom, shell, statically, workspace};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// `dpkg-deb` takes no other time into the archive (`dpkg-deb(1)`).
const EPOCH: &str = "0";

/// What is copied as it is, and its mode: from the repository, to the package.
const COPIED: [(&str, &str, u32); 7] = [
    ("packaging/vipshield.service", "usr/lib/systemd/system/vipshield.service", 0o644),
    ("packaging/debian/default", "etc/default/vipshield", 0o644),
    ("packaging/debian/copyright", "usr/share/doc/vipshield/copyright", 0o644),
    ("README.md", "usr/share/doc/vipshield/README.md", 0o644),
    ("packaging/debian/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/debian/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/debian/postrm", "DEBIAN/postrm", 0o755),
];

/// Shells, and where they look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/vipshield"),
    ("zsh", "usr/share/zsh/vendor-completions/_vipshield"),
    ("fish", "usr/share/fish/vendor_completions.d/vipshield.fish"),
];

/// The command.
pub(crate) fn run() -> Result<()> {
    let binary = statically::build()?;
    let name = format!("vipshield_{VERSION}_amd64");
    let tree = workspace::target()?.join("package").join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())?;
    }
    let bytes = fs::read(&binary).with_context(|| binary.display().to_string())?;
    put(&tree, "usr/bin/vipshield", 0o755, &bytes)?;
    for (from, to, mode) in COPIED {
        let from = workspace::root()?.join(from);
        let bytes = fs::read(&from).with_context(|| from.display().to_string())?;
        put(&tree, to, mode, &bytes)?;
    }
    let changes = fs::read(workspace::root()?.join("CHANGELOG.md")).context("CHANGELOG.md")?;
    put(&tree, "usr/share/doc/vipshield/changelog.gz", 0o644, &compressed(&changes)?)?;
    for (shell, to) in COMPLETIONS {
        let text = shell::output(Command::new(&binary).args(["completions", shell]))?;
        put(&tree, to, 0o644, text.as_bytes())?;
    }
    manual(&binary, &tree)?;
    put(&tree, "DEBIAN/conffiles", 0o644, b"/etc/default/vipshield\n")?;
    let size = size(&tree)?.div_ceil(1024);
    put(&tree, "DEBIAN/control", 0o644, control(size).as_bytes())?;
    // Not `with_extension`: its version has dots.
    let package = tree.with_file_name(format!("{name}.deb"));
    shell::run(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "-Zxz", "--build"])
            .arg(&tree)
            .arg(&package)
            .env("SOURCE_DATE_EPOCH", EPOCH),
    )?;
    println!("package: {}", package.display());
    sbom::write(&package, &bytes)
}

fn control(kib: u64) -> String {
    format!(
        "Package: {}\n\
         Version: {VERSION}\n\
         Architecture: amd64\n\
         Maintainer: The vipshield developers <vipshield@example.invalid>\n\
         Installed-Size: {kib}\n\
         Section: net\n\
         Priority: optional\n\
         Recommends: keepalived\n\
         Description: keeps keepalived's VIP in place while Kube-OVN takes the NIC\n\
         \x20Kube-OVN's Underlay mode takes a node's only NIC, moves its addresses to a bridge,\n\
         \x20and later gives it back. vipshield guards keepalived meanwhile with eBPF filters, so\n\
         \x20that no VRRP transition happens; what turns out to be true is delivered in time.\n",
        build::VIPSHIELD
    )
}

/// The manual's pages, compressed as Debian wants them.
fn manual(binary: &Path, tree: &Path) -> Result<()> {
    let directory = workspace::target()?.join("package").join("man");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    shell::run(Command::new(binary).arg("man").arg(&directory))?;
    for entry in fs::read_dir(&directory)? {
        let entry = entry?;
        let page = fs::read(entry.path())?;
        let to = format!("usr/share/man/man1/{}.gz", entry.file_name().to_string_lossy());
        put(tree, &to, 0o644, &compressed(&page)?)?;
    }
    Ok(())
}

fn put(tree: &Path, to: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let path = tree.join(to);
    let said = || path.display().to_string();
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(said)?;
    }
    fs::write(&path, bytes).with_context(said)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).with_context(said)
}

fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// All files of a directory, in bytes.
fn size(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_there() {
        for (from, _, mode) in COPIED {
            let text = fs::read_to_string(workspace::root().unwrap().join(from)).unwrap();
            assert!(mode == 0o644 || text.starts_with("#!/bin/sh\nset -e\n"), "{from}");
        }
    }

    /// A unit stops in the reverse order, and gets what vipshield needs.
    #[test]
    fn the_unit_stops_after_keepalived_and_has_the_capabilities() {
        let unit =
            fs::read_to_string(workspace::root().unwrap().join("packaging/vipshield.service"))
                .unwrap();
        let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        assert!(value("Before=").split(' ').any(|unit| unit == "keepalived.service"));
        let capabilities = value("CapabilityBoundingSet=");
        for name in ["BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_NICE"] {
            assert!(capabilities.contains(&format!("CAP_{name}")), "{name}");
        }
        assert_eq!(capabilities.split(' ').count(), 6);
    }
}
