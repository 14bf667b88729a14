//! A host that says on the wire what is not true: frames made by hand, sent as fast as asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Type};

use crate::clock;
use crate::lab::Host;
use crate::witness::{Watcher, arp, socket_in};

/// The hardware address of who forges, where a frame says nothing else.
pub const FORGER: [u8; 6] = [0x52, 0x54, 0, 0, 0x66, 0x66];
/// Frames go out in bunches, so often.
const PERIOD: Duration = Duration::from_millis(2);

/// VRRP's protocol number (RFC 9568, section 5.1.1.4).
const VRRP: u8 = 112;

/// A version of VRRP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 3768: IPv4, whole seconds, a checksum of the message alone.
    V2,
    /// RFC 9568: IPv4 and IPv6, hundredths of a second, and as keepalived has it (RFC 5798) a
    /// checksum with a pseudo-header.
    V3,
}

impl Version {
    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::V2 => Self::V3,
            Self::V3 => Self::V2,
        }
    }
}

/// A VRRP advert to the group.
#[derive(Clone, Debug)]
pub struct Advert {
    /// Version of the protocol.
    pub version: Version,
    /// The hardware address that it comes from.
    pub mac: [u8; 6],
    /// Its source address, which says to which group it goes.
    pub source: IpAddr,
    /// The virtual router.
    pub router_id: u8,
    /// The priority.
    pub priority: u8,
    /// Time between two adverts.
    pub interval: Duration,
    /// The virtual router's addresses.
    pub addresses: Vec<IpAddr>,
    /// Time to live, or hop limit: 255, if it is to be heeded.
    pub ttl: u8,
    /// Whether the checksum of version 3 covers the pseudo-header, as it has to over IPv6.
    pub pseudo_header: bool,
    /// What is wrong with its checksum.
    pub wrong: u16,
    /// The password of version 2, if it has one (RFC 2338, section 5.3.6).
    pub password: Option<[u8; 8]>,
}

impl Advert {
    /// One of a virtual router with these addresses, with this priority and nothing wrong.
    #[must_use]
    pub fn new(version: Version, router_id: u8, priority: u8, addresses: Vec<IpAddr>) -> Self {
        let source = match addresses.first() {
            Some(IpAddr::V6(_)) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66).into(),
            _ => Ipv4Addr::new(192, 0, 2, 66).into(),
        };
        Self {
            version,
            mac: FORGER,
            source,
            router_id,
            priority,
            interval: Duration::from_secs(1),
            addresses,
            ttl: 255,
            pseudo_header: true,
            wrong: 0,
            password: None,
        }
    }

    /// The VRRP message alone.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let count = self.addresses.len() as u8;
        let (kind, interval) = match self.version {
            // The kind of authentication, and seconds.
            Version::V2 => {
                let kind = u16::from(self.password.is_some());
                (0x21, kind << 8 | self.interval.as_secs() as u16)
            }
            Version::V3 => (0x31, (self.interval.as_millis() / 10) as u16),
        };
        let mut message = vec![kind, self.router_id, self.priority, count];
        message.extend(interval.to_be_bytes());
        message.extend([0, 0]);
        message.extend(self.addresses.iter().flat_map(octets));
        let mut summed = Vec::new();
        match self.version {
            // What authenticates nothing takes its room nevertheless.
            Version::V2 => message.extend(self.password.unwrap_or_default()),
            // The pseudo-header (RFC 8200, section 8.1); what it has more of over IPv6 is zero.
            Version::V3 if self.pseudo_header => {
                summed.extend([octets(&self.source), octets(&self.group())].concat());
                summed.extend((message.len() as u16).to_be_bytes());
                summed.extend([0, VRRP]);
            }
            Version::V3 => {}
        }
        summed.extend(&message);
        let sum = checksum(&summed) ^ self.wrong;
        put(&mut message, 6, sum);
        message
    }

    /// As an Ethernet frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let message = self.message();
        let length = message.len() as u16;
        let (to, kind, mut header) = match self.source {
            IpAddr::V4(_) => {
                let header = vec![0x45, 0xc0, 0, 0, 0, 1, 0, 0, self.ttl, VRRP, 0, 0];
                ([1, 0, 0x5e, 0, 0, 0x12], [8, 0], header)
            }
            IpAddr::V6(_) => {
                let header = vec![0x60, 0, 0, 0, 0, 0, VRRP, self.ttl];
                ([0x33, 0x33, 0, 0, 0, 0x12], [0x86, 0xdd], header)
            }
        };
        header.extend([octets(&self.source), octets(&self.group())].concat());
        if self.source.is_ipv4() {
            put(&mut header, 2, 20 + length);
            let sum = checksum(&header);
            put(&mut header, 10, sum);
        } else {
            put(&mut header, 4, length);
        }

        let mut frame = to.to_vec();
        frame.extend(self.mac);
        frame.extend(kind);
        frame.extend(header);
        frame.extend(message);
        frame
    }

    /// The group (RFC 9568, sections 5.1.1.2 and 5.1.2.2).
    fn group(&self) -> IpAddr {
        match self.source {
            IpAddr::V4(_) => Ipv4Addr::new(224, 0, 0, 18).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).into(),
        }
    }
}

fn octets(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An ARP reply to everybody: `mac` has `address`.
#[must_use]
pub fn claim(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0xff; 6]);
    frame.extend(address.octets());
    frame
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| pair.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends what it is given until it is dropped.
#[derive(Debug)]
pub struct Forger {
    sent: Arc<AtomicU64>,
    _watcher: Watcher,
}

impl Forger {
    /// Send so many frames a second from `host`, and the first at once: with 0 a second it is the
    /// only one. `make` is given the number of each.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(
        host: &Host,
        nic: &str,
        per_second: u32,
        make: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> Result<Self> {
        let socket = socket_in(&host.namespace, Domain::PACKET, Type::RAW, None)?;
        let index = host.rtnl.link(nic)?.index;
        socket.bind(&arp::interface(index, arp::ETH_P_ARP)?).context("the forger's socket")?;
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        let watcher = Watcher::start("forger", move |over| {
            let began = clock::now();
            let mut number = 0;
            while !over.load(Ordering::Relaxed) {
                let due = began.elapsed().as_secs_f64() * f64::from(per_second);
                while number <= due as u64 {
                    // A full queue loses a frame, which nobody misses.
                    if socket.send(&make(number)).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    number += 1;
                }
                clock::nap(PERIOD);
            }
        })?;
        Ok(Self { sent, _watcher: watcher })
    }

    /// Frames that were sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    /// node1's.
    fn advert(version: Version) -> Advert {
        let advert = Advert::new(version, 51, 150, vec![[192, 0, 2, 10].into()]);
        Advert { source: [192, 0, 2, 11].into(), mac: [0x52, 0x54, 0, 0, 0, 1], ..advert }
    }

    #[test]
    fn adverts_are_as_keepalived_sends_them() {
        let captured = "01005e00001252540000000108004\
            5c0002800010000ff701887c000020be000001221339601000186bfc000020a0000000000000000";
        assert_eq!(advert(Version::V2).frame(), bytes(captured));
        let captured = "313396010064d3c1c000020a";
        assert_eq!(advert(Version::V3).message(), bytes(captured));
    }
}
