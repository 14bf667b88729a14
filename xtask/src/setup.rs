//! `cargo xtask setup`: what the other commands need, looked for and, on Debian 12 as root,
//! installed.

mod archive;
mod debian;
mod ebpf;
mod go;
pub(crate) mod helm;
pub(crate) mod kernel;
pub(crate) mod kube_ovn;
pub(crate) mod promtool;
pub(crate) mod releases;

use std::process::Command;

use anyhow::{Result, bail};

use self::kernel::Kernel;
use crate::{shell, toolchain, workspace};

/// What a command needs beside cargo itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Compiling, the eBPF programs included.
    Build,
    /// Hosts in network namespaces on the running kernel.
    Lab,
    /// What looks alerts through.
    Lint,
    /// keepalived of other releases, for the lab.
    Releases,
    /// A virtual machine with a stock kernel and Open vSwitch.
    Vm,
}

impl Part {
    /// Everything.
    pub(crate) const ALL: [Self; 5] =
        [Self::Build, Self::Lint, Self::Lab, Self::Releases, Self::Vm];
}

/// A program that a Debian package brings.
struct Program {
    part: Part,
    name: &'static str,
    package: &'static str,
    why: &'static str,
}

const PROGRAMS: [Program; 9] = [
    Program { part: Part::Build, name: "cc", package: "gcc", why: "links what cargo builds" },
    Program {
        part: Part::Lab,
        name: "keepalived",
        package: "keepalived",
        why: "the daemon to guard",
    },
    Program { part: Part::Lab, name: "nft", package: "nftables", why: "a firewall of the lab's" },
    Program { part: Part::Lab, name: "ip", package: "iproute2", why: "to look into the lab" },
    Program {
        part: Part::Vm,
        name: "ovs-vswitchd",
        package: "openvswitch-switch",
        why: "the switch that takes the NIC",
    },
    Program {
        part: Part::Vm,
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        why: "runs a stock kernel",
    },
    Program {
        part: Part::Vm,
        name: "modprobe",
        package: "kmod",
        why: "orders the kernel's modules",
    },
    Program { part: Part::Vm, name: "cpio", package: "cpio", why: "packs the initial root" },
    Program {
        part: Part::Vm,
        name: "busybox",
        package: "busybox-static",
        why: "the only program in the initial root",
    },
];

/// A program that is built of its Go module. Where it cannot be, it is done without.
struct Built {
    name: &'static str,
    why: &'static str,
    is_there: fn() -> bool,
    /// Why it cannot be built here, if it cannot.
    objection: fn() -> Option<String>,
    get: fn() -> Result<()>,
}

const BUILT: [Built; 2] = [
    Built {
        name: "Helm",
        why: "tries the chart out",
        is_there: || helm::cached().is_some(),
        objection: helm::objection,
        get: helm::get,
    },
    Built {
        name: "Kube-OVN's daemon",
        why: "takes the NIC",
        is_there: kube_ovn::is_there,
        objection: kube_ovn::objection,
        get: || kube_ovn::get().map(drop),
    },
];

impl Program {
    fn is_there(&self) -> bool {
        let Some(path) = workspace::program(self.name) else { return false };
        // In the initial root there is no library: a busybox that wants one is of no use.
        self.name != "busybox" || shell::output(Command::new("ldd").arg(path)).is_err()
    }
}

/// One thing looked for.
struct Finding {
    /// What it is.
    name: String,
    /// Where it comes from on Debian; what to do elsewhere.
    source: String,
    /// What it is for.
    why: &'static str,
    there: bool,
}

/// Options of `setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only report what is there and what is missing (then exit 1)
    #[arg(long)]
    check: bool,
}

impl Options {
    /// The command.
    pub(crate) fn run(&self) -> Result<()> {
        let findings = survey(&Part::ALL);
        for finding in &findings {
            let state = if finding.there { "there  " } else { "missing" };
            println!("setup: {state} {} ({})", finding.name, finding.why);
        }
        let is_complete = findings.iter().all(|finding| finding.there);
        let mut to_build = Vec::new();
        for built in BUILT {
            let is_there = (built.is_there)();
            let state = if is_there { "there  " } else { "missing" };
            println!("setup: {state} {} ({})", built.name, built.why);
            if is_there {
                continue;
            }
            match (built.objection)() {
                Some(objection) => println!("setup: {objection}; what needs it is skipped"),
                None => to_build.push(built),
            }
        }
        if is_complete && to_build.is_empty() {
            println!("setup: nothing to do");
            return Ok(());
        }
        if self.check {
            bail!("`cargo xtask setup` installs what is missing");
        }
        if !is_complete {
            install(&Part::ALL, &findings)?;
        }
        to_build.iter().try_for_each(|built| (built.get)())
    }
}

/// Sees to it that these parts are there; says nothing if they are.
pub(crate) fn ensure(parts: &[Part]) -> Result<()> {
    let findings = survey(parts);
    if findings.iter().all(|finding| finding.there) {
        return Ok(());
    }
    install(parts, &findings)
}

/// Whether this set-up can install packages here.
pub(crate) fn can_install() -> bool {
    debian::Release::here().objection().is_none()
}

/// What is missing of this part, in a few words. `None` if it is complete.
pub(crate) fn missing(part: Part) -> Option<String> {
    let missing: Vec<_> = survey(&[part])
        .into_iter()
        .filter(|finding| !finding.there)
        .map(|finding| finding.name)
        .collect();
    (!missing.is_empty()).then(|| format!("{} missing", missing.join(", ")))
}

fn survey(parts: &[Part]) -> Vec<Finding> {
    let mut findings: Vec<_> = PROGRAMS
        .iter()
        .filter(|program| parts.contains(&program.part))
        .map(|program| Finding {
            name: program.name.to_owned(),
            source: format!("Debian package {}", program.package),
            why: program.why,
            there: program.is_there(),
        })
        .collect();
    if parts.contains(&Part::Build) {
        let found = toolchain::find();
        let name = found.as_ref().map_or_else(
            |_| "bpf-linker and a Rust compiler with the source of core".to_owned(),
            |compiler| format!("bpf-linker and {compiler}"),
        );
        findings.push(Finding {
            name,
            source: "rustup toolchain install nightly --component rust-src; \
                     cargo install bpf-linker, with the LLVM that nightly has"
                .to_owned(),
            why: "compiles the eBPF programs",
            there: found.is_ok(),
        });
    }
    if parts.contains(&Part::Lint) {
        findings.push(Finding {
            name: "Prometheus and promtool".to_owned(),
            source: "Debian package prometheus, unpacked".to_owned(),
            why: "tries alerts out",
            there: promtool::cached().is_some() && promtool::server().is_some(),
        });
    }
    if parts.contains(&Part::Releases) {
        let missing = releases::missing();
        findings.push(Finding {
            name: format!("keepalived {}", missing.as_deref().unwrap_or("of other releases")),
            source: format!(
                "Debian's and Ubuntu's packages, unpacked below {}",
                releases::directory().unwrap_or_default().display()
            ),
            why: "is guarded in the lab too",
            there: missing.is_none(),
        });
    }
    if parts.contains(&Part::Vm) {
        let kernel = Kernel::cached(kernel::DEFAULT);
        findings.push(Finding {
            name: match &kernel {
                Some(kernel) => format!("kernel {}", kernel.version),
                None => format!("kernel {}", kernel::DEFAULT),
            },
            source: format!(
                "Debian package linux-image-{}.*-amd64, unpacked to linux-image-* below {}",
                kernel::DEFAULT,
                workspace::cache().unwrap_or_default().join("kernels").display()
            ),
            why: "boots in the virtual machine",
            there: kernel.is_some(),
        });
    }
    findings
}

/// Installs what is missing of these parts, or lists it where that cannot be done.
fn install(parts: &[Part], findings: &[Finding]) -> Result<()> {
    if let Some(objection) = debian::Release::here().objection() {
        println!("setup: to install by hand:");
        for finding in findings.iter().filter(|finding| !finding.there) {
            println!("  {}: {} ({})", finding.name, finding.source, finding.why);
        }
        bail!("nothing was installed: {objection}");
    }
    let packages: Vec<_> = PROGRAMS
        .iter()
        .filter(|program| parts.contains(&program.part) && !program.is_there())
        .map(|program| program.package)
        .collect();
    debian::install(&packages)?;
    if parts.contains(&Part::Build) {
        ebpf::install()?;
    }
    if parts.contains(&Part::Lint) {
        promtool::get()?;
    }
    if parts.contains(&Part::Releases) {
        releases::get()?;
    }
    if parts.contains(&Part::Vm) {
        Kernel::get(kernel::DEFAULT)?;
    }
    let left: Vec<_> =
        survey(parts).into_iter().filter(|left| !left.there).map(|left| left.name).collect();
    if !left.is_empty() {
        bail!("installed, and yet not to be found: {}", left.join(", "));
    }
    println!("setup: done");
    Ok(())
}
