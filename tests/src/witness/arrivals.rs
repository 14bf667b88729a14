//! Packets to an address, by the interface on which they arrive.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::arp::interface;
use super::timeline::{Window, longest_gap};
use super::{Watcher, socket_in};
use crate::clock;
use crate::lab::Host;

/// The Ethernet type of IPv4.
const ETH_P_IP: u16 = 0x0800;

/// Notes every IPv4 packet to one address that arrives on one interface.
#[derive(Debug)]
pub struct Arrivals {
    seen: Arc<Mutex<Vec<Instant>>>,
    _watcher: Watcher,
}

impl Arrivals {
    /// Watch the interface `nic` of `host` for packets to `target`.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(host: &Host, nic: &str, target: Ipv4Addr) -> Result<Self> {
        let index = host.rtnl.link(nic)?.index;
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        let socket = socket_in(&host.namespace, Domain::PACKET, Type::DGRAM, Some(protocol))?;
        socket.bind(&interface(index, ETH_P_IP)?).context("arrivals socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).context("arrivals socket")?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let watcher = Watcher::start("arrivals", move |over| watch(&socket, target, &kept, over))?;
        Ok(Self { seen, _watcher: watcher })
    }

    /// How many arrived within `window`.
    #[must_use]
    pub fn within(&self, window: Window) -> usize {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|at| window.contains(**at)).count()
    }

    /// The longest time within `window` in which none arrived, if one is sent every `period`.
    #[must_use]
    pub fn longest_gap(&self, window: Window, period: Duration) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let end = (window.to, false);
        let all: Vec<_> = seen.iter().map(|at| (*at, true)).chain([end]).collect();
        longest_gap(&all, window, period).length
    }
}

fn watch(mut socket: &Socket, target: Ipv4Addr, kept: &Mutex<Vec<Instant>>, over: &AtomicBool) {
    let mut buffer = [0; 64];
    while !over.load(Ordering::Relaxed) {
        let Ok(length) = socket.read(&mut buffer) else { continue };
        if buffer.get(..length).and_then(destination) == Some(target.into()) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        }
    }
}

/// Where an IPv4 packet goes to.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    packet.get(16..20)?.first_chunk::<4>().copied().map(IpAddr::from)
}
