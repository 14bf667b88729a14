//! A stand-in for a daemon: this very test under another name, which opens netlink sockets and
//! waits until its standard input ends.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use libtest_mimic::Failed;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

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
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        let program = directory.join(name);
        fs::copy(env::current_exe()?, &program)?;
        let mut child = Command::new(program)
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = String::new();
        let output = child.stdout.take().ok_or("its output is piped")?;
        BufReader::new(output).read_line(&mut ready)?;
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
    env::var_os(VARIABLE).map(|_| wait_with_sockets())
}

/// Two monitor sockets, one with a filter of its own, and a command socket.
fn wait_with_sockets() -> io::Result<()> {
    let mut sockets = Vec::new();
    for monitor in [true, true, false] {
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
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
