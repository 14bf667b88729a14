//! A keepalived that runs a script every second: each time it forks, and the child is the same program
//! with the same sockets until it executes something else. And what such a script leaves running.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::Pid;

use super::scene::{Beginning, phase, quietly, staged_in, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::measure::Role;
use crate::release::Release;
use crate::sequence::Sequence;

/// Without a first line that names an interpreter keepalived 2.2.7 cannot execute it (`ENOEXEC`): the child
/// that it forks is a copy of itself to the end, some milliseconds later.
const SCRIPT: &str = "true\n";
/// Some runs of it.
const RUNS: Duration = Duration::from_secs(10);

/// Starts programs, once, and waits for none: in its process group, in a session of its own, and without the
/// environment that it was given.
const LEAVING: &str = "#!/bin/sh
cd \"${0%/*}\"
[ -e left ] && exit 0
stay='echo $$ >>left; exec sleep 3600'
sh -c \"$stay\" &
setsid sh -c \"$stay\" &
env -i setsid sh -c \"$stay\" &
";
/// So many.
const LEFT: usize = 3;

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
    let about =
        "what a script of keepalived's starts has none of the lab's files, and ends with the lab";
    all.push(Scenario::new("script-leaves-programs", about, false, leaving));
    all
}

/// A script's programs while the lab runs, and after it.
async fn leaving(context: Context) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    config.check = Some(LEAVING.to_owned());
    // The root of another release has none of the script's programs.
    config.keepalived = Release::installed();
    let mut lab = Lab::build(config).await?;
    // As one that whoever started the lab left open.
    let open = fs::File::open("/proc/self/environ").context("a file that is left open")?;
    fcntl(&open, FcntlArg::F_SETFD(FdFlag::empty())).context("a file that is left open")?;
    lab.start_keepalived(0)?;
    let list = lab.node(0)?.dir.join("left");
    let left: Vec<i32> = clock::until("what the script starts", RUNS, async || {
        let list = fs::read_to_string(&list).unwrap_or_default();
        let pids: Vec<i32> = list.lines().filter_map(|line| line.parse().ok()).collect();
        Ok((pids.len() == LEFT).then_some(pids))
    })
    .await?;
    let number = open.as_raw_fd().to_string();
    let held: Vec<_> = left
        .iter()
        .filter(|pid| fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok())
        .collect();
    drop(lab);
    let alive: Vec<_> =
        left.iter().filter(|pid| fs::exists(format!("/proc/{pid}")).unwrap_or(true)).collect();
    ensure!(alive.is_empty(), "of {left:?} {alive:?} outlive the lab");
    ensure!(held.is_empty(), "of {left:?} {held:?} have the lab's file");
    Ok(Vec::new())
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
