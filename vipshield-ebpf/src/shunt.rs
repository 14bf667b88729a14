//! TC programs that join a NIC and its bearer past the bridge between them, for as long as the
//! shunt is thrown.
//!
//! On ingress the classifier comes before a bridge's receive handler (`__netif_receive_skb_core`,
//! `net/core/dev.c`), so that what is for this node reaches the bearer whatever the bridge does.
//! Frames for others, and those in a VLAN, go their usual way; group-addressed ones, and what tells where a
//! neighbour is, go both ways.

use core::cell::UnsafeCell;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect},
    macros::classifier,
    programs::TcContext,
};
use vipshield_common::{
    counters::Counter,
    shunt::{MARK, ShuntEnd, Thrown},
};

use crate::{
    frame::{
        ADVERTISEMENT, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IPV6, ETHERNET, ETHERTYPE,
        IPPROTO_ICMPV6, IPV6, NEXT_HEADER, VLAN_MASK, byte, is_tagged, number,
    },
    maps::{SHUNT_ENDS, SHUNTED, count, now_ns},
};

/// `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;
/// Longer than any shunt lasts, which is no longer than the longest deadline, a minute. There are a thousand jiffies
/// a second, or fewer.
const LONGEST_JIFFIES: u64 = 2 * 60 * 1000;

/// No shunt is thrown after this, in jiffies. Nearly always that is all that a frame asks: the kernel makes one
/// load each of this and of its own clock, where a look-up and a clock in nanoseconds are several times as much.
static THROWN_UNTIL: Moment = Moment(UnsafeCell::new(0));

/// An aligned word that programs write to. The instruction set that all kernels take has no atomic loads and stores
/// but these, which do not tear.
struct Moment(UnsafeCell<u64>);

// SAFETY: it is only accessed as a whole, and any value that was written is a fine one.
unsafe impl Sync for Moment {}

impl Moment {
    #[inline(always)]
    fn get(&self) -> u64 {
        // SAFETY: the pointer is to a static.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn set(&self, jiffies: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(jiffies) }
    }
}

/// A shunt is thrown now. To be called after it is in the map.
#[inline(always)]
pub(crate) fn thrown() {
    THROWN_UNTIL.set(jiffies() + LONGEST_JIFFIES);
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_jiffies64() }
}

#[classifier]
fn shunt_ingress(ctx: TcContext) -> i32 {
    let Some((end, Thrown { ingress: until, .. })) = end(&ctx) else { return TC_ACT_UNSPEC };
    if now_ns() >= until {
        return TC_ACT_UNSPEC;
    }
    // The kernel has taken the outermost tag off what arrives.
    if is_tagged(&ctx) {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the context of a classifier is a `__sk_buff`.
    match unsafe { (*ctx.skb.skb).pkt_type } {
        // Whoever asked may ask from the bridge or from the NIC, which in the moment of leaving are two: the kernel
        // would ask again a second later, and what is to be sent waits for it.
        PACKET_HOST if tells_of_neighbour(&ctx).unwrap_or(false) => {
            copy(&ctx, end.peer, u64::from(BPF_F_INGRESS), Counter::ShuntedIn)
        }
        PACKET_HOST => {
            count(Counter::ShuntedIn);
            redirect(&ctx, end.peer, u64::from(BPF_F_INGRESS))
        }
        PACKET_BROADCAST | PACKET_MULTICAST => {
            copy(&ctx, end.peer, u64::from(BPF_F_INGRESS), Counter::ShuntedIn)
        }
        _ => TC_ACT_UNSPEC,
    }
}

/// Whether a frame says where a neighbour is: ARP (RFC 826), or a neighbour advertisement (RFC 4861, 4.4).
#[inline(always)]
fn tells_of_neighbour(ctx: &TcContext) -> Option<bool> {
    Some(match number(ctx, ETHERTYPE)? {
        ETH_P_ARP => true,
        ETH_P_IPV6 => {
            byte(ctx, ETHERNET + NEXT_HEADER)? == IPPROTO_ICMPV6
                && byte(ctx, ETHERNET + IPV6)? == ADVERTISEMENT
        }
        _ => false,
    })
}

#[classifier]
fn shunt_egress(ctx: TcContext) -> i32 {
    shunt_out(&ctx).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn shunt_out(ctx: &TcContext) -> Option<i32> {
    let (end, Thrown { egress: until, .. }) = end(ctx)?;
    if now_ns() >= until || is_tagged(ctx) || is_tagged_in_band(ctx)? {
        return None;
    }
    // The group bit of the destination's hardware address (IEEE 802.3, 3.2.3).
    if byte(ctx, 0)? & 1 == 0 {
        count(Counter::ShuntedOut);
        Some(redirect(ctx, end.peer, 0))
    } else {
        Some(copy(ctx, end.peer, 0, Counter::ShuntedOut))
    }
}

/// Whether a frame that is sent has a VLAN's tag among its bytes, as one from a packet socket may.
#[inline(always)]
fn is_tagged_in_band(ctx: &TcContext) -> Option<bool> {
    Some(match number(ctx, ETHERTYPE)? {
        ETH_P_8021Q | ETH_P_8021AD => u32::from(number(ctx, ETHERNET)?) & VLAN_MASK != 0,
        _ => false,
    })
}

/// Has a copy of a frame take the shunt; the frame goes its usual way, be it copied or not.
#[inline(always)]
fn copy(ctx: &TcContext, ifindex: u32, flags: u64, counter: Counter) -> i32 {
    mark(ctx, MARK);
    let copied = ctx.clone_redirect(ifindex, flags).is_ok();
    mark(ctx, 0);
    count(if copied { counter } else { Counter::ShuntsFailed });
    TC_ACT_UNSPEC
}

/// The end of a shunt at this interface, if there is one, and until when it is thrown.
#[inline(always)]
fn end(ctx: &TcContext) -> Option<(ShuntEnd, Thrown)> {
    if jiffies() > THROWN_UNTIL.get() {
        return None;
    }
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: entries are plain integers; a torn read of one being replaced costs one frame.
    let end = unsafe { SHUNT_ENDS.get(ifindex) }.copied()?;
    // SAFETY: as above.
    let thrown = unsafe { SHUNTED.get(end.nic) }.copied()?;
    Some((end, thrown))
}

#[inline(always)]
fn redirect(ctx: &TcContext, ifindex: u32, flags: u64) -> i32 {
    mark(ctx, MARK);
    // SAFETY: a helper without preconditions.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}

/// Writes what tells a frame that took the shunt from one that went through the bridge. It is in the
/// frame's control block, which is copied with it (`__copy_skb_header`), and which nothing writes to between
/// a redirection and the programs of the other interface.
#[inline(always)]
fn mark(ctx: &TcContext, mark: u32) {
    // SAFETY: the context of a classifier is a `__sk_buff`, whose `cb` it may write to.
    unsafe { (*ctx.skb.skb).cb[0] = mark };
}

/// Whether a frame took the shunt.
#[inline(always)]
pub(crate) fn is_shunted(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).cb[0] == MARK }
}
