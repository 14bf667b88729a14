//! The VIPs of a lab beside the one that every run is about: what became of each of them in the
//! same window.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::lab::Lab;
use crate::witness::arp::{ArpReport, ArpWitness};
use crate::witness::monitor::Monitor;
use crate::witness::probe::{self, Probe, ProbeReport};
use crate::witness::tcp::{TcpReport, TcpWitness};
use crate::witness::timeline::{Change, Window, any_of, overlap};

/// What became of one VIP within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VipSeen {
    /// Which.
    pub vip: IpAddr,
    /// The most nodes that had it at one time.
    pub owners_max: usize,
    /// How long two nodes had it, in milliseconds.
    pub owners_overlap_ms: f64,
    /// The probe of it.
    pub probe: ProbeReport,
    /// The probe of it in a window of the same length before.
    pub idle: ProbeReport,
    /// The connection to it; none to a link-local one.
    pub tcp: Option<TcpReport>,
    /// Who answered for it on the wire.
    pub neighbors: Option<ArpReport>,
    /// Who answered for it in the last second.
    pub answering: Vec<String>,
}

/// The witnesses of one VIP.
#[derive(Debug)]
pub struct VipWitness {
    vip: IpAddr,
    probe: Probe,
    tcp: Option<TcpWitness>,
    neighbors: Option<ArpWitness>,
}

impl VipWitness {
    /// One for each VIP but the one that is watched anyway. Echo servers must run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(lab: &Lab, period: Duration) -> Result<Vec<Self>> {
        let first = lab.config.vip()?;
        let watched = lab.config.watched();
        let rest: Vec<IpAddr> = lab.config.vips().filter(|vip| *vip != first).collect();
        let mut all = Vec::new();
        for vip in rest {
            let mut client = lab.config.client.iter().map(|prefix| prefix.address);
            let own = client.find(|own| own.is_ipv4() == vip.is_ipv4());
            let neighbors = match own {
                Some(own) => Some(ArpWitness::start(&lab.client, "eth0", own, vip)?),
                None => None,
            };
            // Two streams of probes at full speed are one too many for a small machine, unless
            // each is of another family.
            let pace = if watched.contains(&vip) { period } else { probe::LEISURELY.max(period) };
            let probe = Probe::start(&lab.client, vip, pace)?;
            let mut witness = Self { vip, probe, tcp: None, neighbors };
            witness.reconnect(lab);
            all.push(witness);
        }
        Ok(all)
    }

    /// Connect anew, if it is a VIP that one connects to.
    pub fn reconnect(&mut self, lab: &Lab) {
        self.tcp = None;
        if matches!(self.vip, IpAddr::V6(vip) if vip.is_unicast_link_local()) {
            return;
        }
        self.tcp = TcpWitness::start(&lab.client, self.vip)
            .inspect_err(|error| log::warn!("no connection: {error:#}"))
            .ok();
    }

    /// Send no more probes.
    pub fn pause(&mut self) {
        self.probe.pause();
    }

    /// What it saw within `window`, and the probe in the idle time since `idle_from` before it.
    #[must_use]
    pub fn report(&self, monitors: &[Monitor], idle_from: Instant, window: Window) -> VipSeen {
        let mut parts: Vec<Change<(usize, u32)>> = Vec::new();
        for (node, monitor) in monitors.iter().enumerate() {
            let carriers = monitor.carriers(self.vip).into_iter();
            parts.extend(carriers.map(|c| Change { at: c.at, of: (node, c.of), so: c.so }));
        }
        let owners = overlap(&any_of(&parts, |(node, _)| *node), window);
        let neighbors = |window| self.neighbors.as_ref().map(|seen| seen.report(window));
        let last = window.to.checked_sub(Duration::from_secs(1)).unwrap_or(window.from);
        VipSeen {
            vip: self.vip,
            owners_max: owners.most,
            owners_overlap_ms: clock::millis(owners.total),
            probe: self.probe.report(window),
            idle: self.probe.report(Window { from: idle_from, to: window.from }),
            tcp: self.tcp.as_ref().map(|tcp| tcp.report(window)),
            neighbors: neighbors(window),
            answering: neighbors(Window { from: last, to: window.to })
                .map(|seen| seen.macs)
                .unwrap_or_default(),
        }
    }
}
