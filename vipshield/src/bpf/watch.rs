//! The watch: its TC programs on interfaces, which addresses they watch, and for which ones they
//! answer neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use nix::net::if_::if_indextoname;
use vipshield_common::{
    guard::AddressKey,
    maps,
    watch::{Answer, AnsweredKey, MAX_SOURCES, SOURCES_PER_CPU},
};

use super::{
    BpfError, absent_is_fine, address_key,
    classifiers::{Classifier, Classifiers},
    placer::Ticket,
    take,
};
use crate::engine::Answers;

/// See the [module](self).
pub(super) struct Watches {
    watched: HashMap<MapData, AddressKey, u32>,
    answered: HashMap<MapData, AnsweredKey, Answer>,
    /// What is in the map of the same name.
    addresses: BTreeSet<IpAddr>,
    /// What is in the map of answers, by NIC.
    answers: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl Watches {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            watched: take(ebpf, maps::WATCHED)?,
            answered: take(ebpf, maps::ANSWERED)?,
            addresses: BTreeSet::new(),
            answers: BTreeMap::new(),
        })
    }

    /// How many sources are remembered where there may be so many CPUs.
    pub(super) fn sources(cpus: usize) -> u32 {
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        cpus.saturating_mul(SOURCES_PER_CPU).max(MAX_SOURCES)
    }

    /// Watches an interface, or does so no longer. None: it does by now.
    pub(super) fn set(
        classifiers: &mut Classifiers,
        ebpf: &mut Ebpf,
        ifindex: u32,
        wanted: bool,
    ) -> Result<Option<Ticket>, BpfError> {
        let both = [(ifindex, Classifier::WatchIngress), (ifindex, Classifier::WatchEgress)];
        if wanted {
            return classifiers.attach(ebpf, &both);
        }
        for (ifindex, which) in both {
            classifiers.detach(ifindex, which);
        }
        Ok(None)
    }

    /// Reports claims of exactly these addresses.
    pub(super) fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), BpfError> {
        for gone in self.addresses.difference(addresses) {
            absent_is_fine(maps::WATCHED, self.watched.remove(&address_key(*gone)))?;
        }
        for new in addresses.difference(&self.addresses) {
            self.watched
                .insert(address_key(*new), 1, 0)
                .map_err(|source| BpfError::Map { map: maps::WATCHED, source })?;
        }
        self.addresses.clone_from(addresses);
        Ok(())
    }

    /// Answers neighbours of a NIC for exactly these addresses.
    pub(super) fn set_answers(&mut self, ifindex: u32, answers: &Answers) -> Result<(), BpfError> {
        let key = |ip: &IpAddr| AnsweredKey { ifindex, address: address_key(*ip) };
        let known = self.answers.entry(ifindex).or_default();
        for gone in known.difference(&answers.addresses) {
            absent_is_fine(maps::ANSWERED, self.answered.remove(&key(gone)))?;
        }
        known.retain(|ip| answers.addresses.contains(ip));
        if answers.addresses.is_empty() {
            self.answers.remove(&ifindex);
            return Ok(());
        }
        let answer = Answer { mac: answers.mac, router: u16::from(forwards_ipv6(ifindex)) };
        for ip in &answers.addresses {
            self.answered
                .insert(key(ip), answer, 0)
                .map_err(|source| BpfError::Map { map: maps::ANSWERED, source })?;
            known.insert(*ip);
        }
        Ok(())
    }
}

/// Whether the kernel would call itself a router in its own advertisements (`ndisc_recv_ns` in
/// `net/ipv6/ndisc.c`).
fn forwards_ipv6(ifindex: u32) -> bool {
    let Ok(name) = if_indextoname(ifindex) else { return false };
    let path = format!("/proc/sys/net/ipv6/conf/{}/forwarding", name.to_string_lossy());
    fs::read_to_string(path).is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_cpus_remember_more_sources() {
        assert_eq!(Watches::sources(1), 4096);
        assert_eq!(Watches::sources(17), 4352);
        assert_eq!(Watches::sources(usize::MAX), u32::MAX);
    }
}
