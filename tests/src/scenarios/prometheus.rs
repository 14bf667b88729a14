//! A real Prometheus on another host scrapes both masters, and looks the alerts of `packaging` through: all is
//! well while their NICs are taken and given back, and what is wrong is told.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};

use super::scene::{failover, phase, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{LabConfig, Taken};
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::prometheus::{INTERVAL, Prometheus, Sample, shortened};
use crate::sequence::{Sequence, Undisturbed};
use crate::vipshield::Place;

/// What operators load.
const RULES: &str = include_str!("../../../packaging/prometheus/alerts.yaml");
/// An alert whose `for` is longer fires after this time here.
const HELD: Duration = Duration::from_secs(5);
/// Where vipshield serves metrics: wherever a node's addresses are.
const METRICS: &str = "0.0.0.0:9590";
const PORT: u16 = 9590;
/// What the guard of each master withheld.
const WITHHELD: &str = "sum by (instance) (vipshield_guard_messages_total{verdict=\"withheld\"})";
/// Within this an alert fires whose reason is there, and is silent again once it is gone.
const TOLD: Duration = Duration::from_secs(30);
/// The guard passes everything after this time without a heartbeat.
const FAIL_OPEN: Duration = Duration::from_secs(3);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "prometheus-quiet",
            "Prometheus scrapes both masters through a bind and an unbind: the numbers are right, and no \
             alert of packaging's fires",
            quiet,
        ),
        scenario(
            "prometheus-alerts",
            "a guard that failed open, two owners, an owner that hangs, no keepalived, one that is not guarded, no \
             vipshield: the alert of each fires",
            alerts,
        ),
    ]
}

fn scenario(
    name: &'static str,
    about: &str,
    work: for<'a> fn(&'a mut Lab, &'a Path, &'a Prometheus) -> Work<'a>,
) -> Scenario {
    let mut scenario = Scenario::new(name, about, true, move |context| async move {
        let outcome = scraped(&context, name, work).await;
        outcome.map(|()| Vec::new()) as Runs
    });
    scenario.needs = Box::new(|context| {
        let found = context.prometheus.as_ref().map(drop);
        found.context("Prometheus is not there: `cargo xtask setup` fetches it")
    });
    scenario
}

type Work<'a> = std::pin::Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// Two masters with their NICs free, both guarded and scraped.
async fn scraped(
    context: &Context,
    name: &str,
    work: for<'a> fn(&'a mut Lab, &'a Path, &'a Prometheus) -> Work<'a>,
) -> Result<()> {
    let program = context.prometheus.as_deref().context("no Prometheus")?;
    let mut config = LabConfig::new(context.datapath);
    config.taken = Taken::All;
    config.shield.metrics = Some(METRICS);
    let mut lab = Lab::build(config).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        for node in 0..lab.nodes.len() {
            lab.start_vipshield(node, &context.vipshield).await?;
        }
        let targets: Vec<(IpAddr, u16)> = lab
            .nodes
            .iter()
            .filter_map(|node| Some((node.config.addresses.first()?.address, PORT)))
            .collect();
        let dir = lab.node(1)?.dir.clone();
        let rules = shortened(RULES, HELD);
        let mark = (lab.token(), lab.epoch);
        let prometheus =
            Prometheus::start(program, &lab.client, &dir, &targets, &rules, mark).await?;
        work(&mut lab, &context.vipshield, &prometheus).await
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome
}

/// The whole seconds since then, as Prometheus writes a range.
fn range(since: Instant) -> String {
    format!("[{}s]", clock::now().saturating_duration_since(since).as_secs())
}

/// Let some scrapes go by.
async fn scrapes(number: u32) {
    clock::pass(INTERVAL * number).await;
}

/// Every master's NIC at the same time; and until that is known everywhere.
async fn all(lab: &Lab, sequence: Sequence, ends: &str) -> Result<()> {
    let replays = (0..lab.nodes.len()).map(async |node| {
        let mut notes = Vec::new();
        measure::insist(sequence, lab, node, &mut Undisturbed, &mut notes).await
    });
    join_all(replays).await.into_iter().collect::<Result<Vec<_>>>()?;
    for node in 0..lab.nodes.len() {
        phase(lab, node, ends, failover(lab)).await?;
    }
    clock::pass(failover(lab)).await;
    Ok(())
}

/// An error unless the expression yields this number.
async fn is(prometheus: &Prometheus, expression: &str, expected: f64) -> Result<()> {
    let found = prometheus.number(expression).await?;
    let same = found.is_some_and(|found| (found - expected).abs() < 1e-9);
    ensure!(same, "{expression} is {found:?}, not {expected}");
    Ok(())
}

/// An error unless it yields numbers for both masters, and all of them are as wanted.
async fn both(
    prometheus: &Prometheus,
    expression: &str,
    wanted: impl Fn(f64) -> bool,
) -> Result<()> {
    let found = prometheus.query(expression).await?;
    let instances: BTreeSet<_> =
        found.iter().filter_map(|(labels, _)| labels.get("instance")).collect();
    let good = found.iter().all(|(_, value)| wanted(*value));
    ensure!(instances.len() == 2 && good, "{expression} is {found:?}");
    Ok(())
}

fn quiet<'a>(lab: &'a mut Lab, _: &'a Path, prometheus: &'a Prometheus) -> Work<'a> {
    Box::pin(async move {
        let began = clock::now();
        scrapes(3).await;
        both(prometheus, "vipshield_health{health=\"healthy\"}", |value| value > 0.5).await?;
        let before = prometheus.query(WITHHELD).await?;

        all(lab, Sequence::Bind, "bridged").await?;
        scrapes(2).await;
        both(prometheus, "vipshield_nic_phase{phase=\"bridged\"}", |value| value > 0.5).await?;
        all(lab, Sequence::Unbind, "free").await?;
        // What would fire has the time to.
        clock::pass(HELD).await;
        scrapes(3).await;
        both(prometheus, "vipshield_nic_phase{phase=\"free\"}", |value| value > 0.5).await?;
        still(lab, began)?;

        let range = range(began);
        both(prometheus, &format!("min_over_time(up{range})"), |value| value > 0.5).await?;
        // A scrape may be late on a busy machine; one in two is not.
        let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
        let often = |value| value > seconds / 2.0;
        both(prometheus, &format!("count_over_time(up{range})"), often).await?;
        for to in ["bridged", "free"] {
            let ended = format!("vipshield_transition_duration_seconds_count{{to=\"{to}\"}}");
            both(prometheus, &ended, |value| (value - 1.0).abs() < 1e-9).await?;
        }
        // What it does itself is withheld as well, and counted before: each has withheld more.
        let after = prometheus.query(WITHHELD).await?;
        let grew =
            |(labels, now): &&Sample| before.iter().any(|(of, then)| of == labels && *now > *then);
        ensure!(after.iter().filter(grew).count() == 2, "withheld {before:?}, then {after:?}");
        for owner in ["vipshield_vip_present", "vipshield_vip_wanted", "vipshield_router_owned"] {
            is(prometheus, &format!("sum({owner})"), 1.0).await?;
            let most = format!("max_over_time(sum({owner}){})", range.replace(']', ":1s]"));
            is(prometheus, &most, 1.0).await?;
            let whose = format!("{owner}{{instance=\"192.0.2.11:{PORT}\"}}");
            is(prometheus, &whose, 1.0).await?;
        }
        for none in ["vipshield_failed_actions_total", "vipshield_released_total"] {
            is(prometheus, &format!("sum({none})"), 0.0).await?;
        }

        prometheus.has_rules().await?;
        let fired = format!("count_over_time(ALERTS{{alertstate=\"firing\"}}{range})");
        let fired = prometheus.query(&fired).await?;
        ensure!(fired.is_empty(), "alerts while all was well: {fired:?}");
        Ok(())
    })
}

/// Wait until this alert fires, or is silent again.
async fn fires(prometheus: &Prometheus, alert: &str, so: bool) -> Result<()> {
    let what = format!("{alert} {}", if so { "to fire" } else { "to be silent" });
    clock::until(&what, TOLD, async || {
        let firing = prometheus.firing().await?;
        Ok((firing.iter().any(|name| name == alert) == so).then_some(()))
    })
    .await
}

fn alerts<'a>(lab: &'a mut Lab, vipshield: &'a Path, prometheus: &'a Prometheus) -> Work<'a> {
    Box::pin(async move {
        scrapes(3).await;
        prometheus.has_rules().await?;
        let firing = prometheus.firing().await?;
        ensure!(firing.is_empty(), "before anything is wrong: {firing:?}");

        failed_open(lab).await?;
        fires(prometheus, "VipshieldFailOpen", true).await?;

        split(lab, true)?;
        fires(prometheus, "VipshieldTwoOwners", true).await.context("two owners")?;
        split(lab, false)?;
        fires(prometheus, "VipshieldTwoOwners", false).await.context("one owner again")?;

        let owner =
            lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?.vrrp_child()?;
        kill(owner, Signal::SIGSTOP)?;
        let silent = fires(prometheus, "VipshieldSilentOwner", true).await;
        kill(owner, Signal::SIGCONT)?;
        silent.context("an owner that hangs")?;
        for node in &mut lab.nodes {
            node.keepalived.take().context("keepalived does not run")?.stop().await?;
        }
        fires(prometheus, "VipshieldNoOwner", true).await.context("no keepalived runs")?;
        measure::elect(lab, Role::Master).await?;
        fires(prometheus, "VipshieldNoOwner", false).await.context("keepalived runs again")?;

        // Among processes of its own it sees no keepalived.
        let running = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
        running.stop().await?;
        let nic = lab.config.nic.clone();
        lab.misplace_vipshield(vipshield, Place::Processes, Some(&nic))?;
        fires(prometheus, "VipshieldDegraded", true).await?;

        fires(prometheus, "VipshieldGone", false).await?;
        drop(lab.node_mut(1)?.vipshield.take());
        fires(prometheus, "VipshieldAway", true).await.context("one of two is gone")?;
        fires(prometheus, "VipshieldGone", false).await?;
        for node in &mut lab.nodes {
            drop(node.vipshield.take());
        }
        fires(prometheus, "VipshieldGone", true).await
    })
}

/// vipshield hangs for a while, and something is said of the NIC meanwhile.
async fn failed_open(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let vipshield = node.vipshield.as_ref().context("vipshield does not run")?;
    vipshield.freeze()?;
    clock::pass(FAIL_OPEN).await;
    let nic = &lab.config.nic;
    let said =
        node.host.shell(&format!("ip link set {nic} alias hung; ip link set {nic} alias ''"));
    vipshield.thaw()?;
    said
}

/// The masters reach everybody but each other.
fn split(lab: &Lab, so: bool) -> Result<()> {
    (0..lab.nodes.len()).try_for_each(|node| lab.isolate(node, so))
}
