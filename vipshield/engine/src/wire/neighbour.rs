//! Neighbour solicitations and advertisements (RFC 4861, sections 4.3 and 4.4).

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{
    Mac, Malformed,
    bytes::{self, Sum},
    ip::{self, Header},
};

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const FIXED: usize = 24;
/// Options that give a link-layer address, the sender's and the target's.
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const HOPS: u8 = 255;

/// What it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It asks for a neighbour, or, from the unspecified address, whether an address is free.
    Solicitation,
    /// It says who has an address.
    Advertisement {
        /// The sender is a router.
        router: bool,
        /// It answers a question.
        solicited: bool,
        /// What was known before is to be replaced.
        replaces: bool,
    },
}

/// A neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// What it is for.
    pub purpose: Purpose,
    /// Who sends it.
    pub source: Ipv6Addr,
    /// The address that is asked for, or advertised.
    pub target: Ipv6Addr,
    /// The link-layer address in its options: of the source of a solicitation, of the target of an
    /// advertisement.
    pub mac: Option<Mac>,
}

impl Neighbour {
    /// The address that it gives a link-layer address for.
    #[must_use]
    pub fn claim(&self) -> Option<(Ipv6Addr, Mac)> {
        let ip = match self.purpose {
            Purpose::Solicitation => self.source,
            Purpose::Advertisement { .. } => self.target,
        };
        Some((ip, self.mac?)).filter(|_| !ip.is_unspecified())
    }
}

/// None for other messages of `ICMPv6`.
pub(super) fn decode(header: &Header, message: &[u8]) -> Result<Option<Neighbour>, Malformed> {
    let wanted = match bytes::u8(message, 0)? {
        SOLICITATION => SOURCE_LINK_LAYER,
        ADVERTISEMENT => TARGET_LINK_LAYER,
        _ => return Ok(None),
    };
    // As RFC 4861 has a receiver check it, section 7.1.
    if header.hops != HOPS {
        return Err(Malformed::Hops);
    }
    let IpAddr::V6(source) = header.source else { return Err(Malformed::IpHeader) };
    let sum = Sum::default().add_ip(header.source).add_ip(header.destination);
    let sum = sum.add_u32(message.len() as u32).add_u32(ip::ICMPV6.into());
    if !sum.add(message).is_right() {
        return Err(Malformed::NeighbourChecksum);
    }
    if bytes::u8(message, 1)? != 0 {
        return Err(Malformed::NeighbourCode);
    }
    let target: Ipv6Addr = bytes::array(message, 8)?.into();
    if target.is_multicast() || target.is_unspecified() {
        return Err(Malformed::NeighbourTarget);
    }
    let purpose = if wanted == SOURCE_LINK_LAYER {
        Purpose::Solicitation
    } else {
        let flags = bytes::u8(message, 4)?;
        Purpose::Advertisement {
            router: flags & 0x80 != 0,
            solicited: flags & 0x40 != 0,
            replaces: flags & 0x20 != 0,
        }
    };
    let mac = link_layer(bytes::from(message, FIXED)?, wanted)?;
    Ok(Some(Neighbour { purpose, source, target, mac }))
}

/// The first link-layer address of this kind among the options.
fn link_layer(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, Malformed> {
    let mut found = None;
    while let [kind, length, ..] = options {
        // In units of eight bytes; zero would never end.
        let length = 8 * usize::from(*length);
        let (option, rest) = options
            .split_at_checked(length)
            .filter(|_| length > 0)
            .ok_or(Malformed::NeighbourOption)?;
        if *kind == wanted && length == 8 && found.is_none() {
            found = Some(Mac(bytes::array(option, 2)?)).filter(|mac| mac.is_host());
        }
        options = rest;
    }
    if options.is_empty() { Ok(found) } else { Err(Malformed::NeighbourOption) }
}
