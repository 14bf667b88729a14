//! Sequences that do not go as they should: a step takes long, fails, comes again, or the
//! opposite begins before all is done.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::ground::{Ground, Place, insist};
use super::variants::{each, run};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::Prefix;
use crate::measure::Role;
use crate::rtnl::address_of;
use crate::sequence::{At, Sequence, Step, StepKind, Undisturbed, Verdict};

/// How long a step is held up.
const DELAY: Duration = Duration::from_secs(2);
/// How long it is held up while the node is broken: less than the deadline, so that nobody may
/// notice.
const SHORT: Duration = Duration::from_millis(1_400);
/// And more than the deadline, so that VRRP must know.
const LONG: Duration = Duration::from_secs(3);
/// How long Kube-OVN waits before it begins again.
const RETRY: Duration = Duration::from_secs(3);

/// How long what was mended is left alone.
const MENDED: Duration = Duration::from_millis(500);

/// What is done to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rough {
    /// A step is held up.
    Delay,
    /// A step is held up for longer than the deadline while the node is broken.
    Hold,
    /// It fails before a step, which is just after the one before, and is begun anew.
    Retry,
    /// It is broken off before a step and undone.
    Turn,
}

impl Rough {
    const ALL: [Self; 4] = [Self::Delay, Self::Hold, Self::Retry, Self::Turn];

    fn name(self) -> &'static str {
        match self {
            Self::Delay => "delayed",
            Self::Hold => "held",
            Self::Retry => "retried",
            Self::Turn => "turned",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Delay => "held up for 2 s (1.4 s while the node is cut off): nobody notices",
            Self::Hold => "held up beyond the deadline while the node is cut off: a clean failover",
            Self::Retry => "failed and begun anew 3 s later: noticed only if the node was cut off",
            Self::Turn => "broken off and undone: noticed only if the node was cut off",
        }
    }
}

/// Which steps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// One round for each.
    Every,
    /// The first of this kind.
    First(StepKind),
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for first in [Sequence::Exchange, Sequence::Bind] {
        let (there, back) = (first, first.opposite());
        for rough in Rough::ALL {
            all.push(scenario(
                &format!("{there}-{}-every-step", rough.name()),
                &format!("{there} and {back}, each step {}", rough.about()),
                move |context| every_step(context, rough, first, Role::Master),
            ));
        }
        all.push(scenario(
            &format!("{there}-backup-delayed-every-step"),
            &format!("on the waiting node: {there} and {back}, each step {}", Rough::Delay.about()),
            move |context| every_step(context, Rough::Delay, first, Role::Backup),
        ));
        all.push(scenario(
            &format!("{there}-rough"),
            &format!("{there} and {back}, one step each delayed, retried, turned"),
            move |context| some_steps(context, first),
        ));
        all.push(scenario(
            &format!("{there}-again"),
            &format!("{there} three times more while it is done: nobody notices"),
            move |context| again(context, first),
        ));
        all.push(scenario(
            &format!("{there}-network-manager"),
            "Kube-OVN follows NetworkManager, and vipshield's address on the NIC costs no other",
            move |context| network_manager(context, first),
        ));
    }
    all.push(scenario(
        "vip-goes-along",
        "the kernel takes the VIP away with the node's address, and Kube-OVN fails: told in time",
        vip_goes_along,
    ));
    all
}

/// Without `promote_secondaries` the kernel removes with the first address of a subnet all others,
/// and Kube-OVN's own request to remove the next one fails. The VIP is nowhere in truth.
async fn vip_goes_along(context: Context) -> Runs {
    let mut ground = Ground::furnished(&context, Role::Master, |lab| {
        each(lab, |instance| instance.addresses = vec![Prefix::v4([192, 0, 2, 10], 24)]);
        for at in ["all", "default", "ens192"] {
            run(lab, &format!("echo 0 > /proc/sys/net/ipv4/conf/{at}/promote_secondaries"));
        }
    })
    .await?;
    let outcome = async {
        ground.start_vipshield().await?;
        for sequence in [Sequence::Bind, Sequence::Unbind, Sequence::Exchange] {
            ground.bring(sequence).await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

pub(super) fn scenario<F: Future<Output = Runs> + 'static>(
    name: &str,
    about: &str,
    work: impl Fn(Context) -> F + 'static,
) -> Scenario {
    let directory = name.to_owned();
    Scenario::new(name, about, true, move |mut context| {
        context.logs = context.logs.map(|logs| logs.join(&directory));
        work(context)
    })
}

async fn every_step(context: Context, rough: Rough, first: Sequence, role: Role) -> Runs {
    let mut ground = Ground::shielded(&context, role).await?;
    let outcome = sweep(&context, &mut ground, rough, first).await;
    ended(ground, &context, outcome).await
}

async fn sweep(
    context: &Context,
    ground: &mut Ground,
    rough: Rough,
    first: Sequence,
) -> Result<()> {
    let mut left = vec![first, first.opposite()];
    let mut number = 0;
    while !left.is_empty() {
        for sequence in left.clone() {
            ground.bring(sequence.opposite()).await?;
            if !disturb(ground, sequence, rough, Which::Every, number).await? {
                left.retain(|other| *other != sequence);
                ensure!(number > 0, "no step of {sequence} is {}", rough.name());
            }
            if ground.adopted {
                // Giving back costs a failover; and a keepalived that went through that keeps
                // count of interfaces that are no more.
                ground.bring(sequence.opposite()).await?;
                *ground = Ground::shielded(context, ground.role).await?;
            }
        }
        number += 1;
    }
    Ok(())
}

async fn some_steps(context: Context, first: Sequence) -> Runs {
    let mut ground = Ground::shielded(&context, Role::Master).await?;
    let outcome = async {
        let back = first.opposite();
        let rounds = [
            (first, Rough::Delay, StepKind::AddPort),
            (back, Rough::Delay, StepKind::BridgeDown),
            (first, Rough::Retry, StepKind::SetHwaddr),
            (back, Rough::Retry, StepKind::DeleteBridge),
            (first, Rough::Turn, StepKind::AddPort),
            (back, Rough::Turn, StepKind::NicUp),
        ];
        for (sequence, rough, kind) in rounds {
            ground.bring(sequence.opposite()).await?;
            let reached = disturb(&mut ground, sequence, rough, Which::First(kind), 0).await?;
            ensure!(reached, "{sequence} has no step {kind:?}");
        }
        Ok(())
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// Keep the logs, and see the lab end as it should if all went well so far.
pub(super) async fn ended(mut ground: Ground, context: &Context, outcome: Result<()>) -> Runs {
    let outcome = match outcome {
        Ok(()) => ground.finish().await,
        Err(error) => Err(error),
    };
    if let Some(logs) = &context.logs {
        ground.lab.save_logs(logs)?;
    }
    outcome.map(|()| Vec::new())
}

/// A round with one step disturbed. False when the sequence has no such step: then it went
/// undisturbed.
async fn disturb(
    ground: &mut Ground,
    sequence: Sequence,
    rough: Rough,
    which: Which,
    number: usize,
) -> Result<bool> {
    let mut reached = false;
    ground
        .round(async |ground| {
            let matches = |step: &Step| match which {
                Which::Every => match rough {
                    Rough::Delay => true,
                    Rough::Hold => ground.is_broken().unwrap_or(false),
                    Rough::Retry | Rough::Turn => !step.kind.is_bookkeeping(),
                },
                Which::First(kind) => step.kind == kind,
            };
            let mut cut_off = Ok(false);
            let mut hook = At::new(number, matches, async |_: &Step| {
                cut_off = ground.is_broken();
                match rough {
                    Rough::Delay if cut_off.as_ref().is_ok_and(|cut| !cut) => Verdict::Delay(DELAY),
                    Rough::Delay => Verdict::Delay(SHORT),
                    Rough::Hold => Verdict::Delay(LONG),
                    Rough::Retry | Rough::Turn => Verdict::Fail,
                }
            });
            let outcome = sequence.run(&ground.lab, &mut hook).await.outcome;
            let Some(step) = hook.reached() else {
                outcome?;
                return Ok((sequence.to_string(), Place::after(sequence)));
            };
            reached = true;
            let cut_off = cut_off?;
            let what = format!("{sequence} {} at {}", rough.name(), step.name);
            let goes_on = match rough {
                Rough::Delay => outcome.map(|()| sequence),
                Rough::Hold => match outcome {
                    Ok(()) => Ok(sequence),
                    // keepalived knows, and has given up the VIP that was to be moved.
                    Err(_) => insist(sequence, &ground.lab).await.map(|()| sequence),
                },
                Rough::Retry => begin_anew(ground, sequence, cut_off).await,
                Rough::Turn => turn(ground, sequence).await,
            };
            let end = goes_on.with_context(|| what.clone())?;
            if matches!(rough, Rough::Retry | Rough::Turn) || cut_off {
                ground.mend()?;
            }
            Ok((what, Place::after(end)))
        })
        .await?;
    Ok(reached)
}

/// Begin a sequence that failed anew. Kube-OVN cannot where names are half exchanged; then it is
/// undone. Returns the sequence that was played to its end.
async fn begin_anew(ground: &Ground, sequence: Sequence, cut_off: bool) -> Result<Sequence> {
    clock::pass(RETRY).await;
    if cut_off {
        ground.mend()?;
        clock::pass(MENDED).await;
    }
    let again = insist(sequence, &ground.lab).await;
    let Err(error) = again else { return Ok(sequence) };
    let back = sequence.opposite();
    insist(back, &ground.lab).await.with_context(|| format!("{error:#}, then {back}"))?;
    Ok(back)
}

/// The opposite sequence, at once. Where names are half exchanged Kube-OVN cannot begin it, and the
/// first is played to its end. What neither can mend is mended once VRRP knows.
async fn turn(ground: &Ground, sequence: Sequence) -> Result<Sequence> {
    let back = sequence.opposite();
    let turned = insist(back, &ground.lab).await;
    let end = if turned.is_ok() { back } else { sequence };
    if let Err(error) = turned {
        insist(sequence, &ground.lab).await.with_context(|| format!("{error:#}, then again"))?;
    }
    if ground.is_broken()? {
        clock::pass(RETRY).await;
    }
    Ok(end)
}

async fn again(context: Context, sequence: Sequence) -> Runs {
    let mut ground = Ground::shielded(&context, Role::Master).await?;
    let outcome = async {
        for pause in [Duration::ZERO, Duration::from_millis(100), DELAY, Duration::ZERO] {
            ground
                .round(async |ground| {
                    clock::pass(pause).await;
                    sequence.run(&ground.lab, &mut Undisturbed).await.outcome?;
                    Ok((format!("{sequence} after {pause:?}"), Place::after(sequence)))
                })
                .await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

async fn network_manager(context: Context, sequence: Sequence) -> Runs {
    let mut ground = Ground::shielded(&context, Role::Master).await?;
    let outcome = async {
        ground.bring(sequence).await?;
        let before = held(&ground)?;
        for _ in 0..3 {
            ground
                .round(async |ground| {
                    let exchanged = sequence == Sequence::Exchange;
                    Sequence::nic_reconfigured(&ground.lab, exchanged).await?;
                    Ok(("an event of NetworkManager".to_owned(), Place::after(sequence)))
                })
                .await?;
            let now = held(&ground)?;
            ensure!(now == before, "the bridge had {before:?}, and now {now:?}");
        }
        Ok(())
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// The addresses and routes of the interface that bears the node's traffic.
fn held(ground: &Ground) -> Result<Vec<String>> {
    let bearer = super::ground::bearer(&ground.lab)?;
    let rtnl = &ground.lab.node(0)?.host.rtnl;
    let addresses = rtnl.addresses(bearer.index)?;
    let mut found: Vec<_> =
        addresses.iter().filter_map(address_of).map(|a| a.to_string()).collect();
    found.sort();
    let routes = rtnl.routes(bearer.index)?;
    found.extend(routes.iter().map(|route| format!("{:?}", route.attributes)));
    Ok(found)
}
