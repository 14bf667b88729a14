//! A lab on which one thing after the other is done to the first node's NIC, under the eyes of the
//! witnesses. What is right follows from what was true: as long as the node had all its addresses
//! and a NIC that works, nobody may notice anything; if not for longer than the deadline, VRRP
//! must, and everything must come right again by itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAttribute, RouteHeader};
use netlink_packet_route::rule::RuleAttribute;
use serde_json::Value;

use super::Context;
use crate::clock;
use crate::config::{LabConfig, Prefix};
use crate::keepalived::Keepalived;
use crate::lab::{Lab, Node};
use crate::measure::{self, Role, Witnesses};
use crate::rtnl::{Link, address_of};
use crate::sequence::{Sequence, Undisturbed};
use crate::sockets::Sockets;
use crate::vipshield::{Vipshield, is_ready};
use crate::witness::timeline::{Change, Gap, Overlap, Window, overlap};
use crate::witnesses::Observed;

/// For so long vipshield withholds what is not true, at the most: its default.
pub(super) const DEADLINE: Duration = Duration::from_millis(1_900);
/// What was broken for a time so near the deadline may or may not be told.
const NEAR: Duration = Duration::from_millis(150);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(600);
/// How long each round goes on after its last step. TCP has to be alive in the last second.
const SETTLE: Duration = Duration::from_millis(1_200);
/// How long the NIC has to get to where it belongs.
const ARRIVAL: Duration = Duration::from_secs(8);
/// How long the probe may miss answers while the NIC works: what a step costs on a busy machine,
/// and far less than the shortest time for which a step is held up.
const GAP: Duration = Duration::from_millis(500);
/// How long two nodes may be master when the one of higher priority takes the VIP back: it adds
/// it, then says so.
const HANDOVER: Duration = Duration::from_millis(200);
/// The latest moment at which a lost advert shows: `3 x advert_int` and a skew.
const LATE: Duration = Duration::from_secs(4);

/// The marks of what vipshield puts on a node.
const PROTOCOL: u8 = 118;
const ANCHORS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 52, 52)),
    IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 52, 54)),
];

/// Where a NIC is when nothing is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It carries its own addresses.
    Free,
    /// It is a port of the bridge.
    Bridged,
    /// The same, and the bridge has its name.
    Exchanged,
}

impl Place {
    /// Where a sequence ends.
    pub(super) fn after(sequence: Sequence) -> Self {
        match sequence {
            Sequence::Bind => Self::Bridged,
            Sequence::Exchange => Self::Exchanged,
            Sequence::Unbind | Sequence::Unexchange => Self::Free,
        }
    }

    fn phase(self) -> &'static str {
        if self == Self::Free { "free" } else { "bridged" }
    }
}

/// See the [module](self).
pub(super) struct Ground {
    pub(super) lab: Lab,
    /// vipshield's program.
    pub(super) program: PathBuf,
    /// Where the NIC is.
    pub(super) place: Place,
    /// What the first node is to VRRP.
    pub(super) role: Role,
    /// keepalived was told of a failed link while the names were exchanged, and has taken the
    /// bridge for its interface since. Nothing can hide from it that this goes away.
    pub(super) adopted: bool,
    witnesses: Witnesses,
    /// Up to when everything was judged.
    judged: Instant,
    /// What was done last.
    last: String,
}

impl Ground {
    /// A lab with a settled election, without vipshield.
    pub(super) async fn unshielded(context: &Context, role: Role) -> Result<Self> {
        Self::furnished(context, role, |_| {}).await
    }

    /// The same with another configuration.
    pub(super) async fn furnished(
        context: &Context,
        role: Role,
        change: impl FnOnce(&mut LabConfig),
    ) -> Result<Self> {
        let mut config = LabConfig::new(context.datapath);
        if role == Role::Backup {
            config.owner_is_second();
        }
        change(&mut config);
        let mut lab = Lab::build(config).await?;
        measure::elect(&mut lab, role).await?;
        let witnesses = Witnesses::start(&lab).await?;
        let (program, place) = (context.vipshield.clone(), Place::Free);
        let (judged, last) = (clock::now(), "the election".to_owned());
        let adopted = false;
        Ok(Self { lab, program, place, role, adopted, witnesses, judged, last })
    }

    /// The same, and its first node guarded.
    pub(super) async fn shielded(context: &Context, role: Role) -> Result<Self> {
        let mut ground = Self::unshielded(context, role).await?;
        ground.lab.start_vipshield(0, &ground.program).await?;
        Ok(ground)
    }

    /// The addresses without which the first node is broken.
    fn addresses(&self) -> Result<Vec<IpAddr>> {
        let node = self.lab.node(0)?;
        let mut addresses: Vec<_> = node.config.addresses.iter().map(|own| own.address).collect();
        if self.role == Role::Master {
            addresses.push(self.lab.config.vip()?);
        }
        Ok(addresses)
    }

    /// Whether the node is broken now: its NIC cannot carry anything, or an address is nowhere.
    pub(super) fn is_broken(&self) -> Result<bool> {
        let node = self.lab.node(0)?;
        let usable = node.host.rtnl.link_at(node.nic)?.usable;
        let present = present(&self.lab)?;
        Ok(!usable || self.addresses()?.iter().any(|address| !present.contains(address)))
    }

    /// What an operator does to a node whose sequence was left half done and lost things for good:
    /// the NIC up, its addresses and its default route back where the others are.
    pub(super) fn mend(&self) -> Result<()> {
        let node = self.lab.node(0)?;
        let rtnl = &node.host.rtnl;
        let nic = rtnl.link_at(node.nic)?;
        if !nic.usable {
            rtnl.up(nic.index)?;
        }
        let bearer = bearer(&self.lab)?;
        let missing = |own: &&Prefix| !present(&self.lab).is_ok_and(|p| p.contains(&own.address));
        for own in node.config.addresses.iter().filter(missing) {
            rtnl.add_address(bearer.index, *own)?;
        }
        if !has_default_route(node)? {
            for gateway in &self.lab.config.client {
                rtnl.default_route(bearer.index, gateway.address)?;
            }
        }
        Ok(())
    }

    /// Play `sequence` undisturbed, in a round of its own, unless the NIC is there already.
    pub(super) async fn bring(&mut self, sequence: Sequence) -> Result<()> {
        if self.place == Place::after(sequence) {
            return Ok(());
        }
        self.round(async |ground| {
            insist(sequence, &ground.lab).await?;
            Ok((sequence.to_string(), Place::after(sequence)))
        })
        .await
    }

    /// Do something that brings the NIC to some place, and judge what happened since the last
    /// round ended. `play` says what it did, for people.
    pub(super) async fn round(
        &mut self,
        play: impl AsyncFnOnce(&mut Self) -> Result<(String, Place)>,
    ) -> Result<()> {
        let (what, place) = play(self).await.with_context(|| format!("after {}", self.last))?;
        let before = std::mem::replace(&mut self.last, what);
        let what = self.last.clone();
        self.place = place;
        let arrived = self.arrived().await;
        if arrived.is_ok() {
            clock::pass(SETTLE).await;
        }
        let judged = self.judge().await.and(arrived);
        judged.with_context(|| format!("{what} (after {before})"))
    }

    /// Wait until vipshield says that the NIC is where it belongs, with all that goes with it.
    pub(super) async fn arrived(&self) -> Result<()> {
        let deadline = clock::now() + clock::patience(ARRIVAL);
        loop {
            let Err(error) = self.look().await else { return Ok(()) };
            if clock::now() >= deadline {
                return Err(error.context("it does not converge"));
            }
            clock::pass(Duration::from_millis(50)).await;
        }
    }

    /// An error that says what is not as it should be at this place.
    async fn look(&self) -> Result<()> {
        let node = self.lab.node(0)?;
        let status = self.vipshield()?.status().await?;
        let bearer = bearer(&self.lab)?;
        let nic = status.pointer("/nics/0").context("no NIC is guarded")?;
        let phase = nic.get("phase").and_then(Value::as_str);
        ensure!(phase == Some(self.place.phase()), "phase {phase:?}, at {:?}", self.place);
        let on = nic.pointer("/bearer/ifindex").and_then(Value::as_u64);
        ensure!(on == Some(bearer.index.into()), "bearer {on:?}, not {}", bearer.name);
        ensure!(bearer.bridge == (self.place != Place::Free), "{} is the bearer", bearer.name);
        ensure!(
            (bearer.name == self.lab.config.nic) != (self.place == Place::Bridged),
            "{} bears, at {:?}",
            bearer.name,
            self.place
        );
        let daemons = status.get("daemons").and_then(Value::as_array).into_iter().flatten();
        for daemon in daemons {
            for filter in daemon.get("monitors").and_then(Value::as_array).into_iter().flatten() {
                ensure!(filter == "guard", "the filter of a daemon's monitor socket: {filter}");
            }
        }
        let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
        let sockets = Sockets::of(&keepalived.processes()?, &node.host)?;
        let sockets: Vec<_> = sockets.0.values().filter(|socket| socket.is_vrrp()).collect();
        ensure!(!sockets.is_empty(), "keepalived has no VRRP socket");
        for socket in sockets {
            // What only sends IPv6 sends through the NIC, port or not.
            let stays = socket.sends_only() && socket.is_ipv6() && socket.bound == node.nic;
            ensure!(stays || socket.bound == bearer.index, "not on {}: {socket}", bearer.name);
        }
        // It stays prepared for some time, but by now nothing may take another way for it.
        let rules = rules(node)?;
        let used: Vec<_> = rules.iter().filter(|rule| rule.contains(SPARE_TABLE)).collect();
        ensure!(self.place == Place::Free || used.is_empty(), "rules while bridged: {used:?}");
        for own in &node.config.addresses {
            let found = node.host.rtnl.addresses(bearer.index)?;
            let here = found.iter().any(|address| {
                address_of(address) == Some(own.address) && address.header.prefix_len == own.length
            });
            ensure!(here, "{own} is not on {}", bearer.name);
        }
        Ok(())
    }

    /// What happened since the last time was right, or else this says what was not.
    async fn judge(&mut self) -> Result<()> {
        let window = Window { from: self.judged, to: clock::now() };
        self.judged = window.to;
        let seen = self.witnesses.observe(&self.lab, window);
        let broken = self.witnesses.broken(&self.addresses()?, window);
        ensure!(self.witnesses.blind_spots() == 0, "the address monitor lost events");
        log::info!(
            "{}: broken {:?}, NIC down {:.0} ms, gap {:.0} ms (pause {:.0} ms), {:?}",
            self.last,
            broken.length,
            seen.nic_down_ms,
            seen.probe.longest_gap_ms,
            seen.probe.longest_pause_ms,
            seen.transitions
        );
        if broken.length > DEADLINE + NEAR {
            let exchanged = self.place == Place::Exchanged;
            self.adopted = exchanged && Duration::from_secs_f64(seen.nic_down_ms / 1e3) > DEADLINE;
            return self.was_told(broken, window).await;
        }
        if std::mem::take(&mut self.adopted) {
            if self.place == Place::Free {
                return self.recover(window).await;
            }
            self.adopted = true;
        }
        if broken.length + NEAR > DEADLINE && !seen.transitions.is_empty() {
            return self.recover(window).await;
        }
        ensure!(
            seen.transitions.is_empty(),
            "VRRP transitions: {:?}; the node was broken for {:?} only",
            seen.transitions,
            broken.length
        );
        ensure!(seen.owners_max == 1, "{} owners", seen.owners_max);
        ensure!(seen.tcp.is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
        if self.role == Role::Master {
            // An emulated machine does not keep time.
            let limit = seen.nic_down_ms + seen.probe.longest_pause_ms + clock::millis(GAP);
            let gap = seen.probe.longest_gap_ms;
            ensure!(
                !clock::is_brisk() || gap <= limit,
                "no answer for {gap} ms, at {} ms of {:?}; the NIC was down for {} ms",
                seen.probe.longest_gap_at_ms,
                window.length(),
                seen.nic_down_ms
            );
        }
        Ok(())
    }

    /// The node was broken for longer than may be hidden: VRRP had to know in time, and all has to
    /// come right by itself.
    async fn was_told(&mut self, broken: Gap, window: Window) -> Result<()> {
        let due = broken.from + DEADLINE;
        let mut told = self.lab.node(0)?.keepalived.iter().flat_map(Keepalived::transitions);
        let told = told.find(|change| window.contains(change.at) && change.at >= broken.from);
        let Some(told) = told else {
            bail!("the node was broken for {:?}, and VRRP never knew", broken.length)
        };
        let late = told.at.saturating_duration_since(due);
        ensure!(late <= clock::patience(SLACK), "told {late:?} after the deadline");
        self.recover(window).await
    }

    /// Everybody gets back to his role by himself, and on the way there was one master at a time.
    /// A copy of the VIP that Kube-OVN made, and that keepalived cannot know of, is not judged
    /// until all is over.
    async fn recover(&mut self, window: Window) -> Result<()> {
        measure::settled(&self.lab, self.role).await?;
        clock::pass(SETTLE).await;
        let window = Window { from: window.from, to: clock::now() };
        let masters = masters(&self.lab, window);
        ensure!(masters.total <= HANDOVER, "two masters for {:?}", masters.total);
        let owner = usize::from(self.role == Role::Backup);
        for node in 0..2 {
            let has = self.witnesses.has_vip(node);
            ensure!(has == (node == owner), "node{} has the VIP: {has}", node + 1);
        }
        self.witnesses.reconnect(&self.lab)?;
        self.judged = clock::now();
        Ok(())
    }

    /// Wait for late consequences, then see vipshield end without a trace.
    pub(super) async fn finish(&mut self) -> Result<()> {
        clock::pass(LATE).await;
        self.judge().await.with_context(|| format!("some time after {}", self.last))?;
        let back = match self.place {
            Place::Bridged => Sequence::Unbind,
            Place::Free | Place::Exchanged => Sequence::Unexchange,
        };
        self.bring(back).await?;
        if let Some(vipshield) = self.lab.node_mut(0)?.vipshield.take() {
            vipshield.stop().await?;
        }
        "the end of vipshield".clone_into(&mut self.last);
        clock::pass(SETTLE).await;
        let traces = traces(&self.lab)?;
        ensure!(traces.is_empty(), "vipshield left behind: {traces:?}");
        self.judge().await.context("at the end of vipshield")
    }

    /// What happened up to now is not to be judged: everybody gets to his role by himself, and
    /// the witnesses begin anew.
    pub(super) async fn begin_anew(&mut self) -> Result<()> {
        measure::settled(&self.lab, self.role).await?;
        self.witnesses.reconnect(&self.lab)?;
        self.judged = clock::now();
        Ok(())
    }

    /// Start vipshield on the first node and wait until it guards what there is to guard. While
    /// the NIC's name belongs to no interface, it waits for one of that name.
    pub(super) async fn start_vipshield(&mut self) -> Result<()> {
        let started = self.lab.spawn_vipshield(0, &self.program)?;
        self.lab.node_mut(0)?.vipshield = Some(started);
        on_guard(self.vipshield()?).await
    }

    /// vipshield of the first node.
    pub(super) fn vipshield(&self) -> Result<&Vipshield> {
        self.lab.node(0)?.vipshield.as_ref().context("vipshield does not run")
    }

    /// Take vipshield out, to be stopped or killed.
    pub(super) fn take_vipshield(&mut self) -> Result<Vipshield> {
        self.lab.node_mut(0)?.vipshield.take().context("vipshield does not run")
    }

    /// What the witnesses saw since then.
    pub(super) fn seen_since(&self, from: Instant) -> Observed {
        self.witnesses.observe(&self.lab, Window { from, to: clock::now() })
    }

    /// No state of VRRP changed on any node since then.
    pub(super) fn calm_since(&self, from: Instant) -> Result<()> {
        let seen = measure::transitions(&self.lab, Window { from, to: clock::now() });
        ensure!(seen.is_empty(), "VRRP transitions: {seen:?}");
        Ok(())
    }
}

/// Wait until a vipshield guards what there is to guard.
pub(super) async fn on_guard(vipshield: &Vipshield) -> Result<()> {
    clock::until("vipshield on guard", Duration::from_secs(5), async || {
        let Ok(status) = vipshield.status().await else { return Ok(None) };
        let ready = is_ready(&status);
        let waits = status.pointer("/missing/0").is_some();
        Ok((ready || waits).then_some(()))
    })
    .await
}

/// Who said to be master when.
fn masters(lab: &Lab, window: Window) -> Overlap {
    let mut changes = Vec::new();
    for (of, node) in lab.nodes.iter().enumerate() {
        let told = node.keepalived.iter().flat_map(Keepalived::transitions);
        changes.extend(told.map(|told| Change { at: told.at, of, so: told.state == "MASTER" }));
    }
    overlap(&changes, window)
}

/// Begin a sequence again, a second later, as often as Kube-OVN is given in the lab.
pub(super) async fn insist(sequence: Sequence, lab: &Lab) -> Result<()> {
    for _ in 0..2 {
        match sequence.run(lab, &mut Undisturbed).await.outcome {
            Ok(()) => return Ok(()),
            Err(error) => log::info!("{sequence} failed: {error:#}"),
        }
        clock::pass(Duration::from_secs(1)).await;
    }
    sequence.run(lab, &mut Undisturbed).await.outcome
}

/// The interface that carries what the NIC's wire brings: the bridge while the NIC is a port.
pub(super) fn bearer(lab: &Lab) -> Result<Link> {
    let node = lab.node(0)?;
    let nic = node.host.rtnl.link_at(node.nic)?;
    if nic.master.is_none() {
        return Ok(nic);
    }
    let bridge = if nic.name == lab.config.nic { &lab.config.bridge } else { &lab.config.nic };
    node.host.rtnl.link(bridge)
}

/// Every address of the first node, on whatever interface.
fn present(lab: &Lab) -> Result<Vec<IpAddr>> {
    let rtnl = &lab.node(0)?.host.rtnl;
    let mut found = Vec::new();
    for name in [&lab.config.nic, &lab.config.bridge] {
        if let Ok(link) = rtnl.link(name) {
            found.extend(rtnl.addresses(link.index)?.iter().filter_map(address_of));
        }
    }
    Ok(found)
}

fn has_default_route(node: &Node) -> Result<bool> {
    Ok(node.host.rtnl.all_routes()?.iter().any(|route| {
        route.header.table == RouteHeader::RT_TABLE_MAIN
            && route.header.destination_prefix_length == 0
            && route.header.address_family == AddressFamily::Inet
    }))
}

/// What vipshield has in force on the first node.
fn traces(lab: &Lab) -> Result<Vec<String>> {
    let node = lab.node(0)?;
    let rtnl = &node.host.rtnl;
    let mut found = Vec::new();
    for rule in rtnl.rules()? {
        let ours = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Protocol(by) if u8::from(*by) == PROTOCOL);
        if rule.attributes.iter().any(ours) {
            found.push(format!("a rule {:?}", rule.attributes));
        }
    }
    for route in rtnl.all_routes()? {
        if u8::from(route.header.protocol) == PROTOCOL {
            let to = route.attributes.iter().find(|a| matches!(a, RouteAttribute::Destination(_)));
            found.push(format!("a route to {to:?}"));
        }
    }
    let addresses = rtnl.addresses(node.nic)?;
    let anchors = addresses.iter().filter_map(address_of).filter(|ip| ANCHORS.contains(ip));
    found.extend(anchors.map(|anchor| format!("{anchor} on the NIC")));
    Ok(found)
}

/// What a rule in use leads to, as [`rules`] has it.
const SPARE_TABLE: &str = "Table(5252)";

/// The rules by which vipshield carries for a node.
pub(super) fn rules(node: &Node) -> Result<Vec<String>> {
    let ours = |attribute: &RuleAttribute| matches!(attribute, RuleAttribute::Protocol(by) if u8::from(*by) == PROTOCOL);
    let mut rules = node.host.rtnl.rules()?;
    rules.retain(|rule| rule.attributes.iter().any(ours));
    Ok(rules.iter().map(|rule| format!("a rule {:?}", rule.attributes)).collect())
}
