//! The qdisc that holds TC programs where the kernel has no tcx (before Linux 6.6): taken away
//! again once nothing is in it.

use futures_util::TryStreamExt as _;
use netlink_packet_route::tc::{TcHandle, TcMessage};
use rtnetlink::Handle;
use thiserror::Error;

/// `TC_H_CLSACT` and the qdisc's own handle (`linux/pkt_sched.h`).
const PARENT: TcHandle = TcHandle { major: 0xffff, minor: 0xfff1 };
const HANDLE: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// The qdisc could not be looked at or removed.
#[derive(Debug, Error)]
#[error(
    "removing the empty clsact of interface {ifindex}: {source}; it does no harm, and is removed \
     with: tc qdisc del dev <name> clsact"
)]
pub struct ClsactError {
    /// Interface index.
    ifindex: u32,
    /// What the kernel said.
    source: rtnetlink::Error,
}

/// Removes the clsact of an interface unless somebody's filter is in it.
pub(super) async fn remove_if_empty(handle: &Handle, ifindex: u32) -> Result<(), ClsactError> {
    let failed = |source| ClsactError { ifindex, source };
    let index = i32::try_from(ifindex).unwrap_or_default();
    let get = || handle.traffic_filter(index).get();
    for request in [get().ingress(), get().egress()] {
        let filters: Vec<TcMessage> = match request.execute().try_collect().await {
            Err(error) if is_gone(&error) => return Ok(()),
            filters => filters.map_err(failed)?,
        };
        if !filters.is_empty() {
            return Ok(());
        }
    }
    let mut removal = handle.qdisc().del(index);
    removal.message_mut().header.parent = PARENT;
    removal.message_mut().header.handle = HANDLE;
    match removal.execute().await {
        Err(error) if is_gone(&error) => Ok(()),
        removed => removed.map_err(failed),
    }
}

/// The interface, or its clsact, is gone already.
fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(error)
        if [libc::ENODEV, libc::ENOENT, libc::EINVAL].contains(&-error.raw_code()))
}
