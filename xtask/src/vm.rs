//! `cargo xtask vm`: a stock Debian kernel in QEMU, with this machine's file system inside.
//!
//! The guest sees the host's `/` read-only (9p) below an overlay in memory, so it runs the host's
//! keepalived and Open vSwitch and can break nothing. A second, writable share is the directory of
//! the run, by which the command goes in and results, logs and the exit status come out.

mod image;
mod trial;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

pub(crate) use self::trial::{EBPF_TEST, SEQUENCES, run as run_trial, run_programs};
use crate::setup::kernel::{self, Kernel};
use crate::setup::{self, Part, kube_ovn};
use crate::{build, shell, workspace};

/// The guest's first script on the host's file system.
const GUEST: &str = include_str!("vm/guest.sh");
/// Where the guest sees the directory of the run.
const SHARE: &str = "/run/vm";
/// How much slower than on metal a process starts under emulation; the lab stretches its own
/// patience by it, never a measurement.
const SLOW: u32 = 10;
/// Seconds that all scenarios may take: about twice what they do.
pub(crate) const TIME_LIMIT: u64 = 2700;
/// The scenarios in which Kube-OVN's own daemon takes the NIC.
const KUBE_OVN: &str = "kube-ovn-*";
/// Where the guest has that daemon: in memory, for a read of the host's file system takes its time.
const KUBE_OVN_PROGRAM: &str = "/run/kube-ovn-node";
/// Lines of the console that are shown when the guest did not finish.
const LAST_LINES: usize = 40;

/// Options of `vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Scenarios of the lab, by name or pattern [default: all; with --kernel, what is tried on each
    /// kernel: the eBPF programs, then bind, unbind, exchange and unexchange]
    scenarios: Vec<String>,
    #[command(flatten)]
    machine: Machine,
    /// Have Kube-OVN's own daemon of this release take the NIC, on a clock that counts instructions
    /// [default scenarios: those of its own]
    #[arg(long, value_name = "VERSION", value_parser = [kube_ovn::VERSION], conflicts_with = "kernel")]
    kube_ovn: Option<String>,
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the logs of keepalived, Open vSwitch and vipshield in this directory
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Run this shell command in the guest instead of scenarios
    #[arg(long, hide = true, conflicts_with_all = ["scenarios", "json", "logs", "arguments"])]
    exec: Option<String>,
    /// Further arguments for the lab
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// The virtual machine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Machine {
    /// Kernel to boot, by the beginning of its version (5.10, 6.1, 6.12), or the newest in Debian
    /// 13's backports [default: 6.1]
    #[arg(long, value_name = "VERSION|newest")]
    kernel: Option<String>,
    /// Further parameters for the kernel, such as lockdown=integrity
    #[arg(long, value_name = "PARAMETERS", default_value = "")]
    append: String,
    /// Have the guest's clock count its instructions, on one processor: a host that is busy makes a run longer, and
    /// not what happens in it slower
    #[arg(long)]
    counted: bool,
    /// Seconds after which the machine is ended
    #[arg(long, value_name = "SECONDS", default_value_t = TIME_LIMIT)]
    time_limit: u64,
}

impl Options {
    /// The command.
    pub(crate) fn run(&self) -> Result<()> {
        let outcome = if let Some(command) = &self.exec {
            setup::ensure(&[Part::Vm])?;
            self.machine.run(|_| Ok(command.clone()))?
        } else {
            setup::ensure(&[Part::Build, Part::Lab, Part::Vm])?;
            build::release()?;
            let mut lab = LabRun::new("test");
            lab.arguments.extend(["--datapath".to_owned(), "ovs".to_owned()]);
            lab.arguments.extend(self.arguments.iter().chain(&self.scenarios).cloned());
            let mut machine = self.machine.clone();
            if self.kube_ovn.is_some() {
                lab.kube_ovn = Some(kube_ovn::get()?);
                machine.counted = true;
                if self.scenarios.is_empty() {
                    lab.arguments.push(KUBE_OVN.to_owned());
                }
            }
            lab.json.clone_from(&self.json);
            lab.logs.clone_from(&self.logs);
            if self.machine.kernel.is_some() && self.scenarios.is_empty() {
                lab.arguments.extend(SEQUENCES.map(str::to_owned));
                run_trial(&lab, &machine)?
            } else {
                lab.run(&machine)?
            }
        };
        outcome.succeeded()
    }
}

/// What came of a run.
pub(crate) struct Outcome {
    /// What the command wrote, line by line.
    pub(crate) lines: Vec<String>,
    /// The command's exit status, unless the guest did not get that far.
    pub(crate) exit: Result<i32>,
}

impl Outcome {
    /// An error unless the command exited with 0.
    pub(crate) fn succeeded(self) -> Result<()> {
        match self.exit? {
            0 => Ok(()),
            status => bail!("the command in the virtual machine exited with {status}"),
        }
    }
}

/// A command of the lab, to be run in the guest.
pub(crate) struct LabRun {
    verb: &'static str,
    /// Its arguments beside the ones that say where the results go.
    pub(crate) arguments: Vec<String>,
    /// Kube-OVN's own daemon, if it is to be there.
    pub(crate) kube_ovn: Option<PathBuf>,
    /// Where to the results are copied.
    pub(crate) json: Option<PathBuf>,
    /// Where to the logs are copied.
    pub(crate) logs: Option<PathBuf>,
}

impl LabRun {
    /// A run of `vipshield-lab VERB`.
    pub(crate) fn new(verb: &'static str) -> Self {
        Self { verb, arguments: Vec::new(), kube_ovn: None, json: None, logs: None }
    }

    /// Runs it in a machine of its own; results are copied out whatever its status.
    pub(crate) fn run(&self, machine: &Machine) -> Result<Outcome> {
        self.run_after(machine, |_| Ok(String::new()))
    }

    /// The same after shell commands, which `prepare` returns; it is given the directory that the
    /// guest sees as its share. The status is that of the first that fails.
    fn run_after(
        &self,
        machine: &Machine,
        prepare: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<Outcome> {
        let mut run = PathBuf::new();
        let outcome = machine.run(|directory| {
            directory.clone_into(&mut run);
            // Copies: a build on the host must not change what runs in the guest.
            for name in [build::VIPSHIELD, build::LAB] {
                fs::copy(workspace::release(name)?, directory.join(name))?;
            }
            fs::create_dir(directory.join("logs"))?;
            let before = prepare(directory)?;
            let words = self.arguments.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
            let (copy, daemon) =
                self.kube_ovn.as_deref().map(kube_ovn_in_guest).unwrap_or_default();
            Ok(format!(
                "status=0\n{before}{copy}\
                 {SHARE}/{} {} {daemon} --vipshield {SHARE}/{} --json {SHARE}/results.json \
                 --logs {SHARE}/logs {words} || status=$?\nexit $status",
                build::LAB,
                self.verb,
                build::VIPSHIELD,
            ))
        })?;
        for name in [build::VIPSHIELD, build::LAB] {
            fs::remove_file(run.join(name))?;
        }
        let results = run.join("results.json");
        if let Some(json) = &self.json
            && results.exists()
        {
            fs::copy(&results, json).with_context(|| json.display().to_string())?;
        }
        if let Some(logs) = &self.logs {
            copy_tree(&run.join("logs"), logs)?;
        }
        Ok(outcome)
    }
}

impl Machine {
    /// A machine with Debian 12's own kernel.
    pub(crate) fn new(time_limit: u64) -> Self {
        Self { kernel: None, append: String::new(), counted: false, time_limit }
    }

    /// The same with a clock that counts instructions.
    pub(crate) fn counted(time_limit: u64) -> Self {
        Self { counted: true, ..Self::new(time_limit) }
    }

    /// The same with another kernel.
    pub(crate) fn with_kernel(kernel: &str, time_limit: u64) -> Self {
        Self { kernel: Some(kernel.to_owned()), ..Self::counted(time_limit) }
    }

    /// Boots the machine and runs the shell command that `prepare` returns; `prepare` is given the
    /// directory that the guest sees as its share.
    fn run(&self, prepare: impl FnOnce(&Path) -> Result<String>) -> Result<Outcome> {
        let kernel = Kernel::get(self.kernel.as_deref().unwrap_or(kernel::DEFAULT))?;
        let directory = new_run(&workspace::target()?.join("vm"))?;
        let command = prepare(&directory)?;
        let root = quote(&workspace::root()?.to_string_lossy());
        let counted = u8::from(self.counted);
        let command = format!(
            "cd {root}\nexport VIPSHIELD_LAB_SLOW={SLOW} VIPSHIELD_LAB_COUNTED={counted} RUST_BACKTRACE=1\n{command}\n"
        );
        fs::write(directory.join("command.sh"), command)?;
        fs::write(directory.join("guest.sh"), GUEST)?;
        let initial = directory.join("initial-root");
        let packed = directory.join("initial-root.cpio");
        image::pack(&kernel, &initial, &packed)?;
        let console = directory.join("console.log");
        println!("vm: kernel {}, {}", kernel.version, directory.display());
        let watched = shell::watch(
            &mut self.qemu(&kernel, &packed, &console, &directory),
            Some(Duration::from_secs(self.time_limit)),
        )?;
        fs::remove_dir_all(&initial)?;
        fs::remove_file(&packed)?;
        let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
        let exit = status.trim().parse().map_err(|_| {
            show_last_lines(&console);
            if watched.timed_out {
                anyhow!("the virtual machine was ended after {} s", self.time_limit)
            } else {
                anyhow!("the virtual machine ended before the command did")
            }
        });
        Ok(Outcome { lines: watched.lines, exit })
    }

    fn qemu(&self, kernel: &Kernel, initial: &Path, console: &Path, share: &Path) -> Command {
        // Ends with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        // Emulation: slow, but the same on every machine, and inside other virtual machines too.
        command.args(if self.counted {
            // An instruction takes 2 ns.
            &["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on", "-smp", "1"][..]
        } else {
            &["-accel", "tcg,thread=multi", "-smp", "2"]
        });
        command.args(["-cpu", "max", "-m", "3072"]);
        command.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initial);
        let parameters = format!("console=ttyS0 panic=-1 mitigations=off {}", self.append);
        command.args(["-append", parameters.trim_end()]);
        command.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
        command.arg("-serial").arg(option("file:", console, ""));
        command.args(["-device", "virtio-serial-pci", "-chardev", "stdio,id=out,signal=off"]);
        command.args(["-device", "virtconsole,chardev=out"]);
        let root = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap";
        command.args(["-virtfs", root]);
        let run = ",mount_tag=run,security_model=none,multidevs=remap";
        command.arg("-virtfs").arg(option("local,path=", share, run));
        command
    }
}

/// What has the daemon where the guest runs it, and what tells the lab of it.
fn kube_ovn_in_guest(program: &Path) -> (String, String) {
    let program = quote(&program.to_string_lossy());
    (format!("cp {program} {KUBE_OVN_PROGRAM}\n"), format!("--kube-ovn {KUBE_OVN_PROGRAM}"))
}

/// A path among QEMU's options, where a comma is written twice.
fn option(before: &str, path: &Path, after: &str) -> String {
    format!("{before}{}{after}", path.to_string_lossy().replace(',', ",,"))
}

/// A directory of its own for each run, also when two start at once.
fn new_run(parent: &Path) -> Result<PathBuf> {
    fs::create_dir_all(parent)?;
    for number in 1_u32.. {
        let directory = parent.join(number.to_string());
        match fs::create_dir(&directory) {
            Ok(()) => return Ok(directory),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| directory.display().to_string()),
        }
    }
    bail!("no name is left in {}", parent.display())
}

fn show_last_lines(console: &Path) {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    println!("vm: the last lines of {}:", console.display());
    for line in lines.iter().skip(lines.len().saturating_sub(LAST_LINES)) {
        println!("  {}", line.trim_end());
    }
}

/// The word for a shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let copy = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &copy)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &copy).with_context(|| copy.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_unchanged() {
        assert_eq!(quote("bind/*"), "'bind/*'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_comma_in_a_path_is_no_separator() {
        assert_eq!(option("file:", Path::new("/a,b/c"), ",x=y"), "file:/a,,b/c,x=y");
    }
}
