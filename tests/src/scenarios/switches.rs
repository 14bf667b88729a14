//! What a switch does, not that it is there: the kernel's datapath goes on with the flows that it has
//! while its process is gone or hangs, and nobody has to notice; a switch that forwards nothing after
//! a NIC has joined is a failure.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::failures::{SLACK, told};
use super::real_failures::DEADLINE;
use super::scene::{Beginning, MOMENT, failover, one_owner, phase, served_by, staged, still};
use super::{Context, Scenario};
use crate::clock;
use crate::config::DatapathKind;
use crate::datapath::{Datapath, Ovs};
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::process::Program;
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::witness::timeline::Window;

/// A port of a bridge with the spanning tree protocol listens and learns for so long each, and forwards
/// then. The protocol's own value is 15 s.
const FORWARD_DELAY: Duration = Duration::from_secs(3);

/// How often keepalived says in the lab that it is the owner: its default.
const ADVERT_INTERVAL: Duration = Duration::from_secs(1);

/// A switch that takes no new flows for so long is a failure, though nothing was seen to be lost.
const PATIENCE: Duration = Duration::from_mins(1);

/// What becomes of ovs-vswitchd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// It is killed, and later started again.
    Killed,
    /// It is stopped, and later goes on: it reads nothing meanwhile.
    Held,
}

/// When that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// The NIC has just become a port: there are no flows yet.
    Join,
    /// It has been one for long.
    Between,
    /// It is about to be given back.
    Leave,
}

/// For how long.
const LENGTHS: [(&str, Duration); 5] = [
    ("300ms", Duration::from_millis(300)),
    ("1s", Duration::from_secs(1)),
    ("3s", Duration::from_secs(3)),
    ("10s", Duration::from_secs(10)),
    ("60s", Duration::from_mins(1)),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (role, suffix) in [(Role::Master, ""), (Role::Backup, "-backup")] {
        all.push(scenario(
            &format!("bridge-learns{suffix}"),
            "the bridge forwards nothing for 6 s after the NIC joined: told in time, and over by itself",
            DatapathKind::Bridge,
            role,
            learns,
        ));
        for (how, verb) in [(How::Killed, "killed"), (How::Held, "held")] {
            for (when, moment) in
                [(When::Join, "join"), (When::Between, "between"), (When::Leave, "leave")]
            {
                for (length, lasts) in LENGTHS {
                    let mut one = scenario(
                        &format!("switch-{verb}-{moment}-{length}{suffix}"),
                        "no ovs-vswitchd for a while: noticed only if it cost adverts",
                        DatapathKind::Ovs,
                        role,
                        async move |lab| interrupted(lab, how, when, lasts).await,
                    );
                    one.extra = !super::is_core(&one.name);
                    all.push(one);
                }
            }
        }
    }
    let mut gone = scenario(
        "switch-killed-for-good",
        "no ovs-vswitchd for more than a minute: node2 takes over, later node1 again",
        DatapathKind::Ovs,
        Role::Master,
        gone_for_good,
    );
    gone.extra = true;
    all.push(gone);
    all
}

fn scenario(
    name: &str,
    about: &str,
    only: DatapathKind,
    role: Role,
    work: impl AsyncFn(&mut Lab) -> Result<()> + Clone + 'static,
) -> Scenario {
    let directory = name.to_owned();
    let mut scenario = Scenario::new(name, about, true, move |context: Context| {
        let (directory, work) = (directory.clone(), work.clone());
        async move {
            let beginning = Beginning { role, shields: &[0], early: false };
            staged(&directory, context, beginning, async |lab, _| work(lab).await).await
        }
    });
    scenario.only = Some(only);
    scenario
}

/// The first node's Open vSwitch.
pub(super) fn open_vswitch(lab: &Lab) -> Result<&Ovs> {
    match &*lab.node(0)?.datapath {
        Datapath::Ovs(ovs) => Ok(ovs),
        Datapath::Bridge(_) => bail!("node1 has no Open vSwitch"),
    }
}

/// The node that owns the VIP when all is well.
fn owner(lab: &Lab) -> usize {
    lab.config.owner()
}

/// A bridge with the spanning tree protocol. The first node cannot be reached through it, and does not
/// hear the other, until the port forwards.
async fn learns(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let mut prepared = Ok(String::new());
    let mut joins = began;
    let mut hook = Before::new(StepKind::AddPort, async || {
        let delay = (FORWARD_DELAY.as_secs() * 100).to_string();
        let bridge = lab.config.bridge.as_str();
        let words = ["link", "set", bridge, "type", "bridge", "stp_state", "1", "forward_delay"];
        prepared = match lab.node(0) {
            Ok(node) => {
                let tool = Program::new("ip", "ip", lab.token()).args(words).arg(delay);
                tool.inside(&node.host.namespace).succeed(SLACK).await
            }
            Err(error) => Err(error),
        };
        joins = clock::now();
        Verdict::Continue
    });
    Sequence::Bind.run(lab, &mut hook).await.outcome?;
    ensure!(hook.reached(), "the bind had no such step");
    prepared?;

    let fault = told(lab, 0, "FAULT", joins, DEADLINE + 2 * SLACK).await?;
    // Until then what is for the node, and what it says, goes past the bridge.
    served(lab, &witnesses, joins, fault)?;
    if owner(lab) == 0 {
        // What the first node says at last still gets out: nobody has to wait for its silence.
        let master = told(lab, 1, "MASTER", joins, DEADLINE + failover(lab)).await?;
        let took = master.saturating_duration_since(fault);
        ensure!(took <= clock::patience(Duration::from_secs(1) + SLACK), "node2 waited {took:?}");
        told(lab, 0, "MASTER", fault, 2 * FORWARD_DELAY + 2 * failover(lab)).await?;
    } else {
        told(lab, 0, "BACKUP", fault, 2 * FORWARD_DELAY + failover(lab)).await?;
        clock::pass(failover(lab)).await;
        let states = lab.node(0)?.keepalived.as_ref().map(Keepalived::transitions);
        let states = states.unwrap_or_default();
        ensure!(states.iter().all(|it| it.at < began || it.state != "MASTER"), "{states:?}");
    }
    served_by(lab, &witnesses, owner(lab), failover(lab)).await?;
    phase(lab, 0, "bridged", SLACK).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

/// An error if the client lost more than a moment of the VIP in this time.
fn served(lab: &Lab, witnesses: &Witnesses, from: Instant, to: Instant) -> Result<()> {
    let seen = witnesses.observe(lab, Window { from, to }).probe;
    let limit = clock::patience(Duration::from_millis(200)).as_secs_f64() * 1000.0;
    ensure!(seen.longest_gap_ms <= limit, "the VIP was not served: {seen:?}");
    Ok(())
}

/// Returns for how long there was no switch: to start one takes seconds in an emulated machine.
async fn interrupt(lab: &Lab, how: How, lasts: Duration) -> Result<Duration> {
    let switch = open_vswitch(lab)?;
    let began = clock::now();
    match how {
        How::Killed => switch.kill_switch().await?,
        How::Held => switch.hold_switch(true)?,
    }
    clock::pass(lasts).await;
    match how {
        How::Killed => switch.start_switch().await?,
        How::Held => switch.hold_switch(false)?,
    }
    Ok(clock::now().saturating_duration_since(began))
}

/// Wait until the owner is alone and the first node's keepalived is what it was before it was told, if it was.
async fn recovered(lab: &Lab, witnesses: &Witnesses) -> Result<()> {
    let role = if owner(lab) == 0 { "MASTER" } else { "BACKUP" };
    clock::until("the nodes to be what they were", 4 * failover(lab), async || {
        let states = lab.node(0)?.keepalived.as_ref().map(Keepalived::transitions);
        let is_back = states.unwrap_or_default().last().is_some_and(|last| last.state == role);
        let owns = |node| witnesses.has_vip(node) == (node == owner(lab));
        Ok((is_back && (0..lab.nodes.len()).all(owns)).then_some(()))
    })
    .await
}

/// Wait until the first node's NIC is a port of its switch.
async fn joined(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    clock::until("the NIC to be a port", Duration::from_secs(20), async || {
        Ok(node.host.rtnl.is_port(node.nic)?.then_some(()))
    })
    .await
}

async fn interrupted(lab: &mut Lab, how: How, when: When, lasts: Duration) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let disturb = async |moment: When| -> Result<Duration> {
        if moment == when { interrupt(lab, how, lasts).await } else { Ok(Duration::ZERO) }
    };
    let mut hooks = Undisturbed;
    let (bound, disturbed) = tokio::join!(Sequence::Bind.run(lab, &mut hooks), async {
        joined(lab).await?;
        disturb(When::Join).await
    });
    bound.outcome?;
    let absent = disturbed?;
    phase(lab, 0, "bridged", SLACK).await?;
    if when != When::Join {
        // By then the kernel has the flow of the adverts.
        clock::pass(failover(lab)).await;
    }
    disturb(When::Between).await?;
    // A switch that returns lets the next advert through.
    if absent + ADVERT_INTERVAL > DEADLINE {
        // It may have been told, and is over by itself. What the client reaches is not asked: for what came
        // before it knew the port Open vSwitch may keep a flow that drops for as long as more comes.
        recovered(lab, &witnesses).await?;
        // keepalived says what it is when it has done what that takes.
        clock::pass(SLACK).await;
    } else {
        clock::pass(failover(lab)).await;
        still(lab, began)?;
    }
    if absent > DEADLINE + failover(lab) {
        told(lab, 0, "FAULT", began, SLACK).await?;
    }
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))?;

    let settled = clock::now();
    let (given_back, disturbed) =
        tokio::join!(Sequence::Unbind.run(lab, &mut hooks), disturb(When::Leave));
    given_back.outcome?;
    disturbed?;
    phase(lab, 0, "free", SLACK).await?;
    clock::pass(failover(lab)).await;
    still(lab, settled)?;
    served_by(lab, &witnesses, owner(lab), failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

/// The kernel goes on with the flows that it has, those of adverts among them, and new ones get nowhere.
async fn gone_for_good(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", SLACK).await?;
    clock::pass(failover(lab)).await;
    let killed = clock::now();
    open_vswitch(lab)?.kill_switch().await?;
    clock::pass(PATIENCE).await;
    still(lab, began)?;
    told(lab, 0, "FAULT", killed, DEADLINE + 2 * SLACK).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;

    let returned = clock::now();
    open_vswitch(lab)?.start_switch().await?;
    told(lab, 0, "MASTER", returned, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}
