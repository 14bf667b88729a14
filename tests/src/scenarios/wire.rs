//! What vipshield makes of what is said on the wire, and of silence.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::failures::{SLACK, told};
use super::scene::{MOMENT, failover, gone, one_owner, quietly, served_by, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::forge::Version;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};

/// What vipshield takes for the most, without adverts that tell otherwise.
pub(super) const DEADLINE_MS: u64 = 1900;
/// Seconds between two adverts; not a whole number, so it is version 3.
const QUICK: f64 = 0.2;
/// (3 - 1) such intervals, less a twentieth.
const QUICK_DEADLINE_MS: u64 = 380;

/// What is played.
#[derive(Clone, Copy, Debug)]
enum Play {
    Quick,
    Stopped,
    /// Killed after this sequence.
    HeldBefore(Option<Sequence>),
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let held = "a VIP that keepalived had before vipshield began goes when keepalived is killed";
    let plays = [
        (
            "quick-adverts",
            "with five adverts a second bind costs nothing, and a failure is told in time",
            Play::Quick,
        ),
        (
            "owner-stopped",
            "an owner that hangs and says nothing is noticed before the next one takes over",
            Play::Stopped,
        ),
        ("held-before-kill-free", held, Play::HeldBefore(None)),
        ("held-before-kill-bind", held, Play::HeldBefore(Some(Sequence::Bind))),
    ];
    let scenario = |(name, about, play): (&'static str, &str, Play)| {
        Scenario::new(name, about, true, move |context: Context| staged(name, context, play))
    };
    plays.into_iter().map(scenario).collect()
}

/// node1 owns the VIP and is then guarded.
async fn staged(name: &str, context: Context, play: Play) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    if matches!(play, Play::Quick) {
        config.advert_int = QUICK;
    }
    let mut lab = Lab::build(config).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        lab.start_vipshield(0, &context.vipshield).await?;
        match play {
            Play::Quick => quick(&mut lab).await,
            Play::Stopped => stopped(&mut lab).await,
            Play::HeldBefore(sequence) => held_before(&mut lab, sequence).await,
        }
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

pub(super) async fn status(lab: &Lab) -> Result<Value> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?.status().await
}

pub(super) async fn counter(lab: &Lab, name: &str) -> Result<u64> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?.counter(name).await
}

pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(super) fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// Wait until the status satisfies `is_so`.
pub(super) async fn shows(
    lab: &Lab,
    what: &str,
    limit: Duration,
    is_so: impl Fn(&Value) -> bool,
) -> Result<()> {
    let last = std::cell::RefCell::new(Value::Null);
    let what = format!("a status with {what}");
    let shown = clock::until(&what, limit, async || {
        let status = status(lab).await?;
        let so = is_so(&status);
        *last.borrow_mut() = status;
        Ok(so.then_some(()))
    });
    shown.await.with_context(|| format!("the last one: {}", last.borrow()))
}

/// The router of the lab, with node1 its owner.
fn is_owner(status: &Value) -> bool {
    owns(status, Version::V2, 51, "192.0.2.11")
}

/// Whether node1 owns this router, and says so from this address.
pub(super) fn owns(status: &Value, version: Version, router_id: u8, address: &str) -> bool {
    let version = match version {
        Version::V2 => 2,
        Version::V3 => 3,
    };
    list(status, "routers").iter().any(|router| {
        number(router, "version") == Some(version)
            && number(router, "router_id") == Some(router_id.into())
            && router.get("ours") == Some(&Value::Bool(true))
            && router.get("owner").and_then(Value::as_str) == Some(address)
    })
}

pub(super) fn has_deadline(status: &Value, ms: u64) -> bool {
    list(status, "nics").iter().any(|nic| number(nic, "deadline_ms") == Some(ms))
}

async fn quick(lab: &mut Lab) -> Result<()> {
    let fits = |status: &Value| has_deadline(status, QUICK_DEADLINE_MS);
    shows(lab, "the deadline of quick adverts", SLACK * 4, fits).await?;
    quietly(lab, Sequence::Bind).await?;
    quietly(lab, Sequence::Unbind).await?;
    ensure!(fits(&status(lab).await?), "the deadline moved");

    // The node's own address is gone for good. Of no transition, but it might be the first of one.
    let node = lab.node(0)?;
    let own = *node.config.addresses.first().context("node1 has no address")?;
    let removed = clock::now();
    node.host.shell(&format!("ip address delete {own} dev {}", lab.config.nic))?;
    let fault = told(lab, 0, "FAULT", removed, Duration::from_millis(DEADLINE_MS)).await?;
    let took = fault.saturating_duration_since(removed);
    let limit = clock::patience(Duration::from_millis(QUICK_DEADLINE_MS) + SLACK);
    ensure!(took <= limit, "keepalived was told after {took:?}");
    let soonest = Duration::from_millis(QUICK_DEADLINE_MS - 80);
    ensure!(took >= soonest, "nothing was withheld: keepalived knew after {took:?}");
    Ok(())
}

async fn stopped(lab: &mut Lab) -> Result<()> {
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    let process = keepalived.vrrp_child()?;
    let began = clock::now();
    kill(process, Signal::SIGSTOP).context("stopping keepalived")?;
    let silent =
        |status: &Value| status.get("counters").and_then(|all| number(all, "silences")) == Some(1);
    let seen = shows(lab, "an owner that is silent", failover(lab), silent).await;
    let noticed = clock::now();
    let taken = told(lab, 1, "MASTER", began, failover(lab)).await;
    kill(process, Signal::SIGCONT).context("resuming keepalived")?;
    seen?;
    ensure!(noticed <= taken? + clock::patience(MOMENT), "it was noticed when it was too late");
    // It is still the better one.
    told(lab, 1, "BACKUP", began, 2 * failover(lab)).await?;
    shows(lab, "this node as owner", 2 * failover(lab), is_owner).await
}

async fn held_before(lab: &mut Lab, sequence: Option<Sequence>) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    if let Some(sequence) = sequence {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(failover(lab)).await;
    }
    still(lab, began)?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    let killed = clock::now();
    drop(lab.node_mut(0)?.keepalived.take());
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(killed);
    ensure!(late <= clock::patience(SLACK), "the VIP left node1 after {late:?}");
    told(lab, 1, "MASTER", killed, failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))
}
