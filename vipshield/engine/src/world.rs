//! What is observed: links, addresses, routes and daemons, as last reported by the kernel.
//!
//! A Kubernetes node has thousands of interfaces and tens of thousands of routes, nearly all of which
//! are no concern of vipshield's. So nothing here walks over all of them: links, addresses and routes
//! are tables with indexes of their own, which nobody else can change.

mod addresses;
mod daemon;
mod index;
mod links;
mod routes;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

pub(super) use self::rules::Refusal;
#[cfg(test)]
pub(super) use self::rules::usual;
pub use self::{
    addresses::Address,
    daemon::{
        CommandSocket, Daemon, Excluded, Family, Filter, MonitorSocket, Role, SocketId, VrrpSocket,
    },
    links::Link,
    rules::{Place, Rule, RuleKind, refusal},
};
use self::{addresses::Addresses, links::Links, routes::Routes, rules::Rules};
use super::{carry::Route, event::Event, vips::Vips};

/// Everything observed.
#[derive(Clone, Debug, Default)]
pub struct World {
    links: Links,
    addresses: Addresses,
    routes: Routes,
    rules: Rules,
    /// Switches that take no new flows, since when.
    unserved: BTreeMap<u32, Duration>,
    /// NICs whose daemons do not hear adverts that reach this node.
    deaf: BTreeSet<(u32, Family)>,
    /// By process id.
    pub(super) daemons: BTreeMap<u32, Daemon>,
    /// What the daemons mean to have.
    pub(super) vips: Vips,
}

/// What changes.
impl World {
    /// Switches that take no new flows, since when.
    pub(super) const fn unserved(&self) -> &BTreeMap<u32, Duration> {
        &self.unserved
    }

    /// Another vipshield has seen these.
    pub(super) fn set_unserved(&mut self, unserved: BTreeMap<u32, Duration>) {
        self.unserved = unserved;
    }

    /// All links, addresses and routes are to be told anew.
    pub(super) fn forget_interfaces(&mut self) {
        self.links = Links::default();
        self.addresses = Addresses::default();
        self.routes = Routes::default();
    }

    /// Events were lost: what there is now does not show what the daemons mean to have.
    pub(super) fn doubt(&mut self) -> Vec<IpAddr> {
        let Self { vips, addresses, .. } = self;
        vips.doubt(|ip| addresses.is_anywhere(ip))
    }

    /// A link appeared or changed.
    pub(super) fn see_link(&mut self, link: Link) {
        if !link.up {
            // Of a link that goes down the kernel flushes the routes, too (`fib_table_flush` in
            // `net/ipv4/fib_trie.c`).
            self.routes.remove_ipv4(link.ifindex);
        }
        self.links.insert(link);
    }

    /// A link is gone, with all that it had.
    pub(super) fn forget_link(&mut self, ifindex: u32) {
        self.unserved.remove(&ifindex);
        self.links.remove(ifindex);
        self.addresses.remove_all(ifindex);
        self.routes.remove_all(ifindex);
    }

    /// Whether a switch takes new flows.
    pub(super) fn see_switch(&mut self, ifindex: u32, served: bool, now: Duration) {
        if served {
            self.unserved.remove(&ifindex);
        } else if self.has_link(ifindex) {
            self.unserved.entry(ifindex).or_insert(now);
        }
    }

    /// Where daemons hear nothing: all of it.
    pub(super) fn set_deaf(&mut self, deaf: BTreeSet<(u32, Family)>) {
        self.deaf = deaf;
    }

    /// An address is on an interface. False: it was known to be.
    pub(super) fn see_address(&mut self, ifindex: u32, address: Address) -> bool {
        self.addresses.insert(ifindex, address)
    }

    /// An address is not on an interface any more.
    pub(super) fn forget_address(&mut self, ifindex: u32, address: Address) {
        self.addresses.remove(ifindex, address);
    }

    /// The same for one of vipshield's own.
    pub(super) fn see_own_address(&mut self, ifindex: u32, ip: IpAddr) {
        self.addresses.insert_own(ifindex, ip);
    }

    /// The same for one of vipshield's own.
    pub(super) fn forget_own_address(&mut self, ifindex: u32, ip: IpAddr) {
        self.addresses.remove_own(ifindex, ip);
    }

    /// Whether an interface has an IPv4 address, be it one of vipshield's own.
    pub(super) fn has_ipv4(&self, ifindex: u32) -> bool {
        self.addresses.has_ipv4(ifindex)
    }

    /// An address left an interface. With the last IPv4 address of an interface the kernel flushes
    /// every IPv4 route through it without a word (`fib_disable_ip` in `net/ipv4/fib_frontend.c`).
    pub(super) fn address_left(&mut self, ifindex: u32) {
        if !self.has_ipv4(ifindex) {
            self.routes.remove_ipv4(ifindex);
        }
    }

    /// One of the routes that are there now.
    pub(super) fn list_route(&mut self, ifindex: u32, route: Route) {
        self.routes.insert(ifindex, route);
    }

    /// A route appeared or changed.
    pub(super) fn see_route(&mut self, ifindex: u32, route: Route) {
        self.routes.set(ifindex, route);
    }

    /// All rules of others, in the kernel's order.
    pub(super) fn list_rules(&mut self, rules: Vec<Rule>) {
        self.rules.list(rules);
    }

    /// A rule of somebody else's appeared. Returns whether vipshield's are to be elsewhere now.
    pub(super) fn see_rule(&mut self, rule: Rule) -> bool {
        self.rules.see(rule)
    }

    /// The same of one that is gone.
    pub(super) fn forget_rule(&mut self, rule: Rule) -> bool {
        self.rules.forget(rule)
    }

    /// A route is gone.
    pub(super) fn forget_route(&mut self, ifindex: u32, route: Route) {
        self.routes.remove(ifindex, route);
    }

    /// What led to this destination, its prefix of this length, with this metric has been replaced.
    /// Returns through which interfaces it led.
    pub(super) fn route_replaced(&mut self, to: (IpAddr, u8, u32)) -> BTreeSet<u32> {
        self.routes.remove_to(to)
    }
}

/// What there is.
impl World {
    /// All of it, as it is told at the start; vipshield's own addresses are left out.
    pub(super) fn snapshot(&self) -> Event {
        Event::Snapshot {
            links: self.links.all().cloned().collect(),
            addresses: self.addresses.all().collect(),
            routes: self.routes.all().collect(),
            rules: self.rules.all().copied().collect(),
        }
    }

    /// The link of this index.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(ifindex)
    }

    /// Whether there is a link of this index.
    #[must_use]
    pub fn has_link(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some()
    }

    /// The link of this name; of two, for a moment, the one of the lower index.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.named(name)
    }

    /// The name of a link, or its index where the link is gone.
    #[must_use]
    pub fn name_of(&self, ifindex: u32) -> String {
        self.link(ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }

    /// Whether a link of this node has this hardware address.
    #[must_use]
    pub fn has_mac(&self, mac: &[u8]) -> bool {
        self.links.has_mac(mac)
    }

    /// Whether there is such a link, and it is a bridge of any kind.
    #[must_use]
    pub fn is_bridge(&self, ifindex: u32) -> bool {
        self.link(ifindex).is_some_and(Link::is_bridge)
    }

    /// The interface that a bridge has for a way out: its first port that is no bridge itself.
    #[must_use]
    pub fn first_port(&self, bridge: &Link) -> Option<&Link> {
        self.links.first_port(bridge)
    }

    /// The addresses of an interface.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = Address> + '_ {
        self.addresses.of(ifindex)
    }

    /// The routes of an interface; of 0 those that no single interface has.
    pub fn routes_of(&self, ifindex: u32) -> impl Iterator<Item = Route> + '_ {
        self.routes.of(ifindex)
    }

    /// Whether an interface has a route to the same destination, whatever its metric.
    #[must_use]
    pub fn leads_to_the_same(&self, ifindex: u32, route: &Route) -> bool {
        self.routes.leads_to_the_same(ifindex, route)
    }

    /// Whether the kernel prefers another route to the same destination, of an interface that `others`
    /// names.
    #[must_use]
    pub fn outranks(&self, route: &Route, others: impl Fn(u32) -> bool) -> bool {
        self.routes.better(route).any(others)
    }

    /// Where among the rules of others vipshield's go, or why nowhere.
    pub(super) fn place(&self, family: Family) -> Result<Place, Refusal> {
        self.rules.place(family)
    }

    /// Whether an interface has this address, whatever the length of its prefix.
    #[must_use]
    pub fn has_ip(&self, ifindex: u32, ip: IpAddr) -> bool {
        self.addresses.with_ip(ifindex, ip).next().is_some()
    }

    /// Whether an interface has exactly this address.
    #[must_use]
    pub fn has_address(&self, ifindex: u32, address: Address) -> bool {
        self.addresses.has(ifindex, address)
    }

    /// An address as an interface has it, with each of its prefix lengths.
    pub fn forms_of(&self, ifindex: u32, ip: IpAddr) -> impl Iterator<Item = Address> + '_ {
        self.addresses.with_ip(ifindex, ip)
    }

    /// The interfaces that have this address, the lowest index first.
    pub fn holders(&self, ip: IpAddr) -> impl Iterator<Item = u32> + '_ {
        self.addresses.at(ip)
    }

    /// Whether any interface has this address.
    #[must_use]
    pub fn is_somewhere(&self, ip: IpAddr) -> bool {
        self.addresses.is_anywhere(ip)
    }

    /// Whether a bridge of any kind has this address.
    #[must_use]
    pub fn on_a_bridge(&self, ip: IpAddr) -> bool {
        self.holders(ip).any(|ifindex| self.is_bridge(ifindex))
    }

    /// The guarded daemon whose requests bear this netlink port.
    #[must_use]
    pub fn daemon_at(&self, port: u32) -> Option<u32> {
        let mut daemons = self.daemons.values().filter(|_| port != 0);
        let at = |daemon: &&Daemon| daemon.commands.iter().any(|command| command.port == port);
        daemons.find(at).map(|daemon| daemon.pid)
    }

    /// What a daemon has beside what its adverts name while it owns a virtual router.
    pub(super) fn excluded(&self, pid: u32, router_id: u8) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.daemons.get(&pid).into_iter().flat_map(|daemon| &daemon.excluded);
        all.filter(move |vip| vip.router_id == router_id).map(|vip| vip.ip)
    }

    /// The link whose port an interface is.
    #[must_use]
    pub fn taker(&self, ifindex: u32) -> Option<&Link> {
        let master = self.link(ifindex)?.master?;
        self.link(master).filter(|master| master.takes_ports())
    }

    /// Since when new flows get nowhere from an interface: it is a port of a switch that takes none.
    #[must_use]
    pub fn unserved_since(&self, ifindex: u32) -> Option<Duration> {
        self.unserved.get(&self.taker(ifindex)?.ifindex).copied()
    }

    /// Whether daemons hear nothing of this family on a NIC.
    #[must_use]
    pub fn is_deaf(&self, nic: u32, family: Family) -> bool {
        self.deaf.contains(&(nic, family))
    }

    /// Where frames that arrive on `nic` go up the stack: the NIC itself when it is free, the
    /// bridge whose port it is otherwise. None while that bridge cannot be told.
    ///
    /// Every port of Open vSwitch has `ovs-system` as its master, so there the bridge is the
    /// internal port that holds the NIC's addresses, or else its MAC (Kube-OVN gives it both);
    /// `current` wins a tie, so that a second likeness does not move the bearer.
    #[must_use]
    pub fn bearer(
        &self,
        nic: &Link,
        home: &BTreeSet<Address>,
        current: Option<u32>,
    ) -> Option<u32> {
        let Some(master) = self.taker(nic.ifindex) else { return Some(nic.ifindex) };
        if !master.is_open_vswitch() {
            return Some(master.ifindex);
        }
        let movable = || home.iter().filter(|address| !address.is_link_local());
        let twins = self.links.bridges_with(&nic.mac).filter(|_| !nic.mac.is_empty());
        let holders = movable().flat_map(|address| self.holders(address.ip));
        let alike: BTreeSet<u32> = twins.map(|link| link.ifindex).chain(holders).collect();
        alike
            .into_iter()
            .filter_map(|ifindex| self.link(ifindex))
            .filter(|link| link.is_open_vswitch() && link.ifindex != master.ifindex)
            .map(|link| {
                let held = movable().filter(|it| self.has_ip(link.ifindex, it.ip)).count();
                let same_mac = !nic.mac.is_empty() && link.mac == nic.mac;
                ((held, same_mac, current == Some(link.ifindex)), link.ifindex)
            })
            .max()
            .map(|(_, ifindex)| ifindex)
    }
}

#[cfg(test)]
mod tests;
