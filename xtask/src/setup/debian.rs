//! This machine's packages: which are to be had, and installing them quietly.

use std::fs;
use std::process::Command;
use std::sync::Once;

use anyhow::{Context as _, Result, bail};

use crate::{shell, workspace};

/// The steps of an installation, with a policy that lets no package start its daemon.
const INSTALL: &str = include_str!("install.sh");

/// The distribution, as `/etc/os-release` names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    id: String,
    version: String,
    name: String,
}

impl Release {
    /// This machine's.
    pub(crate) fn here() -> Self {
        Self::parse(&fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    /// `os-release(5)`: lines of `KEY=value`, the value quoted or not.
    fn parse(text: &str) -> Self {
        let field = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        Self {
            id: field("ID").unwrap_or_default(),
            version: field("VERSION_ID").unwrap_or_default(),
            name: field("PRETTY_NAME").unwrap_or_else(|| "an unknown distribution".to_owned()),
        }
    }

    /// Why this set-up cannot install packages here, if it cannot.
    pub(crate) fn objection(&self) -> Option<String> {
        if self.id != "debian" || self.version != "12" {
            Some(format!("this set-up knows Debian 12; this is {}", self.name))
        } else if !cfg!(target_arch = "x86_64") {
            Some("this set-up knows Debian's packages for amd64 only".to_owned())
        } else if !workspace::is_root() {
            Some("installing packages needs root".to_owned())
        } else {
            None
        }
    }
}

/// Of these packages the ones apt has no candidate for, as `apt-cache policy` lists them.
fn without_candidate<'a>(policy: &str, packages: &[&'a str]) -> Vec<&'a str> {
    let has_candidate = |package: &str| {
        let lines = policy.lines().skip_while(|line| line.strip_suffix(':') != Some(package));
        lines
            .skip(1)
            .take_while(|line| line.starts_with(' '))
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .is_some_and(|candidate| candidate != "(none)")
    };
    packages.iter().copied().filter(|package| !has_candidate(package)).collect()
}

/// Of these packages the ones that apt does not know.
pub(super) fn unknown<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>> {
    let policy =
        shell::output(Command::new("apt-cache").env("LC_ALL", "C").arg("policy").args(packages))?;
    Ok(without_candidate(&policy, packages))
}

/// Fetches apt's lists anew, once in a run: those of a machine that was set up long ago name packages
/// that the mirror no longer has, and know none of the newer ones. That one of the machine's sources
/// cannot be reached need not matter: what matters is whether the packages are known afterwards.
pub(crate) fn freshen() {
    static FRESH: Once = Once::new();
    FRESH.call_once(|| {
        println!("setup: apt-get update");
        let mut update = Command::new("apt-get");
        let update = update.args(["update", "-q", "-o", "DPkg::Lock::Timeout=300"]);
        if let Err(error) = shell::run(update) {
            println!("setup: {error}; going on with what apt knows");
        }
    });
}

/// Installs packages, or their newest versions; none of them is started, now or at the next boot.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    freshen();
    let unknown = unknown(packages)?;
    if !unknown.is_empty() {
        bail!(
            "apt knows no package {}: can its sources be reached, and are bookworm, \
             bookworm-updates and bookworm-security among them?",
            unknown.join(", ")
        );
    }
    println!("setup: apt-get install {}", packages.join(" "));
    shell::run(Command::new("sh").args(["-c", INSTALL, "install.sh"]).args(packages))
        .context("apt-get could not install what is missing; above is what it says of it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read_with_and_without_quotes() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        let expected = Release {
            id: "debian".to_owned(),
            version: "12".to_owned(),
            name: "Debian GNU/Linux 12 (bookworm)".to_owned(),
        };
        assert_eq!(Release::parse(text), expected);
    }

    #[test]
    fn another_distribution_is_objected_to_by_name() {
        let ubuntu =
            Release::parse("ID=ubuntu\nVERSION_ID=\"24.04\"\nPRETTY_NAME='Ubuntu 24.04'\n");
        assert!(ubuntu.objection().unwrap().contains("Ubuntu 24.04"));
        assert!(Release::parse("").objection().unwrap().contains("unknown"));
        let trixie = Release::parse("ID=debian\nVERSION_ID=13\nPRETTY_NAME=Trixie\n");
        assert!(trixie.objection().unwrap().contains("Trixie"));
    }

    #[test]
    fn a_package_without_candidate_is_unknown() {
        let policy = "\
keepalived:
  Installed: (none)
  Candidate: 1:2.2.7-1+b2
  Version table:
     1:2.2.7-1+b2 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
gone:
  Installed: 1.0
  Candidate: (none)
  Version table:
";
        let packages = ["keepalived", "gone", "never"];
        assert_eq!(without_candidate(policy, &packages), ["gone", "never"]);
    }
}
