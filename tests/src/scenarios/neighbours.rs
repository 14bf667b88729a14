//! Neighbours while the node's addresses are on their way: those that are new, and those that the node knew before.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use serde_json::Value;

use super::ground::Ground;
use super::matrix::{OWED_TO_THE_MACHINE, SEQUENCES};
use super::{Context, Runs, Scenario, ground};
use crate::clock;
use crate::config::{DatapathKind, LabConfig, Prefix};
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::sequence::{At, Sequence, StepKind, Undisturbed, Verdict};
use crate::witness::probe::Probe;
use crate::witness::timeline::Window;

/// Before which step of which sequence, and how its name says so. The first of `ReplaceAddress` is
/// where an address is on no interface at all.
const MOMENTS: [(Sequence, StepKind, &str); 5] = [
    (Sequence::Bind, StepKind::ReplaceAddress, "address"),
    (Sequence::Bind, StepKind::AddPort, "add-port"),
    (Sequence::Unbind, StepKind::DeleteAddress, "address"),
    (Sequence::Exchange, StepKind::AddPort, "add-port"),
    (Sequence::Unexchange, StepKind::DeleteAddress, "address"),
];

/// A question about a neighbour is asked again after a second: what is answered by then was
/// answered the first time.
const FIRST: Duration = Duration::from_millis(900);
/// Between two probes.
const PERIOD: Duration = Duration::from_millis(1);
/// Nobody listens there: the kernel says so.
const PORT: u16 = 9;

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = new_neighbours();
    for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
        let name = format!("known-neighbours{suffix}");
        let about = "IPv4 and IPv6: the node answers a neighbour that it knew before at once, while its NIC is taken and \
                     given back";
        let directory = name.clone();
        let mut scenario = Scenario::new(&name, about, true, move |context| {
            let directory = directory.clone();
            async move { Box::pin(keep(context, role, &directory)).await }
        });
        scenario.measures = true;
        all.push(scenario);
    }
    all
}

fn new_neighbours() -> Vec<Scenario> {
    MOMENTS
        .into_iter()
        .map(|(sequence, kind, step)| {
            let name = format!("{sequence}-{step}-new-neighbour");
            let about = format!("before {sequence}'s {step} a new neighbour finds the node");
            let directory = name.clone();
            Scenario::new(&name, &about, true, move |context| {
                let directory = directory.clone();
                async move { Box::pin(meet(context, sequence, kind, &directory)).await }
            })
        })
        .collect()
}

/// ARP as kube-proxy's strict ARP has it, and maybe IPv6 beside IPv4.
fn config(context: &Context, dual: bool) -> LabConfig {
    let mut config = LabConfig::new(context.datapath);
    for (key, value) in [("arp_ignore", 1), ("arp_announce", 2)] {
        config.commands.push(format!("echo {value} > /proc/sys/net/ipv4/conf/all/{key}"));
    }
    if dual {
        add_ipv6(&mut config);
    }
    config
}

fn add_ipv6(config: &mut LabConfig) {
    let six = |last| Prefix {
        address: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(),
        length: 64,
    };
    for (node, last) in config.nodes.iter_mut().zip(0x11..) {
        node.addresses.push(six(last));
    }
    config.client.push(six(0x100));
}

async fn keep(context: Context, role: Role, directory: &str) -> Runs {
    let mut ground = Ground::furnished(&context, role, add_ipv6).await?;
    let outcome = kept(&mut ground).await;
    if let Some(logs) = &context.logs {
        ground.lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

async fn kept(ground: &mut Ground) -> Result<()> {
    ground.start_vipshield().await?;
    let own: Vec<IpAddr> =
        ground.lab.node(0)?.config.addresses.iter().map(|own| own.address).collect();
    let client = &ground.lab.client;
    let probes: Vec<Probe> =
        own.iter().map(|ip| Probe::start(client, *ip, PERIOD)).collect::<Result<_>>()?;
    let mut lost = Vec::new();
    for sequence in SEQUENCES {
        let from = clock::now();
        ground.bring(sequence).await?;
        let window = Window { from, to: clock::now() };
        let down = ground.seen_since(from).nic_down_ms;
        for (ip, probe) in own.iter().zip(&probes) {
            let seen = probe.report(window);
            println!(
                "{sequence}, {ip}: {} lost, longest gap {:.0} ms, {down:.1} ms NIC down",
                seen.lost, seen.longest_gap_ms
            );
            let excusable = down as u64 + OWED_TO_THE_MACHINE;
            let is_lost =
                ground.lab.config.datapath == DatapathKind::Bridge && seen.lost > excusable;
            let waited = seen.longest_gap_ms > clock::millis(clock::patience(FIRST)) + down;
            if is_lost || waited {
                lost.push(format!(
                    "{sequence}, {ip}: {} probes, {:.0} ms in one gap, {down:.1} ms NIC down",
                    seen.lost, seen.longest_gap_ms
                ));
            }
        }
    }
    ensure!(lost.is_empty(), "lost: {}", lost.join("; "));
    ground.finish().await
}

async fn meet(context: Context, sequence: Sequence, kind: StepKind, directory: &str) -> Runs {
    // A NIC that was down begins anew with IPv6: until it knows that nobody else has its link-local
    // address it asks for no neighbour.
    let dual = matches!(sequence, Sequence::Bind | Sequence::Unbind);
    let mut lab = Lab::build(config(&context, dual)).await?;
    let outcome = met(&context, &mut lab, sequence, kind).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

async fn met(context: &Context, lab: &mut Lab, sequence: Sequence, kind: StepKind) -> Result<()> {
    measure::elect(lab, Role::Master).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    if let Some(before) = sequence.prerequisite() {
        before.run(lab, &mut Undisturbed).await.outcome?;
        settled(lab, "bridged").await?;
    }
    all_found(lab).await.context("before")?;
    let mut found = Ok(());
    let mut hook = At::new(
        0,
        |step| step.kind == kind,
        async |_| {
            found = match carried(lab).await {
                Ok(()) => all_found(lab).await,
                never => never,
            };
            Verdict::Continue
        },
    );
    let mut notes = Vec::new();
    let replayed = measure::insist(sequence, lab, 0, &mut hook, &mut notes).await;
    let reached = hook.reached();
    let step = reached.context("there is no such step")?;
    found.with_context(|| format!("before {}", step.name))?;
    replayed?;
    settled(lab, if sequence.prerequisite().is_none() { "bridged" } else { "free" }).await?;
    all_found(lab).await.context("afterwards")?;
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    vipshield.stop().await
}

/// Wait until vipshield says that the NIC is in this phase.
async fn settled(lab: &Lab, phase: &str) -> Result<()> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    clock::until("the phase", Duration::from_secs(5), async || {
        let status = vipshield.status().await?;
        Ok((status.pointer("/nics/0/phase").and_then(Value::as_str) == Some(phase)).then_some(()))
    })
    .await
    .with_context(|| format!("it is not {phase}"))
}

/// Wait until the node's traffic is carried: until then nothing leads back to a neighbour.
async fn carried(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    clock::until("the carry", Duration::from_secs(1), async || {
        Ok((!ground::rules(node)?.is_empty()).then_some(()))
    })
    .await
}

/// The client, which knows no neighbour any more, finds each address of the node at once, and the
/// node, which knows none either, answers.
async fn all_found(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let own = node.config.addresses.iter().map(|own| own.address);
    for address in own.chain(lab.config.vips()) {
        for host in [&lab.client, &node.host] {
            host.shell("ip neigh flush all")?;
        }
        let to = SocketAddr::new(address, PORT);
        let namespace = lab.client.namespace.clone();
        // Its answer must not wait for what else this thread does.
        let asked = tokio::task::spawn_blocking(move || {
            namespace.run(|| Ok(TcpStream::connect_timeout(&to, FIRST).map_err(|e| e.kind())))
        });
        let answer = asked.await.context("the client's question")??;
        ensure!(
            matches!(answer, Err(ErrorKind::ConnectionRefused)),
            "{} is not found: {answer:?}",
            name(address)
        );
    }
    Ok(())
}

fn name(address: IpAddr) -> String {
    let family = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    format!("{address}, asked for by {family},")
}
