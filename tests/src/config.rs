//! What a lab is made of: hosts, addresses, VRRP instances.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::case::{self, Raw};
use crate::release::Release;

/// The name of the script that keepalived runs, and of its file beside the notify FIFO.
pub const CHECK: &str = "check";

/// An address with its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// The prefix length in bits.
    pub length: u8,
}

impl Prefix {
    /// An IPv4 address and its prefix length.
    #[must_use]
    pub const fn v4(octets: [u8; 4], length: u8) -> Self {
        let [a, b, c, d] = octets;
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, length) = text.split_once('/').context("ADDRESS/LENGTH expected")?;
        let prefix = Self { address: address.parse()?, length: length.parse()? };
        let bits = if prefix.address.is_ipv4() { 32 } else { 128 };
        if prefix.length > bits {
            bail!("{text}: the prefix length is at most {bits}");
        }
        Ok(prefix)
    }
}

/// What takes the NIC as a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DatapathKind {
    /// A Linux bridge: on every kernel.
    Bridge,
    /// Open vSwitch with the kernel's datapath.
    Ovs,
}

impl fmt::Display for DatapathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::Ovs => "ovs",
        })
    }
}

/// A node: a host with the NIC that is taken, keepalived, and maybe vipshield.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name, part of its namespace's name.
    pub name: String,
    /// Its own addresses on the NIC.
    pub addresses: Vec<Prefix>,
    /// The NIC's hardware address.
    pub mac: [u8; 6],
    /// Its VRRP priority, of every instance.
    pub priority: u8,
}

impl NodeConfig {
    pub(crate) fn new(number: u8, priority: u8) -> Self {
        Self {
            name: format!("node{number}"),
            addresses: vec![Prefix::v4([192, 0, 2, 10 + number], 24)],
            mac: [0x52, 0x54, 0, 0, 0, number],
            priority,
        }
    }
}

/// Whose NIC is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Taken {
    /// The first node's.
    One,
    /// Every node's: one `ProviderNetwork` reaches all of Kube-OVN's daemons in the same moment.
    All,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::One => "one",
            Self::All => "all",
        })
    }
}

/// What a NIC is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicShape {
    /// An Ethernet interface.
    Plain,
    /// A bond with one port.
    Bond,
    /// A VLAN sub-interface; the whole segment speaks that VLAN.
    Vlan,
}

impl NicShape {
    /// The kind of link that the kernel has to know, as ip-link(8) calls it.
    #[must_use]
    pub fn kind(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Bond => Some("bond"),
            Self::Vlan => Some("vlan"),
        }
    }
}

/// A second NIC of every node and of the client, on a segment of its own.
#[derive(Clone, Debug)]
pub struct SecondNic {
    /// Its name on every node.
    pub nic: String,
    /// The name of the bridge that takes it.
    pub bridge: String,
    /// The first three octets of its network, a /24 in which hosts have the last octet they have
    /// in the first one.
    pub network: [u8; 3],
}

/// One VRRP instance, the same on all nodes but for the priority.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// keepalived's name for it.
    pub name: String,
    /// Virtual router id, 1 to 255.
    pub router_id: u8,
    /// The addresses it moves. All IPv4 or all IPv6.
    pub addresses: Vec<Prefix>,
    /// Adverts go to the peers' own addresses instead of the multicast group.
    pub unicast: bool,
    /// The interface it runs on; the lab's NIC unless it says otherwise.
    pub nic: Option<String>,
    /// The interface of its addresses; the one it runs on unless it says otherwise.
    pub addresses_on: Option<String>,
    /// Further lines of its configuration. `OWN` stands for the node's own address, `PEER` for another's.
    pub options: Vec<String>,
}

/// A whole lab.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// What the sequences put the NIC into.
    pub datapath: DatapathKind,
    /// The nodes; the first is one whose NIC is taken.
    pub nodes: Vec<NodeConfig>,
    /// Whether the others' can be too.
    pub taken: Taken,
    /// The program that is Kube-OVN's own daemon, if that takes the NIC; Open vSwitch only.
    pub kube_ovn: Option<PathBuf>,
    /// The NIC's name on every node.
    pub nic: String,
    /// The name of the bridge that takes it.
    pub bridge: String,
    /// The client's own addresses; its IPv4 address is the nodes' default gateway.
    pub client: Vec<Prefix>,
    /// VRRP instances. The first address of the first is the VIP that is watched.
    pub instances: Vec<InstanceConfig>,
    /// Further lines of keepalived's `global_defs`.
    pub globals: Vec<String>,
    /// Further blocks of it.
    pub blocks: Vec<String>,
    /// Seconds between adverts. Fractions make it VRRP version 3.
    pub advert_int: f64,
    /// keepalived's configuration as a case has it, in place of one that is made of the instances.
    pub raw: Option<Raw>,
    /// What the script says that keepalived runs every second, if it runs one.
    pub check: Option<String>,
    /// What the first NIC of every node is.
    pub shape: NicShape,
    /// A second NIC.
    pub second: Option<SecondNic>,
    /// Whether all instances are one sync group.
    pub sync_group: bool,
    /// The keepalived that all nodes run.
    pub keepalived: Release,
    /// Shell commands that make the first node's network what a scenario wants.
    pub commands: Vec<String>,
    /// How vipshield is run.
    pub shield: ShieldConfig,
}

/// How vipshield is run.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "options that do not depend on each other")]
pub struct ShieldConfig {
    /// What it does at its end is left to it; or else it is told to release everything.
    pub keeps: bool,
    /// It has the capabilities that its documents name, and no other.
    pub least_privilege: bool,
    /// Its control socket is at another path, as that of another pod.
    pub apart: bool,
    /// Which vipshield it is, of several that start again by themselves.
    pub instance: Option<&'static str>,
    /// It has this configuration file, and no interface is named beside that.
    pub file: Option<&'static str>,
    /// It only looks.
    pub observes: bool,
    /// Where it serves metrics, if it is told an interface to guard; nowhere else.
    pub metrics: Option<&'static str>,
}

impl LabConfig {
    /// The lab of the design: two nodes, one VIP of prefix length 32, a client.
    #[must_use]
    pub fn new(datapath: DatapathKind) -> Self {
        Self {
            datapath,
            nodes: vec![NodeConfig::new(1, 150), NodeConfig::new(2, 100)],
            taken: Taken::One,
            kube_ovn: None,
            nic: "ens192".to_owned(),
            bridge: "br-provider".to_owned(),
            client: vec![Prefix::v4([192, 0, 2, 100], 24)],
            instances: vec![InstanceConfig {
                name: "VI_1".to_owned(),
                router_id: 51,
                addresses: vec![Prefix::v4([192, 0, 2, 10], 32)],
                unicast: false,
                nic: None,
                addresses_on: None,
                options: Vec::new(),
            }],
            globals: Vec::new(),
            blocks: Vec::new(),
            advert_int: 1.0,
            shape: NicShape::Plain,
            second: None,
            sync_group: false,
            raw: None,
            check: None,
            keepalived: Release::usual(),
            commands: Vec::new(),
            shield: ShieldConfig::default(),
        }
    }

    /// Three masters, each of whose NICs can be taken: the first owns the VIP.
    #[must_use]
    pub fn cluster(datapath: DatapathKind) -> Self {
        let mut config = Self::new(datapath);
        config.nodes.push(NodeConfig::new(3, 90));
        config.taken = Taken::All;
        config
    }

    /// Swap the priorities of the first two nodes: the second becomes the owner.
    pub fn owner_is_second(&mut self) {
        if let [first, second, ..] = self.nodes.as_mut_slice() {
            std::mem::swap(&mut first.priority, &mut second.priority);
        }
    }

    /// The node with the highest priority: who owns the VIPs when all is well.
    #[must_use]
    pub fn owner(&self) -> usize {
        let nodes = self.nodes.iter().enumerate();
        nodes.max_by_key(|(_, node)| node.priority).map_or(0, |(number, _)| number)
    }

    /// All addresses that keepalived moves.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let all = self.instances.iter().flat_map(|instance| &instance.addresses);
        all.map(|prefix| prefix.address)
    }

    /// The VIP that the witnesses watch first of all: not a link-local one.
    ///
    /// # Errors
    /// When no instance has an address.
    pub fn vip(&self) -> Result<IpAddr> {
        self.watched().first().copied().context("the lab has no VIP")
    }

    /// keepalived's configuration of one node. `fifo` is where it tells its state changes.
    #[must_use]
    pub fn keepalived(&self, node: &NodeConfig, fifo: &str) -> String {
        use std::fmt::Write as _;
        let directory = Path::new(fifo).parent().unwrap_or(Path::new("/"));
        if let Some(raw) = &self.raw {
            // keepalived takes several blocks of these.
            let fifo = format!("global_defs {{\n  vrrp_notify_fifo {fifo}\n}}\n");
            return fifo + &case::fill(&raw.configuration, self, node, directory);
        }
        let version = if self.advert_int.fract() == 0.0 { 2 } else { 3 };
        let check = directory.join(CHECK);
        let globals =
            self.globals.iter().fold(String::new(), |before, line| format!("{before}  {line}\n"));
        let mut text = format!(
            "global_defs {{\n  router_id {}\n  vrrp_version {version}\n  script_user root\n  \
             vrrp_notify_fifo {fifo}\n{globals}}}\n",
            node.name
        );
        if self.check.is_some() {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "vrrp_script {CHECK} {{\n  script {}\n  interval 1\n}}",
                check.display()
            );
        }
        for block in &self.blocks {
            text.push_str(block);
            text.push('\n');
        }
        for instance in &self.instances {
            text.push_str(&self.instance(node, instance));
        }
        if self.sync_group {
            text.push_str("vrrp_sync_group VG_1 {\n  group {\n");
            for instance in &self.instances {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "    {}", instance.name);
            }
            text.push_str("  }\n}\n");
        }
        text
    }

    fn instance(&self, node: &NodeConfig, instance: &InstanceConfig) -> String {
        use std::fmt::Write as _;
        let is_v4 = instance.addresses.first().is_none_or(|prefix| prefix.address.is_ipv4());
        let own = |node: &NodeConfig| {
            node.addresses.iter().find(|own| own.address.is_ipv4() == is_v4).map(|own| own.address)
        };
        let mut text = format!("vrrp_instance {} {{\n  state BACKUP\n", instance.name);
        // Writing to a String cannot fail.
        let nic = instance.nic.as_ref().unwrap_or(&self.nic);
        let _ = writeln!(text, "  interface {nic}");
        let _ = writeln!(text, "  virtual_router_id {}", instance.router_id);
        let _ = writeln!(text, "  priority {}", node.priority);
        let _ = writeln!(text, "  advert_int {}", self.advert_int);
        if instance.unicast
            && let Some(source) = own(node)
        {
            let _ = writeln!(text, "  unicast_src_ip {source}\n  unicast_peer {{");
            let peers = self.nodes.iter().filter(|peer| peer.name != node.name);
            for peer in peers.filter_map(own) {
                let _ = writeln!(text, "    {peer}");
            }
            text.push_str("  }\n");
        }
        for option in &instance.options {
            let peer = self.nodes.iter().find(|peer| peer.name != node.name);
            let [own, peer] = [Some(node), peer].map(|node| {
                node.and_then(own).map(|address| address.to_string()).unwrap_or_default()
            });
            let _ = writeln!(text, "  {}", option.replace("OWN", &own).replace("PEER", &peer));
        }
        if self.check.is_some() {
            let _ = writeln!(text, "  track_script {{\n    {CHECK}\n  }}");
        }
        text.push_str("  virtual_ipaddress {\n");
        // A virtual MAC has an interface of its own for its addresses.
        let virtual_mac = instance.options.iter().any(|option| option == "use_vmac");
        let device = instance.addresses_on.as_ref().unwrap_or(nic);
        let device = if virtual_mac { String::new() } else { format!(" dev {device}") };
        for address in &instance.addresses {
            let _ = writeln!(text, "    {address}{device}");
        }
        text.push_str("  }\n}\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalived_plain() {
        let config = LabConfig::new(DatapathKind::Bridge);
        let text = config.keepalived(&config.nodes[0], "/run/x/notify");
        assert_eq!(
            text,
            "global_defs {\n  router_id node1\n  vrrp_version 2\n  script_user root\n  \
             vrrp_notify_fifo /run/x/notify\n}\nvrrp_instance VI_1 {\n  state BACKUP\n  \
             interface ens192\n  virtual_router_id 51\n  priority 150\n  advert_int 1\n  \
             virtual_ipaddress {\n    192.0.2.10/32 dev ens192\n  }\n}\n"
        );
    }

    #[test]
    fn keepalived_unicast_names_the_other_node() {
        let mut config = LabConfig::new(DatapathKind::Bridge);
        config.instances[0].unicast = true;
        config.advert_int = 0.5;
        let text = config.keepalived(&config.nodes[1], "/run/x/notify");
        assert!(text.contains("  unicast_src_ip 192.0.2.12\n  unicast_peer {\n    192.0.2.11\n"));
        assert!(text.contains("  advert_int 0.5\n"));
        assert!(text.contains("  vrrp_version 3\n"));
    }

    #[test]
    fn keepalived_with_options_and_a_sync_group() {
        let mut config = LabConfig::new(DatapathKind::Bridge);
        config.instances[0].options = vec!["mcast_src_ip OWN".to_owned(), "nopreempt".to_owned()];
        config.sync_group = true;
        let text = config.keepalived(&config.nodes[0], "/run/x/notify");
        assert!(text.contains("  mcast_src_ip 192.0.2.11\n  nopreempt\n  virtual_ipaddress {\n"));
        assert!(text.ends_with("vrrp_sync_group VG_1 {\n  group {\n    VI_1\n  }\n}\n"));
    }

    #[test]
    fn keepalived_runs_its_check() {
        let mut config = LabConfig::new(DatapathKind::Bridge);
        config.check = Some("true".to_owned());
        let text = config.keepalived(&config.nodes[0], "/run/x/notify");
        assert!(text.contains("vrrp_script check {\n  script /run/x/check\n  interval 1\n}\n"));
        assert!(text.contains("  track_script {\n    check\n  }\n  virtual_ipaddress {\n"));
    }

    #[test]
    fn owner_is_second_swaps_priorities() {
        let mut config = LabConfig::new(DatapathKind::Bridge);
        assert_eq!(config.owner(), 0);
        config.owner_is_second();
        assert_eq!(config.owner(), 1);
        assert_eq!(config.nodes.iter().map(|n| n.priority).collect::<Vec<_>>(), [100, 150]);
    }

    #[test]
    fn prefixes_are_checked() {
        assert_eq!("192.0.2.1/24".parse::<Prefix>().unwrap(), Prefix::v4([192, 0, 2, 1], 24));
        assert!("192.0.2.1/33".parse::<Prefix>().is_err());
        assert!("192.0.2.1".parse::<Prefix>().is_err());
    }
}
