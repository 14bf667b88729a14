//! A keepalived that begins anew while a sequence has paused half-way.
//!
//! Kube-OVN's own steps are milliseconds apart, but it may hang between any two of them, and
//! whoever restarts keepalived does not ask. What becomes of it in the meantime may be what
//! keepalived makes of a half-moved node; once the sequence is over, all has to be right.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::restarts::{Anew, heard_only, own_source, speaks_alone};
use super::scene::{Beginning, failover, one_owner, staged};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::witness::advert::AdvertWitness;
use crate::witness::timeline::Window;

/// How long the sequence pauses: a keepalived that starts has got to its last state by then.
const PAUSE: Duration = Duration::from_secs(5);

/// How long two nodes may have the VIP when the one of higher priority takes it back, which it does
/// before it says so, on a busy machine. An owner that is not heard is one for seconds.
const HANDOVER: Duration = Duration::from_millis(500);

/// Where a sequence pauses.
#[derive(Clone, Copy, Debug)]
struct Pause {
    sequence: Sequence,
    /// Before its first step of this kind.
    step: StepKind,
    name: &'static str,
}

const fn pause(sequence: Sequence, step: StepKind, name: &'static str) -> Pause {
    Pause { sequence, step, name }
}

/// Each has the node in another state.
const PAUSES: [Pause; 9] = [
    // The addresses are on a bridge that is down.
    pause(Sequence::Bind, StepKind::SetHwaddr, "moved"),
    // They are on a bridge that is up and has no uplink.
    pause(Sequence::Bind, StepKind::AddPort, "unplugged"),
    // The bridge has the addresses and has let go of the NIC.
    pause(Sequence::Unbind, StepKind::DeleteAddress, "let-go"),
    // The NIC has its addresses, and not its routes.
    pause(Sequence::Unbind, StepKind::NicUp, "back"),
    // No interface has the NIC's name.
    pause(Sequence::Exchange, StepKind::AddBridge, "nameless"),
    // The bridge has the name and the addresses, and no uplink.
    pause(Sequence::Exchange, StepKind::AddPort, "unplugged"),
    // The same, let go of.
    pause(Sequence::Unexchange, StepKind::DeleteAddress, "let-go"),
    // The NIC has its addresses; the bridge has its name.
    pause(Sequence::Unexchange, StepKind::DeleteBridge, "back"),
    // The NIC has its addresses; nothing has its name.
    pause(Sequence::Unexchange, StepKind::NicDown, "nameless"),
];

/// Every way of beginning anew, at each of these moments, on both roles.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for anew in Anew::ALL {
        for at in PAUSES {
            for role in [Role::Master, Role::Backup] {
                all.push(scenario(anew, at, role));
            }
        }
    }
    all
}

/// keepalived finds its interface by its name, which is elsewhere.
fn is_name_elsewhere(at: Pause) -> bool {
    matches!(at.sequence, Sequence::Exchange | Sequence::Unexchange)
}

fn scenario(anew: Anew, at: Pause, role: Role) -> Scenario {
    let (suffix, who) = match role {
        Role::Master => ("", "the owner"),
        Role::Backup => ("-backup", "the waiting node"),
    };
    let Pause { sequence, step, name } = at;
    let name = format!("daemon-{}-{sequence}-{name}{suffix}", anew.name());
    let about = format!(
        "keepalived's {} on {who} before {sequence}'s {step:?}: right once all is over",
        anew.name()
    );
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, true, move |context| {
        let directory = directory.clone();
        async move { Box::pin(begin_anew(context, anew, at, role, &directory)).await }
    });
    // A process that is started finds what one that is respawned finds, and who ends in order has
    // less to be cleared up.
    scenario.extra = role == Role::Backup || !matches!(anew, Anew::Killed | Anew::Reloaded);
    scenario
}

async fn begin_anew(context: Context, anew: Anew, at: Pause, role: Role, directory: &str) -> Runs {
    let beginning = Beginning { role, shields: &[0], early: true };
    staged(directory, context, beginning, async |lab, _| halfway(lab, anew, at, role).await).await
}

async fn halfway(lab: &mut Lab, anew: Anew, at: Pause, role: Role) -> Result<()> {
    if let Some(before) = at.sequence.prerequisite() {
        before.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(Duration::from_secs(1)).await;
    }
    let witnesses = Witnesses::start(lab).await?;
    let adverts = AdvertWitness::start(&lab.client)?;
    let began = clock::now();
    let mut running = lab.node_mut(0)?.keepalived.take();
    let mut since = Ok(began);
    let replay = {
        let mut hook = Before::new(at.step, async || {
            since = anew.happen(lab, &mut running).await;
            clock::pass(PAUSE).await;
            Verdict::Continue
        });
        let replay = at.sequence.run(lab, &mut hook).await;
        ensure!(hook.reached(), "{} has no such step", at.sequence);
        replay
    };
    lab.node_mut(0)?.keepalived = running;
    let since = since?;
    if !lab.node_mut(0)?.keepalived.as_mut().is_some_and(Keepalived::running) {
        // Without an interface of that name it does not start. systemd tries again and again.
        ensure!(at.name == "nameless", "keepalived ended");
        lab.start_keepalived(0)?;
    }
    if let Err(error) = replay.outcome {
        // What it had listed is not what there is: Kube-OVN begins again.
        log::info!("{} failed, as it may: {error:#}", at.sequence);
        let mut notes = Vec::new();
        measure::insist(at.sequence, lab, 0, &mut Undisturbed, &mut notes).await?;
    }
    let owner = usize::from(role == Role::Backup);
    speaks_alone(lab, &witnesses, &adverts, owner).await.context("when all was over")?;
    let settled = clock::now();
    clock::pass(failover(lab)).await;
    speaks_alone(lab, &witnesses, &adverts, owner).await.context("and it stays so")?;
    one_owner(lab, &witnesses, began, clock::patience(HANDOVER))?;
    let states: &[&str] = match role {
        Role::Master if anew == Anew::Reloaded => &["MASTER"],
        Role::Master => &["BACKUP", "MASTER"],
        Role::Backup => &["BACKUP"],
    };
    // One that reads its interfaces anew finds others by their names.
    if anew == Anew::Reloaded || !is_name_elsewhere(at) {
        heard_only(lab, since, states)?;
    }
    if role == Role::Backup {
        let told = measure::transitions(lab, Window { from: began, to: clock::now() });
        let told: Vec<_> = told.iter().filter(|told| told.node != "node1").collect();
        ensure!(told.is_empty(), "the owner changed its state: {told:?}");
        lab.node_mut(1)?.keepalived.take().context("keepalived does not run")?.stop().await?;
        speaks_alone(lab, &witnesses, &adverts, 0).await.context("alone")?;
    }
    own_source(lab, &adverts, settled)
}
