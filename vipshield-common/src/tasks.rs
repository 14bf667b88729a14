//! Tasks worth a word: guarded daemons being born and dying, and tools being started.

/// Length of a task's command name with its terminating NUL (`TASK_COMM_LEN`, `linux/sched.h`).
pub const TASK_COMM_LEN: usize = 16;

/// Kinds of command names.
pub mod names {
    /// A daemon worth guarding: it is told when one execs, forks or exits.
    pub const DAEMON: u32 = 1;
    /// A tool that takes and gives back NICs: it is told when one starts.
    pub const TOOL: u32 = 2;
}

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum TaskChange {
    /// It executed a program whose command name is worth guarding.
    Exec = 1,
    /// It forked.
    Fork = 2,
    /// Its last thread, or its group leader, exited.
    Exit = 3,
    /// A tool was started whose name is a sign.
    Tool = 4,
    /// It told another process, its child for instance, to read its configuration again (SIGHUP).
    Reload = 5,
}

impl TaskChange {
    /// The change with this number, if there is one.
    #[must_use]
    pub const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Exec,
            2 => Self::Fork,
            3 => Self::Exit,
            4 => Self::Tool,
            5 => Self::Reload,
            _ => return None,
        })
    }
}

/// Something happened to a task whose command name is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TaskEvent {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Process id in the initial PID namespace.
    pub pid: u32,
    /// A [`TaskChange`].
    pub change: u32,
    /// Command name.
    pub comm: [u8; TASK_COMM_LEN],
}

const _: () = assert!(size_of::<TaskEvent>() == 32);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
unsafe impl aya::Pod for TaskEvent {}
