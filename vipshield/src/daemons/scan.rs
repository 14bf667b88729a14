//! Finding guarded daemons in /proc: by the executable (and its control group), in this network namespace,
//! whatever PID or mount namespace (container) they live in.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use log::debug;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketType,
        sockopt::{socket_domain, socket_protocol, socket_type},
    },
};
use vipshield_common::tasks::{TaskEvent, UNKNOWN};

use super::{
    borrow::borrow,
    configured::Configured,
    errno::{NEEDS_PTRACE, Says, of_proc},
    home::Homes,
    mark::is_marked,
    privilege::{NAMESPACE, Privilege},
    proc::{ScanError, Unseen, is_first_pid_namespace, origin, processes, seen, socket_id, text},
    socket::{
        AttachedFilter, SocketError, attached_filter, bound, cookie, has_groups, has_no_address,
        multicast, port,
    },
    speakers::Speakers,
    wanted::Wanted,
};
use crate::{
    causes::passing,
    engine::{
        CommandSocket, Daemon, Family, Filter, MonitorSocket, Role, SocketId, Speaker, VrrpSocket,
    },
};

/// VRRP's protocol number (RFC 9568, section 5.1.1.4).
pub(super) const IPPROTO_VRRP: u32 = 112;

/// Requests about interfaces are made on such a socket (`netdevice(7)`).
const IPPROTO_UDP: u32 = 17;

/// IP authentication headers (RFC 4302): adverts in them are none to vipshield.
const IPPROTO_AH: u32 = 51;
/// What is in the way of guarding a daemon that speaks so.
const IN_HEADERS: &str = "its adverts are in IP authentication headers (auth_type AH), and what they say, and \
    where its sockets are, is not known: take the authentication out, which RFC 9568 does not have, or use \
    auth_type PASS";

/// So many netlink sockets of a process are guarded: keepalived has two, and the guard has room for 256.
const MAX_NETLINK: usize = 16;
/// So many sockets of a process are looked at, those of the lowest descriptors: a daemon opens what matters
/// before it serves anybody.
const MAX_SOCKETS: usize = 1024;

/// A process with a daemon's executable.
struct Found {
    /// Its parent's process id.
    parent: u32,
    daemon: Daemon,
    /// The parent of keepalived's processes is none.
    is_daemon: bool,
}

/// Device and inode of a file: it may be renamed under a running daemon.
type Executable = (u64, u64);

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// At the processes with a daemon's executable that the last walk found: what became of them.
    Known,
    /// At every process.
    All,
}

/// What a look found.
#[derive(Debug)]
pub struct Looked {
    /// All guarded daemons as they are now.
    pub daemons: Vec<Daemon>,
    /// Cookies of sockets that carried the guard and are gone.
    pub gone: Vec<u64>,
    /// A daemon of the look before is not there any more.
    pub died: bool,
}

/// What a process is that a tracepoint named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// A daemon that was found.
    Daemon,
    /// None that was found: perhaps one is to come of it.
    Other,
    /// One of another network namespace, or that may not change this one.
    Stranger,
    /// The kernel's number for it is another one here.
    Untold,
}

/// See the [module](self).
pub struct Scanner {
    wanted: Vec<Wanted>,
    namespace: u64,
    /// Over that namespace: whatever it is called, a process without it is no daemon.
    privilege: Privilege,
    /// Sockets that carry this vipshield's guard: inode and cookie.
    guarded: BTreeMap<u64, u64>,
    /// Daemons found before: process id and start time, and the file that they execute.
    known: BTreeMap<(u32, u64), Option<Executable>>,
    configured: Configured,
    /// Processes with a daemon's executable.
    family: BTreeSet<u32>,
    /// The kernel's numbers of processes, which tracepoints tell, are those of /proc.
    is_numbered_alike: bool,
    homes: Homes,
    speakers: Speakers,
}

impl Scanner {
    /// Looks for these daemons in this thread's network namespace.
    pub fn new(wanted: impl IntoIterator<Item: Into<Wanted>>) -> Result<Self, ScanError> {
        let path = PathBuf::from(NAMESPACE);
        let namespace =
            fs::metadata(&path).map_err(|source| ScanError::Proc { path, source })?.ino();
        Ok(Self {
            wanted: wanted.into_iter().map(Into::into).collect(),
            namespace,
            privilege: Privilege::here()?,
            guarded: BTreeMap::new(),
            known: BTreeMap::new(),
            configured: Configured::default(),
            family: BTreeSet::new(),
            is_numbered_alike: is_first_pid_namespace(),
            homes: Homes::default(),
            speakers: Speakers::new(namespace),
        })
    }

    /// VRRP's multicast groups, and others that daemons have joined on sockets of the last look.
    #[must_use]
    pub fn groups(&self) -> BTreeSet<IpAddr> {
        self.homes.groups()
    }

    /// Inode of the network namespace that is looked at.
    #[must_use]
    pub const fn namespace(&self) -> u64 {
        self.namespace
    }

    /// Who speaks VRRP and was none of the daemons that the last look found.
    #[must_use]
    pub fn speakers(&self) -> Vec<Speaker> {
        self.speakers.all()
    }

    /// What a process is to which a tracepoint told that something happened.
    #[must_use]
    pub fn kin(&self, task: &TaskEvent) -> Kin {
        let pid = task.pid;
        if self.is_numbered_alike && self.known.range((pid, 0)..=(pid, u64::MAX)).next().is_some() {
            return Kin::Daemon;
        }
        let may = match task.admin_of {
            // Who is gone may nothing any more.
            UNKNOWN => !self.is_numbered_alike || self.privilege.is_seen_to_have(pid),
            user_namespace => self.privilege.counts(user_namespace),
        };
        match (may, self.is_numbered_alike) {
            (false, _) => Kin::Stranger,
            (true, false) => Kin::Untold,
            (true, true) => match fs::metadata(format!("/proc/{pid}/ns/net")) {
                Ok(namespace) if namespace.ino() != self.namespace => Kin::Stranger,
                Ok(_) | Err(_) => Kin::Other,
            },
        }
    }

    /// Remembers that a socket carries this vipshield's guard.
    pub fn remember(&mut self, socket: SocketId, cookie: u64) {
        self.guarded.insert(socket.inode, cookie);
    }

    /// Forgets a socket that does not any more.
    pub fn forget(&mut self, socket: SocketId) {
        self.guarded.remove(&socket.inode);
    }

    /// Daemons that the last scan found and that are gone by now, as far as can be told without a
    /// descriptor: a link can be read when no file can be opened.
    #[must_use]
    pub fn gone(&self) -> Vec<u32> {
        self.known.keys().map(|(pid, _)| *pid).filter(|pid| self.is_gone(*pid)).collect()
    }

    fn is_gone(&self, pid: u32) -> bool {
        let path = PathBuf::from(format!("/proc/{pid}/exe"));
        match fs::read_link(&path) {
            Ok(executable) => {
                self.name_of(pid, &executable).is_none() && !self.executes(pid, &path)
            }
            Err(error) => of_proc(&error) == Says::Gone,
        }
    }

    /// Whether a process executes what the daemon of this number did when it was found, whatever that is
    /// called by now.
    fn executes(&self, pid: u32, executable: &Path) -> bool {
        let mut known = self.known.range((pid, 0)..=(pid, u64::MAX)).filter_map(|(_, file)| *file);
        known.next_back().is_some_and(|file| executable_of(executable) == Some(file))
    }

    /// The name of the daemon that a process with this executable is.
    fn name_of(&self, pid: u32, executable: &Path) -> Option<&String> {
        let found = self.wanted.iter().find(|wanted| wanted.is(pid, executable))?;
        Some(&found.name)
    }

    /// Looks for guarded daemons.
    pub fn scan(&mut self, scope: Scope) -> Result<Looked, ScanError> {
        let mut found = self.look(scope)?;
        let mut died = self.has_died(&found);
        if died && scope == Scope::Known {
            // Another one may have taken its place.
            found = self.look(Scope::All)?;
            died = self.has_died(&found);
        }
        let family = found.iter().map(|one| one.daemon.pid).collect();
        found.retain(|one| one.is_daemon);
        let mut daemons = originals(found);
        self.homes.find(daemons.iter_mut().map(|daemon| daemon.vrrp.as_mut_slice()))?;
        self.configured.fill(&mut daemons);
        self.family = family;
        self.known = daemons
            .iter()
            .map(|Daemon { pid, start_time, .. }| {
                let file = executable_of(Path::new(&format!("/proc/{pid}/exe")));
                ((*pid, *start_time), file)
            })
            .collect();
        let monitors = daemons.iter().flat_map(|daemon| &daemon.monitors).map(|m| m.id.inode);
        let commands = daemons.iter().flat_map(|daemon| &daemon.commands).map(|c| c.id.inode);
        self.speakers.find(scope, &daemons, |executable| {
            self.wanted.iter().any(|it| it.name == *executable)
        });
        let seen: BTreeSet<u64> = monitors.chain(commands).collect();
        let gone = self.guarded.extract_if(.., |inode, _| !seen.contains(inode));
        let gone = gone.map(|(_, cookie)| cookie).collect();
        Ok(Looked { daemons, gone, died })
    }

    fn look(&self, scope: Scope) -> Result<Vec<Found>, ScanError> {
        let pids = match scope {
            Scope::Known => self.family.iter().copied().collect(),
            Scope::All => processes()?,
        };
        let mut found = Vec::new();
        for pid in pids {
            found.extend(self.look_at(pid)?);
        }
        Ok(found)
    }

    fn has_died(&self, found: &[Found]) -> bool {
        let is_there = |(pid, start_time): &(u32, u64)| {
            found
                .iter()
                .any(|Found { daemon, .. }| (daemon.pid, daemon.start_time) == (*pid, *start_time))
        };
        !self.known.keys().all(is_there)
    }

    /// A process that dies while it is looked at is no daemon.
    fn look_at(&self, pid: u32) -> Result<Option<Found>, ScanError> {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let seen = match self.examine(pid, &directory) {
            Err(Unseen::Hidden(error)) => self.hidden(pid, &directory, &error),
            seen => seen,
        };
        match seen {
            Ok(found) => Ok(found),
            // The name of a hidden one is shown to everybody.
            Err(Unseen::Gone | Unseen::Hidden(_)) => Ok(None),
            Err(Unseen::Failed(error)) => Err(error),
        }
    }

    fn examine(&self, pid: u32, directory: &Path) -> Result<Option<Found>, Unseen> {
        let path = directory.join("exe");
        let executable = seen(&path, |path| fs::read_link(path))?;
        let name = match self.name_of(pid, &executable) {
            Some(name) => name.clone(),
            None if self.executes(pid, &path) => file_name(&executable),
            None => return Ok(None),
        };
        if seen(&directory.join("ns/net"), |path| fs::metadata(path))?.ino() != self.namespace {
            return Ok(None);
        }
        let (parent, start_time) = origin(directory)?;
        let is_known = self.known.contains_key(&(pid, start_time));
        // One that gave its capabilities up has what it got with them.
        if !is_known && !self.privilege.has(pid)? {
            return Ok(None);
        }
        let mut daemon = Daemon {
            trouble: None,
            polls: false,
            excluded: Vec::new(),
            pid,
            start_time,
            name,
            role: Role::Checkers,
            commands: Vec::new(),
            monitors: Vec::new(),
            vrrp: Vec::new(),
        };
        // One socket may have many descriptors.
        let mut sockets = BTreeSet::new();
        let descriptors = directory.join("fd");
        for entry in seen(&descriptors, |path| fs::read_dir(path))? {
            let Some(id) = socket_id(pid, &seen(&descriptors, |_| entry)?)? else { continue };
            if sockets.len() == MAX_SOCKETS {
                daemon.trouble.get_or_insert_with(|| {
                    format!(
                        "it has more than {MAX_SOCKETS} sockets, and the others are not looked at"
                    )
                });
                break;
            }
            if sockets.insert(id.inode) {
                self.look_at_socket(id, &mut daemon)?;
            }
        }
        // What is not known cannot be done right: it is left alone.
        if daemon.trouble.as_deref() == Some(IN_HEADERS) {
            daemon.monitors.clear();
            daemon.commands.clear();
            daemon.vrrp.clear();
        }
        // The parent of keepalived's processes has neither kind. A daemon has none for a moment
        // when it reloads, and is alive all the same.
        let is_daemon = !daemon.monitors.is_empty()
            || !daemon.vrrp.is_empty()
            || daemon.trouble.is_some()
            || is_known;
        if !daemon.vrrp.is_empty() {
            daemon.role = Role::Vrrp;
        }
        daemon.commands.sort_unstable_by_key(|command| command.id);
        daemon.monitors.sort_unstable_by_key(|monitor| monitor.id);
        daemon.vrrp.sort_unstable_by_key(|socket| socket.id);
        Ok(Some(Found { parent, daemon, is_daemon }))
    }

    /// A process that may not be looked at: its command name, its start time and its capabilities are all
    /// there is to see of it (`PTRACE_MODE_READ_FSCREDS` in `ptrace(2)`), its namespaces as a rule are not.
    fn hidden(
        &self,
        pid: u32,
        directory: &Path,
        error: &io::Error,
    ) -> Result<Option<Found>, Unseen> {
        let comm = text(&directory.join("comm"))?;
        let comm = comm.trim_end();
        let Some(wanted) = self.wanted.iter().find(|wanted| wanted.may_be(pid, comm)) else {
            return Ok(None);
        };
        let privileged = self.privilege.has(pid);
        let elsewhere = fs::metadata(directory.join("ns/net"));
        if matches!(privileged, Ok(false) | Err(Unseen::Gone))
            || elsewhere.is_ok_and(|namespace| namespace.ino() != self.namespace)
        {
            return Ok(None);
        }
        let (parent, start_time) = origin(directory)?;
        let daemon = Daemon {
            pid,
            start_time,
            name: wanted.name.clone(),
            role: Role::Checkers,
            commands: Vec::new(),
            monitors: Vec::new(),
            vrrp: Vec::new(),
            trouble: Some(format!("looking at the process: {error}{NEEDS_PTRACE}")),
            polls: false,
            excluded: Vec::new(),
        };
        Ok(Some(Found { parent, daemon, is_daemon: true }))
    }

    fn look_at_socket(&self, id: SocketId, daemon: &mut Daemon) -> Result<(), Unseen> {
        let socket = match borrow(id) {
            Ok(socket) => socket,
            Err(error) => {
                debug!("{}: {error}", daemon.name);
                match error.says() {
                    Says::Nothing => return Err(ScanError::Borrow(error).into()),
                    // Yama refuses one that has just ended (`yama_ptrace_access_check`).
                    Says::Refused if self.is_gone(id.pid) => return Err(Unseen::Gone),
                    Says::Refused => {
                        daemon.trouble.get_or_insert_with(|| error.to_string());
                    }
                    // Closed in this moment, or with all others when the daemon dies.
                    Says::Gone => {}
                }
                return Ok(());
            }
        };
        match self.classify(id, &socket, daemon) {
            Err(source) if passing(&source).is_some() => {
                Err(ScanError::Socket { id, source }.into())
            }
            Err(error) => {
                daemon.trouble.get_or_insert_with(|| format!("{id}: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn classify(
        &self,
        id: SocketId,
        socket: &OwnedFd,
        daemon: &mut Daemon,
    ) -> Result<(), SocketError> {
        let failed =
            |operation| move |errno: Errno| SocketError { operation, source: errno.into() };
        let protocol = socket_protocol(socket).map_err(failed("SO_PROTOCOL"))?;
        let protocol = protocol.map_or(0, |protocol| protocol.as_raw().get());
        match socket_domain(socket).map_err(failed("SO_DOMAIN"))? {
            // NETLINK_ROUTE is protocol 0.
            AddressFamily::NETLINK if protocol == 0 => {
                if daemon.monitors.len() + daemon.commands.len() == MAX_NETLINK {
                    daemon.trouble.get_or_insert_with(|| {
                        format!("it has more than {MAX_NETLINK} netlink sockets, and the others are not guarded")
                    });
                    return Ok(());
                }
                let filter = match attached_filter(socket)? {
                    AttachedFilter::None => Filter::None,
                    AttachedFilter::Nothing | AttachedFilter::Classic => Filter::Foreign,
                    AttachedFilter::Ebpf => {
                        let cookie = cookie(socket)?;
                        if self.guarded.get(&id.inode) == Some(&cookie) {
                            Filter::Guard
                        } else if is_marked(socket)? {
                            Filter::Stale
                        } else {
                            Filter::Foreign
                        }
                    }
                };
                if has_groups(socket)? {
                    daemon.monitors.push(MonitorSocket { id, filter });
                } else {
                    daemon.commands.push(CommandSocket { id, port: port(socket)?, filter });
                }
            }
            domain @ (AddressFamily::INET | AddressFamily::INET6)
                if protocol == IPPROTO_VRRP
                    && socket_type(socket).map_err(failed("SO_TYPE"))? == SocketType::RAW =>
            {
                let family =
                    if domain == AddressFamily::INET { Family::Ipv4 } else { Family::Ipv6 };
                let bound = bound(socket)?;
                let multicast = multicast(socket, family)?;
                let sends = attached_filter(socket)? == AttachedFilter::Nothing;
                let (home, group) = (None, None);
                daemon.vrrp.push(VrrpSocket { id, family, bound, home, multicast, group, sends });
            }
            AddressFamily::INET
                if protocol == IPPROTO_AH
                    && socket_type(socket).map_err(failed("SO_TYPE"))? == SocketType::RAW =>
            {
                daemon.trouble = Some(IN_HEADERS.to_owned());
            }
            AddressFamily::INET
                if protocol == IPPROTO_UDP
                    && socket_type(socket).map_err(failed("SO_TYPE"))? == SocketType::DGRAM =>
            {
                daemon.polls |= has_no_address(socket)?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// None: it is gone, or may not be looked at.
fn executable_of(path: &Path) -> Option<Executable> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Those that are no copies. A daemon forks for every script that it runs: until the child executes
/// something else, and with `system(3)` for as long as the script runs, it is the same executable with
/// the same sockets.
fn originals(found: Vec<Found>) -> Vec<Daemon> {
    let sockets: Vec<BTreeSet<u64>> = found.iter().map(|one| inodes(&one.daemon)).collect();
    let is_copy = |copy: &Found| {
        let held = inodes(&copy.daemon);
        !held.is_empty()
            && found.iter().zip(&sockets).any(|(one, all)| {
                let Daemon { pid, start_time, .. } = one.daemon;
                (pid == copy.parent || start_time < copy.daemon.start_time) && held.is_subset(all)
            })
    };
    let copies: Vec<bool> = found.iter().map(is_copy).collect();
    let each = found.into_iter().zip(copies);
    each.filter(|(_, is_copy)| !is_copy).map(|(one, _)| one.daemon).collect()
}

/// The sockets that make it a daemon.
fn inodes(daemon: &Daemon) -> BTreeSet<u64> {
    let monitors = daemon.monitors.iter().map(|monitor| monitor.id);
    let commands = daemon.commands.iter().map(|command| command.id);
    let vrrp = daemon.vrrp.iter().map(|socket| socket.id);
    monitors.chain(commands).chain(vrrp).map(|id| id.inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process with a monitor socket, a command socket and a VRRP socket of these inodes.
    fn process(pid: u32, parent: u32, start_time: u64, inodes: [Option<u64>; 3]) -> Found {
        let id = |inode| SocketId { pid, fd: 7, inode };
        let [monitor, command, vrrp] = inodes.map(|inode| inode.map(id));
        let filter = Filter::None;
        let family = Family::Ipv4;
        let daemon = Daemon {
            pid,
            start_time,
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            monitors: monitor.map(|id| MonitorSocket { id, filter }).into_iter().collect(),
            commands: command.map(|id| CommandSocket { id, port: 9, filter }).into_iter().collect(),
            vrrp: vrrp
                .map(|id| VrrpSocket {
                    id,
                    family,
                    bound: None,
                    home: None,
                    multicast: None,
                    group: None,
                    sends: false,
                })
                .into_iter()
                .collect(),
            trouble: None,
            polls: false,
            excluded: Vec::new(),
        };
        Found { parent, daemon, is_daemon: true }
    }

    fn left(found: Vec<Found>) -> Vec<u32> {
        originals(found).into_iter().map(|daemon| daemon.pid).collect()
    }

    #[test]
    fn a_child_that_has_not_executed_its_script_is_no_daemon() {
        let all = [Some(1), Some(2), Some(3)];
        let daemon = || process(700, 699, 50, all);
        // Process ids start anew after the last: the child may have the lower one.
        for pid in [12, 701] {
            assert_eq!(left(vec![process(pid, 700, 50, all), daemon()]), [700]);
            assert_eq!(left(vec![daemon(), process(pid, 700, 60, all)]), [700]);
            // It has closed some of them.
            assert_eq!(left(vec![daemon(), process(pid, 700, 60, [Some(1), None, None])]), [700]);
        }
        // What system(3) starts is the child of a child.
        let grandchild = process(702, 701, 60, all);
        assert_eq!(left(vec![daemon(), process(701, 700, 60, all), grandchild]), [700]);
        let orphan = process(702, 1, 60, all);
        assert_eq!(left(vec![daemon(), orphan]), [700], "its parent has ended");
    }

    #[test]
    fn what_has_sockets_of_its_own_is_a_daemon() {
        let none = [None; 3];
        let daemon = || process(700, 699, 50, [Some(1), Some(2), Some(3)]);
        let checkers = process(701, 699, 50, [Some(11), None, None]);
        assert_eq!(left(vec![daemon(), checkers]), [700, 701]);
        let child = process(701, 700, 60, [Some(1), Some(2), Some(33)]);
        assert_eq!(left(vec![daemon(), child]), [700, 701]);
        // One that reloads, or cannot be looked at, has none that could be seen.
        assert_eq!(left(vec![daemon(), process(701, 700, 60, none)]), [700, 701]);
        // The daemon has died, and its script has not.
        assert_eq!(left(vec![process(701, 1, 60, [Some(1), Some(2), Some(3)])]), [701]);
    }
}
