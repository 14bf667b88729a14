//! vipshield begins, or begins anew, in the middle of things.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::failures::{SLACK, told};
use super::ground::{Ground, Place, insist, on_guard};
use super::rough::{Which, ended, scenario};
use super::scene::still;
use super::variants::two_nics;
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::objects;
use crate::rtnl::address_of;
use crate::sequence::{At, Sequence, Step, StepKind, Verdict};
use crate::sockets::Sockets;

/// How long a late consequence may take to show: an advert that was not heard, and some.
const SETTLE: Duration = Duration::from_millis(1_200);

/// How long the NIC is a port without vipshield: a failover and some.
const LONG: Duration = Duration::from_secs(6);

/// What happens to vipshield at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    /// It was not there before, and is started.
    Begun,
    /// It is ended with SIGTERM and started again.
    Restarted,
    /// It is killed and started again.
    Killed,
}

impl Middle {
    fn name(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Restarted => "restarted",
            Self::Killed => "killed",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Begun => "vipshield is started: it gets where one gets that saw all",
            Self::Restarted => "vipshield is ended and started: the same; noticed only if untrue",
            Self::Killed => "vipshield is killed and started at once: nobody notices",
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for sequence in [Sequence::Exchange, Sequence::Unexchange, Sequence::Bind, Sequence::Unbind] {
        for middle in [Middle::Begun, Middle::Restarted, Middle::Killed] {
            all.push(scenario(
                &format!("{sequence}-{}-every-step", middle.name()),
                &format!("before each step of {sequence}, {}", middle.about()),
                move |context| every_step(context, sequence, middle),
            ));
        }
    }
    for first in [Sequence::Exchange, Sequence::Bind] {
        all.push(scenario(
            &format!("{first}-middle"),
            &format!("vipshield begun, restarted and killed at one step each of {first}"),
            move |context| some_steps(context, first),
        ));
        all.push(scenario(
            &format!("{first}-long-done"),
            &format!("vipshield begins long after {first}, and keepalived before or after it"),
            move |context| long_done(context, first),
        ));
    }
    all.push(scenario(
        "two-nics-killed",
        "two NICs are given back while vipshield is frozen; it is killed, and the next finds each one's sockets",
        two_nics_killed,
    ));
    all.push(scenario(
        "no-arguments-killed",
        "without arguments, killed while names are exchanged: the next knows what keepalived calls its NIC",
        no_arguments_killed,
    ));
    all.push(scenario(
        "side-by-side",
        "two labs, each with a vipshield, do not disturb each other, even if one is killed",
        side_by_side,
    ));
    all
}

async fn some_steps(context: Context, first: Sequence) -> Runs {
    let mut ground = Ground::unshielded(&context, Role::Master).await?;
    let outcome = async {
        let back = first.opposite();
        let rounds = [
            (first, Middle::Restarted, StepKind::AddBridge),
            (first, Middle::Killed, StepKind::SetHwaddr),
            (back, Middle::Killed, StepKind::DeleteBridge),
            (first, Middle::Begun, StepKind::AddPort),
        ];
        for (sequence, middle, kind) in rounds {
            let which = Which::First(kind);
            let (reached, _) = one_step(&mut ground, sequence, middle, which, 0).await?;
            ensure!(reached, "{sequence} has no step {kind:?}");
        }
        ground.start_vipshield().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// The NIC has long been a port when vipshield begins, and keepalived before it or after it.
async fn long_done(context: Context, sequence: Sequence) -> Runs {
    let mut ground = Ground::unshielded(&context, Role::Master).await?;
    let outcome = async {
        for is_new in [false, true] {
            if is_new {
                ground.take_vipshield()?.stop().await?;
                let old = ground.lab.node_mut(0)?.keepalived.take();
                old.context("keepalived does not run")?.stop().await?;
            }
            insist(sequence, &ground.lab).await?;
            clock::pass(LONG).await;
            if is_new {
                ground.lab.start_keepalived(0)?;
            }
            ground.start_vipshield().await?;
            ground.place = Place::after(sequence);
            ground.arrived().await?;
            insist(sequence.opposite(), &ground.lab).await?;
            ground.place = Place::Free;
            ground.arrived().await?;
            ground.begin_anew().await?;
            // From here on it is as if nothing had been.
            ground.bring(sequence).await?;
            ground.bring(sequence.opposite()).await?;
        }
        Ok(())
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// Both bridges are gone when vipshield begins anew, and keepalived's sockets are still bound to them.
async fn two_nics_killed(context: Context) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    two_nics(&mut config);
    let mut lab = Lab::build(config).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        lab.start_vipshield_for(0, &context.vipshield, None).await?;
        objects::on_every_nic(Sequence::Bind, &lab).await?;
        clock::pass(SETTLE).await;
        let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
        // What it withheld while it was frozen keepalived never hears.
        vipshield.freeze()?;
        objects::on_every_nic(Sequence::Unbind, &lab).await?;
        vipshield.kill().await?;
        clock::pass(SETTLE).await;
        let astray = bound(&lab)?;
        ensure!(astray.iter().all(|at| name_of(&lab, *at).is_none()), "bound to {astray:?}");
        lab.start_vipshield_for(0, &context.vipshield, None).await?;
        clock::until("every socket on its NIC", Duration::from_secs(5), async || {
            let names: Vec<_> = bound(&lab)?.into_iter().map(|at| name_of(&lab, at)).collect();
            let on = |nic: &str| names.iter().filter(|name| name.as_deref() == Some(nic)).count();
            Ok((names.len() == 4 && on("ens192") == 2 && on("ens224") == 2).then_some(()))
        })
        .await?;
        measure::settled(&lab, Role::Master).await
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(logs)?;
    }
    outcome.map(|()| Vec::new())
}

/// Nothing but what the killed one left tells that keepalived calls the NIC otherwise than it is called.
async fn no_arguments_killed(context: Context) -> Runs {
    let mut lab = Lab::build(LabConfig::new(context.datapath)).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        let began = clock::now();
        for sequence in [Sequence::Exchange, Sequence::Unexchange, Sequence::Bind] {
            lab.start_vipshield_for(0, &context.vipshield, None).await?;
            insist(sequence, &lab).await?;
            clock::pass(SETTLE).await;
            let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
            vipshield.kill().await?;
        }
        lab.start_vipshield_for(0, &context.vipshield, None).await?;
        let status = lab.node(0)?.vipshield.as_ref().context("it runs")?.status().await?;
        let name = status.pointer("/nics/0/name").and_then(Value::as_str);
        ensure!(name == Some(&lab.config.nic), "the NIC is known as {name:?}");
        still(&lab, began)?;
        let lost = clock::now();
        lab.cable(0, false)?;
        told(&lab, 0, "FAULT", lost, SLACK).await.map(drop)
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(logs)?;
    }
    outcome.map(|()| Vec::new())
}

/// Where the VRRP sockets of the first node are bound.
fn bound(lab: &Lab) -> Result<Vec<u32>> {
    let node = lab.node(0)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    let sockets = Sockets::of(&keepalived.processes()?, &node.host)?;
    Ok(sockets.0.values().filter(|socket| socket.is_vrrp()).map(|socket| socket.bound).collect())
}

/// The name of an interface of the first node, if there is such.
fn name_of(lab: &Lab, index: u32) -> Option<String> {
    lab.node(0).and_then(|node| node.host.rtnl.link_at(index)).map(|link| link.name).ok()
}

/// Two nodes of two labs, each with a vipshield, at the same time.
async fn side_by_side(context: Context) -> Runs {
    let build = || Ground::shielded(&context, Role::Master);
    let (mut one, mut other) = tokio::try_join!(build(), build())?;
    let outcome = async {
        tokio::try_join!(one.bring(Sequence::Bind), other.bring(Sequence::Exchange))?;
        // One is killed, and what it left is cleaned up; the other must not lose anything.
        one.take_vipshield()?.kill().await?;
        let cleaned = one.lab.clean_up(0, &one.program).await?;
        log::info!("{cleaned}");
        let filters = guards(&other).await?;
        ensure!(filters > 0, "the other's keepalived carries no guard");
        other.bring(Sequence::Unexchange).await?;
        one.start_vipshield().await?;
        tokio::try_join!(one.bring(Sequence::Unbind), other.bring(Sequence::Bind))?;
        // One ends, the other goes on.
        one.take_vipshield()?.stop().await?;
        other.bring(Sequence::Unbind).await?;
        ensure!(guards(&other).await? == filters, "the other's guards changed");
        one.start_vipshield().await?;
        one.finish().await
    };
    let outcome = outcome.await;
    ended(other, &context, outcome).await
}

/// How many sockets of daemons carry the guard.
async fn guards(ground: &Ground) -> Result<usize> {
    let status = ground.vipshield()?.status().await?;
    let daemons = status.get("daemons").and_then(Value::as_array).into_iter().flatten();
    let filters = daemons.filter_map(|daemon| daemon.get("monitors")?.as_array()).flatten();
    Ok(filters.filter(|filter| *filter == "guard").count())
}

async fn every_step(context: Context, sequence: Sequence, middle: Middle) -> Runs {
    let mut ground = Ground::unshielded(&context, Role::Master).await?;
    let outcome = async {
        for number in 0.. {
            let (reached, noticed) =
                one_step(&mut ground, sequence, middle, Which::Every, number).await?;
            if !reached {
                ensure!(number > 0, "{sequence} has no step");
                break;
            }
            if noticed {
                // A keepalived that was once seen through an exchange without a shield keeps
                // count of interfaces that are no more.
                ground = Ground::unshielded(&context, Role::Master).await?;
            }
        }
        ground.start_vipshield().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// From a free NIC without vipshield to a free NIC without vipshield. Returns whether the sequence
/// has such a step, and whether keepalived noticed anything.
async fn one_step(
    ground: &mut Ground,
    sequence: Sequence,
    middle: Middle,
    which: Which,
    number: usize,
) -> Result<(bool, bool)> {
    let from = clock::now();
    if middle != Middle::Begun {
        ground.start_vipshield().await?;
    }
    if let Some(first) = sequence.prerequisite() {
        insist(first, &ground.lab).await?;
        ground.place = Place::after(first);
        if middle != Middle::Begun {
            ground.arrived().await?;
        }
        clock::pass(SETTLE).await;
    }
    let (reached, noticed) = play(ground, sequence, middle, which, number).await?;
    let what = match &reached {
        Some(step) => format!("{sequence}, {} before {}", middle.name(), step.name),
        None => format!("{sequence}, {} nowhere", middle.name()),
    };
    let outcome = async {
        ground.place = Place::after(sequence);
        ground.arrived().await?;
        clock::pass(SETTLE).await;
        if !noticed {
            ground.calm_since(from)?;
        }
        if ground.place == Place::Free && noticed {
            // Back to normal by itself.
            ground.begin_anew().await?;
        }
        // From here on it is shielded, whatever was before.
        let calm = clock::now();
        let back = sequence.opposite();
        insist(back, &ground.lab).await?;
        ground.place = Place::after(back);
        ground.arrived().await?;
        clock::pass(SETTLE).await;
        if ground.place != Place::Free {
            insist(sequence, &ground.lab).await?;
            ground.place = Place::after(sequence);
            ground.arrived().await?;
            clock::pass(SETTLE).await;
        }
        if noticed && Place::after(sequence) != Place::Free {
            ground.begin_anew().await
        } else {
            ground.calm_since(calm)
        }
    };
    outcome.await.with_context(|| what.clone())?;
    let quiet = clock::now();
    ground.take_vipshield()?.stop().await?;
    clock::pass(SETTLE).await;
    ground.calm_since(quiet).with_context(|| format!("{what}: after vipshield ended"))?;
    ground.begin_anew().await?;
    Ok((reached.is_some(), noticed))
}

/// How often a sequence is begun again that failed before vipshield was there.
const TRIES: usize = 3;

/// The sequence, with vipshield begun before its step of this number. Returns the step, and
/// whether keepalived has a right to have noticed something by then.
async fn play(
    ground: &mut Ground,
    sequence: Sequence,
    middle: Middle,
    which: Which,
    number: usize,
) -> Result<(Option<Step>, bool)> {
    let mut running = match middle {
        Middle::Begun => None,
        Middle::Restarted | Middle::Killed => Some(ground.take_vipshield()?),
    };
    let mut noticed = Ok(false);
    let mut started = Ok(());
    let (lab, program) = (&ground.lab, &ground.program);
    let matches = |step: &Step| match which {
        Which::Every => !step.kind.is_bookkeeping(),
        Which::First(kind) => step.kind == kind,
    };
    let mut hook = At::new(number, matches, async |_: &Step| {
        noticed = Ok(middle != Middle::Killed).and_then(|may| Ok(may && is_hurt(ground)?));
        started = async {
            match running.take() {
                Some(vipshield) if middle == Middle::Killed => vipshield.kill().await?,
                Some(vipshield) => vipshield.stop().await?,
                None => {}
            }
            on_guard(running.insert(lab.spawn_vipshield(0, program)?)).await
        }
        .await;
        Verdict::Continue
    });
    let mut outcome = sequence.run(lab, &mut hook).await.outcome;
    // Without vipshield keepalived may give the VIP up between two steps of Kube-OVN's, which then begins
    // again.
    for _ in 0..TRIES {
        if outcome.is_ok() || hook.is_reached() {
            break;
        }
        clock::pass(Duration::from_secs(1)).await;
        outcome = sequence.run(lab, &mut hook).await.outcome;
    }
    let reached = hook.reached();
    started?;
    if reached.is_none() && middle == Middle::Begun {
        running = Some(lab.spawn_vipshield(0, program)?);
        noticed = is_hurt(ground);
    }
    let noticed = noticed? || (middle == Middle::Begun && sequence.prerequisite().is_some());
    if let Err(error) = outcome {
        ensure!(noticed, "{sequence} failed: {error:#}");
        clock::pass(Duration::from_secs(1)).await;
        insist(sequence, lab).await?;
    }
    ground.lab.node_mut(0)?.vipshield = running;
    Ok((reached, noticed))
}

/// Whether a keepalived that sees everything has lost something by now: its addresses, the name,
/// or the link.
fn is_hurt(ground: &Ground) -> Result<bool> {
    let node = ground.lab.node(0)?;
    let nic = node.host.rtnl.link_at(node.nic)?;
    let found = node.host.rtnl.addresses(node.nic)?;
    let present: Vec<_> = found.iter().filter_map(address_of).collect();
    let own = node.config.addresses.iter().map(|own| own.address);
    let away = own.chain([ground.lab.config.vip()?]).any(|address| !present.contains(&address));
    Ok(away || nic.name != ground.lab.config.nic || !nic.usable)
}
