//! All witnesses of a lab together, and what they saw within a window.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::further::{VipSeen, VipWitness};
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::witness::arp::{ArpReport, ArpWitness};
use crate::witness::monitor::Monitor;
use crate::witness::probe::{self, Probe, ProbeReport};
use crate::witness::tcp::{EchoServer, TcpReport, TcpWitness};
use crate::witness::timeline::{
    Change, Gap, Window, any_of, longest_not_so, overlap, time_not_so, without_blinks,
};

/// An address that is there for less than this is not back: vipshield adds one for a moment, to
/// have the kernel say that it is gone.
const BLINK: Duration = Duration::from_millis(50);

/// A state change within the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransitionSeen {
    /// Milliseconds after the window began.
    pub at_ms: f64,
    /// The node whose keepalived told it.
    pub node: String,
    /// The VRRP instance.
    pub instance: String,
    /// Its new state.
    pub state: String,
}

/// All witnesses of a lab. They see the VIP of the lab's configuration.
#[derive(Debug)]
pub struct Witnesses {
    probe: Probe,
    node_probe: Probe,
    tcp: Option<TcpWitness>,
    arp: Option<ArpWitness>,
    further: Vec<VipWitness>,
    monitors: Vec<Monitor>,
    /// That of the switch, and the port of the first node's NIC.
    wire: Option<(Monitor, u32)>,
    _servers: Vec<EchoServer>,
    vip: IpAddr,
    nic: u32,
}

/// What the witnesses of a lab saw within a window.
#[derive(Clone, Debug)]
pub struct Observed {
    /// State changes, in order.
    pub transitions: Vec<TransitionSeen>,
    /// The most nodes that had the VIP at one time.
    pub owners_max: usize,
    /// How long two nodes had it, in milliseconds.
    pub owners_overlap_ms: f64,
    /// How long the first node's NIC was not usable, in milliseconds.
    pub nic_down_ms: f64,
    /// How long the port that it is plugged into was not, in milliseconds: the lab's switch is in the same kernel, and
    /// hears of a cable when that gets round to it.
    pub wire_down_ms: f64,
    /// The probe of the VIP.
    pub probe: ProbeReport,
    /// The probe of the first node's own address.
    pub node_probe: ProbeReport,
    /// The connection to the VIP.
    pub tcp: Option<TcpReport>,
    /// ARP for the VIP.
    pub arp: Option<ArpReport>,
}

impl Witnesses {
    /// Start them all. The VIP must have an owner by now, or the connection
    /// to it is not witnessed.
    ///
    /// # Errors
    /// When one cannot be started.
    pub async fn start(lab: &Lab) -> Result<Self> {
        Self::paced(lab, probe::PERIOD).await
    }

    /// The same with this time between two probes of the VIP.
    ///
    /// # Errors
    /// When one cannot be started.
    pub async fn paced(lab: &Lab, period: Duration) -> Result<Self> {
        let vip = lab.config.vip()?;
        let node = lab.node(0)?;
        let mut monitors = Vec::new();
        let mut servers = Vec::new();
        for node in &lab.nodes {
            monitors.push(Monitor::start(&node.host.namespace).await?);
            servers.push(EchoServer::start(&node.host)?);
        }
        let same_family = |address: &IpAddr| address.is_ipv4() == vip.is_ipv4();
        let mut client = lab.config.client.iter().map(|prefix| prefix.address);
        let arp = match client.find(same_family) {
            Some(own) => Some(ArpWitness::start(&lab.client, "eth0", own, vip)?),
            None => None,
        };
        let mut addresses = node.config.addresses.iter().map(|prefix| prefix.address);
        let own = addresses.find(same_family).context("the first node has no address")?;
        let tcp = match TcpWitness::start(&lab.client, vip) {
            Ok(tcp) => Some(tcp),
            Err(error) => {
                log::warn!("no connection to the VIP to begin with: {error:#}");
                None
            }
        };
        let wire = match lab.socket_of(0) {
            Ok((switch, port)) => Some((Monitor::start(&switch.namespace).await?, port)),
            // It has been unplugged.
            Err(_) => None,
        };
        Ok(Self {
            wire,
            probe: Probe::start(&lab.client, vip, period)?,
            node_probe: Probe::start(&lab.client, own, probe::LEISURELY)?,
            tcp,
            arp,
            further: VipWitness::start_all(lab, period)?,
            monitors,
            _servers: servers,
            vip,
            nic: node.nic,
        })
    }

    /// The probe of the VIP.
    #[must_use]
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// The probe of the first node's own address.
    #[must_use]
    pub fn node_probe(&self) -> &Probe {
        &self.node_probe
    }

    /// Whether the node with this position has the VIP configured now.
    #[must_use]
    pub fn has_vip(&self, node: usize) -> bool {
        self.monitors.get(node).is_some_and(|monitor| monitor.carries(self.vip))
    }

    /// When the node with this position got the VIP, and lost it, whatever its interface.
    #[must_use]
    pub fn vip_changes(&self, node: usize) -> Vec<(Instant, bool)> {
        let carriers = self.monitors.get(node).map(|monitor| monitor.carriers(self.vip));
        let changes = any_of(&carriers.unwrap_or_default(), |_| ());
        changes.into_iter().map(|change| (change.at, change.so)).collect()
    }

    /// The hardware addresses that answered for the VIP within `window`.
    #[must_use]
    pub fn who_answers(&self, window: Window) -> Vec<String> {
        self.arp.as_ref().map(|arp| arp.report(window).macs).unwrap_or_default()
    }

    /// Send no more probes and wait for late answers.
    pub async fn finish(&mut self) {
        self.probe.pause();
        self.node_probe.pause();
        self.further.iter_mut().for_each(VipWitness::pause);
        clock::pass(Duration::from_secs(1)).await;
    }

    /// What became of the other VIPs within `window`, and of the probes of them since `idle_from`.
    #[must_use]
    pub fn further(&self, idle_from: Instant, window: Window) -> Vec<VipSeen> {
        let all = self.further.iter();
        all.map(|witness| witness.report(&self.monitors, idle_from, window)).collect()
    }

    /// What they saw.
    #[must_use]
    pub fn observe(&self, lab: &Lab, window: Window) -> Observed {
        let mut parts: Vec<Change<(usize, u32)>> = Vec::new();
        for (node, monitor) in self.monitors.iter().enumerate() {
            let carriers = monitor.carriers(self.vip).into_iter();
            parts.extend(carriers.map(|c| Change { at: c.at, of: (node, c.of), so: c.so }));
        }
        let owners = overlap(&any_of(&parts, |(node, _)| *node), window);
        let usable = self.monitors.first().map(|monitor| monitor.usable(self.nic));
        let down = time_not_so(&usable.unwrap_or_default(), true, window);
        let wire = self.wire.as_ref().map(|(switch, port)| switch.usable(*port));
        let wire_down = time_not_so(&wire.unwrap_or_default(), true, window);
        Observed {
            transitions: transitions(lab, window),
            owners_max: owners.most,
            owners_overlap_ms: clock::millis(owners.total),
            nic_down_ms: clock::millis(down),
            wire_down_ms: clock::millis(wire_down),
            probe: self.probe.report(window),
            node_probe: self.node_probe.report(window),
            tcp: self.tcp.as_ref().map(|tcp| tcp.report(window)),
            arp: self.arp.as_ref().map(|arp| arp.report(window)),
        }
    }

    /// Connect to the VIPs anew: a connection does not survive a failover.
    ///
    /// # Errors
    /// When nobody answers at the first.
    pub fn reconnect(&mut self, lab: &Lab) -> Result<()> {
        self.further.iter_mut().for_each(|witness| witness.reconnect(lab));
        self.tcp = None;
        self.tcp = Some(TcpWitness::start(&lab.client, self.vip)?);
        Ok(())
    }

    /// The longest time within the window in which the first node was broken in truth: its NIC
    /// could carry nothing, or this one of its addresses was on no interface of it. And when that
    /// began.
    #[must_use]
    pub fn broken(&self, addresses: &[IpAddr], window: Window) -> Gap {
        let none = Gap { from: window.from, length: Duration::ZERO };
        let Some(monitor) = self.monitors.first() else { return none };
        let mut longest = longest_not_so(&monitor.usable(self.nic), true, window);
        for address in addresses {
            let present = any_of(&monitor.carriers(*address), |_| ());
            let present: Vec<_> = present.iter().map(|change| (change.at, change.so)).collect();
            let gap = longest_not_so(&without_blinks(&present, BLINK), true, window);
            if gap.length > longest.length {
                longest = gap;
            }
        }
        longest
    }

    /// Whether any of them had to look away: then what they say is not the whole truth.
    #[must_use]
    pub fn blind_spots(&self) -> u32 {
        self.monitors.iter().map(Monitor::overruns).sum()
    }
}

/// The state changes of all nodes within a window, in order.
#[must_use]
pub fn transitions(lab: &Lab, window: Window) -> Vec<TransitionSeen> {
    let mut seen: Vec<(Instant, TransitionSeen)> = Vec::new();
    for node in &lab.nodes {
        for change in node.keepalived.iter().flat_map(Keepalived::transitions) {
            if window.contains(change.at) {
                let transition = TransitionSeen {
                    at_ms: clock::millis(change.at.saturating_duration_since(window.from)),
                    node: node.config.name.clone(),
                    instance: change.instance,
                    state: change.state,
                };
                seen.push((change.at, transition));
            }
        }
    }
    seen.sort_by_key(|(at, _)| *at);
    seen.into_iter().map(|(_, transition)| transition).collect()
}
