//! VRRP adverts: version 2 (RFC 3768) and version 3 (RFC 9568) over IPv4 and IPv6.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Malformed,
    bytes::{self, Sum},
    ip::{self, Header},
};

const ADVERT: u8 = 1;
const FIXED: usize = 8;
/// Authentication data of version 2, there with every authentication type.
const AUTHENTICATION: usize = 8;
/// The group of IPv4 (RFC 9568, section 5.1.1.2).
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// What every advert to a group is sent with, so that none comes from beyond a router (section
/// 5.1.1.3).
const HOPS: u8 = 255;

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Version {
    /// RFC 3768: IPv4, whole seconds.
    V2,
    /// RFC 9568: IPv4 and IPv6, hundredths of a second.
    V3,
}

impl From<Version> for u8 {
    fn from(version: Version) -> Self {
        match version {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

impl TryFrom<u8> for Version {
    type Error = Malformed;

    fn try_from(number: u8) -> Result<Self, Malformed> {
        match number {
            2 => Ok(Self::V2),
            3 => Ok(Self::V3),
            _ => Err(Malformed::VrrpVersion),
        }
    }
}

/// How an advert of version 2 is authenticated (RFC 2338, section 5.3.6). Version 3 has nothing of
/// the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authentication {
    /// Not at all.
    None,
    /// By a password in clear text, of which only a fingerprint is kept.
    Password(Fingerprint),
    /// By an IP authentication header, which is looked at by nobody here.
    Header,
}

/// Tells two passwords apart, and not what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of this password, with the zeros that fill it up.
    #[must_use]
    pub fn of(password: [u8; AUTHENTICATION]) -> Self {
        let mut hasher = DefaultHasher::new();
        password.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// What the checksum of an advert covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// What its version says: the message alone in version 2, with a pseudo-header in version 3.
    Standard,
    /// Version 3 over IPv4 without the pseudo-header: keepalived's `v3_checksum_as_v2`, and what
    /// other implementations made of RFC 5798.
    NoPseudoHeader,
    /// Version 3 over IPv4, unicast, as if it were sent to the group: keepalived before 1.3.6.
    GroupPseudoHeader,
}

/// A VRRP advert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Version of the protocol.
    pub version: Version,
    /// Who sends it.
    pub source: IpAddr,
    /// To whom: VRRP's group, or a peer.
    pub destination: IpAddr,
    /// TTL or hop limit: 255 in an advert to a group, anything in one to a peer.
    pub hops: u8,
    /// The virtual router, 1 to 255.
    pub router_id: u8,
    /// 0 gives up, 255 has the address for its own.
    pub priority: u8,
    /// Time between two adverts, not zero.
    pub interval: Duration,
    /// The addresses of the virtual router, in the order in which they are there.
    pub addresses: Vec<IpAddr>,
    /// Version 2 only.
    pub authentication: Authentication,
    /// What its checksum covers.
    pub checksum: Checksum,
    /// Something follows that an older receiver takes for too much (keepalived 2.4: `auth_hmac`).
    pub trailer: bool,
}

impl Advert {
    /// It is meant for one peer.
    #[must_use]
    pub const fn is_unicast(&self) -> bool {
        !self.destination.is_multicast()
    }
}

/// Of what follows the addresses, and version 2's authentication data, only that it is there is noted:
/// newer versions of keepalived put a trailer there.
pub(super) fn decode(header: &Header, message: &[u8]) -> Result<Advert, Malformed> {
    let kind = bytes::u8(message, 0)?;
    let version = Version::try_from(kind >> 4)?;
    if version == Version::V2 && header.source.is_ipv6() {
        return Err(Malformed::VrrpVersion);
    }
    if kind & 0xf != ADVERT {
        return Err(Malformed::VrrpType);
    }
    if header.hops != HOPS && header.destination.is_multicast() {
        return Err(Malformed::Hops);
    }
    if header.source.is_multicast() || header.source.is_unspecified() {
        return Err(Malformed::VrrpSource);
    }
    let router_id = bytes::u8(message, 1)?;
    if router_id == 0 {
        return Err(Malformed::VrrpRouter);
    }
    let size = if header.source.is_ipv6() { 16 } else { 4 };
    let end = FIXED + size * usize::from(bytes::u8(message, 3)?);
    let (authentication, interval) = match version {
        Version::V2 => {
            let authentication = match bytes::u8(message, 4)? {
                0 => Authentication::None,
                1 => {
                    let password = bytes::array(message, end).map_err(|_| Malformed::VrrpLength)?;
                    Authentication::Password(Fingerprint::of(password))
                }
                2 => Authentication::Header,
                _ => return Err(Malformed::VrrpAuthentication),
            };
            (authentication, Duration::from_secs(bytes::u8(message, 5)?.into()))
        }
        Version::V3 => {
            let hundredths = bytes::u16(message, 4)? & 0x0fff;
            (Authentication::None, Duration::from_millis(10 * u64::from(hundredths)))
        }
    };
    let whole = if version == Version::V2 { end + AUTHENTICATION } else { end };
    let (Some(list), Some(covered)) = (message.get(FIXED..end), message.get(..whole)) else {
        return Err(Malformed::VrrpLength);
    };
    if list.is_empty() {
        return Err(Malformed::VrrpLength);
    }
    let checksum = checksum(version, header, covered, message)?;
    if interval.is_zero() {
        return Err(Malformed::VrrpInterval);
    }
    Ok(Advert {
        version,
        source: header.source,
        destination: header.destination,
        hops: header.hops,
        router_id,
        priority: bytes::u8(message, 2)?,
        interval,
        addresses: addresses(list, size),
        authentication,
        checksum,
        trailer: message.len() > whole,
    })
}

fn addresses(list: &[u8], size: usize) -> Vec<IpAddr> {
    if size == 16 {
        let (all, _) = list.as_chunks::<16>();
        all.iter().map(|octets| IpAddr::from(*octets)).collect()
    } else {
        let (all, _) = list.as_chunks::<4>();
        all.iter().map(|octets| IpAddr::from(*octets)).collect()
    }
}

/// What the checksum covers, if it is right. `covered` is the message without a trailer; over IPv6
/// it is the kernel that computes it, over all of `message` (`IPV6_CHECKSUM` in RFC 3542).
fn checksum(
    version: Version,
    header: &Header,
    covered: &[u8],
    message: &[u8],
) -> Result<Checksum, Malformed> {
    let pseudo = |destination: IpAddr, length: usize| {
        let sum = Sum::default().add_ip(header.source).add_ip(destination);
        sum.add_u32(length as u32).add_u32(ip::VRRP.into())
    };
    let right = match (version, header.source) {
        (Version::V2, _) => Sum::default().add(covered).is_right().then_some(Checksum::Standard),
        (Version::V3, IpAddr::V6(_)) => {
            let sum = pseudo(header.destination, message.len()).add(message);
            sum.is_right().then_some(Checksum::Standard)
        }
        (Version::V3, IpAddr::V4(_)) => {
            let with = |destination| pseudo(destination, covered.len()).add(covered).is_right();
            if with(header.destination) {
                Some(Checksum::Standard)
            } else if Sum::default().add(covered).is_right() {
                Some(Checksum::NoPseudoHeader)
            } else {
                with(GROUP.into()).then_some(Checksum::GroupPseudoHeader)
            }
        }
    };
    right.ok_or(Malformed::VrrpChecksum)
}
