//! A keepalived that runs a script every second: each time it forks, and the child is the same program
//! with the same sockets until it executes something else.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::Pid;

use super::scene::{Beginning, phase, quietly, staged_in, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::measure::Role;
use crate::sequence::Sequence;

/// Without a first line that names an interpreter keepalived 2.2.7 cannot execute it (`ENOEXEC`): the child
/// that it forks is a copy of itself to the end, some milliseconds later.
const SCRIPT: &str = "true\n";
/// Some runs of it.
const RUNS: Duration = Duration::from_secs(10);

/// For so long nothing may happen: some runs of the script.
const WATCH: Duration = Duration::from_secs(6);

/// On both roles, behind a bridge of another name and of the NIC's own.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (sequence, back) in
        [(Sequence::Bind, Sequence::Unbind), (Sequence::Exchange, Sequence::Unexchange)]
    {
        for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
            let name = format!("daemon-script-{sequence}{suffix}");
            let about = "a keepalived that runs a script notices nothing, nor do its peers";
            let directory = name.clone();
            all.push(Scenario::new(&name, about, true, move |context| {
                let directory = directory.clone();
                async move { unnoticed(context, role, [sequence, back], &directory).await }
            }));
        }
    }
    all
}

async fn unnoticed(
    context: Context,
    role: Role,
    sequences: [Sequence; 2],
    directory: &str,
) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    config.check = Some(SCRIPT.to_owned());
    let beginning = Beginning { role, shields: &[0], early: false };
    staged_in(config, directory, context, beginning, async |lab, _| {
        let [take, give_back] = sequences;
        copied(lab).await?;
        quietly(lab, take).await?;
        phase(lab, 0, "bridged", Duration::from_secs(5)).await?;
        let since = clock::now();
        copied(lab).await?;
        clock::pass(WATCH).await;
        still(lab, since)?;
        one_daemon(lab).await?;
        quietly(lab, give_back).await
    })
    .await
}

/// Wait until keepalived's VRRP process has a child that is a copy of it.
async fn copied(lab: &Lab) -> Result<()> {
    let daemon = lab.node(0)?.keepalived.as_ref().map(Keepalived::vrrp_child).transpose()?;
    let daemon = daemon.context("keepalived does not run")?;
    // It is there for too short a time to look now and then.
    tokio::task::spawn_blocking(move || {
        let begun = clock::now();
        while clock::now().duration_since(begun) < clock::patience(RUNS) {
            if has_copy(daemon)? {
                return Ok(());
            }
        }
        bail!("keepalived never had a copy of itself for a child")
    })
    .await?
}

fn has_copy(daemon: Pid) -> Result<bool> {
    let exe = |pid: Pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
    let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children"))?;
    let mut children = children.split_whitespace().filter_map(|it| it.parse().ok());
    Ok(children.any(|it| exe(Pid::from_raw(it)) == exe(daemon)))
}

/// An error unless the copies are no daemons to vipshield.
async fn one_daemon(lab: &Lab) -> Result<()> {
    let Some(vipshield) = &lab.node(0)?.vipshield else { return Ok(()) };
    let begun = clock::now();
    while clock::now().duration_since(begun) < clock::patience(Duration::from_secs(2)) {
        let status = vipshield.status().await?;
        let daemons = status.get("daemons").and_then(serde_json::Value::as_array);
        ensure!(daemons.is_some_and(|daemons| daemons.len() == 1), "daemons: {daemons:?}");
        clock::pass(Duration::from_millis(50)).await;
    }
    Ok(())
}
