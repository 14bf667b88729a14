//! The VIP: taken off interfaces, and moved to where it is of use.
//!
//! One that was moved bears vipshield's protocol number (`IFA_PROTO`, Linux 5.18; older kernels
//! ignore it), so that the next vipshield knows it should this one be killed.

use futures_util::TryStreamExt as _;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use rtnetlink::Handle;
use thiserror::Error;

use super::{PROTOCOL, monitor};
use crate::engine::Address;

/// A VIP could not be removed or moved.
#[derive(Debug, Error)]
#[error("{what} {address}, interface {ifindex}: {source}")]
pub struct VipError {
    what: &'static str,
    address: Address,
    ifindex: u32,
    source: rtnetlink::Error,
}

/// Removes and moves VIPs.
pub struct Vips {
    handle: Handle,
    plain: Handle,
}

impl Vips {
    /// One that makes its requests through `handle`, and through `plain` where the daemons may see
    /// what follows: the guard does not stop what was asked for there.
    #[must_use]
    pub const fn new(handle: Handle, plain: Handle) -> Self {
        Self { handle, plain }
    }

    /// Takes an address that no daemon wants off an interface. It is no error if it, or the
    /// interface, is gone.
    pub async fn remove(&self, ifindex: u32, address: Address) -> Result<(), VipError> {
        remove(&self.plain, ifindex, address).await
    }

    /// Addresses that a vipshield has moved, with their interface index.
    pub async fn moved(&self) -> Result<Vec<(u32, Address)>, rtnetlink::Error> {
        let all: Vec<AddressMessage> = self.handle.address().get().execute().try_collect().await?;
        Ok(all.iter().filter(|message| is_ours(message)).filter_map(monitor::address).collect())
    }

    /// Moves an address: first there, then gone here, so that it is always somewhere. One that is
    /// nowhere comes from where it goes to.
    pub async fn relocate(&self, address: Address, from: u32, to: u32) -> Result<(), VipError> {
        self.carry_over(address, from, to, true).await
    }

    /// Moves an address back to where its daemon had put it, and as it was.
    pub async fn give_back(&self, address: Address, from: u32, to: u32) -> Result<(), VipError> {
        self.carry_over(address, from, to, false).await
    }

    async fn carry_over(
        &self,
        address: Address,
        from: u32,
        to: u32,
        ours: bool,
    ) -> Result<(), VipError> {
        let mut request = self.handle.address().add(to, address.ip, address.prefix_len).replace();
        if ours {
            let protocol = AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL));
            request.message_mut().attributes.push(protocol);
        }
        if address.ip.is_ipv6() {
            // It is ours already: there is nothing to detect.
            let attributes = &mut request.message_mut().attributes;
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            if address.prefix_len == 128 {
                // As keepalived adds it: deprecated, so that the node speaks from others.
                let mut lifetime = CacheInfo::default();
                lifetime.ifa_valid = u32::MAX;
                attributes.push(AddressAttribute::CacheInfo(lifetime));
            }
        }
        request.execute().await.map_err(|source| VipError {
            what: "adding",
            address,
            ifindex: to,
            source,
        })?;
        if from == to {
            return Ok(());
        }
        remove(&self.handle, from, address).await
    }
}

fn is_ours(message: &AddressMessage) -> bool {
    let ours = AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL));
    message.attributes.contains(&ours)
}

async fn remove(handle: &Handle, ifindex: u32, address: Address) -> Result<(), VipError> {
    let request = handle.address();
    let message = request.add(ifindex, address.ip, address.prefix_len).message_mut().clone();
    match request.del(message).execute().await {
        Err(rtnetlink::Error::NetlinkError(error))
            if [libc::EADDRNOTAVAIL, libc::ENODEV].contains(&-error.raw_code()) =>
        {
            Ok(())
        }
        other => other.map_err(|source| VipError { what: "removing", address, ifindex, source }),
    }
}
