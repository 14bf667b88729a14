//! Abstract names of unix sockets in this network namespace, and whose they are.
//!
//! The kernel tells of each socket who made it (`unix_diag`, `CONFIG_UNIX_DIAG`; its user since Linux 5.3:
//! `sk_diag_dump_uid` in `net/unix/diag.c`), without the holder having to answer.

use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::dump;

/// `linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `linux/unix_diag.h`: `struct unix_diag_req` and `unix_diag_msg`, what to show, and where it is.
const REQUEST: usize = 24;
const MESSAGE: usize = 16;
/// `TCP_CLOSE` and `TCP_LISTEN` in `net/tcp_states.h`. A connection that waits to be accepted has the name
/// of its listener too, no inode, and before Linux 6.17 root for its user (`sock_i_uid`), whoever made it.
const UNCONNECTED: u32 = 1 << 7 | 1 << 10;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_UID: u32 = 1 << 6;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_UID: u16 = 7;

/// A socket with an abstract name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSocket {
    /// The name, without the zero before it.
    pub name: Vec<u8>,
    /// Inode on sockfs.
    pub inode: u64,
    /// Who made it, as this process's user namespace has it; none if the kernel does not tell.
    pub user: Option<u32>,
}

/// The stream sockets of this thread's network namespace that are bound to abstract names which begin so.
pub fn named(prefix: &[u8]) -> io::Result<Vec<NamedSocket>> {
    let mut found = Vec::new();
    dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, &request(), |kind, body| {
        if kind == SOCK_DIAG_BY_FAMILY {
            found.extend(named_socket(body).filter(|it| it.name.starts_with(prefix)));
        }
    })?;
    Ok(found)
}

/// All unix sockets that are not connected, with their names and users.
fn request() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(REQUEST);
    // Family, protocol and padding.
    bytes.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // In these states, whatever their inode.
    bytes.extend(UNCONNECTED.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend((UDIAG_SHOW_NAME | UDIAG_SHOW_UID).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes
}

/// None: it has no abstract name, or is no stream socket, whose names are others.
fn named_socket(body: &[u8]) -> Option<NamedSocket> {
    let kind = i32::from(*body.get(1)?);
    let inode = u32::from_ne_bytes(*body.get(4..)?.first_chunk()?);
    let (mut name, mut user) = (None, None);
    let mut rest = body.get(MESSAGE..)?;
    while let Some((attribute, value)) = attribute(&mut rest) {
        match attribute {
            UNIX_DIAG_NAME => name = value.strip_prefix(&[0]).map(<[u8]>::to_vec),
            UNIX_DIAG_UID => user = value.first_chunk().map(|it| u32::from_ne_bytes(*it)),
            _ => {}
        }
    }
    let socket = NamedSocket { name: name?, inode: inode.into(), user };
    (kind == libc::SOCK_STREAM && inode != 0).then_some(socket)
}

fn attribute<'a>(rest: &mut &'a [u8]) -> Option<(u16, &'a [u8])> {
    let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
    let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
    let value = rest.get(4..length)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, value))
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    };

    use nix::unistd::Uid;

    use super::*;

    #[test]
    fn the_kernel_tells_whose_a_name_is() {
        let name = format!("test-vipshield-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let found = named(name.as_bytes()).unwrap();
        let [NamedSocket { user, inode, .. }] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(*user, Some(Uid::effective().as_raw()));
        assert_ne!(*inode, 0);
        assert_eq!(named(format!("{name}-").as_bytes()).unwrap(), []);
    }

    #[test]
    fn what_is_cut_is_no_socket() {
        let mut body = vec![1, 1, 7, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        body.extend([6, 0, 0, 0, 0, b'v', 0, 0]);
        body.extend([8, 0, 7, 0, 9, 0, 0, 0]);
        let whole = NamedSocket { name: b"v".to_vec(), inode: 5, user: Some(9) };
        assert_eq!(named_socket(&body), Some(whole));
        for end in 0..body.len() {
            let cut = named_socket(&body[..end]);
            assert!(cut.is_none_or(|it| it.user.is_none() && it.name == b"v"), "{end}");
        }
        // A path, and another kind of socket.
        body[20] = b'/';
        assert_eq!(named_socket(&body), None);
        body[20] = 0;
        body[1] = 2;
        assert_eq!(named_socket(&body), None);
    }
}
