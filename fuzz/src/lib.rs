//! Headers around what a fuzzer invents, with right lengths and checksums, so that it gets past them.

/// An Ethernet header in front of `payload`.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 0, 0, 18, 0x52, 0x54, 0, 0, 0, 1];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet to VRRP's group, in a frame.
pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total = 20 + payload.len().min(1480) as u16;
    let mut header = vec![0x45, 0xc0, 0, 0, 0, 1, 0, 0, 255, protocol, 0, 0];
    header.extend([192, 0, 2, 11, 224, 0, 0, 18]);
    put(&mut header, 2, total);
    let sum = checksum(&header);
    put(&mut header, 10, sum);
    header.extend(payload);
    ethernet(0x0800, &header)
}

/// The addresses of an IPv6 packet from a node to VRRP's group.
const ADDRESSES: [u8; 32] = [
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0x12,
];

/// An IPv6 packet in a frame.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 255];
    put(&mut header, 4, payload.len().min(1480) as u16);
    header.extend(ADDRESSES);
    header.extend(payload);
    ethernet(0x86dd, &header)
}

/// A message with the checksum at `at` put right, with an IPv6 pseudo-header if there is a protocol.
pub fn right(message: &[u8], at: usize, protocol: Option<u8>) -> Vec<u8> {
    let mut message = message.to_vec();
    put(&mut message, at, 0);
    let mut covered = Vec::new();
    if let Some(protocol) = protocol {
        covered.extend(ADDRESSES);
        covered.extend((message.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(&message);
    let sum = checksum(&covered);
    put(&mut message, at, sum);
    message
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    let mut sum: u64 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
