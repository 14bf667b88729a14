//! A packet socket at an interface: what puts frames there, and hears those that pass.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use libtest_mimic::Failed;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt::ReceiveTimeout,
        },
        time::TimeVal,
    },
};

/// A frame comes out at once or not at all: virtual wires lose none.
const MOMENT: i64 = 100;

pub(crate) struct Tap {
    socket: OwnedFd,
    pub(crate) mac: [u8; 6],
}

impl Tap {
    pub(crate) fn at(name: &str) -> Result<Self, Failed> {
        let address = getifaddrs()?
            .filter(|interface| interface.interface_name == name)
            .find_map(|interface| interface.address?.as_link_addr().copied())
            .ok_or("no such interface")?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        bind(socket.as_raw_fd(), &address)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, MOMENT * 1000))?;
        Ok(Self { socket, mac: address.addr().ok_or("no hardware address")? })
    }

    pub(crate) fn put(&self, frame: &[u8]) -> Result<(), Failed> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame; none if no more comes.
    pub(crate) fn next(&self) -> Result<Option<Vec<u8>>, Failed> {
        let mut frame = vec![0; 2048];
        loop {
            match recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => {
                    frame.truncate(length);
                    return Ok(Some(frame));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                // Said once, when the interface is taken down.
                Err(Errno::ENETDOWN | Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Whether a frame with these bytes comes out here.
    pub(crate) fn hears(&self, word: impl AsRef<[u8]>) -> Result<bool, Failed> {
        let word = word.as_ref();
        while let Some(frame) = self.next()? {
            if frame.windows(word.len()).any(|part| part == word) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
