//! In which order the kernel tells of what a sequence does to a node's NIC and its bridge.
//!
//! Left out is what follows from the rest (the table of local addresses) and what the kernel does in
//! its own time (IPv6's link-local addresses).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::Socket;

use crate::lab::{Host, Lab};
use crate::rtnl::{address_of, messages, socket_in};

/// An address that nothing else is about: what the kernel tells of it is the end of a sequence.
const MARK: &str = "127.0.0.9";

/// The number of the table that the kernel keeps of a node's own addresses.
const LOCAL: u8 = 255;

/// What the first node's kernel tells.
pub struct Order {
    socket: Socket,
    host: Host,
    links: Links,
}

impl Order {
    /// Listen from now on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn listen(lab: &Lab) -> Result<Self> {
        let node = lab.node(0)?;
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let socket = socket_in(&node.host.namespace, &groups, Duration::from_secs(10))?;
        let links = Links::new(node.nic, [&lab.config.nic, &lab.config.bridge]);
        Ok(Self { socket, host: node.host.clone(), links })
    }

    /// What it told since it was last asked.
    ///
    /// # Errors
    /// When it tells no more, or more than is kept for its listeners.
    pub fn so_far(&mut self) -> Result<Vec<String>> {
        self.host.shell(&format!("ip address add {MARK} dev lo; ip address del {MARK} dev lo"))?;
        let mut told = Vec::new();
        loop {
            let (data, _) = self.socket.recv_from_full().context("rtnetlink")?;
            for message in messages(&data) {
                let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
                if is_mark(&message) {
                    return Ok(told);
                }
                told.extend(self.links.event(&message));
            }
        }
    }
}

fn is_mark(message: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::DelAddress(address) = message else { return false };
    address_of(address).is_some_and(|address| address.to_string() == MARK)
}

/// What was last told of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    name: String,
    up: bool,
    port: bool,
}

/// The NIC, and the link that has one of the two names beside it: the bridge.
#[derive(Debug)]
struct Links {
    nic: u32,
    names: [String; 2],
    known: BTreeMap<u32, State>,
}

impl Links {
    fn new(nic: u32, names: [&str; 2]) -> Self {
        let names = names.map(str::to_owned);
        let free = State { name: names[0].clone(), up: true, port: false };
        Self { nic, names, known: BTreeMap::from([(nic, free)]) }
    }

    /// What a message says that was not known, if it is about one of the two.
    fn event(&mut self, message: &RouteNetlinkMessage) -> Option<String> {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.link(link),
            RouteNetlinkMessage::DelLink(link) if is_own(link) => {
                self.known.remove(&link.header.index)?;
                Some(format!("{} gone", self.role(link.header.index)))
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                let index = address.header.index;
                self.known.get(&index)?;
                let gone = matches!(message, RouteNetlinkMessage::DelAddress(_));
                let (ip, length) = (address_of(address)?, address.header.prefix_len);
                Some(format!("address {ip}/{length} {} {}", self.role(index), what(gone)))
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                let gone = matches!(message, RouteNetlinkMessage::DelRoute(_));
                self.route(route, gone)
            }
            _ => None,
        }
    }

    fn link(&mut self, message: &LinkMessage) -> Option<String> {
        let index = message.header.index;
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if self.names.contains(name) => Some(name.clone()),
            _ => None,
        })?;
        if !is_own(message) {
            return None;
        }
        let is_port = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Controller(_));
        let up = message.header.flags.contains(LinkFlags::Up);
        let now = State { name, up, port: message.attributes.iter().any(is_port) };
        let before = self.known.insert(index, now.clone());
        if before.as_ref() == Some(&now) {
            return None;
        }
        let port = if now.port { "a port" } else { "no port" };
        let up = if now.up { "up" } else { "down" };
        Some(format!("{} is {}, {up}, {port}", self.role(index), now.name))
    }

    fn route(&self, route: &RouteMessage, gone: bool) -> Option<String> {
        let (mut to, mut via, mut out, mut table) =
            (None, String::new(), 0, route.header.table.into());
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(address),
                RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                    via = format!(" via {address}");
                }
                RouteAttribute::Oif(index) => out = *index,
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        self.known.get(&out)?;
        if table == u32::from(LOCAL) {
            return None;
        }
        let length = route.header.destination_prefix_length;
        let to = to.map_or_else(|| "default".to_owned(), |address| format!("{address}/{length}"));
        Some(format!("route {to}{via} {} {}", self.role(out), what(gone)))
    }

    fn role(&self, index: u32) -> &'static str {
        if index == self.nic { "NIC" } else { "bridge" }
    }
}

/// A bridge tells of its ports too, as links of its own family.
fn is_own(link: &LinkMessage) -> bool {
    link.header.interface_family == AddressFamily::Unspec
}

fn what(gone: bool) -> &'static str {
    if gone { "gone" } else { "there" }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use netlink_packet_route::address::{AddressAttribute, AddressMessage};

    use super::*;

    fn link(index: u32, name: &str, up: bool, master: Option<u32>) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.extend(master.map(LinkAttribute::Controller));
        RouteNetlinkMessage::NewLink(message)
    }

    fn route(out: u32, table: u8) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.table = table;
        let gateway = RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 100));
        message.attributes = vec![RouteAttribute::Oif(out), RouteAttribute::Gateway(gateway)];
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn links_are_told_when_they_change() {
        let mut links = Links::new(2, ["ens192", "br-provider"]);
        let mut told = |message| links.event(&message);
        assert_eq!(told(link(2, "ens192", true, None)), None);
        assert_eq!(
            told(link(2, "br-provider", false, None)).unwrap(),
            "NIC is br-provider, down, no port"
        );
        assert_eq!(told(link(6, "ens192", true, None)).unwrap(), "bridge is ens192, up, no port");
        assert_eq!(
            told(link(2, "br-provider", false, Some(5))).unwrap(),
            "NIC is br-provider, down, a port"
        );
        assert_eq!(told(link(5, "ovs-system", true, None)), None);
        let RouteNetlinkMessage::NewLink(gone) = link(6, "ens192", false, None) else { return };
        assert_eq!(told(RouteNetlinkMessage::DelLink(gone)).unwrap(), "bridge gone");
    }

    #[test]
    fn addresses_and_routes_are_told_of_the_two_alone() {
        let mut links = Links::new(2, ["ens192", "br-provider"]);
        let mut address = AddressMessage::default();
        address.header.index = 2;
        address.header.prefix_len = 24;
        address.attributes = vec![AddressAttribute::Local(Ipv4Addr::new(192, 0, 2, 11).into())];
        let gone = RouteNetlinkMessage::DelAddress(address);
        assert_eq!(links.event(&gone).unwrap(), "address 192.0.2.11/24 NIC gone");
        let main = 254;
        let told = links.event(&route(2, main)).unwrap();
        assert_eq!(told, "route default via 192.0.2.100 NIC there");
        assert_eq!(links.event(&route(2, LOCAL)), None);
        assert_eq!(links.event(&route(7, main)), None);
    }
}
