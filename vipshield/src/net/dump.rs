//! Lists of the kernel's over netlink families for which there is no crate here.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

/// `linux/netlink.h`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;

/// The kernel answers within the system call.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks for everything of a kind in this thread's network namespace, and hands over the kind and the body of each
/// answer.
///
/// # Errors
/// The kernel's, or that it does not answer within two seconds (EAGAIN).
pub fn dump(
    family: isize,
    kind: u16,
    body: &[u8],
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    let mut socket = Socket::new(family)?;
    socket.bind_auto()?;
    let patience = TimeVal::new(i64::try_from(ANSWER.as_secs()).unwrap_or_default(), 0);
    setsockopt(&socket, ReceiveTimeout, &patience)?;
    socket.send_to(&request(kind, body), &SocketAddr::new(0, 0), 0)?;
    loop {
        let (bytes, from) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Some((kind, body)) = message(&mut rest).filter(|_| from.port_number() == 0) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let errno =
                        body.first_chunk().map_or(libc::EBADMSG, |it| -i32::from_ne_bytes(*it));
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => each(kind, body),
            }
        }
    }
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = HEADER + body.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    // Sequence number and port.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// The next netlink message: its type, and what follows its header.
fn message<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
    let body = rest.get(HEADER..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_cut_is_no_message() {
        let whole = request(7, &[1, 2, 3, 4]);
        for end in 0..whole.len() {
            assert_eq!(message(&mut &whole[..end]), None);
        }
        assert_eq!(message(&mut whole.as_slice()), Some((7, [1, 2, 3, 4].as_slice())));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_to_its_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            let mut messages = 0;
            while message(&mut rest).is_some() {
                messages += 1;
                prop_assert!(messages <= bytes.len());
            }
        }
    }
}
