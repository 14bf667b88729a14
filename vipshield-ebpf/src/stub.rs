//! What daemons' sockets carry: a step into the filter that vipshield has for such a socket.
//!
//! The array of filters is held open by vipshield's process alone. When that ends, however it ends, the
//! kernel empties the array (`prog_array_map_clear` in `kernel/bpf/arraymap.c`, called once nobody in
//! userspace holds it any more; Linux 4.4), and what finds no filter passes. So nothing else may ever hold
//! it: it must not be pinned.
//!
//! A filter counts against what its socket may hold in memory (`net.core.optmem_max`), and the one that takes
//! another's place is charged before the other is let go. Of these there is room for two on every socket.

use aya_ebpf::{macros::socket_filter, programs::SkBuffContext};
use vipshield_common::filters;

use crate::maps::FILTERS;

#[socket_filter]
fn guard_stub(skb: SkBuffContext) -> i64 {
    step(&skb, filters::GUARD)
}

#[socket_filter]
fn intent_stub(skb: SkBuffContext) -> i64 {
    step(&skb, filters::INTENT)
}

/// What the filter says; without one, everything passes.
#[inline(always)]
fn step(skb: &SkBuffContext, filter: u32) -> i64 {
    // SAFETY: nothing of this frame is used by what it jumps to, and nothing waits to be dropped.
    unsafe { FILTERS.tail_call(skb, filter) };
    i64::from(u32::MAX)
}
