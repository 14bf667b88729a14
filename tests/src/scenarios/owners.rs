//! The VIP is where its daemon means it to be: announced where it moved, nowhere once it is given
//! up or its daemon was killed, whoever puts it back, and whether vipshield lives or not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::failures::{SLACK, told};
use super::scene::{
    Beginning, MOMENT, failover, gone, nothing_on_the_nic, one_owner, phase, quietly, served_by,
    staged, still,
};
use super::{Context, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::witness::announcement::{AnnouncementWitness, Form};
use crate::witness::timeline::Window;

/// In this time a move is announced three times, a second apart.
const ANNOUNCED: Duration = Duration::from_millis(2600);
/// Two ways for one frame do not differ by as much.
const TWICE: Duration = Duration::from_millis(20);
/// A VIP that comes back later than Kube-OVN's own steps take.
const LATE: Duration = Duration::from_secs(12);
/// Longer than anything that a killed vipshield left may last.
const AFTERLIFE: Duration = Duration::from_secs(6);

/// Which of keepalived's processes are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The parent: the VRRP process is told by the kernel, and ends in order.
    Parent,
    /// The VRRP process: the parent starts another.
    Child,
    /// All at once.
    All,
}

/// Where the NIC is by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Free,
    Bridged,
    /// The addresses are on the bridge, the NIC is no port yet.
    MidBind,
}

impl Victim {
    const fn name(self) -> &'static str {
        match self {
            Self::Parent => "parent",
            Self::Child => "child",
            Self::All => "all",
        }
    }

    fn fall(self, lab: &mut Lab) -> Result<()> {
        let running = &mut lab.node_mut(0)?.keepalived;
        let keepalived = running.as_ref().context("keepalived does not run")?;
        match self {
            Self::All => drop(running.take()),
            Self::Child => kill(keepalived.vrrp_child()?, Signal::SIGKILL)?,
            Self::Parent => {
                let parent = *keepalived.processes()?.first().context("keepalived's parent")?;
                kill(parent, Signal::SIGKILL)?;
            }
        }
        Ok(())
    }
}

impl Moment {
    const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Bridged => "bridged",
            Self::MidBind => "mid-bind",
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = vec![killed_unshielded(), late_copy(), primary()];
    for sequence in [Sequence::Bind, Sequence::Exchange] {
        all.push(announced(sequence));
    }
    for victim in [Victim::Parent, Victim::Child, Victim::All] {
        for moment in [Moment::Free, Moment::Bridged, Moment::MidBind] {
            all.push(killed(victim, moment));
        }
    }
    for end in [Afterwards::Restart, Afterwards::Cleanup] {
        all.push(outlived(end));
    }
    all
}

fn announced(sequence: Sequence) -> Scenario {
    let name = format!("vip-announced-{sequence}");
    let about = format!(
        "{sequence} and back on the owner: each move of the VIP is announced three times, and not \
         once more when keepalived has given it up"
    );
    let directory = name.clone();
    Scenario::new(&name, &about, true, move |context| {
        let directory = directory.clone();
        async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: true };
            staged(&directory, context, beginning, async |lab, _| {
                moves_are_announced(lab, sequence).await
            })
            .await
        }
    })
}

async fn moves_are_announced(lab: &mut Lab, sequence: Sequence) -> Result<()> {
    let vip = lab.config.vip()?;
    let mac = lab.node(0)?.config.mac;
    let announcements = AnnouncementWitness::start(&lab.client)?;
    let back = if sequence == Sequence::Exchange { Sequence::Unexchange } else { Sequence::Unbind };
    // keepalived repeats its own announcements some seconds after it has become owner; none of them
    // is a reply.
    let replies = |since: Instant| -> Vec<_> {
        let mut all = announcements.of(vip, since);
        all.retain(|it| it.form == Form::Reply);
        // The shunt takes what is for a group past the bridge as well as through it.
        all.dedup_by(|next, last| next.at.saturating_duration_since(last.at) < TWICE);
        all
    };
    for sequence in [sequence, back] {
        let since = clock::now();
        quietly(lab, sequence).await?;
        let seen = replies(since);
        ensure!(seen.len() == 3, "{sequence} was announced {} times: {seen:?}", seen.len());
        let spread = seen.last().zip(seen.first()).map(|(last, first)| last.at - first.at);
        ensure!(spread.is_some_and(|spread| spread <= clock::patience(ANNOUNCED)), "{seen:?}");
        let requests = announcements.of(vip, since);
        let requests = requests.iter().filter(|it| it.form == Form::Request).count();
        ensure!(requests >= 3, "{sequence} was announced by {requests} requests");
        let strange = seen.iter().find(|it| it.mac != mac || it.sender != mac);
        ensure!(strange.is_none(), "announced with another address: {strange:?}");
    }
    // Given up between two announcements.
    let since = clock::now();
    sequence.run(lab, &mut Undisturbed).await.outcome?;
    clock::until("one of the first announcements", ANNOUNCED, async || {
        Ok((!replies(since).is_empty()).then_some(()))
    })
    .await?;
    let witnesses = Witnesses::start(lab).await?;
    lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    clock::pass(ANNOUNCED).await;
    let later: Vec<_> = announcements.of(vip, left + clock::patience(MOMENT));
    let ours: Vec<_> = later.iter().filter(|it| it.mac == mac || it.sender == mac).collect();
    ensure!(ours.is_empty(), "announced after it was given up: {ours:?}");
    served_by(lab, &witnesses, 1, failover(lab)).await
}

fn late_copy() -> Scenario {
    let name = "vip-late-copy";
    let about = "Kube-OVN puts a VIP back 12 s after its daemon gave it up: it does not stay";
    Scenario::new(name, about, true, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[0], early: true };
        staged(name, context, beginning, async |lab, _| put_back_late(lab).await).await
    })
}

async fn put_back_late(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let mut failed = Ok(());
    // The bind has deleted the VIP from the NIC, and not yet put it on the bridge.
    let mut deleted = 0;
    let mut hook = crate::sequence::At::new(
        0,
        |step: &crate::sequence::Step| {
            deleted += usize::from(step.kind == StepKind::DeleteAddress);
            step.kind == StepKind::ReplaceAddress && deleted == 2
        },
        async |_: &crate::sequence::Step| {
            failed = fails_over(lab).await;
            Verdict::Delay(LATE)
        },
    );
    Sequence::Bind.run(lab, &mut hook).await.outcome?;
    ensure!(hook.reached().is_some(), "the bind had no such step");
    failed?;
    let copied = clock::now();
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(copied);
    ensure!(late <= clock::patience(MOMENT), "the copy stayed for {late:?}");
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    // And the other way: from the bridge to the NIC.
    lab.cable(0, true)?;
    told(lab, 0, "MASTER", copied, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

/// The first node loses its cable, and gives the VIP up.
async fn fails_over(lab: &Lab) -> Result<()> {
    let pulled = clock::now();
    lab.cable(0, false)?;
    told(lab, 0, "FAULT", pulled, 2 * failover(lab)).await?;
    told(lab, 1, "MASTER", pulled, failover(lab)).await?;
    Ok(())
}

fn primary() -> Scenario {
    let name = "vip-primary-of-its-subnet";
    let about = "the node's own address is the VIP's secondary: it outlives the VIP and its daemon";
    Scenario::new(name, about, true, move |context| async move {
        let mut config = LabConfig::new(context.datapath);
        for vip in config.instances.iter_mut().flat_map(|instance| &mut instance.addresses) {
            vip.length = 24;
        }
        let mut lab = Lab::build(config).await?;
        lab.start_vipshield(0, &context.vipshield).await?;
        measure::elect(&mut lab, Role::Master).await?;
        let outcome = own_address_outlives(&mut lab).await;
        if let Some(logs) = &context.logs {
            lab.save_logs(&logs.join(name))?;
        }
        outcome.map(|()| Vec::new())
    })
}

async fn own_address_outlives(lab: &mut Lab) -> Result<()> {
    let node = lab.node(0)?;
    let nic = &lab.config.nic;
    let own = node.config.addresses.first().context("the node has no address")?;
    let gateway = lab.config.client.first().context("the client has no address")?.address;
    node.host.shell(&format!(
        "ip address del {own} dev {nic}\n\
         ip address add {own} dev {nic}\n\
         ip route replace default via {gateway} dev {nic}\n\
         ip address show dev {nic} secondary | grep -q {own}"
    ))?;
    let witnesses = Witnesses::start(lab).await?;
    // The kernel announces the node's address anew, in keepalived's name.
    lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    gone(lab, &witnesses, 0, SLACK).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    let node = lab.node(0)?;
    let there = node.host.rtnl.addresses(node.nic)?;
    let own = node.config.addresses.first().map(|own| own.address);
    let there = there.iter().filter_map(crate::rtnl::address_of).any(|ip| Some(ip) == own);
    ensure!(there, "the node lost its own address");
    Ok(())
}

fn killed(victim: Victim, moment: Moment) -> Scenario {
    let name = format!("killed-{}-{}", victim.name(), moment.name());
    let about = format!(
        "the owner's keepalived is killed ({}), its NIC {}: its VIP is gone, another owner serves",
        victim.name(),
        moment.name()
    );
    let directory = name.clone();
    Scenario::new(&name, &about, true, move |context| {
        let directory = directory.clone();
        async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: true };
            staged(&directory, context, beginning, async |lab, _| {
                owner_is_killed(lab, victim, moment).await
            })
            .await
        }
    })
}

async fn owner_is_killed(lab: &mut Lab, victim: Victim, moment: Moment) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    if moment == Moment::Bridged {
        quietly(lab, Sequence::Bind).await?;
    }
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    let mut killed = clock::now();
    if moment == Moment::MidBind {
        let mut fell = Ok(());
        let parent = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
        let processes = parent.processes()?;
        let mut running = Some(parent);
        let mut hook = Before::new(StepKind::AddPort, async || {
            killed = clock::now();
            fell = match victim {
                Victim::All => {
                    drop(running.take());
                    Ok(())
                }
                Victim::Parent => kill_one(&processes, 0),
                Victim::Child => kill_one(&processes, 1),
            };
            Verdict::Continue
        });
        Sequence::Bind.run(lab, &mut hook).await.outcome?;
        ensure!(hook.reached(), "the bind had no such step");
        fell?;
        lab.node_mut(0)?.keepalived = running;
    } else {
        victim.fall(lab)?;
    }
    let left = gone(lab, &witnesses, 0, SLACK).await;
    // Somebody else's turn may be over before it is looked at.
    let left = match (left, victim) {
        (Err(_), Victim::Child) => lost_after(&witnesses, killed)?,
        (left, _) => left?,
    };
    let late = left.saturating_duration_since(killed);
    ensure!(late <= clock::patience(SLACK), "the VIP left node1 after {late:?}");
    let next = usize::from(victim != Victim::Child);
    served_by(lab, &witnesses, next, 3 * failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

fn lost_after(witnesses: &Witnesses, since: Instant) -> Result<Instant> {
    let mut changes = witnesses.vip_changes(0).into_iter();
    let lost = changes.find(|(at, there)| *at >= since && !there).map(|(at, _)| at);
    lost.context("node1 never lost the VIP")
}

fn kill_one(processes: &[nix::unistd::Pid], which: usize) -> Result<()> {
    let pid = processes.get(which).context("keepalived's process")?;
    kill(*pid, Signal::SIGKILL).context("keepalived's process")
}

fn killed_unshielded() -> Scenario {
    let name = "killed-all-free-unshielded";
    let about = "without vipshield a killed owner leaves its VIP, and two nodes have it";
    Scenario::new(name, about, false, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[], early: true };
        staged(name, context, beginning, async |lab, _| {
            let witnesses = Witnesses::start(lab).await?;
            let from = clock::now();
            Victim::All.fall(lab)?;
            told(lab, 1, "MASTER", from, failover(lab)).await?;
            clock::pass(Duration::from_secs(2)).await;
            let seen = witnesses.observe(lab, Window { from, to: clock::now() });
            ensure!(seen.owners_max == 2, "{} owners", seen.owners_max);
            ensure!(witnesses.has_vip(0) && witnesses.has_vip(1), "one node has no VIP");
            Ok(())
        })
        .await
    })
}

/// What follows a vipshield that was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    /// Another, when keepalived was killed as well.
    Restart,
    /// `vipshield cleanup`.
    Cleanup,
}

fn outlived(end: Afterwards) -> Scenario {
    let (name, rest) = match end {
        Afterwards::Restart => {
            ("vip-outlives-vipshield", "keepalived is killed too: the next vipshield takes it off")
        }
        Afterwards::Cleanup => (
            "vip-outlives-vipshield-cleanup",
            "cleanup leaves it on the bridge while keepalived runs",
        ),
    };
    let about = format!("vipshield is killed when it has moved a VIP: that stays; {rest}");
    Scenario::new(name, &about, true, move |context| async move {
        let beginning = Beginning { role: Role::Backup, shields: &[0], early: true };
        staged(name, context, beginning, async |lab, context| {
            vipshield_is_killed(lab, context, end).await
        })
        .await
    })
}

async fn vipshield_is_killed(lab: &mut Lab, context: &Context, end: Afterwards) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    // node1 takes the VIP while its NIC is a port.
    let stopped = clock::now();
    lab.node_mut(1)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    told(lab, 0, "MASTER", stopped, failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    nothing_on_the_nic(lab, 0)?;

    let killed = clock::now();
    lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.kill().await?;
    clock::pass(AFTERLIFE).await;
    still(lab, killed)?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;

    match end {
        Afterwards::Restart => {
            Victim::All.fall(lab)?;
            clock::pass(SLACK).await;
            ensure!(witnesses.has_vip(0), "the VIP left without anybody's doing");
            lab.start_vipshield(0, &context.vipshield).await?;
            let ready = clock::now();
            let left = gone(lab, &witnesses, 0, SLACK).await?;
            let late = left.saturating_duration_since(ready);
            ensure!(late <= clock::patience(MOMENT), "the VIP left {late:?} after vipshield began");
        }
        Afterwards::Cleanup => {
            lab.clean_up(0, &context.vipshield).await?;
            served_by(lab, &witnesses, 0, failover(lab)).await?;
            nothing_on_the_nic(lab, 0)?;
            still(lab, killed)?;
            let ended = clock::now();
            lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
            // keepalived looks for it on the NIC.
            lab.clean_up(0, &context.vipshield).await?;
            let left = gone(lab, &witnesses, 0, SLACK).await?;
            ensure!(left >= ended, "the VIP left before keepalived ended");
        }
    }
    lab.start_keepalived(1)?;
    told(lab, 1, "MASTER", killed, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))?;
    if end == Afterwards::Restart {
        phase(lab, 0, "bridged", SLACK).await?;
    }
    Ok(())
}
