//! What throws a shunt before a port joins or leaves its bridge, where the kernel lets probes in.
//!
//! A Linux bridge says so a moment later; of a port that leaves Open vSwitch it is said only after it has
//! waited for every CPU (`ovs_netdev_detach_dev`, `net/openvswitch/vport-netdev.c`).

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_get_current_task, macros::kprobe, programs::ProbeContext};
use vipshield_common::shunt::{Devices, Thrown, trigger};

use crate::{
    kernel::read,
    link_sentry::throw,
    maps::{DELETING, now_ns},
};

/// A request to delete a port that this task made longer ago is over. What it does first is done in
/// microseconds, on an emulated machine in one or two thousand.
const DELETING_FOR_NS: u64 = 20_000_000;

/// The loader knows.
#[unsafe(no_mangle)]
static DEVICES: Devices = Devices { ifindex: 0, net: 0, inode: 0, own: 0 };

/// `br_add_if` (`net/bridge/br_if.c`): a port is about to join a Linux bridge, which drops what it
/// receives from then on, until it has said so.
#[kprobe]
fn bridge_join_sentry(ctx: ProbeContext) -> u32 {
    bridge(&ctx, trigger::JOIN)
}

/// `br_del_if`, at the same place: a port is about to leave a Linux bridge.
#[kprobe]
fn bridge_cut_sentry(ctx: ProbeContext) -> u32 {
    bridge(&ctx, trigger::CUT)
}

#[inline(always)]
fn bridge(ctx: &ProbeContext, event: u32) -> u32 {
    if let Some(device) = ctx.arg::<*const c_void>(1) {
        throw_of(device, event, |until| Thrown { ingress: until, egress: until });
    }
    0
}

/// `ovs_vport_cmd_del` (`net/openvswitch/datapath.c`): this task asks for a port of Open vSwitch to be
/// deleted. Which one, it has yet to look up.
#[kprobe]
fn ovs_request_sentry(_ctx: ProbeContext) -> u32 {
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    // Without room the shunt is thrown a moment later.
    let _ = DELETING.insert(task, now_ns(), 0);
    0
}

/// `ovs_vport_get_stats` (`net/openvswitch/vport.c`): of a port that is to be deleted the request first
/// notes what it will answer, these among it, and then has the port found by nobody any more.
#[kprobe]
fn ovs_look_sentry(ctx: ProbeContext) -> u32 {
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    // SAFETY: the entry is this task's own: nobody else writes it.
    let asked = unsafe { DELETING.get(task) }.copied();
    if asked.is_some_and(|at| now_ns().saturating_sub(at) < DELETING_FOR_NS) {
        ovs_cut(&ctx);
    }
    0
}

/// `ovs_vport_del`, at the same place: Open vSwitch finds a port no more, and waits for the locks it needs
/// to let go of it.
#[kprobe]
fn ovs_cut_sentry(ctx: ProbeContext) -> u32 {
    ovs_cut(&ctx);
    // SAFETY: a helper without preconditions.
    let _ = DELETING.remove(unsafe { bpf_get_current_task() });
    0
}

/// What the port receives until it is let go of still gets its usual way.
#[inline(always)]
fn ovs_cut(ctx: &ProbeContext) {
    // The device comes first in `struct vport`.
    if let Some(port) = ctx.arg::<*const c_void>(0)
        && let Some(device) = read(port, 0)
    {
        throw_of(device, trigger::CUT, |until| Thrown { ingress: 0, egress: until });
    }
}

/// Throws the shunt of the NIC that is this `struct net_device`, unless it is one of another network
/// namespace, where the same index is another interface's.
#[inline(always)]
fn throw_of(device: *const c_void, event: u32, thrown: impl FnOnce(u64) -> Thrown) {
    // SAFETY: the loader replaces the constant before the program is loaded: the compiler must not
    // know it.
    let known = unsafe { core::ptr::read_volatile(&raw const DEVICES) };
    if let Some(namespace) = read(device, known.net)
        && read(namespace, known.inode) == Some(known.own)
        && let Some(index) = read(device, known.ifindex)
    {
        throw(index, event, thrown);
    }
}
