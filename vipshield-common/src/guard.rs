//! The netlink guard: which messages a daemon does not get to see, and what is reported of them.

pub mod rules;

/// Length of an interface name with its terminating NUL (`IFNAMSIZ`, `linux/if.h`).
pub const IFNAMSIZ: usize = 16;

/// An interface name, padded with NUL bytes.
pub type IfName = [u8; IFNAMSIZ];

/// Sequence number of the requests vipshield writes on a daemon's own socket ("vs" and a word of
/// its own), so that their answers can be told from everything else in a packet capture.
pub const RESYNC_SEQUENCE: u32 = 0x7673_5253;

/// How long a heartbeat lasts, in nanoseconds. Invariant: everything passes within 2 s once the loader
/// has frozen. (Once it is dead, everything passes at once: the filters go with it.)
pub const HEARTBEAT_LIFETIME_NS: u64 = 1_500_000_000;

/// A loader whose loop has not come back for so long counts as dead, in nanoseconds: the same invariant.
pub const STALL_NS: u64 = 1_900_000_000;

/// What is withheld from the daemons about one NIC: bits of [`NicPolicy::withhold`].
pub mod withhold {
    /// `RTM_DELADDR` of an address on the NIC that the daemon did not ask for itself.
    pub const ADDRESS_REMOVAL: u32 = 1 << 0;
    /// `RTM_NEWLINK` without `IFF_UP`: the NIC was taken down by hand or by program.
    pub const ADMIN_DOWN: u32 = 1 << 1;
    /// `RTM_NEWLINK` with `IFF_UP` but without `IFF_RUNNING`: no carrier.
    pub const CARRIER_LOSS: u32 = 1 << 2;
    /// `RTM_NEWLINK` with a name other than [`NicPolicy::name`](super::NicPolicy::name), and any
    /// link message about another interface that bears this name.
    pub const RENAME: u32 = 1 << 3;
}

/// Policy for one guarded NIC, keyed by interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct NicPolicy {
    /// The name under which the daemons know the NIC.
    pub name: IfName,
    /// Bits of [`withhold`].
    pub withhold: u32,
    /// The rules of the operator's own, which come first.
    pub passes: Passes,
}

/// By the number of a [`Reason`] the rule of the operator's own that passes what would be withheld for it: its place in
/// [`maps::OWN_RULES`](crate::maps::OWN_RULES), 0 if there is none. A message is of one kind: of the first reason
/// for which it would be withheld.
pub type Passes = [u8; REASONS];

/// A power of two beyond the greatest [`Reason`].
pub const REASONS: usize = 16;

/// So many places there are for rules of the operator's own, with that which is none. What finds none of its own
/// has the last.
pub const OWN_RULES: u32 = 256;

/// One guarded socket, keyed by its cookie (`SO_COOKIE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuardedSocket {
    /// The socket's own netlink port: answers addressed to it always pass.
    pub port: u32,
    /// The port from which vipshield replays removals, 0 if none: they pass.
    pub replay_port: u32,
}

/// An address, to be found in a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct AddressKey {
    /// IPv4 in the first four bytes, or IPv6.
    pub address: [u8; 16],
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
}

/// An address of a guarded NIC of which a daemon was not told that it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeldAddress {
    /// Cookie of the daemon's socket.
    pub cookie: u64,
    /// The address.
    pub key: AddressKey,
    /// Index of the NIC.
    pub ifindex: u32,
}

/// What is known of a [`HeldAddress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    /// The NIC's epoch in which its removal was withheld.
    pub epoch: u32,
    /// The length of its prefix.
    pub prefix_len: u32,
}

/// Why a message was withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// An address left the NIC.
    AddressRemoval = 1,
    /// The NIC was taken down.
    AdminDown = 2,
    /// The NIC lost its carrier.
    CarrierLoss = 3,
    /// The NIC was renamed.
    Rename = 4,
    /// Another interface has the NIC's name.
    NameConflict = 5,
    /// A bridge says something about its port (`AF_BRIDGE`), which is not link state.
    BridgePort = 6,
    /// An address of vipshield's own.
    OwnAddress = 7,
    /// An address came that, to the daemon, never left, or that is to leave at once.
    KnownAddress = 8,
    /// The kernel dropped a route of keepalived's.
    RouteRemoval = 9,
}

impl Reason {
    /// The reason with this number, if there is one.
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::AddressRemoval,
            2 => Self::AdminDown,
            3 => Self::CarrierLoss,
            4 => Self::Rename,
            5 => Self::NameConflict,
            6 => Self::BridgePort,
            7 => Self::OwnAddress,
            8 => Self::KnownAddress,
            9 => Self::RouteRemoval,
            _ => return None,
        })
    }
}

/// One withheld message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct GuardReport {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Cookie of the socket it was withheld from.
    pub cookie: u64,
    /// Interface index in the message.
    pub ifindex: u32,
    /// Port of the one who asked for the change; 0 is the kernel itself.
    pub requester: u32,
    /// `ifi_flags` of a link message, else 0.
    pub link_flags: u32,
    /// `RTM_*`.
    pub message_type: u16,
    /// A [`Reason`].
    pub reason: u8,
    /// Number of the rule that decided ([`rules::RULES`]).
    pub rule: u8,
    /// `AF_*` of the message.
    pub family: u8,
    /// Of an address message, else 0.
    pub prefix_len: u8,
    /// Must be 0.
    pub padding: [u8; 6],
    /// Of an address message, else 0; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// Of a link message, else empty.
    pub name: IfName,
}

const _: () = assert!(size_of::<NicPolicy>() == 36);
const _: () = assert!(REASONS.is_power_of_two() && (Reason::RouteRemoval as usize) < REASONS);
const _: () = assert!(size_of::<GuardedSocket>() == 8);
const _: () = assert!(size_of::<AddressKey>() == 20);
const _: () = assert!(size_of::<HeldAddress>() == 32);
const _: () = assert!(size_of::<Held>() == 8);
const _: () = assert!(size_of::<GuardReport>() == 72);
const _: () = assert!(core::mem::offset_of!(GuardReport, address) == 40);

#[cfg(feature = "user")]
mod pod {
    use super::{AddressKey, GuardReport, GuardedSocket, Held, HeldAddress, NicPolicy};

    // SAFETY: repr(C), no padding (sizes asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for NicPolicy {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GuardedSocket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AddressKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HeldAddress {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Held {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GuardReport {}
}
