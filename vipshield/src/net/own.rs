//! Addresses of vipshield's own on a NIC: IPv4, link-local, and with a lifetime.
//!
//! Kube-OVN leaves link-local addresses where they are. Should vipshield die, they end by themselves.
//!
//! The kernel orders the addresses of an interface by scope, widest last, and else as they came
//! (`__inet_insert_ifa` in `net/ipv4/devinet.c`), and many take the first for the node's. While the NIC's own
//! are on their way vipshield's is of link scope: nobody chooses one as the source of a packet that goes
//! further. While they are there it has theirs, and comes after them.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::{AddressAddRequest, Handle};

/// Keeps the routes through a NIC alive while its addresses are on their way.
pub const ANCHOR: Ipv4Addr = Ipv4Addr::new(169, 254, 52, 52);
/// The same on a NIC that has them still: it is the last.
pub const EARLY_ANCHOR: Ipv4Addr = Ipv4Addr::new(169, 254, 52, 54);
/// Stands in for the address of a NIC that is a port while a daemon may start, so that it finds one.
pub const STAND_IN: Ipv4Addr = Ipv4Addr::new(169, 254, 52, 53);
/// All of them.
pub const OWN: [Ipv4Addr; 3] = [ANCHOR, STAND_IN, EARLY_ANCHOR];
/// The length of their prefix.
pub(super) const LENGTH: u8 = 32;

/// The request that adds an address of vipshield's own, or renews it.
pub(super) fn add(handle: &Handle, nic: u32, own: Ipv4Addr, lifetime: u32) -> AddressAddRequest {
    let mut request = handle.address().add(nic, IpAddr::V4(own), LENGTH);
    let message = request.message_mut();
    if own != EARLY_ANCHOR {
        message.header.scope = AddressScope::Link;
    }
    message.attributes.push(lasting(lifetime));
    request
}

/// The message that deletes one.
pub(super) fn removal(handle: &Handle, nic: u32, own: Ipv4Addr) -> AddressMessage {
    handle.address().add(nic, IpAddr::V4(own), LENGTH).message_mut().clone()
}

/// The request that adds any address for a moment: without a route to its subnet, and with an end
/// should nobody delete it. An IPv6 one is not checked for duplicates first: what was never checked to its
/// end nobody is told of, and keepalived pays no heed to its removal (since 2.3.3).
pub(super) fn flash(handle: &Handle, nic: u32, ip: IpAddr, length: u8) -> AddressAddRequest {
    let mut request = handle.address().add(nic, ip, length);
    let message = request.message_mut();
    if matches!(ip, IpAddr::V4(ip) if ip.is_link_local()) {
        message.header.scope = AddressScope::Link;
    }
    let mut flags = AddressFlags::Noprefixroute;
    flags.set(AddressFlags::Nodad, ip.is_ipv6());
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(lasting(1));
    request
}

fn lasting(seconds: u32) -> AddressAttribute {
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = seconds;
    lifetime.ifa_valid = seconds;
    AddressAttribute::CacheInfo(lifetime)
}
