//! Having tokio watch a descriptor.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::unix::AsyncFd;

/// Has tokio watch the descriptor that `owner` owns. Needs a tokio runtime.
pub(crate) fn watch<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: every `T` here (a netlink or raw socket, aya's ring buffer and logger) owns one descriptor
    // for as long as it lives, and nothing takes it out of the `AsyncFd`.
    Ok(unsafe { AsyncFd::register(owner) }?)
}
