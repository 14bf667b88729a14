//! Why a frame was not understood.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A reason to make nothing of a frame. Each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformed {
    /// It ends before what its own headers announce.
    Truncated,
    /// What is needed of it lies beyond what was captured.
    NotCaptured,
    /// More VLAN tags than two.
    VlanTags,
    /// ARP for other hardware or another protocol, or with lengths that do not fit them.
    ArpForm,
    /// An ARP sender whose hardware address is all zeros, or one of a group.
    ArpSender,
    /// An IP header of another version than the Ethernet type says, or one that is too short.
    IpHeader,
    /// A total length that is less than the header, or more than the frame.
    IpLength,
    /// The checksum of the IPv4 header is wrong.
    IpChecksum,
    /// A fragment.
    Fragment,
    /// More IPv6 extension headers in front than anybody sends.
    Extension,
    /// It came through a router: its TTL, or hop limit, is not 255.
    Hops,
    /// A VRRP version other than 2 and 3, or 2 over IPv6.
    VrrpVersion,
    /// A VRRP packet that is no advert.
    VrrpType,
    /// Virtual router 0.
    VrrpRouter,
    /// An authentication type that VRRP version 2 does not have.
    VrrpAuthentication,
    /// An interval of zero.
    VrrpInterval,
    /// Fewer addresses than are counted, or none.
    VrrpLength,
    /// The checksum of the advert is wrong.
    VrrpChecksum,
    /// An advert's source is no address of a host.
    VrrpSource,
    /// `ICMPv6` neighbour discovery with a code.
    NeighbourCode,
    /// The `ICMPv6` checksum is wrong.
    NeighbourChecksum,
    /// A neighbour's target is no address of a host.
    NeighbourTarget,
    /// An option of length zero, or one that does not fit.
    NeighbourOption,
}

impl Malformed {
    /// Every reason.
    pub const ALL: [Self; 23] = [
        Self::Truncated,
        Self::NotCaptured,
        Self::VlanTags,
        Self::ArpForm,
        Self::ArpSender,
        Self::IpHeader,
        Self::IpLength,
        Self::IpChecksum,
        Self::Fragment,
        Self::Extension,
        Self::Hops,
        Self::VrrpVersion,
        Self::VrrpType,
        Self::VrrpRouter,
        Self::VrrpAuthentication,
        Self::VrrpInterval,
        Self::VrrpLength,
        Self::VrrpChecksum,
        Self::VrrpSource,
        Self::NeighbourCode,
        Self::NeighbourChecksum,
        Self::NeighbourTarget,
        Self::NeighbourOption,
    ];

    /// Its name in counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotCaptured => "not_captured",
            Self::VlanTags => "vlan_tags",
            Self::ArpForm => "arp_form",
            Self::ArpSender => "arp_sender",
            Self::IpHeader => "ip_header",
            Self::IpLength => "ip_length",
            Self::IpChecksum => "ip_checksum",
            Self::Fragment => "fragment",
            Self::Extension => "extension",
            Self::Hops => "hops",
            Self::VrrpVersion => "vrrp_version",
            Self::VrrpType => "vrrp_type",
            Self::VrrpRouter => "vrrp_router",
            Self::VrrpAuthentication => "vrrp_authentication",
            Self::VrrpInterval => "vrrp_interval",
            Self::VrrpLength => "vrrp_length",
            Self::VrrpChecksum => "vrrp_checksum",
            Self::VrrpSource => "vrrp_source",
            Self::NeighbourCode => "neighbour_code",
            Self::NeighbourChecksum => "neighbour_checksum",
            Self::NeighbourTarget => "neighbour_target",
            Self::NeighbourOption => "neighbour_option",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
