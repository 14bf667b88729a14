//! Who speaks VRRP and is none of the daemons that were found: told by the kernel's table of raw sockets,
//! which is the network namespace's, whichever processes /proc shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use log::debug;

use super::{
    proc::{Unseen, is_first_pid_namespace, processes, read, seen, socket_id},
    scan::{IPPROTO_VRRP, Scope},
};
use crate::engine::{Daemon, Speaker};

/// How often it is asked who has a socket that nobody was seen to have.
const ASKED_AT_MOST: u8 = 3;
/// So many sockets are looked into at the most: a node has a few for each interface.
const MAX_SOCKETS: usize = 256;

/// Who has a socket.
#[derive(Clone, Debug)]
enum Holder {
    /// It is somebody else's.
    Speaker(Speaker),
    /// vipshield itself.
    Own,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Speakers {
    namespace: u64,
    /// Inode of the network namespace of the node's first process, if that can be told.
    first: Option<u64>,
    /// By inode of the socket: who has it, and how often that was asked.
    holders: BTreeMap<u64, (u8, Holder)>,
    /// A daemon of another network namespace.
    elsewhere: Option<Speaker>,
}

impl Speakers {
    pub(super) fn new(namespace: u64) -> Self {
        Self { namespace, first: first_namespace(), holders: BTreeMap::new(), elsewhere: None }
    }

    /// All that were found.
    pub(super) fn all(&self) -> Vec<Speaker> {
        let held = self.holders.values().filter_map(|(_, holder)| match holder {
            Holder::Speaker(speaker) => Some(speaker),
            Holder::Own => None,
        });
        let all: BTreeSet<&Speaker> = held.chain(&self.elsewhere).collect();
        all.into_iter().cloned().collect()
    }

    /// Looks who has the VRRP sockets that are not these daemons'. A look that fails changes nothing.
    pub(super) fn find(
        &mut self,
        scope: Scope,
        daemons: &[Daemon],
        is_daemon: impl Fn(&str) -> bool,
    ) {
        if let Err(error) = self.look(scope, daemons, &is_daemon) {
            debug!("who else speaks VRRP: {error}");
        }
    }

    fn look(
        &mut self,
        scope: Scope,
        daemons: &[Daemon],
        is_daemon: &impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let known: BTreeSet<u64> =
            daemons.iter().flat_map(|daemon| &daemon.vrrp).map(|socket| socket.id.inode).collect();
        let others = || -> io::Result<BTreeSet<u64>> {
            Ok(vrrp_sockets()?.into_iter().filter(|inode| !known.contains(inode)).collect())
        };
        let there = others()?;
        self.holders.retain(|inode, _| there.contains(inode));
        if !daemons.is_empty() {
            self.elsewhere = None;
        }
        if scope != Scope::All {
            return Ok(());
        }
        let is_open = |inode: &u64| match self.holders.get(inode) {
            Some((asked, Holder::Speaker(Speaker::Hidden { .. }))) => *asked < ASKED_AT_MOST,
            Some(_) => false,
            None => true,
        };
        let open: BTreeSet<u64> = there.into_iter().filter(is_open).take(MAX_SOCKETS).collect();
        if !open.is_empty() {
            let (mut found, refused) = holders(&open, is_daemon)?;
            // Whose process ended meanwhile is nobody's secret.
            for inode in others()?.intersection(&open) {
                let hidden = || Some(Holder::Speaker(Speaker::Hidden { refused }));
                let Some(holder) = found.remove(inode).unwrap_or_else(hidden) else { continue };
                let (asked, known) = self.holders.entry(*inode).or_insert((0, Holder::Own));
                *asked = asked.saturating_add(1);
                *known = holder;
            }
        }
        let is_the_nodes = self.first.is_none_or(|first| first == self.namespace);
        if daemons.is_empty() && !is_the_nodes {
            self.elsewhere = self.daemon_elsewhere(is_daemon)?;
        }
        Ok(())
    }

    /// The first process with a daemon's executable in another network namespace.
    fn daemon_elsewhere(&self, is_daemon: &impl Fn(&str) -> bool) -> io::Result<Option<Speaker>> {
        for pid in all_processes()? {
            let Some(name) = executable(pid).filter(|name| is_daemon(name)) else { continue };
            let namespace = fs::metadata(format!("/proc/{pid}/ns/net"));
            if namespace.is_ok_and(|namespace| namespace.ino() != self.namespace) {
                return Ok(Some(Speaker::Elsewhere { pid, name }));
            }
        }
        Ok(None)
    }
}

/// Process 1 may have a capability more than vipshield, and is hidden then (`ptrace_may_access`); the
/// kernel's own threads are in the first network namespace, and process 2 is one where it is seen as such.
fn first_namespace() -> Option<u64> {
    let of = |pid: u32| fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|it| it.ino());
    of(1).or_else(|| of(2).filter(|_| is_first_pid_namespace()))
}

fn all_processes() -> io::Result<Vec<u32>> {
    processes().map_err(io::Error::other)
}

/// The name of the file that a process executes, or did before it was replaced.
fn executable(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(" (deleted)").unwrap_or(name).to_owned())
}

/// By inode who has a socket, none for a daemon that is about to be found; and whether some process may not
/// be looked at.
type Held = (BTreeMap<u64, Option<Holder>>, bool);

/// Who has these sockets.
fn holders(inodes: &BTreeSet<u64>, is_daemon: &impl Fn(&str) -> bool) -> io::Result<Held> {
    let mut found = BTreeMap::new();
    let mut refused = false;
    for pid in all_processes()? {
        let held = match sockets_of(pid) {
            Ok(held) => held,
            Err(Unseen::Gone) => continue,
            Err(Unseen::Hidden(_)) => {
                refused = true;
                continue;
            }
            Err(Unseen::Failed(error)) => return Err(io::Error::other(error)),
        };
        for inode in held.intersection(inodes) {
            let holder = match executable(pid) {
                _ if pid == process::id() => Some(Holder::Own),
                Some(name) if is_daemon(&name) => None,
                Some(name) => Some(Holder::Speaker(Speaker::Renamed { pid, name })),
                None => continue,
            };
            // A daemon's or one's own goes before a copy of it in a child.
            let told = found.entry(*inode).or_insert_with(|| holder.clone());
            if !matches!(holder, Some(Holder::Speaker(_))) {
                *told = holder;
            }
        }
    }
    Ok((found, refused))
}

fn sockets_of(pid: u32) -> Result<BTreeSet<u64>, Unseen> {
    let descriptors = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut inodes = BTreeSet::new();
    for entry in seen(&descriptors, |path| fs::read_dir(path))? {
        let entry = seen(&descriptors, |_| entry)?;
        inodes.extend(socket_id(pid, &entry)?.map(|id| id.inode));
    }
    Ok(inodes)
}

/// The inodes of this network namespace's raw sockets of protocol 112.
fn vrrp_sockets() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/thread-self/net/raw", "/proc/thread-self/net/raw6"] {
        match read(Path::new(table)) {
            Ok(text) => {
                inodes.extend(String::from_utf8_lossy(&text).lines().filter_map(vrrp_socket));
            }
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(inodes)
}

/// A line of the table: the protocol stands for the local port, and the inode is the tenth field
/// (`raw_sock_seq_show` in `net/ipv4/raw.c`, `__ip6_dgram_sock_seq_show` in `net/ipv6/datagram.c`).
fn vrrp_socket(line: &str) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (_, protocol) = fields.nth(1)?.rsplit_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    (u32::from_str_radix(protocol, 16).ok()? == IPPROTO_VRRP && inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_tell_which_sockets_are_vrrps() {
        let ipv4 = " 112: 00000000:0070 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                    0        0 20963 2 0000000000000000 0";
        let ipv6 = "  112: 00000000000000000000000000000000:0070 \
                    00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  \
                    0        0 31 2 0000000000000000 0";
        assert_eq!(vrrp_socket(ipv4), Some(20963));
        assert_eq!(vrrp_socket(ipv6), Some(31));
        assert_eq!(vrrp_socket(&ipv4.replace(":0070", ":0001")), None, "ICMP");
        let title = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode ref pointer drops";
        for line in [title, "", "112:", " 112: 00000000:0070 00000000:0000 07"] {
            assert_eq!(vrrp_socket(line), None, "{line}");
        }
    }
}
