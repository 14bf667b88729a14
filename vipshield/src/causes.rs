//! Errors as an operator reads them.

/// An error with its causes in one line.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The errno of an error, or of what caused it, if the system only lacks something for the moment: it
/// says nothing of what was asked.
pub(crate) fn passing(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error().filter(|errno| PASSING.contains(errno));
        }
        next = error.source();
    }
    None
}

/// What the machine, or this process, may lack, and what a call may meet.
const PASSING: [i32; 7] =
    [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EINTR, libc::EAGAIN, libc::EIO];

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_is_lacked_for_the_moment_is_found_among_the_causes() {
        let of = |errno| passing(&io::Error::from_raw_os_error(errno));
        for errno in PASSING {
            assert_eq!(of(errno), Some(errno));
        }
        for errno in [libc::ENOENT, libc::ESRCH, libc::EACCES, libc::EPERM, libc::ENOPROTOOPT] {
            assert_eq!(of(errno), None, "{errno}");
        }
        let wrapped =
            anyhow::Error::new(io::Error::from_raw_os_error(libc::EMFILE)).context("a look");
        assert_eq!(passing(wrapped.as_ref()), Some(libc::EMFILE));
        assert_eq!(passing(&io::Error::other("no errno")), None);
    }
}
