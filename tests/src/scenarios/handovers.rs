//! One vipshield takes over from another: what fails on the way costs nothing either.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::failures::{SLACK, told};
use super::real_failures::DEADLINE;
use super::scene::{MOMENT, failover, gone, one_owner, phase, served_by, still};
use super::stops::{LATE, SHIELD, staged};
use super::{Context, Scenario};
use crate::clock;
use crate::config::ShieldConfig;
use crate::lab::Lab;
use crate::measure::Witnesses;
use crate::sequence::{Sequence, Undisturbed};
use crate::vipshield::Vipshield;

/// Moments at which a successor is killed, counted from its start: while it prepares, while it waits, while
/// it takes over.
const KILLED_AFTER_MS: [u64; 8] = [20, 80, 150, 220, 300, 400, 600, 900];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "handover-everywhere",
            "taken over free, bridged and exchanged, on both nodes; each time the next sequence goes as ever",
            true,
            |context| staged("handover-everywhere", context, &[0, 1], everywhere),
        ),
        Scenario::new(
            "handover-killed",
            "whoever is to take over is killed on the way: the one that runs goes on",
            true,
            |context| staged("handover-killed", context, &[0], killed),
        ),
        Scenario::new(
            "handover-and-again",
            "who handed over is started again, as Kubernetes does: it stands by, and takes over at the end",
            true,
            |context| staged("handover-and-again", context, &[0], again),
        ),
        Scenario::new(
            "handover-frozen",
            "whoever was told everything hangs, and then the VIP's owner loses its address: it fails over",
            true,
            |context| staged("handover-frozen", context, &[0], frozen),
        ),
        Scenario::new(
            "handover-frozen-stop",
            "whoever was told everything hangs, and the one that told it is stopped: it ends in order",
            true,
            |context| staged("handover-frozen-stop", context, &[0], frozen_and_stopped),
        ),
    ]
}

/// Another vipshield takes over on this node.
pub(super) async fn take_over(lab: &mut Lab, node: usize, program: &Path) -> Result<()> {
    let before = lab.node_mut(node)?.vipshield.take().context("vipshield does not run")?;
    let next = lab.spawn_vipshield(node, program)?;
    before.hands_over().await?;
    lab.node_mut(node)?.vipshield.insert(next).guards().await
}

async fn everywhere(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    let from = clock::now();
    for sequence in [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange] {
        for node in 0..2 {
            take_over(lab, node, &context.vipshield).await?;
        }
        let (mut one, mut other) = (Undisturbed, Undisturbed);
        let (one, other) =
            tokio::join!(sequence.run_at(lab, 0, &mut one), sequence.run_at(lab, 1, &mut other));
        one.outcome.and(other.outcome)?;
        clock::pass(LATE).await;
        still(lab, from).with_context(|| format!("after {sequence}"))?;
    }
    for node in 0..2 {
        take_over(lab, node, &context.vipshield).await?;
    }
    clock::pass(LATE).await;
    still(lab, from)?;
    served_by(lab, witnesses, 0, SLACK).await?;
    one_owner(lab, witnesses, from, Duration::ZERO)
}

async fn killed(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    let from = clock::now();
    for after in KILLED_AFTER_MS {
        let next = lab.spawn_vipshield(0, &context.vipshield)?;
        clock::pass(clock::patience(Duration::from_millis(after))).await;
        next.kill().await?;
        let running = lab.node_mut(0)?.vipshield.as_mut().context("vipshield does not run")?;
        let guards = running.guards().await;
        if running.runs() {
            guards.with_context(|| format!("killed after {after} ms"))?;
        } else {
            // It had been taken over from, and ends: the next one was killed a moment after that.
            lab.start_vipshield(0, &context.vipshield).await?;
        }
        clock::pass(SLACK).await;
    }
    let sequences = [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange];
    for sequence in sequences {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(failover(lab)).await;
    }
    still(lab, from)?;
    served_by(lab, witnesses, 0, SLACK).await?;
    one_owner(lab, witnesses, from, Duration::ZERO)
}

/// What a predecessor says when it has told everything.
const TOLD: &str = "nothing is decided here any more";
/// What it says when that was taken.
const TAKEN: &str = "has taken over";
/// So long it waits for that, and so long it takes at the most to begin anew.
const WAITS: Duration = Duration::from_secs(3);
const BEGINS: Duration = Duration::from_secs(2);

/// A busy machine may give the successor the moment in between, and the lab none.
const ATTEMPTS: usize = 5;

/// Starts another vipshield and stops it in its tracks between the moment in which it was told everything and
/// the one in which it has taken over.
async fn freeze_successor(lab: &mut Lab, program: &Path) -> Result<Vipshield> {
    for _ in 0..ATTEMPTS {
        let before = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
        let said =
            |words: &str| before.log().iter().filter(|line| line.text.contains(words)).count();
        let (told, taken) = (said(TOLD), said(TAKEN));
        let next = lab.spawn_vipshield(0, program)?;
        let limit = clock::now() + clock::patience(Duration::from_secs(15));
        while said(TOLD) == told {
            ensure!(clock::now() < limit, "nobody was told anything");
            clock::pass(Duration::from_micros(200)).await;
        }
        next.freeze()?;
        if said(TAKEN) == taken {
            lab.node_mut(0)?.vipshield = Some(before);
            return Ok(next);
        }
        next.thaw()?;
        before.hands_over().await?;
        lab.node_mut(0)?.vipshield.insert(next).guards().await?;
    }
    bail!("it had taken over before it could be frozen, {ATTEMPTS} times: nothing was tried")
}

async fn frozen(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", SLACK).await?;
    let next = freeze_successor(lab, &context.vipshield).await?;
    let node = lab.node(0)?;
    let own = *node.config.addresses.first().context("node1 has no address")?;
    let lost = clock::now();
    node.host.shell(&format!("ip address delete {own} dev {}", lab.config.bridge))?;
    // The guard lets through what comes once it is not renewed. What came before is for the one that begins
    // anew.
    let limit = WAITS + BEGINS + DEADLINE + SLACK;
    told(lab, 0, "FAULT", lost, limit).await?;
    gone(lab, witnesses, 0, SLACK).await?;
    served_by(lab, witnesses, 1, failover(lab)).await?;
    // It wakes, and nobody needs it.
    next.thaw()?;
    clock::pass(LATE).await;
    served_by(lab, witnesses, 1, SLACK).await?;
    one_owner(lab, witnesses, lost, clock::patience(MOMENT))?;
    let running = lab.node_mut(0)?.vipshield.as_mut().context("vipshield does not run")?;
    ensure!(running.runs(), "the one that runs has ended");
    Ok(())
}

async fn frozen_and_stopped(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    let from = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", SLACK).await?;
    let _frozen = freeze_successor(lab, &context.vipshield).await?;
    lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await?;
    clock::pass(failover(lab)).await;
    still(lab, from)?;
    served_by(lab, witnesses, 0, SLACK).await?;
    one_owner(lab, witnesses, from, Duration::ZERO)
}

fn runs(lab: &Lab) -> Result<&Vipshield> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")
}

/// A rolling update with two pods at once: the old pod's container is started again when it has ended, until
/// the pod is deleted.
async fn again(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    let from = clock::now();
    let as_instance = |instance| ShieldConfig { instance: Some(instance), ..SHIELD };
    let program = context.vipshield.as_path();
    lab.config.shield = as_instance("old");
    take_over(lab, 0, program).await?;
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    // Another pod sees another file system.
    lab.config.shield = ShieldConfig { apart: true, ..as_instance("new") };
    take_over(lab, 0, program).await?;
    let new = runs(lab)?.pid();

    lab.config.shield = as_instance("old");
    let mut old = lab.spawn_vipshield(0, program)?;
    clock::pass(LATE).await;
    ensure!(old.runs(), "what handed over, started again, did not wait");
    let (code, text) = old.answers().await?;
    ensure!(code == 0 && text.contains("stands by"), "its probe: {code}, {text:?}");
    let status = runs(lab)?.status().await?;
    let pid = status.get("pid").and_then(serde_json::Value::as_i64);
    ensure!(pid == Some(new.as_raw().into()), "{pid:?} answers, not {new}");
    still(lab, from)?;

    // The rollout is undone: the new one goes.
    let new = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    new.stop().await?;
    lab.node_mut(0)?.vipshield.insert(old).guards().await?;
    phase(lab, 0, "bridged", SLACK).await?;
    Sequence::Unbind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(failover(lab)).await;
    still(lab, from)?;
    served_by(lab, witnesses, 0, SLACK).await?;
    one_owner(lab, witnesses, from, Duration::ZERO)
}
