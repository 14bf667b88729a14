//! What an error says of the process that was looked at.
//!
//! Only a few say that it is gone. All others say nothing of it: who has no descriptor left sees no
//! process, and they are all there.

use std::io;

use rustix::io::Errno;

/// The way out when the system refuses to show another process.
pub(super) const NEEDS_PTRACE: &str = " (vipshield needs CAP_SYS_PTRACE)";

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// The process, or what was asked for of it, is gone.
    Gone,
    /// The system does not allow it: it will not the next time either.
    Refused,
    /// Nothing.
    Nothing,
}

/// An error from a file or directory of a process in /proc.
///
/// ENOENT: there is no such process; or it is a zombie, which has no executable and no descriptors
/// (`proc_exe_link` in `fs/proc/base.c`, `proc_readfd_common` in `fs/proc/fd.c`). ESRCH: it was
/// reaped after the file was opened (`proc_single_show`). EACCES comes of a process that is hidden,
/// and of one that was reaped after its link was found (`proc_fd_access_allowed`). ENAMETOOLONG: what
/// a link shows is longer than a page, which anybody can have of his own executable.
pub(super) fn of_proc(error: &io::Error) -> Says {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => Says::Gone,
        Some(libc::EACCES | libc::EPERM | libc::ENAMETOOLONG) => Says::Refused,
        Some(_) | None => Says::Nothing,
    }
}

/// An error from `pidfd_open(2)`. EINVAL: the process was reaped, and somebody keeps its number
/// (`pidfd_create` in `kernel/pid.c`; ESRCH in later kernels).
pub(super) fn of_pidfd(error: Errno) -> Says {
    match error {
        Errno::SRCH | Errno::INVAL => Says::Gone,
        Errno::PERM | Errno::ACCESS => Says::Refused,
        _ => Says::Nothing,
    }
}

/// An error from `pidfd_getfd(2)`. EBADF: the descriptor is closed, and all are when a process ends.
pub(super) fn of_descriptor(error: Errno) -> Says {
    match error {
        Errno::SRCH | Errno::BADF => Says::Gone,
        Errno::PERM | Errno::ACCESS => Says::Refused,
        _ => Says::Nothing,
    }
}

/// What an operator can do about it, in parentheses.
pub(super) fn way_out(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            " (raise vipshield's limit of open files: LimitNOFILE= of its service, or ulimit -n)"
        }
        Some(libc::ENFILE) => " (raise the machine's limit of open files: sysctl fs.file-max)",
        Some(_) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proc(errno: i32) -> Says {
        of_proc(&io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn what_the_machine_lacks_says_nothing_of_a_process() {
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR, libc::EIO] {
            assert_eq!(proc(errno), Says::Nothing, "{errno}");
            assert_eq!(of_pidfd(Errno::from_raw_os_error(errno)), Says::Nothing, "{errno}");
            assert_eq!(of_descriptor(Errno::from_raw_os_error(errno)), Says::Nothing, "{errno}");
        }
        assert_eq!(of_proc(&io::Error::other("no errno")), Says::Nothing);
    }

    #[test]
    fn only_what_the_kernel_says_of_one_that_ends_is_its_end() {
        for errno in [libc::ENOENT, libc::ESRCH] {
            assert_eq!(proc(errno), Says::Gone, "{errno}");
        }
        assert_eq!([of_pidfd(Errno::SRCH), of_pidfd(Errno::INVAL)], [Says::Gone; 2]);
        assert_eq!([of_descriptor(Errno::SRCH), of_descriptor(Errno::BADF)], [Says::Gone; 2]);
        assert_eq!([of_pidfd(Errno::BADF), of_descriptor(Errno::INVAL)], [Says::Nothing; 2]);
    }

    #[test]
    fn a_refusal_stays_one() {
        for errno in [libc::EACCES, libc::EPERM] {
            assert_eq!(proc(errno), Says::Refused, "{errno}");
            assert_eq!(of_pidfd(Errno::from_raw_os_error(errno)), Says::Refused, "{errno}");
            assert_eq!(of_descriptor(Errno::from_raw_os_error(errno)), Says::Refused, "{errno}");
        }
        // Anybody may run a program from a path that is too long to be shown.
        assert_eq!(proc(libc::ENAMETOOLONG), Says::Refused);
    }

    #[test]
    fn the_way_out_is_said() {
        let way_out = |errno| way_out(&io::Error::from_raw_os_error(errno));
        assert!(way_out(libc::EMFILE).contains("LimitNOFILE"));
        assert!(way_out(libc::ENFILE).contains("fs.file-max"));
        assert_eq!(way_out(libc::EIO), "");
    }

    /// The kernel agrees: of a process that ended and was not waited for, and of one that was.
    #[test]
    fn the_kernel_says_so_of_a_zombie_and_of_nobody() {
        use std::{fs, process::Command};

        use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let proc = format!("/proc/{}", child.id());
        let exe = || of_proc(&fs::read_link(format!("{proc}/exe")).unwrap_err());
        let held = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        // The end of its standard output would tell that it has ended, but not that it is a zombie.
        let is_zombie = || fs::read_to_string(format!("{proc}/stat")).unwrap().contains(") Z ");
        while !is_zombie() {
            std::thread::yield_now();
        }
        assert_eq!(exe(), Says::Gone, "a zombie");
        let duplicate = pidfd_getfd(&held, 0, PidfdGetfdFlags::empty());
        assert_eq!(of_descriptor(duplicate.unwrap_err()), Says::Gone, "a zombie's descriptor");
        child.wait().unwrap();
        assert_eq!(exe(), Says::Gone, "nobody");
        let open = pidfd_open(pid, PidfdFlags::empty());
        assert_eq!(of_pidfd(open.unwrap_err()), Says::Gone, "nobody, and the number is kept");
        let duplicate = pidfd_getfd(&held, 0, PidfdGetfdFlags::empty());
        assert_eq!(of_descriptor(duplicate.unwrap_err()), Says::Gone, "nobody's descriptor");
    }
}
