//! Daemons under test: started inside a namespace, ended with the lab.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, chdir, chroot, getppid, setpgid};
use tokio::process::{Child, Command};

use crate::clock;
use crate::netns::Netns;
use crate::rundir::MARK;

/// The niceness of the lab's own threads: it replays calls that take a tenth of
/// a millisecond and keeps time, on a machine that may have little to spare.
const NICE: i32 = -10;

/// What a program in a root of its own shares with the lab: processes, devices, its network, its files.
const SHARED: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];
const NOTHING: Option<&CStr> = None;
/// No process has more files open unless it asks for that (getrlimit(2), `RLIMIT_NOFILE`).
const FILES: libc::c_int = 1024;

/// Give this process, and every thread it starts, precedence over the programs
/// under test. Those start at niceness 0 all the same.
pub fn take_precedence() {
    if let Err(error) = set_nice(NICE) {
        log::info!("the lab runs without precedence: {error}");
    }
}

/// Let the calling thread run before every ordinary one, for work that is
/// short and must be on time (sched(7), `SCHED_FIFO`).
pub fn be_punctual() {
    let param = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a local that outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) };
    if result != 0 {
        log::info!("a witness runs without precedence: {}", std::io::Error::last_os_error());
    }
}

/// Let the calling thread wait for its turn as the programs under test do.
pub fn be_ordinary() {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a local that outlives the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param) };
    if let Err(error) = set_nice(0) {
        log::info!("a witness keeps its precedence: {error}");
    }
}

/// Become the parent of every process whose own parent, started by this
/// process, dies (prctl(2), `PR_SET_CHILD_SUBREAPER`): so that a daemon's
/// children are reaped where nobody else does it.
pub fn adopt_orphans() {
    if let Err(error) = set_child_subreaper(true) {
        log::info!("orphans are left to init: {error}");
    }
}

fn set_nice(nice: i32) -> std::io::Result<()> {
    // SAFETY: a system call without pointers.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Let this process execute something without any file but the standard ones: whoever started the lab may
/// have left others open to it.
fn leave_files() -> std::io::Result<()> {
    let (from, to) = (3 as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: a system call without pointers.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    // That flag is as old as Linux 5.11.
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
        return Err(error);
    }
    for file in 3..FILES {
        // SAFETY: a system call without pointers. Most of these are not open.
        unsafe { libc::fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// A command to be run for a lab.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
}

impl Program {
    /// `program`, carrying the lab's mark, without any file that the lab has
    /// open, and ended by the kernel should the lab die. Call it from a thread that lives as long as the process is
    /// meant to: that is the thread whose death the kernel watches
    /// (prctl(2), `PR_SET_PDEATHSIG`).
    #[must_use]
    pub fn new(name: &str, program: impl AsRef<OsStr>, token: &str) -> Self {
        let mut command = Command::new(program);
        command.env(MARK, token).stdin(Stdio::null()).kill_on_drop(true);
        let lab = Pid::this();
        // SAFETY: only system calls that are async-signal-safe, and no allocation.
        unsafe {
            command.pre_exec(move || {
                set_pdeathsig(Signal::SIGKILL)?;
                if getppid() != lab {
                    // The lab died before the line above.
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
                leave_files()?;
                set_nice(0)
            });
        }
        Self { name: name.to_owned(), command }
    }

    /// Add one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Add arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Set an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Let it read this.
    #[must_use]
    pub fn reading(mut self, pipe: PipeReader) -> Self {
        self.command.stdin(pipe);
        self
    }

    /// Let it have these capabilities at the most, root or not: what is not in the bounding set an
    /// executable does not get (capabilities(7)).
    #[must_use]
    pub fn limited_to(mut self, capabilities: &[u8]) -> Self {
        let allowed = capabilities.iter().fold(0_u64, |all, number| all | 1 << number);
        // SAFETY: only system calls that are async-signal-safe, and no allocation.
        unsafe {
            self.command.pre_exec(move || {
                for number in (0..64_u8).filter(|number| allowed & (1 << number) == 0) {
                    let number = libc::c_ulong::from(number);
                    if libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) != 0 {
                        let error = std::io::Error::last_os_error();
                        // Behind the last one that the kernel knows.
                        if error.raw_os_error() == Some(libc::EINVAL) {
                            break;
                        }
                        return Err(error);
                    }
                }
                Ok(())
            });
        }
        self
    }

    /// Run it in this namespace, with the `/sys` that belongs to it.
    #[must_use]
    pub fn inside(mut self, namespace: &Arc<Netns>) -> Self {
        let namespace = Arc::clone(namespace);
        // SAFETY: only setns(2), on files that the closure keeps open.
        unsafe {
            self.command.pre_exec(move || {
                setns(namespace.net(), CloneFlags::CLONE_NEWNET)?;
                setns(namespace.mounts(), CloneFlags::CLONE_NEWNS)?;
                Ok(())
            });
        }
        self
    }

    /// Let it see this directory as the root of the file system, with what it shares with the lab mounted
    /// there, in a mount namespace of its own. What it executes is called as it is there.
    ///
    /// # Errors
    /// When the path cannot be told the kernel.
    pub fn rooted(mut self, root: &Path) -> Result<Self> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).context("a root's path");
        let mounts: Vec<(CString, CString)> = SHARED
            .iter()
            .map(|name| Ok((text(&Path::new("/").join(name))?, text(&root.join(name))?)))
            .collect::<Result<_>>()?;
        let root = text(root)?;
        // SAFETY: only system calls that are async-signal-safe, and no allocation.
        unsafe {
            self.command.pre_exec(move || {
                unshare(CloneFlags::CLONE_NEWNS)?;
                for (from, to) in &mounts {
                    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                    mount(Some(from.as_c_str()), to.as_c_str(), NOTHING, flags, NOTHING)?;
                }
                chroot(root.as_c_str())?;
                chdir(c"/")?;
                Ok(())
            });
        }
        Ok(self)
    }

    /// Start it as a daemon whose output goes to `log`, each line with the
    /// seconds since `epoch`.
    ///
    /// # Errors
    /// When the program is missing or the log cannot be written.
    pub fn start(mut self, log: &Path, epoch: Instant) -> Result<Daemon> {
        let (reader, writer) = std::io::pipe().context("pipe")?;
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        self.command.stdout(writer.try_clone().context("pipe")?).stderr(writer);
        let child = self.command.spawn();
        // The command holds the pipe's other end, which would keep the log's thread waiting.
        drop(self.command);
        let child = child.with_context(|| format!("cannot start {}", self.name))?;
        let pid = child.id().ok_or_else(|| anyhow!("{} has no process id", self.name))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&lines);
        std::thread::Builder::new()
            .name(format!("log-{}", self.name))
            .spawn(move || keep_log(reader, file, &kept, epoch))
            .context("cannot start the log's thread")?;
        Ok(Daemon { name: self.name, pid: Pid::from_raw(pid as i32), child, lines })
    }

    /// Run it to its end and return what it said.
    ///
    /// # Errors
    /// When it cannot be started, or takes longer than `limit` (stretched, see
    /// [`clock::patience`]).
    pub async fn output(mut self, limit: Duration) -> Result<Output> {
        let run = self.command.output();
        let ended = tokio::time::timeout(clock::patience(limit), run).await;
        ended
            .map_err(|_| anyhow!("{} did not end within {limit:?}", self.name))?
            .with_context(|| format!("cannot run {}", self.name))
    }

    /// Run it to its end and fail if it fails.
    ///
    /// # Errors
    /// As [`Program::output`], and with its own words when its exit code is not 0.
    pub async fn succeed(self, limit: Duration) -> Result<String> {
        let name = self.name.clone();
        let args: Vec<OsString> =
            self.command.as_std().get_args().map(OsStr::to_os_string).collect();
        let output = self.output(limit).await?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            bail!("{name} {args:?}: {}, {}", output.status, words.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn keep_log(pipe: PipeReader, mut file: File, kept: &Mutex<Vec<LogLine>>, epoch: Instant) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let at = clock::now();
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        let seconds = at.saturating_duration_since(epoch).as_secs_f64();
        let _ = writeln!(file, "{seconds:10.4} {text}");
        kept.lock().unwrap_or_else(PoisonError::into_inner).push(LogLine { at, text });
    }
}

/// A line that a daemon wrote.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// When the lab read it.
    pub at: Instant,
    /// Without its line end.
    pub text: String,
}

/// A daemon that runs. Dropping it kills it and its process group.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    pid: Pid,
    child: Child,
    lines: Arc<Mutex<Vec<LogLine>>>,
}

impl Daemon {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// What it wrote so far.
    #[must_use]
    pub fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is still there.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Send it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ask it to end with SIGTERM and wait for it.
    ///
    /// # Errors
    /// When it has not ended by `limit` (stretched); it is killed then.
    pub async fn stop(mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        self.ended(limit).await
    }

    /// Wait for it to end by itself.
    ///
    /// # Errors
    /// When it has not ended by `limit` (stretched); it is killed then.
    pub async fn ended(mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(clock::patience(limit), self.child.wait()).await;
        let status = ended.map_err(|_| anyhow!("{} does not end", self.name))?;
        status.with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Kill it, alone, and wait for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("cannot kill {}", self.name))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let deadline = clock::now() + clock::patience(Duration::from_secs(2));
        // Once reaped its process id may be somebody else's.
        if self.running() {
            let _ = killpg(self.pid, Signal::SIGKILL);
            let _ = self.child.start_kill();
            while self.running() && clock::now() < deadline {
                clock::nap(Duration::from_millis(1));
            }
        }
        // What it left behind is this process's to reap; see `adopt_orphans`.
        let group = Pid::from_raw(-self.pid.as_raw());
        while waitpid(group, Some(WaitPidFlag::WNOHANG)).is_ok() && clock::now() < deadline {
            clock::nap(Duration::from_millis(1));
        }
    }
}

/// Copy a program. By a process of its own: what is forked for another lab in this moment would hold the copy open
/// for writing, and the kernel executes no file that is (ETXTBSY).
///
/// # Errors
/// When it cannot be copied.
pub fn copied(program: &Path, copy: &Path) -> Result<()> {
    let done = std::process::Command::new("cp").arg(program).arg(copy).status();
    let done = done.with_context(|| format!("cannot run cp for {}", program.display()))?;
    if !done.success() {
        bail!("cannot copy {} to {}", program.display(), copy.display());
    }
    Ok(())
}
