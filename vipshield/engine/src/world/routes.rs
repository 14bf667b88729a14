//! Routes of the main table by interface, and which interfaces have one to a destination.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use super::{super::carry::Route, index::Index};

/// Where to, the length of its prefix, and at what priority.
type Destination = (IpAddr, u8, u32);

/// In the order of addresses that may be missing, the last.
const LAST: Option<IpAddr> = Some(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));

fn destination(route: &Route) -> Destination {
    (route.destination, route.prefix_len, route.metric)
}

/// In the order of routes, all that lead there at this priority.
fn to((destination, prefix_len, metric): Destination) -> RangeInclusive<Route> {
    let first = Route { destination, prefix_len, metric, gateway: None, source: None, mtu: 0 };
    first..=Route { gateway: LAST, source: LAST, mtu: u32::MAX, ..first }
}

/// In the order of routes, those that differ from it in nothing that tells routes of an interface apart.
fn like(route: Route) -> RangeInclusive<Route> {
    let first = Route { source: None, mtu: 0, ..route };
    first..=Route { source: LAST, mtu: u32::MAX, ..route }
}

/// All routes. What an event changes costs the same however many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    of: BTreeMap<u32, BTreeSet<Route>>,
    through: Index<Destination>,
}

impl Routes {
    /// Each with the interface that has it, or 0.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, Route)> + '_ {
        self.of.iter().flat_map(|(on, all)| all.iter().map(|route| (*on, *route)))
    }

    /// Those of an interface, in their order: IPv4 first.
    pub(super) fn of(&self, ifindex: u32) -> impl Iterator<Item = Route> + '_ {
        self.of.get(&ifindex).into_iter().flatten().copied()
    }

    /// Through which interfaces a route of a lower metric leads to the same destination.
    pub(super) fn better(&self, route: &Route) -> impl Iterator<Item = u32> {
        let (destination, prefix_len, metric) = destination(route);
        self.through.between((destination, prefix_len, 0)..(destination, prefix_len, metric))
    }

    /// Whether an interface has a route to the same destination, whatever its metric.
    pub(super) fn leads_to_the_same(&self, ifindex: u32, route: &Route) -> bool {
        let (destination, prefix_len, _) = destination(route);
        let first = *to((destination, prefix_len, 0)).start();
        let last = *to((destination, prefix_len, u32::MAX)).end();
        self.of.get(&ifindex).is_some_and(|routes| routes.range(first..=last).next().is_some())
    }

    /// One of those that are there.
    pub(super) fn insert(&mut self, ifindex: u32, route: Route) {
        self.through.add(destination(&route), ifindex);
        self.of.entry(ifindex).or_default().insert(route);
    }

    /// One that appeared or changed: it takes the place of what is [like] it.
    pub(super) fn set(&mut self, ifindex: u32, route: Route) {
        self.remove(ifindex, route);
        self.insert(ifindex, route);
    }

    /// What is [like] it is gone.
    pub(super) fn remove(&mut self, ifindex: u32, route: Route) {
        self.remove_within(ifindex, &like(route));
    }

    /// What led there at this priority is gone. Returns through which interfaces it led.
    pub(super) fn remove_to(&mut self, destination: Destination) -> BTreeSet<u32> {
        let interfaces = self.through.take(&destination);
        for ifindex in &interfaces {
            self.remove_within(*ifindex, &to(destination));
        }
        interfaces
    }

    pub(super) fn remove_ipv4(&mut self, ifindex: u32) {
        loop {
            let first = self.of(ifindex).next().filter(|route| route.destination.is_ipv4());
            let Some(route) = first else { return };
            self.remove(ifindex, route);
        }
    }

    pub(super) fn remove_all(&mut self, ifindex: u32) {
        for route in self.of.remove(&ifindex).unwrap_or_default() {
            self.through.remove(&destination(&route), ifindex);
        }
    }

    fn remove_within(&mut self, ifindex: u32, range: &RangeInclusive<Route>) {
        let Some(routes) = self.of.get_mut(&ifindex) else { return };
        while let Some(route) = routes.range(range.clone()).next().copied() {
            routes.remove(&route);
            let destination = destination(&route);
            if routes.range(to(destination)).next().is_none() {
                self.through.remove(&destination, ifindex);
            }
        }
        if routes.is_empty() {
            self.of.remove(&ifindex);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u32, Route),
        Set(u32, Route),
        Remove(u32, Route),
        RemoveTo(Destination),
        RemoveIpv4(u32),
        RemoveAll(u32),
    }

    fn a_route() -> impl Strategy<Value = Route> {
        let ips = vec!["0.0.0.0", "192.0.2.0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"];
        let ip = move || select(ips.clone()).prop_map(|ip| ip.parse().unwrap());
        let other = || proptest::option::of(ip());
        let mtu = select(vec![0, 1400, u32::MAX]);
        (ip(), select(vec![0, 24, 255]), 0_u32..2, other(), other(), mtu).prop_map(
            |(destination, prefix_len, metric, gateway, source, mtu)| Route {
                destination,
                prefix_len,
                metric,
                gateway,
                source,
                mtu,
            },
        )
    }

    fn alike(one: &Route, other: &Route) -> bool {
        destination(one) == destination(other) && one.gateway == other.gateway
    }

    fn a_change() -> impl Strategy<Value = Change> {
        let index = || 0_u32..4;
        prop_oneof![
            6 => (index(), a_route()).prop_map(|(index, it)| Change::Insert(index, it)),
            6 => (index(), a_route()).prop_map(|(index, it)| Change::Set(index, it)),
            3 => (index(), a_route()).prop_map(|(index, it)| Change::Remove(index, it)),
            3 => a_route().prop_map(|it| Change::RemoveTo(destination(&it))),
            1 => index().prop_map(Change::RemoveIpv4),
            1 => index().prop_map(Change::RemoveAll),
        ]
    }

    proptest! {
        #[test]
        fn the_answers_are_those_of_a_walk_over_all_routes(
            changes in vec(a_change(), 0..60),
            asked in a_route(),
        ) {
            let mut routes = Routes::default();
            let mut walk: BTreeSet<(u32, Route)> = BTreeSet::new();
            for change in changes {
                match change {
                    Change::Insert(index, route) => {
                        routes.insert(index, route);
                        walk.insert((index, route));
                    }
                    Change::Set(index, route) => {
                        routes.set(index, route);
                        walk.retain(|it| it.0 != index || !alike(&it.1, &route));
                        walk.insert((index, route));
                    }
                    Change::Remove(index, route) => {
                        routes.remove(index, route);
                        walk.retain(|it| it.0 != index || !alike(&it.1, &route));
                    }
                    Change::RemoveTo(to) => {
                        let gone: Vec<(u32, Route)> =
                            walk.extract_if(.., |it| destination(&it.1) == to).collect();
                        let interfaces: BTreeSet<u32> = gone.iter().map(|it| it.0).collect();
                        prop_assert_eq!(routes.remove_to(to), interfaces);
                    }
                    Change::RemoveIpv4(index) => {
                        routes.remove_ipv4(index);
                        walk.retain(|it| it.0 != index || it.1.destination.is_ipv6());
                    }
                    Change::RemoveAll(index) => {
                        routes.remove_all(index);
                        walk.retain(|it| it.0 != index);
                    }
                }
                for index in 0..4 {
                    let of = walk.iter().filter(|it| it.0 == index).map(|it| it.1);
                    prop_assert!(routes.of(index).eq(of));
                    let of = || walk.iter().filter(|it| it.0 == index).map(|it| it.1);
                    let same = |it: &Route| (it.destination, it.prefix_len);
                    prop_assert_eq!(
                        routes.leads_to_the_same(index, &asked),
                        of().any(|it| same(&it) == same(&asked))
                    );
                    prop_assert_eq!(
                        routes.better(&asked).any(|it| it == index),
                        of().any(|it| same(&it) == same(&asked) && it.metric < asked.metric)
                    );
                }
            }
            for index in 0..4 {
                routes.remove_all(index);
            }
            prop_assert_eq!(routes.through, Index::default(), "nothing is left of what is gone");
        }
    }
}
