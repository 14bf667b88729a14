//! What is done to a daemon's sockets, on a duplicate.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd as _},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use nix::sys::socket::{MsgFlags, NetlinkAddr, getsockname, sendto};
use rustix::net::{AddressFamily, SocketType, socket};
use thiserror::Error;
use vipshield_common::guard::RESYNC_SEQUENCE;

use super::{
    mark::clear_mark,
    sockopt::{self, GroupFilter, Ipv4Membership, Ipv6Membership},
};
use crate::engine::Family;

/// `asm-generic/socket.h`: `SO_BINDTOIFINDEX` is Linux 5.0; `SO_GET_FILTER` shares its number with
/// `SO_ATTACH_FILTER`.
const SO_BINDTOIFINDEX: i32 = 62;
const SO_GET_FILTER: i32 = 26;
const SO_COOKIE: i32 = 57;
/// `linux/netlink.h`, Linux 4.2.
const SOL_NETLINK: i32 = 270;
const NETLINK_LIST_MEMBERSHIPS: i32 = 9;

/// `linux/in.h` and `linux/in6.h` have one number for both families.
const MCAST_MSFILTER: i32 = 48;

/// VRRP's multicast groups (RFC 9568, section 5.1.1.2 and 5.1.2.2).
const VRRP_GROUP_IPV4: [u8; 4] = [224, 0, 0, 18];
const VRRP_GROUP_IPV6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// An operation on a socket failed.
#[derive(Debug, Error)]
#[error("{operation}: {source}")]
pub struct SocketError {
    /// What was tried.
    pub operation: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

pub(super) fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError { operation, source }
}

/// The filter on a socket, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachedFilter {
    /// None.
    None,
    /// Classic BPF: always somebody else's.
    Classic,
    /// eBPF: the guard, or somebody else's.
    Ebpf,
}

/// Which kind of filter a socket carries. For an eBPF filter the kernel answers EACCES
/// (`sk_get_filter` in `net/core/filter.c`), for a classic one it gives its length.
pub fn attached_filter(socket: impl AsFd) -> Result<AttachedFilter, SocketError> {
    match sockopt::length(socket, libc::SOL_SOCKET, SO_GET_FILTER) {
        Ok(0) => Ok(AttachedFilter::None),
        Ok(_) => Ok(AttachedFilter::Classic),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(AttachedFilter::Ebpf),
        Err(source) => Err(failed("SO_GET_FILTER")(source)),
    }
}

/// Takes any filter off a socket, and then vipshield's mark.
pub fn detach_filter(socket: impl AsFd) -> Result<(), SocketError> {
    match sockopt::set(&socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other.map_err(failed("SO_DETACH_FILTER"))?,
    }
    clear_mark(socket)
}

/// The socket's cookie: unique as long as the kernel runs.
pub fn cookie(socket: impl AsFd) -> Result<u64, SocketError> {
    sockopt::get::<u64>(socket, libc::SOL_SOCKET, SO_COOKIE)
        .map(|(cookie, _)| cookie)
        .map_err(failed("SO_COOKIE"))
}

/// The cookie of this thread's network namespace: unique as long as the kernel runs. Linux 5.14.
pub fn network_namespace_cookie() -> Result<u64, SocketError> {
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .map_err(|errno| failed("socket")(errno.into()))?;
    sockopt::get::<u64>(any, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
        .map(|(cookie, _)| cookie)
        .map_err(failed("SO_NETNS_COOKIE"))
}

/// The port of a netlink socket.
pub fn port(socket: impl AsFd) -> Result<u32, SocketError> {
    getsockname::<NetlinkAddr>(socket.as_fd().as_raw_fd())
        .map(|address| address.pid())
        .map_err(|errno| failed("getsockname")(errno.into()))
}

/// Whether a netlink socket joined any multicast group.
pub(super) fn has_groups(socket: impl AsFd) -> Result<bool, SocketError> {
    let (groups, _) = sockopt::get::<[u32; 8]>(socket, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS)
        .map_err(failed("NETLINK_LIST_MEMBERSHIPS"))?;
    Ok(groups.iter().any(|word| *word != 0))
}

/// The interface a socket is bound to.
pub(super) fn bound(socket: impl AsFd) -> Result<Option<u32>, SocketError> {
    let (ifindex, _) = sockopt::get::<u32>(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX)
        .map_err(failed("SO_BINDTOIFINDEX"))?;
    Ok(Some(ifindex).filter(|ifindex| *ifindex != 0))
}

/// Whether a socket is a member of VRRP's group on an interface. The kernel answers a question
/// about the sources that it wants to hear there only to a member (`ip_mc_gsfget` in
/// `net/ipv4/igmp.c`, `ip6_mc_msfget` in `net/ipv6/mcast.c`; Linux 2.6).
#[must_use]
pub fn is_member(socket: impl AsFd, family: Family, ifindex: u32) -> bool {
    let (level, domain, at) = match family {
        Family::Ipv4 => (libc::IPPROTO_IP, libc::AF_INET, 4),
        Family::Ipv6 => (libc::IPPROTO_IPV6, libc::AF_INET6, 8),
    };
    let address = match family {
        Family::Ipv4 => VRRP_GROUP_IPV4.to_vec(),
        Family::Ipv6 => VRRP_GROUP_IPV6.octets().to_vec(),
    };
    // `struct sockaddr_in` and `sockaddr_in6`: the family, a port, and for IPv6 a flow label,
    // before the address.
    let mut bytes = [0_u8; 128];
    let before = (domain as u16).to_ne_bytes();
    bytes.iter_mut().zip(before).for_each(|(to, from)| *to = from);
    bytes.iter_mut().skip(at).zip(address).for_each(|(to, from)| *to = from);
    let mut question = GroupFilter { ifindex, ..GroupFilter::default() };
    let (eights, _) = bytes.as_chunks();
    question.group.iter_mut().zip(eights).for_each(|(to, from)| *to = u64::from_ne_bytes(*from));
    sockopt::ask(socket, level, MCAST_MSFILTER, question).is_ok()
}

/// Moves a VRRP socket from the interfaces `from` to the interface `to`: where it is bound, where
/// its multicast goes, and where it is a member of VRRP's group, if it is one on any: send
/// sockets are not, nor are those of an instance with `unicast_peer`.
///
/// The membership on the NIC itself is the daemon's and is never dropped; `keep` is that NIC.
pub fn rebind(
    socket: impl AsFd,
    family: Family,
    from: &[u32],
    to: u32,
    keep: u32,
) -> Result<(), SocketError> {
    let socket = socket.as_fd();
    // A daemon that opened it while the bridge had the NIC's name has joined there alone.
    let member = [keep].iter().chain(from).any(|on| is_member(socket, family, *on));
    let left = from.iter().copied().filter(|from| *from != keep && *from != to);
    sockopt::set(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &to)
        .map_err(failed("SO_BINDTOIFINDEX"))?;
    match family {
        Family::Ipv4 => {
            let there = Ipv4Membership { ifindex: to, ..Ipv4Membership::default() };
            sockopt::set(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &there)
                .map_err(failed("IP_MULTICAST_IF"))?;
            if member {
                let group =
                    |ifindex| Ipv4Membership { group: VRRP_GROUP_IPV4, address: [0; 4], ifindex };
                join(sockopt::set(socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group(to)))?;
                for from in left {
                    let option = libc::IP_DROP_MEMBERSHIP;
                    leave(sockopt::set(socket, libc::IPPROTO_IP, option, &group(from)))?;
                }
            }
        }
        Family::Ipv6 => {
            sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &to)
                .map_err(failed("IPV6_MULTICAST_IF"))?;
            if member {
                let group = |ifindex| Ipv6Membership { group: VRRP_GROUP_IPV6.octets(), ifindex };
                let level = libc::IPPROTO_IPV6;
                join(sockopt::set(socket, level, libc::IPV6_ADD_MEMBERSHIP, &group(to)))?;
                for from in left {
                    leave(sockopt::set(socket, level, libc::IPV6_DROP_MEMBERSHIP, &group(from)))?;
                }
            }
        }
    }
    Ok(())
}

/// Has a socket receive what comes in on this interface, and of multicast what it has joined itself: as
/// keepalived has it (`IP_MULTICAST_ALL`, and for IPv6 since Linux 4.20 `IPV6_MULTICAST_ALL`).
pub(super) fn receive_on(
    socket: impl AsFd,
    family: Family,
    ifindex: u32,
) -> Result<(), SocketError> {
    let socket = socket.as_fd();
    sockopt::set(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &ifindex)
        .map_err(failed("SO_BINDTOIFINDEX"))?;
    let (level, option) = match family {
        Family::Ipv4 => (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
        Family::Ipv6 => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
    };
    sockopt::set(socket, level, option, &0_i32).map_err(failed("IP_MULTICAST_ALL"))
}

/// Joins a multicast group on an interface.
pub(super) fn join_group(
    socket: impl AsFd,
    ifindex: u32,
    group: IpAddr,
) -> Result<(), SocketError> {
    join(match group {
        IpAddr::V4(group) => {
            let group = Ipv4Membership { group: group.octets(), address: [0; 4], ifindex };
            sockopt::set(socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group)
        }
        IpAddr::V6(group) => {
            let group = Ipv6Membership { group: group.octets(), ifindex };
            sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &group)
        }
    })
}

/// Lets an IPv6 socket send from an address that no interface has, or one that may not be used yet
/// (`IPV6_FREEBIND`, Linux 4.15; `ip6_datagram_send_ctl` in `net/ipv6/datagram.c`).
pub fn speak_from_anywhere(socket: impl AsFd, so: bool) -> Result<(), SocketError> {
    sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &i32::from(so))
        .map_err(failed("IPV6_FREEBIND"))
}

/// Being a member already is as good.
fn join(result: io::Result<()>) -> Result<(), SocketError> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        other => other.map_err(failed("joining VRRP's multicast group")),
    }
}

/// Not being a member, or the interface being gone with all memberships, is as good.
fn leave(result: io::Result<()>) -> Result<(), SocketError> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(())
        }
        other => other.map_err(failed("leaving VRRP's multicast group")),
    }
}

/// Asks the kernel, on the daemon's own socket, how a link is. The answer goes to the daemon as
/// if it were an event.
pub fn resync_link(socket: impl AsFd, ifindex: u32) -> Result<(), SocketError> {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
    request.header.flags = NLM_F_REQUEST;
    request.header.sequence_number = RESYNC_SEQUENCE;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_fd().as_raw_fd(), &bytes, &kernel, MsgFlags::MSG_DONTWAIT)
        .map(|_| ())
        .map_err(|errno| failed("sending RTM_GETLINK")(errno.into()))
}
