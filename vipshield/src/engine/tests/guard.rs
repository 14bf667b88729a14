//! The guard, as the eBPF program is, and what a daemon knows that sees the world through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vipshield_common::guard::withhold;

use super::{
    super::{About, Link, Withheld},
    bench::REPLAY_PORT,
    node::{Message, Node},
};

/// The guard's maps.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// Name and bits, by interface index.
    pub(super) policies: BTreeMap<u32, (String, u32)>,
    /// Netlink ports whose requests pass.
    pub(super) ports: BTreeSet<u32>,
    names: BTreeMap<String, u32>,
    held: BTreeSet<u32>,
}

impl Guard {
    pub(super) fn set(&mut self, ifindex: u32, name: &str, bits: u32) {
        self.policies.insert(ifindex, (name.to_owned(), bits));
        self.names.insert(name.to_owned(), ifindex);
        self.held.remove(&ifindex);
    }

    pub(super) fn clear(&mut self, ifindex: u32, name: &str) {
        self.policies.remove(&ifindex);
        self.names.remove(name);
        self.held.remove(&ifindex);
    }

    /// What a message is withheld for; none if it passes.
    pub(super) fn judge(&mut self, message: &Message) -> Option<Withheld> {
        match message {
            Message::Link(link) => self.judge_link(link),
            Message::LinkRemoved(link) => {
                if self.policies.contains_key(&link.ifindex) {
                    None
                } else {
                    self.impostor(link)
                }
            }
            Message::BridgePort(ifindex) => self
                .policies
                .contains_key(ifindex)
                .then_some(Withheld { ifindex: *ifindex, requester: 0, about: About::BridgePort }),
            Message::Address(..) => None,
            Message::AddressRemoved(ifindex, address, requester) => {
                let (_, bits) = self.policies.get(ifindex)?;
                let passes = *requester == REPLAY_PORT || self.ports.contains(requester);
                let hidden = bits & withhold::ADDRESS_REMOVAL != 0 && !passes;
                hidden.then_some(Withheld {
                    ifindex: *ifindex,
                    requester: *requester,
                    about: About::AddressRemoval { address: *address },
                })
            }
        }
    }

    fn judge_link(&mut self, link: &Link) -> Option<Withheld> {
        let Some((name, bits)) = self.policies.get(&link.ifindex) else {
            return self.impostor(link);
        };
        let (fault, about) = if link.name != *name {
            (withhold::RENAME, About::Rename { name: link.name.clone() })
        } else if !link.up {
            (withhold::ADMIN_DOWN, About::AdminDown)
        } else if !link.running {
            (withhold::CARRIER_LOSS, About::CarrierLoss)
        } else {
            self.held.remove(&link.ifindex);
            return None;
        };
        if bits & fault == 0 && (*bits == 0 || !self.held.contains(&link.ifindex)) {
            return None;
        }
        self.held.insert(link.ifindex);
        Some(Withheld { ifindex: link.ifindex, requester: 0, about })
    }

    fn impostor(&self, link: &Link) -> Option<Withheld> {
        let (_, bits) = self.policies.get(self.names.get(&link.name)?)?;
        (bits & withhold::RENAME != 0).then_some(Withheld {
            ifindex: link.ifindex,
            requester: 0,
            about: About::Impostor { name: link.name.clone() },
        })
    }
}

/// What a daemon knows of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl View {
    /// What a daemon reads when it starts.
    pub(super) fn of(node: &Node) -> Self {
        Self {
            links: node.links.clone(),
            addresses: node
                .addresses
                .iter()
                .map(|(index, addresses)| (*index, addresses.iter().map(|a| a.ip).collect()))
                .collect(),
        }
    }

    pub(super) fn learn(&mut self, message: &Message) {
        match message {
            Message::Link(link) => {
                self.links.insert(link.ifindex, link.clone());
            }
            Message::LinkRemoved(link) => {
                self.links.remove(&link.ifindex);
                self.addresses.remove(&link.ifindex);
            }
            // keepalived 2.2.7 takes a port that leaves its bridge for an interface that is gone;
            // nothing of it must get through.
            Message::BridgePort(ifindex) => {
                self.links.remove(ifindex);
            }
            Message::Address(ifindex, address, _) => {
                self.addresses.entry(*ifindex).or_default().insert(address.ip);
            }
            Message::AddressRemoved(ifindex, address, _) => {
                if let Some(known) = self.addresses.get_mut(ifindex) {
                    known.remove(&address.ip);
                }
            }
        }
    }

    /// Whether it takes the interface to work under this name.
    pub(super) fn trusts(&self, ifindex: u32, name: &str) -> bool {
        self.links.get(&ifindex).is_some_and(|link| link.name == name && link.up && link.running)
    }

    pub(super) fn has(&self, ifindex: u32, ip: IpAddr) -> bool {
        self.addresses.get(&ifindex).is_some_and(|known| known.contains(&ip))
    }
}
