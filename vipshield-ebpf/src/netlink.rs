//! rtnetlink messages, as a socket filter finds them and as the kernel handles them: from offset 0, in the
//! byte order of this machine.

use core::ffi::c_void;

use aya_ebpf::programs::SkBuffContext;

use crate::{kernel::read, skb};

/// `linux/rtnetlink.h`.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_DELROUTE: u16 = 25;
/// The main table of routes, and who makes those of keepalived's: `RTPROT_KEEPALIVED`, which is Linux's since 4.20, and
/// what keepalived 2.0 took before it knew of that (seen of 2.0.19).
pub(crate) const RT_TABLE_MAIN: u8 = 254;
pub(crate) const RTPROT_KEEPALIVED: u8 = 18;
pub(crate) const RTPROT_KEEPALIVED_2_0: u8 = 112;
/// `linux/netlink.h`: a request, an answer to one, and part of an answer to a dump.
pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLM_F_MULTI: u16 = 2;
/// The type's upper bits are flags (`NLA_TYPE_MASK`, `linux/netlink.h`).
pub(crate) const NLA_TYPE_MASK: u16 = 0x3fff;
/// `linux/socket.h`.
pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
/// `asm-generic/errno-base.h`.
pub(crate) const EPERM: i32 = 1;
/// `linux/if.h`.
pub(crate) const IFF_UP: u32 = 1 << 0;
pub(crate) const IFF_RUNNING: u32 = 1 << 6;
/// `linux/if_addr.h`.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// Local and address come among the first three in what the kernel says (`inet_fill_ifaddr`,
/// `inet6_fill_ifaddr`), and among the first few in what anybody asks.
const ATTRIBUTES_LOOKED_AT: u32 = 6;

/// `linux/rtnetlink.h`: `enum rtattr_type_t`.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;

/// The interface comes behind table, destination, priority, metrics, source, gateway and flow
/// (`fib_dump_info` in `net/ipv4/fib_semantics.c`, `rt6_fill_node` in `net/ipv6/route.c`).
const ROUTE_ATTRIBUTES_LOOKED_AT: u32 = 10;

/// `struct nlmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) message_type: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) port: u32,
}

/// `struct ifinfomsg`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct LinkMessage {
    pub(crate) family: u8,
    pub(crate) padding: u8,
    pub(crate) device_type: u16,
    pub(crate) index: u32,
    pub(crate) flags: u32,
    pub(crate) change: u32,
}

/// `struct ifaddrmsg`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AddressMessage {
    pub(crate) family: u8,
    pub(crate) prefix_len: u8,
    pub(crate) flags: u8,
    pub(crate) scope: u8,
    pub(crate) index: u32,
}

/// `struct rtmsg`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct RouteMessage {
    pub(crate) family: u8,
    pub(crate) prefix_len: u8,
    pub(crate) source_len: u8,
    pub(crate) tos: u8,
    pub(crate) table: u8,
    pub(crate) protocol: u8,
    pub(crate) scope: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u32,
}

/// `struct nlattr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    pub(crate) length: u16,
    pub(crate) attribute_type: u16,
}

pub(crate) const HEADER: u32 = size_of::<Header>() as u32;
pub(crate) const ATTRIBUTE: u32 = size_of::<Attribute>() as u32;

/// Where a message lies.
pub(crate) trait Message {
    /// Reads a plain value; nothing beyond the message's end.
    fn load<T: Copy>(&self, offset: u32) -> Option<T>;
}

impl Message for SkBuffContext {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        skb::load(self, offset)
    }
}

/// A request in the kernel's own memory.
pub(crate) struct Request {
    start: *const c_void,
    length: u32,
}

impl Request {
    /// The one that starts with this header.
    #[inline(always)]
    pub(crate) fn at(start: *const c_void) -> Option<(Self, Header)> {
        let header = read::<Header>(start, 0)?;
        Some((Self { start, length: header.length }, header))
    }
}

impl Message for Request {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: u32) -> Option<T> {
        let end = offset.checked_add(size_of::<T>() as u32)?;
        if end > self.length { None } else { read(self.start, offset) }
    }
}

/// `IFA_LOCAL` of the address message at `offset`, `IFA_ADDRESS` where there is none (IPv6 without
/// a peer).
#[inline(always)]
pub(crate) fn local_address(message: &impl Message, offset: u32, family: u8) -> Option<[u8; 16]> {
    let mut offset = offset + size_of::<AddressMessage>() as u32;
    let mut found = None;
    for _ in 0..ATTRIBUTES_LOOKED_AT {
        let Some(attribute) = message.load::<Attribute>(offset) else { break };
        let attribute_type = attribute.attribute_type & NLA_TYPE_MASK;
        if attribute_type == IFA_LOCAL || (attribute_type == IFA_ADDRESS && found.is_none()) {
            let mut address = [0_u8; 16];
            match family {
                AF_INET => {
                    let bytes = message.load::<[u8; 4]>(offset + ATTRIBUTE)?;
                    address[0] = bytes[0];
                    address[1] = bytes[1];
                    address[2] = bytes[2];
                    address[3] = bytes[3];
                }
                AF_INET6 => address = message.load::<[u8; 16]>(offset + ATTRIBUTE)?,
                _ => return None,
            }
            found = Some(address);
            if attribute_type == IFA_LOCAL {
                break;
            }
        }
        let Some(step) = align(attribute.length) else { break };
        offset += step;
    }
    found
}

/// Where a route leads, and through which interface: `RTA_DST` and `RTA_OIF` of the message at `offset`. None
/// without an interface of its own: it has several next hops, or none.
#[inline(always)]
pub(crate) fn leads(message: &impl Message, offset: u32, family: u8) -> Option<([u8; 16], u32)> {
    let mut offset = offset + size_of::<RouteMessage>() as u32;
    let mut destination = [0_u8; 16];
    for _ in 0..ROUTE_ATTRIBUTES_LOOKED_AT {
        let attribute = message.load::<Attribute>(offset)?;
        match attribute.attribute_type & NLA_TYPE_MASK {
            RTA_DST if family == AF_INET6 => {
                destination = message.load::<[u8; 16]>(offset + ATTRIBUTE)?;
            }
            RTA_DST => {
                let bytes = message.load::<[u8; 4]>(offset + ATTRIBUTE)?;
                destination[0] = bytes[0];
                destination[1] = bytes[1];
                destination[2] = bytes[2];
                destination[3] = bytes[3];
            }
            RTA_OIF => return Some((destination, message.load::<u32>(offset + ATTRIBUTE)?)),
            _ => {}
        }
        offset += align(attribute.length)?;
    }
    None
}

/// An attribute's length with its padding; nothing for a length no attribute can have.
#[inline(always)]
pub(crate) fn align(length: u16) -> Option<u32> {
    if u32::from(length) < ATTRIBUTE { None } else { Some((u32::from(length) + 3) & !3) }
}
