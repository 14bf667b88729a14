//! Raw tracepoints on tasks that exec, fork and exit, and on signals.
//!
//! An event only wakes userspace, which then looks at /proc; so the programs need nothing but the
//! current task's name and id, no kernel types, and neither tracefs nor BTF. Raw tracepoints:
//! Linux 4.17.

#![expect(clippy::needless_pass_by_value, reason = "a program gets its context by value")]

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug;
use vipshield_common::{
    counters::Counter,
    tasks::{TaskChange, TaskEvent, names},
};

use crate::maps::{TASK_NAMES, TASKS, count, now_ns};

/// `asm-generic/signal.h`.
const SIGHUP: i32 = 1;

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
    let kind = unsafe { TASK_NAMES.get(comm) }.copied();
    let change = match (kind, change) {
        (Some(names::DAEMON), change) => change,
        (Some(names::TOOL), TaskChange::Exec) => TaskChange::Tool,
        _ => {
            count(Counter::TasksIgnored);
            return 0;
        }
    };
    let event = TaskEvent {
        time_ns: now_ns(),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        change: change as u32,
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
