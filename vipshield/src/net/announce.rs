//! Telling the network where an address is: gratuitous ARP, unsolicited neighbour advertisements.
//!
//! The frames are those that keepalived sends when it takes a VIP, and the ARP reply besides
//! (RFC 5944, 4.6, allows both forms; there are hosts that heed only the one or the other).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use thiserror::Error;

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// `linux/if_arp.h`.
const ARPOP_REQUEST: u8 = 1;
const ARPOP_REPLY: u8 = 2;
/// RFC 4861, 4.4.
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// `linux/in6.h`.
const IPPROTO_ICMPV6: u8 = 58;
/// All nodes on the link, and the hardware address of that group (RFC 2464, 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

/// An address could not be announced.
#[derive(Debug, Error)]
#[error("a packet socket: {0}")]
pub struct AnnounceError(#[source] io::Error);

/// A packet socket in the network namespace of the thread that opened it, to send alone.
#[derive(Debug)]
pub struct Announcer(OwnedFd);

impl Announcer {
    /// Needs `CAP_NET_RAW`.
    pub fn open() -> Result<Self, AnnounceError> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Protocol 0: it receives nothing.
        // SAFETY: a system call without pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if fd < 0 {
            return Err(AnnounceError(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Says once, in every form, that `address` is on the link of this interface, at the hardware address that the
    /// interface has now: a bridge may have got another since it was heard of.
    pub fn announce(&self, ifindex: u32, address: IpAddr) -> Result<(), AnnounceError> {
        let mac = self.mac(ifindex)?;
        match address {
            IpAddr::V4(address) => {
                self.send(ifindex, ETHERTYPE_ARP, &arp(ARPOP_REQUEST, address, mac))?;
                self.send(ifindex, ETHERTYPE_ARP, &arp(ARPOP_REPLY, address, mac))
            }
            IpAddr::V6(address) => {
                self.send(ifindex, ETHERTYPE_IPV6, &neighbor_advertisement(address, mac))
            }
        }
    }

    /// The hardware address of an interface: the kernel tells it of the one that a packet socket is bound to
    /// (`packet_getname` in `net/packet/af_packet.c`).
    fn mac(&self, ifindex: u32) -> Result<[u8; 6], AnnounceError> {
        // SAFETY: plain integers, for which all zero is a value.
        let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        at.sll_family = libc::AF_PACKET as u16;
        at.sll_ifindex = ifindex as i32;
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the pointer is to what is as long as is said, and only read.
        if unsafe { libc::bind(self.0.as_raw_fd(), (&raw const at).cast(), length) } < 0 {
            return Err(AnnounceError(io::Error::last_os_error()));
        }
        let told =
            // SAFETY: the pointers are to locals, of which the second says how long the first is.
            unsafe { libc::getsockname(self.0.as_raw_fd(), (&raw mut at).cast(), &raw mut length) };
        if told < 0 {
            return Err(AnnounceError(io::Error::last_os_error()));
        }
        match at.sll_addr.first_chunk() {
            Some(mac) if at.sll_halen == 6 => Ok(*mac),
            _ => Err(AnnounceError(io::Error::other("that is no Ethernet interface"))),
        }
    }

    fn send(&self, ifindex: u32, ethertype: u16, frame: &[u8]) -> Result<(), AnnounceError> {
        // SAFETY: plain integers, for which all zero is a value.
        let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_protocol = ethertype.to_be();
        to.sll_ifindex = ifindex as i32;
        // SAFETY: both pointers are to what is as long as is said, and only read.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 { Err(AnnounceError(io::Error::last_os_error())) } else { Ok(()) }
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A gratuitous ARP packet (RFC 5944, 4.6; RFC 826 has the format): sender and target are the
/// address itself. In a request the target's hardware address means nothing, in a reply it is the
/// sender's.
fn arp(operation: u8, address: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend(if operation == ARPOP_REPLY { mac } else { BROADCAST });
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement to all nodes (RFC 4861, 4.4 and 7.2.6), which overrides
/// what they know.
fn neighbor_advertisement(address: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut message = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // The option's length is in units of eight octets.
    message.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    let checksum = checksum(address, &message);
    for (to, from) in message.iter_mut().skip(2).zip(checksum.to_be_bytes()) {
        *to = from;
    }
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    // Version 6, no traffic class, no flow label.
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    // The hop limit proves that no router forwarded it.
    frame.extend([IPPROTO_ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// RFC 4443, 2.3: over a pseudo-header and the message.
fn checksum(from: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    let mut bytes = Vec::with_capacity(40 + message.len());
    bytes.extend(from.octets());
    bytes.extend(ALL_NODES.octets());
    bytes.extend(length);
    bytes.extend([0, 0, 0, IPPROTO_ICMPV6]);
    bytes.extend(message);
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use etherparse::{
        ArpOperation, EtherType, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
        icmpv6::NeighborAdvertisementHeader,
    };

    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    #[test]
    fn both_forms_of_gratuitous_arp() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        for (operation, meaning, target) in [
            (ARPOP_REQUEST, ArpOperation::REQUEST, BROADCAST),
            (ARPOP_REPLY, ArpOperation::REPLY, MAC),
        ] {
            let frame = arp(operation, vip, MAC);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let ethernet = parsed.link.unwrap().to_header().unwrap().ethernet2().unwrap();
            assert_eq!((ethernet.source, ethernet.destination), (MAC, BROADCAST));
            let Some(NetSlice::Arp(packet)) = parsed.net else { panic!("no ARP in {frame:x?}") };
            let packet = packet.to_packet().try_eth_ipv4().unwrap();
            assert_eq!(packet.operation, meaning);
            assert_eq!((packet.sender_mac, packet.target_mac), (MAC, target));
            assert_eq!((packet.sender_ipv4, packet.target_ipv4), (vip.octets(), vip.octets()));
        }
    }

    #[test]
    fn an_unsolicited_advertisement_that_overrides() {
        for last in [0x10, 0xffff] {
            let vip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            let frame = neighbor_advertisement(vip, MAC);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let ethernet = parsed.link.unwrap().to_header().unwrap().ethernet2().unwrap();
            assert_eq!((ethernet.source, ethernet.destination), (MAC, ALL_NODES_MAC));
            assert_eq!(ethernet.ether_type, EtherType::IPV6);
            let Some(NetSlice::Ipv6(packet)) = parsed.net else { panic!("no IPv6 in {frame:x?}") };
            let header = packet.header();
            assert_eq!((header.source_addr(), header.destination_addr()), (vip, ALL_NODES));
            assert_eq!(header.hop_limit(), 255);
            let Some(TransportSlice::Icmpv6(message)) = parsed.transport else {
                panic!("no ICMPv6 in {frame:x?}")
            };
            assert!(message.is_checksum_valid(header.source(), header.destination()));
            let flags =
                NeighborAdvertisementHeader { router: false, solicited: false, r#override: true };
            assert_eq!(message.icmp_type(), Icmpv6Type::NeighborAdvertisement(flags));
            let mut body = vip.octets().to_vec();
            body.extend([2, 1]);
            body.extend(MAC);
            assert_eq!(message.payload(), body);
        }
    }
}
