//! A host that says on the wire what is not true: frames made by hand, sent as fast as asked for.

use std::net::{Ipv4Addr, Ipv6Addr};
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

/// A VRRP advert of version 2 (RFC 3768) to the group.
#[derive(Clone, Debug)]
pub struct Advert {
    /// The hardware address that it comes from.
    pub mac: [u8; 6],
    /// Its source address.
    pub source: Ipv4Addr,
    /// The virtual router.
    pub router_id: u8,
    /// The priority.
    pub priority: u8,
    /// Seconds between two adverts.
    pub interval: u8,
    /// The virtual router's addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// Time to live: 255, if it is to be heeded.
    pub ttl: u8,
    /// What is wrong with its checksum.
    pub wrong: u16,
}

impl Advert {
    /// One of the lab's own virtual router, with this priority and nothing wrong.
    #[must_use]
    pub fn new(router_id: u8, priority: u8, address: Ipv4Addr) -> Self {
        Self {
            mac: FORGER,
            source: Ipv4Addr::new(192, 0, 2, 66),
            router_id,
            priority,
            interval: 1,
            addresses: vec![address],
            ttl: 255,
            wrong: 0,
        }
    }

    /// As an Ethernet frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let count = self.addresses.len() as u8;
        let mut message = vec![0x21, self.router_id, self.priority, count, 0, self.interval, 0, 0];
        message.extend(self.addresses.iter().flat_map(Ipv4Addr::octets));
        // No authentication, which takes its room nevertheless.
        message.extend([0; 8]);
        let sum = checksum(&message) ^ self.wrong;
        put(&mut message, 6, sum);

        let total = 20 + message.len() as u16;
        let mut header = vec![0x45, 0xc0, 0, 0, 0, 1, 0, 0, self.ttl, 112, 0, 0];
        put(&mut header, 2, total);
        header.extend(self.source.octets());
        header.extend([224, 0, 0, 18]);
        let sum = checksum(&header);
        put(&mut header, 10, sum);

        let mut frame = vec![1, 0, 0x5e, 0, 0, 18];
        frame.extend(self.mac);
        frame.extend([8, 0]);
        frame.extend(header);
        frame.extend(message);
        frame
    }
}

/// A VRRP advert of version 3 over IPv6 (RFC 9568, section 5) to the group, with an interval of one
/// second and nothing wrong, as an Ethernet frame.
#[must_use]
pub fn advert_ipv6(router_id: u8, priority: u8, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
    let mut message = vec![0x31, router_id, priority, addresses.len() as u8, 0, 100, 0, 0];
    message.extend(addresses.iter().flat_map(Ipv6Addr::octets));
    let length = (message.len() as u16).to_be_bytes();
    // The pseudo-header (RFC 8200, section 8.1).
    let mut summed = [source.octets(), group.octets()].concat();
    summed.extend([[0, 0], length, [0, 0], [0, 112]].concat());
    summed.extend(&message);
    let sum = checksum(&summed);
    put(&mut message, 6, sum);

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 0x12];
    frame.extend(FORGER);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(length);
    frame.extend([112, 255]);
    frame.extend(source.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
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
    /// Send so many frames a second from `host`: `make` is given the number of each.
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

    #[test]
    fn an_advert_is_as_keepalived_sends_it() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        let mut advert = Advert::new(51, 150, vip);
        advert.source = Ipv4Addr::new(192, 0, 2, 11);
        advert.mac = [0x52, 0x54, 0, 0, 0, 1];
        let captured = "01005e00001252540000000108004\
            5c0002800010000ff701887c000020be000001221339601000186bfc000020a0000000000000000";
        let byte = |at: usize| u8::from_str_radix(&captured[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..captured.len()).step_by(2).map(byte).collect();
        assert_eq!(advert.frame(), bytes);
    }
}
