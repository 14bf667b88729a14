//! What has to keep working while vipshield guards, and when it goes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::vipshield::Vipshield;
use crate::witness::timeline::Window;

/// What a busy machine may add to a VRRP timer.
pub(super) const SLACK: Duration = Duration::from_millis(500);
/// After this long without a heartbeat the guard passes everything.
const FAIL_OPEN: Duration = Duration::from_secs(2);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "carrier-loss-free",
            "a cable pulled while the NIC is free fails over as fast as VRRP promises",
            true,
            |context| shielded("carrier-loss-free", context, carrier_loss),
        ),
        Scenario::new(
            "daemon-restart-free",
            "a keepalived that restarts is guarded again: bind costs it nothing",
            true,
            |context| shielded("daemon-restart-free", context, daemon_restart),
        ),
        Scenario::new(
            "no-arguments",
            "without arguments the NIC keepalived uses is guarded, and Prometheus can scrape",
            true,
            |context| shielded("no-arguments", context, no_arguments),
        ),
        Scenario::new(
            "fail-open",
            "vipshield killed in mid-bind: the node stays reachable, keepalived sees what follows",
            true,
            |context| shielded("fail-open", context, fail_open),
        ),
        Scenario::new(
            "exit-resync",
            "vipshield ended in mid-bind: it exits 0 and keepalived learns the truth",
            true,
            |context| shielded("exit-resync", context, exit_resync),
        ),
    ]
}

/// Build a lab whose first node owns the VIP and is guarded, do `work` in it,
/// and keep its logs whatever comes of it.
async fn shielded(
    name: &str,
    context: Context,
    work: impl AsyncFnOnce(&mut Lab, PathBuf) -> Result<()>,
) -> Runs {
    let mut lab = Lab::build(LabConfig::new(context.datapath)).await?;
    measure::elect(&mut lab, Role::Master).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    let outcome = work(&mut lab, context.vipshield.clone()).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

/// The latest moment at which the second node makes itself master after the
/// first fell silent (RFC 5798: three intervals and the skew).
pub(super) fn master_down(config: &LabConfig) -> Duration {
    let priority = config.nodes.get(1).map_or(100, |node| node.priority);
    let skew = f64::from(256 - u32::from(priority)) / 256.0 * config.advert_int.min(1.0);
    Duration::from_secs_f64(3.0 * config.advert_int + skew)
}

/// Wait until the node with this position tells `state` after `since`; returns when it did.
pub(super) async fn told(
    lab: &Lab,
    node: usize,
    state: &str,
    since: Instant,
    limit: Duration,
) -> Result<Instant> {
    let node = lab.node(node)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    clock::until(&format!("{} {state}", node.config.name), limit, async || {
        let mut all = keepalived.transitions().into_iter();
        Ok(all.find(|change| change.at >= since && change.state == state).map(|change| change.at))
    })
    .await
}

async fn carrier_loss(lab: &mut Lab, _: PathBuf) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let pulled = clock::now();
    lab.cable(0, false)?;
    let fault = told(lab, 0, "FAULT", pulled, SLACK).await?;
    let limit = master_down(&lab.config) + SLACK;
    let master = told(lab, 1, "MASTER", pulled, limit).await?;
    let took = master.saturating_duration_since(pulled);
    ensure!(took <= clock::patience(limit), "failover took {took:?}");
    ensure!(fault <= master, "node2 was MASTER before node1 knew");
    let seen = witnesses.observe(lab, Window { from: pulled, to: clock::now() });
    ensure!(seen.owners_max <= 1, "two owners for {} ms", seen.owners_overlap_ms);

    // And back: the cable is plugged in again, the higher priority wins.
    let plugged = clock::now();
    lab.cable(0, true)?;
    told(lab, 0, "MASTER", plugged, limit + Duration::from_secs(2)).await?;
    Ok(())
}

async fn daemon_restart(lab: &mut Lab, _: PathBuf) -> Result<()> {
    let keepalived = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
    keepalived.stop().await?;
    lab.start_keepalived(0)?;
    measure::settled(lab, Role::Master).await?;
    guarded(lab).await?;

    let from = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(Duration::from_secs(5)).await;
    let seen = measure::transitions(lab, Window { from, to: clock::now() });
    ensure!(seen.is_empty(), "transitions after the restart: {seen:?}");
    Ok(())
}

async fn no_arguments(lab: &mut Lab, program: PathBuf) -> Result<()> {
    let named = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    named.stop().await?;
    lab.start_vipshield_for(0, &program, None).await?;
    guarded(lab).await?;

    let from = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(Duration::from_secs(5)).await;
    let seen = measure::transitions(lab, Window { from, to: clock::now() });
    ensure!(seen.is_empty(), "transitions: {seen:?}");

    let namespace = lab.node(0)?.host.namespace.clone();
    let text = tokio::task::spawn_blocking(move || namespace.run(scrape)).await??;
    let line = "vipshield_nic_phase{nic=\"ens192\",phase=\"bridged\"} 1";
    ensure!(text.starts_with("HTTP/1.1 200"), "the scrape was refused: {text}");
    ensure!(text.lines().any(|found| found == line), "no line {line} in {text}");
    Ok(())
}

/// What Prometheus gets.
fn scrape() -> Result<String> {
    let mut stream = TcpStream::connect("127.0.0.1:9590").context("no metrics")?;
    stream.set_read_timeout(Some(clock::patience(Duration::from_secs(5))))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node1\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Wait until vipshield's status names keepalived's VRRP child.
pub(super) async fn guarded(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    let vipshield = node.vipshield.as_ref().context("vipshield does not run")?;
    let pid = i64::from(keepalived.vrrp_child()?.as_raw());
    clock::until("vipshield to guard the new keepalived", Duration::from_secs(2), async || {
        let status = vipshield.status().await?;
        let daemons = status.get("daemons").and_then(Value::as_array);
        let found = daemons.into_iter().flatten().any(|daemon| {
            daemon.get("pid").and_then(Value::as_i64) == Some(pid)
                && daemon.get("role").and_then(Value::as_str) == Some("vrrp")
        });
        Ok(found.then_some(()))
    })
    .await
}

/// An error unless vipshield has withheld something: a scenario about how it
/// ends in the middle must have a middle.
async fn withholding(vipshield: &Vipshield) -> Result<()> {
    ensure!(vipshield.counter("withheld").await? > 0, "vipshield withheld nothing");
    Ok(())
}

async fn fail_open(lab: &mut Lab, _: PathBuf) -> Result<()> {
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let mut witnesses = Witnesses::start(lab).await?;
    let mut killed = Ok(());
    let mut hook = Before::new(StepKind::AddPort, async || {
        killed = withholding(&vipshield).await.and(vipshield.kill().await);
        Verdict::Continue
    });
    Sequence::Bind.run(lab, &mut hook).await.outcome?;
    ensure!(hook.reached(), "the bind had no such step");
    drop(hook);
    killed?;
    clock::pass(FAIL_OPEN + SLACK).await;

    // What happens from here on must reach keepalived: the guard is open.
    let until = clock::now();
    let pulled = clock::now();
    lab.cable(0, false)?;
    told(lab, 0, "FAULT", pulled, SLACK).await?;

    witnesses.finish().await;
    let answered = witnesses.node_probe().history().into_iter().rev();
    let last = answered.filter(|(at, _)| *at <= until).find(|(_, answered)| *answered);
    let Some((last, _)) = last else { bail!("the node never answered") };
    let silent = until.saturating_duration_since(last);
    ensure!(silent <= SLACK, "the node was silent for {silent:?} after vipshield died");
    Ok(())
}

async fn exit_resync(lab: &mut Lab, _: PathBuf) -> Result<()> {
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let from = clock::now();
    let mut ended = Ok(());
    let mut hook = Before::new(StepKind::AddPort, async || {
        ended = withholding(&vipshield).await.and(vipshield.stop().await);
        Verdict::Continue
    });
    Sequence::Bind.run(lab, &mut hook).await.outcome?;
    ensure!(hook.reached(), "the bind had no such step");
    drop(hook);
    ended?;
    // The truth is that the NIC has lost its address: without vipshield that is a fault.
    told(lab, 0, "FAULT", from, FAIL_OPEN).await?;
    Ok(())
}
