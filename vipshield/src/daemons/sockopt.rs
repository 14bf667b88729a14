//! The socket options that no library offers, behind two functions.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

/// Plain data that the kernel may fill with any bytes.
///
/// # Safety
/// Every bit pattern must be a value of the type, and it must have no padding.
pub(super) unsafe trait Plain: Copy + Default {}

// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: an array of integers.
unsafe impl Plain for [u32; 8] {}

/// `struct ip_mreqn` (`linux/in.h`).
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Ipv4Membership {
    pub(super) group: [u8; 4],
    pub(super) address: [u8; 4],
    pub(super) ifindex: u32,
}

/// `struct ipv6_mreq` (`linux/in6.h`).
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Ipv6Membership {
    pub(super) group: [u8; 16],
    pub(super) ifindex: u32,
}

/// `struct group_filter` (`linux/in.h`) without sources.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct GroupFilter {
    pub(super) ifindex: u32,
    pub(super) padding: u32,
    /// `struct sockaddr_storage`, as words for its alignment.
    pub(super) group: [u64; 16],
    pub(super) mode: u32,
    pub(super) sources: u32,
}

// SAFETY: integers, no padding: 144 bytes.
unsafe impl Plain for GroupFilter {}
// SAFETY: bytes and an integer, no padding: 12 bytes.
unsafe impl Plain for Ipv4Membership {}
// SAFETY: bytes and an integer, no padding: 20 bytes.
unsafe impl Plain for Ipv6Membership {}

/// Reads an option. The second value is the length the kernel reports, in bytes.
pub(super) fn get<T: Plain>(socket: impl AsFd, level: i32, name: i32) -> io::Result<(T, usize)> {
    ask(socket, level, name, T::default())
}

/// The same for an option that reads its value first: `value` is the question.
pub(super) fn ask<T: Plain>(
    socket: impl AsFd,
    level: i32,
    name: i32,
    mut value: T,
) -> io::Result<(T, usize)> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads and writes at most `length` bytes of `value`, all initialised, for
    // which any bytes are a value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok((value, length as usize)) } else { Err(io::Error::last_os_error()) }
}

/// Reads only the length that the kernel reports for an option.
pub(super) fn length(socket: impl AsFd, level: i32, name: i32) -> io::Result<usize> {
    let mut length: libc::socklen_t = 0;
    // SAFETY: with a length of 0 the kernel writes nothing to the value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::null_mut(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(length as usize) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option.
pub(super) fn set<T: Plain>(socket: impl AsFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes as the value has, all of them initialised.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
