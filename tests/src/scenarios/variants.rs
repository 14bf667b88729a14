//! What nodes and keepalived can look like: on each of them bind and unbind cost nothing.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{InstanceConfig, LabConfig, NicShape, Prefix, SecondNic};
use crate::further::VipSeen;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::objects;
use crate::sequence::Sequence;
use crate::stack::Stack;
use crate::witness::probe;
use crate::witness::timeline::Window;

/// How long a sequence is watched: longer than a node that hears nothing waits before it makes
/// itself master (RFC 5798: three intervals and the skew).
const WATCH: Duration = Duration::from_secs(4);

/// A variant of the lab.
struct Variant {
    name: &'static str,
    about: &'static str,
    /// What makes the variant of the lab that every other scenario has.
    change: fn(&mut LabConfig),
}

const fn variant(name: &'static str, about: &'static str, change: fn(&mut LabConfig)) -> Variant {
    Variant { name, about, change }
}

/// What a node can look like.
const NODES: [Variant; 17] = [
    variant("rp-filter-strict", "the kernel drops what comes in by another way", |lab| {
        rp_filter(lab, 1);
    }),
    variant("rp-filter-loose", "the kernel drops what it has no way back for", |lab| {
        rp_filter(lab, 2);
    }),
    variant("strict-arp", "ARP as kube-proxy sets it for IPVS", |lab| {
        run(lab, "echo 1 > /proc/sys/net/ipv4/conf/all/arp_ignore");
        run(lab, "echo 2 > /proc/sys/net/ipv4/conf/all/arp_announce");
    }),
    variant("strict-arp-default", "the same for every interface to come", |lab| {
        for at in ["all", "default", "ens192"] {
            run(lab, &format!("echo 1 > /proc/sys/net/ipv4/conf/{at}/arp_ignore"));
            run(lab, &format!("echo 2 > /proc/sys/net/ipv4/conf/{at}/arp_announce"));
        }
    }),
    variant("secondary-addresses", "several addresses in one subnet, with labels", |lab| {
        run(lab, "ip address add 192.0.2.21/24 dev ens192 label ens192:one");
        run(lab, "ip address add 192.0.2.22/24 dev ens192 label ens192:two");
    }),
    variant("two-default-routes", "two default routes with metrics", |lab| {
        run(lab, "ip route delete default");
        run(lab, "ip route add default via 192.0.2.100 dev ens192 metric 100");
        run(lab, "ip route add default via 192.0.2.101 dev ens192 metric 200");
    }),
    variant("policy-rules", "rules of others, and a table of theirs", |lab| {
        run(lab, "ip route add 198.51.100.0/24 via 192.0.2.100 dev ens192 table 77");
        run(lab, "ip rule add fwmark 7 lookup 77 priority 100");
        run(lab, "ip rule add from 192.0.2.11 to 198.51.100.0/24 lookup 77 priority 32700");
    }),
    variant(
        "table-of-others",
        "a rule sends what the node says through a table of its own",
        |lab| {
            run(lab, "ip route add default via 192.0.2.100 dev ens192 table 77");
            run(lab, "ip rule add from 192.0.2.11 lookup 77 priority 100");
        },
    ),
    variant("no-default-route", "the NIC leads nowhere but to its own network", |lab| {
        run(lab, "ip route delete default");
    }),
    variant("route-attributes", "routes with MTU, segment size and initial window", |lab| {
        let how = "mtu 1400 advmss 1300 initcwnd 20 initrwnd 30";
        run(lab, &format!("ip route replace default via 192.0.2.100 dev ens192 {how}"));
        run(
            lab,
            "ip route add 198.51.100.0/24 via 192.0.2.100 dev ens192 proto static mtu lock 1300",
        );
    }),
    variant("link-local-route", "a route to a cloud's metadata address", |lab| {
        run(lab, "ip route add 169.254.0.0/16 dev ens192 scope link metric 1000");
    }),
    variant("dual-stack", "IPv6 beside IPv4", |lab| {
        let six = |last: u16| Prefix {
            address: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(),
            length: 64,
        };
        for (node, last) in lab.nodes.iter_mut().zip(0x11..) {
            node.addresses.push(six(last));
        }
        lab.client.push(six(0x100));
    }),
    variant(
        "host-routes",
        "routes to single hosts and to networks behind another gateway",
        |lab| {
            run(lab, "ip route add 198.51.100.7/32 via 192.0.2.100 dev ens192");
            run(
                lab,
                "ip route add 203.0.113.0/24 via 192.0.2.101 dev ens192 src 192.0.2.11 metric 50",
            );
            run(lab, "ip route add blackhole 198.51.100.128/25");
        },
    ),
    variant("ipv6-detection", "IPv6 addresses that are checked for duplicates", |lab| {
        *lab = LabConfig::stacked(lab.datapath, Stack::Ipv6);
        run(lab, "ip address delete 2001:db8::11/64 dev ens192");
        run(lab, "ip address add 2001:db8::11/64 dev ens192");
        run(lab, "ip -6 route replace default via 2001:db8::100 dev ens192");
    }),
    variant("bond", "the NIC is a bond", |lab| lab.shape = NicShape::Bond),
    variant("vlan", "the NIC is a VLAN sub-interface", |lab| lab.shape = NicShape::Vlan),
    variant("two-nics", "two NICs, each with an instance, are taken at once", two_nics),
];

/// A second NIC with an instance of its own.
pub(super) fn two_nics(lab: &mut LabConfig) {
    let second = "ens224";
    lab.second = Some(SecondNic {
        nic: second.to_owned(),
        bridge: "br-second".to_owned(),
        network: [198, 51, 100],
    });
    another(lab, Some(second), Prefix::v4([198, 51, 100, 10], 32));
}

/// What keepalived's configuration can look like.
const KEEPALIVED: [Variant; 12] = [
    variant("unicast", "adverts go to the peers' own addresses", |lab| {
        each(lab, |instance| instance.unicast = true);
    }),
    variant("subnet-vip", "the VIP has the prefix length of the subnet", |lab| {
        each(lab, |instance| instance.addresses = vec![Prefix::v4([192, 0, 2, 10], 24)]);
    }),
    variant("mcast-source", "adverts have a source of their own choice", |lab| {
        option(lab, "mcast_src_ip OWN");
    }),
    variant("tracked-source", "keepalived looks whether that source is there", |lab| {
        option(lab, "mcast_src_ip OWN");
        option(lab, "track_src_ip");
    }),
    variant("track-interface", "an instance tracks the NIC", |lab| {
        option(lab, "track_interface {\n    ens192\n  }");
    }),
    variant("sync-group", "two instances that go together", |lab| {
        another(lab, None, Prefix::v4([192, 0, 2, 20], 32));
        lab.sync_group = true;
    }),
    variant("two-instances", "two instances on one NIC", |lab| {
        another(lab, None, Prefix::v4([192, 0, 2, 20], 32));
    }),
    variant("nopreempt", "who has the VIP keeps it", |lab| option(lab, "nopreempt")),
    variant("slow-adverts", "an advert every two seconds", |lab| lab.advert_int = 2.0),
    variant("version-three", "VRRP version 3", |lab| option(lab, "version 3")),
    variant("ipv6-subnet-vip", "IPv6 VIPs of the length of their subnets", |lab| {
        *lab = LabConfig::stacked(lab.datapath, Stack::Ipv6);
        each(lab, |instance| instance.addresses.iter_mut().for_each(|vip| vip.length = 64));
    }),
    variant("dual-sync-group", "an IPv4 and an IPv6 instance that go together", |lab| {
        *lab = LabConfig::stacked(lab.datapath, Stack::Dual);
        lab.sync_group = true;
    }),
];

pub(super) fn run(lab: &mut LabConfig, command: &str) {
    lab.commands.push(command.to_owned());
}

fn rp_filter(lab: &mut LabConfig, value: u8) {
    for at in ["all", "default", "ens192"] {
        run(lab, &format!("echo {value} > /proc/sys/net/ipv4/conf/{at}/rp_filter"));
    }
}

pub(super) fn each(lab: &mut LabConfig, change: impl Fn(&mut InstanceConfig)) {
    lab.instances.iter_mut().for_each(change);
}

pub(super) fn option(lab: &mut LabConfig, line: &str) {
    each(lab, |instance| instance.options.push(line.to_owned()));
}

/// An instance more, like the first but for its router id and its VIP.
fn another(lab: &mut LabConfig, nic: Option<&str>, vip: Prefix) {
    lab.instances.extend(lab.instances.first().cloned().map(|first| InstanceConfig {
        name: "VI_2".to_owned(),
        router_id: first.router_id + 1,
        addresses: vec![vip],
        nic: nic.map(str::to_owned),
        ..first
    }));
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let nodes = NODES.iter().map(|variant| scenario("node", variant));
    let keepalived = KEEPALIVED.iter().map(|variant| scenario("keepalived", variant));
    let vmac = Scenario::new(
        "keepalived-vmac",
        "use_vmac cannot work with a NIC that is taken: vipshield says so",
        true,
        vmac,
    );
    nodes.chain(keepalived).chain([vmac]).collect()
}

fn scenario(of: &str, variant: &Variant) -> Scenario {
    let name = format!("{of}-{}", variant.name);
    let directory = name.clone();
    let mut config = LabConfig::new(crate::config::DatapathKind::Bridge);
    (variant.change)(&mut config);
    let shape = config.shape;
    let mut scenario = Scenario::new(&name, variant.about, true, move |context| {
        let (directory, mut config) = (directory.clone(), config.clone());
        config.datapath = context.datapath;
        async move { take_and_give_back(context, config, &directory).await }
    });
    scenario.shape = shape;
    scenario
}

async fn take_and_give_back(context: Context, config: LabConfig, directory: &str) -> Runs {
    let mut lab = Lab::build(config).await?;
    let outcome = undisturbed(&context, &mut lab).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

/// Both sequences, on the owner, with vipshield: no transition on either node, one owner, the
/// connection alive, and afterwards every object where it would be without vipshield.
async fn undisturbed(context: &Context, lab: &mut Lab) -> Result<()> {
    let row = [Sequence::Bind, Sequence::Unbind];
    let config = lab.config.clone();
    let (expected, elected) =
        tokio::join!(objects::reference(&config, &row), measure::elect(lab, Role::Master));
    let (expected, ()) = (expected?, elected?);
    // Without an interface given it finds those of keepalived: one or two.
    lab.start_vipshield_for(0, &context.vipshield, None).await?;
    let witnesses = Witnesses::paced(lab, probe::LEISURELY).await?;

    for (sequence, expected) in row.into_iter().zip(expected.iter()) {
        let from = clock::now();
        objects::on_every_nic(sequence, lab).await?;
        clock::pass(WATCH.mul_f64(config.advert_int)).await;
        let window = Window { from, to: clock::now() };
        let seen = witnesses.observe(lab, window);
        let further = witnesses.further(from, window);
        let judged = || -> Result<()> {
            ensure!(seen.transitions.is_empty(), "transitions: {:?}", seen.transitions);
            ensure!(seen.owners_max == 1, "{} owners at a time", seen.owners_max);
            ensure!(seen.tcp.is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
            for seen in &further {
                let VipSeen { vip, owners_max, tcp, .. } = seen;
                ensure!(*owners_max == 1, "{vip}: {owners_max} owners at a time");
                ensure!(tcp.is_none_or(|tcp| tcp.alive), "{vip}: the TCP connection is broken");
            }
            Ok(())
        };
        judged().with_context(|| sequence.to_string())?;
        objects::equal_but_for_marks(lab, expected)
            .await
            .with_context(|| format!("after {sequence}"))?;
    }
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let bpf = vipshield.bpf_objects()?;
    vipshield.stop().await?;
    let expected = expected.last().context("no reference")?;
    objects::gone(lab, expected, &[], &bpf).await
}

async fn vmac(context: Context) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    option(&mut config, "use_vmac");
    let mut lab = Lab::build(config).await?;
    measure::elect(&mut lab, Role::Master).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let said = clock::until("a word about use_vmac", Duration::from_secs(5), async || {
        let all = format!("{} {}", vipshield.status().await?, vipshield.events().await?);
        Ok(all.contains("use_vmac").then_some(()))
    });
    let outcome = said.await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join("keepalived-vmac"))?;
    }
    outcome.map(|()| Vec::new())
}
