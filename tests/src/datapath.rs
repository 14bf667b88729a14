//! What takes the NIC: a Linux bridge, or Open vSwitch with its own daemons in
//! the node's namespace.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;

use crate::clock;
use crate::config::DatapathKind;
use crate::lab::Host;
use crate::netns::Netns;
use crate::process::{Daemon, Program};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A datapath on a node.
#[derive(Debug)]
pub enum Datapath {
    /// The kernel's own bridge needs no daemon.
    Bridge(Tool),
    /// Open vSwitch.
    Ovs(Box<Ovs>),
}

/// What stands for `ovs-vsctl` where the kernel's own bridge stands for Open
/// vSwitch: a process of that name. Kube-OVN starts one at each step that is not
/// rtnetlink's, so these steps take a process's time here too, some milliseconds.
#[derive(Debug)]
pub struct Tool {
    program: PathBuf,
    token: String,
}

impl Tool {
    fn install(dir: &Path, token: &str) -> Result<Self> {
        let program = dir.join("ovs-vsctl");
        std::fs::copy("/bin/true", &program).context("cannot make a stand-in for ovs-vsctl")?;
        Ok(Self { program, token: token.to_owned() })
    }

    /// Run the process, then make the change that it stands for.
    ///
    /// # Errors
    /// The process's, or the change's.
    pub async fn then(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let tool = Program::new("ovs-vsctl", &self.program, &self.token);
        tool.succeed(Duration::from_secs(10)).await?;
        change()
    }
}

/// Open vSwitch's two daemons and the way to their database.
#[derive(Debug)]
pub struct Ovs {
    switch: Mutex<Option<Daemon>>,
    _database: Daemon,
    dir: PathBuf,
    namespace: Arc<Netns>,
    token: String,
    epoch: Instant,
}

impl Datapath {
    /// Start an `ovs-vsctl` that only looks, as Kube-OVN's daemon does all the time.
    ///
    /// # Errors
    /// The process's.
    pub async fn look(&self) -> Result<()> {
        match self {
            Self::Bridge(tool) => tool.then(|| Ok(())).await,
            Self::Ovs(ovs) => ovs.vsctl(&["list-br"]).await.map(drop),
        }
    }

    /// Read the flows of each bridge and put them in place of themselves, as Kube-OVN's daemon does.
    ///
    /// # Errors
    /// The processes'.
    pub async fn renew_flows(&self) -> Result<()> {
        match self {
            Self::Bridge(_) => Ok(()),
            Self::Ovs(ovs) => ovs.renew_flows().await,
        }
    }
}

/// Whether this kernel can carry that datapath, or why not. Loads the module where there is one.
///
/// # Errors
/// The reason, in words for people.
pub fn available(kind: DatapathKind) -> Result<()> {
    if kind == DatapathKind::Bridge || Path::new("/sys/module/openvswitch").exists() {
        return Ok(());
    }
    let tried = std::process::Command::new("modprobe").arg("openvswitch").output();
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        _ => bail!("this kernel has no Open vSwitch datapath"),
    }
}

impl Datapath {
    /// Start what this kind of datapath needs on `host`.
    ///
    /// # Errors
    /// When the kernel or a program lacks it.
    pub async fn start(
        kind: DatapathKind,
        host: &Host,
        dir: &Path,
        token: &str,
        epoch: Instant,
    ) -> Result<Self> {
        available(kind)?;
        match kind {
            DatapathKind::Bridge => Ok(Self::Bridge(Tool::install(dir, token)?)),
            DatapathKind::Ovs => {
                Ok(Self::Ovs(Box::new(Ovs::start(host, dir, token, epoch).await?)))
            }
        }
    }
}

impl Ovs {
    async fn start(host: &Host, dir: &Path, token: &str, epoch: Instant) -> Result<Self> {
        let database = dir.join("conf.db");
        Program::new("ovsdb-tool", "ovsdb-tool", token)
            .arg("create")
            .arg(&database)
            .arg(SCHEMA)
            .succeed(Duration::from_secs(10))
            .await?;
        let socket = database_socket(dir);
        let server = daemon("ovsdb-server", dir, &host.namespace, token)
            .arg(&database)
            .arg(format!("--remote=punix:{}", socket.display()))
            .arg(format!("--unixctl={}", dir.join("ovsdb.ctl").display()))
            .start(&dir.join("ovsdb-server.log"), epoch)?;
        clock::until("ovsdb-server's socket", Duration::from_secs(5), async || {
            Ok(socket.exists().then_some(()))
        })
        .await?;
        let init = vsctl(&socket, token).args(["--no-wait", "init"]);
        init.succeed(Duration::from_secs(10)).await?;
        let ovs = Self {
            switch: Mutex::new(None),
            _database: server,
            dir: dir.to_owned(),
            namespace: Arc::clone(&host.namespace),
            token: token.to_owned(),
            epoch,
        };
        ovs.start_switch().await?;
        Ok(ovs)
    }

    /// Start `ovs-vswitchd` and wait until it has taken the database's state.
    ///
    /// # Errors
    /// When it cannot be started, does not get that far, or would set up no flows.
    pub async fn start_switch(&self) -> Result<()> {
        let switch = daemon("ovs-vswitchd", &self.dir, &self.namespace, &self.token)
            .arg(format!("unix:{}", database_socket(&self.dir).display()))
            .arg(format!("--unixctl={}", self.control().display()))
            .start(&self.dir.join("ovs-vswitchd.log"), self.epoch)?;
        *self.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(switch);
        // Answers when the switch has.
        self.vsctl(&["set", "open", ".", "external-ids:hostname=node1"]).await?;
        self.ensure_handlers()
    }

    /// Whether the switch sets up flows: in the first seconds of a machine it counts no processors. It says
    /// so with its first bridge.
    ///
    /// # Errors
    /// When it does not.
    pub fn ensure_handlers(&self) -> Result<()> {
        let useless = "n-handler-threads to 0";
        let said = |switch: &Daemon| switch.lines().iter().any(|line| line.text.contains(useless));
        ensure!(
            !self.with_switch(|switch| Ok(said(switch)))?,
            "ovs-vswitchd has no handler thread"
        );
        Ok(())
    }

    /// Have `ovs-vswitchd` end and take the kernel's datapath with it, as the stopping of its
    /// service may.
    ///
    /// # Errors
    /// When it does not run, or does not obey.
    pub async fn clear_switch(&self) -> Result<()> {
        Program::new("ovs-appctl", "ovs-appctl", &self.token)
            .arg(format!("--target={}", self.control().display()))
            .args(["exit", "--cleanup"])
            .succeed(Duration::from_secs(10))
            .await?;
        // A signal would end it before it has cleaned up.
        self.take_switch()?.ended(Duration::from_secs(10)).await.map(drop)
    }

    /// Kill `ovs-vswitchd`. The kernel's datapath stays, with the flows that it has.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill_switch(&self) -> Result<()> {
        self.take_switch()?.kill().await
    }

    /// Have `ovs-vswitchd` stop where it is, or go on. What it is asked meanwhile waits.
    ///
    /// # Errors
    /// When it does not run.
    pub fn hold_switch(&self, held: bool) -> Result<()> {
        let signal = if held { Signal::SIGSTOP } else { Signal::SIGCONT };
        self.with_switch(|switch| switch.signal(signal))
    }

    fn with_switch<T>(&self, work: impl FnOnce(&Daemon) -> Result<T>) -> Result<T> {
        let switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        work(switch.as_ref().context("ovs-vswitchd does not run")?)
    }

    fn take_switch(&self) -> Result<Daemon> {
        let mut switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner);
        switch.take().context("ovs-vswitchd does not run")
    }

    fn control(&self) -> PathBuf {
        self.dir.join("vswitchd.ctl")
    }

    async fn renew_flows(&self) -> Result<()> {
        for bridge in self.vsctl(&["list-br"]).await?.lines() {
            let limit = Duration::from_secs(30);
            let dump = self.ofctl("dump-flows").args(["--no-stats", bridge]);
            let text = dump.succeed(limit).await?;
            // Some flows are less than what a pipe holds.
            let (flows, mut to) = std::io::pipe().context("pipe")?;
            to.write_all(text.as_bytes()).context("flows")?;
            drop(to);
            self.ofctl("replace-flows").args([bridge, "-"]).reading(flows).succeed(limit).await?;
        }
        Ok(())
    }

    fn ofctl(&self, command: &str) -> Program {
        let tool = Program::new("ovs-ofctl", "ovs-ofctl", &self.token).arg(command);
        tool.env("OVS_RUNDIR", &self.dir)
    }

    /// Run one `ovs-vsctl`, which ends when the switch has done what it asked.
    ///
    /// # Errors
    /// Its own words.
    pub async fn vsctl(&self, args: &[&str]) -> Result<String> {
        let tool = vsctl(&database_socket(&self.dir), &self.token).args(args);
        tool.succeed(Duration::from_secs(30)).await
    }
}

fn database_socket(dir: &Path) -> PathBuf {
    dir.join("db.sock")
}

fn daemon(name: &str, dir: &Path, namespace: &Arc<Netns>, token: &str) -> Program {
    Program::new(name, name, token)
        .env("OVS_RUNDIR", dir)
        .env("OVS_LOGDIR", dir)
        .env("OVS_DBDIR", dir)
        .args(["-vfile:off", "-vsyslog:off", "-vconsole:info"])
        .inside(namespace)
}

fn vsctl(socket: &Path, token: &str) -> Program {
    Program::new("ovs-vsctl", "ovs-vsctl", token).arg(format!("--db=unix:{}", socket.display()))
}

/// A hardware address in the notation of the tools.
#[must_use]
pub fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A random, locally administered, unicast hardware address.
///
/// # Errors
/// When the kernel gives no random bytes.
pub fn random_mac() -> Result<[u8; 6]> {
    use std::io::Read;
    let mut mac = [0_u8; 6];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut mac))
        .map_err(|error| anyhow!(error))
        .context("no random bytes")?;
    if let Some(first) = mac.first_mut() {
        *first = (*first & 0xfc) | 0x02;
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(mac_text(&[0x52, 0x54, 0, 0, 0, 1]), "52:54:00:00:00:01");
        assert_eq!(random_mac().unwrap()[0] & 3, 2);
    }
}
