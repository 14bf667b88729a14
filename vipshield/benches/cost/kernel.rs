//! The `bpf(2)` calls that aya has no words for: an empty program, and a test run of any program.

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use anyhow::Result;

use super::last_error;

/// `enum bpf_prog_type`, `linux/bpf.h`.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum ProgramType {
    SocketFilter = 1,
    SchedClassifier = 3,
}

/// `enum bpf_cmd`, `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    result: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// `struct __sk_buff` up to `ifindex`.
const CONTEXT: usize = 44;
const CONTEXT_IFINDEX: usize = 40;

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_long> {
    // SAFETY: the attributes are plain integers of the layout that the command has, as long as is
    // said, and what they point to lives in the caller.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(last_error("bpf(2)")) } else { Ok(result) }
}

/// A program that does nothing: `r0 = 0; exit`.
pub(super) fn empty(program_type: ProgramType) -> Result<OwnedFd> {
    let instructions: [u64; 2] = [0xb7, 0x95];
    let license = c"GPL";
    let mut load = Load {
        program_type: program_type as u32,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut load)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Runs a program on a frame, `runs` times, as if it were on this interface (0: none). Returns the
/// nanoseconds of one run.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, runs: u32) -> Result<f64> {
    let mut context = [0_u8; CONTEXT];
    for (to, from) in context.iter_mut().skip(CONTEXT_IFINDEX).zip(ifindex.to_ne_bytes()) {
        *to = from;
    }
    let mut test = TestRun {
        program: u32::try_from(program.as_raw_fd())?,
        data_size_in: u32::try_from(frame.len())?,
        data_in: frame.as_ptr() as u64,
        repeat: runs,
        ..TestRun::default()
    };
    if ifindex != 0 {
        test.context_in = context.as_ptr() as u64;
        test.context_size_in = CONTEXT as u32;
    }
    bpf(BPF_PROG_TEST_RUN, &mut test)?;
    Ok(f64::from(test.duration))
}
