//! What a task asks of the kernel about an IPv6 address, seen where the kernel begins to do it.
//!
//! The answer that follows does not name the address, and it is announced later, from a thread of the kernel's
//! (`addrconf_dad_work` in `net/ipv6/addrconf.c`): on a node that is busy seconds later. Who may not ask does
//! not get as far.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_get_current_task, macros::kprobe, programs::ProbeContext};

use crate::{
    maps::{ANNOUNCED, Announced, now_ns},
    netlink::{AddressMessage, HEADER, Message as _, Request, local_address},
};

/// `inet6_rtm_newaddr` (`net/ipv6/addrconf.c`): the handler of requests for IPv6 addresses. Its second argument
/// is the request.
#[kprobe]
fn address_sentry(ctx: ProbeContext) -> u32 {
    remember(&ctx);
    0
}

/// Remembers for `netlink_intent` what this task asks for.
#[inline(always)]
fn remember(ctx: &ProbeContext) -> Option<()> {
    let (request, header) = Request::at(ctx.arg::<*const c_void>(1)?)?;
    let message = request.load::<AddressMessage>(HEADER)?;
    let announced = Announced {
        time_ns: now_ns(),
        address: local_address(&request, HEADER, message.family)?,
        ifindex: message.index,
        sequence: header.sequence,
        message_type: header.message_type,
        family: message.family,
        prefix_len: message.prefix_len,
    };
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    ANNOUNCED.insert(task, announced, 0).ok()
}
