//! Ethernet II headers with VLAN tags in band (IEEE 802.1Q, 802.1ad).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Malformed, bytes};

pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
/// Tag protocol identifiers: 802.1Q and 802.1ad.
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// A service tag and a customer tag.
const MAX_TAGS: usize = 2;
/// The low bits of a tag's control information are the VLAN's.
const VLAN_MASK: u16 = 0x0fff;
/// The identifier of a tag that only tells a priority: such a frame is in no VLAN (IEEE 802.1Q, 9.6).
const NO_VLAN: u16 = 0;

/// A hardware address of 48 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The address of a group; the broadcast address is one.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// A host can have it: neither a group's nor all zeros.
    #[must_use]
    pub fn is_host(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A text that is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected six bytes in hexadecimal, with colons between")]
pub struct NoMac;

impl FromStr for Mac {
    type Err = NoMac;

    fn from_str(text: &str) -> Result<Self, NoMac> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(NoMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NoMac)?;
        }
        if parts.next().is_some() { Err(NoMac) } else { Ok(Self(mac)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) destination: Mac,
    pub(super) source: Mac,
    pub(super) vlan: Option<u16>,
    /// Of the payload.
    pub(super) ethertype: u16,
}

/// The header of a frame, and what follows it.
pub(super) fn split(frame: &[u8]) -> Result<(Header, &[u8]), Malformed> {
    let (destination, source) = (Mac(bytes::array(frame, 0)?), Mac(bytes::array(frame, 6)?));
    let mut at = 12;
    let mut ethertype = bytes::u16(frame, at)?;
    let mut vlan = None;
    let mut tags = 0;
    while TAGS.contains(&ethertype) {
        if tags == MAX_TAGS {
            return Err(Malformed::VlanTags);
        }
        tags += 1;
        let tag = bytes::u16(frame, at + 2)? & VLAN_MASK;
        vlan = vlan.or((tag != NO_VLAN).then_some(tag));
        at += 4;
        ethertype = bytes::u16(frame, at)?;
    }
    Ok((Header { destination, source, vlan, ethertype }, bytes::from(frame, at + 2)?))
}
