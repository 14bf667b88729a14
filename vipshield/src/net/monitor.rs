//! The rtnetlink monitor: links, addresses, routes and rules as the kernel reports them.
//!
//! Groups are joined first and dumps asked for second, so that nothing falls between. Events are
//! read straight from the socket: its kernel buffer is the only queue, and a lost event (ENOBUFS)
//! is answered with a new snapshot.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use bytes::BytesMut;
use futures_util::{TryStreamExt as _, future::join_all};
use log::{debug, info, warn};
use netlink_packet_core::{NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::Handle;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use thiserror::Error;
use tokio::io::unix::AsyncFd;

use super::{
    route, rule,
    sourced::{Sourced, destination},
};
use crate::{
    engine::{Address, Event, Intent, Link},
    watch::watch,
};

/// `linux/rtnetlink.h`.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// Linux 2.6.24.
const RTNLGRP_IPV6_RULE: u32 = 19;

/// Room for a burst of events while userspace is not scheduled.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel builds one event in at most a page or two (`NLMSG_GOODSIZE`), more for a NIC with
/// many virtual functions.
const MESSAGE_BUFFER: usize = 64 << 10;

/// Messages that are handed over at a time: in a storm other things are due as well.
const BATCH: usize = 256;

/// The monitor could not be set up or read.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The monitor socket.
    #[error("the rtnetlink monitor socket: {0}")]
    Socket(#[from] io::Error),
    /// A dump.
    #[error("listing {what} over rtnetlink")]
    Dump {
        /// What was listed.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: rtnetlink::Error,
    },
    /// A route could not be put back.
    #[error("the route to {to}, which the kernel has dropped with its source, cannot be put back")]
    Restore {
        /// Where it leads.
        to: String,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
}

/// See the [module](self).
pub struct Monitor {
    socket: AsyncFd<Socket>,
    handle: Handle,
    buffer: BytesMut,
    /// What may have to be put back.
    sourced: Sourced,
    /// Events were lost, and the socket has not been read empty since.
    lossy: bool,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Nothing is lost, as far as was read.
    Complete,
    /// Something is, and there is more to be read: of that only what processes asked for is of use.
    Losing,
    /// Something was, and a [`snapshot`](Monitor::snapshot) is due.
    Lost,
}

impl Monitor {
    /// Opens the monitor in this thread's network namespace and joins its groups. `handle` is for
    /// the dumps.
    pub fn open(handle: Handle) -> Result<Self, MonitorError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in [
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV4_RULE,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV6_ROUTE,
            RTNLGRP_IPV6_RULE,
        ] {
            socket.add_membership(group)?;
        }
        // What is asked for without force is cut to `net.core.rmem_max`, which is 208 KiB by default.
        if let Err(error) = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER) {
            debug!("the monitor's receive buffer is as large as may be: {error}");
            socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        }
        debug!("rtnetlink monitor on descriptor {}", socket.as_raw_fd());
        Ok(Self {
            socket: watch(socket)?,
            handle,
            buffer: BytesMut::with_capacity(MESSAGE_BUFFER),
            sourced: Sourced::default(),
            lossy: false,
        })
    }

    /// All links, addresses, routes of the main table and rules of others as they are now.
    pub async fn snapshot(&mut self) -> Result<Event, MonitorError> {
        let links: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| MonitorError::Dump { what: "links", source })?;
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| MonitorError::Dump { what: "addresses", source })?;
        let routes = route::all_routes(&self.handle)
            .await
            .map_err(|source| MonitorError::Dump { what: "routes", source })?;
        let rules = rule::all_rules(&self.handle)
            .await
            .map_err(|source| MonitorError::Dump { what: "rules", source })?;
        self.sourced.list(&routes);
        Ok(Event::Snapshot {
            links: links.iter().filter_map(link).collect(),
            addresses: addresses.iter().filter_map(address).collect(),
            routes: routes.iter().filter_map(route::decode).collect(),
            rules: rules.iter().filter_map(rule::decode).collect(),
        })
    }

    /// Waits for something to happen and hands each event to `sink`, those of [`BATCH`] messages at the
    /// most.
    ///
    /// The kernel goes on losing events until the socket is read empty (`netlink_rcv_wake` in
    /// `net/netlink/af_netlink.c`), and what was left in it is older than a snapshot: of that only what
    /// processes asked for is handed over, which no snapshot shows.
    ///
    /// Cancel safe: an event is either still in the socket or handed over.
    pub async fn read(&mut self, mut sink: impl FnMut(Event)) -> Result<Read, MonitorError> {
        let mut guard = self.socket.readable().await?;
        for _ in 0..BATCH {
            self.buffer.clear();
            match self.socket.get_ref().recv(&mut self.buffer, 0) {
                Ok(_) if self.lossy => decode(&self.buffer, &mut self.sourced, &mut |event| {
                    if matches!(event, Event::Intent { .. }) {
                        sink(event);
                    }
                }),
                Ok(_) => decode(&self.buffer, &mut self.sourced, &mut sink),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    let lost = std::mem::take(&mut self.lossy);
                    return Ok(if lost { Read::Lost } else { Read::Complete });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    warn!("rtnetlink events were lost (ENOBUFS): looking at everything anew");
                    self.lossy = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        // The socket stays ready: what is left comes with the next read, after what is due.
        Ok(if self.lossy { Read::Losing } else { Read::Complete })
    }

    /// Has the kernel say once more, on this socket and so past what is attached to it, how this link is.
    ///
    /// An interface that is gone by then is answered with an error, which is no event.
    pub fn ask_for_link(&self, ifindex: u32) -> Result<(), MonitorError> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(link));
        request.header.flags = NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.get_ref().send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Puts routes back as they were that have this source, but through these interfaces, where they are not
    /// there.
    pub async fn restore_routes(
        &self,
        source: IpAddr,
        except: &BTreeSet<u32>,
    ) -> Result<(), MonitorError> {
        let routes = self.sourced.from(source, except);
        // Requests of one socket are served in order: all are under way at once.
        let asked = routes.into_iter().map(|route| async {
            let to = destination(&route);
            match self.handle.route().add(route).execute().await {
                Err(rtnetlink::Error::NetlinkError(error)) if -error.raw_code() == libc::EEXIST => {
                    Ok(0)
                }
                Err(source) => Err(MonitorError::Restore { to, source }),
                Ok(()) => Ok(1),
            }
        });
        let restored: Result<usize, _> = join_all(asked).await.into_iter().sum();
        let restored = restored?;
        if restored > 0 {
            info!(
                "{restored} routes with the source {source} are back: the kernel had dropped them with it"
            );
        }
        Ok(())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

/// Hands over each message of one datagram.
pub(super) fn each_message(
    mut bytes: &[u8],
    mut sink: impl FnMut(NetlinkMessage<RouteNetlinkMessage>),
) {
    while !bytes.is_empty() {
        let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
            Ok(message) => message,
            Err(error) => {
                warn!("an rtnetlink event was not understood and is passed over: {error}");
                return;
            }
        };
        let length = (message.header.length as usize).next_multiple_of(4);
        sink(message);
        if length == 0 {
            return;
        }
        bytes = bytes.get(length..).unwrap_or_default();
    }
}

/// Decodes the messages of one datagram.
fn decode(bytes: &[u8], sourced: &mut Sourced, sink: &mut impl FnMut(Event)) {
    each_message(bytes, |message| {
        let requester = message.header.port_number;
        let sequence = message.header.sequence_number;
        let replaces = message.header.flags & NLM_F_REPLACE != 0;
        if let NetlinkPayload::InnerMessage(inner) = message.payload
            && let Some(event) =
                event(remembered(inner, sourced, requester, replaces), requester, replaces)
        {
            let mut events = [intent(&event, sequence), Some(event)];
            // Who wants an address is known before it is there, and as long as it is there.
            if !matches!(events, [_, Some(Event::Address { .. })]) {
                events.reverse();
            }
            events.into_iter().flatten().for_each(&mut *sink);
        }
    });
}

/// The same, once it is known what of it may have to be put back.
fn remembered(
    message: RouteNetlinkMessage,
    sourced: &mut Sourced,
    requester: u32,
    replaces: bool,
) -> RouteNetlinkMessage {
    match &message {
        RouteNetlinkMessage::NewRoute(route) => sourced.see(route, replaces),
        RouteNetlinkMessage::DelRoute(route) => sourced.gone(route, requester),
        RouteNetlinkMessage::NewAddress(it) | RouteNetlinkMessage::DelAddress(it) => {
            if let Some((_, address)) = address(it) {
                sourced.moved(address.ip, matches!(message, RouteNetlinkMessage::NewAddress(_)));
            }
        }
        _ => {}
    }
    message
}

/// What an address that came or went says about who asked for it. The kernel itself asks for
/// nothing, and of IPv6 it does not say who did (`inet6_ifa_notify` in `net/ipv6/addrconf.c`).
fn intent(event: &Event, sequence: u32) -> Option<Event> {
    let (ifindex, address, port, wanted) = match event {
        Event::Address { ifindex, address, requester } => (*ifindex, *address, *requester, true),
        Event::AddressRemoved { ifindex, address, requester } => {
            (*ifindex, *address, *requester, false)
        }
        _ => return None,
    };
    let intent = Intent { port, sequence, ifindex, address, wanted, refused: false };
    (port != 0).then_some(Event::Intent { intent })
}

fn event(message: RouteNetlinkMessage, requester: u32, replaces: bool) -> Option<Event> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(&message).map(|link| Event::Link { link }),
        // A bridge says RTM_DELLINK of a port that leaves it; the link is still there.
        RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family != AddressFamily::Bridge =>
        {
            Some(Event::LinkRemoved { ifindex: message.header.index })
        }
        RouteNetlinkMessage::NewAddress(message) => address(&message)
            .map(|(ifindex, address)| Event::Address { ifindex, address, requester }),
        RouteNetlinkMessage::DelAddress(message) => address(&message)
            .map(|(ifindex, address)| Event::AddressRemoved { ifindex, address, requester }),
        RouteNetlinkMessage::NewRoute(message) => route::decode(&message)
            .map(|(ifindex, route)| Event::Route { ifindex, route, replaces }),
        RouteNetlinkMessage::DelRoute(message) => {
            route::decode(&message).map(|(ifindex, route)| Event::RouteRemoved { ifindex, route })
        }
        RouteNetlinkMessage::NewRule(message) => {
            rule::decode(&message).map(|rule| Event::Rule { rule })
        }
        RouteNetlinkMessage::DelRule(message) => {
            rule::decode(&message).map(|rule| Event::RuleRemoved { rule })
        }
        _ => None,
    }
}

/// A link message that describes the whole link; a bridge's word about a port (`AF_BRIDGE`) does
/// not.
fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family == AddressFamily::Bridge {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::Running),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Link(lower) => link.link = Some(*lower),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// The interface index and the local address; IPv6 without a peer has only `IFA_ADDRESS`.
pub(super) fn address(message: &AddressMessage) -> Option<(u32, Address)> {
    let mut ip: Option<IpAddr> = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            _ => {}
        }
    }
    let address = Address { ip: ip?, prefix_len: message.header.prefix_len };
    Some((message.header.index, address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use netlink_packet_route::route::{
        RouteAttribute, RouteMessage, RouteNextHop, RouteProtocol, RouteType, RouteVia,
    };

    use super::*;

    /// What the kernel says of a default route of the main table.
    fn said(replaces: bool, kind: RouteType, way: RouteAttribute) -> Option<Event> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = 254;
        message.header.kind = kind;
        message.header.protocol = RouteProtocol::Static;
        message.attributes = vec![RouteAttribute::Priority(100), way];
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        message.header.flags = if replaces { NLM_F_REPLACE } else { 0 };
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let mut events = Vec::new();
        decode(&bytes, &mut Sourced::default(), &mut |event| events.push(event));
        assert!(events.len() < 2, "{events:?}");
        events.pop()
    }

    #[test]
    fn a_route_says_what_it_replaces() {
        for replaced in [false, true] {
            let event = said(replaced, RouteType::Unicast, RouteAttribute::Oif(2));
            let Some(Event::Route { ifindex: 2, route, replaces }) = event else {
                panic!("{event:?}");
            };
            assert_eq!((route.metric, replaces), (100, replaced));
        }
    }

    /// It may outrank what a NIC has.
    #[test]
    fn a_route_that_is_no_nics_is_interface_0s() {
        let several = || RouteAttribute::MultiPath(vec![RouteNextHop::default(); 2]);
        let via = || RouteAttribute::Via(RouteVia::Inet6(Ipv6Addr::LOCALHOST));
        for (kind, way) in [
            (RouteType::Unicast, several()),
            (RouteType::Unicast, via()),
            (RouteType::BlackHole, RouteAttribute::Oif(2)),
        ] {
            let Some(Event::Route { ifindex: 0, route, replaces: true }) = said(true, kind, way)
            else {
                panic!("{kind:?}");
            };
            assert_eq!((route.prefix_len, route.metric, route.gateway), (0, 100, None));
        }
    }
}
