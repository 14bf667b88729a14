//! Who announces an address unasked: gratuitous ARP and unsolicited neighbour advertisements.

use std::io::Read;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc::ETH_P_ALL;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Watcher, socket_in};
use crate::clock;
use crate::lab::Host;

/// The form of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An ARP request for the sender's own address (RFC 5944, 4.6). keepalived sends these.
    Request,
    /// An ARP reply that nobody asked for (RFC 5944, 4.6). keepalived sends none.
    Reply,
    /// A neighbour advertisement that is not solicited and overrides (RFC 4861, 7.2.6).
    Advertisement,
}

/// An announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// When it arrived.
    pub at: Instant,
    /// What is announced.
    pub address: IpAddr,
    /// The hardware address that it names.
    pub mac: [u8; 6],
    /// The hardware address that sent it.
    pub sender: [u8; 6],
    /// How.
    pub form: Form,
}

/// Notes every announcement that reaches a host.
#[derive(Debug)]
pub struct AnnouncementWitness {
    seen: Arc<Mutex<Vec<Announcement>>>,
    _watcher: Watcher,
}

impl AnnouncementWitness {
    /// Watch all interfaces of `host`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(host: &Host) -> Result<Self> {
        let protocol = Protocol::from(i32::from((ETH_P_ALL as u16).to_be()));
        let socket = socket_in(&host.namespace, Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).context("packet socket")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let watcher = Watcher::start("announcements", move |over| watch(&socket, &kept, over))?;
        Ok(Self { seen, _watcher: watcher })
    }

    /// What was announced since then of this address.
    #[must_use]
    pub fn of(&self, address: IpAddr, since: Instant) -> Vec<Announcement> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|it| it.address == address && it.at >= since).copied().collect()
    }
}

fn watch(mut socket: &Socket, kept: &Mutex<Vec<Announcement>>, over: &AtomicBool) {
    let mut buffer = [0; 256];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else { continue };
        if let Some(found) = buffer.get(..length).and_then(|frame| parse(frame, clock::now())) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(found);
        }
    }
}

/// An announcement out of an Ethernet frame.
fn parse(frame: &[u8], at: Instant) -> Option<Announcement> {
    let sender = frame.get(6..12)?.try_into().ok()?;
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [8, 6] => {
            let (source, target) = (packet.get(14..18)?, packet.get(24..28)?);
            let form = match packet.get(..8)? {
                [0, 1, 8, 0, 6, 4, 0, 1] => Form::Request,
                [0, 1, 8, 0, 6, 4, 0, 2] => Form::Reply,
                _ => return None,
            };
            let address: [u8; 4] = source.try_into().ok()?;
            let mac = packet.get(8..14)?.try_into().ok()?;
            let address = IpAddr::from(address);
            (source == target).then_some(Announcement { at, address, mac, sender, form })
        }
        [0x86, 0xdd] => {
            // ICMPv6 with hop limit 255; a neighbour advertisement with override alone; its target
            // and the target's link-layer address.
            let message = packet.get(40..)?;
            let told = packet.get(6..8)? == [58, 255]
                && message.first() == Some(&136)
                && message.get(4)? & 0x60 == 0x20
                && message.get(24..26)? == [2, 1];
            let address: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            let mac = message.get(26..32)?.try_into().ok()?;
            let (address, form) = (IpAddr::from(address), Form::Advertisement);
            told.then_some(Announcement { at, address, mac, sender, form })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

    #[test]
    fn questions_are_told_from_announcements() {
        let at = clock::now();
        let mut frame = vec![0xff; 6];
        frame.extend(MAC);
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        frame.extend(MAC);
        frame.extend([192, 0, 2, 10]);
        frame.extend(MAC);
        frame.extend([192, 0, 2, 10]);
        let seen = parse(&frame, at).unwrap();
        assert_eq!(
            (seen.form, seen.mac, seen.address.to_string()),
            (Form::Reply, MAC, "192.0.2.10".to_owned())
        );
        frame[21] = 1;
        assert_eq!(parse(&frame, at).map(|seen| seen.form), Some(Form::Request));
        frame[41] = 11;
        assert_eq!(parse(&frame, at), None);
    }

    #[test]
    fn answers_are_told_from_announcements() {
        let at = clock::now();
        let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
        frame.extend(MAC);
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        frame.extend([0; 32]);
        frame.extend([136, 0, 0, 0, 0x20, 0, 0, 0]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]);
        frame.extend([2, 1]);
        frame.extend(MAC);
        let seen = parse(&frame, at).unwrap();
        assert_eq!((seen.form, seen.mac), (Form::Advertisement, MAC));
        assert_eq!(seen.address.to_string(), "2001:db8::10");
        frame[58] = 0x60;
        assert_eq!(parse(&frame, at), None);
    }
}
