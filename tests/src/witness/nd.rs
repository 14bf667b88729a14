//! Neighbour discovery (RFC 4861) as the neighbour witness needs it: a question, and what counts
//! as an answer.

use std::net::Ipv6Addr;

/// The Ethernet type of IPv6.
pub(super) const ETH_P_IPV6: u16 = 0x86dd;
/// Next header.
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Options: the hardware address of the sender of a question, and of the target of an answer.
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
/// Length of the Ethernet and the IPv6 header.
const HEADERS: usize = 14 + 40;

/// A neighbour solicitation to the solicited-node group, as an Ethernet frame.
pub(super) fn question(mac: [u8; 6], own: Ipv6Addr, wanted: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = wanted.octets();
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(wanted.octets());
    message.extend([SOURCE_ADDRESS, 1]);
    message.extend(mac);
    let sum = checksum(own, group, &message).to_be_bytes();
    message.iter_mut().skip(2).zip(sum).for_each(|(byte, value)| *byte = value);

    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(mac);
    frame.extend(ETH_P_IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((message.len() as u16).to_be_bytes());
    frame.extend([ICMPV6, 255]);
    frame.extend(own.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

/// The hardware address that a frame gives for `wanted`, if it is an advertisement, solicited or
/// not. Without the option it is the frame's sender's.
pub(super) fn sender_for(frame: &[u8], wanted: Ipv6Addr) -> Option<[u8; 6]> {
    let is_icmp = frame.get(12..14)? == ETH_P_IPV6.to_be_bytes() && *frame.get(20)? == ICMPV6;
    let message = frame.get(HEADERS..)?;
    if !is_icmp || *message.first()? != ADVERTISEMENT || message.get(8..24)? != wanted.octets() {
        return None;
    }
    let mut options = message.get(24..)?;
    while let [kind, eights, rest @ ..] = options {
        if *kind == TARGET_ADDRESS {
            return rest.first_chunk().copied();
        }
        options = options.get(usize::from(*eights).max(1) * 8..).unwrap_or_default();
    }
    frame.get(6..12)?.try_into().ok()
}

/// The checksum of ICMP with its pseudo-header (RFC 8200, section 8.1). The message has an even
/// length.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let addresses = [source.octets(), destination.octets()].concat();
    let words = addresses.as_chunks::<2>().0.iter().chain(message.as_chunks::<2>().0);
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    sum += message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
    const OWN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, 0);

    #[test]
    fn a_question_is_no_answer_and_sums_to_zero() {
        let frame = question([2; 6], OWN, VIP);
        assert_eq!(frame.len(), 86);
        assert_eq!(sender_for(&frame, VIP), None);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x10);
        assert_eq!(frame[38..54], group.octets());
        assert_eq!(checksum(OWN, group, &frame[HEADERS..]), 0);
    }

    #[test]
    fn an_advertisement_names_its_target() {
        let mut frame = question([2; 6], OWN, VIP);
        frame[HEADERS] = ADVERTISEMENT;
        assert_eq!(sender_for(&frame, VIP), Some([2; 6]), "without its option");
        frame[HEADERS + 24] = TARGET_ADDRESS;
        frame[HEADERS + 26..HEADERS + 32].fill(7);
        assert_eq!(sender_for(&frame, VIP), Some([7; 6]));
        assert_eq!(sender_for(&frame, OWN), None);
        assert_eq!(sender_for(&frame[..60], VIP), None);
    }
}
