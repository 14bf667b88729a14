//! What is left of a vipshield that ends in the middle of a sequence: nothing.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::scene::phase;
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::objects::{self, Objects};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::vipshield::Vipshield;

/// How vipshield ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It is told to.
    Stopped,
    /// It is killed, and `vipshield cleanup` run.
    Killed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Killed => "killed",
        })
    }
}

/// Before which step of which sequence, and how its name says so. None is after Kube-OVN has listed
/// what the bridge has: the VIP goes with vipshield, and one that is missed then costs the routes.
const MOMENTS: [(Sequence, StepKind, &str); 7] = [
    (Sequence::Bind, StepKind::SetHwaddr, "set-hwaddr"),
    (Sequence::Bind, StepKind::AddPort, "add-port"),
    (Sequence::Unbind, StepKind::List, "list"),
    (Sequence::Unbind, StepKind::NicUp, "nic-up"),
    (Sequence::Exchange, StepKind::AddPort, "add-port"),
    (Sequence::Unexchange, StepKind::List, "list"),
    (Sequence::Unexchange, StepKind::Rename, "rename"),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (sequence, kind, step) in MOMENTS {
        for end in [End::Stopped, End::Killed] {
            let name = format!("{sequence}-{step}-{end}-left");
            let cleaned = if end == End::Killed { " and cleaned up after" } else { "" };
            let about = format!("vipshield {end} before {sequence}'s {step}{cleaned}: no trace");
            let directory = name.clone();
            all.push(Scenario::new(&name, &about, true, move |context| {
                let directory = directory.clone();
                async move { Box::pin(leave(context, sequence, kind, end, &directory)).await }
            }));
        }
    }
    all
}

async fn leave(
    context: Context,
    sequence: Sequence,
    kind: StepKind,
    end: End,
    directory: &str,
) -> Runs {
    let mut lab = Lab::build(LabConfig::new(context.datapath)).await?;
    let outcome = Box::pin(left(&context, &mut lab, sequence, kind, end)).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

async fn left(
    context: &Context,
    lab: &mut Lab,
    sequence: Sequence,
    kind: StepKind,
    end: End,
) -> Result<()> {
    let before: Vec<Sequence> = sequence.prerequisite().into_iter().collect();
    let row = [before.as_slice(), &[sequence]].concat();
    let (then, at_last) = tokio::try_join!(
        objects::reference_before(&lab.config, &before, sequence, kind),
        objects::reference(&lab.config, &row),
    )?;
    let at_last = at_last.last().context("no reference")?;

    measure::elect(lab, Role::Master).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    for sequence in before {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(Duration::from_secs(1)).await;
    }
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let bpf = vipshield.bpf_objects()?;
    // From here on keepalived knows what is happening to it, and gives the VIP up or not.
    let vips: Vec<String> = lab.config.vips().map(|vip| vip.to_string()).collect();
    let mut ended = Ok(());
    let mut hook = Before::new(kind, async || {
        ended = async {
            finish(context, lab, vipshield, end).await?;
            let left = match end {
                End::Stopped => objects::gone(lab, &then, &vips, &bpf).await,
                End::Killed => objects::cleaned(lab, &then, &vips, &bpf).await,
            };
            left.context("in the middle")
        }
        .await;
        Verdict::Continue
    });
    let mut notes = Vec::new();
    let replayed = measure::insist(sequence, lab, 0, &mut hook, &mut notes).await;
    ensure!(hook.reached(), "{sequence} has no such step");
    drop(hook);
    ended?;
    replayed?;
    if end == End::Killed {
        // What stayed on the bridge has its NIC back.
        Vipshield::cleanup(&context.vipshield, lab.node(0)?, lab.token()).await?;
    }
    objects::gone(lab, at_last, &vips, &bpf).await.context("at last")?;
    again(context, lab, sequence, at_last, &vips).await.context("begun again")
}

/// Another vipshield finds its way from what it finds, and leaves nothing either.
async fn again(
    context: &Context,
    lab: &mut Lab,
    sequence: Sequence,
    expected: &[Objects],
    vips: &[String],
) -> Result<()> {
    lab.start_vipshield(0, &context.vipshield).await?;
    let end = if sequence.prerequisite().is_some() { "free" } else { "bridged" };
    phase(lab, 0, end, Duration::from_secs(5)).await?;
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let bpf = vipshield.bpf_objects()?;
    vipshield.stop().await?;
    objects::gone(lab, expected, vips, &bpf).await
}

async fn finish(context: &Context, lab: &Lab, vipshield: Vipshield, end: End) -> Result<()> {
    match end {
        End::Stopped => vipshield.stop().await,
        End::Killed => {
            vipshield.kill().await?;
            Vipshield::cleanup(&context.vipshield, lab.node(0)?, lab.token()).await
        }
    }
}
