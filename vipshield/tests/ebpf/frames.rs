//! Ethernet frames, put together byte by byte.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// 224.0.0.18, to which adverts go.
pub(crate) const VRRP_GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 0x12];

pub(crate) const IPV4: [u8; 2] = [0x08, 0];
pub(crate) const ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const IPV6: [u8; 2] = [0x86, 0xdd];
pub(crate) const TCP: u8 = 6;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const VRRP: u8 = 112;
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;

/// A tag of this kind and VLAN.
pub(crate) fn tag(ethertype: u16, vlan: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (ethertype.to_be_bytes(), vlan.to_be_bytes());
    [a, b, c, d]
}

/// A frame, padded to the least length of one.
pub(crate) fn ethernet(
    to: [u8; 6],
    from: [u8; 6],
    tags: &[[u8; 4]],
    ethertype: [u8; 2],
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = [&to[..], &from, &tags.concat(), &ethertype, payload].concat();
    if frame.len() < 60 {
        frame.resize(60, 0);
    }
    frame
}

/// ARP for IPv4 over Ethernet: 1 asks, 2 answers.
pub(crate) fn arp(
    operation: u8,
    sender_mac: [u8; 6],
    sender: Ipv4Addr,
    target_mac: [u8; 6],
    target: Ipv4Addr,
) -> Vec<u8> {
    [
        &[0, 1, 8, 0, 6, 4, 0, operation][..],
        &sender_mac,
        &sender.octets(),
        &target_mac,
        &target.octets(),
    ]
    .concat()
}

/// `options` are of a multiple of four bytes.
pub(crate) fn ipv4(options: &[u8], fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let [a, b] = ((length + payload.len()) as u16).to_be_bytes();
    let [c, d] = fragment.to_be_bytes();
    let first = 0x40 | (length / 4) as u8;
    let mut header = vec![first, 0xc0, a, b, 0, 7, c, d, 255, protocol, 0, 0];
    header.extend([192, 0, 2, 12, 224, 0, 0, 18]);
    header.extend(options);
    let sum = !fold(sum(&header));
    header.splice(10..12, sum.to_be_bytes());
    [&header, payload].concat()
}

pub(crate) fn ipv6(
    next: u8,
    hop_limit: u8,
    from: Ipv6Addr,
    to: Ipv6Addr,
    payload: &[u8],
) -> Vec<u8> {
    let [a, b] = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, a, b, next, hop_limit][..], &from.octets(), &to.octets(), payload].concat()
}

/// An advert of version 2 or 3; its checksum is none of the kernel's business.
pub(crate) fn advert(version: u8, router: u8, addresses: &[u8]) -> Vec<u8> {
    [&[version << 4 | 1, router, 100, 1, 0, 1, 0, 0][..], addresses].concat()
}

/// A neighbour solicitation or advertisement with the right checksum, in its packet.
pub(crate) fn discovery(
    kind: u8,
    flags: u8,
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    options: &[u8],
) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets(), options].concat();
    let checksum = !fold(sum(&pseudo_packet(from, to, &message)));
    message.splice(2..4, checksum.to_be_bytes());
    ipv6(ICMPV6, 255, from, to, &message)
}

/// The option with a link-layer address: 1 is the source's, 2 the target's.
pub(crate) fn link_address(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// RFC 8200, 8.1.
fn pseudo_packet(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, ICMPV6], message].concat()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| {
            u32::from(pair.first().map_or(0, |b| *b)) << 8
                | pair.get(1).map_or(0, |b| u32::from(*b))
        })
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The group of all who might have an address (RFC 4291, 2.7.1), and its Ethernet address.
pub(crate) fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, [u8; 6]) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from(b) << 8 | u16::from(c),
    );
    (group, [0x33, 0x33, 0xff, a, b, c])
}
