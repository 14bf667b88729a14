//! More VIPs than fit into any queue, and more routes than are carried.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::failures::told;
use super::scene::{Beginning, ROUND, failover, phase, quietly, staged_in, still};
use super::variants::run;
use crate::clock;
use crate::config::LabConfig;
use crate::lab::{Lab, Node};
use crate::measure::Role;
use crate::rtnl::address_of;
use crate::sequence::{Sequence, Undisturbed};
use crate::witness::probe::Probe;
use crate::witness::timeline::Window;

/// Beside the one that the lab has.
const IPV4: u16 = 900;
const IPV6: u16 = 100;
/// More than vipshield carries for a NIC.
const ROUTES: u16 = 400;
/// Behind the router, which is the client.
const BEHIND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// Between two probes.
const PERIOD: Duration = Duration::from_millis(1);
/// What a busy machine and the NIC's own time down may add up to; without the subnet in the carry it is two seconds.
const GAP: Duration = Duration::from_millis(500);
/// So long keepalived may take to ask for all of them: that is not what is tried here.
const TAKEN: Duration = Duration::from_secs(30);
/// So long it may take at least to ask for the removal of all of them, and vipshield to follow.
const GIVEN_UP: Duration = Duration::from_secs(3);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![vips(), routes()]
}

/// The node's own subnet and its default route among routes of the same length: they come first.
fn routes() -> Scenario {
    let name = "node-many-routes";
    let about = "a node with more routes than are carried is reached, and reaches its subnet and what is behind its router, \
                 in all four sequences";
    let mut scenario = Scenario::new(name, about, true, move |context| async move {
        let router = "192.0.2.100";
        let mut config = LabConfig::new(context.datapath);
        // As long as the node's own subnet is, and before it in the order of addresses.
        let all = format!(
            "n=0; while [ $n -lt {ROUTES} ]; do ip route add 10.37.$((n % 256)).0/24 via {router} dev ens192 \
             metric $((1 + n / 256)); n=$((n + 1)); done"
        );
        run(&mut config, &all);
        let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
        staged_in(config, name, context, beginning, async |lab, _| go_on(lab).await).await
    });
    scenario.measures = true;
    scenario
}

async fn go_on(lab: &mut Lab) -> Result<()> {
    lab.client.shell(&format!("ip address add {BEHIND}/32 dev lo"))?;
    let node = lab.node(0)?;
    let own = node.config.addresses.first().context("the node has no address")?.address;
    let probes = [
        ("the node", Probe::start(&lab.client, own, PERIOD)?),
        ("what is behind the router", Probe::start(&node.host, BEHIND.into(), PERIOD)?),
    ];
    let mut lost = Vec::new();
    for (sequence, settled) in ROUND {
        let from = clock::now();
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        phase(lab, 0, settled, Duration::from_secs(5)).await?;
        clock::pass(failover(lab)).await;
        let window = Window { from, to: clock::now() };
        for (what, probe) in &probes {
            let seen = probe.report(window);
            println!(
                "{sequence}, {what}: {} lost, {:.0} ms in one gap",
                seen.lost, seen.longest_gap_ms
            );
            if seen.longest_gap_ms > clock::millis(clock::patience(GAP)) {
                lost.push(format!("{sequence}, {what}: {:.0} ms", seen.longest_gap_ms));
            }
        }
        still(lab, from).with_context(|| sequence.to_string())?;
        let status = node.vipshield.as_ref().context("vipshield does not run")?.status().await?;
        ensure!(
            status.to_string().contains("more than 256 routes"),
            "status does not say so: {status}"
        );
    }
    ensure!(lost.is_empty(), "nothing arrived for a while: {}", lost.join("; "));
    Ok(())
}

fn vips() -> Scenario {
    let name = "vips-by-the-thousand";
    let about = "bind takes 1,000 VIPs, keepalived gives them up: none stays on the node";
    Scenario::new(name, about, true, move |context| async move {
        let mut config = LabConfig::new(context.datapath);
        // They are in no advert, which has no room for so many.
        let excluded = further().try_fold(String::new(), |mut text, ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            writeln!(text, "    {ip}/{length} dev {}", config.nic).map(|()| text)
        })?;
        let excluded = format!("virtual_ipaddress_excluded {{\n{excluded}  }}");
        config.instances.iter_mut().for_each(|it| it.options.push(excluded.clone()));
        let beginning = Beginning { role: Role::Master, shields: &[0], early: true };
        staged_in(config, name, context, beginning, async |lab, _| all_leave(lab).await).await
    })
}

fn further() -> impl Iterator<Item = IpAddr> {
    let ipv4 = (0..IPV4).map(|n| Ipv4Addr::from(0x0a37_0000 + u32::from(n)).into());
    ipv4.chain((0..IPV6).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0x37, 0, 0, 0, 0, n).into()))
}

async fn all_leave(lab: &mut Lab) -> Result<()> {
    let vips: BTreeSet<IpAddr> = further().chain(lab.config.vips()).collect();
    let left = |node: &Node| -> Result<usize> {
        let mut there = BTreeSet::new();
        for index in node.host.rtnl.indexes()? {
            there.extend(node.host.rtnl.addresses(index)?.iter().filter_map(address_of));
        }
        Ok(there.intersection(&vips).count())
    };
    let owner = lab.node(0)?;
    let asked = clock::now();
    clock::until("all VIPs taken", TAKEN, async || Ok((left(owner)? == vips.len()).then_some(())))
        .await?;
    let taken = clock::now().saturating_duration_since(asked);
    quietly(lab, Sequence::Bind).await?;
    let bound = left(owner)?;
    ensure!(bound == vips.len(), "{bound} of {} VIPs after the bind", vips.len());
    let pulled = clock::now();
    lab.cable(0, false)?;
    told(lab, 0, "FAULT", pulled, failover(lab)).await?;
    let stay = Cell::new(vips.len());
    let gone = clock::until("all VIPs given up", GIVEN_UP.max(2 * taken), async || {
        stay.set(left(owner)?);
        Ok((stay.get() == 0).then_some(()))
    })
    .await;
    gone.with_context(|| format!("{} of {} VIPs stay on the node", stay.get(), vips.len()))
}
