//! vipshield's eBPF programs. One file per program, or for those of one purpose, and the maps in one
//! place.
#![no_std]
#![no_main]
#![allow(
    clippy::inline_always,
    reason = "a call is a call for the verifier too, and a context must not leave its program"
)]
#![expect(clippy::needless_pass_by_value, reason = "a program gets its context by value")]

mod address_sentry;
mod answer;
mod frame;
mod intent;
mod kernel;
mod link_sentry;
mod maps;
mod netlink;
mod netlink_guard;
mod opening;
mod port_sentries;
mod shunt;
mod skb;
mod stub;
mod tasks;
mod watch;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects a program that can reach this, so it never runs.
    loop {}
}

/// Helpers such as `bpf_ktime_get_ns` are for programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
