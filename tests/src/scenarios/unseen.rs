//! A vipshield that can open no file for a while, and so sees no process: keepalived is there all the
//! same, and what vipshield did for it has to stay.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::Scenario;
use super::scene::{Beginning, gone, quietly, served_by, staged, still};
use crate::clock;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::Sequence;
use crate::vipshield::is_ready;

/// For so long nothing can be opened: some looks.
const BLIND: Duration = Duration::from_secs(3);
/// A look that failed is repeated no later than after this.
const AGAIN: Duration = Duration::from_secs(5);
/// So soon the VIP is gone when its keepalived is.
const SOON: Duration = Duration::from_secs(1);
/// How many descriptors are left: none, one for a directory in /proc, and one for the process to be
/// held; with one more its socket could be had.
const ROOMS: [u64; 3] = [0, 1, 2];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "daemon-unseen",
        "vipshield without descriptors takes nobody for dead, and says so; who dies takes his VIP along",
        true,
        |context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            staged("daemon-unseen", context, beginning, async |lab, _| unseen(lab).await).await
        },
    )]
}

async fn unseen(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    for sequence in [None, Some(Sequence::Bind)] {
        if let Some(sequence) = sequence {
            quietly(lab, sequence).await?;
        }
        for room in ROOMS {
            let place = sequence.map_or("free".to_owned(), |sequence| format!("after {sequence}"));
            let what = || format!("{place}, room for {room} descriptors");
            stays(lab, &witnesses, room).await.with_context(what)?;
        }
    }
    dies(lab, &witnesses).await
}

async fn stays(lab: &mut Lab, witnesses: &Witnesses, room: u64) -> Result<()> {
    let since = clock::now();
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let limit = vipshield.limit_descriptors(room).await?;
    blind(lab).await?;
    clock::pass(BLIND).await;
    ensure!(blind_now(lab).await?, "it sees again, with room for {room} descriptors");
    still(lab, since)?;
    served_by(lab, witnesses, 0, SOON).await?;
    drop(limit);
    seeing(lab).await?;
    clock::pass(SOON).await;
    still(lab, since)?;
    let lost = witnesses.vip_changes(0).into_iter().find(|(at, there)| *at >= since && !there);
    ensure!(lost.is_none(), "the VIP was taken off");
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let log = vipshield.log();
    let words = ["is gone", "is taken off", "already has a filter"];
    let wrong = log
        .iter()
        .find(|line| line.at >= since && words.iter().any(|words| line.text.contains(words)));
    ensure!(wrong.is_none(), "vipshield said {wrong:?}");
    Ok(())
}

/// keepalived is killed while vipshield can open nothing.
async fn dies(lab: &mut Lab, witnesses: &Witnesses) -> Result<()> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let limit = vipshield.limit_descriptors(0).await?;
    blind(lab).await?;
    // Not even the one that it keeps for who asks.
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let none = vipshield.no_descriptors()?;
    let keepalived = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
    // The parent may neither start another one nor tell this one to end in order.
    let child = keepalived.vrrp_child()?;
    let parents = keepalived.processes()?.into_iter().filter(|process| *process != child);
    let parents: Vec<_> = parents.collect();
    for parent in &parents {
        kill(*parent, Signal::SIGSTOP).context("keepalived's parent")?;
    }
    kill(child, Signal::SIGKILL).context("keepalived's VRRP process")?;
    for parent in &parents {
        kill(*parent, Signal::SIGKILL).context("keepalived's parent")?;
    }
    gone(lab, witnesses, 0, SOON).await?;
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let log = vipshield.log();
    let last = |words: &str| log.iter().rposition(|line| line.text.contains(words));
    ensure!(last("is gone") > last("are looked at again"), "it sees again");
    // The outer one last, for it has the limit that there was.
    drop(none);
    drop(limit);
    drop(keepalived);
    seeing(lab).await
}

/// Wait until the status says that the daemons cannot be looked at, and why.
async fn blind(lab: &Lab) -> Result<()> {
    clock::until("a status that is not ready, and says why", AGAIN, async || {
        Ok(blind_now(lab).await?.then_some(()))
    })
    .await
}

async fn blind_now(lab: &Lab) -> Result<bool> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let status = vipshield.status().await?;
    let warnings = status.get("warnings").and_then(Value::as_array).into_iter().flatten();
    let said = warnings.filter_map(Value::as_str).any(|warning| {
        ["cannot be looked at", "Too many open files", "LimitNOFILE"]
            .iter()
            .all(|words| warning.contains(words))
    });
    Ok(said && status.get("health").and_then(Value::as_str) == Some("degraded"))
}

async fn seeing(lab: &mut Lab) -> Result<()> {
    clock::until("a status that is ready again", AGAIN, async || {
        let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
        let status = vipshield.status().await?;
        let quiet = status.get("warnings").and_then(Value::as_array).is_some_and(Vec::is_empty);
        Ok((is_ready(&status) && quiet).then_some(()))
    })
    .await
}
