//! Neighbours, carried like routes: who was known where the node's traffic went before is known where it goes now,
//! before a packet needs it.
//!
//! The kernel forgets the neighbours of an interface that is taken down (`neigh_ifdown` in `net/core/neighbour.c`) and
//! knows none on a new bridge. It would ask, and what is to be sent waits. Where it cannot ask (an IPv6 interface
//! that comes up has no address to ask from until duplicates have been looked for, `ndisc_solicit` in `net/ipv6/ndisc.c`),
//! or where the answer is lost in the moment of leaving, it asks again a second later (`RETRANS_TIMER`, RFC 4861,
//! 10; `retrans_time_ms` for ARP).
//!
//! What the kernel tells of neighbours is left in its socket until it is needed, or the next beat: nothing wakes
//! for it. They are put back as stale: used at once, and confirmed by the kernel as ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Duration,
};

use bytes::BytesMut;
use log::debug;
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::RouteType,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use thiserror::Error;

use super::monitor::each_message;

/// `linux/rtnetlink.h`.
const RTNLGRP_NEIGH: u32 = 3;
/// A thousand neighbours that are forgotten at once.
const RECEIVE_BUFFER: usize = 1 << 20;
const MESSAGE_BUFFER: usize = 64 << 10;

/// Datagrams that are read at a time, some milliseconds.
const BATCH: usize = 1024;
/// Neighbours remembered. The kernel itself keeps 1,024 of a family unless it is told otherwise (`gc_thresh3`).
const MAX: usize = 8192;
/// Neighbours carried at once, each of which takes the kernel some microseconds; those that are in use come first.
const MAX_CARRIED: usize = 128;
/// One that nobody has used or confirmed for longer may be elsewhere by now.
const LATELY: Duration = Duration::from_mins(1);
/// One that the kernel has forgotten for longer it has forgotten for other reasons than a transition.
const JUST_NOW: Duration = Duration::from_secs(10);

/// Neighbours cannot be heard of, or put back.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct NeighbourError {
    what: &'static str,
    source: io::Error,
}

/// See the [module](self).
pub struct Neighbours {
    socket: Socket,
    buffer: BytesMut,
    known: Known,
    /// The bearer that each NIC had last.
    bearers: BTreeMap<u32, u32>,
}

impl Neighbours {
    /// Opens the socket in this thread's network namespace, joins the group, and has all neighbours listed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Self, NeighbourError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.set_non_blocking(true)?;
            socket.add_membership(RTNLGRP_NEIGH)?;
            if let Err(error) = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER) {
                debug!("the neighbours' receive buffer is as large as may be: {error}");
                socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
            }
            Ok(socket)
        };
        let socket =
            open().map_err(|source| NeighbourError { what: "the neighbours' socket", source })?;
        let buffer = BytesMut::with_capacity(MESSAGE_BUFFER);
        let mut neighbours =
            Self { socket, buffer, known: Known::default(), bearers: BTreeMap::new() };
        neighbours.list()?;
        Ok(neighbours)
    }

    /// Reads what there is to be heard, so much at a time: whoever floods the segment has the kernel tell of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn hear(&mut self, now: Duration) -> Result<(), NeighbourError> {
        let mut lost = false;
        for _ in 0..BATCH {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => decode(&self.buffer, &mut self.known, now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = true,
                Err(source) => {
                    return Err(NeighbourError { what: "hearing of neighbours", source });
                }
            }
        }
        if lost {
            debug!("events about neighbours were lost (ENOBUFS): listing all");
            self.list()?;
        }
        Ok(())
    }

    /// A NIC's traffic goes by the NIC itself: those that were known on it until now, or on its last bearer, are known
    /// on it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn carry(&mut self, nic: u32, now: Duration) -> Result<(), NeighbourError> {
        let bearer = self.bearers.get(&nic).copied();
        self.introduce(nic, &[Some(nic), bearer], now)
    }

    /// A NIC's traffic goes by this bearer, or is about to.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&mut self, nic: u32, bearer: u32, now: Duration) -> Result<(), NeighbourError> {
        self.bearers.insert(nic, bearer);
        self.introduce(bearer, &[Some(nic), Some(bearer)], now)
    }

    fn introduce(
        &mut self,
        to: u32,
        from: &[Option<u32>],
        now: Duration,
    ) -> Result<(), NeighbourError> {
        self.hear(now)?;
        let from: Vec<u32> = from.iter().copied().flatten().collect();
        let requests = self.known.missing(to, &from, now);
        if requests.is_empty() {
            return Ok(());
        }
        debug!("interface {to}: {} neighbours carried from {from:?}", requests.len());
        let mut bytes = Vec::new();
        for request in requests {
            append(&mut bytes, request);
        }
        // Served within the system call; what is refused is answered on the socket.
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map_err(|source| NeighbourError { what: "telling of neighbours", source })?;
        self.hear(now)
    }

    /// Has the kernel list all neighbours, which are heard next.
    fn list(&mut self) -> Result<(), NeighbourError> {
        let mut request =
            NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()));
        request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut bytes = Vec::new();
        append(&mut bytes, request);
        let sent = self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0);
        sent.map_err(|source| NeighbourError { what: "listing neighbours", source })?;
        Ok(())
    }
}

fn append(bytes: &mut Vec<u8>, mut message: NetlinkMessage<RouteNetlinkMessage>) {
    message.finalize();
    let from = bytes.len().next_multiple_of(4);
    bytes.resize(from + message.buffer_len(), 0);
    if let Some(room) = bytes.get_mut(from..) {
        message.serialize(room);
    }
}

/// Takes in the messages of one datagram.
fn decode(bytes: &[u8], known: &mut Known, now: Duration) {
    each_message(bytes, |message| match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(neighbour)) => {
            known.see(&neighbour, now);
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(neighbour)) => {
            known.forgotten(&neighbour, now);
        }
        // The interface is gone by then, most likely.
        NetlinkPayload::Error(error) => debug!("a neighbour was refused: {error}"),
        _ => {}
    });
}

/// A neighbour on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Neighbour {
    mac: Vec<u8>,
    is_router: bool,
    /// The kernel takes it for reachable, or is finding out.
    in_use: bool,
    /// When it was used or confirmed last, as far as the kernel has told.
    at: Duration,
    /// The kernel knows it no more since then.
    gone: Option<Duration>,
}

impl Neighbour {
    /// Whether it is good enough to be used first and confirmed second.
    fn is_good(&self, now: Duration) -> bool {
        let lately = |at: Duration, span| now < at.saturating_add(span);
        self.gone.is_none_or(|gone| lately(gone, JUST_NOW))
            && (self.in_use || lately(self.at, LATELY))
    }

    /// Whether it is better than another one.
    fn rank(&self) -> (bool, Duration) {
        (self.in_use, self.at)
    }
}

/// What the kernel knows of neighbours, and what it has just forgotten: by interface and address.
#[derive(Debug, Default)]
struct Known {
    learned: BTreeMap<(u32, IpAddr), Neighbour>,
    /// What somebody has set, which the kernel would take for learned if it were asked for as that.
    set: BTreeSet<(u32, IpAddr)>,
}

impl Known {
    fn see(&mut self, message: &NeighbourMessage, now: Duration) {
        let Some(key) = key(message) else { return };
        let in_use = match message.header.state {
            NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe => true,
            NeighbourState::Stale => false,
            // Being asked for: what was known may still be so.
            NeighbourState::Incomplete => return,
            NeighbourState::Failed => {
                self.learned.remove(&key);
                return;
            }
            _ => return self.is_set(key),
        };
        let mac = message.attributes.iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
            _ => None,
        });
        let foreign = NeighbourFlags::Proxy | NeighbourFlags::ExtLearned;
        if message.header.flags.intersects(foreign) {
            return self.is_set(key);
        }
        self.set.remove(&key);
        let Some(mac) = mac else { return };
        if self.learned.len() >= MAX && !self.learned.contains_key(&key) {
            self.learned.retain(|_, neighbour| neighbour.is_good(now));
            if self.learned.len() >= MAX {
                return;
            }
        }
        let is_router = message.header.flags.contains(NeighbourFlags::Router);
        let at = now.saturating_sub(age(message));
        self.learned.insert(key, Neighbour { mac, is_router, in_use, at, gone: None });
    }

    /// The kernel was told of it, and asks for it no more.
    fn is_set(&mut self, key: (u32, IpAddr)) {
        self.learned.remove(&key);
        if self.set.len() < MAX {
            self.set.insert(key);
        }
    }

    fn forgotten(&mut self, message: &NeighbourMessage, now: Duration) {
        let Some(key) = key(message) else { return };
        self.set.remove(&key);
        if let Some(neighbour) = self.learned.get_mut(&key) {
            neighbour.gone.get_or_insert(now);
        }
    }

    /// The requests that make known on an interface who is known on others, or was until just now.
    fn missing(
        &self,
        to: u32,
        from: &[u32],
        now: Duration,
    ) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
        let mut best = BTreeMap::<IpAddr, &Neighbour>::new();
        let there = self.learned.iter().filter(|((on, _), _)| from.contains(on) || *on == to);
        for ((_, ip), neighbour) in there.filter(|(_, neighbour)| neighbour.is_good(now)) {
            let better = best.get(ip).is_none_or(|other| other.rank() < neighbour.rank());
            if better {
                best.insert(*ip, neighbour);
            }
        }
        let mut missing: Vec<(IpAddr, &Neighbour, bool)> = Vec::new();
        for (ip, neighbour) in best.into_iter().filter(|(ip, _)| !self.set.contains(&(to, *ip))) {
            let known = self.learned.get(&(to, ip)).filter(|known| known.gone.is_none());
            match known {
                Some(known) if known.in_use || known.mac == neighbour.mac => {}
                // It is outdated there.
                Some(_) => missing.push((ip, neighbour, true)),
                None => missing.push((ip, neighbour, false)),
            }
        }
        missing.sort_by_key(|(_, neighbour, _)| std::cmp::Reverse(neighbour.rank()));
        missing.truncate(MAX_CARRIED);
        let request = |(ip, neighbour, replace)| request(to, ip, neighbour, replace);
        missing.into_iter().map(request).collect()
    }
}

fn key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    // A bridge tells of its ports' in the same group.
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    });
    Some((message.header.ifindex, ip?))
}

/// For how long nobody has used or confirmed it. The kernel counts in `USER_HZ`, which is 100 wherever it runs
/// (`include/asm-generic/param.h`).
fn age(message: &NeighbourMessage) -> Duration {
    let ages = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::CacheInfo(of) => Some([of.used, of.confirmed, of.updated]),
        _ => None,
    });
    let hundredths = ages.and_then(|ages| ages.into_iter().min()).unwrap_or(0);
    Duration::from_millis(10).saturating_mul(hundredths)
}

/// Without `replace` one that the kernel knows as valid stays as it is (`neigh_add`), and one that is being asked
/// for is known from now on.
fn request(
    ifindex: u32,
    ip: IpAddr,
    neighbour: &Neighbour,
    replace: bool,
) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match ip {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Stale;
    message.header.kind = RouteType::Unicast;
    if neighbour.is_router {
        message.header.flags = NeighbourFlags::Router;
    }
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.clone()),
    ];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | if replace { NLM_F_REPLACE } else { 0 };
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: u32 = 2;
    const BRIDGE: u32 = 3;
    const ROUTER: &str = "192.0.2.100";
    const SECOND: Duration = Duration::from_secs(1);

    fn heard(ifindex: u32, ip: &str, mac: u8, state: NeighbourState) -> NeighbourMessage {
        let mut known = Neighbour {
            mac: vec![mac; 6],
            is_router: true,
            in_use: true,
            at: Duration::ZERO,
            gone: None,
        };
        known.in_use = state == NeighbourState::Reachable;
        let mut message = asked(request(ifindex, ip.parse().unwrap(), &known, false));
        message.header.state = state;
        message
    }

    fn asked(request: NetlinkMessage<RouteNetlinkMessage>) -> NeighbourMessage {
        match request.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(it)) => it,
            // Without an address, which no test takes for a neighbour.
            _ => NeighbourMessage::default(),
        }
    }

    /// Address, last byte of the hardware address, and whether it replaces what is there.
    fn missing(known: &Known, to: u32, from: &[u32], now: Duration) -> Vec<(String, u8, bool)> {
        let requests = known.missing(to, from, now).into_iter().map(|request| {
            let replaces = request.header.flags & NLM_F_REPLACE != 0;
            let it = asked(request);
            assert_eq!((it.header.ifindex, it.header.state), (to, NeighbourState::Stale));
            assert!(it.header.flags.contains(NeighbourFlags::Router));
            let (_, ip) = key(&it).unwrap();
            let mac = it.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => mac.last().copied(),
                _ => None,
            });
            (ip.to_string(), mac.unwrap(), replaces)
        });
        requests.collect()
    }

    #[test]
    fn who_was_known_before_is_made_known_where_the_traffic_goes() {
        let mut known = Known::default();
        known.see(&heard(NIC, ROUTER, 1, NeighbourState::Reachable), SECOND);
        known.see(&heard(NIC, "2001:db8::100", 2, NeighbourState::Stale), SECOND);
        known.see(&heard(7, "192.0.2.7", 7, NeighbourState::Reachable), SECOND);
        let both = [(ROUTER.to_owned(), 1, false), ("2001:db8::100".to_owned(), 2, false)];
        assert_eq!(missing(&known, BRIDGE, &[NIC], SECOND), both, "in use first");
        known.see(&heard(BRIDGE, ROUTER, 1, NeighbourState::Stale), SECOND);
        assert_eq!(missing(&known, BRIDGE, &[NIC], SECOND), both[1..], "the other is known there");
        assert!(missing(&known, NIC, &[NIC, BRIDGE], SECOND).is_empty());
        let late = SECOND + LATELY;
        assert!(missing(&known, BRIDGE, &[NIC], late).is_empty(), "it may be elsewhere by now");
        assert_eq!(missing(&known, 4, &[NIC], late), both[..1], "that one is in use");
    }

    #[test]
    fn what_was_just_forgotten_is_put_back() {
        let mut known = Known::default();
        let router = heard(NIC, ROUTER, 1, NeighbourState::Reachable);
        known.see(&router, SECOND);
        known.forgotten(&router, 2 * SECOND);
        let back = [(ROUTER.to_owned(), 1, false)];
        assert_eq!(missing(&known, NIC, &[NIC], 2 * SECOND), back);
        known.see(&heard(NIC, ROUTER, 0, NeighbourState::Incomplete), 2 * SECOND);
        assert_eq!(missing(&known, NIC, &[NIC], 2 * SECOND), back, "the kernel asks for it");
        assert!(missing(&known, NIC, &[NIC], 2 * SECOND + JUST_NOW).is_empty());
        known.see(&heard(NIC, ROUTER, 0, NeighbourState::Failed), 3 * SECOND);
        assert!(missing(&known, NIC, &[NIC], 3 * SECOND).is_empty(), "it is not there");
    }

    #[test]
    fn who_has_moved_is_not_carried_back() {
        let mut known = Known::default();
        known.see(&heard(NIC, ROUTER, 1, NeighbourState::Stale), SECOND);
        known.see(&heard(BRIDGE, ROUTER, 9, NeighbourState::Reachable), 2 * SECOND);
        assert!(missing(&known, BRIDGE, &[NIC, BRIDGE], 3 * SECOND).is_empty());
        let moved = [(ROUTER.to_owned(), 9, true)];
        assert_eq!(missing(&known, NIC, &[NIC, BRIDGE], 3 * SECOND), moved);
    }

    #[test]
    fn what_somebody_has_set_stays_as_it_is() {
        let mut known = Known::default();
        known.see(&heard(NIC, ROUTER, 1, NeighbourState::Reachable), SECOND);
        let set = heard(BRIDGE, ROUTER, 1, NeighbourState::Permanent);
        known.see(&set, SECOND);
        assert!(missing(&known, BRIDGE, &[NIC], SECOND).is_empty(), "it would be learned then");
        known.forgotten(&set, SECOND);
        assert_eq!(missing(&known, BRIDGE, &[NIC], SECOND), [(ROUTER.to_owned(), 1, false)]);
    }

    #[test]
    fn only_neighbours_that_were_asked_for_are_carried() {
        let mut known = Known::default();
        for state in [NeighbourState::Permanent, NeighbourState::Noarp, NeighbourState::None] {
            known.see(&heard(NIC, ROUTER, 1, state), SECOND);
        }
        let mut proxy = heard(NIC, ROUTER, 1, NeighbourState::Stale);
        proxy.header.flags = NeighbourFlags::Proxy;
        known.see(&proxy, SECOND);
        let mut port = heard(NIC, ROUTER, 1, NeighbourState::Stale);
        port.header.family = AddressFamily::Bridge;
        known.see(&port, SECOND);
        assert!(known.learned.is_empty());
        for last in 0..200 {
            known.see(&heard(NIC, &format!("192.0.2.{last}"), 1, NeighbourState::Stale), SECOND);
        }
        assert_eq!(missing(&known, BRIDGE, &[NIC], SECOND).len(), MAX_CARRIED);
    }
}
