//! Intent: what a daemon asks of addresses.

/// Whose last word on what: the key under which it is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct WordKey {
    /// Cookie of the socket on which it was said.
    pub cookie: u64,
    /// IPv4 in the first four bytes, or IPv6; of no family, the request's sequence number.
    pub address: [u8; 16],
    /// `AF_*`; 0 if the address cannot be told.
    pub family: u32,
    /// Must be 0.
    pub padding: u32,
}

/// A request about an address that the kernel refused, or that it granted for an IPv6 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IntentReport {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Cookie of the socket it was made on.
    pub cookie: u64,
    /// Netlink port of that socket.
    pub port: u32,
    /// Sequence number of the request.
    pub sequence: u32,
    /// Interface index in the request.
    pub ifindex: u32,
    /// The kernel's answer: a negative errno, or 0.
    pub error: i32,
    /// `RTM_NEWADDR` or `RTM_DELADDR`.
    pub message_type: u16,
    /// `AF_*`; 0 if the address cannot be told: an IPv6 address that is about to appear.
    pub family: u8,
    /// Length of the address's prefix.
    pub prefix_len: u8,
    /// Must be 0.
    pub padding: [u8; 4],
    /// IPv4 in the first four bytes, or IPv6.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<IntentReport>() == 56);
const _: () = assert!(size_of::<WordKey>() == 32);

#[cfg(feature = "user")]
mod pod {
    use super::{IntentReport, WordKey};

    // SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for IntentReport {}
    // SAFETY: as above.
    unsafe impl aya::Pod for WordKey {}
}
