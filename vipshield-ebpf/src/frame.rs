//! Ethernet frames as a TC program finds them: from offset 0, in network byte order.
//!
//! Every structure here is made of bytes, so that it may be anywhere in a frame.

use aya_ebpf::programs::TcContext;
use vipshield_common::guard::AddressKey;

use crate::skb::load;

/// `linux/if_ether.h`.
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_ARP: u16 = 0x0806;
pub(crate) const ETH_P_8021Q: u16 = 0x8100;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
pub(crate) const ETH_P_8021AD: u16 = 0x88a8;
/// The VLAN's part of a tag's control information (IEEE 802.1Q).
pub(crate) const VLAN_MASK: u32 = 0x0fff;
/// `linux/in.h`, RFC 5798 and RFC 4443.
pub(crate) const IPPROTO_VRRP: u8 = 112;
pub(crate) const IPPROTO_ICMPV6: u8 = 58;
/// RFC 4861, 4.3 and 4.4.
pub(crate) const SOLICITATION: u8 = 135;
pub(crate) const ADVERTISEMENT: u8 = 136;
/// RFC 826.
pub(crate) const ARP_REQUEST: [u8; 2] = [0, 1];
pub(crate) const ARP_REPLY: [u8; 2] = [0, 2];
/// `linux/socket.h`.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Where the ethertype is.
pub(crate) const ETHERTYPE: u32 = 12;
pub(crate) const ETHERNET: u32 = size_of::<Ethernet>() as u32;
pub(crate) const IPV6: u32 = size_of::<Ipv6>() as u32;
/// Where the next header is in an IPv6 header.
pub(crate) const NEXT_HEADER: u32 = 6;
pub(crate) const ND: u32 = size_of::<Nd>() as u32;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ethernet {
    pub(crate) destination: [u8; 6],
    pub(crate) source: [u8; 6],
    pub(crate) ethertype: [u8; 2],
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Arp {
    /// Kinds and lengths of the two sorts of address.
    pub(crate) sorts: [u8; 6],
    pub(crate) operation: [u8; 2],
    pub(crate) sender_mac: [u8; 6],
    pub(crate) sender: [u8; 4],
    pub(crate) target_mac: [u8; 6],
    pub(crate) target: [u8; 4],
}

impl Arp {
    /// Ethernet (1) and IPv4, of 6 and 4 bytes.
    pub(crate) const SORTS: [u8; 6] = [0, 1, 8, 0, 6, 4];
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4 {
    /// Version, and length of the header in words of four bytes.
    pub(crate) version_length: u8,
    pub(crate) service: u8,
    pub(crate) total_length: [u8; 2],
    pub(crate) identification: [u8; 2],
    pub(crate) fragment: [u8; 2],
    pub(crate) time_to_live: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6 {
    /// The first half byte.
    pub(crate) version: [u8; 4],
    pub(crate) payload_length: [u8; 2],
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
}

/// Neighbour solicitation or advertisement without options (RFC 4861, 4.3 and 4.4).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Nd {
    pub(crate) icmp_type: u8,
    pub(crate) code: u8,
    pub(crate) checksum: [u8; 2],
    pub(crate) flags: [u8; 4],
    pub(crate) target: [u8; 16],
}

pub(crate) const fn ipv4_key(ip: [u8; 4]) -> AddressKey {
    let mut address = [0; 16];
    address[0] = ip[0];
    address[1] = ip[1];
    address[2] = ip[2];
    address[3] = ip[3];
    AddressKey { address, family: AF_INET }
}

pub(crate) const fn ipv6_key(address: [u8; 16]) -> AddressKey {
    AddressKey { address, family: AF_INET6 }
}

/// Reads one byte: from where the kernel has it at hand, as it has the headers of nearly all
/// frames. The verifier understands the check only where it knows the offset as a number.
///
/// One byte more is asked for than is read. Without it the comparison leaves out its bound, and
/// before Linux 5.16 (it was put right in 5.15 and 5.10 as well) the verifier takes that for two bytes
/// less (`find_good_pkt_pointers`, `kernel/bpf/verifier.c`).
#[inline(always)]
pub(crate) fn byte(ctx: &TcContext, offset: u32) -> Option<u8> {
    let at = ctx.data() + offset as usize;
    if at + 2 <= ctx.data_end() {
        // SAFETY: within the frame's linear part by the check above, which is the verifier's, too.
        return Some(unsafe { *(at as *const u8) });
    }
    load(ctx, offset)
}

/// The same for a number of two bytes.
#[inline(always)]
pub(crate) fn number(ctx: &TcContext, offset: u32) -> Option<u16> {
    let at = ctx.data() + offset as usize;
    if at + 2 <= ctx.data_end() {
        // SAFETY: as above; two bytes are read one by one.
        return Some(u16::from_be_bytes(unsafe { *(at as *const [u8; 2]) }));
    }
    load(ctx, offset).map(u16::from_be_bytes)
}

/// Whether a frame is in a VLAN by its accelerated tag. Identifier 0 is none: the tag tells a priority
/// (IEEE 802.1Q, 9.6), and the kernel takes the frame for an untagged one (`__netif_receive_skb_core`).
#[inline(always)]
pub(crate) fn is_tagged(ctx: &TcContext) -> bool {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let (present, tci) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    present != 0 && tci & VLAN_MASK != 0
}

/// The same length, which is at least 1 and at most `ROOM`, a power of two, as every verifier sees.
/// Before Linux 6.2 it forgets what was compared once a number has been on the stack. The compiler
/// must not know the bounds, or it would leave them out.
#[inline(always)]
pub(crate) fn bounded<const ROOM: u32>(length: u32) -> u32 {
    // SAFETY: a local variable.
    let length = unsafe { core::ptr::read_volatile(&raw const length) };
    (length.wrapping_sub(1) & (ROOM - 1)) + 1
}
