//! Carry: keeping the node reachable through the NIC while its addresses and routes are moved.
//!
//! Make before break: for as long as a plan is in force, the NIC's addresses are delivered to this
//! node wherever they are, and what used to leave through the NIC still does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    world::{Family, Place},
};

/// A route of the main table with one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where to; the unspecified address of its family with length 0 is the default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix.
    pub prefix_len: u8,
    /// Priority: the lowest wins.
    pub metric: u32,
    /// The next hop; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Path MTU, 0 if the route says nothing about it.
    pub mtu: u32,
}

impl Route {
    /// Link-local and multicast destinations stay with the NIC and need no carrying.
    #[must_use]
    pub const fn is_movable(&self) -> bool {
        match self.destination {
            IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_multicast(),
            IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_multicast(),
        }
    }

    /// Whether `ip` is in the destination's prefix.
    #[must_use]
    pub const fn covers(&self, ip: IpAddr) -> bool {
        let (same, bits) = match (self.destination, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                ((net.to_bits() ^ ip.to_bits()).leading_zeros(), 32)
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                ((net.to_bits() ^ ip.to_bits()).leading_zeros(), 128)
            }
            _ => return false,
        };
        self.prefix_len as u32 <= bits && same >= self.prefix_len as u32
    }
}

/// What is in force for one NIC. The empty plan is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Plan {
    /// Delivered to this node, on whatever interface they are or if they are on none.
    pub addresses: BTreeSet<IpAddr>,
    /// The spare table: these routes, through the NIC. It comes before the main one's routes to the same
    /// destinations.
    pub routes: BTreeSet<Route>,
    /// Nothing is under way yet, and the NIC has all that is its own. What is put on it must not come before
    /// that.
    pub ahead: bool,
}

impl Plan {
    /// Nothing is carried.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.routes.is_empty()
    }

    /// Whether there is anything of IPv4 in it.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
            || self.routes.iter().any(|route| route.destination.is_ipv4())
    }

    /// The lengths of the prefixes that it has routes to, of one family.
    fn lengths(&self, family: Family) -> impl Iterator<Item = u8> {
        let of_family = move |route: &&Route| Family::of(route.destination) == family;
        self.routes.iter().filter(of_family).map(|route| route.prefix_len)
    }
}

/// The rules of one family by which the tables of all plans are the way.
///
/// They name no destination: for each length of a prefix the main table is asked first, without its routes
/// of that length and shorter ones, and then the spare table, without its shorter ones. So there are as many
/// as there are lengths, however many routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Detour {
    /// Where they are.
    pub place: Place,
    /// Prefix lengths of the routes.
    pub lengths: BTreeSet<u8>,
}

/// All of them; a family without any is left out.
pub type Detours = BTreeMap<Family, Detour>;

/// The rules that these plans need. `place`: where those of a family go, if they can be anywhere.
pub(super) fn detours(plans: &[&Plan], place: impl Fn(Family) -> Option<Place>) -> Detours {
    let all = Family::ALL.into_iter().filter_map(|family| {
        let lengths: BTreeSet<u8> = plans.iter().flat_map(|plan| plan.lengths(family)).collect();
        let place = place(family).filter(|_| !lengths.is_empty())?;
        Some((family, Detour { place, lengths }))
    });
    all.collect()
}

/// What is in force on a NIC, or found there of a vipshield that is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Of each any part may be in force.
    pub plans: Vec<Plan>,
    /// An address stands in for its own: a daemon may be about to start.
    pub stands_in: bool,
}

/// NIC and bearer as one wire, past the bridge between them, in the moments in which the bridge
/// does not forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shunt {
    /// Interface index of the other end: the bridge that has the NIC's addresses.
    pub bearer: u32,
    /// What throws it.
    pub trigger: Trigger,
    /// For how long at the most, once thrown.
    pub lasts: Duration,
    /// The bridge forwards: one that is thrown ends.
    pub over: bool,
}

/// What throws a [`Shunt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// The NIC becomes a port.
    Join,
    /// The NIC is a port no longer.
    Cut,
}

impl Engine {
    /// Puts in force, or takes back, what keeps the node reachable through the NIC.
    pub(super) fn carry(&mut self, ifindex: u32, now: Duration) {
        let Some(nic) = self.nics.get(&ifindex) else { return };
        let new = nic.wanted_carry(&self.world, self.bridge_since.is_some(), now);
        let detours = Some(self.detours_with(ifindex, &new));
        let news = self.detours != detours;
        let Some(old) = nic.carried.replaced_by(&new, news) else { return };
        let asked = detours.clone().filter(|_| news);
        if self.want(Action::Carry { ifindex, old, new: new.clone(), detours: asked })
            && let Some(nic) = self.nics.get_mut(&ifindex)
        {
            nic.carried.asked(new);
            self.detours = detours;
        }
    }

    /// The rules that are needed if this is carried for a NIC, beside what may be in force for others, in
    /// part or wholly.
    pub(super) fn detours_with(&self, ifindex: u32, new: &Plan) -> Detours {
        let others = self.nics.values().filter(|nic| nic.ifindex != ifindex);
        let others: Vec<Plan> = others.flat_map(|nic| nic.carried.all()).collect();
        let place = |family| self.world.place(family).ok();
        let all: Vec<&Plan> = others.iter().chain([new]).collect();
        detours(&all, place)
    }

    /// A plan that may be in force for a NIC, in part or wholly: half a carry is better with a neighbour than
    /// without.
    pub(super) fn plans(&self) -> impl Iterator<Item = (u32, &Plan)> {
        let nics = self.nics.values();
        nics.filter_map(|nic| Some((nic.ifindex, nic.carried.last()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, prefix_len: u8, metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            prefix_len,
            metric,
            gateway: None,
            source: None,
            mtu: 0,
        }
    }

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let covers = |net, length, ip: &str| route(net, length, 0).covers(ip.parse().unwrap());
        assert!(covers("192.0.2.0", 24, "192.0.2.100"));
        assert!(!covers("192.0.2.0", 24, "192.0.3.1"));
        assert!(covers("2001:db8::", 64, "2001:db8::100"));
        assert!(!covers("2001:db8::", 64, "2001:db8:0:1::1"));
        assert!(covers("::", 0, "2001:db8::1") && !covers("::", 0, "192.0.2.1"));
        assert!(!covers("0.0.0.0", 33, "0.0.0.0"));
    }

    #[test]
    fn rules_are_for_lengths_of_prefixes_not_for_destinations() {
        let plan =
            |routes: &[Route]| Plan { routes: routes.iter().copied().collect(), ..Plan::default() };
        let one = plan(&[
            route("0.0.0.0", 0, 100),
            route("192.0.2.0", 24, 0),
            route("198.51.100.0", 24, 0),
            route("2001:db8::", 64, 256),
        ]);
        let other = plan(&[route("0.0.0.0", 0, 200), route("198.51.100.7", 32, 0)]);
        let place = Place { priority: 7, turn: 0 };
        let found = detours(&[&one, &other, &one], |_| Some(place));
        let [four, six] = [Family::Ipv4, Family::Ipv6].map(|family| &found[&family].lengths);
        assert_eq!((four, six), (&[0, 24, 32].into(), &[64].into()));
        let refused = |family| (family == Family::Ipv6).then_some(place);
        assert_eq!(detours(&[&one], refused).len(), 1);
        assert!(detours(&[&Plan::default()], |_| Some(place)).is_empty());
    }
}
