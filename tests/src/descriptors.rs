//! A program that may open no more files.

use std::fs;

use anyhow::{Context, Result};
use nix::libc;
use nix::unistd::Pid;

/// The lowest descriptor that a process does not have.
///
/// # Errors
/// When it is gone.
pub fn first_free(pid: Pid) -> Result<u64> {
    let path = format!("/proc/{pid}/fd");
    let mut taken = Vec::new();
    for entry in fs::read_dir(&path).with_context(|| format!("cannot list {path}"))? {
        taken.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    taken.sort_unstable();
    let packed = taken.iter().zip(0..).take_while(|(taken, number)| *taken == number);
    Ok(packed.count() as u64)
}

/// A limit of open files on another process (prlimit(2)); dropping it gives back what there was.
#[derive(Debug)]
pub struct DescriptorLimit {
    pid: Pid,
    before: libc::rlimit,
}

impl DescriptorLimit {
    /// No descriptor of this number or a higher one for `pid`.
    ///
    /// # Errors
    /// When it is gone, or without `CAP_SYS_RESOURCE`.
    pub fn set(pid: Pid, end: u64) -> Result<Self> {
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointers are null, or to a local that outlives the call.
        let read = unsafe {
            libc::prlimit(pid.as_raw(), libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before)
        };
        let new = libc::rlimit { rlim_cur: end.min(before.rlim_max), ..before };
        if read != 0 || !limit(pid, &new) {
            let error = std::io::Error::last_os_error();
            return Err(error).with_context(|| format!("cannot limit process {pid}"));
        }
        Ok(Self { pid, before })
    }
}

impl Drop for DescriptorLimit {
    fn drop(&mut self) {
        // It may be gone by now.
        let _ = limit(self.pid, &self.before);
    }
}

fn limit(pid: Pid, new: &libc::rlimit) -> bool {
    // SAFETY: the pointers are null, or to a value that outlives the call.
    let set = unsafe {
        libc::prlimit(
            pid.as_raw(),
            libc::RLIMIT_NOFILE,
            std::ptr::from_ref(new),
            std::ptr::null_mut(),
        )
    };
    set == 0
}
