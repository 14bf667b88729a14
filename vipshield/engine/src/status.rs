//! What the engine shows of itself.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    claims::{Claimant, Claimed},
    health::Health,
    nic::Transitions,
    phase::Phase,
    roster::Entry,
    routers::{Key, Router, Sender},
    world::{Family, Filter, Role},
};
use crate::wire::{Mac, Malformed, Version};

/// An interface, by name and index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name now.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
}

/// A guarded NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStatus {
    /// The name under which the daemons know it.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Where it stands.
    pub phase: Phase,
    /// For how long, in milliseconds.
    pub phase_ms: u64,
    /// The interface that carries its addresses now; null while that cannot be told.
    pub bearer: Option<Interface>,
    /// The addresses that belong to it, wherever they are.
    pub addresses: Vec<String>,
    /// For how long something untrue about it is withheld at the most, in milliseconds.
    pub deadline_ms: u64,
    /// Its transitions that are over.
    #[serde(default)]
    pub transitions: Vec<Transitions>,
}

/// Who sends adverts for a virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderStatus {
    /// Its address.
    pub source: IpAddr,
    /// The hardware address that its last advert came from.
    pub mac: Mac,
    /// It is this node.
    pub own: bool,
    /// Priority; 0 gives up.
    pub priority: u8,
    /// Time between two adverts, in milliseconds.
    pub interval_ms: u64,
    /// How long ago the last one was, in milliseconds.
    pub last_seen_ms: u64,
    /// Adverts seen.
    pub adverts: u64,
}

/// A virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// The guarded NIC.
    pub nic: String,
    /// Its id, 1 to 255.
    pub router_id: u8,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Version of VRRP.
    pub version: Version,
    /// VLAN identifier of its tagged frames; null if they have none.
    pub vlan: Option<u16>,
    /// A daemon of this node is known to take part in it.
    pub ours: bool,
    /// The source address of the sender with the highest priority that is heard; null if none is.
    pub owner: Option<IpAddr>,
    /// Its addresses, as the owner, or whoever was heard last, says.
    pub addresses: Vec<IpAddr>,
    /// Who sends adverts for it.
    pub senders: Vec<SenderStatus>,
}

/// Who says that an address is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimantStatus {
    /// Its hardware address.
    pub mac: Mac,
    /// An interface of this node has it.
    pub own: bool,
    /// How long ago it said so last, in milliseconds.
    pub last_seen_ms: u64,
    /// How often it did.
    pub claims: u64,
}

/// An address of a virtual router that this node takes part in, and who claims it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The address.
    pub address: IpAddr,
    /// A daemon of this node means to have it.
    pub wanted: bool,
    /// The hardware address that claims it while this node owns it; null if none does.
    pub conflict: Option<Mac>,
    /// Who claims it.
    pub claimants: Vec<ClaimantStatus>,
}

/// An address that daemons move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// A daemon of this node means to have it.
    pub wanted: bool,
    /// The interfaces that have it.
    pub on: Vec<String>,
}

/// A socket bound to an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VrrpStatus {
    /// Descriptor in the daemon.
    pub fd: i32,
    /// The interface; null if it is not bound.
    pub bound: Option<String>,
}

/// A guarded process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonStatus {
    /// Process id.
    pub pid: u32,
    /// Name of its executable.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// The filters on its monitor sockets.
    pub monitors: Vec<Filter>,
    /// Its VRRP sockets.
    pub vrrp: Vec<VrrpStatus>,
}

/// The engine's part of the status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// How all is.
    pub health: Health,
    /// Guarded NICs.
    pub nics: Vec<NicStatus>,
    /// Interfaces that were asked for and do not exist.
    pub missing: Vec<String>,
    /// Guarded daemons.
    pub daemons: Vec<DaemonStatus>,
    /// What an operator should mend.
    pub warnings: Vec<String>,
    /// Messages reported as withheld.
    pub withheld: u64,
    /// Truths told after they had been withheld.
    pub released: u64,
    /// How often daemons believed something untrue for longer than the deadline.
    pub overdue: u64,
    /// VRRP sockets moved to another interface.
    pub rebound: u64,
    /// Announcements of VIPs that moved.
    pub announced: u64,
    /// Actions that failed, by what they are called.
    pub failed: BTreeMap<String, u64>,
    /// Virtual routers on the wire.
    pub routers: Vec<RouterStatus>,
    /// Who claims their addresses.
    pub claims: Vec<ClaimStatus>,
    /// What daemons have, or had lately.
    #[serde(default)]
    pub vips: Vec<VipStatus>,
    /// What was heard on the wire, by name.
    pub heard: BTreeMap<String, u64>,
}

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Messages reported as withheld.
    pub(super) withheld: u64,
    /// Truths told after they had been withheld.
    pub(super) released: u64,
    /// VRRP sockets moved to another interface.
    pub(super) rebound: u64,
    /// Announcements of VIPs that moved.
    pub(super) announced: u64,
    /// Actions that failed.
    pub(super) failures: BTreeMap<&'static str, u64>,
}

impl Engine {
    /// What an operator wants to know.
    #[must_use]
    pub fn status(&self, now: Duration) -> EngineStatus {
        EngineStatus {
            health: self.health(now),
            nics: self
                .nics
                .values()
                .map(|nic| NicStatus {
                    name: nic.name.clone(),
                    ifindex: nic.ifindex,
                    phase: nic.phase,
                    phase_ms: now.saturating_sub(nic.phase_since).as_millis() as u64,
                    bearer: nic
                        .bearer
                        .map(|ifindex| Interface { name: self.world.name_of(ifindex), ifindex }),
                    addresses: nic.home().map(|address| address.to_string()).collect(),
                    deadline_ms: self.patience(nic.ifindex).deadline.as_millis() as u64,
                    transitions: nic.transitions.to_vec(),
                })
                .collect(),
            missing: self.missing(),
            warnings: self.warnings(now),
            daemons: self
                .world
                .daemons
                .values()
                .map(|daemon| DaemonStatus {
                    pid: daemon.pid,
                    name: daemon.name.clone(),
                    role: daemon.role,
                    monitors: daemon.monitors.iter().map(|monitor| monitor.filter).collect(),
                    vrrp: daemon
                        .vrrp
                        .iter()
                        .map(|socket| VrrpStatus {
                            fd: socket.id.fd,
                            bound: socket.bound.map(|ifindex| self.world.name_of(ifindex)),
                        })
                        .collect(),
                })
                .collect(),
            withheld: self.counts.withheld,
            released: self.counts.released,
            overdue: self.audit.overdue,
            rebound: self.counts.rebound,
            announced: self.counts.announced,
            failed: self
                .counts
                .failures
                .iter()
                .map(|(kind, count)| ((*kind).to_owned(), *count))
                .collect(),
            routers: self.router_status(now),
            claims: self.claim_status(now),
            vips: self.vip_status(),
            heard: self.heard_counters(),
        }
    }

    fn router_status(&self, now: Duration) -> Vec<RouterStatus> {
        let one = |(key, entry): (&Key, &Entry<Router>)| {
            let router = &entry.value;
            let sender = |source: IpAddr, own: bool, entry: &Entry<Sender>| SenderStatus {
                source,
                mac: entry.value.mac,
                own,
                priority: entry.value.advert.priority,
                interval_ms: entry.value.advert.interval.as_millis() as u64,
                last_seen_ms: ago(entry.last, now),
                adverts: entry.count,
            };
            let own = router.own.iter().map(|(source, entry)| (*source, true, entry));
            let others = router.others.iter().map(|(source, entry)| (*source, false, entry));
            let senders: Vec<_> = own.chain(others).collect();
            let owner = router.owner(now);
            let latest = senders.iter().max_by_key(|(.., entry)| entry.last).map(|it| it.2);
            let spokesman = owner.map(|(_, entry)| entry).or(latest);
            RouterStatus {
                nic: self.nics.get(&key.nic).map(|nic| nic.name.clone()).unwrap_or_default(),
                router_id: key.router_id,
                family: key.family,
                version: key.version,
                vlan: key.vlan,
                ours: router.ours,
                owner: owner.map(|(source, _)| source),
                addresses: spokesman
                    .map(|it| it.value.advert.addresses.clone())
                    .unwrap_or_default(),
                senders: senders
                    .into_iter()
                    .map(|(source, own, it)| sender(source, own, it))
                    .collect(),
            }
        };
        self.routers.table.iter().map(one).collect()
    }

    fn claim_status(&self, now: Duration) -> Vec<ClaimStatus> {
        let claimants = |claimed: &Claimed| {
            let one = |(mac, entry): (&Mac, &Entry<Claimant>)| ClaimantStatus {
                mac: *mac,
                own: entry.value.own,
                last_seen_ms: ago(entry.last, now),
                claims: entry.count,
            };
            claimed.macs.iter().map(one).collect()
        };
        let one = |(address, claimed): (&IpAddr, &Claimed)| ClaimStatus {
            address: *address,
            wanted: self.world.vips.is_wanted(*address),
            conflict: claimed.conflict,
            claimants: claimants(claimed),
        };
        self.claims.of.iter().map(one).collect()
    }

    fn vip_status(&self) -> Vec<VipStatus> {
        let one = |address: IpAddr| VipStatus {
            address,
            wanted: self.world.vips.is_wanted(address),
            on: self.world.holders(address).map(|it| self.world.name_of(it)).collect(),
        };
        self.world.vips.known().map(one).collect()
    }

    fn heard_counters(&self) -> BTreeMap<String, u64> {
        let tally = &self.tally;
        let malformed = Malformed::ALL.into_iter().map(|reason| {
            let count = tally.malformed.get(&reason).copied().unwrap_or(0);
            (format!("malformed_{reason}"), count)
        });
        let others = [
            ("adverts_own", tally.own_adverts),
            ("adverts_foreign", tally.foreign_adverts),
            ("claims_own", tally.own_claims),
            ("claims_foreign", tally.foreign_claims),
            ("frames_stray", tally.stray),
            ("routers_evicted", self.routers.table.evicted),
            ("senders_evicted", self.routers.senders_evicted()),
            ("claimants_evicted", self.claims.evicted()),
            ("conflicts", self.claims.conflicts),
            ("silences", self.routers.silences),
        ];
        malformed.chain(others.map(|(name, count)| (name.to_owned(), count))).collect()
    }
}

/// In milliseconds.
fn ago(then: Duration, now: Duration) -> u64 {
    now.saturating_sub(then).as_millis() as u64
}
