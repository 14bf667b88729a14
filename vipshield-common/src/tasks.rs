//! Tasks worth a word: guarded daemons being born and dying.

/// Length of a task's command name with its terminating NUL (`TASK_COMM_LEN`, `linux/sched.h`).
pub const TASK_COMM_LEN: usize = 16;

/// A task may have `CAP_NET_ADMIN` in no user namespace.
pub const NOWHERE: u32 = 0;
/// The kernel does not say where it keeps that.
pub const UNKNOWN: u32 = u32::MAX;

/// Where the kernel keeps what a task may do. Offsets are in bytes; all are 0 if they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Credentials {
    /// Of the pointer to `struct cred` in `struct task_struct`.
    pub cred: u32,
    /// Of the permitted capabilities, there.
    pub permitted: u32,
    /// Of the pointer to the user namespace, there.
    pub user_namespace: u32,
    /// Of the namespace's inode number in `struct user_namespace`.
    pub inode: u32,
}

const _: () = assert!(size_of::<Credentials>() == 16);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
unsafe impl aya::Pod for Credentials {}

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
    /// It told another process, its child for instance, to read its configuration again (SIGHUP).
    Reload = 4,
}

impl TaskChange {
    /// The change with this number, if there is one.
    #[must_use]
    pub const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Exec,
            2 => Self::Fork,
            3 => Self::Exit,
            4 => Self::Reload,
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
    /// Inode number of the user namespace in which it may have `CAP_NET_ADMIN`; or [`NOWHERE`], or
    /// [`UNKNOWN`].
    pub admin_of: u32,
    /// Must be 0.
    pub padding: [u8; 4],
    /// Command name.
    pub comm: [u8; TASK_COMM_LEN],
}

const _: () = assert!(size_of::<TaskEvent>() == 40);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (size asserted above), every bit pattern is a value.
unsafe impl aya::Pod for TaskEvent {}
