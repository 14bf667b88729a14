//! What scenarios about owners have in common.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::failures::{SLACK, master_down};
use super::{Context, Runs};
use crate::clock;
use crate::config::LabConfig;
use crate::datapath::mac_text;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};
use crate::witness::tcp;
use crate::witness::timeline::Window;

/// How long an address monitor and the notify FIFO may be apart on a busy machine.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

/// All sequences, each from where the last one ended, and the NIC's phase after it.
pub(super) const ROUND: [(Sequence, &str); 4] = [
    (Sequence::Bind, "bridged"),
    (Sequence::Unbind, "free"),
    (Sequence::Exchange, "bridged"),
    (Sequence::Unexchange, "free"),
];

/// How a scenario begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    /// What the first node is.
    pub(super) role: Role,
    /// The nodes that vipshield guards.
    pub(super) shields: &'static [usize],
    /// vipshield runs before keepalived does.
    pub(super) early: bool,
}

/// Build the lab, elect, shield, do `work`, and keep the logs whatever comes of it.
pub(super) async fn staged(
    name: &str,
    context: Context,
    beginning: Beginning,
    work: impl AsyncFnOnce(&mut Lab, &Context) -> Result<()>,
) -> Runs {
    let config = LabConfig::new(context.datapath);
    staged_in(config, name, context, beginning, work).await
}

/// The same in this lab.
pub(super) async fn staged_in(
    mut config: LabConfig,
    name: &str,
    context: Context,
    beginning: Beginning,
    work: impl AsyncFnOnce(&mut Lab, &Context) -> Result<()>,
) -> Runs {
    if beginning.role == Role::Backup {
        config.owner_is_second();
    }
    let mut lab = Lab::build(config).await?;
    let outcome = async {
        if beginning.early {
            shield(&mut lab, &context, beginning).await?;
        }
        measure::elect(&mut lab, beginning.role).await?;
        if beginning.early {
            for node in beginning.shields {
                let vipshield = lab.node_mut(*node)?.vipshield.as_mut();
                vipshield.context("vipshield does not run")?.guards().await?;
            }
        } else {
            shield(&mut lab, &context, beginning).await?;
        }
        work(&mut lab, &context).await
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

async fn shield(lab: &mut Lab, context: &Context, beginning: Beginning) -> Result<()> {
    for node in beginning.shields {
        lab.start_vipshield(*node, &context.vipshield).await?;
    }
    Ok(())
}

/// The longest a failover that nobody announces may take.
pub(super) fn failover(lab: &Lab) -> Duration {
    let skew_of_lowest = Duration::from_secs_f64(lab.config.advert_int.min(1.0));
    master_down(&lab.config).max(Duration::from_secs_f64(3.0 * lab.config.advert_int))
        + skew_of_lowest
        + SLACK
}

/// Replay a sequence and let some time go by, in which a waiting node that hears no adverts would
/// make itself owner: nobody's role may change.
pub(super) async fn quietly(lab: &Lab, sequence: Sequence) -> Result<()> {
    let from = clock::now();
    sequence.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(failover(lab)).await;
    still(lab, from)
}

/// An error if any role changed since then.
pub(super) fn still(lab: &Lab, since: Instant) -> Result<()> {
    let seen = measure::transitions(lab, Window { from: since, to: clock::now() });
    ensure!(seen.is_empty(), "transitions: {seen:?}");
    Ok(())
}

/// Wait until the client reaches the VIP on this node, by ping, by a new connection and by ARP,
/// and no other node has it or answers for it.
pub(super) async fn served_by(
    lab: &Lab,
    witnesses: &Witnesses,
    node: usize,
    limit: Duration,
) -> Result<()> {
    let vip = lab.config.vip()?;
    let mac = [mac_text(&lab.node(node)?.config.mac)];
    let name = &lab.node(node)?.config.name;
    let missing = RefCell::new(String::new());
    let served = clock::until(&format!("the VIP served by {name} alone"), limit, async || {
        let now = clock::now();
        let recent = |length| now.checked_sub(clock::patience(length)).unwrap_or(now);
        let window = Window { from: recent(Duration::from_millis(450)), to: now };
        let owners: Vec<bool> = (0..lab.nodes.len()).map(|n| witnesses.has_vip(n)).collect();
        let answering = witnesses.who_answers(window);
        let pinged = witnesses.probe().last_answered();
        let pinged = pinged.is_some_and(|at| at >= recent(Duration::from_millis(100)));
        let good = owners.iter().enumerate().all(|(n, has)| *has == (n == node))
            && answering == mac
            && pinged
            && tcp::connects(&lab.client, vip).await;
        *missing.borrow_mut() =
            format!("nodes with the VIP {owners:?}, ARP {answering:?}, ping {pinged}");
        Ok(good.then_some(()))
    })
    .await;
    served.with_context(|| missing.into_inner())
}

/// When this node lost the VIP, whatever its interface; an error unless it did by `limit`.
pub(super) async fn gone(
    lab: &Lab,
    witnesses: &Witnesses,
    node: usize,
    limit: Duration,
) -> Result<Instant> {
    let name = &lab.node(node)?.config.name;
    clock::until(&format!("the VIP gone from {name}"), limit, async || {
        let last = witnesses.vip_changes(node).pop();
        Ok(last.filter(|(_, there)| !there).map(|(at, _)| at))
    })
    .await
}

/// An error if two nodes had the VIP for longer than `limit` since then.
pub(super) fn one_owner(
    lab: &Lab,
    witnesses: &Witnesses,
    since: Instant,
    limit: Duration,
) -> Result<()> {
    ensure!(witnesses.blind_spots() == 0, "the address monitor lost events");
    let seen = witnesses.observe(lab, Window { from: since, to: clock::now() });
    let overlap = Duration::from_secs_f64(seen.owners_overlap_ms / 1000.0);
    ensure!(overlap <= limit, "two nodes had the VIP for {overlap:?}");
    Ok(())
}

/// Wait until vipshield on this node guards a NIC in `phase`.
pub(super) async fn phase(lab: &Lab, node: usize, phase: &str, limit: Duration) -> Result<()> {
    let vipshield = lab.node(node)?.vipshield.as_ref().context("vipshield does not run")?;
    clock::until(&format!("vipshield says {phase}"), limit, async || {
        let status = vipshield.status().await?;
        let nics = status.get("nics").and_then(serde_json::Value::as_array);
        let found = nics
            .into_iter()
            .flatten()
            .any(|nic| nic.get("phase").and_then(serde_json::Value::as_str) == Some(phase));
        Ok(found.then_some(()))
    })
    .await
}

/// An error if the enslaved NIC of a node has an address that Kube-OVN would move, or
/// NetworkManager take for all that the bridge should have.
pub(super) fn nothing_on_the_nic(lab: &Lab, node: usize) -> Result<()> {
    let node = lab.node(node)?;
    let addresses = node.host.rtnl.addresses(node.nic)?;
    let there: Vec<_> = addresses
        .iter()
        .filter_map(crate::rtnl::address_of)
        .filter(|address| match address {
            std::net::IpAddr::V4(v4) => !v4.is_link_local(),
            std::net::IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        })
        .collect();
    ensure!(there.is_empty(), "the enslaved NIC has {there:?}");
    Ok(())
}
