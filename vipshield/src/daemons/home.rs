//! Where a VRRP socket came from that a vipshield moved and, being killed, did not move back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use super::{
    borrow::borrow,
    errno::Says,
    membership::{self, Membership, usual_groups},
    proc::ScanError,
};
use crate::engine::{Link, VrrpSocket};

/// How often a socket is asked that has not told yet: a daemon joins some moments after it has opened
/// a socket, and one of an instance with `unicast_peer` never does.
const ASKED_AT_MOST: u32 = 8;

/// Where the sockets were made that were seen so far, by inode.
#[derive(Debug, Default)]
pub(super) struct Homes(BTreeMap<u64, Known>);

/// What is known of a socket.
#[derive(Clone, Debug, Default)]
struct Known {
    asked: u32,
    home: Option<u32>,
    groups: BTreeSet<IpAddr>,
}

impl Homes {
    /// Notes where these sockets were made, and forgets all others. A membership on the NIC is never
    /// taken from a socket that is moved. Of those that are bound alike one tells for all: the socket
    /// that sends is no member of the group.
    pub(super) fn find<'a>(
        &mut self,
        daemons: impl Iterator<Item = &'a mut [VrrpSocket]>,
    ) -> Result<(), ScanError> {
        let mut seen = BTreeMap::new();
        let mut all = None;
        for sockets in daemons {
            let unknown: Vec<VrrpSocket> =
                sockets.iter().filter(|socket| self.is_to_be_asked(socket)).copied().collect();
            for socket in &unknown {
                let all = match &mut all {
                    Some(all) => all,
                    none => none.insert(everything()?),
                };
                let joined = joined(socket, all)?;
                let groups = joined.iter().map(|(_, group)| *group);
                self.0.entry(socket.id.inode).or_default().groups.extend(groups);
                let mut on = joined.iter().map(|(on, _)| *on);
                let elsewhere = on.clone().find(|on| Some(*on) != socket.bound);
                let Some(home) = elsewhere.or(on.next()) else { continue };
                let alike = |other: &&VrrpSocket| {
                    (other.bound, other.family) == (socket.bound, socket.family)
                };
                for other in unknown.iter().filter(alike) {
                    self.0.entry(other.id.inode).or_default().home = Some(home);
                }
            }
            for socket in unknown {
                self.0.entry(socket.id.inode).or_default().asked += 1;
            }
            for socket in sockets {
                let known = self.0.get(&socket.id.inode).cloned().unwrap_or_default();
                socket.home = known.home;
                socket.group = known.groups.first().copied();
                seen.insert(socket.id.inode, known);
            }
        }
        self.0 = seen;
        Ok(())
    }

    /// VRRP's groups, and others that one of these sockets has joined.
    pub(super) fn groups(&self) -> BTreeSet<IpAddr> {
        self.0.values().flat_map(|known| &known.groups).copied().chain(usual_groups()).collect()
    }

    fn is_to_be_asked(&self, socket: &VrrpSocket) -> bool {
        self.0
            .get(&socket.id.inode)
            .is_none_or(|known| known.home.is_none() && known.asked < ASKED_AT_MOST)
    }
}

/// What anybody has joined.
fn everything() -> Result<BTreeSet<Membership>, ScanError> {
    let path = || PathBuf::from("/proc/thread-self/net/igmp");
    membership::all().map_err(|source| ScanError::Proc { path: path(), source })
}

/// Of what anybody has joined, what a socket has. One that was closed in this moment has nothing.
fn joined(socket: &VrrpSocket, all: &BTreeSet<Membership>) -> Result<Vec<Membership>, ScanError> {
    match borrow(socket.id) {
        Ok(file) => Ok(membership::of(&file, socket.family, all)),
        Err(error) if error.says() == Says::Nothing => Err(error.into()),
        Err(_) => Ok(Vec::new()),
    }
}

/// The NIC that a VRRP socket belongs to, if it is bound elsewhere. `joined` are the interfaces on
/// which its process is a member of VRRP's group through a socket bound to the same interface.
///
/// A membership on the NIC is never taken from a socket that is moved, so it tells most. An
/// instance with `unicast_peer` has none: then it is the port of the bridge, or, when that has let
/// go of it, the interface with the bridge's hardware address.
#[must_use]
pub fn home(socket: &VrrpSocket, joined: &[u32], links: &[Link]) -> Option<u32> {
    let bound = socket.bound?;
    let known = |ifindex: u32| links.iter().any(|link| link.ifindex == ifindex);
    if let Some(member) = joined.iter().copied().find(|on| *on != bound && known(*on)) {
        return Some(member);
    }
    // A socket that hears the group where it is bound, and nowhere else, was never moved.
    if joined.contains(&bound) {
        return None;
    }
    let bridge = links.iter().find(|link| link.ifindex == bound && link.is_bridge())?;
    let others = || links.iter().filter(|link| !link.is_bridge() && link.ifindex != bound);
    let port = others().find(|link| link.master == Some(bound));
    let twin = || others().find(|link| !link.mac.is_empty() && link.mac == bridge.mac);
    port.or_else(twin).map(|link| link.ifindex)
}

/// Whether a NIC is a port: a VRRP socket that belongs to it hears nobody there, and is best left where it
/// is bound.
#[must_use]
pub fn is_port(nic: u32, links: &[Link]) -> bool {
    let master = links.iter().find(|link| link.ifindex == nic).and_then(|link| link.master);
    links.iter().any(|link| link.takes_ports() && master == Some(link.ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Family, SocketId};

    const NIC: u32 = 2;
    const BRIDGE: u32 = 3;

    fn links(master: Option<u32>) -> Vec<Link> {
        let link = |ifindex, kind: Option<&str>, master| Link {
            ifindex,
            master,
            kind: kind.map(str::to_owned),
            mac: vec![2, 0, 0, 0, 0, 1],
            ..Link::default()
        };
        let loopback = Link { mac: vec![0; 6], ..link(1, None, None) };
        vec![loopback, link(NIC, None, master), link(BRIDGE, Some("bridge"), None)]
    }

    fn bound(to: Option<u32>) -> VrrpSocket {
        let id = SocketId { pid: 1, fd: 7, inode: 7 };
        VrrpSocket {
            id,
            family: Family::Ipv4,
            bound: to,
            home: None,
            multicast: None,
            group: None,
            sends: false,
        }
    }

    #[test]
    fn a_membership_on_the_nic_tells() {
        assert_eq!(home(&bound(Some(BRIDGE)), &[NIC, BRIDGE], &links(Some(BRIDGE))), Some(NIC));
        // The bridge is gone already, with the membership there.
        assert_eq!(home(&bound(Some(9)), &[NIC], &links(None)), Some(NIC));
    }

    #[test]
    fn what_was_never_moved_stays() {
        assert_eq!(home(&bound(Some(NIC)), &[NIC], &links(Some(BRIDGE))), None);
        assert_eq!(home(&bound(Some(NIC)), &[], &links(Some(BRIDGE))), None);
        assert_eq!(home(&bound(Some(BRIDGE)), &[BRIDGE], &links(Some(BRIDGE))), None);
        assert_eq!(home(&bound(None), &[NIC], &links(None)), None);
    }

    #[test]
    fn without_a_membership_the_port_tells_or_the_hardware_address() {
        assert_eq!(home(&bound(Some(BRIDGE)), &[], &links(Some(BRIDGE))), Some(NIC));
        assert_eq!(home(&bound(Some(BRIDGE)), &[], &links(None)), Some(NIC));
        assert_eq!(home(&bound(Some(9)), &[], &links(None)), None);
    }

    #[test]
    fn a_nic_is_a_port_of_what_takes_ports() {
        assert!(is_port(NIC, &links(Some(BRIDGE))));
        assert!(!is_port(NIC, &links(None)));
        assert!(!is_port(NIC, &links(Some(1))), "of a VRF, say");
        assert!(!is_port(7, &links(Some(BRIDGE))), "there is none");
    }
}
