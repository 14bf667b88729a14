//! Addresses of interfaces, and which interfaces have one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::index::Index;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

impl Address {
    /// An address that has no subnet, as keepalived adds one that is configured without a prefix length.
    #[must_use]
    pub const fn host(ip: IpAddr) -> Self {
        Self { ip, prefix_len: if ip.is_ipv4() { 32 } else { 128 } }
    }

    /// 169.254.0.0/16 or `fe80::/10`: Kube-OVN leaves these where they are.
    #[must_use]
    pub const fn is_link_local(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        }
    }
}

impl Address {
    /// Whether another address is in its subnet.
    #[must_use]
    pub fn covers(&self, ip: IpAddr) -> bool {
        let shift = |width: u8| u32::from(width.saturating_sub(self.prefix_len));
        match (self.ip, ip) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(shift(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix_len)
    }
}

/// All addresses. What is asked of them costs the same however many there are, on other interfaces and
/// on the same one: kube-proxy has those of all services on `kube-ipvs0`.
#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    of: BTreeMap<u32, BTreeSet<Address>>,
    at: Index<IpAddr>,
    /// vipshield's own: they belong to nobody else.
    own: BTreeSet<(u32, IpAddr)>,
}

impl Addresses {
    /// Each with the interface that has it.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Address)> + '_ {
        self.of.iter().flat_map(|(on, all)| all.iter().map(|address| (*on, *address)))
    }

    /// Those of an interface, in their order: IPv4 first.
    pub(super) fn of(&self, ifindex: u32) -> impl Iterator<Item = Address> + '_ {
        self.of.get(&ifindex).into_iter().flatten().copied()
    }

    /// Those of an interface with this IP: the kernel lets it have one with several prefixes.
    pub(super) fn with_ip(&self, ifindex: u32, ip: IpAddr) -> impl Iterator<Item = Address> + '_ {
        let with = move |prefix_len| Address { ip, prefix_len };
        let addresses = self.of.get(&ifindex).into_iter();
        addresses.flat_map(move |of| of.range(with(0)..=with(u8::MAX)).copied())
    }

    pub(super) fn has(&self, ifindex: u32, address: Address) -> bool {
        self.of.get(&ifindex).is_some_and(|addresses| addresses.contains(&address))
    }

    /// The interfaces with this IP.
    pub(super) fn at(&self, ip: IpAddr) -> impl Iterator<Item = u32> + '_ {
        self.at.at(&ip)
    }

    pub(super) fn is_anywhere(&self, ip: IpAddr) -> bool {
        self.at.contains(&ip)
    }

    /// False: it was known.
    pub(super) fn insert(&mut self, ifindex: u32, address: Address) -> bool {
        self.at.add(address.ip, ifindex);
        self.of.entry(ifindex).or_default().insert(address)
    }

    pub(super) fn remove(&mut self, ifindex: u32, address: Address) {
        let Some(addresses) = self.of.get_mut(&ifindex) else { return };
        addresses.remove(&address);
        if addresses.is_empty() {
            self.of.remove(&ifindex);
        }
        if self.with_ip(ifindex, address.ip).next().is_none() {
            self.at.remove(&address.ip, ifindex);
        }
    }

    /// An interface is gone, and vipshield's own addresses of it are told one by one.
    pub(super) fn remove_all(&mut self, ifindex: u32) {
        for address in self.of.remove(&ifindex).unwrap_or_default() {
            self.at.remove(&address.ip, ifindex);
        }
    }

    pub(super) fn insert_own(&mut self, ifindex: u32, ip: IpAddr) {
        self.own.insert((ifindex, ip));
    }

    pub(super) fn remove_own(&mut self, ifindex: u32, ip: IpAddr) {
        self.own.remove(&(ifindex, ip));
    }

    /// Whether an interface has an address of IPv4, vipshield's own included.
    pub(super) fn has_ipv4(&self, ifindex: u32) -> bool {
        let mut own = self.own.range((ifindex, LOWEST)..).take_while(|own| own.0 == ifindex);
        own.any(|own| own.1.is_ipv4()) || self.of(ifindex).next().is_some_and(|it| it.ip.is_ipv4())
    }
}

/// Of all addresses, in their order.
const LOWEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const IPS: [&str; 4] = ["192.0.2.10", "192.0.2.11", "2001:db8::10", "fe80::11"];

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u32, Address),
        Remove(u32, Address),
        RemoveAll(u32),
        Own(u32, IpAddr, bool),
    }

    fn an_address() -> impl Strategy<Value = Address> {
        (select(IPS.to_vec()), select(vec![0, 24, 32, 128]))
            .prop_map(|(ip, prefix_len)| Address { ip: ip.parse().unwrap(), prefix_len })
    }

    fn a_change() -> impl Strategy<Value = Change> {
        let index = || 0_u32..4;
        prop_oneof![
            6 => (index(), an_address()).prop_map(|(index, it)| Change::Insert(index, it)),
            4 => (index(), an_address()).prop_map(|(index, it)| Change::Remove(index, it)),
            1 => index().prop_map(Change::RemoveAll),
            2 => (index(), an_address(), any::<bool>())
                .prop_map(|(index, it, there)| Change::Own(index, it.ip, there)),
        ]
    }

    proptest! {
        #[test]
        fn the_answers_are_those_of_a_walk_over_all_addresses(
            changes in vec(a_change(), 0..60),
        ) {
            let mut addresses = Addresses::default();
            let mut walk: BTreeSet<(u32, Address)> = BTreeSet::new();
            let mut own: BTreeSet<(u32, IpAddr)> = BTreeSet::new();
            for change in changes {
                match change {
                    Change::Insert(index, address) => {
                        prop_assert_eq!(
                            addresses.insert(index, address),
                            walk.insert((index, address))
                        );
                    }
                    Change::Remove(index, address) => {
                        addresses.remove(index, address);
                        walk.remove(&(index, address));
                    }
                    Change::RemoveAll(index) => {
                        addresses.remove_all(index);
                        walk.retain(|it| it.0 != index);
                    }
                    Change::Own(index, ip, true) => {
                        addresses.insert_own(index, ip);
                        own.insert((index, ip));
                    }
                    Change::Own(index, ip, false) => {
                        addresses.remove_own(index, ip);
                        own.remove(&(index, ip));
                    }
                }
                for index in 0..4 {
                    let of = || walk.iter().filter(|it| it.0 == index).map(|it| it.1);
                    prop_assert!(addresses.of(index).eq(of()));
                    let ips = own.iter().filter(|it| it.0 == index).map(|it| it.1);
                    let mut ips = ips.chain(of().map(|address| address.ip));
                    prop_assert_eq!(addresses.has_ipv4(index), ips.any(|ip| ip.is_ipv4()));
                    for ip in IPS.map(|ip| ip.parse().unwrap()) {
                        let with_ip = of().filter(|address| address.ip == ip);
                        prop_assert!(addresses.with_ip(index, ip).eq(with_ip));
                    }
                }
                for ip in IPS.map(|ip| ip.parse().unwrap()) {
                    let at: BTreeSet<u32> =
                        walk.iter().filter(|it| it.1.ip == ip).map(|it| it.0).collect();
                    prop_assert_eq!(addresses.is_anywhere(ip), !at.is_empty());
                    prop_assert!(addresses.at(ip).eq(at));
                }
            }
            for index in 0..4 {
                addresses.remove_all(index);
            }
            prop_assert_eq!(addresses.at, Index::default(), "nothing is left of what is gone");
        }
    }
}
