//! Having the kernel say again that an address is gone, or that it is there.
//!
//! Nobody but the kernel can tell a daemon that an address came to an interface or left it, and the
//! kernel says so once. So the address is added for a moment, without a prefix route
//! (`IFA_F_NOPREFIXROUTE`, Linux 3.14 for IPv6, 4.4 for IPv4), and deleted. Requests from one
//! netlink port pass the guard, both of them; of those from another it withholds the removal.

use std::io;

use futures_util::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::AsyncSocket as _;
use rtnetlink::Handle;
use thiserror::Error;

use super::own::{self, OWN};
use crate::engine::Address;

/// A prefix length that vipshield's own addresses do not have.
const OTHER_LENGTH: u8 = own::LENGTH - 1;

/// A change could not be replayed.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// Adding the address.
    #[error("adding {address} to interface {ifindex} for a moment: {source}")]
    Add {
        /// Interface index.
        ifindex: u32,
        /// The address.
        address: Address,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// Deleting it again: it may be left behind.
    #[error(
        "deleting {address} from interface {ifindex} again: {source}; if it is still there, \
         remove it with: ip address del {address} dev <name>"
    )]
    Delete {
        /// Interface index.
        ifindex: u32,
        /// The address.
        address: Address,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
}

/// The netlink sockets from which changes are replayed.
pub struct Replay {
    /// What it asks for is heard by the daemons.
    heard: Handle,
    /// The netlink port of that.
    pub port: u32,
    /// Of what it asks for, removals are withheld.
    other: Handle,
}

impl Replay {
    /// Opens a socket in this thread's network namespace, and makes other requests through `other`.
    /// Needs a tokio runtime.
    pub fn open(other: Handle) -> io::Result<Self> {
        let (mut connection, heard, _) = rtnetlink::new_connection()?;
        // Bound before its first request, so that its port is known.
        let port = connection.socket_mut().socket_mut().bind_auto()?.port_number();
        tokio::spawn(connection);
        Ok(Self { heard, port, other })
    }

    /// For requests of which the daemons may see what follows.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.heard.clone()
    }

    /// Makes the kernel announce that `address` left the interface. An address that the interface
    /// has is left alone. Returns whether it was announced.
    pub async fn removal(&self, ifindex: u32, address: Address) -> Result<bool, ReplayError> {
        flash(&self.heard, ifindex, address).await
    }

    /// Makes the kernel announce that `address` is on an interface, and then that vipshield's own
    /// addresses are not, though they may be. In this order, so that a daemon that found only the
    /// latter has one at all times.
    ///
    /// On an interface that has `address`, it stays as it is; on a guarded one that has it not, the
    /// guard withholds that it leaves again. The bridge that has it keeps it: its local route is
    /// another one, and the kernel flushes what depends on an address only once it is local nowhere
    /// (`fib_del_ifaddr` in `net/ipv4/fib_frontend.c`).
    pub async fn show(&self, ifindex: u32, address: Option<Address>) -> Result<(), ReplayError> {
        if let Some(address) = address {
            self.announce(ifindex, address).await?;
        }
        for own in OWN {
            // With another prefix length it is another address to the kernel, which keeps the
            // first; keepalived does not look at the length.
            let other = Address { ip: own.into(), prefix_len: OTHER_LENGTH };
            flash(&self.heard, ifindex, other).await?;
        }
        Ok(())
    }

    async fn announce(&self, ifindex: u32, address: Address) -> Result<(), ReplayError> {
        let failed = |source| ReplayError::Add { ifindex, address, source };
        let Some(there) = find(&self.other, ifindex, address).await.map_err(failed)? else {
            return flash(&self.other, ifindex, address).await.map(drop);
        };
        // Replaced by itself, lifetimes and all, it is announced, and nothing changes.
        let mut add = self.other.address().add(ifindex, address.ip, address.prefix_len).replace();
        *add.message_mut() = there;
        add.execute().await.map_err(failed)
    }
}

/// An address of an interface, as the kernel has it.
async fn find(
    handle: &Handle,
    ifindex: u32,
    address: Address,
) -> Result<Option<AddressMessage>, rtnetlink::Error> {
    let request = handle.address().get().set_link_index_filter(ifindex);
    let mut found = request.set_address_filter(address.ip).execute();
    while let Some(message) = found.try_next().await? {
        if message.header.index == ifindex && message.header.prefix_len == address.prefix_len {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

/// Adds an address and deletes it. One that is there, with this prefix length, stays; then it is false.
async fn flash(handle: &Handle, ifindex: u32, address: Address) -> Result<bool, ReplayError> {
    let mut add = own::flash(handle, ifindex, address.ip, address.prefix_len);
    let mut message = add.message_mut().clone();
    message.attributes.retain(|attribute| {
        !matches!(attribute, AddressAttribute::Flags(_) | AddressAttribute::CacheInfo(_))
    });
    match add.execute().await {
        // It came back unseen: the kernel keeps silent about an IPv6 address until duplicate
        // address detection is done with it. There is nothing to tell.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => {
            return Ok(false);
        }
        added => added.map_err(|source| ReplayError::Add { ifindex, address, source })?,
    }
    let deleted = handle.address().del(message).execute().await;
    deleted.map_err(|source| ReplayError::Delete { ifindex, address, source })?;
    Ok(true)
}
