//! A stand-in for a daemon: this very test under another name, which opens netlink sockets and
//! waits until its standard input ends.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    iter,
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use libtest_mimic::Failed;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::check;

/// Set in the stand-in's environment.
const VARIABLE: &str = "VIPSHIELD_TEST_DAEMON";

/// A running stand-in; it ends with this value.
pub(crate) struct StandIn {
    pub(crate) name: String,
    child: Child,
    directory: PathBuf,
}

impl StandIn {
    /// Starts a process with this executable name in this thread's network namespace.
    pub(crate) fn start(name: &str) -> Result<Self, Failed> {
        Self::start_as(name, &[])
    }

    /// The same by way of programs that make another user of it.
    pub(crate) fn start_as(name: &str, wrapper: &[&str]) -> Result<Self, Failed> {
        Self::begin(name, wrapper, "0,0")
    }

    /// The same with so many more monitor sockets, and so many more descriptors of the last socket.
    pub(crate) fn with_sockets(name: &str, monitors: u32, duplicates: u32) -> Result<Self, Failed> {
        Self::begin(name, &[], &format!("{monitors},{duplicates}"))
    }

    fn begin(name: &str, wrapper: &[&str], more: &str) -> Result<Self, Failed> {
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        let program = directory.join(name);
        // By a process of its own: what another test forks in this moment would hold the file open for writing,
        // and the kernel executes none that is.
        let copied = Command::new("cp").arg(env::current_exe()?).arg(&program).status()?;
        check(copied.success(), "the test's own program is copied")?;
        let mut words = wrapper.iter().map(Into::into).chain([program.into_os_string()]);
        let first: OsString = words.next().ok_or("there is a program")?;
        let mut child = Command::new(first)
            .args(words)
            .env(VARIABLE, more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        let output = child.stdout.take().ok_or("its output is piped")?;
        BufReader::new(output).read_line(&mut ready)?;
        check(ready == "ready\n", format!("{name} has its sockets: {ready:?}"))?;
        Ok(Self { name: name.to_owned(), child, directory })
    }

    /// Gives its executable another name, as an upgrade by hand does.
    pub(crate) fn rename(&self) -> io::Result<()> {
        fs::rename(self.directory.join(&self.name), self.directory.join("old"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Is the stand-in, if this process was started as one.
pub(crate) fn be_one() -> Option<io::Result<()>> {
    let more = env::var(VARIABLE).ok()?;
    let mut more = more.split(',').map(|number| number.parse().unwrap_or(0));
    Some(wait_with_sockets(more.next().unwrap_or(0), more.next().unwrap_or(0)))
}

/// Two monitor sockets, one with a filter of its own, and a command socket; and what else was asked for.
fn wait_with_sockets(monitors: usize, duplicates: usize) -> io::Result<()> {
    // Some machines begin with 1,024 open files.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let mut sockets = Vec::new();
    let more = iter::repeat_n(true, monitors);
    for monitor in [true, true, false].into_iter().chain(more) {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        if monitor {
            socket.add_membership(1)?;
        }
        sockets.push(socket);
    }
    if let Some(filtered) = sockets.first() {
        super::namespace::attach_classic_filter(filtered)?;
    }
    let last = sockets.last().ok_or(io::ErrorKind::NotFound)?;
    let copies: io::Result<Vec<_>> =
        (0..duplicates).map(|_| last.as_fd().try_clone_to_owned()).collect();
    let _copies = copies?;
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
