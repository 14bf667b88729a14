//! Failovers while a node's NIC is a port: the enslaved node takes over and yields, gives up and
//! dies, and there is one owner.

use anyhow::{Context as _, Result, ensure};

use super::failures::{SLACK, told};
use super::scene::{
    Beginning, MOMENT, failover, gone, nothing_on_the_nic, one_owner, quietly, served_by,
    staged_in, still,
};
use super::{Context, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::Sequence;
use crate::stack::Stack;

/// How an owner ceases to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// keepalived is told to end.
    Stop,
    /// keepalived is killed, all its processes at once.
    Kill,
    /// Its cable is pulled.
    Cable,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Cable => "cable",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Stop => "is stopped",
            Self::Kill => "is killed",
            Self::Cable => "loses its carrier",
        }
    }

    async fn come(self, lab: &mut Lab, node: usize) -> Result<()> {
        match self {
            Self::Stop => {
                let running = lab.node_mut(node)?.keepalived.take();
                running.context("keepalived does not run")?.stop().await
            }
            Self::Kill => {
                drop(lab.node_mut(node)?.keepalived.take());
                Ok(())
            }
            Self::Cable => lab.cable(node, false),
        }
    }

    fn over(self, lab: &mut Lab, node: usize) -> Result<()> {
        match self {
            Self::Stop | Self::Kill => lab.start_keepalived(node),
            Self::Cable => lab.cable(node, true),
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for (stack, sequence) in [
        (Stack::Ipv4, Sequence::Bind),
        (Stack::Ipv4, Sequence::Exchange),
        (Stack::Ipv6, Sequence::Bind),
    ] {
        for end in [End::Stop, End::Kill, End::Cable] {
            for mut scenario in [take_over(stack, sequence, end), give_up(stack, sequence, end)] {
                scenario.extra = stack == Stack::Ipv6 && end == End::Cable;
                all.push(scenario);
            }
        }
    }
    all
}

fn back(sequence: Sequence) -> Sequence {
    if sequence == Sequence::Exchange { Sequence::Unexchange } else { Sequence::Unbind }
}

fn take_over(stack: Stack, sequence: Sequence, end: End) -> Scenario {
    let name = format!("take-over-{sequence}{}-{}", stack.infix(), end.name());
    let about = format!(
        "node1 waits, enslaved by {sequence}; the owner {}: node1 takes over and yields again",
        end.words()
    );
    // A killed keepalived leaves its VIP, and two nodes have it, unless vipshield runs there too.
    let shields: &[usize] = if end == End::Kill { &[0, 1] } else { &[0] };
    let directory = name.clone();
    Scenario::new(&name, &about, true, move |context: Context| {
        let directory = directory.clone();
        async move {
            let beginning = Beginning { role: Role::Backup, shields, early: true };
            let config = LabConfig::stacked(context.datapath, stack);
            staged_in(config, &directory, context, beginning, async |lab, _| {
                node1_takes_over(lab, sequence, end).await
            })
            .await
        }
    })
}

async fn node1_takes_over(lab: &mut Lab, sequence: Sequence, end: End) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, sequence).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;

    let ended = clock::now();
    end.come(lab, 1).await?;
    let limit = failover(lab);
    let taken = told(lab, 0, "MASTER", ended, limit).await?;
    // Stopping takes time itself; from its goodbye on it is the skew alone.
    let took = taken.saturating_duration_since(ended);
    ensure!(took <= clock::patience(limit), "the failover took {took:?}");
    served_by(lab, &witnesses, 0, limit).await?;
    nothing_on_the_nic(lab, 0)?;

    let returned = clock::now();
    end.over(lab, 1)?;
    // Higher priority: it takes the VIP back as soon as it has heard nobody better.
    let yielded = told(lab, 0, "BACKUP", returned, 2 * failover(lab)).await?;
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(yielded);
    ensure!(late <= clock::patience(MOMENT), "the VIP left node1 {late:?} after node1 yielded");
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))?;

    // Nothing is left that giving the NIC back could bring to life again.
    quietly(lab, back(sequence)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}

fn give_up(stack: Stack, sequence: Sequence, end: End) -> Scenario {
    let name = format!("give-up-{sequence}{}-{}", stack.infix(), end.name());
    let about = format!(
        "node1 owns the VIP, enslaved by {sequence}, and {}: its VIP is gone, node2 takes over",
        end.words()
    );
    let directory = name.clone();
    Scenario::new(&name, &about, true, move |context: Context| {
        let directory = directory.clone();
        async move {
            // What a killed daemon owned is known to who has heard it say so.
            let early = end == End::Kill;
            let beginning = Beginning { role: Role::Master, shields: &[0], early };
            let config = LabConfig::stacked(context.datapath, stack);
            staged_in(config, &directory, context, beginning, async |lab, _| {
                node1_gives_up(lab, sequence, end).await
            })
            .await
        }
    })
}

async fn node1_gives_up(lab: &mut Lab, sequence: Sequence, end: End) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, sequence).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;

    let ended = clock::now();
    end.come(lab, 0).await?;
    if end == End::Cable {
        told(lab, 0, "FAULT", ended, SLACK).await?;
    }
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(ended);
    ensure!(late <= clock::patience(SLACK), "the VIP left node1 after {late:?}");
    told(lab, 1, "MASTER", ended, failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;

    let returned = clock::now();
    if end == End::Cable {
        end.over(lab, 0)?;
        told(lab, 0, "MASTER", returned, 2 * failover(lab)).await?;
        served_by(lab, &witnesses, 0, failover(lab)).await?;
        nothing_on_the_nic(lab, 0)?;
        if sequence == Sequence::Exchange {
            // keepalived has seen the names: to it the bridge is the interface now, and there is
            // no way back without its notice.
            return one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT));
        }
        quietly(lab, back(sequence)).await?;
    } else {
        back(sequence).run(lab, &mut crate::sequence::Undisturbed).await.outcome?;
        still(lab, returned)?;
        end.over(lab, 0)?;
        told(lab, 0, "MASTER", returned, 2 * failover(lab)).await?;
    }
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))
}
