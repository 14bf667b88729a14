//! What the programs are given.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use netlink_packet_core::{NLM_F_REQUEST, NLMSG_ERROR, NetlinkMessage};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAttribute, RouteMessage},
};
use rtnetlink::LinkVeth;
use vipshield_common::{counters::Counter, programs};

use super::Message;

/// The guarded NIC.
pub(super) const NIC: &str = "nic";
const BEARER: &str = "bearer";
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Netlink port of somebody who is no daemon.
const SOMEBODY: u32 = 4711;

/// A NIC and another interface, in this thread's network namespace.
pub(super) async fn two_links() -> Result<(u32, u32)> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    handle.link().add(LinkVeth::new(NIC, BEARER).build()).execute().await?;
    let mut indexes = Vec::new();
    for name in [NIC, BEARER] {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        indexes.push(links.try_next().await?.context("the link that was made")?.header.index);
    }
    Ok((indexes.first().copied().unwrap_or(0), indexes.last().copied().unwrap_or(0)))
}

/// A full-sized TCP segment in IPv4; checksums are nobody's concern here.
pub(super) fn tcp_segment() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([192, 0, 2, 100, 192, 0, 2, 10]);
    frame.extend([0xc0, 0, 0x19, 0x2b, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(1514, 0);
    frame
}

/// Netlink messages, guarded and not.
pub(super) fn all(nic: u32, other: u32) -> Vec<Message> {
    let guard = |case, message: RouteNetlinkMessage, counter, reports| Message {
        program: programs::NETLINK_GUARD,
        case,
        bytes: bytes(message),
        counter,
        reports,
    };
    let intent = |case, error, counter, reports| Message {
        program: programs::NETLINK_INTENT,
        case,
        bytes: answer(&request(removal(nic)), error),
        counter,
        reports,
    };
    let up = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
    vec![
        guard("link, not guarded", link(other, BEARER, up), Counter::PassedOther, false),
        guard("link, guarded, passes", link(nic, NIC, up), Counter::PassedLinkWorks, false),
        guard(
            "link, guarded, withheld",
            link(nic, NIC, LinkFlags::Multicast),
            Counter::WithheldAdminDown,
            true,
        ),
        guard("address, not guarded", removal(other), Counter::PassedOther, false),
        guard("address, guarded, passes", addition(nic), Counter::PassedAddress, false),
        guard("address, guarded, withheld", removal(nic), Counter::WithheldAddress, true),
        guard("route", route(nic), Counter::PassedUnrelated, false),
        intent("answer to what succeeded", 0, Counter::IntentUnrelated, false),
        intent("answer to what was refused", -libc::EADDRNOTAVAIL, Counter::IntentRefused, true),
    ]
}

fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.port_number = SOMEBODY;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The same as one asks for it.
fn request(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut bytes = bytes(message);
    let [low, high] = NLM_F_REQUEST.to_ne_bytes();
    bytes.splice(6..8, [low, high]);
    bytes
}

fn link(ifindex: u32, name: &str, flags: LinkFlags) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = flags;
    // The kernel's own has some 1,400 bytes, the name first.
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::Mtu(1500));
    message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]));
    message.attributes.push(LinkAttribute::PhysPortName("x".repeat(1300)));
    RouteNetlinkMessage::NewLink(message)
}

fn address(ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = 32;
    message.header.family = AddressFamily::Inet;
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(VIP)));
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(VIP)));
    message.attributes.push(AddressAttribute::Label(NIC.to_owned()));
    message
}

fn addition(ifindex: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewAddress(address(ifindex))
}

fn removal(ifindex: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelAddress(address(ifindex))
}

fn route(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.attributes.push(RouteAttribute::Oif(ifindex));
    RouteNetlinkMessage::NewRoute(message)
}

/// The kernel's answer to a request: what was refused comes back whole, of what succeeded only the
/// header (`netlink_ack` in `net/netlink/af_netlink.c`).
fn answer(request: &[u8], error: i32) -> Vec<u8> {
    let kept = if error == 0 { 16 } else { request.len() };
    let length = 20 + kept;
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(NLMSG_ERROR.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(request.iter().skip(8).take(8));
    bytes.extend(error.to_ne_bytes());
    bytes.extend(request.iter().take(kept));
    bytes
}
