//! What is watched, and for what neighbours are answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};
use vipshield_common::watch::MAX_ADDRESSES;

use super::{Engine, action::Action, nic::Nic};

/// What a NIC answers its neighbours itself, because the kernel would not: addresses that are
/// carried are on no interface, or on a bridge without a way out. Without addresses it is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Answers {
    /// For whom it answers.
    pub addresses: BTreeSet<IpAddr>,
    /// The NIC's hardware address.
    pub mac: [u8; 6],
}

/// What was asked for last.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// Interfaces.
    interfaces: BTreeSet<u32>,
    /// Addresses whose owners are reported; none if that was never asked for, or failed.
    addresses: Option<BTreeSet<IpAddr>>,
    /// By NIC; those that answer nothing are left out.
    answers: BTreeMap<u32, Answers>,
}

impl Engine {
    /// Watches where VRRP and those who own an address can be seen: guarded NICs and what bears
    /// their traffic.
    pub(super) fn watch(&mut self) {
        let interfaces = self.interfaces_to_watch();
        let changed: Vec<u32> =
            interfaces.symmetric_difference(&self.watching.interfaces).copied().collect();
        for ifindex in changed {
            let wanted = interfaces.contains(&ifindex);
            if self.want(Action::Watch { ifindex, wanted }) {
                self.set_watched(ifindex, wanted);
            }
        }
        let addresses = self.addresses_to_watch();
        if self.watching.addresses.as_ref() != Some(&addresses)
            && self.want(Action::WatchAddresses { addresses: addresses.clone() })
        {
            self.watching.addresses = Some(addresses);
        }
    }

    /// Has neighbours answered for what is carried, for as long as it is.
    pub(super) fn answer_neighbours(&mut self) {
        let wanted = self.wanted_answers();
        let nics: BTreeSet<u32> =
            wanted.keys().chain(self.watching.answers.keys()).copied().collect();
        for ifindex in nics {
            let answers = wanted.get(&ifindex).cloned().unwrap_or_default();
            let known = self.watching.answers.get(&ifindex).cloned().unwrap_or_default();
            if answers != known && self.want(Action::Answer { ifindex, answers: answers.clone() }) {
                self.set_answers(ifindex, answers);
            }
        }
    }

    /// A bridge is one of them as soon as it has one of a NIC's addresses: it is down then, and
    /// before Linux 6.6 a program that is attached to an interface which is up costs packets.
    fn interfaces_to_watch(&self) -> BTreeSet<u32> {
        let home = self.nics.values().flat_map(Nic::home);
        let bridges = home.filter(|address| !address.is_link_local()).flat_map(|address| {
            let holders = self.world.holders(address.ip);
            holders.filter(move |holder| {
                self.world.is_bridge(*holder) && self.world.has_address(*holder, address)
            })
        });
        self.nics
            .values()
            .flat_map(|nic| [Some(nic.ifindex), nic.bearer])
            .flatten()
            .filter(|ifindex| self.world.has_link(*ifindex))
            .chain(bridges)
            .collect()
    }

    fn addresses_to_watch(&self) -> BTreeSet<IpAddr> {
        self.world.vips.wanted().chain(self.advertised()).take(MAX_ADDRESSES).collect()
    }

    fn wanted_answers(&self) -> BTreeMap<u32, Answers> {
        // Half a carry is better with a neighbour than without.
        let plans = self
            .nics
            .values()
            .filter_map(|nic| Some((nic.ifindex, nic.half_carried.as_ref().or(nic.carry.last())?)));
        let used = plans.filter(|(_, plan)| plan.in_use && !plan.addresses.is_empty());
        used.filter_map(|(ifindex, plan)| {
            let mac = self.world.link(ifindex)?.mac.as_slice().try_into().ok()?;
            Some((ifindex, Answers { addresses: plan.addresses.clone(), mac }))
        })
        .collect()
    }

    /// Everything that ends it.
    pub(super) fn end_of_watch(&self) -> Vec<Action> {
        let answers = Answers::default();
        let nics = self.watching.answers.keys();
        nics.map(|nic| Action::Answer { ifindex: *nic, answers: answers.clone() })
            .chain(
                self.watching
                    .interfaces
                    .iter()
                    .map(|ifindex| Action::Watch { ifindex: *ifindex, wanted: false }),
            )
            .collect()
    }

    /// An action that was asked for failed: all is as it was, or may be.
    pub(super) fn watch_failed(&mut self, action: &Action) {
        match action {
            Action::Watch { ifindex, wanted } => self.set_watched(*ifindex, !wanted),
            Action::WatchAddresses { .. } => self.watching.addresses = None,
            // Neither what was asked for nor nothing.
            Action::Answer { ifindex, .. } => {
                let unknown = Answers { addresses: BTreeSet::new(), mac: [0xff; 6] };
                self.watching.answers.insert(*ifindex, unknown);
            }
            _ => {}
        }
    }

    fn set_watched(&mut self, ifindex: u32, wanted: bool) {
        if wanted {
            self.watching.interfaces.insert(ifindex);
        } else {
            self.watching.interfaces.remove(&ifindex);
        }
    }

    fn set_answers(&mut self, ifindex: u32, answers: Answers) {
        if answers.addresses.is_empty() {
            self.watching.answers.remove(&ifindex);
        } else {
            self.watching.answers.insert(ifindex, answers);
        }
    }
}
