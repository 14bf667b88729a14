//! Raw tracepoints on tasks that exec, fork and exit, and on signals.
//!
//! An event only wakes userspace, which then looks at /proc; so the programs need nothing but the
//! current task's name and id, and neither tracefs nor BTF. Where there is BTF, an event also tells what
//! the task may do: anybody may start thousands under any name, and some are gone before they are looked at.
//! Raw tracepoints: Linux 4.17.

#![expect(clippy::needless_pass_by_value, reason = "a program gets its context by value")]

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use vipshield_common::{
    counters::Counter,
    tasks::{Credentials, NOWHERE, TaskChange, TaskEvent, UNKNOWN},
};

use crate::{
    kernel::read,
    maps::{TASK_NAMES, TASKS, count, now_ns},
};

/// `asm-generic/signal.h`.
const SIGHUP: i32 = 1;

/// `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;

/// The loader knows.
#[unsafe(no_mangle)]
static CREDENTIALS: Credentials =
    Credentials { cred: 0, permitted: 0, user_namespace: 0, inode: 0 };

/// `trace_sched_process_exec`: the name is already the new program's.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn task_exec(context: RawTracePointContext) -> i32 {
    tell(&context, TaskChange::Exec)
}

/// `trace_sched_process_fork`, in the parent. keepalived's children are forks that never exec.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn task_fork(context: RawTracePointContext) -> i32 {
    tell(&context, TaskChange::Fork)
}

/// `trace_sched_process_exit`, in the task that exits, before its files are closed.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn task_exit(context: RawTracePointContext) -> i32 {
    tell(&context, TaskChange::Exit)
}

/// `trace_signal_generate`, in the sender. keepalived's parent passes a SIGHUP on to its children,
/// which take it from a signalfd: nothing else tells that they reload.
#[raw_tracepoint(tracepoint = "signal_generate")]
fn task_signal(context: RawTracePointContext) -> i32 {
    if context.arg::<i32>(0) == SIGHUP { tell(&context, TaskChange::Reload) } else { 0 }
}

#[inline(always)]
fn tell(context: &RawTracePointContext, change: TaskChange) -> i32 {
    let Ok(comm) = bpf_get_current_comm() else { return 0 };
    // SAFETY: entries are never changed in place.
    if unsafe { TASK_NAMES.get(comm) }.is_none() {
        count(Counter::TasksIgnored);
        return 0;
    }
    let event = TaskEvent {
        time_ns: now_ns(),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        change: change as u32,
        admin_of: admin_of().unwrap_or(UNKNOWN),
        padding: [0; 4],
        comm,
    };
    debug!(context, "task {} did {}", event.pid, event.change);
    count(if TASKS.output::<TaskEvent>(&event, 0).is_ok() {
        Counter::TaskEvents
    } else {
        Counter::TaskEventsLost
    });
    0
}

/// The user namespace in which the current task may have `CAP_NET_ADMIN`. None: it cannot be told.
#[inline(always)]
fn admin_of() -> Option<u32> {
    // SAFETY: the loader replaces the constant before the program is loaded: the compiler must not
    // know it.
    let known = unsafe { core::ptr::read_volatile(&raw const CREDENTIALS) };
    if known.cred == 0 {
        return None;
    }
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() } as *const c_void;
    let cred = read::<*const c_void>(task, known.cred)?;
    // `kernel_cap_t`: two words, the lower one first; since Linux 6.3 one of 64 bits.
    let permitted = read::<u32>(cred, known.permitted)?;
    if permitted & (1 << CAP_NET_ADMIN) == 0 {
        return Some(NOWHERE);
    }
    let user_namespace = read::<*const c_void>(cred, known.user_namespace)?;
    read(user_namespace, known.inode)
}
