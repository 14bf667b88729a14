//! Real failures: a carrier that is lost in any phase, a NIC that is removed, a bridge that is
//! deleted. They fail over in time, and all returns to normal by itself.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::failures::{SLACK, told};
use super::scene::{Beginning, MOMENT, failover, gone, one_owner, phase, served_by, staged};
use super::switches::open_vswitch;
use super::{Context, Scenario};
use crate::clock;
use crate::config::DatapathKind;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};

/// What is untrue is withheld for so long at the most: vipshield's default.
pub(super) const DEADLINE: Duration = Duration::from_millis(1900);

/// Where in a sequence the carrier is lost: before its first step of this kind.
const MOMENTS: [(Sequence, &str, StepKind); 12] = [
    (Sequence::Bind, "early", StepKind::SetMacMapping),
    (Sequence::Bind, "moved", StepKind::SetHwaddr),
    (Sequence::Bind, "late", StepKind::AddPort),
    (Sequence::Unbind, "early", StepKind::DeletePort),
    (Sequence::Unbind, "moved", StepKind::ReplaceAddress),
    (Sequence::Unbind, "late", StepKind::DeleteBridge),
    // Nothing has the NIC's name; then the bridge has it.
    (Sequence::Exchange, "renamed", StepKind::AddBridge),
    (Sequence::Exchange, "late", StepKind::AddPort),
    (Sequence::Unexchange, "early", StepKind::DeletePort),
    (Sequence::Unexchange, "moved", StepKind::ReplaceAddress),
    (Sequence::Unexchange, "late", StepKind::DeleteBridge),
    (Sequence::Unexchange, "renamed", StepKind::NicDown),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all: Vec<Scenario> =
        MOMENTS.into_iter().map(|(sequence, when, step)| lost_at(sequence, when, step)).collect();
    all.push(scenario(
        "lost-before-bind",
        "the carrier is lost, then the NIC is taken; once it is back, so is the owner",
        async |lab| lost_before(lab).await,
    ));
    all.push(scenario(
        "bridge-deleted",
        "the bridge is deleted under the NIC: node2 takes over; with its address back, node1",
        async |lab| bridge_lost(lab, Loss::Deleted).await,
    ));
    let mut cleared = scenario(
        "switch-cleared",
        "ovs-vswitchd ends and takes its datapath along: node2 takes over, later node1 again",
        async |lab| bridge_lost(lab, Loss::Cleared).await,
    );
    cleared.only = Some(DatapathKind::Ovs);
    all.push(cleared);
    all.push(scenario(
        "nic-removed-free",
        "the NIC is removed: node2 takes over; put back, node1 owns the VIP again",
        async |lab| nic_removed(lab, None).await,
    ));
    all.push(scenario(
        "nic-removed-bound",
        "the NIC is removed from the bridge: node2 takes over, the bridge keeps no VIP",
        async |lab| nic_removed(lab, Some(Sequence::Bind)).await,
    ));
    all
}

fn scenario(
    name: &str,
    about: &str,
    work: impl AsyncFn(&mut Lab) -> Result<()> + Clone + 'static,
) -> Scenario {
    begun(name, about, false, work)
}

fn begun(
    name: &str,
    about: &str,
    early: bool,
    work: impl AsyncFn(&mut Lab) -> Result<()> + Clone + 'static,
) -> Scenario {
    let directory = name.to_owned();
    Scenario::new(name, about, true, move |context: Context| {
        let (directory, work) = (directory.clone(), work.clone());
        async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early };
            staged(&directory, context, beginning, async |lab, _| work(lab).await).await
        }
    })
}

fn lost_at(sequence: Sequence, when: &str, step: StepKind) -> Scenario {
    let about = format!("the carrier is lost in {sequence}, {when}, and comes back much later");
    // Within unexchange Kube-OVN puts back the VIP that it had listed before keepalived gave it up:
    // whose it is knows only a vipshield that saw keepalived take it.
    let early = sequence == Sequence::Unexchange;
    begun(&format!("lost-{sequence}-{when}"), &about, early, async move |lab| {
        lost_within(lab, sequence, step).await
    })
}

/// The first node has lost its carrier at `lost`: it knows by the deadline, gives the VIP up
/// everywhere, and node2 takes over.
pub(super) async fn fails_over(lab: &Lab, witnesses: &Witnesses, lost: Instant) -> Result<()> {
    let fault = told(lab, 0, "FAULT", lost, DEADLINE + SLACK).await?;
    let took = fault.saturating_duration_since(lost);
    ensure!(took <= clock::patience(DEADLINE + SLACK), "node1 knew after {took:?}");
    gone(lab, witnesses, 0, SLACK).await?;
    told(lab, 1, "MASTER", lost, failover(lab) + SLACK).await?;
    served_by(lab, witnesses, 1, failover(lab)).await
}

async fn lost_within(lab: &mut Lab, sequence: Sequence, step: StepKind) -> Result<()> {
    if let Some(before) = sequence.prerequisite() {
        before.run(lab, &mut Undisturbed).await.outcome?;
        phase(lab, 0, "bridged", SLACK).await?;
    }
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let mut failed = Ok(());
    let mut hook = Before::new(step, async || {
        let lost = clock::now();
        failed = match lab.cable(0, false) {
            Ok(()) => fails_over(lab, &witnesses, lost).await,
            Err(error) => Err(error),
        };
        Verdict::Continue
    });
    let outcome = sequence.run(lab, &mut hook).await.outcome;
    ensure!(hook.reached(), "the sequence had no such step");
    failed?;
    if let Err(error) = outcome {
        // The VIP that it had listed is gone: Kube-OVN begins again.
        log::info!("{sequence} failed, as it may: {error:#}");
        sequence.run(lab, &mut Undisturbed).await.outcome?;
    }
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    let end = if sequence.prerequisite().is_some() { "free" } else { "bridged" };
    recovers(lab, &witnesses, began, end).await?;
    // What keepalived counts against itself is right again: it fails the next time, too.
    let lost = clock::now();
    lab.cable(0, false)?;
    fails_over(lab, &witnesses, lost).await?;
    recovers(lab, &witnesses, began, end).await
}

/// The cable is plugged in again: the first node owns the VIP without anybody's help.
async fn recovers(
    lab: &Lab,
    witnesses: &Witnesses,
    began: Instant,
    end: &'static str,
) -> Result<()> {
    let plugged = clock::now();
    lab.cable(0, true)?;
    told(lab, 0, "MASTER", plugged, 2 * failover(lab)).await?;
    served_by(lab, witnesses, 0, failover(lab)).await?;
    phase(lab, 0, end, SLACK).await?;
    one_owner(lab, witnesses, began, clock::patience(2 * MOMENT))
}

async fn lost_before(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    lab.cable(0, false)?;
    told(lab, 0, "FAULT", began, SLACK).await?;
    fails_over(lab, &witnesses, began).await?;
    // The kernel takes no route whose link is down: Kube-OVN fails half-way, and begins again once
    // the carrier is back.
    let failed = Sequence::Bind.run(lab, &mut Undisturbed).await.outcome.is_err();
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    lab.cable(0, true)?;
    if failed {
        Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    }
    recovers(lab, &witnesses, began, "bridged").await
}

/// How the bridge under a NIC goes, and every address with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    /// Somebody deletes it.
    Deleted,
    /// ovs-vswitchd ends and takes its datapath along.
    Cleared,
}

async fn bridge_lost(lab: &mut Lab, how: Loss) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", SLACK).await?;

    let lost = clock::now();
    match how {
        Loss::Deleted => lab.delete_bridge().await?,
        Loss::Cleared => open_vswitch(lab)?.clear_switch().await?,
    }
    fails_over(lab, &witnesses, lost).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;

    if how == Loss::Cleared {
        // Once it runs again, an operator clears the empty bridge away.
        open_vswitch(lab)?.start_switch().await?;
        lab.delete_bridge().await?;
    }
    // The host's network service puts the address back.
    let returned = clock::now();
    lab.furnish(0)?;
    told(lab, 0, "MASTER", returned, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    phase(lab, 0, "free", SLACK).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

async fn nic_removed(lab: &mut Lab, taken: Option<Sequence>) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    if let Some(sequence) = taken {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        phase(lab, 0, "bridged", SLACK).await?;
    }
    let removed = clock::now();
    lab.unplug(0)?;
    told(lab, 0, "FAULT", removed, SLACK).await?;
    fails_over(lab, &witnesses, removed).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;

    if taken.is_some() {
        // An operator clears the bridge that lost its only port away.
        lab.delete_bridge().await?;
    }
    let returned = clock::now();
    lab.replug(0)?;
    told(lab, 0, "MASTER", returned, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    phase(lab, 0, "free", SLACK).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}
