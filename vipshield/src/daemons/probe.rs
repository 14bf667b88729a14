//! Sockets like those of a VRRP daemon, which tell what the daemon's own receive.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    os::fd::OwnedFd,
    task::{Context, Poll, ready},
};

use log::debug;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recvfrom, socket_with,
};
use tokio::io::unix::AsyncFd;

use super::socket::{SocketError, failed, join_group, receive_on};
use crate::{
    engine::{Family, Received},
    watch::watch,
};

/// `IPPROTO_VRRP`.
const VRRP: Option<NonZeroU32> = NonZeroU32::new(112);
/// An IPv4 header with all options, and what an advert begins with.
const ENOUGH: usize = 64;
/// Adverts read from one socket before another is looked at.
const AT_ONCE: usize = 64;
const ADVERT: u8 = 1;

/// The sockets. Dropping them closes them.
#[derive(Default)]
pub struct Probes(BTreeMap<(u32, Family), Probe>);

struct Probe {
    socket: AsyncFd<OwnedFd>,
    groups: BTreeSet<IpAddr>,
}

impl Probes {
    /// Has one on an interface, a member of these groups; or none. Needs `CAP_NET_RAW` and a tokio
    /// runtime.
    pub fn set(
        &mut self,
        ifindex: u32,
        family: Family,
        groups: Option<&BTreeSet<IpAddr>>,
    ) -> Result<(), SocketError> {
        let known = self.0.remove(&(ifindex, family));
        let Some(groups) = groups else { return Ok(()) };
        let mut probe = match known {
            Some(probe) => probe,
            None => Probe::open(ifindex, family)?,
        };
        for group in groups {
            if !probe.groups.contains(group) {
                join_group(probe.socket.get_ref(), ifindex, *group)?;
                probe.groups.insert(*group);
            }
        }
        self.0.insert((ifindex, family), probe);
        Ok(())
    }

    /// Waits for adverts. Each is named once, however often it came.
    pub async fn read(&self) -> Vec<Received> {
        poll_fn(|context| {
            let mut received = BTreeSet::new();
            for ((ifindex, family), probe) in &self.0 {
                // Pending, or empty: the next one may have something.
                let _ = probe.poll(context, |source, message| {
                    received.extend(advert(*ifindex, *family, source, message));
                });
            }
            if received.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(received.into_iter().collect())
            }
        })
        .await
    }
}

impl Probe {
    fn open(ifindex: u32, family: Family) -> Result<Self, SocketError> {
        let domain = match family {
            Family::Ipv4 => AddressFamily::INET,
            Family::Ipv6 => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(domain, SocketType::RAW, flags, VRRP.map(Protocol::from_raw))
            .map_err(|errno| failed("a raw socket of protocol 112")(errno.into()))?;
        receive_on(&socket, family, ifindex)?;
        let socket = watch(socket).map_err(failed("epoll_ctl"))?;
        Ok(Self { socket, groups: BTreeSet::new() })
    }

    /// Ready when there is no more to be had at once.
    fn poll(&self, context: &mut Context<'_>, mut sink: impl FnMut(IpAddr, &[u8])) -> Poll<()> {
        let mut bytes = [0; ENOUGH];
        let mut count = 0;
        while count < AT_ONCE {
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(context)) else {
                return Poll::Ready(());
            };
            match recvfrom(self.socket.get_ref(), &mut bytes[..], RecvFlags::empty()) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                    if let Some((from, message)) = from.zip(bytes.get(..length)) {
                        sink(from.ip(), message);
                    }
                    count += 1;
                }
                Err(errno) if errno == rustix::io::Errno::INTR => {}
                Err(errno) if errno == rustix::io::Errno::AGAIN => guard.clear_ready(),
                Err(errno) => {
                    debug!("a socket like a daemon's: {}", io::Error::from(errno));
                    count += 1;
                }
            }
        }
        Poll::Ready(())
    }
}

/// What a datagram is: over IPv4 it has its header in front, over IPv6 it has none.
fn advert(ifindex: u32, family: Family, source: IpAddr, bytes: &[u8]) -> Option<Received> {
    let header = match family {
        Family::Ipv4 => usize::from(bytes.first()? & 0xf) * 4,
        Family::Ipv6 => 0,
    };
    let message = bytes.get(header..)?;
    (message.first()? & 0xf == ADVERT).then_some(Received {
        ifindex,
        source,
        router_id: *message.get(1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advert_is_told_by_its_first_bytes() {
        let source: IpAddr = [192, 0, 2, 12].into();
        let mut packet = vec![0; 24];
        (packet[0], packet[20], packet[24 - 3]) = (0x45, 0x21, 51);
        let read = |family, bytes: &[u8]| advert(7, family, source, bytes);
        let received = Received { ifindex: 7, source, router_id: 51 };
        assert_eq!(read(Family::Ipv4, &packet), Some(received));
        assert_eq!(read(Family::Ipv6, &[0x31, 51, 100]), Some(received));
        // An option in front, something that is no advert, and less than there should be.
        packet[0] = 0x46;
        assert_eq!(read(Family::Ipv4, &packet), None);
        assert_eq!(read(Family::Ipv6, &[0x32, 51]), None);
        for length in 0..2 {
            assert_eq!(read(Family::Ipv6, &[0x31, 51][..length]), None);
        }
    }
}
