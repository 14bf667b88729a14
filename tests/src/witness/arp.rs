//! Who answers for the VIP on the wire, by hardware address.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::timeline::{Window, overlap, spans};
use super::{Watcher, nd, socket_in};
use crate::clock;
use crate::datapath::mac_text;
use crate::lab::Host;

/// How often the witness asks who has the VIP.
const PERIOD: Duration = Duration::from_millis(100);
/// For how long an answer stands for its sender: three questions may get lost.
const LIFETIME: Duration = Duration::from_millis(350);
/// The Ethernet type of ARP.
pub(crate) const ETH_P_ARP: u16 = 0x0806;

/// What was seen within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArpReport {
    /// The hardware addresses that answered or announced, in order of first sight.
    pub macs: Vec<String>,
    /// The time during which two of them did, in milliseconds.
    pub overlap_ms: f64,
}

/// When which hardware address was seen to answer.
type Sightings = Arc<Mutex<Vec<(Instant, [u8; 6])>>>;

/// Asks for a VIP, by ARP or by neighbour discovery, and notes every answer and announcement.
#[derive(Debug)]
pub struct ArpWitness {
    sightings: Sightings,
    _watcher: Watcher,
}

impl ArpWitness {
    /// Watch from `host`, whose interface `nic` has the address `own`.
    ///
    /// # Errors
    /// When the socket cannot be made, or the two addresses are of different families.
    pub fn start(host: &Host, nic: &str, own: IpAddr, vip: IpAddr) -> Result<Self> {
        let link = host.rtnl.link(nic)?;
        let mac: [u8; 6] = link.mac.as_slice().try_into().context("hardware address of the NIC")?;
        let (ether_type, question) = match (own, vip) {
            (IpAddr::V4(own), IpAddr::V4(vip)) => (ETH_P_ARP, question(mac, own, vip)),
            (IpAddr::V6(own), IpAddr::V6(vip)) => (nd::ETH_P_IPV6, nd::question(mac, own, vip)),
            _ => bail!("{own} cannot ask for {vip}"),
        };
        let protocol = Protocol::from(i32::from(ether_type.to_be()));
        let socket = socket_in(&host.namespace, Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.bind(&interface(link.index, ether_type)?).context("neighbour socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).context("neighbour socket")?;
        let sightings = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&sightings);
        let watcher =
            Watcher::start("neighbour", move |over| watch(&socket, &question, vip, &kept, over))?;
        Ok(Self { sightings, _watcher: watcher })
    }

    /// What was seen within `window`.
    #[must_use]
    pub fn report(&self, window: Window) -> ArpReport {
        let all = self.sightings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut macs = Vec::new();
        for (at, mac) in &all {
            let text = mac_text(mac);
            if window.contains(*at) && !macs.contains(&text) {
                macs.push(text);
            }
        }
        let seen = overlap(&spans(&all, LIFETIME), window);
        ArpReport { macs, overlap_ms: clock::millis(seen.total) }
    }
}

/// The address of an interface for a packet socket (packet(7)).
pub(crate) fn interface(index: u32, ether_type: u16) -> Result<SockAddr> {
    // SAFETY: sockaddr_ll fits sockaddr_storage, all its bit patterns are valid,
    // and the length that is set is its own.
    let made = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<nix::libc::sockaddr_ll>();
            (*address).sll_family = nix::libc::AF_PACKET as u16;
            (*address).sll_protocol = ether_type.to_be();
            (*address).sll_ifindex = index as i32;
            *length = size_of::<nix::libc::sockaddr_ll>() as u32;
            Ok(())
        })
    };
    made.map(|((), address)| address).context("interface address")
}

fn watch(mut socket: &Socket, question: &[u8], vip: IpAddr, kept: &Sightings, over: &AtomicBool) {
    let sender_for = |frame: &[u8]| match vip {
        IpAddr::V4(vip) => sender_for(frame, vip),
        IpAddr::V6(vip) => nd::sender_for(frame, vip),
    };
    let mut buffer = [0; 256];
    let mut next = clock::now();
    while !over.load(Ordering::Relaxed) {
        if clock::now() >= next {
            // Fails while the interface is down: then nobody answers either.
            let _ = socket.send(question);
            next = clock::now() + PERIOD;
        }
        let Ok(length) = socket.read(&mut buffer) else { continue };
        if let Some(mac) = buffer.get(..length).and_then(sender_for) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push((clock::now(), mac));
        }
    }
}

/// An ARP request (RFC 826), as an Ethernet frame.
fn question(mac: [u8; 6], own: Ipv4Addr, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(ETH_P_ARP.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(own.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

/// The hardware address that an ARP frame gives for `wanted`, if it does: a
/// reply, or an announcement in either form.
fn sender_for(frame: &[u8], wanted: Ipv4Addr) -> Option<[u8; 6]> {
    let head: [u8; 8] = frame.get(12..20)?.try_into().ok()?;
    if head != [8, 6, 0, 1, 8, 0, 6, 4] || frame.get(28..32)? != wanted.octets() {
        return None;
    }
    frame.get(22..28)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

    #[test]
    fn a_question_is_no_answer() {
        let frame = question([2; 6], Ipv4Addr::new(192, 0, 2, 100), VIP);
        assert_eq!(frame.len(), 42);
        assert_eq!(sender_for(&frame, VIP), None);
    }

    #[test]
    fn an_announcement_is_an_answer() {
        let frame = question([2; 6], VIP, VIP);
        assert_eq!(sender_for(&frame, VIP), Some([2; 6]));
        assert_eq!(sender_for(&frame[..30], VIP), None);
    }
}
