//! Echo requests at a steady rate, and what became of each.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::timeline::{Window, longest_gap};
use super::{Watcher, socket_in};
use crate::clock;
use crate::lab::Host;

/// The time between two probes of the VIP.
pub const PERIOD: Duration = Duration::from_millis(1);
/// The time between two probes of what only needs to be seen reachable.
pub const LEISURELY: Duration = Duration::from_millis(10);
/// A late sender catches up with at most this many probes at once; what is
/// older than that is never sent, and never counted.
const BURST: u64 = 5;
/// Of so many lost probes a report says when they were sent.
const LOST_SHOWN: usize = 10;
/// Tells the lab's echo requests from others.
const MAGIC: u64 = 0x7669_7073_6869_656c;

static IDS: AtomicU16 = AtomicU16::new(1);

/// What became of the probes sent within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// How many were sent.
    pub sent: u64,
    /// How many of them were never answered.
    pub lost: u64,
    /// The longest time between the sending of two consecutive answered
    /// probes, less one period; up to the window's edges where nothing was
    /// answered there.
    pub longest_gap_ms: f64,
    /// When that gap began, in milliseconds after the window began.
    pub longest_gap_at_ms: f64,
    /// The same between the sending of two consecutive probes, answered or
    /// not: what the lab itself owes to a busy machine.
    pub longest_pause_ms: f64,
    /// When the first of the lost ones were sent, in milliseconds after the window began.
    pub lost_at_ms: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    at: Instant,
    answered: bool,
}

/// Sends echo requests to one address until dropped.
#[derive(Debug)]
pub struct Probe {
    sent: Arc<Mutex<Vec<Sent>>>,
    period: Duration,
    sending: Option<Watcher>,
    _receiving: Watcher,
}

impl Probe {
    /// Probe `target` from `host`, once every `period`. A link-local one is looked for on `eth0`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(host: &Host, target: IpAddr, period: Duration) -> Result<Self> {
        let (domain, protocol) = match target {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = socket_in(&host.namespace, domain, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_millis(50))).context("probe socket")?;
        socket.set_recv_buffer_size(1 << 20).context("probe socket")?;
        // A link-local address means nothing without its link.
        let target = match target {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, 0, 0, host.rtnl.link("eth0")?.index).into()
            }
            _ => SocketAddr::new(target, 0),
        };
        let outgoing = socket.try_clone().context("probe socket")?;
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let sent = Arc::new(Mutex::new(Vec::new()));
        let (sends, receives) = (Arc::clone(&sent), Arc::clone(&sent));
        let receiving = Watcher::start("probe-in", move |over| {
            receive(&socket, target.ip(), id, &receives, over);
        })?;
        let sending = Watcher::start("probe-out", move |over| {
            send(&outgoing, target, period, id, &sends, over);
        })?;
        Ok(Self { sent, period, sending: Some(sending), _receiving: receiving })
    }

    /// Send no more. Answers are still received.
    pub fn pause(&mut self) {
        self.sending = None;
    }

    /// What became of the probes sent within `window`.
    #[must_use]
    pub fn report(&self, window: Window) -> ProbeReport {
        let all = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let inside: Vec<_> = all
            .iter()
            .filter(|probe| window.contains(probe.at))
            .map(|probe| (probe.at, probe.answered))
            .collect();
        let sends: Vec<_> = inside.iter().map(|(at, _)| (*at, true)).collect();
        let gap = longest_gap(&inside, window, self.period);
        ProbeReport {
            sent: inside.len() as u64,
            lost: inside.iter().filter(|(_, answered)| !answered).count() as u64,
            longest_gap_ms: clock::millis(gap.length),
            longest_gap_at_ms: clock::millis(gap.from.saturating_duration_since(window.from)),
            longest_pause_ms: clock::millis(longest_gap(&sends, window, self.period).length),
            lost_at_ms: inside
                .iter()
                .filter(|(_, answered)| !answered)
                .take(LOST_SHOWN)
                .map(|(at, _)| clock::millis(at.saturating_duration_since(window.from)))
                .collect(),
        }
    }

    /// When the last answered probe was sent.
    #[must_use]
    pub fn last_answered(&self) -> Option<Instant> {
        let all = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().rev().find(|probe| probe.answered).map(|probe| probe.at)
    }

    /// Send times with whether an answer came, in order.
    #[must_use]
    pub fn history(&self) -> Vec<(Instant, bool)> {
        let all = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|probe| (probe.at, probe.answered)).collect()
    }
}

fn send(
    socket: &Socket,
    target: SocketAddr,
    period: Duration,
    id: u16,
    sent: &Mutex<Vec<Sent>>,
    over: &AtomicBool,
) {
    let target = target.into();
    let start = clock::now();
    let mut slot: u64 = 0;
    while !over.load(Ordering::Relaxed) {
        let elapsed = clock::now().saturating_duration_since(start);
        let due = (elapsed.as_nanos() / period.as_nanos()) as u64 + 1;
        slot = slot.max(due.saturating_sub(BURST));
        while slot < due {
            let number = {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                sent.push(Sent { at: clock::now(), answered: false });
                sent.len() as u64 - 1
            };
            // A refusal (no route, no neighbour) is a lost probe like any other.
            let _ = socket.send_to(&request(target_is_v4(&target), id, number), &target);
            slot += 1;
        }
        let next = start + period * slot as u32;
        clock::nap(next.saturating_duration_since(clock::now()));
    }
}

fn target_is_v4(target: &socket2::SockAddr) -> bool {
    target.is_ipv4()
}

fn receive(
    mut socket: &Socket,
    target: IpAddr,
    id: u16,
    sent: &Mutex<Vec<Sent>>,
    over: &AtomicBool,
) {
    let mut buffer = [0; 512];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else { continue };
        let packet = buffer.get(..length).unwrap_or_default();
        let Some(number) = reply(packet, target.is_ipv4(), id) else { continue };
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(probe) = sent.get_mut(number as usize) {
            probe.answered = true;
        }
    }
}

/// An echo request (RFC 792, RFC 4443). For IPv6 the kernel adds the checksum.
fn request(is_v4: bool, id: u16, number: u64) -> [u8; 24] {
    let mut packet = [0; 24];
    let fields =
        [[if is_v4 { 8 } else { 128 }, 0], [0, 0], id.to_be_bytes(), (number as u16).to_be_bytes()];
    let head = fields.into_iter().flatten();
    let body = MAGIC.to_be_bytes().into_iter().chain(number.to_be_bytes());
    for (byte, value) in packet.iter_mut().zip(head.chain(body)) {
        *byte = value;
    }
    if is_v4 {
        let sum = checksum(&packet).to_be_bytes();
        packet.iter_mut().skip(2).zip(sum).for_each(|(byte, value)| *byte = value);
    }
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(data: &[u8]) -> u16 {
    let words = data.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The number of the probe that this packet answers. IPv4 packets come with their header.
fn reply(packet: &[u8], is_v4: bool, id: u16) -> Option<u64> {
    let header = if is_v4 { usize::from(packet.first()? & 0x0f) * 4 } else { 0 };
    let icmp = packet.get(header..)?;
    let kind = if is_v4 { 0 } else { 129 };
    if *icmp.first()? != kind
        || icmp.get(4..6)? != id.to_be_bytes()
        || icmp.get(8..16)? != MAGIC.to_be_bytes()
    {
        return None;
    }
    Some(u64::from_be_bytes(icmp.get(16..24)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero() {
        let packet = request(true, 7, 70_000);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn a_reply_names_its_probe() {
        let mut packet = vec![0x45; 20];
        packet.extend(request(true, 7, 70_000));
        assert_eq!(reply(&packet, true, 7), None);
        packet[20] = 0;
        assert_eq!(reply(&packet, true, 7), Some(70_000));
        assert_eq!(reply(&packet, true, 8), None);
        assert_eq!(reply(&packet[..30], true, 7), None);
        let mut packet = request(false, 7, 3);
        packet[0] = 129;
        assert_eq!(reply(&packet, false, 7), Some(3));
    }
}
