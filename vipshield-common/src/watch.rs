//! The watch: frames about who owns which address, as they pass a guarded NIC or its bearer.
//!
//! A TC program reports them through a ring buffer ([`FRAMES`](crate::maps::FRAMES)) and passes
//! them on untouched. One record is a [`FrameReport`] followed by [`FrameReport::captured`] bytes
//! of the frame, from the first byte of its Ethernet header on.

use crate::guard::AddressKey;

/// How much of a frame is captured at the most, in bytes.
///
/// That is all of a frame with an MTU of 1,500 bytes and two VLAN tags (14 + 8 + 1,500). A VRRP
/// advert over IPv4 always fits, with IPv4 options and all 255 addresses that its one-byte count
/// can state (1,118 bytes). Over IPv6 the MTU allows 90 addresses, and they fit; an advert with
/// more needs jumbo frames, and is captured in part.
pub const CAPTURE_MAX: usize = 1522;

/// Which way a frame passes an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Direction {
    /// It was received there.
    Ingress = 1,
    /// It is sent there.
    Egress = 2,
}

impl Direction {
    /// The direction with this number, if there is one.
    #[must_use]
    pub const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Ingress,
            2 => Self::Egress,
            _ => return None,
        })
    }
}

/// What the program took a frame for, without having looked further than it had to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum FrameKind {
    /// ARP for IPv4 over Ethernet (RFC 826), a request or a reply.
    Arp = 1,
    /// `ICMPv6` neighbour solicitation (RFC 4861, 4.3).
    Solicitation = 2,
    /// `ICMPv6` neighbour advertisement (RFC 4861, 4.4).
    Advertisement = 3,
    /// IP protocol 112 over IPv4: a VRRP advert of any version.
    Vrrp4 = 4,
    /// IP protocol 112 over IPv6.
    Vrrp6 = 5,
}

impl FrameKind {
    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Arp,
            2 => Self::Solicitation,
            3 => Self::Advertisement,
            4 => Self::Vrrp4,
            5 => Self::Vrrp6,
            _ => return None,
        })
    }
}

/// What goes before the captured bytes of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FrameReport {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Interface index of the interface it passed.
    pub ifindex: u32,
    /// A [`Direction`].
    pub direction: u32,
    /// A [`FrameKind`].
    pub kind: u16,
    /// 1: it took a shunt, past the bridge; else 0.
    pub shunted: u16,
    /// Ethertype of the hardware-accelerated tag (0x8100 or 0x88a8), in host byte order; 0: none.
    /// Such a tag is the frame's outermost one and is not among its bytes.
    pub vlan_protocol: u16,
    /// Tag control information of that tag, in host byte order: priority, DEI, VLAN identifier.
    pub vlan_tci: u16,
    /// Length of the frame in bytes, from the Ethernet header on, without an accelerated tag.
    pub length: u32,
    /// How many bytes of it follow: `length`, or [`CAPTURE_MAX`] if that is less.
    pub captured: u32,
}

/// Who sends frames of one sort past an interface: what is rationed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Source {
    /// Interface index.
    pub ifindex: u32,
    /// A [`Direction`].
    pub direction: u32,
    /// Source of the Ethernet header.
    pub mac: [u8; 6],
    /// A [`FrameKind`].
    pub kind: u8,
    /// Virtual router identifier of an advert, else 0.
    pub router: u8,
}

/// A source is reported once in so many nanoseconds, over time: twice as often as `VRRPv3` can send.
pub const SOURCE_INTERVAL_NS: u64 = 5_000_000;
/// So many frames of it are reported at once, if it was silent before.
pub const SOURCE_BURST: u64 = 200;
/// Sources remembered on a machine of few CPUs; the one not heard for longest is forgotten.
pub const MAX_SOURCES: u32 = 4096;
/// Sources remembered for each CPU at least: the kernel gives a CPU 128 free entries of such a map at
/// a time, which are no other one's from then on (`LOCAL_FREE_TARGET`, `kernel/bpf/bpf_lru_list.c`).
pub const SOURCES_PER_CPU: u32 = 256;
/// Among frames of sources that are not remembered one is reported in so many nanoseconds, so that
/// whoever invents sources does not drive out those that are known.
pub const NEWCOMER_INTERVAL_NS: u64 = 10_000_000;
/// So many new sources are reported at once.
pub const NEWCOMER_BURST: u64 = 256;

/// Addresses watched at the most.
pub const MAX_ADDRESSES: usize = 4096;

/// An address for which a NIC answers its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AnsweredKey {
    /// Interface index of the NIC.
    pub ifindex: u32,
    /// The address.
    pub address: AddressKey,
}

/// What a NIC answers its neighbours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Answer {
    /// Hardware address of the NIC.
    pub mac: [u8; 6],
    /// 1: it forwards IPv6, which neighbours are told (RFC 4861, 4.4: the router flag); else 0.
    pub router: u16,
}

const _: () = assert!(size_of::<FrameReport>() == 32);
const _: () = assert!(size_of::<Source>() == 16);
const _: () = assert!(size_of::<AnsweredKey>() == 24);
const _: () = assert!(size_of::<Answer>() == 8);

#[cfg(feature = "user")]
mod pod {
    use super::{Answer, AnsweredKey, FrameReport};

    // SAFETY: repr(C), no padding (sizes asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for FrameReport {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AnsweredKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Answer {}
}
