//! The shunt: NIC and bearer as one wire, past the bridge between them.
//!
//! While a port joins or leaves a bridge there are moments in which the bridge forwards nothing
//! and userspace cannot know yet. The shunt is thrown from the kernel's own announcement, in the
//! context of whoever made the change, and ends by itself.

/// What [`Thrown`] is read from and compared with is in nanoseconds.
const NS_PER_MS: u64 = 1_000_000;

/// The first word of the room that the kernel leaves for programs in a frame (`cb`) that takes a shunt:
/// past a bridge is not through it. Written for this, and cleared where the frame itself goes on.
pub const MARK: u32 = 0x7669_7073;

/// A Linux bridge says that its port is gone before it lets go of what the port receives (`del_nbp`,
/// `net/bridge/br_if.c`): the receive handler goes some moments later. Nanoseconds.
pub const HANDLER_GOES_NS: u64 = 2_000_000;

/// What throws a shunt.
pub mod trigger {
    /// The NIC became a port.
    pub const JOIN: u32 = 1;
    /// The NIC is a port no longer.
    pub const CUT: u32 = 2;
}

/// One end of a shunt, under its interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ShuntEnd {
    /// Interface index of the other end.
    pub peer: u32,
    /// Interface index of the NIC, which is one of the two.
    pub nic: u32,
    /// One of [`trigger`].
    pub trigger: u32,
    /// For how long it lasts once thrown, unless it is taken up before, in milliseconds.
    pub lasts_ms: u32,
}

impl ShuntEnd {
    /// Until when one lasts that is thrown at `now`.
    #[must_use]
    pub const fn until(&self, now: u64) -> u64 {
        now.saturating_add(self.lasts_ms as u64 * NS_PER_MS)
    }
}

/// Until when (`CLOCK_MONOTONIC`, nanoseconds) a NIC's shunt is thrown; 0 is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Thrown {
    /// From the NIC to the bearer.
    pub ingress: u64,
    /// From the bearer to the NIC.
    pub egress: u64,
}

impl Thrown {
    /// What is left of it at `now` for a NIC of which the kernel says that it is no port any more: its own
    /// stack has what arrives, that of a Linux bridge's port, which is shunted by then, in a moment.
    #[must_use]
    pub const fn let_go(self, now: u64, until: u64) -> Self {
        let soon = now.saturating_add(HANDLER_GOES_NS);
        let ingress = if self.ingress < soon { self.ingress } else { soon };
        Self { ingress, egress: until }
    }
}

/// How a probe tells whose a `struct net_device` is. Offsets are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Devices {
    /// Of `ifindex` in `struct net_device`.
    pub ifindex: u32,
    /// Of the pointer to its `struct net`, there.
    pub net: u32,
    /// Of the namespace's inode number in `struct net`.
    pub inode: u32,
    /// The inode number of vipshield's own network namespace: an `ifindex` is one of its namespace.
    pub own: u32,
}

const _: () = assert!(size_of::<Devices>() == 16);
const _: () = assert!(size_of::<ShuntEnd>() == 16);
const _: () = assert!(size_of::<Thrown>() == 16);

#[cfg(feature = "user")]
mod pod {
    use super::{Devices, ShuntEnd, Thrown};

    // SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for Devices {}

    // SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
    unsafe impl aya::Pod for ShuntEnd {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Thrown {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leaving_port_receives_is_shunted_for_a_moment_longer() {
        let end = ShuntEnd { lasts_ms: 500, ..ShuntEnd::default() };
        let now = 7 * end.until(0);
        let until = end.until(now);
        assert_eq!(until, now + 500 * NS_PER_MS);
        let bridge = Thrown { ingress: until, egress: until }.let_go(now, until);
        assert!(bridge.ingress > now && bridge.ingress < until, "{bridge:?}");
        assert_eq!(bridge.egress, until);
        // Open vSwitch has let go of it, or it was not thrown.
        for ingress in [0, now - 1] {
            let left = Thrown { ingress, egress: until }.let_go(now, until);
            assert_eq!(left, Thrown { ingress, egress: until });
        }
        // What is said again makes it no longer.
        let again = bridge.let_go(now + 1, until + 1);
        assert_eq!((again.ingress, again.egress), (bridge.ingress, until + 1));
    }
}
