//! vipshield is stopped and started, or hands over to another, at moments of the four sequences that nobody
//! chose: nobody notices.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use tokio::sync::Notify;

use super::ground::{Ground, Place, insist, on_guard};
use super::matrix::OWED_TO_THE_MACHINE;
use super::rough::ended;
use super::stops::{LATE, SHIELD};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{DatapathKind, LabConfig};
use crate::measure::Role;
use crate::sequence::{Answer, Hooks, Sequence, Step, Undisturbed, Verdict};
use crate::stack::Stack;
use crate::vipshield::Vipshield;

/// The longest that a step of Kube-OVN's takes in which it starts a process.
const EXEC_MS: u64 = 60;
/// It comes so long after a sequence has begun, at the most.
const LATEST_MS: u64 = 500;
/// Rounds in the standard ring, and of those who want to know; on Open vSwitch, which is tried in an emulated
/// machine, fewer.
const FEW: usize = 4;
const MANY: usize = 100;
const MANY_ON_OVS: usize = 20;

/// What becomes of vipshield.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It is stopped, and another started.
    Stop,
    /// Another is started, and takes over.
    HandOver,
    /// It is killed, and another started.
    Kill,
}

impl Change {
    /// Those that nobody notices.
    const HARMLESS: [Self; 2] = [Self::Stop, Self::HandOver];

    const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stops",
            Self::HandOver => "handovers",
            Self::Kill => "kills",
        }
    }

    /// Returns the next vipshield, which is on guard, and how long the one before took to end.
    async fn happen(self, ground: &Ground, before: Vipshield) -> Result<(Vipshield, Duration)> {
        let (lab, program) = (&ground.lab, &ground.program);
        let told = clock::now();
        let (next, took) = match self {
            Self::Stop => {
                before.stop().await?;
                let took = clock::now().saturating_duration_since(told);
                (lab.spawn_vipshield(0, program)?, took)
            }
            Self::Kill => {
                before.kill().await?;
                (lab.spawn_vipshield(0, program)?, clock::now().saturating_duration_since(told))
            }
            Self::HandOver => {
                let next = lab.spawn_vipshield(0, program)?;
                before.hands_over().await?;
                (next, clock::now().saturating_duration_since(told))
            }
        };
        on_guard(&next).await?;
        Ok((next, took))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stop => "stopped",
            Self::HandOver => "handed over",
            Self::Kill => "killed",
        })
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for change in Change::HARMLESS {
        for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
            for (stack, family) in
                [(Stack::Ipv4, ""), (Stack::Ipv6, "-ipv6"), (Stack::Dual, "-dual")]
            {
                for (rounds, every) in [(FEW, ""), (MANY, super::EVERY_STEP)] {
                    let name = format!("{}-at-random{family}{suffix}{every}", change.name());
                    let about = format!(
                        "vipshield {change} at {rounds} moments ({MANY_ON_OVS} at most on Open vSwitch) of the \
                         four sequences, in turn: nobody notices"
                    );
                    let mut scenario = Scenario::new(&name, &about, true, move |context| {
                        let rounds = on(context.datapath, rounds);
                        Box::pin(at_random(context, change, role, stack, rounds))
                    });
                    scenario.extra =
                        stack == Stack::Ipv6 || stack == Stack::Dual && role == Role::Backup;
                    all.push(scenario);
                }
            }
        }
    }
    for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
        let name = format!("kills-at-random{suffix}{}", super::EVERY_STEP);
        let about = format!(
            "vipshield killed and started at {MANY} moments of the four sequences, where without it each bind \
             and exchange is a failure: how often that is noticed, and that it comes right by itself"
        );
        all.push(Scenario::new(&name, &about, true, move |context| {
            let rounds = on(context.datapath, MANY);
            Box::pin(killed_at_random(context, role, rounds))
        }));
    }
    let about = "keepalived has read nothing of what it was told while no vipshield ran when the next one guards it: it \
                 comes right by itself";
    all.push(Scenario::new("killed-daemon-behind", about, true, |context| {
        Box::pin(killed_and_behind(context))
    }));
    all
}

const fn on(datapath: DatapathKind, rounds: usize) -> usize {
    match datapath {
        DatapathKind::Ovs if rounds > MANY_ON_OVS => MANY_ON_OVS,
        DatapathKind::Ovs | DatapathKind::Bridge => rounds,
    }
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

/// What was lost in a number of rounds.
#[derive(Default)]
struct Losses {
    lost: u64,
    sent: u64,
    /// For how long the NIC was down, milliseconds.
    down: f64,
}

impl Losses {
    fn add(&mut self, ground: &Ground, from: Instant) {
        let seen = ground.seen_since(from);
        self.lost += seen.probe.lost;
        self.sent += seen.probe.sent;
        self.down += seen.nic_down_ms;
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, sent, down } = self;
        write!(f, "{lost} of {sent} lost, {down:.1} ms NIC down")
    }
}

/// Takes the time that Kube-OVN takes, and says when the kernel has seen the first of it.
struct Paced<'a> {
    dice: &'a mut Chance,
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
        Box::pin(std::future::ready(Verdict::Delay(self.dice.within(pause))))
    }
}

/// Each of the sequences in turn, and a change at some moment of each: from the first step that shows on
/// the node's network, for before it nobody can know that it is about to begin.
async fn at_random(
    context: Context,
    change: Change,
    role: Role,
    stack: Stack,
    rounds: usize,
) -> Runs {
    let furnish = |config: &mut LabConfig| {
        if stack != Stack::Ipv4 {
            *config = LabConfig::stacked(config.datapath, stack);
            if role == Role::Backup {
                config.owner_is_second();
            }
        }
        config.shield = SHIELD;
    };
    let mut ground = Ground::furnished(&context, role, furnish).await?;
    let outcome = async {
        let mut dice = Chance(rounds as u64);
        let (mut disturbed, mut undisturbed) = (Losses::default(), Losses::default());
        let mut longest = Duration::ZERO;
        ground.start_vipshield().await?;
        let row = [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange];
        for (number, sequence) in (1..=rounds).zip(row.into_iter().cycle()) {
            let after = dice.within(LATEST_MS);
            let from = clock::now();
            ground
                .round(async |ground| {
                    let took = play(ground, change, sequence, &mut dice, after).await?;
                    longest = longest.max(took);
                    Ok((format!("{sequence}, {change} after {after:?}"), Place::after(sequence)))
                })
                .await?;
            disturbed.add(&ground, from);
            // Those who want to know have the same without it in the same run, four at a time.
            if rounds > FEW && number % row.len() == 0 {
                for sequence in row {
                    let from = clock::now();
                    ground
                        .round(async |ground| {
                            let begun = Notify::new();
                            let mut hooks = Paced { dice: &mut dice, begun: &begun, seen: 0 };
                            sequence.run(&ground.lab, &mut hooks).await.outcome?;
                            Ok((format!("{sequence}, undisturbed"), Place::after(sequence)))
                        })
                        .await?;
                    undisturbed.add(&ground, from);
                }
            }
        }
        clock::pass(LATE).await;
        println!(
            "{rounds} times {change}, {role:?}, {stack:?}, {}: no transition, one owner, {disturbed}, {longest:?} at \
             the longest until the old one had ended",
            context.datapath
        );
        if undisturbed.sent > 0 {
            println!("as often undisturbed: {undisturbed}");
        }
        let Losses { lost, sent, down } = disturbed;
        ensure!(sent > 0, "nothing was sent");
        // One probe a millisecond.
        let excusable = down as u64 + OWED_TO_THE_MACHINE * rounds as u64;
        ensure!(!clock::is_brisk() || lost <= excusable, "{lost} lost, {down:.1} ms NIC down");
        ground.finish().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// A kill in the middle of a sequence may be noticed: for a moment nobody masks anything. But never for long,
/// and it is rarer than without vipshield, where each bind and exchange is.
async fn killed_at_random(context: Context, role: Role, rounds: usize) -> Runs {
    let mut ground = Ground::furnished(&context, role, |config| config.shield = SHIELD).await?;
    let outcome = async {
        let mut dice = Chance(rounds as u64);
        let (mut noticed, mut lost, mut sent, mut overlap) = (0, 0, 0, 0.0_f64);
        ground.start_vipshield().await?;
        let row = [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange];
        for sequence in row.into_iter().cycle().take(rounds) {
            let after = dice.within(LATEST_MS);
            let from = clock::now();
            play(&mut ground, Change::Kill, sequence, &mut dice, after).await?;
            ground.place = Place::after(sequence);
            let what = format!("{sequence}, killed after {after:?}");
            ground.arrived().await.context(what.clone())?;
            clock::pass(LATE).await;
            let seen = ground.seen_since(from);
            noticed += usize::from(!seen.transitions.is_empty());
            lost += seen.probe.lost;
            sent += seen.probe.sent;
            overlap = overlap.max(seen.owners_overlap_ms);
            ground.begin_anew().await.context(what)?;
        }
        println!(
            "{rounds} times killed, {role:?}: noticed {noticed} times, {lost} of {sent} lost, two owners for \
             {overlap:.0} ms at the longest; without vipshield half of these are noticed, each bind and exchange"
        );
        ensure!(noticed < rounds / 2, "no better than without vipshield");
        ground.finish().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// On a busy machine keepalived gets its turn last: whatever the guard withholds comes behind what is in its
/// sockets already.
async fn killed_and_behind(context: Context) -> Runs {
    let mut ground =
        Ground::furnished(&context, Role::Master, |config| config.shield = SHIELD).await?;
    let outcome = async {
        ground.start_vipshield().await?;
        let keepalived = ground.lab.node(0)?.keepalived.as_ref();
        let child = keepalived.context("keepalived does not run")?.vrrp_child()?;
        ground.take_vipshield()?.kill().await?;
        kill(child, Signal::SIGSTOP)?;
        let taken = async {
            Sequence::Bind.run(&ground.lab, &mut Undisturbed).await.outcome?;
            ground.start_vipshield().await
        };
        let taken = taken.await;
        kill(child, Signal::SIGCONT)?;
        taken?;
        ground.place = Place::Bridged;
        ground.arrived().await?;
        ground.begin_anew().await
    };
    let outcome = outcome.await;
    ended(ground, &context, outcome).await
}

/// Returns how long the old vipshield took to end.
async fn play(
    ground: &mut Ground,
    change: Change,
    sequence: Sequence,
    dice: &mut Chance,
    after: Duration,
) -> Result<Duration> {
    let before = ground.take_vipshield()?;
    let begun = Notify::new();
    let mut hooks = Paced { dice, begun: &begun, seen: 0 };
    let lab = &ground.lab;
    let again = async {
        begun.notified().await;
        clock::pass(after).await;
        change.happen(ground, before).await
    };
    let (replay, again) = tokio::join!(sequence.run(lab, &mut hooks), again);
    let (next, took) = again?;
    ground.lab.node_mut(0)?.vipshield = Some(next);
    if change == Change::Kill && replay.outcome.is_err() {
        // keepalived has noticed, and gave up what was to be moved: Kube-OVN begins again.
        insist(sequence, &ground.lab).await?;
    } else {
        replay.outcome?;
    }
    Ok(took)
}
