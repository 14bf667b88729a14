//! Where the VRRP sockets of a guarded daemon are bound, and send to, while names are exchanged.
//!
//! A daemon that opens its sockets anew in that time binds them by the NIC's name, which nothing has or
//! the bridge, and then asks for multicast through the NIC, by its index. The kernel refuses: a bound
//! socket sends through what it is bound to (`IP_MULTICAST_IF` in `do_ip_setsockopt`,
//! `net/ipv4/ip_sockglue.c`; the same for IPv6). So here it is bound to what bears the NIC's traffic, and
//! sends through what it is bound to.
//!
//! In a control group: Linux 5.3. The network namespace's cookie there: Linux 5.15.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sockopt},
    helpers::generated::bpf_get_netns_cookie,
    macros::cgroup_sockopt,
    programs::SockoptContext,
};
use vipshield_common::{counters::Counter, guard::IfName};

use crate::maps::{BEARERS, BOUND_TO, alive, count};

/// VRRP's protocol number (RFC 9568, section 5.1.1.4).
const IPPROTO_VRRP: u32 = 112;
/// `linux/in.h`, `linux/in6.h`, `asm-generic/socket.h`.
const IPPROTO_IP: i32 = 0;
const IPPROTO_IPV6: i32 = 41;
const SOL_SOCKET: i32 = 1;
const IP_MULTICAST_IF: i32 = 32;
const IPV6_MULTICAST_IF: i32 = 17;
const SO_BINDTODEVICE: i32 = 25;
/// Linux 5.0.
const SO_BINDTOIFINDEX: i32 = 62;
/// `struct ip_mreqn`: group, address, index.
const MREQN_INDEX: usize = 8;

/// The call goes on, with what is in its buffer by then.
const GO_ON: i32 = 1;
/// The shortest page: of an option that is longer than a page the buffer has no more than that, and
/// before Linux 6.5 the kernel refuses the call unless the program says that the buffer does not count
/// (`__cgroup_bpf_run_filter_setsockopt`, `kernel/bpf/cgroup.c`).
const PAGE: i32 = 4096;
const AS_IT_CAME: i32 = 0;

/// The loader knows.
#[unsafe(no_mangle)]
static NETWORK_NAMESPACE: u64 = 0;

#[cgroup_sockopt(setsockopt)]
fn socket_opening(ctx: SockoptContext) -> i32 {
    // SAFETY: the context is valid for as long as the program runs.
    let call = unsafe { &mut *ctx.sockopt };
    if call.optlen > PAGE {
        call.optlen = AS_IT_CAME;
        return GO_ON;
    }
    // SAFETY: the verifier lets nothing else be read here, and null is ruled out.
    let Some(socket) = (unsafe { call.__bindgen_anon_1.sk.as_ref() }) else { return GO_ON };
    if socket.protocol != IPPROTO_VRRP {
        return GO_ON;
    }
    let changed = match (call.level, call.optname) {
        (SOL_SOCKET, SO_BINDTODEVICE) => bind(&ctx, call).map(|()| Counter::OpeningsBound),
        (IPPROTO_IP, IP_MULTICAST_IF) => send(&ctx, call, socket, MREQN_INDEX),
        (IPPROTO_IPV6, IPV6_MULTICAST_IF) => send(&ctx, call, socket, 0),
        _ => return GO_ON,
    };
    count(changed.unwrap_or(Counter::OpeningsPassed));
    GO_ON
}

/// Binds it to what bears the traffic of the NIC that has this name to daemons.
#[inline(always)]
fn bind(ctx: &SockoptContext, call: &mut bpf_sockopt) -> Option<()> {
    if !is_here(ctx) || !alive() {
        return None;
    }
    // There is room for the longest name, however short this one is (`sockopt_alloc_buf` in
    // `kernel/bpf/cgroup.c`); what it does not fill is zero.
    let name: *mut IfName = within(call, 0)?;
    // SAFETY: it lies within the buffer.
    let asked_for = unsafe { name.read_unaligned() };
    // SAFETY: entries are never changed in place.
    let ifindex = *unsafe { BOUND_TO.get(asked_for) }?;
    // By index: names change. SAFETY: as above; the program may write what the kernel reads next.
    unsafe { name.cast::<u32>().write_unaligned(ifindex) };
    call.optname = SO_BINDTOIFINDEX;
    call.optlen = size_of::<u32>() as i32;
    Some(())
}

/// Has it send through what it is bound to, if that bears a NIC's traffic: the kernel allows nothing else.
#[inline(always)]
fn send(
    ctx: &SockoptContext,
    call: &bpf_sockopt,
    socket: &bpf_sock,
    index_at: usize,
) -> Option<Counter> {
    // A shorter one names an address, and the buffer is longer.
    if call.optlen < (index_at + size_of::<u32>()) as i32 {
        return None;
    }
    let index: *mut u32 = within(call, index_at)?;
    let bound = socket.bound_dev_if;
    // SAFETY: it lies within the buffer.
    let asked_for = unsafe { index.read_unaligned() };
    // SAFETY: entries are never changed in place.
    let is_bearer = unsafe { BEARERS.get(bound) }.is_some();
    if bound == asked_for || !is_bearer || !is_here(ctx) || !alive() {
        return None;
    }
    // SAFETY: as above; the program may write what the kernel reads next.
    unsafe { index.write_unaligned(bound) };
    Some(Counter::OpeningsSending)
}

/// What is so far behind the start of the call's buffer, if all of it is there.
#[inline(always)]
fn within<T>(call: &bpf_sockopt, offset: usize) -> Option<*mut T> {
    // SAFETY: both are pointers, whatever they point to.
    let (start, end): (*mut c_void, *mut c_void) =
        unsafe { (call.__bindgen_anon_2.optval, call.__bindgen_anon_3.optval_end) };
    let value = start.wrapping_byte_add(offset).cast::<T>();
    (value.wrapping_add(1).cast() <= end).then_some(value)
}

/// Whether the socket is one of vipshield's own network namespace: an index, or a name, elsewhere is
/// another interface's.
#[inline(always)]
fn is_here(ctx: &SockoptContext) -> bool {
    // SAFETY: the loader replaces the constant before the program is loaded: the compiler must not
    // know it. The helper takes any context.
    unsafe {
        let own = core::ptr::read_volatile(&raw const NETWORK_NAMESPACE);
        bpf_get_netns_cookie(ctx.as_ptr()) == own
    }
}
