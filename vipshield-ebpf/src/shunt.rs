//! TC programs that join a NIC and its bearer past the bridge between them, for as long as the
//! shunt is thrown.
//!
//! On ingress the classifier comes before a bridge's receive handler (`__netif_receive_skb_core`,
//! `net/core/dev.c`), so that what is for this node reaches the bearer whatever the bridge does.
//! Frames for others, and tagged ones, go their usual way; group-addressed ones go both ways.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_UNSPEC},
    helpers::generated::bpf_redirect,
    macros::classifier,
    programs::TcContext,
};
use vipshield_common::{
    counters::Counter,
    shunt::{ShuntEnd, Thrown},
};

use crate::maps::{SHUNT_ENDS, SHUNTED, count, now_ns};

/// `linux/if_packet.h`.
const PACKET_HOST: u32 = 0;
const PACKET_BROADCAST: u32 = 1;
const PACKET_MULTICAST: u32 = 2;

#[classifier]
fn shunt_ingress(ctx: TcContext) -> i32 {
    let Some((end, Thrown { ingress: until, .. })) = end(&ctx) else { return TC_ACT_UNSPEC };
    if now_ns() >= until {
        return TC_ACT_UNSPEC;
    }
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let (packet_type, tagged) =
        unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).vlan_present != 0) };
    match packet_type {
        _ if tagged => TC_ACT_UNSPEC,
        PACKET_HOST => {
            count(Counter::ShuntedIn);
            redirect(end.peer, u64::from(BPF_F_INGRESS))
        }
        PACKET_BROADCAST | PACKET_MULTICAST => {
            count(Counter::ShuntedIn);
            // What cannot be cloned still goes its usual way.
            let _ = ctx.clone_redirect(end.peer, u64::from(BPF_F_INGRESS));
            TC_ACT_UNSPEC
        }
        _ => TC_ACT_UNSPEC,
    }
}

#[classifier]
fn shunt_egress(ctx: TcContext) -> i32 {
    let Some((end, Thrown { egress: until, .. })) = end(&ctx) else { return TC_ACT_UNSPEC };
    if now_ns() >= until {
        return TC_ACT_UNSPEC;
    }
    let Ok(first) = ctx.load::<u8>(0) else { return TC_ACT_UNSPEC };
    count(Counter::ShuntedOut);
    // The group bit of the destination's hardware address (IEEE 802.3, 3.2.3).
    if first & 1 == 0 {
        redirect(end.peer, 0)
    } else {
        let _ = ctx.clone_redirect(end.peer, 0);
        TC_ACT_UNSPEC
    }
}

/// The end of a shunt at this interface, if there is one, and until when it is thrown.
#[inline(always)]
fn end(ctx: &TcContext) -> Option<(ShuntEnd, Thrown)> {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: entries are plain integers; a torn read of one being replaced costs one frame.
    let end = unsafe { SHUNT_ENDS.get(ifindex) }.copied()?;
    // SAFETY: as above.
    let thrown = unsafe { SHUNTED.get(end.nic) }.copied()?;
    Some((end, thrown))
}

#[inline(always)]
fn redirect(ifindex: u32, flags: u64) -> i32 {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_redirect(ifindex, flags) as i32 }
}
