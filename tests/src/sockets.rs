//! The sockets of a daemon, seen through duplicates of them: which filter each carries, where it
//! is bound, on which interfaces it hears VRRP.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;
use nix::unistd::Pid;

use crate::lab::Host;

/// `asm-generic/socket.h`; `SO_BINDTOIFINDEX` is Linux 5.0.
const SO_BINDTOIFINDEX: i32 = 62;
const SO_GET_FILTER: i32 = 26;
/// `linux/in.h` and `linux/in6.h` use one number for both families.
const MCAST_MSFILTER: i32 = 48;
/// VRRP's protocol number and its multicast groups (RFC 9568).
const VRRP: i32 = 112;
const GROUP_IPV4: [u8; 4] = [224, 0, 0, 18];
const GROUP_IPV6: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];

/// The filter on a socket, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// None.
    None,
    /// Classic BPF, of so many instructions.
    Classic(u32),
    /// eBPF: the kernel tells no more.
    Ebpf,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Domain, type and protocol, as socket(2) has them.
    pub kind: (i32, i32, i32),
    /// Its filter.
    pub filter: Filter,
    /// Its mark (`SO_MARK`).
    pub mark: u32,
    /// The index of the interface it is bound to, 0 for none.
    pub bound: u32,
    /// The indexes of the interfaces on which it is a member of VRRP's group.
    pub member_on: Vec<u32>,
}

impl Socket {
    /// Whether it is one to rtnetlink, requests or events.
    #[must_use]
    pub fn is_rtnetlink(&self) -> bool {
        let (domain, _, protocol) = self.kind;
        domain == libc::AF_NETLINK && protocol == libc::NETLINK_ROUTE
    }

    /// Whether its daemon lets nothing in: a program of one instruction.
    #[must_use]
    pub fn sends_only(&self) -> bool {
        self.filter == Filter::Classic(1)
    }

    /// Whether it is one of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.kind.0 == libc::AF_INET6
    }

    /// Whether adverts are sent or received on it.
    #[must_use]
    pub fn is_vrrp(&self) -> bool {
        let (domain, kind, protocol) = self.kind;
        matches!(domain, libc::AF_INET | libc::AF_INET6)
            && kind == libc::SOCK_RAW
            && protocol == VRRP
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.is_rtnetlink(), self.is_vrrp()) {
            (true, _) => "rtnetlink".to_owned(),
            (_, true) => "VRRP".to_owned(),
            _ => format!("{:?}", self.kind),
        };
        let (filter, mark, bound, on) = (self.filter, self.mark, self.bound, &self.member_on);
        write!(
            f,
            "{name} socket: filter {filter:?}, mark {mark:#x}, bound to {bound}, group joined on {on:?}"
        )
    }
}

/// Sockets by inode: a socket that its daemon closed and opened anew is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets(pub BTreeMap<u64, Socket>);

impl Sockets {
    /// Those of these processes, which run on `host`.
    ///
    /// # Errors
    /// When the host's interfaces cannot be listed.
    pub fn of(processes: &[Pid], host: &Host) -> Result<Self> {
        let interfaces = host.rtnl.indexes()?;
        let mut found = BTreeMap::new();
        for &pid in processes {
            let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for entry in entries.flatten() {
                let inode =
                    std::fs::read_link(entry.path()).ok().and_then(|to| inode(to.to_str()?));
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let (Some(inode), Some(number)) = (inode, number) else { continue };
                // The daemon may close it at any time.
                if let Ok(socket) = duplicate(pid, number).and_then(|s| look_at(&s, &interfaces)) {
                    found.insert(inode, socket);
                }
            }
        }
        Ok(Self(found))
    }
}

fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `pidfd_open(2)`, Linux 5.3, and `pidfd_getfd(2)`, Linux 5.6.
fn duplicate(pid: Pid, number: i32) -> Result<OwnedFd> {
    let opened = |descriptor: libc::c_long, what: &'static str| {
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error()).context(what);
        }
        // SAFETY: the kernel has just opened it for this process; nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
    };
    // SAFETY: a system call without pointers.
    let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let process = opened(process, "pidfd_open")?;
    // SAFETY: a system call without pointers.
    let socket = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    opened(socket, "pidfd_getfd")
}

fn look_at(socket: &OwnedFd, interfaces: &[u32]) -> Result<Socket> {
    let integer = |name| integer(socket, libc::SOL_SOCKET, name);
    let kind = (integer(libc::SO_DOMAIN)?, integer(libc::SO_TYPE)?, integer(libc::SO_PROTOCOL)?);
    let (domain, _, _) = kind;
    let member_on = interfaces.iter().copied();
    Ok(Socket {
        kind,
        filter: filter(socket)?,
        mark: integer(libc::SO_MARK)? as u32,
        bound: integer(SO_BINDTOIFINDEX)? as u32,
        member_on: member_on.filter(|index| is_member(socket, domain, *index)).collect(),
    })
}

fn integer(socket: &OwnedFd, level: i32, name: i32) -> Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to an integer, for which any are a value.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 {
        Ok(value)
    } else {
        Err(std::io::Error::last_os_error()).context("socket option")
    }
}

/// For an eBPF filter the kernel answers EACCES, for a classic one it gives its length
/// (`sk_get_filter` in `net/core/filter.c`).
fn filter(socket: &OwnedFd) -> Result<Filter> {
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing to the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_GET_FILTER,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    let error = std::io::Error::last_os_error();
    match (result, length) {
        (0, 0) => Ok(Filter::None),
        (0, length) => Ok(Filter::Classic(length)),
        _ if error.raw_os_error() == Some(libc::EACCES) => Ok(Filter::Ebpf),
        _ => Err(error).context("SO_GET_FILTER"),
    }
}

/// `struct group_filter` (`linux/in.h`) with no sources.
#[repr(C)]
struct GroupFilter {
    interface: u32,
    padding: u32,
    /// `sockaddr_storage`: as words, for its alignment.
    group: [u64; 16],
    mode: u32,
    sources: u32,
}

/// Whether a socket is a member of VRRP's group of its family on an interface: the kernel answers
/// a question about the sources it wants to hear there only to a member (`ip_mc_gsfget` in
/// `net/ipv4/igmp.c`, `ip6_mc_msfget` in `net/ipv6/mcast.c`).
fn is_member(socket: &OwnedFd, domain: i32, interface: u32) -> bool {
    let mut bytes = [0_u8; 128];
    let (family, rest) = bytes.split_at_mut(2);
    family.copy_from_slice(&(domain as u16).to_ne_bytes());
    // Both kinds of address follow a port; IPv6's follows a flow label too.
    let level = match domain {
        libc::AF_INET => {
            rest.iter_mut().skip(2).zip(GROUP_IPV4).for_each(|(to, from)| *to = from);
            libc::IPPROTO_IP
        }
        libc::AF_INET6 => {
            rest.iter_mut().skip(6).zip(GROUP_IPV6).for_each(|(to, from)| *to = from);
            libc::IPPROTO_IPV6
        }
        _ => return false,
    };
    let mut group = [0_u64; 16];
    for (word, eight) in group.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = eight.try_into().map(u64::from_ne_bytes).unwrap_or_default();
    }
    let mut question = GroupFilter { interface, padding: 0, group, mode: 0, sources: 0 };
    let mut length = size_of::<GroupFilter>() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `length` bytes of a structure of integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            MCAST_MSFILTER,
            (&raw mut question).cast(),
            &raw mut length,
        )
    };
    result == 0
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    #[test]
    fn a_socket_tells_its_filter_and_its_groups() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let group = Ipv4Addr::from(GROUP_IPV4);
        let descriptor = OwnedFd::from(socket.try_clone().unwrap());
        let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
        let seen = look_at(&descriptor, &[loopback]).unwrap();
        assert_eq!(seen.kind, (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP));
        assert_eq!((seen.filter, seen.bound), (Filter::None, 0));
        assert!(seen.member_on.is_empty());
        // Refused where the loopback is down.
        if socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_ok() {
            assert_eq!(look_at(&descriptor, &[loopback]).unwrap().member_on, [loopback]);
        }
    }

    #[test]
    fn sockets_are_known_by_inode() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        assert_eq!(inode("pipe:[4711]"), None);
    }
}
