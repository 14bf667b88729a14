//! vipshield is stopped, or killed, and started again: an upgrade. While the NIC is a port nobody notices,
//! however long it takes; and a stop while the NIC is on its way waits until it has arrived.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::failures::SLACK;
use super::matrix::OWED_TO_THE_MACHINE;
use super::scene::{Beginning, failover, gone, one_owner, served_by, staged_in, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{LabConfig, ShieldConfig};
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};
use crate::vipshield::Vipshield;
use crate::witness::timeline::Window;

/// What it may keep, it keeps; and it has no capability but those it needs.
pub(super) const SHIELD: ShieldConfig = ShieldConfig {
    keeps: true,
    least_privilege: true,
    apart: false,
    instance: None,
    file: None,
    observes: false,
    metrics: None,
};
/// How long nothing runs in place of vipshield.
const WITHOUT: Duration = Duration::from_secs(10);
const LONG_WITHOUT: Duration = Duration::from_mins(1);
/// How long a late consequence may take to show: three adverts that were not heard, and a skew.
pub(super) const LATE: Duration = Duration::from_secs(4);

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
pub(super) async fn staged(
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
