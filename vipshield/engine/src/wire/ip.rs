//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, as far as they are in front of VRRP and neighbour
//! discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Malformed,
    bytes::{self, Sum},
};

/// `IPPROTO_VRRP` (RFC 9568, section 5.1.1.4).
pub(super) const VRRP: u8 = 112;
pub(super) const ICMPV6: u8 = 58;

/// Extension headers of IPv6 (RFC 8200, section 4): hop-by-hop options, routing, fragment,
/// destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// More than anybody sends in front of what is looked for here.
const MAX_EXTENSIONS: usize = 4;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// More fragments, and the offset.
const FRAGMENTED: u16 = 0x3fff;

/// What is needed of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// TTL or hop limit.
    pub(super) hops: u8,
    /// Of the payload.
    pub(super) protocol: u8,
}

/// A header, and what it carries: whatever follows that pads the frame. A payload that is cut off
/// matters only to who wants it.
type Split<'a> = Result<(Header, Result<&'a [u8], Malformed>), Malformed>;

pub(super) fn v4(packet: &[u8]) -> Split<'_> {
    let first = bytes::u8(packet, 0)?;
    let header_length = usize::from(first & 0xf) * 4;
    if first >> 4 != 4 || header_length < IPV4_HEADER {
        return Err(Malformed::IpHeader);
    }
    let header = packet.get(..header_length).ok_or(Malformed::Truncated)?;
    let source: Ipv4Addr = bytes::array(header, 12)?.into();
    let destination: Ipv4Addr = bytes::array(header, 16)?.into();
    let total = usize::from(bytes::u16(header, 2)?);
    let fragmented = bytes::u16(header, 6)? & FRAGMENTED != 0;
    let payload = if total < header_length {
        Err(Malformed::IpLength)
    } else if !Sum::default().add(header).is_right() {
        Err(Malformed::IpChecksum)
    } else if fragmented {
        Err(Malformed::Fragment)
    } else {
        packet.get(header_length..total).ok_or(Malformed::Truncated)
    };
    let header = Header {
        source: source.into(),
        destination: destination.into(),
        hops: bytes::u8(header, 8)?,
        protocol: bytes::u8(header, 9)?,
    };
    Ok((header, payload))
}

pub(super) fn v6(packet: &[u8]) -> Split<'_> {
    if bytes::u8(packet, 0)? >> 4 != 6 {
        return Err(Malformed::IpHeader);
    }
    let source: Ipv6Addr = bytes::array(packet, 8)?.into();
    let destination: Ipv6Addr = bytes::array(packet, 24)?.into();
    let end = IPV6_HEADER + usize::from(bytes::u16(packet, 4)?);
    let mut payload = packet.get(IPV6_HEADER..end).ok_or(Malformed::Truncated);
    let mut protocol = bytes::u8(packet, 6)?;
    for _ in 0..=MAX_EXTENSIONS {
        if !matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS) {
            break;
        }
        // If it is cut off, what it is of cannot be told any more.
        let (next, rest) = behind(protocol, payload?)?;
        (protocol, payload) = (next, Ok(rest));
    }
    if matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS) {
        return Err(Malformed::Extension);
    }
    let header = Header {
        source: source.into(),
        destination: destination.into(),
        hops: bytes::u8(packet, 7)?,
        protocol,
    };
    Ok((header, payload))
}

/// What is behind an extension header: the protocol, and its bytes.
fn behind(kind: u8, extension: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    if kind == FRAGMENT {
        return Err(Malformed::Fragment);
    }
    // In units of eight bytes, the first not counted.
    let length = 8 * (1 + usize::from(bytes::u8(extension, 1)?));
    Ok((bytes::u8(extension, 0)?, bytes::from(extension, length)?))
}
