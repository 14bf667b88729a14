//! Routes of pods, which have the node's address as their source: the kernel drops them when that address is local no
//! more, and Kube-OVN puts them back some seconds later.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use super::Scenario;
use super::scene::{Beginning, ROUND, failover, phase, staged_in, still};
use super::variants::run;
use crate::clock;
use crate::config::LabConfig;
use crate::lab::{Lab, Node};
use crate::measure::Role;
use crate::rtnl::Rtnl;
use crate::sequence::Undisturbed;

/// The pods' network, behind `ovn0`.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 16, 0, 0);
/// The time between two looks at the routes.
const PERIOD: Duration = Duration::from_millis(1);
/// So often it may be missing, on a machine that has other things to do. Without vipshield it is missing for good here,
/// and on a node of Kube-OVN's for up to three seconds.
const MISSED: u64 = 300;

pub(super) fn scenarios() -> Vec<Scenario> {
    [(Role::Master, "pods-route"), (Role::Backup, "pods-route-backup")]
        .into_iter()
        .map(|(role, name)| {
            let about = "a route to the pods with the node's address as its source is back at once in all four \
                         sequences";
            Scenario::new(name, about, true, move |context| async move {
                let mut config = LabConfig::new(context.datapath);
                run(&mut config, "ip link add ovn0 type veth peer name pods");
                run(&mut config, "ip link set pods up && ip link set ovn0 up");
                run(&mut config, "ip address add 100.64.0.2/16 dev ovn0");
                let beginning = Beginning { role, shields: &[0], early: false };
                staged_in(config, name, context, beginning, async |lab, _| reached(lab).await).await
            })
        })
        .collect()
}

async fn reached(lab: &mut Lab) -> Result<()> {
    let node = lab.node(0)?;
    let own = node.config.addresses.first().context("the node has no address")?.address;
    let route = format!("ip route replace {PODS}/16 via 100.64.0.1 dev ovn0 src {own}");
    node.host.shell(&route)?;
    let lookout = Lookout::keep(node)?;
    let mut vanished = Vec::new();
    for (sequence, settled) in ROUND {
        let from = clock::now();
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        phase(lab, 0, settled, Duration::from_secs(5)).await?;
        clock::pass(failover(lab)).await;
        still(lab, from).with_context(|| sequence.to_string())?;
        let missed = lookout.missed();
        print!("{sequence}: route to the pods missing in {missed} looks; ");
        if missed > MISSED {
            vanished.push(format!("{sequence} ({missed} looks)"));
            node.host.shell(&route)?;
        }
    }
    let looks = lookout.end().await?;
    println!("of {looks}");
    ensure!(looks > 100, "it was looked at {looks} times");
    ensure!(vanished.is_empty(), "the route to the pods vanished in {}", vanished.join(", "));
    Ok(())
}

/// Looks whether the route is there: the kernel drops it without a word (`fib_sync_down_addr` in
/// `net/ipv4/fib_semantics.c`).
struct Lookout {
    over: Arc<AtomicBool>,
    missed: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<u64>>,
}

impl Lookout {
    fn keep(node: &Node) -> Result<Self> {
        let rtnl = Rtnl::open(&node.host.namespace)?;
        let ovn0 = rtnl.link("ovn0")?.index;
        ensure!(rtnl.routes(ovn0)?.iter().any(leads_to_pods), "there is no route to the pods");
        let (over, missed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_over, is_missed) = (Arc::clone(&over), Arc::clone(&missed));
        let task = tokio::spawn(async move {
            let mut looks = 0;
            while !is_over.load(Ordering::Relaxed) {
                if !rtnl.routes(ovn0)?.iter().any(leads_to_pods) {
                    is_missed.fetch_add(1, Ordering::Relaxed);
                }
                looks += 1;
                clock::pass(PERIOD).await;
            }
            Ok(looks)
        });
        Ok(Self { over, missed, task })
    }

    /// How often it was missing since this was asked last.
    fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }

    /// Returns how often it has looked.
    async fn end(self) -> Result<u64> {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.context("the lookout died")?
    }
}

fn leads_to_pods(route: &RouteMessage) -> bool {
    let pods = RouteAttribute::Destination(RouteAddress::Inet(PODS));
    route.header.destination_prefix_length == 16 && route.attributes.contains(&pods)
}
