//! Addresses of vipshield's own on a NIC: IPv4, link-local, of link scope, and with a lifetime.
//!
//! Kube-OVN leaves link-local addresses where they are, and nobody chooses one of link scope as the
//! source of a packet that goes further. Should vipshield die, they end by themselves.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::{AddressAddRequest, Handle};

/// Keeps the routes through a NIC alive while they are carried.
pub const ANCHOR: Ipv4Addr = Ipv4Addr::new(169, 254, 52, 52);
/// Stands in for the address of a NIC that is a port while a daemon may start, so that it finds one.
pub const STAND_IN: Ipv4Addr = Ipv4Addr::new(169, 254, 52, 53);
/// All of them.
pub const OWN: [Ipv4Addr; 2] = [ANCHOR, STAND_IN];
/// The length of their prefix.
pub(super) const LENGTH: u8 = 32;

/// The request that adds an address of vipshield's own, or renews it.
pub(super) fn add(handle: &Handle, nic: u32, own: Ipv4Addr, lifetime: u32) -> AddressAddRequest {
    let mut request = handle.address().add(nic, IpAddr::V4(own), LENGTH);
    let message = request.message_mut();
    message.header.scope = AddressScope::Link;
    message.attributes.push(lasting(lifetime));
    request
}

/// The message that deletes one.
pub(super) fn removal(handle: &Handle, nic: u32, own: Ipv4Addr) -> AddressMessage {
    handle.address().add(nic, IpAddr::V4(own), LENGTH).message_mut().clone()
}

/// The request that adds any address for a moment: without a route to its subnet, and with an end
/// should nobody delete it.
pub(super) fn flash(handle: &Handle, nic: u32, ip: IpAddr, length: u8) -> AddressAddRequest {
    let mut request = handle.address().add(nic, ip, length);
    let message = request.message_mut();
    if matches!(ip, IpAddr::V4(ip) if ip.is_link_local()) {
        message.header.scope = AddressScope::Link;
    }
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    message.attributes.push(lasting(1));
    request
}

fn lasting(seconds: u32) -> AddressAttribute {
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_preferred = seconds;
    lifetime.ifa_valid = seconds;
    AddressAttribute::CacheInfo(lifetime)
}
