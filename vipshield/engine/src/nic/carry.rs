//! What is carried for a NIC, and what it is shunted with.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use vipshield_common::rule::Rule;

use super::{
    super::{
        carry::{Carried, Plan, Route, Shunt, Trigger},
        in_force::InForce,
        phase::Phase,
        rules::{CARRY, Carry, Laid, SHUNT, facts, word},
        world::{Address, Family, Link, World},
    },
    Nic, Seen,
};

/// For so long a NIC that is free again is carried for: Kube-OVN puts its routes back after its
/// addresses.
const LINGER: Duration = Duration::from_millis(500);

/// When a NIC has left its bridge, routes that lead through it are in force by then.
const ROUTED: Duration = Duration::from_millis(500);

/// A daemon that is told of a failure says within this time that it gives up.
const FAREWELL: Duration = Duration::from_millis(250);
/// Routes that are carried for one NIC, each of which takes some microseconds when nothing else is done.
const MAX_ROUTES: usize = 256;

impl Nic {
    /// What is delivered to this node, wherever it is.
    fn carryable(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let doubted = |address: &Address| self.home.get(address) == Some(&Seen::Doubted);
        self.movable().filter(move |address| !doubted(address)).map(|address| address.ip)
    }

    /// Its routes are those it has when nothing disturbs it; within a transition they are what
    /// they were.
    pub(super) fn settle_routes(&mut self, world: &World, now: Duration) {
        let holder = match self.phase {
            // Kube-OVN puts routes back behind the addresses.
            Phase::Free if self.lingers(now) && self.is_disturbed(world) => None,
            Phase::Free => Some(self.ifindex),
            Phase::Bridged => self.bearer,
            Phase::Leaving | Phase::Returning | Phase::Down => None,
        };
        if let Some(holder) = holder {
            self.routes = world.routes_of(holder).filter(Route::is_movable).collect();
        }
    }

    /// The routes that belong to it, wherever they are.
    pub(in super::super) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Those of its routes that the node's traffic takes. Where another interface has one of a lower
    /// metric, it goes by that, and would not any more if the NIC's were carried.
    ///
    /// Equal metrics do not count: which of two routes came first, and wins, is not known, and what a
    /// bridge takes over has the metric that it had on the NIC.
    fn preferred<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a Route> {
        let others = move |ifindex| !self.is_its_own(world, ifindex);
        self.routes.iter().filter(move |route| !world.outranks(route, others))
    }

    /// Whether the routes of an interface are the NIC's: those of a bridge that has been its bearer, or
    /// that has one of its addresses by now.
    fn is_its_own(&self, world: &World, ifindex: u32) -> bool {
        let is_bridge = || world.link(ifindex).is_some_and(Link::is_bridge);
        self.bearers.contains(&ifindex)
            || is_bridge() && self.movable().any(|address| world.has_ip(ifindex, address.ip))
    }

    /// What has to be carried.
    ///
    /// `expected`: a bridge has just appeared. That a bridge without a carrier makes nothing of its IPv6
    /// addresses is `addrconf_dad_begin` in `net/ipv6/addrconf.c`.
    pub(in super::super) fn wanted_carry(
        &self,
        world: &World,
        expected: bool,
        now: Duration,
    ) -> Plan {
        let has_place = |ip: IpAddr| world.place(Family::of(ip)).is_ok();
        let ahead = match self.carry_rule(world, expected, now).then {
            Carry::Nothing => return Plan::default(),
            Carry::Late => {
                let late = self.carryable().filter(|ip| ip.is_ipv6() && has_place(*ip)).collect();
                return Plan { addresses: late, ..Plan::default() };
            }
            Carry::All => false,
            Carry::Ahead => true,
        };
        let addresses = self.carryable().filter(|ip| has_place(*ip)).collect();
        let mut routes: Vec<Route> =
            self.preferred(world).filter(|route| has_place(route.destination)).copied().collect();
        if routes.len() > MAX_ROUTES {
            // What is on its own link, and the way to everything else; then what leads to most.
            let is_behind = |route: &Route| route.gateway.is_some() && route.prefix_len > 0;
            routes.sort_unstable_by_key(|route| (is_behind(route), route.prefix_len, *route));
            routes.truncate(MAX_ROUTES);
        }
        Plan { addresses, routes: routes.into_iter().collect(), ahead }
    }

    /// The rule by which that is carried.
    pub(in super::super) fn carry_rule(
        &self,
        world: &World,
        expected: bool,
        now: Duration,
    ) -> &'static Rule<Carry> {
        use facts::carry::{DISTURBED, EXPECTED, HOME, LINGERS, MOVING, PORT, WORKS};
        let works = world.link(self.ifindex).is_some_and(|link| link.up && link.running);
        let (moving, lingers) = (self.phase.is_transition(), self.lingers(now));
        CARRY.decide(word([
            (WORKS, works),
            (MOVING, moving),
            (LINGERS, lingers),
            (DISTURBED, (moving || lingers) && self.is_disturbed(world)),
            (PORT, world.taker(self.ifindex).is_some()),
            (EXPECTED, expected),
            // One that has its own again under another name is renamed next: the kernel would number the labels
            // of its addresses behind the anchor (`inetdev_changename`).
            (HOME, self.is_home()),
        ]))
    }

    /// Whether it has something of a family that would have to be carried.
    pub(in super::super) fn has_to_do_with(&self, family: Family) -> bool {
        self.movable().any(|address| Family::of(address.ip) == family)
            || self.routes.iter().any(|route| Family::of(route.destination) == family)
    }

    /// What is to be said if it has more routes than are carried.
    pub(in super::super) fn too_many_routes(&self) -> Option<String> {
        (self.routes.len() > MAX_ROUTES).then(|| {
            format!(
                "it has more than {MAX_ROUTES} routes: while it is on its way its own networks and default \
                 routes are carried, and of the others those to the largest networks, as many as fit"
            )
        })
    }

    /// Goes on from what a vipshield that is gone carries: that says what belongs to the NIC while it is
    /// on its way. What is to be in force of it is decided as ever.
    ///
    /// An address that is nowhere may be a VIP that its daemon has given up in the meantime: nothing speaks
    /// for it. One that routes are bound to is the node's own.
    pub(in super::super) fn adopt(&mut self, carried: Carried, world: &World) {
        let Carried { plans, .. } = carried;
        self.routes = plans.iter().flat_map(|plan| &plan.routes).copied().collect();
        for ip in plans.iter().flat_map(|plan| &plan.addresses).copied() {
            let holder = world.holders(ip).next();
            let there = holder.and_then(|holder| world.forms_of(holder, ip).next());
            let on_link = self.routes.iter().filter(|it| it.gateway.is_none() && it.covers(ip));
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            let prefix_len = on_link.map(|it| it.prefix_len).max().unwrap_or(whole);
            let own = self.routes.iter().any(|route| route.source == Some(ip));
            let seen = if there.is_some() || own { Seen::OnNic } else { Seen::Doubted };
            self.home.insert(there.unwrap_or(Address { ip, prefix_len }), seen);
        }
        self.carried = InForce::found(plans);
    }

    /// An address of vipshield's own left the NIC, which has no other: with it went, without a word, what it
    /// kept alive. If it was not vipshield that took it off, all is to be put in force again; if it was, that
    /// changes nothing.
    pub(in super::super) fn lose_carry(&mut self) {
        self.carried.lost_ipv4();
    }

    /// The shunt to be laid: for a port, in case it leaves; for a NIC whose addresses a bridge has
    /// already, in case it joins.
    ///
    /// None to a bridge of another hardware address: its stack takes what was sent to the NIC's as meant
    /// for another host (`eth_type_trans`), where the bridge itself knows better. Kube-OVN gives a bridge
    /// the NIC's before the NIC joins.
    ///
    /// A shunt that was thrown when the NIC joined ends once the bridge is seen to forward; else when the
    /// daemons have been told, and have had the time to say that they give up.
    pub(in super::super) fn wanted_shunt(
        &self,
        world: &World,
        deadline: Duration,
    ) -> Option<Shunt> {
        let (rule, bridge) = self.shunt_rule(world);
        let bearer = bridge?;
        match rule.then {
            Laid::Nothing => None,
            Laid::Cut => {
                let over = self.passage.is_open();
                Some(Shunt { bearer, trigger: Trigger::Cut, lasts: ROUTED, over })
            }
            Laid::Join => {
                let lasts = deadline.saturating_add(FAREWELL);
                Some(Shunt { bearer, trigger: Trigger::Join, lasts, over: false })
            }
        }
    }

    /// The rule by which that shunt is laid, and the bridge to which.
    pub(in super::super) fn shunt_rule(&self, world: &World) -> (&'static Rule<Laid>, Option<u32>) {
        use facts::shunt::{HEIR, IS_PORT, WIRE};
        let port = world.taker(self.ifindex).is_some();
        let heir = if port { None } else { self.heir(world) };
        let bridge = if port { self.bearer } else { heir };
        let bridge = bridge.filter(|bridge| *bridge != self.ifindex);
        let links = world.link(self.ifindex).zip(bridge.and_then(|bridge| world.link(bridge)));
        let wire =
            links.is_some_and(|(link, to)| to.up && !link.mac.is_empty() && to.mac == link.mac);
        let facts = word([(IS_PORT, port), (HEIR, heir.is_some()), (WIRE, wire)]);
        (SHUNT.decide(facts), bridge)
    }

    /// The bridge that has all its addresses while it is no port.
    fn heir(&self, world: &World) -> Option<u32> {
        let first = self.movable().next()?;
        let holds_all =
            |bridge: u32| self.movable().all(|address| world.has_ip(bridge, address.ip));
        world.holders(first.ip).find(|holder| world.is_bridge(*holder) && holds_all(*holder))
    }

    /// Whether something is missing on the NIC that belongs to it.
    fn is_disturbed(&self, world: &World) -> bool {
        let routes: BTreeSet<Route> = world.routes_of(self.ifindex).collect();
        !self.movable().all(|address| world.has_ip(self.ifindex, address.ip))
            || !self.preferred(world).all(|route| routes.contains(route))
    }

    fn lingers(&self, now: Duration) -> bool {
        self.lingers_until().is_some_and(|until| now < until)
    }

    /// Until when a NIC that is free again is carried for.
    pub(in super::super) fn lingers_until(&self) -> Option<Duration> {
        (self.phase == Phase::Free && self.transition_since < self.phase_since)
            .then(|| self.phase_since.saturating_add(LINGER))
    }

    /// When the carry has to be looked at again.
    pub(in super::super) fn next_carry(&self) -> Option<Duration> {
        self.lingers_until().filter(|_| self.carried.is_any())
    }
}
