//! What is done to a daemon's sockets, on a duplicate.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _},
};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{RouteNetlinkMessage, link::LinkMessage};
use nix::sys::socket::{MsgFlags, NetlinkAddr, SockaddrIn, getsockname, sendto};
use rustix::net::{AddressFamily, SocketType, socket};
use thiserror::Error;
use vipshield_common::guard::RESYNC_SEQUENCE;

use super::{
    mark::clear_mark,
    membership::is_member,
    sockopt::{self, Ipv4Membership, Ipv6Membership},
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
    /// Classic BPF of one instruction, the last of any program: it lets nothing in. (It could let all in, and
    /// then it would not be there.)
    Nothing,
    /// Other classic BPF: always somebody else's.
    Classic,
    /// eBPF: the guard, or somebody else's.
    Ebpf,
}

/// Which kind of filter a socket carries. For an eBPF filter the kernel answers EACCES
/// (`sk_get_filter` in `net/core/filter.c`), for a classic one it gives its length.
pub fn attached_filter(socket: impl AsFd) -> Result<AttachedFilter, SocketError> {
    match sockopt::length(socket, libc::SOL_SOCKET, SO_GET_FILTER) {
        Ok(0) => Ok(AttachedFilter::None),
        Ok(1) => Ok(AttachedFilter::Nothing),
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

/// Whether an IPv4 socket was never bound, connected or used to send: it got a port with that.
pub(super) fn has_no_address(socket: impl AsFd) -> Result<bool, SocketError> {
    getsockname::<SockaddrIn>(socket.as_fd().as_raw_fd())
        .map(|address| address.port() == 0)
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

/// The interface to which a socket's multicast goes. Of IPv4 the kernel tells an address, and none if it was
/// told a number (`do_ip_getsockopt` in `net/ipv4/ip_sockglue.c`).
pub(super) fn multicast(socket: impl AsFd, family: Family) -> Result<Option<u32>, SocketError> {
    match family {
        Family::Ipv4 => Ok(None),
        Family::Ipv6 => {
            let (ifindex, _) =
                sockopt::get::<u32>(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF)
                    .map_err(failed("IPV6_MULTICAST_IF"))?;
            Ok(Some(ifindex).filter(|ifindex| *ifindex != 0))
        }
    }
}

/// Moves a VRRP socket from the interfaces `from` to the interface `to`: where it is bound, where
/// its multicast goes, and where it is a member of those of `groups` of which it is a member on any: send
/// sockets are of none, nor are those of an instance with `unicast_peer`.
///
/// The membership on the NIC itself is the daemon's and is never dropped; `keep` is that NIC.
pub fn rebind(
    socket: impl AsFd,
    family: Family,
    from: &[u32],
    to: u32,
    keep: u32,
    groups: &BTreeSet<IpAddr>,
) -> Result<(), SocketError> {
    let socket = socket.as_fd();
    // A daemon that opened it while the bridge had the NIC's name has joined there alone.
    let is_joined = |group: &IpAddr| {
        Family::of(*group) == family
            && [keep].iter().chain(from).any(|on| is_member(socket, *on, *group))
    };
    let joined: Vec<IpAddr> = groups.iter().copied().filter(is_joined).collect();
    sockopt::set(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &to)
        .map_err(failed("SO_BINDTOIFINDEX"))?;
    match family {
        Family::Ipv4 => {
            let there = Ipv4Membership { ifindex: to, ..Ipv4Membership::default() };
            sockopt::set(socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &there)
                .map_err(failed("IP_MULTICAST_IF"))?;
        }
        Family::Ipv6 => {
            sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &to)
                .map_err(failed("IPV6_MULTICAST_IF"))?;
        }
    }
    for group in joined {
        join_group(socket, to, group)?;
        for left in from.iter().filter(|from| **from != keep && **from != to) {
            leave_group(socket, *left, group)?;
        }
    }
    Ok(())
}

/// Binds a socket that sends to single peers to an interface, or to none: it is a member of no group, and has no
/// interface for multicast.
pub fn rebind_sender(socket: impl AsFd, to: Option<u32>) -> Result<(), SocketError> {
    sockopt::set(socket, libc::SOL_SOCKET, SO_BINDTOIFINDEX, &to.unwrap_or(0))
        .map_err(failed("SO_BINDTOIFINDEX"))
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

/// Joins a multicast group on an interface. Being a member already is as good.
pub(super) fn join_group(
    socket: impl AsFd,
    ifindex: u32,
    group: IpAddr,
) -> Result<(), SocketError> {
    let options = (libc::IP_ADD_MEMBERSHIP, libc::IPV6_ADD_MEMBERSHIP);
    match change_membership(socket, ifindex, group, options) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        other => other.map_err(failed("joining VRRP's multicast group")),
    }
}

/// Not being a member, or the interface being gone with all memberships, is as good.
fn leave_group(socket: impl AsFd, ifindex: u32, group: IpAddr) -> Result<(), SocketError> {
    let options = (libc::IP_DROP_MEMBERSHIP, libc::IPV6_DROP_MEMBERSHIP);
    match change_membership(socket, ifindex, group, options) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
            Ok(())
        }
        other => other.map_err(failed("leaving VRRP's multicast group")),
    }
}

/// The options are IPv4's and IPv6's.
fn change_membership(
    socket: impl AsFd,
    ifindex: u32,
    group: IpAddr,
    options: (i32, i32),
) -> io::Result<()> {
    match group {
        IpAddr::V4(group) => {
            let group = Ipv4Membership { group: group.octets(), address: [0; 4], ifindex };
            sockopt::set(socket, libc::IPPROTO_IP, options.0, &group)
        }
        IpAddr::V6(group) => {
            let group = Ipv6Membership { group: group.octets(), ifindex };
            sockopt::set(socket, libc::IPPROTO_IPV6, options.1, &group)
        }
    }
}

/// Lets an IPv6 socket send from an address that no interface has, or one that may not be used yet
/// (`IPV6_FREEBIND`, Linux 4.15; `ip6_datagram_send_ctl` in `net/ipv6/datagram.c`).
pub fn speak_from_anywhere(socket: impl AsFd, so: bool) -> Result<(), SocketError> {
    sockopt::set(socket, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, &i32::from(so))
        .map_err(failed("IPV6_FREEBIND"))
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
