//! Kube-OVN's sequences, step by step, with the time each step takes.

use std::time::Duration;

use super::{
    super::Address,
    node::{BRIDGE, KUBE_OVN, NIC, Node, Op},
};

/// A new `ovs-vsctl` process.
const EXEC: Duration = Duration::from_millis(40);
/// One rtnetlink request.
const REQUEST: Duration = Duration::from_micros(200);
/// Until systemd-networkd has settled.
const SETTLE: Duration = Duration::from_millis(50);

/// One step: after `takes`, `op` happens.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) takes: Duration,
    pub(super) op: Op,
}

/// What Kube-OVN does to a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sequence {
    Bind,
    Unbind,
    Exchange,
    Unexchange,
}

impl Sequence {
    pub(super) const ALL: [Self; 4] = [Self::Bind, Self::Unbind, Self::Exchange, Self::Unexchange];

    /// The sequence that has to be done before this one can be.
    pub(super) const fn before(self) -> Option<Self> {
        match self {
            Self::Bind | Self::Exchange => None,
            Self::Unbind => Some(Self::Bind),
            Self::Unexchange => Some(Self::Exchange),
        }
    }

    /// Whether the NIC is a port in the end.
    pub(super) const fn takes(self) -> bool {
        matches!(self, Self::Bind | Self::Exchange)
    }

    /// Its steps on `node` as it is now.
    pub(super) fn steps(self, node: &Node) -> Vec<Step> {
        self.steps_for(node, NIC, BRIDGE)
    }

    /// The same for a NIC and a bridge of these names.
    pub(super) fn steps_for(self, node: &Node, nic: &str, bridge: &str) -> Vec<Step> {
        let moved = |name| -> Vec<Address> {
            node.addresses_of(name).into_iter().filter(|a| !a.is_link_local()).collect()
        };
        match self {
            Self::Bind => bind(bridge, nic, &moved(nic)),
            Self::Unbind => unbind(bridge, nic, &moved(bridge)),
            Self::Exchange => {
                let addresses = moved(nic);
                let mut steps = rename(nic, bridge, &addresses);
                steps.extend(bind(nic, bridge, &addresses));
                steps
            }
            Self::Unexchange => {
                let addresses = moved(nic);
                let mut steps = unbind(nic, bridge, &addresses);
                steps.extend(rename(bridge, nic, &addresses));
                steps
            }
        }
    }
}

fn step(takes: Duration, op: Op) -> Step {
    Step { takes, op }
}

fn bind(bridge: &str, nic: &str, addresses: &[Address]) -> Vec<Step> {
    let (bridge, nic) = (bridge.to_owned(), nic.to_owned());
    let mut steps = vec![step(EXEC, Op::AddBridge(bridge.clone()))];
    steps.extend((0..3).map(|_| step(EXEC, Op::Nothing)));
    for address in addresses {
        steps.push(step(REQUEST, Op::RemoveAddress(nic.clone(), *address, KUBE_OVN)));
        steps.push(step(REQUEST, Op::AddAddress(bridge.clone(), *address)));
    }
    steps.push(step(EXEC, Op::CopyMac(bridge.clone(), nic.clone())));
    steps.push(step(REQUEST, Op::Up(bridge.clone())));
    steps.push(step(REQUEST, Op::Up(nic.clone())));
    steps.push(step(EXEC, Op::AddPort(bridge, nic)));
    steps
}

fn unbind(bridge: &str, nic: &str, addresses: &[Address]) -> Vec<Step> {
    let (bridge, nic) = (bridge.to_owned(), nic.to_owned());
    let mut steps = vec![step(EXEC, Op::RemovePort(nic.clone()))];
    for address in addresses {
        steps.push(step(REQUEST, Op::RemoveAddress(bridge.clone(), *address, KUBE_OVN)));
        steps.push(step(REQUEST, Op::AddAddress(nic.clone(), *address)));
    }
    steps.push(step(REQUEST, Op::Up(nic)));
    steps.push(step(REQUEST, Op::Down(bridge.clone())));
    steps.push(step(EXEC, Op::Remove(bridge)));
    steps
}

/// Down, renamed, up; the addresses are put back, for those of IPv6 were lost.
fn rename(from: &str, to: &str, addresses: &[Address]) -> Vec<Step> {
    let mut steps = vec![
        step(REQUEST, Op::Down(from.to_owned())),
        step(REQUEST, Op::Rename(from.to_owned(), to.to_owned())),
        step(REQUEST, Op::Up(to.to_owned())),
        step(SETTLE, Op::Nothing),
    ];
    for address in addresses {
        steps.push(step(REQUEST, Op::AddAddress(to.to_owned(), *address)));
    }
    steps
}
