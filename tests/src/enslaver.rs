//! Who takes the NIC: the replay of Kube-OVN's sequences, or Kube-OVN's own daemon.

use std::fmt;
use std::fs;
use std::io::{PipeWriter, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::datapath::Ovs;
use crate::lab::Host;
use crate::netns::Netns;
use crate::process::{Daemon, LogLine, Program};
use crate::sequence::{Replay, Sequence, Step, StepKind, StepTime};

/// Who takes the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enslaver {
    /// The lab itself, step by step as Kube-OVN does.
    Replay,
    /// Kube-OVN's own daemon.
    KubeOvn,
}

impl fmt::Display for Enslaver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Replay => "replay",
            Self::KubeOvn => "kube-ovn",
        })
    }
}

/// Open vSwitch's directory, which Kube-OVN cannot be told to look for elsewhere.
const RUNDIR: &str = "/run/openvswitch";
/// The tools of Open vSwitch that it runs.
const TOOLS: [&str; 2] = ["ovs-vsctl", "ovs-ofctl"];
/// How the program's own lines begin.
const TELLS: &str = "kube-ovn-node: ";
/// How long a sequence may take, with attempts that fail.
const PATIENCE: Duration = Duration::from_mins(1);

/// Kube-OVN's daemon on a node, without a cluster: `tests/kube-ovn` says how.
#[derive(Debug)]
pub struct KubeOvn {
    /// None: it was killed.
    running: Option<Running>,
    launch: Launch,
}

/// One life of it.
#[derive(Debug)]
struct Running {
    daemon: Daemon,
    commands: PipeWriter,
}

/// How it is started, and started again.
#[derive(Debug)]
struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    path: String,
    namespace: Arc<Netns>,
    dir: PathBuf,
    token: String,
    epoch: Instant,
}

impl Launch {
    fn start(&self) -> Result<Running> {
        let (reader, commands) = std::io::pipe().context("pipe")?;
        let daemon = Program::new("kube-ovn-node", &self.program, &self.token)
            .args(&self.arguments)
            .env("PATH", &self.path)
            .env("OVS_RUNDIR", RUNDIR)
            .reading(reader)
            .inside(&self.namespace)
            .start(&self.dir.join("kube-ovn.log"), self.epoch)?;
        Ok(Running { daemon, commands })
    }

    /// In this file are words of the call of a tool in which the daemon is to be killed.
    fn stop_before(&self) -> PathBuf {
        self.dir.join("tools/stop-before")
    }

    /// This one is there once that call was made.
    fn stopped(&self) -> PathBuf {
        self.dir.join("tools/stopped")
    }
}

impl KubeOvn {
    /// Start it on a node whose Open vSwitch runs, with what Kube-OVN has there by then: the bridge of the
    /// pods and the node's own interface to them.
    ///
    /// # Errors
    /// When it does not get as far as its workers.
    pub async fn start(
        program: &Path,
        host: &Host,
        address: Option<IpAddr>,
        ovs: &Ovs,
        dir: &Path,
        token: &str,
        epoch: Instant,
    ) -> Result<Self> {
        fs::create_dir_all(RUNDIR).with_context(|| RUNDIR.to_owned())?;
        Program::new("mount", "mount", token)
            .arg("--bind")
            .arg(dir)
            .arg(RUNDIR)
            .inside(&host.namespace)
            .succeed(Duration::from_secs(10))
            .await?;
        ovs.vsctl(&["add-br", "br-int", "--", "set", "bridge", "br-int", "fail_mode=secure"])
            .await?;
        ovs.ensure_handlers()?;
        host.shell(
            "modprobe dummy\nip link add ovn0 type dummy\n\
             ip address add 100.64.0.2/16 dev ovn0\nip link set ovn0 up",
        )?;
        let address = address.map(|own| own.to_string()).unwrap_or_default();
        let arguments = [
            ["-v=4", "-gateway=100.64.0.1"].map(str::to_owned).to_vec(),
            vec![format!("-node={}", host.name), format!("-address={address}")],
            vec!["-pods=10.16.0.0/16".to_owned()],
        ];
        let launch = Launch {
            program: program.to_owned(),
            arguments: arguments.concat(),
            path: tools(dir)?,
            namespace: Arc::clone(&host.namespace),
            dir: dir.to_owned(),
            token: token.to_owned(),
            epoch,
        };
        let running = launch.start()?;
        let this = Self { running: Some(running), launch };
        this.order("start")?;
        this.told(0, "started").await?;
        Ok(this)
    }

    /// Give it a command and wait until it has told the end of that.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn does(&self, command: &str, end: &str) -> Result<()> {
        let from = self.lines().len();
        self.order(command)?;
        self.told(from, end).await
    }

    /// Give it a command, and kill it with the tool that it then calls with these words, before that has done
    /// anything.
    ///
    /// # Errors
    /// When it makes no such call.
    pub async fn dies_in(&mut self, command: &str, words: &str) -> Result<()> {
        let (stop, stopped) = (self.launch.stop_before(), self.launch.stopped());
        fs::write(&stop, words).with_context(|| stop.display().to_string())?;
        self.order(command)?;
        clock::until(&format!("a call with {words:?}"), PATIENCE, async || {
            Ok(stopped.exists().then_some(()))
        })
        .await?;
        self.running = None;
        for file in [stop, stopped] {
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Start it again, with these commands before it looks at anything, and wait until it has told this.
    ///
    /// # Errors
    /// When it does not.
    pub async fn returns(&mut self, commands: &[&str], end: &str) -> Result<()> {
        self.running = Some(self.launch.start()?);
        for command in commands {
            self.order(command)?;
        }
        self.order("start")?;
        self.told(0, end).await
    }

    fn lines(&self) -> Vec<LogLine> {
        self.running.as_ref().map(|running| running.daemon.lines()).unwrap_or_default()
    }

    /// Have it do this to the NIC, however often it begins anew.
    pub async fn run(&self, sequence: Sequence, nic: &str, bridge: &str) -> Replay {
        let from = self.lines().len();
        let started = clock::now();
        let outcome = self.play(sequence, nic, bridge).await;
        let ended = clock::now();
        let lines = self.lines().split_off(from);
        let retries = lines.iter().filter_map(|line| line.text.strip_prefix(TELLS));
        let retries = retries.filter_map(|told| told.strip_prefix("retry "));
        Replay {
            started,
            ended,
            steps: lines.iter().filter_map(step).collect(),
            retries: retries.map(str::to_owned).collect(),
            outcome,
        }
    }

    async fn play(&self, sequence: Sequence, nic: &str, bridge: &str) -> Result<()> {
        let network = bridge.strip_prefix("br-").context("a bridge that is not Kube-OVN's")?;
        let (order, end) = words(sequence, network, nic);
        self.does(&order, &end).await
    }

    fn order(&self, command: &str) -> Result<()> {
        let running = self.running.as_ref().context("Kube-OVN's daemon does not run")?;
        writeln!(&running.commands, "{command}").context("Kube-OVN's daemon takes no commands")
    }

    /// Wait until it has told this, in a line after the first `from`.
    async fn told(&self, from: usize, what: &str) -> Result<()> {
        let line = format!("{TELLS}{what}");
        clock::until(&line, PATIENCE, async || {
            Ok(self.lines().iter().skip(from).any(|told| told.text == line).then_some(()))
        })
        .await
    }
}

/// The command for a sequence, and what it tells at the end.
#[must_use]
pub fn words(sequence: Sequence, network: &str, nic: &str) -> (String, String) {
    let (create, delete) = (format!("create {network} {nic}"), format!("delete {network}"));
    let (ready, deleted) = (format!("ready {network} {nic}"), format!("deleted {network}"));
    match sequence {
        Sequence::Bind => (create, ready),
        Sequence::Exchange => (format!("{create} exchange"), ready),
        Sequence::Unbind | Sequence::Unexchange => (delete, deleted),
    }
}

/// The search path of the daemon, with a directory before all others. It reads what a tool writes to
/// standard error as if it was its output: on a slow machine, where the tools warn of it, a warning
/// would become a bridge's name. And it looks for iptables to learn which kind that is, no more.
fn tools(dir: &Path) -> Result<String> {
    let own = dir.join("tools");
    fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
    let path = std::env::var("PATH").context("no PATH")?;
    for tool in TOOLS {
        let mut places = std::env::split_paths(&path).map(|directory| directory.join(tool));
        let Some(program) = places.find(|program| program.is_file()) else {
            bail!("{tool} is not installed")
        };
        let text = format!(
            "#!/bin/sh\n\
             if [ -e {0}/stop-before ] && echo \"$*\" | grep -qFf {0}/stop-before; then\n\
             : > {0}/stopped\nexec sleep 600\nfi\n\
             exec {1} -vconsole:off \"$@\"\n",
            own.display(),
            program.display()
        );
        executable(&own.join(tool), &text)?;
    }
    executable(&own.join("iptables-legacy"), "#!/bin/sh\nexit 1\n")?;
    symlink("iptables-legacy", own.join("iptables")).context("iptables")?;
    Ok(format!("{}:{path}", own.display()))
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| path.display().to_string())
}

/// A call of `ovs-vsctl`, which the daemon's log has once it is done:
/// `I1129 20:41:57.120000 77 ovs-vsctl.go:80] command ovs-vsctl --timeout=30 list-br in 45ms`.
fn step(line: &LogLine) -> Option<StepTime> {
    let (_, call) = line.text.split_once("] command ovs-vsctl ")?;
    let (call, took) = call.strip_suffix("ms")?.rsplit_once(" in ")?;
    let took = Duration::from_millis(took.parse().ok()?);
    let call = call.strip_prefix("--timeout=30 ").unwrap_or(call);
    Some(StepTime {
        step: Step { kind: StepKind::Tool, name: format!("ovs-vsctl {call}") },
        began: line.at.checked_sub(took)?,
        done: line.at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { at: clock::now(), text: text.to_owned() }
    }

    #[test]
    fn a_call_of_ovs_vsctl_is_a_step() {
        let done = line(
            "I1129 20:41:57.1 7 ovs-vsctl.go:80] command ovs-vsctl --timeout=30 list-br in 45ms",
        );
        let step = step(&done).unwrap();
        assert_eq!(step.step.name, "ovs-vsctl list-br");
        assert_eq!(step.done - step.began, Duration::from_millis(45));
    }

    #[test]
    fn a_call_that_waits_or_fails_is_none() {
        let waiting = "I1129 20:41:57.1 7 ovs-vsctl.go:70] command ovs-vsctl del-br br0 waiting for execution concurrency 1/100";
        assert!(step(&line(waiting)).is_none());
        assert!(step(&line("kube-ovn-node: ready provider ens192")).is_none());
    }
}
