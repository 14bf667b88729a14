//! The NICs of all masters are taken at once, as they are wherever a `ProviderNetwork` is made: each
//! node's daemon hears of it in the same moment, or a little later.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::join_all;

use super::matrix::{SEQUENCES, undisturbed};
use super::scene::{MOMENT, failover, gone, one_owner, phase, served_by, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{LabConfig, Taken};
use crate::lab::Lab;
use crate::measure::{self, Role, RunResult, RunSpec, Witnesses};
use crate::report;
use crate::sequence::{Sequence, Undisturbed};

/// So much later than the one before it a node's NIC is taken.
const OFFSETS_MS: [u64; 6] = [0, 3, 20, 60, 400, 1500];

/// Which node comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Owner,
    /// The one that would be owner last of all.
    Last,
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    all.extend(SEQUENCES.map(|sequence| measured(sequence, true)));
    // Those that give back what keepalived had lost for good show nothing of their own.
    for sequence in [Sequence::Bind, Sequence::Exchange] {
        all.push(measured(sequence, false));
        for offset in OFFSETS_MS {
            for first in [First::Owner, First::Last] {
                if offset > 0 || first == First::Owner {
                    all.push(one_after_the_other(sequence, offset, first));
                }
            }
        }
    }
    all
}

/// All at once, with the witnesses of every sequence.
fn measured(sequence: Sequence, shielded: bool) -> Scenario {
    let ending = if shielded { "shielded" } else { "unshielded" };
    let name = format!("cluster-{sequence}-{ending}");
    let about = if shielded {
        format!("{sequence} on three masters at once: no transition, one owner, TCP alive")
    } else {
        format!("{sequence} on three masters at once fails every one, as it is known to")
    };
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, shielded, move |context: Context| {
        let directory = directory.clone();
        async move { measure(context, sequence, shielded, &directory).await }
    });
    scenario.measures = shielded;
    scenario
}

async fn measure(context: Context, sequence: Sequence, shielded: bool, directory: &str) -> Runs {
    let mut results = Vec::new();
    for run in 1..=if shielded { context.runs } else { 1 } {
        let mut spec = RunSpec::new(context.datapath, sequence, Role::Master);
        spec.nodes = Taken::All;
        spec.shield = shielded.then(|| context.vipshield.clone());
        spec.logs = context.logs.as_ref().map(|logs| logs.join(format!("{directory}-{run}")));
        let result = measure::run_undivided(&spec).await?;
        let check = if shielded { undisturbed(&result) } else { every_node_disturbed(&result) };
        if let Err(error) = check {
            bail!("run {run}: {error:#} ({})", report::verdict(&result));
        }
        results.push(result);
    }
    Ok(results)
}

/// What is known to happen without a shield.
fn every_node_disturbed(result: &RunResult) -> Result<()> {
    let failed = |node: &str| {
        result.transitions.iter().any(|seen| seen.node == node && seen.state == "FAULT")
    };
    for node in ["node1", "node2", "node3"] {
        ensure!(failed(node), "{node} is not in FAULT: the lab does not tell the truth");
    }
    Ok(())
}

/// Each node a little later than the one before it. Then the owner fails while all are ports, comes
/// back, and the NICs are given back in the same order.
fn one_after_the_other(sequence: Sequence, offset: u64, first: First) -> Scenario {
    let (infix, who) = match first {
        First::Owner => ("", "the owner first"),
        First::Last => ("-last-first", "the owner last"),
    };
    let name = format!("cluster-{sequence}-{offset}ms{infix}");
    let about = format!(
        "{sequence} on three masters, {offset} ms apart, {who}; a failover and back; {}",
        sequence.opposite()
    );
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, true, move |context: Context| {
        let directory = directory.clone();
        let offset = Duration::from_millis(offset);
        async move {
            let mut lab = Lab::build(LabConfig::cluster(context.datapath)).await?;
            let outcome = there_and_back(&mut lab, &context.vipshield, sequence, offset, first);
            let outcome = outcome.await;
            if let Some(logs) = &context.logs {
                lab.save_logs(&logs.join(directory))?;
            }
            outcome.map(|()| Vec::new())
        }
    });
    scenario.extra = !matches!(
        (sequence, offset, first),
        (Sequence::Bind, 3, First::Last)
            | (Sequence::Bind, 400, First::Owner)
            | (Sequence::Exchange, 20, First::Owner)
            | (Sequence::Exchange, 1500, First::Last)
    );
    scenario
}

async fn there_and_back(
    lab: &mut Lab,
    vipshield: &Path,
    sequence: Sequence,
    offset: Duration,
    first: First,
) -> Result<()> {
    measure::elect(lab, Role::Master).await?;
    for node in 0..lab.nodes.len() {
        lab.start_vipshield(node, vipshield).await?;
    }
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    apart(lab, sequence, offset, first).await.context("taken")?;
    still(lab, began).context("taken")?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    for node in 0..lab.nodes.len() {
        phase(lab, node, "bridged", failover(lab)).await?;
    }

    lab.cable(0, false)?;
    gone(lab, &witnesses, 0, failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await.context("the owner failed")?;
    lab.cable(0, true)?;
    served_by(lab, &witnesses, 0, 2 * failover(lab)).await.context("the owner is back")?;

    let returned = clock::now();
    apart(lab, sequence.opposite(), offset, first).await.context("given back")?;
    // A failure told while names are exchanged has keepalived take the bridge for its NIC: that goes.
    if sequence == Sequence::Bind {
        still(lab, returned).context("given back")?;
    }
    served_by(lab, &witnesses, 0, 2 * failover(lab)).await.context("given back")?;
    // A failover that is heard of is a hand-over: the one takes the VIP as the other lets go of it.
    one_owner(lab, &witnesses, began, MOMENT)
}

/// Replay a sequence on all nodes, each so much later than the one before, and let some time go by
/// in which a node that hears no adverts would make itself owner.
async fn apart(lab: &Lab, sequence: Sequence, offset: Duration, first: First) -> Result<()> {
    let last = lab.nodes.len().saturating_sub(1);
    let nodes = (0..lab.nodes.len()).map(async |turn| {
        clock::pass(offset * turn as u32).await;
        let node = if first == First::Owner { turn } else { last - turn };
        let mut notes = Vec::new();
        let done = measure::insist(sequence, lab, node, &mut Undisturbed, &mut notes).await;
        done.map(drop).with_context(|| format!("node{}: {}", node + 1, notes.join("; ")))
    });
    join_all(nodes).await.into_iter().collect::<Result<()>>()?;
    clock::pass(failover(lab)).await;
    Ok(())
}
