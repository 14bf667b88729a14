//! vipshield is stopped, or killed, and started again: an upgrade. While the NIC is a port nobody notices,
//! however long it takes; and a stop while the NIC is on its way waits until it has arrived.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Notify;

use super::failures::SLACK;
use super::ground::{Ground, Place, on_guard};
use super::matrix::OWED_TO_THE_MACHINE;
use super::rough::ended;
use super::scene::{Beginning, failover, gone, one_owner, served_by, staged_in, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{LabConfig, ShieldConfig};
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::{Answer, Hooks, Sequence, Step, Undisturbed, Verdict};
use crate::vipshield::Vipshield;
use crate::witness::timeline::Window;

/// What it may keep, it keeps; and it has no capability but those it needs.
const SHIELD: ShieldConfig = ShieldConfig { keeps: true, least_privilege: true };
/// How long nothing runs in place of vipshield.
const WITHOUT: Duration = Duration::from_secs(10);
const LONG_WITHOUT: Duration = Duration::from_mins(1);
/// How long a late consequence may take to show: three adverts that were not heard, and a skew.
const LATE: Duration = Duration::from_secs(4);
/// The longest that a step of Kube-OVN's takes in which it starts a process.
const EXEC_MS: u64 = 60;
/// A stop comes so long after a sequence has begun, at the most.
const LATEST_MS: u64 = 500;

/// How vipshield ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Stopped,
    Killed,
}

impl End {
    async fn happen(self, vipshield: Vipshield) -> Result<()> {
        match self {
            Self::Stopped => vipshield.stop().await,
            Self::Killed => vipshield.kill().await,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Killed => "killed",
        })
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for sequence in [Sequence::Bind, Sequence::Exchange] {
        for end in [End::Stopped, End::Killed] {
            for (without, suffix) in [(WITHOUT, ""), (LONG_WITHOUT, "-long")] {
                let name = format!("{sequence}-kept-{end}{suffix}");
                let about = format!(
                    "after {sequence} on both nodes vipshield is {end} on both, and started {} s later: \
                     nobody notices",
                    without.as_secs()
                );
                let directory = name.clone();
                let mut scenario = Scenario::new(&name, &about, true, move |context| {
                    let directory = directory.clone();
                    async move {
                        staged(&directory, context, &[0, 1], async |lab, witnesses, context| {
                            kept(lab, witnesses, context, (sequence, end), without).await
                        })
                        .await
                    }
                });
                scenario.extra = without == LONG_WITHOUT;
                all.push(scenario);
            }
        }
    }
    for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
        for (rounds, every) in [(4, ""), (100, super::EVERY_STEP)] {
            let name = format!("stops-at-random{suffix}{every}");
            let about = format!(
                "vipshield stopped and started at {rounds} moments of the four sequences, in turn: nobody \
                 notices"
            );
            all.push(Scenario::new(&name, &about, true, move |context| {
                Box::pin(at_random(context, role, rounds))
            }));
        }
    }
    all.push(Scenario::new(
        "kept-given-up",
        "stopped while the NIC is a port; keepalived ends meanwhile: the VIP it left goes with the next start",
        true,
        |context| staged("kept-given-up", context, &[0], given_up),
    ));
    all.push(Scenario::new(
        "kept-given-back",
        "stopped while the NIC is a port, which is given back meanwhile: right again with the next start",
        true,
        |context| staged("kept-given-back", context, &[0], given_back),
    ));
    all.push(Scenario::new(
        "kept-after-keepalived",
        "keepalived ends before vipshield does, as at a reboot: no VIP is left",
        true,
        |context| staged("kept-after-keepalived", context, &[0], after_keepalived),
    ));
    all
}

/// The lab of the design, with an owner whose vipshield keeps what it may.
async fn staged(
    name: &str,
    context: Context,
    shields: &'static [usize],
    work: impl AsyncFnOnce(&mut Lab, &Witnesses, &Context) -> Result<()>,
) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    config.shield = SHIELD;
    let beginning = Beginning { role: Role::Master, shields, early: false };
    staged_in(config, name, context, beginning, async |lab, context| {
        let witnesses = Witnesses::start(lab).await?;
        work(lab, &witnesses, context).await
    })
    .await
}

async fn end(lab: &mut Lab, node: usize, end: End) -> Result<()> {
    let vipshield = lab.node_mut(node)?.vipshield.take().context("vipshield does not run")?;
    end.happen(vipshield).await
}

/// On both nodes at once, as one `ProviderNetwork` has it done.
async fn on_both(lab: &Lab, sequence: Sequence) -> Result<()> {
    let (mut one, mut other) = (Undisturbed, Undisturbed);
    let (one, other) =
        tokio::join!(sequence.run_at(lab, 0, &mut one), sequence.run_at(lab, 1, &mut other));
    one.outcome.and(other.outcome)
}

async fn kept(
    lab: &mut Lab,
    witnesses: &Witnesses,
    context: &Context,
    (sequence, how): (Sequence, End),
    without: Duration,
) -> Result<()> {
    let from = clock::now();
    on_both(lab, sequence).await?;
    clock::pass(LATE).await;
    still(lab, from)?;

    let ended = clock::now();
    for node in 0..2 {
        end(lab, node, how).await?;
    }
    clock::pass(without).await;
    still(lab, ended).context("while nothing runs")?;
    served_by(lab, witnesses, 0, SLACK).await.context("while nothing runs")?;
    for node in 0..2 {
        lab.start_vipshield(node, &context.vipshield).await?;
    }
    clock::pass(LATE).await;
    still(lab, ended).context("once it runs again")?;
    one_owner(lab, witnesses, from, Duration::ZERO)?;
    let probe = witnesses.observe(lab, Window { from: ended, to: clock::now() }).probe;
    log::info!("{how} and started after {without:?}: {} of {} lost", probe.lost, probe.sent);
    let excusable = !clock::is_brisk() || probe.lost <= OWED_TO_THE_MACHINE;
    ensure!(excusable, "{} of {} lost", probe.lost, probe.sent);

    // What was started knows what it has adopted.
    on_both(lab, sequence.opposite()).await?;
    clock::pass(failover(lab)).await;
    still(lab, from).context("given back")?;
    served_by(lab, witnesses, 0, SLACK).await.context("given back")?;
    one_owner(lab, witnesses, from, Duration::ZERO)
}

/// keepalived ends where nobody takes its VIP off the bridge.
async fn given_up(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(LATE).await;
    end(lab, 0, End::Stopped).await?;
    let keepalived = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
    keepalived.stop().await?;
    clock::pass(LATE).await;
    ensure!(
        witnesses.has_vip(0),
        "its VIP is gone from the bridge without anybody: README says otherwise"
    );
    let began = lab.spawn_vipshield(0, &context.vipshield)?;
    lab.node_mut(0)?.vipshield = Some(began);
    gone(lab, witnesses, 0, Duration::from_secs(3)).await?;
    served_by(lab, witnesses, 1, failover(lab)).await
}

/// The NIC is given back where nobody moves keepalived's sockets along.
async fn given_back(lab: &mut Lab, witnesses: &Witnesses, context: &Context) -> Result<()> {
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(LATE).await;
    end(lab, 0, End::Stopped).await?;
    Sequence::Unbind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(LATE).await;
    lab.start_vipshield(0, &context.vipshield).await?;
    crate::measure::settled(lab, Role::Master).await?;
    served_by(lab, witnesses, 0, failover(lab)).await
}

/// Who ends last finds nothing to keep.
async fn after_keepalived(lab: &mut Lab, witnesses: &Witnesses, _: &Context) -> Result<()> {
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(LATE).await;
    let keepalived = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
    keepalived.stop().await?;
    end(lab, 0, End::Stopped).await?;
    ensure!(!witnesses.has_vip(0), "the VIP is left");
    served_by(lab, witnesses, 1, failover(lab)).await
}

/// Numbers that look like chance and are the same each time (Steele, Lea and Flood's `splitmix64`).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn within(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.below(ms))
    }
}

/// Takes the time that Kube-OVN takes, and says when the kernel has seen the first of it.
struct Paced<'a> {
    chance: &'a mut Chance,
    begun: &'a Notify,
    seen: usize,
}

impl Hooks for Paced<'_> {
    fn before<'a>(&'a mut self, step: &'a Step) -> Answer<'a> {
        // A step that starts a process; all others are one request each.
        let pause = if step.kind.is_bookkeeping() { EXEC_MS } else { 2 };
        self.seen += usize::from(!step.kind.is_bookkeeping());
        if self.seen == 2 {
            self.begun.notify_one();
        }
        Box::pin(std::future::ready(Verdict::Delay(self.chance.within(pause))))
    }
}

/// Each of the sequences in turn, and a stop at some moment of each: from the first step that shows on
/// the node's network, for before it nobody can know that it is about to begin.
async fn at_random(context: Context, role: Role, rounds: usize) -> Runs {
    let mut ground = Ground::furnished(&context, role, |config| config.shield = SHIELD).await?;
    let outcome = async {
        let mut chance = Chance(rounds as u64);
        let (mut lost, mut sent, mut longest) = (0, 0, Duration::ZERO);
        ground.start_vipshield().await?;
        let row = [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange];
        for sequence in row.into_iter().cycle().take(rounds) {
            let after = chance.within(LATEST_MS);
            let from = clock::now();
            ground
                .round(async |ground| {
                    let took = play(ground, sequence, &mut chance, after).await?;
                    longest = longest.max(took);
                    Ok((format!("{sequence}, stopped after {after:?}"), Place::after(sequence)))
                })
                .await?;
            let seen = ground.seen_since(from);
            lost += seen.probe.lost;
            sent += seen.probe.sent;
        }
        clock::pass(LATE).await;
        log::info!(
            "{rounds} stops and starts, {role:?}: no transition, one owner, {lost} of {sent} lost, the \
             longest stop took {longest:?}"
        );
        ground.finish().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// Returns how long vipshield took to stop.
async fn play(
    ground: &mut Ground,
    sequence: Sequence,
    chance: &mut Chance,
    after: Duration,
) -> Result<Duration> {
    let vipshield = ground.take_vipshield()?;
    let begun = Notify::new();
    let mut hooks = Paced { chance, begun: &begun, seen: 0 };
    let lab = &ground.lab;
    let again = async {
        begun.notified().await;
        clock::pass(after).await;
        let told = clock::now();
        vipshield.stop().await?;
        let took = clock::now().saturating_duration_since(told);
        let started = lab.spawn_vipshield(0, &ground.program)?;
        on_guard(&started).await?;
        anyhow::Ok((started, took))
    };
    let (replay, again) = tokio::join!(sequence.run(lab, &mut hooks), again);
    replay.outcome?;
    let (started, took) = again?;
    ground.lab.node_mut(0)?.vipshield = Some(started);
    Ok(took)
}
