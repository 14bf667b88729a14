//! A node on which nothing is under way looks as it does without vipshield, whatever is started there:
//! Kube-OVN starts an `ovs-vsctl` every three seconds, for ever.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::rules::route_get;
use super::scene::{Beginning, MOMENT, failover, one_owner, phase, quietly, served_by, staged_in};
use super::variants::{each, run};
use super::{Context, Scenario};
use crate::background;
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::objects::{self, Objects};
use crate::rtnl::address_of;
use crate::sequence::Sequence;
use crate::witness::advert::AdvertWitness;
use crate::witness::timeline::Window;

/// For so many of them the node is looked at.
const TURNS: u32 = 3;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is asked of the kernel: where would it send this, and from which address?
const QUESTIONS: [&str; 12] = [
    "192.0.2.77",
    "192.0.2.77 mark 7",
    "192.0.2.100",
    "192.0.2.10",
    "192.0.2.11",
    "198.51.100.9",
    "198.51.100.9 mark 7",
    "203.0.113.9",
    "233.252.0.1",
    "224.0.0.18 oif ens192",
    "255.255.255.255 oif ens192",
    "192.0.2.255 oif ens192",
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let free = Scenario::new(
        "hints-free",
        "an ovs-vsctl every three seconds: the node is as without vipshield; beside a new bridge, but for what \
         bears its marks and comes last",
        true,
        |context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[], early: false };
            let config = config(&context);
            staged_in(config, "hints-free", context, beginning, free).await
        },
    );
    let start = Scenario::new(
        "hints-start",
        "keepalived with unicast_peer and no source, started beside an ovs-vsctl and a new bridge, speaks from \
         the node's address",
        true,
        |context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            let config = config(&context);
            let work = async |lab: &mut Lab, _: &Context| restarted(lab).await;
            staged_in(config, "hints-start", context, beginning, work).await
        },
    );
    let port = Scenario::new(
        "hints-bridged",
        "the same while the NIC is a port, with a route of somebody's through it",
        true,
        |context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            let config = config(&context);
            staged_in(config, "hints-bridged", context, beginning, bridged).await
        },
    );
    vec![free, start, port]
}

/// Adverts to a peer from whatever address keepalived finds first, and tables of others: one with a route
/// that leaves the source to the kernel.
fn config(context: &Context) -> LabConfig {
    let mut config = LabConfig::new(context.datapath);
    each(&mut config, |instance| {
        instance.options.push("unicast_peer {\n    PEER\n  }".to_owned());
    });
    run(&mut config, "ip route add 198.51.100.0/24 via 192.0.2.100 dev ens192 table 77");
    run(&mut config, "ip rule add fwmark 7 lookup 77 priority 100");
    run(&mut config, "ip route add 203.0.113.0/24 dev ens192 scope link table 78");
    run(&mut config, "ip rule add to 203.0.113.0/24 lookup 78 priority 101");
    config
}

/// A node's network, and where it would send packets.
struct Look {
    objects: Objects,
    ways: Vec<String>,
}

impl Look {
    async fn at(lab: &Lab) -> Result<Self> {
        let objects = Objects::of(&lab.node(0)?.host, lab.token()).await?;
        Ok(Self { objects: objects.without(&[objects::CLSACT]), ways: ways(lab).await? })
    }

    /// Without what bears vipshield's marks, and without somebody's bridge.
    fn without_marks(self) -> Self {
        let objects = self.objects.without(&objects::MARKS).without(&["others"]);
        Self { objects, ..self }
    }

    fn is_as(&self, before: &Self) -> Result<()> {
        let differences = self.objects.difference(&before.objects);
        ensure!(differences.is_empty(), "the node differs: {differences:#?}");
        ensure!(self.ways == before.ways, "packets go {:#?}, not {:#?}", self.ways, before.ways);
        Ok(())
    }
}

async fn ways(lab: &Lab) -> Result<Vec<String>> {
    let mut ways = Vec::new();
    for question in QUESTIONS {
        ways.push(format!("{question}: {}", route_get(lab, question).await?));
    }
    Ok(ways)
}

/// A tool is started every three seconds: at every moment the node is as it was.
async fn unchanged(lab: &Lab, before: &Look) -> Result<()> {
    for turn in 0..TURNS {
        lab.node(0)?.datapath.look().await?;
        let until = clock::now() + background::TURN;
        while clock::now() < until {
            Look::at(lab).await?.is_as(before).with_context(|| format!("in turn {turn}"))?;
            clock::pass(LOOK).await;
        }
    }
    Ok(())
}

async fn free(lab: &mut Lab, context: &Context) -> Result<()> {
    let before = Look::at(lab).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    unchanged(lab, &before).await?;
    beside_a_bridge(lab, &before).await?;
    quietly(lab, Sequence::Bind).await
}

async fn restarted(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    lab.node(0)?.datapath.look().await?;
    lab.node(0)?.host.shell("ip link add others type bridge")?;
    started(lab, &witnesses).await?;
    lab.node(0)?.host.shell("ip link delete others")?;
    quietly(lab, Sequence::Bind).await
}

/// Somebody's bridge, as every container runtime makes one, is a sign that a NIC may be taken: what vipshield
/// puts on the node then bears its marks, comes last and decides nothing, and is gone when that came to
/// nothing.
async fn beside_a_bridge(lab: &Lab, before: &Look) -> Result<()> {
    let node = lab.node(0)?;
    node.host.shell("ip link add others type bridge")?;
    let first = node.config.addresses.first().context("the node has no address")?.address;
    let until = clock::now() + background::TURN;
    while clock::now() < until {
        let now = Look::at(lab).await?;
        now.without_marks().is_as(before).context("beside a new bridge")?;
        let found = node.host.rtnl.addresses(node.nic)?;
        let found: Vec<IpAddr> = found.iter().filter_map(address_of).collect();
        ensure!(found.first() == Some(&first), "the NIC has {found:?}");
        clock::pass(LOOK).await;
    }
    node.host.shell("ip link delete others")?;
    clock::until("the node as it was", Duration::from_secs(15), async || {
        Ok(Look::at(lab).await?.is_as(before).is_ok().then_some(()))
    })
    .await
}

/// keepalived is started, and speaks from the node's address alone.
async fn started(lab: &mut Lab, witnesses: &Witnesses) -> Result<()> {
    let adverts = AdvertWitness::start(&lab.node(1)?.host)?;
    let from = clock::now();
    lab.start_keepalived(0)?;
    served_by(lab, witnesses, 0, 2 * failover(lab)).await?;
    clock::pass(failover(lab)).await;
    let node = &lab.node(0)?.config;
    let own = node.addresses.first().context("the node has no address")?.address;
    let said = adverts.within(Window { from, to: clock::now() });
    let sources: Vec<IpAddr> =
        said.iter().filter(|advert| advert.mac == node.mac).map(|advert| advert.source).collect();
    ensure!(!sources.is_empty(), "no advert of the node's own");
    ensure!(sources.iter().all(|source| *source == own), "adverts came from {sources:?}");
    one_owner(lab, witnesses, from, clock::patience(MOMENT))
}

async fn bridged(lab: &mut Lab, _: &Context) -> Result<()> {
    quietly(lab, Sequence::Bind).await?;
    phase(lab, 0, "bridged", Duration::from_secs(5)).await?;
    lab.node(0)?.host.shell("ip route add 203.0.113.0/24 dev ens192 scope link table 78")?;
    let before = Look::at(lab).await?;
    let marked = before.objects.marked();
    ensure!(marked.is_empty(), "nothing is under way, and there is {marked:#?}");
    unchanged(lab, &before).await?;
    quietly(lab, Sequence::Unbind).await
}
