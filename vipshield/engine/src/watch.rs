//! What is watched, and for what neighbours are answered.

use std::{collections::BTreeSet, net::IpAddr};

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

impl Engine {
    /// Watches where VRRP and those who own an address can be seen: guarded NICs and what bears
    /// their traffic.
    pub(super) fn wanted_watch(&self) -> impl Iterator<Item = Action> {
        let interfaces = self.interfaces_to_watch().into_iter();
        let addresses = Action::WatchAddresses { addresses: self.addresses_to_watch() };
        interfaces.map(|ifindex| Action::Watch { ifindex, wanted: true }).chain([addresses])
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

    /// Has neighbours answered for what is carried, for as long as it is.
    pub(super) fn wanted_answers(&self) -> impl Iterator<Item = Action> {
        // What a port is sent goes to its bridge.
        let is_port = |nic: u32| self.world.taker(nic).is_some();
        let plans = self.plans();
        let used = plans.filter(move |(nic, plan)| !is_port(*nic) && !plan.addresses.is_empty());
        used.filter_map(|(ifindex, plan)| {
            let mac = self.world.link(ifindex)?.mac.as_slice().try_into().ok()?;
            let answers = Answers { addresses: plan.addresses.clone(), mac };
            Some(Action::Answer { ifindex, answers })
        })
    }
}
