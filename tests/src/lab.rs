//! The hosts of a lab on their Ethernet segment.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::clock;
use crate::config::{DatapathKind, LabConfig, NicShape, NodeConfig, Prefix, Taken};
use crate::datapath::{Datapath, mac_text};
use crate::enslaver::KubeOvn;
use crate::keepalived::Keepalived;
use crate::netns::Netns;
use crate::process::{Program, adopt_orphans};
use crate::rtnl::Rtnl;
use crate::rundir::{self, RunDir};
use crate::sockets::Sockets;
use crate::vipshield::{Place, Vipshield};

/// A host: a namespace and the way to configure it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name within the lab.
    pub name: String,
    /// Its rtnetlink.
    pub rtnl: Rtnl,
    /// Its namespace.
    pub namespace: Arc<Netns>,
}

impl Host {
    pub(crate) fn create(run: &RunDir, name: &str) -> Result<Self> {
        let namespace = run.namespace(name)?;
        let rtnl = Rtnl::open(&namespace)?;
        Ok(Self { name: name.to_owned(), rtnl, namespace })
    }

    fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.namespace.run(|| {
            std::fs::write(&path, value).with_context(|| format!("cannot write {value} to {path}"))
        })
    }

    /// Have few packets wait on an interface for a neighbour that is not found.
    ///
    /// They count as sent by whoever made them, and an answer to a ping is made by a socket that all network
    /// namespaces have in common (`icmpv6_xmit_lock` in `net/ipv6/icmp.c`): by default one such neighbour is enough
    /// to have it answer nobody on that processor, in all labs that run.
    ///
    /// # Errors
    /// When the interface is not there.
    pub(crate) fn limit_waiting(&self, interface: &str) -> Result<()> {
        for family in ["ipv4", "ipv6"] {
            let key = format!("net.{family}.neigh.{interface}.unres_qlen_bytes");
            self.sysctl(&key, WAITING_BYTES)?;
        }
        Ok(())
    }

    /// Run a shell command in its network namespace.
    pub(crate) fn shell(&self, command: &str) -> Result<()> {
        self.namespace.run(|| {
            let run = std::process::Command::new("sh").args(["-euc", command]).output();
            let output = run.with_context(|| format!("cannot run {command}"))?;
            if !output.status.success() {
                bail!("{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(())
        })
    }
}

/// A node: a host whose NIC can be taken. What runs on it ends before its namespace does.
#[derive(Debug)]
pub struct Node {
    /// vipshield, where it runs.
    pub vipshield: Option<Vipshield>,
    /// keepalived, where it runs.
    pub keepalived: Option<Keepalived>,
    /// Kube-OVN's own daemon, where sequences are not replayed.
    pub kube_ovn: Option<KubeOvn>,
    /// What takes the NIC.
    pub datapath: Arc<Datapath>,
    /// The host below it.
    pub host: Host,
    /// The interface index of its NIC, whatever the NIC is called by now.
    pub nic: u32,
    /// What it was made from.
    pub config: NodeConfig,
    /// Where its files are.
    pub dir: PathBuf,
    /// keepalived's sockets as they were before vipshield was started.
    pub sockets_before: Sockets,
}

/// A lab: nodes and a client on one Ethernet segment.
#[derive(Debug)]
pub struct Lab {
    /// The nodes; the first is one whose NIC is taken.
    pub nodes: Vec<Node>,
    /// The host that looks at the VIP from outside.
    pub client: Host,
    /// What it was made from.
    pub config: LabConfig,
    /// When it was made: logs count from here.
    pub epoch: Instant,
    lan: Host,
    run: RunDir,
}

impl Lab {
    /// Make the hosts, wire them, and start the datapath on the first node. No
    /// keepalived yet.
    ///
    /// # Errors
    /// Without root, or when the kernel or a program lacks what is needed.
    pub async fn build(config: LabConfig) -> Result<Self> {
        static FIRST: Once = Once::new();
        FIRST.call_once(|| {
            adopt_orphans();
            rundir::sweep();
        });
        let epoch = clock::now();
        let run = RunDir::create()?;
        let lan = Host::create(&run, "lan")?;
        let segments = ["lan", "lan2"];
        for segment in segments.iter().take(1 + usize::from(config.second.is_some())) {
            lan.rtnl.add_bridge(segment, &[0x52, 0x54, 0, 0, 0xff, 0])?;
            let segment = lan.rtnl.link(segment)?.index;
            lan.rtnl.up(segment)?;
        }

        let client = Host::create(&run, "client")?;
        let mac = [0x52, 0x54, 0, 0, 0, 0x64];
        // A bond is the node's own affair, a VLAN is the segment's.
        let shape = config.shape;
        let far = if shape == NicShape::Bond { NicShape::Plain } else { shape };
        Plug { lan: &lan, segment: "lan", shape: far }.insert(
            &client,
            "eth0",
            mac,
            &config.client,
        )?;
        second_plug(&lan, &client, "eth1", mac, &config, &config.client)?;

        let mut nodes = Vec::new();
        for (number, node) in config.nodes.iter().enumerate() {
            let host = Host::create(&run, &node.name)?;
            let cable = Plug { lan: &lan, segment: "lan", shape };
            cable.insert(&host, &config.nic, node.mac, &node.addresses)?;
            if let Some(second) = &config.second {
                second_plug(&lan, &host, &second.nic, node.mac, &config, &node.addresses)?;
            }
            let nic = host.rtnl.link(&config.nic)?.index;
            for gateway in &config.client {
                let same_family = |own: &Prefix| own.address.is_ipv4() == gateway.address.is_ipv4();
                if node.addresses.iter().any(same_family) {
                    host.rtnl.default_route(nic, gateway.address)?;
                }
            }
            for command in config.commands.iter().filter(|_| number == 0) {
                host.shell(command)?;
            }
            let dir = run.subdir(&node.name)?;
            let is_taken = number == 0 || config.taken == Taken::All;
            let kind = if is_taken { config.datapath } else { DatapathKind::Bridge };
            let datapath = Datapath::start(kind, &host, &dir, run.token(), epoch).await?;
            let datapath = Arc::new(datapath);
            let kube_ovn = match (&config.kube_ovn, &*datapath) {
                (Some(program), Datapath::Ovs(ovs)) => {
                    let own = node.addresses.first().map(|own| own.address);
                    Some(KubeOvn::start(program, &host, own, ovs, &dir, run.token(), epoch).await?)
                }
                _ => None,
            };
            nodes.push(Node {
                vipshield: None,
                keepalived: None,
                kube_ovn,
                datapath,
                host,
                nic,
                config: node.clone(),
                dir,
                sockets_before: Sockets::default(),
            });
        }
        Ok(Self { nodes, client, config, epoch, lan, run })
    }

    /// The node with this position: 0 is one whose NIC is taken.
    ///
    /// # Errors
    /// When the lab has fewer nodes.
    pub fn node(&self, number: usize) -> Result<&Node> {
        self.nodes.get(number).with_context(|| format!("the lab has no node {number}"))
    }

    /// The same, to be changed.
    ///
    /// # Errors
    /// When the lab has fewer nodes.
    pub fn node_mut(&mut self, number: usize) -> Result<&mut Node> {
        self.nodes.get_mut(number).with_context(|| format!("the lab has no node {number}"))
    }

    /// Start keepalived on a node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_keepalived(&mut self, number: usize) -> Result<()> {
        // One at a time: they would take each other's notices.
        drop(self.node_mut(number)?.keepalived.take());
        let started = self.spawn_keepalived(number)?;
        self.node_mut(number)?.keepalived = Some(started);
        Ok(())
    }

    /// The same, but leave it to the caller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_keepalived(&self, number: usize) -> Result<Keepalived> {
        Keepalived::start(&self.config, self.node(number)?, self.run.token(), self.epoch)
    }

    /// Start vipshield on a node, guarding its NIC, and wait until it says it is ready.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub async fn start_vipshield(&mut self, number: usize, program: &Path) -> Result<()> {
        let nic = self.config.nic.clone();
        self.start_vipshield_for(number, program, Some(&nic)).await
    }

    /// The same with this interface, or with none given.
    ///
    /// # Errors
    /// When it cannot be started or does not become ready.
    pub async fn start_vipshield_for(
        &mut self,
        number: usize,
        program: &Path,
        nic: Option<&str>,
    ) -> Result<()> {
        let (token, epoch) = (self.run.token().to_owned(), self.epoch);
        let how = self.config.shield;
        let node = self.node_mut(number)?;
        if let Some(keepalived) = &node.keepalived {
            node.sockets_before = Sockets::of(&keepalived.processes()?, &node.host)?;
        }
        let started = Vipshield::start(program, node, nic, how, &token, epoch)?;
        node.vipshield.insert(started).ready().await
    }

    /// What marks the processes of this lab.
    #[must_use]
    pub fn token(&self) -> &str {
        self.run.token()
    }

    /// Start vipshield on a node as in [`Lab::start_vipshield`], but wait for nothing, and leave it
    /// to the caller.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_vipshield(&self, number: usize, program: &Path) -> Result<Vipshield> {
        let nic = self.config.nic.as_str();
        let (node, how) = (self.node(number)?, self.config.shield);
        Vipshield::start(program, node, Some(nic), how, self.run.token(), self.epoch)
    }

    /// Start the first node's vipshield where it does not belong, and wait for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn misplace_vipshield(
        &mut self,
        program: &Path,
        place: Place<'_>,
        nic: Option<&str>,
    ) -> Result<()> {
        let (token, epoch, how) = (self.run.token().to_owned(), self.epoch, self.config.shield);
        let node = self.node_mut(0)?;
        let started = Vipshield::start_in(place, program, node, nic, how, &token, epoch)?;
        node.vipshield = Some(started);
        Ok(())
    }

    /// Run `vipshield cleanup` on a node.
    ///
    /// # Errors
    /// When it fails.
    pub async fn clean_up(&self, number: usize, program: &Path) -> Result<String> {
        Program::new("vipshield cleanup", program, self.run.token())
            .arg("cleanup")
            .inside(&self.node(number)?.host.namespace)
            .succeed(Duration::from_secs(10))
            .await
    }

    /// Pull or plug the cable of a node: its NIC loses or regains the carrier.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn cable(&self, number: usize, plugged: bool) -> Result<()> {
        let port = port_name(&self.node(number)?.host.name);
        let index = self.lan.rtnl.link(&port)?.index;
        if plugged { self.lan.rtnl.up(index) } else { self.lan.rtnl.down(index) }
    }

    /// Let a node reach no other host that is isolated too (bridge(8), `isolated`), or every host again.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn isolate(&self, number: usize, so: bool) -> Result<()> {
        let port = port_name(&self.node(number)?.host.name);
        let state = if so { "on" } else { "off" };
        self.lan.shell(&format!("bridge link set dev {port} isolated {state}"))
    }

    /// The switch, and the index of the port that a node's NIC is plugged into.
    ///
    /// # Errors
    /// When it is not plugged in.
    pub fn socket_of(&self, number: usize) -> Result<(&Host, u32)> {
        let port = self.lan.rtnl.link(&port_name(&self.node(number)?.host.name))?;
        Ok((&self.lan, port.index))
    }

    /// Take the first node's bridge away, whatever is in it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn delete_bridge(&self) -> Result<()> {
        let node = self.node(0)?;
        match &*node.datapath {
            Datapath::Bridge(_) => {
                let bridge = node.host.rtnl.link(&self.config.bridge)?.index;
                node.host.rtnl.delete_link(bridge)
            }
            Datapath::Ovs(ovs) => ovs.vsctl(&["del-br", &self.config.bridge]).await.map(drop),
        }
    }

    /// Remove a node's NIC from the machine.
    ///
    /// # Errors
    /// When it has none.
    pub fn unplug(&self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        node.host.rtnl.delete_link(node.nic)
    }

    /// Put a new NIC in the place of the one that was removed, with the node's addresses on it.
    ///
    /// # Errors
    /// When the old one is still there.
    pub fn replug(&mut self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        let (nic, mac) = (self.config.nic.clone(), node.config.mac);
        let port = Plug { lan: &self.lan, segment: "lan", shape: self.config.shape };
        port.insert(&node.host, &nic, mac, &node.config.addresses)?;
        let nic = node.host.rtnl.link(&nic)?.index;
        self.node_mut(number)?.nic = nic;
        self.route(number)
    }

    /// Put a node's addresses and routes on its NIC, as the host's network service does.
    ///
    /// # Errors
    /// When they are there already.
    pub fn furnish(&self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        for address in &node.config.addresses {
            node.host.rtnl.add_address(node.nic, *address)?;
        }
        self.route(number)
    }

    fn route(&self, number: usize) -> Result<()> {
        let node = self.node(number)?;
        for gateway in &self.config.client {
            let same_family = |own: &Prefix| own.address.is_ipv4() == gateway.address.is_ipv4();
            if node.config.addresses.iter().any(same_family) {
                node.host.rtnl.default_route(node.nic, gateway.address)?;
            }
        }
        Ok(())
    }

    /// Copy every log of the lab below `to`.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn save_logs(&self, to: &Path) -> Result<()> {
        for node in &self.nodes {
            let target = to.join(&node.config.name);
            std::fs::create_dir_all(&target)
                .with_context(|| format!("cannot create {}", target.display()))?;
            for entry in std::fs::read_dir(&node.dir)?.flatten() {
                let path = entry.path();
                if path
                    .extension()
                    .is_some_and(|e| ["log", "conf", "jsonl"].iter().any(|k| e == *k))
                {
                    std::fs::copy(&path, target.join(entry.file_name()))
                        .with_context(|| format!("cannot copy {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}

fn port_name(host: &str) -> String {
    format!("p-{host}")
}

/// Whether this kernel has the kind of link that a NIC of this shape is, or why not.
///
/// # Errors
/// The reason, in words for people.
pub fn available(shape: NicShape) -> Result<()> {
    let Some(kind) = shape.kind() else { return Ok(()) };
    let run = RunDir::create()?;
    let host = Host::create(&run, "probe")?;
    let more = if shape == NicShape::Vlan { format!("id {VLAN}") } else { String::new() };
    host.shell("ip link add below type veth peer name far")?;
    let made = host.shell(&format!("ip link add link below name nic type {kind} {more}"));
    made.map_err(|error| anyhow!("this kernel makes no {kind} link ({error})"))
}

/// Some forty small packets; the kernel's default is 212,992.
const WAITING_BYTES: &str = "32768";
/// The name of the link below a NIC that is no Ethernet interface itself.
const BELOW: &str = "eth9";
/// The VLAN that a segment speaks where NICs are sub-interfaces.
const VLAN: u16 = 100;

/// A free port of a segment.
struct Plug<'a> {
    lan: &'a Host,
    segment: &'a str,
    shape: NicShape,
}

impl Plug<'_> {
    /// Give `host` a NIC there.
    fn insert(&self, host: &Host, nic: &str, mac: [u8; 6], addresses: &[Prefix]) -> Result<()> {
        // The defaults of the running kernel must not decide what a scenario sees.
        for (key, value) in [
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            // As systemd sets it: else the kernel deletes all addresses of a subnet with the first.
            ("net.ipv4.conf.all.promote_secondaries", "1"),
            ("net.ipv4.conf.default.promote_secondaries", "1"),
            ("net.ipv6.conf.all.accept_ra", "0"),
            ("net.ipv6.conf.default.accept_ra", "0"),
        ] {
            host.sysctl(key, value)?;
        }
        let loopback = host.rtnl.link("lo")?.index;
        host.rtnl.up(loopback)?;
        let port = match self.segment {
            "lan" => port_name(&host.name),
            _ => format!("q-{}", host.name),
        };
        let ethernet = if self.shape == NicShape::Plain { nic } else { BELOW };
        self.lan.rtnl.add_veth(&port, ethernet, host.namespace.net().as_fd(), &mac)?;
        let port = self.lan.rtnl.link(&port)?.index;
        let segment = self.lan.rtnl.link(self.segment)?.index;
        self.lan.rtnl.set_master(port, segment)?;
        self.lan.rtnl.up(port)?;
        match self.shape {
            NicShape::Plain => {}
            NicShape::Bond => host.shell(&format!(
                "ip link add {nic} address {} type bond mode active-backup miimon 100\n\
                 ip link set {BELOW} master {nic}",
                mac_text(&mac)
            ))?,
            NicShape::Vlan => host.shell(&format!(
                "ip link set {BELOW} up\n\
                 ip link add link {BELOW} name {nic} type vlan id {VLAN}"
            ))?,
        }
        host.limit_waiting(nic)?;
        let index = host.rtnl.link(nic)?.index;
        for address in addresses {
            host.rtnl.add_address(index, *address)?;
        }
        host.rtnl.up(index)
    }
}

/// The same on the second segment, where there is one: a hardware address and an address that
/// follow from those on the first.
fn second_plug(
    lan: &Host,
    host: &Host,
    nic: &str,
    mac: [u8; 6],
    config: &LabConfig,
    first: &[Prefix],
) -> Result<()> {
    let Some(second) = &config.second else { return Ok(()) };
    let [a, b, c] = second.network;
    let own = first.iter().find_map(|prefix| match prefix.address {
        IpAddr::V4(v4) => Some(Prefix::v4([a, b, c, v4.octets()[3]], 24)),
        IpAddr::V6(_) => None,
    });
    let [m0, m1, m2, m3, _, m5] = mac;
    let address: Vec<Prefix> = own.into_iter().collect();
    let cable = Plug { lan, segment: "lan2", shape: NicShape::Plain };
    cable.insert(host, nic, [m0, m1, m2, m3, 1, m5], &address)
}
