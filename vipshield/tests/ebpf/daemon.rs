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
use vipshield::{
    bpf::{self, Programs},
    daemons::{self, Kin, Looked, Scanner, Scope},
    engine::{Daemon, Filter, SocketId},
};
use vipshield_common::guard::GuardedSocket;

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

/// The filters on the stand-in's monitor sockets and its command socket, in this order.
fn filters(
    scanner: &mut Scanner,
    leftover: &mut dyn FnMut(u64) -> io::Result<bool>,
) -> Result<(Daemon, Vec<Filter>), Failed> {
    let Looked { daemons, .. } = scanner.scan(Scope::All, leftover)?;
    let daemon = daemons.into_iter().next().ok_or("the daemon is not found")?;
    let monitors = daemon.monitors.iter().map(|monitor| monitor.filter);
    let found = monitors.chain(daemon.commands.iter().map(|command| command.filter)).collect();
    Ok((daemon, found))
}

/// Found by its executable, with its sockets; and whose filters they carry.
pub(crate) fn is_found() -> Result<(), Failed> {
    use Filter::{Foreign, Guard, None, Stale};

    let runtime = super::namespace::runtime()?;
    let _inside = runtime.enter();
    let stand_in = StandIn::start(&format!("vsd{}", std::process::id()))?;
    let mut programs = Programs::load(&[])?;
    let mut scanner = Scanner::new(vec![stand_in.name.clone()])?;
    let (daemon, found) = filters(&mut scanner, &mut |_| Ok(false))?;
    check(daemon.pid == stand_in.pid(), "by its process")?;
    check(found == [Foreign, None, None], format!("as it started: {found:?}"))?;

    let socket = daemon.monitors.get(1).ok_or("two monitors")?.id;
    let command = daemon.commands.first().ok_or("a command socket")?.id;
    let (duplicate, listened) = (daemons::borrow(socket)?, daemons::borrow(command)?);
    let (cookie, other) = (daemons::cookie(&duplicate)?, daemons::cookie(&listened)?);
    let entry = GuardedSocket { port: daemons::port(&duplicate)?, replay_port: 0 };
    programs.guard(&duplicate, cookie, entry)?;
    scanner.remember(socket, cookie);
    programs.listen(&listened, other, entry)?;
    scanner.remember(command, other);
    let (_, found) = filters(&mut scanner, &mut |_| Ok(false))?;
    check(found == [Foreign, Guard, Guard], format!("guarded: {found:?}"))?;

    // Another vipshield finds the filters, and knows by the maps of the one that put them there.
    let mut another = Scanner::new(vec![stand_in.name.clone()])?;
    let mut next = Programs::load(&[])?;
    let (_, found) = filters(&mut another, &mut |cookie| next.is_left(cookie))?;
    check(found == [Foreign, Stale, Stale], format!("left over: {found:?}"))?;
    let left = bpf::left_sockets(&[])?;
    check(left.contains(&cookie) && left.contains(&other), "for cleanup too")?;
    // A guard that is loaded, and says nothing of these sockets, is that of another network namespace:
    // what is on them is somebody else's.
    programs.forget_socket(other)?;
    let mut third = Programs::load(&[])?;
    let (_, found) = filters(&mut another, &mut |cookie| third.is_left(cookie))?;
    check(found == [Foreign, Stale, Foreign], format!("one of them foreign: {found:?}"))?;
    // Its maps end with the socket that kept them; what was known of the others is remembered.
    drop(programs);
    next.guard(&duplicate, cookie, entry)?;
    check(next.is_left(other)?, "that it was left")?;
    drop((next, third));
    check(bpf::left_sockets(&[])?.contains(&cookie), "the guard stays loaded on its socket")?;
    daemons::detach_filter(&duplicate)?;
    daemons::detach_filter(&listened)?;
    drop((duplicate, listened));

    // What the daemon closed is not mistaken for what it opens next.
    let elsewhere = SocketId { inode: socket.inode + 1, ..socket };
    check(daemons::borrow(elsewhere).is_err(), "another inode is another socket")?;
    let Looked { daemons, died, .. } = scanner.scan(Scope::Known, &mut |_| Ok(false))?;
    check(daemons.len() == 1 && !died, "looked at without looking at others")?;
    let kin = |scanner: &Scanner| scanner.kin(stand_in.pid());
    check(kin(&scanner) == Kin::Daemon && scanner.gone().is_empty(), "it is there")?;
    let pid = stand_in.pid();
    drop(stand_in);
    check(scanner.gone() == [pid], "it is seen to be gone")?;
    check(daemons::borrow(socket).is_err(), "a process that is gone")?;
    let Looked { daemons, mut gone, died } = scanner.scan(Scope::Known, &mut |_| Ok(false))?;
    gone.sort_unstable();
    let mut both = vec![cookie, other];
    both.sort_unstable();
    check(daemons.is_empty() && died, "it died")?;
    check(gone == both, "its guarded sockets are reported as gone")?;
    check(scanner.kin(pid) == Kin::Other, "and is nobody any more")
}
