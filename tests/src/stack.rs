//! Which of the two families of addresses a lab speaks.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::config::{DatapathKind, InstanceConfig, LabConfig, NodeConfig, Prefix};

/// The families of a lab's addresses and virtual routers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Stack {
    /// IPv4 alone. Link-local IPv6 addresses there are, as on any host.
    #[default]
    Ipv4,
    /// IPv6 alone: no interface has an IPv4 address.
    Ipv6,
    /// Both on one NIC, each with a virtual router of its own.
    Dual,
}

impl Stack {
    /// What the names of scenarios have of it.
    #[must_use]
    pub fn infix(self) -> &'static str {
        match self {
            Self::Ipv4 => "",
            Self::Ipv6 => "-ipv6",
            Self::Dual => "-dual",
        }
    }
}

/// An address of the lab's IPv6 network.
#[must_use]
pub const fn six(last: u16) -> Prefix {
    Prefix { address: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)), length: 64 }
}

/// The IPv6 virtual router of a lab: its first address is link-local, as RFC 9568, section 5.2.9
/// asks for, the second is the one that clients use.
#[must_use]
pub fn ipv6_router() -> InstanceConfig {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10);
    InstanceConfig {
        name: "VI_6".to_owned(),
        router_id: 61,
        addresses: vec![
            Prefix { address: link_local.into(), length: 128 },
            Prefix { length: 128, ..six(0x10) },
        ],
        unicast: false,
        nic: None,
        addresses_on: None,
        options: vec!["version 3".to_owned()],
    }
}

impl LabConfig {
    /// The lab of the design with these families.
    #[must_use]
    pub fn stacked(datapath: DatapathKind, stack: Stack) -> Self {
        let mut lab = Self::new(datapath);
        if stack == Stack::Ipv4 {
            return lab;
        }
        for (node, last) in lab.nodes.iter_mut().zip(0x11..) {
            node.addresses.push(six(last));
        }
        lab.client.push(six(0x100));
        lab.instances.push(ipv6_router());
        if stack == Stack::Ipv6 {
            let is_v6 = |prefix: &Prefix| prefix.address.is_ipv6();
            lab.client.retain(is_v6);
            lab.nodes.iter_mut().for_each(|node| node.addresses.retain(is_v6));
            lab.instances.retain(|router| router.addresses.iter().all(is_v6));
        }
        lab
    }

    /// A third node with these families, whose priority is the lowest.
    pub fn add_node(&mut self, stack: Stack) {
        let mut node = NodeConfig::new(3, 90);
        if stack == Stack::Ipv6 {
            node.addresses.clear();
        }
        if stack != Stack::Ipv4 {
            node.addresses.push(six(0x13));
        }
        self.nodes.push(node);
    }

    /// The VIPs that witnesses watch: of each family the first that clients can use from anywhere.
    #[must_use]
    pub fn watched(&self) -> Vec<IpAddr> {
        let usable = |vip: &IpAddr| match vip {
            IpAddr::V4(_) => true,
            IpAddr::V6(vip) => !vip.is_unicast_link_local(),
        };
        let all: Vec<IpAddr> = self.vips().filter(usable).collect();
        let first = |v4: bool| all.iter().copied().find(|vip| vip.is_ipv4() == v4);
        [first(true), first(false)].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stack_has_its_routers() {
        let of = |stack| LabConfig::stacked(DatapathKind::Bridge, stack);
        let vips = |stack| of(stack).watched().iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(vips(Stack::Ipv4), ["192.0.2.10"]);
        assert_eq!(vips(Stack::Ipv6), ["2001:db8::10"]);
        assert_eq!(vips(Stack::Dual), ["192.0.2.10", "2001:db8::10"]);
        assert_eq!(of(Stack::Ipv6).nodes[0].addresses, [six(0x11)]);
    }

    #[test]
    fn keepalived_for_ipv6() {
        let config = LabConfig::stacked(DatapathKind::Bridge, Stack::Ipv6);
        let text = config.keepalived(&config.nodes[0], "/run/x/notify");
        assert!(text.ends_with(
            "  version 3\n  virtual_ipaddress {\n    fe80::10/128 dev ens192\n    \
             2001:db8::10/128 dev ens192\n  }\n}\n"
        ));
    }
}
