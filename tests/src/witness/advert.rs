//! VRRP adverts on the wire: who sends them, from which address.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::timeline::Window;
use super::{Watcher, socket_in};
use crate::clock;
use crate::lab::Host;

/// The Ethernet type of IPv4.
const ETH_P_IP: u16 = 0x0800;
/// The Ethernet type of IPv6.
const ETH_P_IPV6: u16 = 0x86dd;
/// VRRP's protocol number (RFC 5798, section 5.1.1.4).
const PROTOCOL: u8 = 112;

/// An advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// When it was seen.
    pub at: Instant,
    /// The hardware address that sent it.
    pub mac: [u8; 6],
    /// Its source address.
    pub source: IpAddr,
    /// The virtual router's id.
    pub router_id: u8,
    /// The sender's priority; 0 gives the VIP up.
    pub priority: u8,
}

/// Notes every advert that reaches a host.
#[derive(Debug)]
pub struct AdvertWitness {
    seen: Arc<Mutex<Vec<Advert>>>,
    _watchers: Vec<Watcher>,
}

impl AdvertWitness {
    /// Watch all interfaces of `host`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(host: &Host) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut watchers = Vec::new();
        for ether_type in [ETH_P_IP, ETH_P_IPV6] {
            let protocol = Protocol::from(i32::from(ether_type.to_be()));
            let socket = socket_in(&host.namespace, Domain::PACKET, Type::RAW, Some(protocol))?;
            socket.set_read_timeout(Some(Duration::from_millis(20))).context("advert socket")?;
            let kept = Arc::clone(&seen);
            watchers.push(Watcher::start("adverts", move |over| watch(&socket, &kept, over))?);
        }
        Ok(Self { seen, _watchers: watchers })
    }

    /// The adverts within `window`.
    #[must_use]
    pub fn within(&self, window: Window) -> Vec<Advert> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|advert| window.contains(advert.at)).copied().collect()
    }
}

fn watch(mut socket: &Socket, kept: &Mutex<Vec<Advert>>, over: &AtomicBool) {
    let mut buffer = [0; 256];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else { continue };
        if let Some(advert) = buffer.get(..length).and_then(|frame| parse(frame, clock::now())) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(advert);
        }
    }
}

/// An advert out of an Ethernet frame with IPv4 or IPv6 in it.
fn parse(frame: &[u8], at: Instant) -> Option<Advert> {
    let packet = frame.get(14..)?;
    let (protocol, source, vrrp): (u8, IpAddr, _) =
        match u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?) {
            ETH_P_IP => {
                let source: Ipv4Addr = packet.get(12..16)?.first_chunk::<4>().copied()?.into();
                let header = usize::from(packet.first()? & 0xf) * 4;
                (*packet.get(9)?, source.into(), packet.get(header..)?)
            }
            ETH_P_IPV6 => {
                let source: Ipv6Addr = packet.get(8..24)?.first_chunk::<16>().copied()?.into();
                (*packet.get(6)?, source.into(), packet.get(40..)?)
            }
            _ => return None,
        };
    if protocol != PROTOCOL {
        return None;
    }
    Some(Advert {
        at,
        mac: frame.get(6..12)?.try_into().ok()?,
        source,
        router_id: *vrrp.get(1)?,
        priority: *vrrp.get(2)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adverts_are_told_from_other_packets() {
        let at = clock::now();
        let mut frame = vec![1, 0, 0x5e, 0, 0, 18, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x46, 0, 0, 44, 0, 0, 0, 0, 255, 112, 0, 0, 192, 0, 2, 11, 224, 0, 0, 18]);
        frame.extend([0x94, 4, 0, 0]);
        frame.extend([0x21, 51, 150, 1, 0, 1, 0, 0, 192, 0, 2, 10]);
        let expected = Advert {
            at,
            mac: [2, 0, 0, 0, 0, 1],
            source: Ipv4Addr::new(192, 0, 2, 11).into(),
            router_id: 51,
            priority: 150,
        };
        assert_eq!(parse(&frame, at), Some(expected));
        assert_eq!(parse(&frame[..40], at), None);
        frame[23] = 17;
        assert_eq!(parse(&frame, at), None);
    }

    #[test]
    fn adverts_of_ipv6_have_a_link_local_source() {
        let at = clock::now();
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 18, 2, 0, 0, 0, 0, 1, 0x86, 0xdd];
        frame.extend([0x60, 0, 0, 0, 0, 24, 112, 255]);
        frame.extend(source.octets());
        frame.extend(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12).octets());
        frame.extend([0x31, 61, 150, 1, 0, 100, 0, 0]);
        let seen = parse(&frame, at).unwrap();
        assert_eq!((seen.source, seen.router_id, seen.priority), (source.into(), 61, 150));
        assert_eq!(parse(&frame[..50], at), None);
    }
}
