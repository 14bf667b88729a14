//! A real keepalived on a node, and what it says about itself.

use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::case;
use crate::clock;
use crate::config::{CHECK, LabConfig};
use crate::lab::Node;
use crate::process::{Daemon, Program, be_punctual};

/// A state change as keepalived's notify FIFO tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When the lab read it.
    pub at: Instant,
    /// The VRRP instance.
    pub instance: String,
    /// `MASTER`, `BACKUP`, `FAULT` or `STOP`.
    pub state: String,
    /// The priority at that time.
    pub priority: u8,
}

/// A running keepalived. Dropping it kills it.
#[derive(Debug)]
pub struct Keepalived {
    daemon: Option<Daemon>,
    notices: Arc<Mutex<Vec<Transition>>>,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    vrrp_pid: std::path::PathBuf,
}

impl Keepalived {
    /// Start it in the foreground with the configuration of the lab.
    ///
    /// # Errors
    /// When the program is missing or its files cannot be written.
    pub fn start(config: &LabConfig, node: &Node, token: &str, epoch: Instant) -> Result<Self> {
        let dir = &node.dir;
        let (fifo, conf) = (dir.join("notify"), dir.join("keepalived.conf"));
        if !fifo.exists() {
            mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).context("cannot make the notify FIFO")?;
        }
        let text = config.keepalived(&node.config, &fifo.display().to_string());
        std::fs::write(&conf, text).with_context(|| format!("cannot write {}", conf.display()))?;
        if let Some(check) = &config.check {
            let file = dir.join(CHECK);
            write(&file, check, true)?;
        }
        for file in config.raw.iter().flat_map(|raw| &raw.files) {
            let text = case::fill(file.text.get_ref(), config, &node.config, dir);
            write(&dir.join(file.name.get_ref()), &text, file.executable)?;
        }

        // Opened for writing too, so that it never ends while keepalived restarts.
        let mut options = File::options();
        options.read(true).write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let pipe = options.open(&fifo).context("notify FIFO")?;
        let (notices, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (kept, stop) = (Arc::clone(&notices), Arc::clone(&over));
        let reader = std::thread::Builder::new()
            .name(format!("notify-{}", node.config.name))
            .spawn(move || {
                if clock::is_brisk() {
                    be_punctual();
                }
                listen(pipe, &kept, &stop);
            })
            .context("cannot start the FIFO's thread")?;
        let mut keepalived = Self {
            daemon: None,
            notices,
            over,
            reader: Some(reader),
            vrrp_pid: dir.join("vrrp.pid"),
        };
        let file = |name: &str| dir.join(name).into_os_string();
        // Without a /dev/log syslog(3) writes to the machine's console, and waits for a serial line. So does
        // the child that cannot execute its script, which makes it last.
        let quiet = config.check.is_none().then_some("--no-syslog");
        let usual = ["-D".to_owned(), "-P".to_owned()];
        let arguments = config.raw.as_ref().map_or(&usual[..], |raw| &raw.arguments);
        let program = Program::new("keepalived", &config.keepalived.program, token)
            .args(["-n", "-l"])
            .args(arguments.iter().map(|it| case::fill(it, config, &node.config, dir)))
            .args(quiet)
            .arg("-f")
            .arg(&conf)
            .args(["-p".into(), file("keepalived.pid"), "-r".into(), file("vrrp.pid")])
            // Of children that are not started it looks at the files as well: two keepalived that start in the
            // same moment take each other for themselves.
            .args(["-c".into(), file("checkers.pid"), "-b".into(), file("bfd.pid")])
            .inside(&node.host.namespace);
        let program = match &config.keepalived.root {
            Some(root) => program.rooted(root)?,
            None => program,
        };
        keepalived.daemon = Some(program.start(&dir.join("keepalived.log"), epoch)?);
        Ok(keepalived)
    }

    /// Every state change it told, the oldest first.
    #[must_use]
    pub fn transitions(&self) -> Vec<Transition> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state of an instance, as far as it told.
    #[must_use]
    pub fn state(&self, instance: &str) -> Option<String> {
        self.last(instance).map(|transition| transition.state)
    }

    /// The last state change of an instance that it told.
    #[must_use]
    pub fn last(&self, instance: &str) -> Option<Transition> {
        // MASTER_RX_LOWER_PRI is told in between, and is no state.
        let is_state = |t: &Transition| !t.state.contains('_');
        let transitions = self.transitions().into_iter();
        transitions.rev().find(|t| t.instance == instance && is_state(t))
    }

    /// Wait until every instance in `instances` says `state`.
    ///
    /// # Errors
    /// When `limit` (stretched) has gone by.
    pub async fn wait_for(&self, instance: &str, state: &str, limit: Duration) -> Result<()> {
        clock::until(&format!("keepalived's {instance} in {state}"), limit, async || {
            Ok(self.state(instance).is_some_and(|now| now == state).then_some(()))
        })
        .await
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> Vec<crate::process::LogLine> {
        self.daemon.as_ref().map(Daemon::lines).unwrap_or_default()
    }

    /// The process that speaks VRRP.
    ///
    /// # Errors
    /// When it has not written its pid file.
    pub fn vrrp_child(&self) -> Result<Pid> {
        let text = std::fs::read_to_string(&self.vrrp_pid).context("keepalived's VRRP pid file")?;
        Ok(Pid::from_raw(text.trim().parse().context("keepalived's VRRP pid file")?))
    }

    /// Its parent process and the one that speaks VRRP: those that run by now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn processes(&self) -> Result<Vec<Pid>> {
        let parent = self.daemon.as_ref().context("keepalived does not run")?.pid();
        Ok([Some(parent), self.vrrp_child().ok()].into_iter().flatten().collect())
    }

    /// Whether it runs: without an interface of the name it is configured for it ends by itself.
    pub fn running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Daemon::running)
    }

    /// Make it read its configuration again.
    ///
    /// # Errors
    /// When it is gone.
    pub fn reload(&self) -> Result<()> {
        match &self.daemon {
            Some(daemon) => daemon.signal(Signal::SIGHUP),
            None => bail!("keepalived does not run"),
        }
    }

    /// End it in an orderly way: it gives its addresses up.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop(Duration::from_secs(10)).await?;
        }
        Ok(())
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        drop(self.daemon.take());
        self.over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn write(file: &Path, text: &str, is_program: bool) -> Result<()> {
    let mode = Permissions::from_mode(if is_program { 0o755 } else { 0o644 });
    std::fs::write(file, text)
        .and_then(|()| std::fs::set_permissions(file, mode))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Read the FIFO until told to stop.
fn listen(mut pipe: File, kept: &Mutex<Vec<Transition>>, over: &AtomicBool) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if !poll(&mut ready, PollTimeout::from(50_u8)).is_ok_and(|count| count > 0) {
            continue;
        }
        let length = match pipe.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let at = clock::now();
        pending.extend_from_slice(buffer.get(..length).unwrap_or_default());
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            if let Some(transition) = parse(&String::from_utf8_lossy(&line), at) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(transition);
            }
        }
    }
}

/// `INSTANCE "VI_1" MASTER 150`, as keepalived.conf(5) has it. Groups are skipped:
/// they only repeat what their instances say.
fn parse(line: &str, at: Instant) -> Option<Transition> {
    let rest = line.trim().strip_prefix("INSTANCE \"")?;
    let (instance, rest) = rest.split_once("\" ")?;
    let (state, priority) = rest.split_once(' ')?;
    Some(Transition {
        at,
        instance: instance.to_owned(),
        state: state.to_owned(),
        priority: priority.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notify_lines() {
        let at = clock::now();
        let parsed = parse("INSTANCE \"VI_1\" MASTER 150\n", at).unwrap();
        assert_eq!((parsed.instance.as_str(), parsed.state.as_str()), ("VI_1", "MASTER"));
        assert_eq!(parsed.priority, 150);
        assert_eq!(parse("GROUP \"VG_1\" MASTER 150\n", at), None);
        assert_eq!(parse("INSTANCE \"VI_1\"\n", at), None);
        assert_eq!(parse("", at), None);
    }
}
