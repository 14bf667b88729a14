//! The guard, by the same table as the eBPF program, and what a daemon knows that sees the world through it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vipshield_common::guard::{
    Held, IfName, NicPolicy, REASONS, Reason,
    rules::{
        ADDRESS, KNOWN, LinkSaid, OF_DAEMON, REMOVAL, REPLAYED, RULES, TABLE, facts_of_address,
        facts_of_link, facts_of_policy, judge,
    },
    withhold,
};
use vipshield_common::rule::When;

use super::{
    super::{About, Address, LetPass, Link, Withheld, rules::GuardRule},
    bench::REPLAY_PORT,
    node::{Message, Node},
    seeded::is_without,
};

/// The guard's maps.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// Name, what is withheld and what passes of it, by interface index.
    pub(super) policies: BTreeMap<u32, (String, u32, LetPass)>,
    /// Netlink ports whose requests pass.
    pub(super) ports: BTreeSet<u32>,
    names: BTreeMap<String, u32>,
    epochs: BTreeMap<u32, u32>,
    held: BTreeSet<u32>,
    /// Addresses of which a process was not told that they left a NIC.
    addresses: BTreeMap<(u32, u32, IpAddr), Held>,
}

impl Guard {
    pub(super) fn set(&mut self, ifindex: u32, name: &str, bits: u32, passes: &LetPass) {
        let before = self.policies.insert(ifindex, (name.to_owned(), bits, passes.clone()));
        let before = before.map_or(0, |(_, bits, _)| bits);
        if (before ^ bits) & withhold::RENAME != 0 {
            self.begin_epoch(ifindex);
        }
        self.names.insert(name.to_owned(), ifindex);
        self.held.remove(&ifindex);
    }

    /// The daemons may have forgotten the NIC's addresses.
    pub(super) fn begin_epoch(&mut self, ifindex: u32) {
        *self.epochs.entry(ifindex).or_default() += 1;
    }

    pub(super) fn clear(&mut self, ifindex: u32, name: &str) {
        self.policies.remove(&ifindex);
        if self.names.get(name) == Some(&ifindex) {
            self.names.remove(name);
        }
        self.held.remove(&ifindex);
    }

    /// The addresses of which daemons were not told that they left, by NIC.
    pub(super) fn held(&self) -> BTreeMap<u32, BTreeSet<Address>> {
        let mut held = BTreeMap::<u32, BTreeSet<Address>>::new();
        for ((_, ifindex, ip), known) in &self.addresses {
            let address = Address { ip: *ip, prefix_len: known.prefix_len as u8 };
            held.entry(*ifindex).or_default().insert(address);
        }
        held
    }

    fn epoch(&self, ifindex: u32) -> u32 {
        self.epochs.get(&ifindex).copied().unwrap_or_default()
    }

    /// The guard's report of a message that it withholds from a process; none if it passes.
    pub(super) fn judge(&mut self, message: &Message, pid: u32) -> Option<Withheld> {
        let (ifindex, requester, facts) = match message {
            Message::Link(link) => (link.ifindex, 0, self.facts(link, false)),
            Message::LinkRemoved(link) => (link.ifindex, 0, REMOVAL | self.facts(link, false)),
            Message::BridgePort(ifindex) => {
                let port = Link { ifindex: *ifindex, ..Link::default() };
                (*ifindex, 0, self.facts(&port, true))
            }
            Message::Address(ifindex, address, requester) => {
                let held = self.addresses.get(&(pid, *ifindex, address.ip));
                let known = held.is_some_and(|held| held.epoch == self.epoch(*ifindex));
                let facts = self.facts_of_address(*ifindex, *requester, false);
                (*ifindex, *requester, facts | if known { KNOWN } else { 0 })
            }
            Message::AddressRemoved(ifindex, _, requester) => {
                let facts = self.facts_of_address(*ifindex, *requester, true);
                (*ifindex, *requester, REMOVAL | facts)
            }
        };
        let verdict = judge(when, |number| TABLE[number].then, facts);
        if let Message::Address(_, address, _) | Message::AddressRemoved(_, address, _) = message {
            let key = (pid, ifindex, address.ip);
            self.addresses.remove(&key);
            let (epoch, prefix_len) = (self.epoch(ifindex), address.prefix_len.into());
            self.addresses
                .extend(verdict.then.holds().then_some((key, Held { epoch, prefix_len })));
        } else if verdict.then.settles() {
            self.held.remove(&ifindex);
        } else if verdict.then.holds() {
            self.held.insert(ifindex);
        }
        let about = about(message, Reason::from_u8(verdict.then.reason())?);
        let rule = GuardRule::numbered(verdict.rule).unwrap();
        Some(Withheld { ifindex, requester, rule, about })
    }

    fn policy(&self, ifindex: u32) -> Option<NicPolicy> {
        let (name, withhold, passes) = self.policies.get(&ifindex)?;
        let mut places = [0; REASONS];
        for message in passes.keys() {
            places[message.reason() as usize] = 1;
        }
        Some(NicPolicy { name: padded(name), withhold: *withhold, passes: places })
    }

    fn facts(&self, link: &Link, of_bridge: bool) -> u32 {
        let said = LinkSaid {
            name: padded(&link.name),
            is_down: !link.up,
            lacks_carrier: !link.running,
            of_bridge,
        };
        let namesake = self.names.get(&link.name).and_then(|nic| self.policy(*nic));
        let is_held = || self.held.contains(&link.ifindex);
        facts_of_link(&said, self.policy(link.ifindex).as_ref(), is_held, || namesake.as_ref())
    }

    fn facts_of_address(&self, ifindex: u32, requester: u32, is_removal: bool) -> u32 {
        let Some(policy) = self.policy(ifindex) else { return ADDRESS };
        if self.ports.contains(&requester) {
            ADDRESS | OF_DAEMON | facts_of_policy(&policy)
        } else if requester == REPLAY_PORT {
            ADDRESS | REPLAYED | facts_of_policy(&policy)
        } else {
            facts_of_address(&policy, false, is_removal)
        }
    }
}

/// An entry of the table; one that is left out never fits.
fn when(number: usize) -> When {
    let never = When { mask: 0, value: 1 };
    if is_without("guard", RULES[number].name) { never } else { TABLE[number].when }
}

fn padded(name: &str) -> IfName {
    let mut padded = IfName::default();
    padded[..name.len()].copy_from_slice(name.as_bytes());
    padded
}

/// What would have been said.
fn about(message: &Message, reason: Reason) -> About {
    match (reason, message) {
        (Reason::AdminDown, _) => About::AdminDown,
        (Reason::CarrierLoss, _) => About::CarrierLoss,
        (Reason::BridgePort, _) => About::BridgePort,
        (Reason::Rename, Message::Link(link)) => About::Rename { name: link.name.clone() },
        (Reason::NameConflict, Message::Link(link) | Message::LinkRemoved(link)) => {
            About::NameConflict { name: link.name.clone() }
        }
        (Reason::AddressRemoval, Message::AddressRemoved(_, address, _)) => {
            About::AddressRemoval { address: *address }
        }
        (Reason::KnownAddress, Message::Address(_, address, _)) => {
            About::KnownAddress { ip: address.ip }
        }
        (reason, message) => panic!("{reason:?} of {message:?}"),
    }
}

/// What a daemon knows of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) addresses: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// How often an address is noted down where each word of one is (keepalived up to 2.0.20).
    noted: BTreeMap<(u32, IpAddr), usize>,
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
            noted: node
                .addresses
                .iter()
                .flat_map(|(index, addresses)| addresses.iter().map(|a| ((*index, a.ip), 1)))
                .collect(),
        }
    }

    /// An interface is another one from now on.
    pub(super) fn forget_addresses(&mut self, ifindex: u32) {
        self.addresses.remove(&ifindex);
        self.noted.retain(|(on, _), _| *on != ifindex);
    }

    /// How often an address is noted down.
    pub(super) fn noted(&self, ifindex: u32, ip: IpAddr) -> usize {
        self.noted.get(&(ifindex, ip)).copied().unwrap_or(0)
    }

    pub(super) fn learn(&mut self, message: &Message) {
        match message {
            Message::Link(link) => {
                self.links.insert(link.ifindex, link.clone());
            }
            Message::LinkRemoved(link) => {
                self.links.remove(&link.ifindex);
                self.forget_addresses(link.ifindex);
            }
            // keepalived 2.2.7 takes a port that leaves its bridge for an interface that is gone;
            // nothing of it must get through.
            Message::BridgePort(ifindex) => {
                self.links.remove(ifindex);
            }
            Message::Address(ifindex, address, _) => {
                self.addresses.entry(*ifindex).or_default().insert(address.ip);
                *self.noted.entry((*ifindex, address.ip)).or_default() += 1;
            }
            Message::AddressRemoved(ifindex, address, _) => {
                if let Some(known) = self.addresses.get_mut(ifindex) {
                    known.remove(&address.ip);
                }
                if let Some(times) = self.noted.get_mut(&(*ifindex, address.ip)) {
                    *times = times.saturating_sub(1);
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
