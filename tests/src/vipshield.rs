//! vipshield as a user has it: a program with a socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::bpf::BpfObjects;
use crate::clock;
use crate::config::ShieldConfig;
use crate::descriptors::{DescriptorLimit, first_free};
use crate::lab::Node;
use crate::netns::Netns;
use crate::process::{Daemon, LogLine, Program};

/// All that it needs: `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_SYS_PTRACE`, `CAP_PERFMON` and `CAP_BPF`
/// (`linux/capability.h`).
const CAPABILITIES: [u8; 5] = [12, 13, 19, 38, 39];

/// Its configuration file, beside its control socket.
const FILE: &str = "vipshield.toml";

/// Where vipshield runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// On its node, as it should.
    Node,
    /// In another network namespace.
    Network(&'a Arc<Netns>),
    /// In the node's network namespace, and alone in a PID namespace of its own.
    Processes,
}

/// Whether nothing that is there waits to be guarded, by what `vipshield status -o json` says. A daemon
/// that has just ended does not count, nor do those of other nodes, and labs, on this machine; and one that only
/// observes guards nothing.
#[must_use]
pub fn is_ready(status: &Value) -> bool {
    let aside = ["waited for", "another network namespace", "it only observes"];
    let gone = |reason: &Value| {
        reason.as_str().is_some_and(|reason| aside.iter().any(|words| reason.contains(words)))
    };
    match status.get("health").and_then(Value::as_str) {
        Some("healthy" | "idle") => true,
        _ => {
            status.get("reasons").and_then(Value::as_array).is_some_and(|all| all.iter().all(gone))
        }
    }
}

/// A running vipshield. Dropping it kills it.
#[derive(Debug)]
pub struct Vipshield {
    daemon: Daemon,
    program: PathBuf,
    socket: PathBuf,
    token: String,
}

impl Vipshield {
    /// Start it in the node's namespace, guarding `nic`; or, with none, as an operator does who
    /// gives it no interface: it guards what keepalived uses and serves metrics where it always
    /// does.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start(
        program: &Path,
        node: &Node,
        nic: Option<&str>,
        how: ShieldConfig,
        token: &str,
        epoch: Instant,
    ) -> Result<Self> {
        Self::start_in(Place::Node, program, node, nic, how, token, epoch)
    }

    /// The same elsewhere than an operator should.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn start_in(
        place: Place<'_>,
        program: &Path,
        node: &Node,
        nic: Option<&str>,
        how: ShieldConfig,
        token: &str,
        epoch: Instant,
    ) -> Result<Self> {
        let name = if how.apart { "vipshield-apart.sock" } else { "vipshield.sock" };
        let socket = node.dir.join(name);
        let (run, namespace) = match place {
            Place::Node => (Program::new("vipshield", program, token), &node.host.namespace),
            Place::Network(namespace) => (Program::new("vipshield", program, token), namespace),
            Place::Processes => {
                let run = Program::new("vipshield", "unshare", token);
                let alone = ["--pid", "--fork", "--kill-child", "--mount-proc"];
                (run.args(alone).arg(program), &node.host.namespace)
            }
        };
        let run = if how.least_privilege { run.limited_to(&CAPABILITIES) } else { run };
        let file = node.dir.join(FILE);
        let run = match how.file {
            Some(text) => {
                std::fs::write(&file, text).with_context(|| file.display().to_string())?;
                run.args(["run", "--metrics", "off", "--config"]).arg(&file).arg("--socket")
            }
            None => run.args(["run", "--socket"]),
        };
        let nic = nic.filter(|_| how.file.is_none());
        let metrics = how.metrics.unwrap_or("off");
        let daemon = run
            .arg(&socket)
            .args(if how.keeps { &[][..] } else { &["--on-stop", "release"] })
            .args(how.observes.then_some("--observe"))
            .args(how.instance.map(|instance| ["--instance", instance]).into_iter().flatten())
            .args(nic.map(|nic| ["--interface", nic, "--metrics", metrics]).into_iter().flatten())
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))
            .inside(namespace)
            .start(&node.dir.join("vipshield.log"), epoch)?;
        Ok(Self { daemon, program: program.to_owned(), socket, token: token.to_owned() })
    }

    /// Its eBPF programs, maps and links.
    ///
    /// # Errors
    /// When it is gone.
    pub fn bpf_objects(&self) -> Result<BpfObjects> {
        BpfObjects::of(self.daemon.pid())
    }

    /// Let no more than `room` new descriptors through at a time, until the limit is dropped.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn limit_descriptors(&self, room: u64) -> Result<DescriptorLimit> {
        // While it looks for daemons it has more than it keeps: the fewest are those.
        let mut free = u64::MAX;
        for _ in 0..20 {
            free = free.min(first_free(self.daemon.pid())?);
            clock::pass(Duration::from_millis(5)).await;
        }
        DescriptorLimit::set(self.daemon.pid(), free.saturating_add(room))
    }

    /// Let no new descriptor through at all: nobody who asks it anything is answered.
    ///
    /// # Errors
    /// When it is gone.
    pub fn no_descriptors(&self) -> Result<DescriptorLimit> {
        DescriptorLimit::set(self.daemon.pid(), 0)
    }

    /// `vipshield cleanup` in the node's namespace.
    ///
    /// # Errors
    /// When it fails.
    pub async fn cleanup(program: &Path, node: &Node, token: &str) -> Result<()> {
        let cleanup = Program::new("vipshield cleanup", program, token).arg("cleanup");
        cleanup.inside(&node.host.namespace).succeed(Duration::from_secs(10)).await.map(|_| ())
    }

    /// What `vipshield events -o json` says.
    ///
    /// # Errors
    /// When it fails or says something else than JSON.
    pub async fn events(&self) -> Result<Value> {
        self.ask("events").await
    }

    /// What `vipshield status -o json` says.
    ///
    /// # Errors
    /// When it fails or says something else than JSON.
    pub async fn status(&self) -> Result<Value> {
        self.ask("status").await
    }

    async fn ask(&self, what: &str) -> Result<Value> {
        let (_, text) = self.said(&[what, "-o", "json"]).await?;
        serde_json::from_str(&text).with_context(|| format!("vipshield {what} is not JSON"))
    }

    /// The exit status of `vipshield status`, and what it says to people.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn status_text(&self) -> Result<(i32, String)> {
        self.said(&["status"]).await
    }

    /// The exit status of `vipshield status --answers`, and what it says.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn answers(&self) -> Result<(i32, String)> {
        self.said(&["status", "--answers"]).await
    }

    /// Put another configuration file in the place of its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, text: &str) -> Result<()> {
        let file = self.socket.with_file_name(FILE);
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    }

    /// The exit status of `vipshield reload`, and what it says.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn reload(&self) -> Result<(i32, String)> {
        self.said(&["reload"]).await
    }

    async fn said(&self, what: &[&str]) -> Result<(i32, String)> {
        let name = format!("vipshield {}", what.join(" "));
        let asked = Program::new(&name, &self.program, &self.token).args(what);
        let output = asked.arg("--socket").arg(&self.socket).output(Duration::from_secs(5)).await?;
        let code = output.status.code().with_context(|| format!("{name} was killed"))?;
        Ok((code, String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// Wait until it guards what there is to guard.
    ///
    /// # Errors
    /// When it ends or does not in 10 seconds (stretched).
    pub async fn ready(&mut self) -> Result<()> {
        self.says("get ready", is_ready).await
    }

    /// Wait until it guards a keepalived, as one that started before it does, or a moment ago.
    ///
    /// # Errors
    /// When it ends or does not in 10 seconds (stretched).
    pub async fn guards(&mut self) -> Result<()> {
        let is_guarded = |daemon: &Value| {
            let filters = daemon.get("monitors").and_then(Value::as_array);
            filters.is_some_and(|all| {
                !all.is_empty() && all.iter().all(|filter| filter.as_str() == Some("guard"))
            })
        };
        let guards = |status: &Value| {
            let daemons = status.get("daemons").and_then(Value::as_array);
            daemons.is_some_and(|all| !all.is_empty() && all.iter().all(is_guarded))
        };
        self.says("guard keepalived", guards).await
    }

    async fn says(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let deadline = clock::now() + clock::patience(Duration::from_secs(10));
        loop {
            if self.status().await.is_ok_and(|status| wanted(&status)) {
                return Ok(());
            }
            if !self.daemon.running() {
                bail!("vipshield ended: {}", self.last_words());
            }
            if clock::now() >= deadline {
                bail!("vipshield does not {what}: {}", self.last_words());
            }
            clock::pass(Duration::from_millis(20)).await;
        }
    }

    /// A number out of the counters of its status.
    ///
    /// # Errors
    /// When it does not answer or does not have that counter.
    pub async fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status().await?;
        let counter = status.get("counters").and_then(|counters| counters.get(name));
        counter.and_then(Value::as_u64).with_context(|| format!("no counter {name} in status"))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> nix::unistd::Pid {
        self.daemon.pid()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> Vec<LogLine> {
        self.daemon.lines()
    }

    /// Send it SIGHUP.
    ///
    /// # Errors
    /// When it is gone.
    pub fn hang_up(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGHUP)
    }

    /// Ask it to end with SIGTERM, and leave it at that.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask_to_end(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGTERM)
    }

    /// End it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end in 15 seconds (stretched; it waits 10 s for a move to end) or its exit code
    /// is not 0.
    pub async fn stop(self) -> Result<()> {
        let status = self.daemon.stop(Duration::from_secs(15)).await?;
        if !status.success() {
            bail!("vipshield ended with {status}");
        }
        Ok(())
    }

    /// Wait until another vipshield has taken over from it.
    ///
    /// # Errors
    /// When it does not end in 20 seconds (stretched; it waits 10 s for a move to end) or its exit code
    /// is not 0.
    pub async fn hands_over(self) -> Result<()> {
        let status = self.daemon.ended(Duration::from_secs(20)).await?;
        if !status.success() {
            bail!("vipshield ended with {status}");
        }
        Ok(())
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.daemon.running()
    }

    /// Stop it in its tracks, with SIGSTOP.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<()> {
        kill(self.daemon.pid(), Signal::SIGSTOP).context("SIGSTOP to vipshield")
    }

    /// Let it go on, with SIGCONT.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGCONT)
    }

    /// End it with SIGTERM, and ask how it is. Returns the exit status of that question.
    ///
    /// # Errors
    /// When it does not end in 10 seconds (stretched), or the question cannot be asked.
    pub async fn ended_status(self) -> Result<i32> {
        let Self { daemon, program, socket, token } = self;
        daemon.stop(Duration::from_secs(10)).await?;
        let asked = Program::new("vipshield status", &program, &token).args(["status", "--socket"]);
        let output = asked.arg(&socket).output(Duration::from_secs(5)).await?;
        output.status.code().context("vipshield status was killed")
    }

    /// Kill it with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(self) -> Result<()> {
        self.daemon.kill().await
    }

    fn last_words(&self) -> String {
        let lines = self.daemon.lines();
        let tail = lines.iter().rev().take(5).rev().map(|line| line.text.as_str());
        tail.collect::<Vec<_>>().join(" | ")
    }
}
