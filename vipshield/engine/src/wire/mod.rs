//! Decoders of the frames that say who owns an address: ARP (RFC 826), neighbour solicitations and
//! advertisements (RFC 4861), VRRP version 2 (RFC 3768) and version 3 (RFC 9568, which is RFC 5798
//! brought up to date).
//!
//! Pure and total: bytes in, a value or a named reason out. Nothing here panics, allocates without a
//! bound, or trusts a length before it was checked.

mod arp;
mod bytes;
mod ethernet;
mod ip;
mod malformed;
mod neighbour;
mod vrrp;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests read files")]
mod tests;

use serde::{Deserialize, Serialize};

pub use self::{
    arp::{Arp, Operation},
    ethernet::Mac,
    malformed::Malformed,
    neighbour::{Neighbour, Purpose},
    vrrp::{Advert, Authentication, Checksum, Fingerprint, Version},
};

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub enum Content {
    /// ARP for IPv4 over Ethernet.
    Arp(Arp),
    /// A neighbour solicitation or advertisement.
    Neighbour(Neighbour),
    /// A VRRP advert.
    Advert(Advert),
    /// Nothing about who owns an address.
    Other,
}

/// A frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// The hardware address it is sent to.
    pub destination: Mac,
    /// The hardware address it is sent from.
    pub source: Mac,
    /// The VLAN identifier of its outermost tag in band that is one of a VLAN, if it has one.
    pub vlan: Option<u16>,
    /// What it says.
    pub content: Content,
}

/// Decodes a frame from the first byte of its Ethernet header on. `length` is how long it was on the
/// wire: more than `bytes` if not all of it was captured.
pub fn decode(bytes: &[u8], length: usize) -> Result<Frame, Malformed> {
    let cut_off = length > bytes.len();
    decode_whole(bytes).map_err(|reason| match reason {
        // The frame may have had what the capture lacks.
        Malformed::Truncated if cut_off => Malformed::NotCaptured,
        reason => reason,
    })
}

fn decode_whole(bytes: &[u8]) -> Result<Frame, Malformed> {
    let (header, payload) = ethernet::split(bytes)?;
    let content = match header.ethertype {
        ethernet::ARP => Content::Arp(arp::decode(payload)?),
        ethernet::IPV4 => ipv4(payload)?,
        ethernet::IPV6 => ipv6(payload)?,
        _ => Content::Other,
    };
    let ethernet::Header { destination, source, vlan, .. } = header;
    Ok(Frame { destination, source, vlan, content })
}

fn ipv4(packet: &[u8]) -> Result<Content, Malformed> {
    let (header, payload) = ip::v4(packet)?;
    if header.protocol != ip::VRRP {
        return Ok(Content::Other);
    }
    vrrp::decode(&header, payload?).map(Content::Advert)
}

fn ipv6(packet: &[u8]) -> Result<Content, Malformed> {
    let (header, payload) = ip::v6(packet)?;
    match header.protocol {
        ip::VRRP => vrrp::decode(&header, payload?).map(Content::Advert),
        ip::ICMPV6 => {
            let said = neighbour::decode(&header, payload?)?;
            Ok(said.map_or(Content::Other, Content::Neighbour))
        }
        _ => Ok(Content::Other),
    }
}
