//! One rtnetlink socket per host, with the few requests the lab makes.
//!
//! Requests block until the kernel has answered, as Kube-OVN's do: it answers
//! within the sending system call, so a request takes as long as its work.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    Prop,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup,
    RouteMessageBuilder,
};

use crate::config::Prefix;
use crate::netns::Netns;

/// Create what must not be there yet.
const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
/// Create it, or change what is there.
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// A socket to the rtnetlink of one namespace.
#[derive(Clone, Debug)]
pub struct Rtnl(Arc<Mutex<Connection>>);

#[derive(Debug)]
struct Connection {
    socket: Socket,
    sequence: u32,
}

/// A netlink socket made inside `namespace`, which waits at most `limit` for a message.
///
/// # Errors
/// When the namespace cannot be entered or the socket not made.
pub fn socket_in(namespace: &Netns, groups: &[MulticastGroup], limit: Duration) -> Result<Socket> {
    let socket = namespace.run(|| {
        let mut socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
        socket.bind_auto().context("netlink socket")?;
        for group in groups {
            socket.add_membership(*group as u32).context("netlink socket")?;
        }
        Ok(socket)
    })?;
    setsockopt(&socket, sockopt::RcvBufForce, &(4 << 20)).context("netlink socket")?;
    let limit = TimeVal::new(limit.as_secs() as i64, i64::from(limit.subsec_micros()));
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit).context("netlink socket")?;
    Ok(socket)
}

/// A message, ready to be sent.
#[must_use]
pub fn serialized(message: RouteNetlinkMessage, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, message.into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    buffer
}

/// The messages of a datagram, up to the first that cannot be understood.
pub fn messages(mut data: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    std::iter::from_fn(move || {
        let message = NetlinkMessage::deserialize(data).ok()?;
        let length = (message.header.length as usize).next_multiple_of(4);
        data = data.get(length..).unwrap_or_default();
        Some(message)
    })
}

impl Connection {
    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let question = serialized(message, flags, self.sequence);
        self.socket.send_to(&question, &SocketAddr::new(0, 0), 0).context("netlink request")?;
        let mut answers = Vec::new();
        loop {
            let data = match self.socket.recv_from_full() {
                Ok((data, _)) => data,
                // What has a time limit is not resumed after the process was stopped (`signal(7)`).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("no netlink answer"),
            };
            for message in messages(&data) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(error.to_io().into()),
                        };
                    }
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    _ => {}
                }
            }
        }
    }
}

/// A link as the kernel shows it.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// Alternative names.
    pub altnames: Vec<String>,
    /// Index of the bridge or datapath it is a port of.
    pub master: Option<u32>,
    /// Whether it is up and has a carrier.
    pub usable: bool,
    /// Whether it is a bridge, of the kernel's own kind or of Open vSwitch.
    pub bridge: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            usable: usable(message.header.flags),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.bridge = infos.iter().any(|info| match info {
                        LinkInfo::Kind(InfoKind::Bridge) => true,
                        LinkInfo::Kind(InfoKind::Other(kind)) => kind == "openvswitch",
                        _ => false,
                    });
                }
                LinkAttribute::PropList(props) => {
                    link.altnames.extend(props.into_iter().filter_map(|prop| match prop {
                        Prop::AltIfName(name) => Some(name),
                        _ => None,
                    }));
                }
                _ => {}
            }
        }
        link
    }
}

/// Whether an interface with these flags can carry a frame: administratively
/// up, running, and with a carrier.
#[must_use]
pub fn usable(flags: LinkFlags) -> bool {
    flags.contains(LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp)
}

/// The address of an address message: the local one where the two differ.
#[must_use]
pub fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

impl Rtnl {
    /// Connect inside `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not made.
    pub fn open(namespace: &Netns) -> Result<Self> {
        let socket = socket_in(namespace, &[], Duration::from_secs(10))?;
        Ok(Self(Arc::new(Mutex::new(Connection { socket, sequence: 0 }))))
    }

    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(|_| ())
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).ask(message, flags)
    }

    /// The link with this index, whatever it is called.
    ///
    /// # Errors
    /// When there is none.
    pub fn link_at(&self, index: u32) -> Result<Link> {
        self.one_link(LinkUnspec::new_with_index(index), &index)
    }

    /// The link called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn link(&self, name: &str) -> Result<Link> {
        self.one_link(LinkUnspec::new_with_name(name), &name)
    }

    fn one_link(
        &self,
        question: LinkMessageBuilder<LinkUnspec>,
        what: &dyn std::fmt::Display,
    ) -> Result<Link> {
        let answers = self.ask(RouteNetlinkMessage::GetLink(question.build()), NLM_F_ACK);
        let mut answers = answers.with_context(|| format!("link {what}"))?.into_iter();
        let found = answers.find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.into()),
            _ => None,
        });
        found.with_context(|| format!("no link {what}"))
    }

    fn links(&self) -> Result<Vec<Link>> {
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.ask(question, NLM_F_DUMP).context("cannot list links")?.into_iter();
        let links = answers.filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.into()),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The indexes of all links.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn indexes(&self) -> Result<Vec<u32>> {
        Ok(self.links()?.into_iter().map(|link| link.index).collect())
    }

    /// Whether the link with this index is a port of something.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn is_port(&self, index: u32) -> Result<bool> {
        Ok(self.links()?.iter().any(|link| link.index == index && link.master.is_some()))
    }

    /// Whether a link called `name` exists.
    #[must_use]
    pub fn exists(&self, name: &str) -> bool {
        self.link(name).is_ok()
    }

    fn change(&self, change: LinkMessageBuilder<LinkUnspec>) -> Result<()> {
        self.request(RouteNetlinkMessage::NewLink(change.build()), 0)
    }

    /// Set a link administratively up.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn up(&self, index: u32) -> Result<()> {
        self.change(LinkUnspec::new_with_index(index).up())
    }

    /// Set a link administratively down.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn down(&self, index: u32) -> Result<()> {
        self.change(LinkUnspec::new_with_index(index).down())
    }

    /// Rename a link.
    ///
    /// # Errors
    /// When the name is taken, or the link is up and the kernel wants it down.
    pub fn rename(&self, index: u32, name: &str) -> Result<()> {
        self.change(LinkUnspec::new_with_index(index).name(name))
    }

    /// Set the hardware address of a link.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn set_mac(&self, index: u32, mac: &[u8]) -> Result<()> {
        self.change(LinkUnspec::new_with_index(index).address(mac.to_vec()))
    }

    /// Make a link a port of the bridge `master`; 0 takes it out.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn set_master(&self, index: u32, master: u32) -> Result<()> {
        self.change(LinkUnspec::new_with_index(index).controller(master))
    }

    /// Delete a link.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(index).build();
        self.request(RouteNetlinkMessage::DelLink(link), 0)
    }

    /// Drop an alternative name of a link.
    ///
    /// # Errors
    /// When it does not have that name.
    pub fn drop_altname(&self, index: u32, name: &str) -> Result<()> {
        let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(names).build();
        self.request(RouteNetlinkMessage::DelLinkProp(link), 0)
    }

    /// Make a bridge without spanning tree and multicast snooping, down, with this hardware address.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_bridge(&self, name: &str, mac: &[u8]) -> Result<()> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.to_vec())
            .mcast_snooping(false)
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0);
        self.request(RouteNetlinkMessage::NewLink(bridge.build()), CREATE)
            .with_context(|| format!("cannot make bridge {name}"))
    }

    /// Make a veth pair: `near` here, `far` in the namespace `there` with hardware address `mac`.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn add_veth(&self, near: &str, far: &str, there: BorrowedFd<'_>, mac: &[u8]) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(far)
            .address(mac.to_vec())
            .setns_by_fd(there.as_raw_fd());
        let veth =
            LinkVeth::new(near, far).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        self.request(RouteNetlinkMessage::NewLink(veth.build()), CREATE)
            .with_context(|| format!("cannot make veth {near} {far}"))
    }

    /// Add an address.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_address(&self, index: u32, prefix: Prefix) -> Result<()> {
        let address = match prefix.address {
            IpAddr::V4(v4) => AddressMessageBuilder::<Ipv4Addr>::new()
                .index(index)
                .address(v4, prefix.length)
                .build(),
            IpAddr::V6(v6) => {
                let address = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
                let mut address = address.address(v6, prefix.length).build();
                // The lab's addresses are unique; waiting for the detection would only cost time.
                address.header.flags |= AddressHeaderFlags::Nodad;
                address
            }
        };
        self.request(RouteNetlinkMessage::NewAddress(address), CREATE)
            .with_context(|| format!("cannot add address {prefix}"))
    }

    /// The addresses of a link, as messages, in the kernel's order.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn addresses(&self, index: u32) -> Result<Vec<AddressMessage>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.ask(question, NLM_F_DUMP).context("cannot list addresses")?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        });
        Ok(addresses.filter(|address| address.header.index == index).collect())
    }

    /// Delete an address.
    ///
    /// # Errors
    /// When it is not there.
    pub fn delete_address(&self, address: AddressMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(address), 0)
    }

    /// Add an address, or change the one that is there.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn replace_address(&self, address: AddressMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::NewAddress(address), REPLACE)
    }

    /// The routes of the main table whose output is this link, IPv4 first.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn routes(&self, index: u32) -> Result<Vec<RouteMessage>> {
        let mut found = self.all_routes()?;
        found.retain(|route| {
            route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.attributes.contains(&RouteAttribute::Oif(index))
        });
        Ok(found)
    }

    /// The policy rules, IPv4 first.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn rules(&self) -> Result<Vec<RuleMessage>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RuleMessage::default();
            question.header.family = family;
            let question = RouteNetlinkMessage::GetRule(question);
            let answers = self.ask(question, NLM_F_DUMP).context("cannot list rules")?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRule(rule) => Some(rule),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// The routes of every table, IPv4 first.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn all_routes(&self) -> Result<Vec<RouteMessage>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let question = RouteNetlinkMessage::GetRoute(question);
            let answers = self.ask(question, NLM_F_DUMP).context("cannot list routes")?;
            found.extend(answers.into_iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            }));
        }
        Ok(found)
    }

    /// Add a route, or change the one that is there.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn replace_route(&self, route: RouteMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(route), REPLACE)
    }

    /// Delete a route.
    ///
    /// # Errors
    /// When it is not there.
    pub fn delete_route(&self, route: RouteMessage) -> Result<()> {
        self.request(RouteNetlinkMessage::DelRoute(route), 0)
    }

    /// Route everything of the gateway's family through it.
    ///
    /// # Errors
    /// When the gateway cannot be reached through that link.
    pub fn default_route(&self, index: u32, gateway: IpAddr) -> Result<()> {
        let route = RouteMessageBuilder::<IpAddr>::new().output_interface(index);
        let route = match gateway {
            IpAddr::V4(_) => route.destination_prefix(IpAddr::from([0; 4]), 0),
            IpAddr::V6(_) => route.destination_prefix(IpAddr::from([0_u16; 8]), 0),
        };
        let route = route.and_then(|route| route.gateway(gateway));
        let Ok(route) = route else { bail!("{gateway} is no gateway") };
        self.request(RouteNetlinkMessage::NewRoute(route.build()), CREATE)
            .with_context(|| format!("cannot route through {gateway}"))
    }
}

/// Listens for route events of a namespace from the moment it is made.
#[derive(Debug)]
pub struct RouteEvents(Socket);

impl RouteEvents {
    /// Listen inside `namespace`. `quiet` is how long it takes for quiet.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not made.
    pub fn listen(namespace: &Netns, quiet: Duration) -> Result<Self> {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        socket_in(namespace, &groups, quiet).map(Self)
    }

    /// Wait until no route event came for that long.
    ///
    /// # Errors
    /// When the waiting thread dies.
    pub async fn settle(self) -> Result<()> {
        let wait = tokio::task::spawn_blocking(move || while self.0.recv_from_full().is_ok() {});
        wait.await.context("waiting for route events")
    }
}
