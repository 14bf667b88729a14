//! Multicast groups of neighbour discovery, held while the kernel itself has left them.
//!
//! The kernel leaves the solicited-node group of an address with the address (`addrconf_leave_solict`
//! in `net/ipv6/addrconf.c`), and a physical NIC then drops what is sent there. A packet socket may
//! join the group's hardware address (`packet(7)`), and leaves it when it is closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use thiserror::Error;

/// A group could not be joined.
#[derive(Debug, Error)]
#[error("joining a group of neighbour discovery on interface {ifindex}: {source}")]
pub struct GroupError {
    /// Interface index.
    ifindex: u32,
    /// What the kernel said.
    source: io::Error,
}

/// Holds groups on interfaces. Dropping it leaves them.
pub struct Groups {
    /// Bound to no protocol: it receives nothing.
    socket: OwnedFd,
    /// Hardware addresses, by interface.
    joined: BTreeMap<u32, BTreeSet<[u8; 6]>>,
}

impl Groups {
    /// Holds nothing yet. Needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, joined: BTreeMap::new() })
    }

    /// Holds exactly the groups of these addresses on an interface.
    pub fn hold(&mut self, ifindex: u32, addresses: &BTreeSet<IpAddr>) -> Result<(), GroupError> {
        let wanted: BTreeSet<[u8; 6]> = addresses.iter().filter_map(group).collect();
        let joined = self.joined.entry(ifindex).or_default();
        for gone in joined.difference(&wanted) {
            // The kernel forgets groups of an interface that is gone by itself.
            let _ = change(&self.socket, libc::PACKET_DROP_MEMBERSHIP, ifindex, *gone);
        }
        joined.retain(|group| wanted.contains(group));
        for new in wanted {
            if !joined.contains(&new) {
                change(&self.socket, libc::PACKET_ADD_MEMBERSHIP, ifindex, new)
                    .map_err(|source| GroupError { ifindex, source })?;
                joined.insert(new);
            }
        }
        if joined.is_empty() {
            self.joined.remove(&ifindex);
        }
        Ok(())
    }
}

/// The hardware address to which those send who ask for an IPv6 address (RFC 4291, 2.7.1, and RFC
/// 2464, 7).
fn group(address: &IpAddr) -> Option<[u8; 6]> {
    let IpAddr::V6(ip) = address else { return None };
    let [.., a, b, c] = ip.octets();
    Some([0x33, 0x33, 0xff, a, b, c])
}

fn change(socket: &OwnedFd, option: i32, ifindex: u32, group: [u8; 6]) -> io::Result<()> {
    let mut mr_address = [0; 8];
    for (to, from) in mr_address.iter_mut().zip(group) {
        *to = from;
    }
    let request = libc::packet_mreq {
        mr_ifindex: ifindex.cast_signed(),
        mr_type: libc::PACKET_MR_MULTICAST as u16,
        mr_alen: 6,
        mr_address,
    };
    // SAFETY: the kernel reads the request, which is as long as is said and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
