//! The sequences by Kube-OVN's own daemon in place of the replay.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};

use super::matrix::{SEQUENCES, undisturbed};
use super::{Context, Runs, Scenario};
use crate::config::{DatapathKind, LabConfig, Taken};
use crate::enslaver::Enslaver;
use crate::measure::{self, Role, RunResult, RunSpec};
use crate::objects;
use crate::order::Order;
use crate::report;
use crate::sequence::{Sequence, Undisturbed};

/// How the names of these scenarios begin.
pub(super) const PREFIX: &str = "kube-ovn-";

/// On whom, and whether vipshield runs there.
#[derive(Clone, Copy, Debug)]
struct Case {
    sequence: Sequence,
    role: Role,
    nodes: Taken,
    shielded: bool,
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for sequence in SEQUENCES {
        for (role, nodes, shielded) in [
            (Role::Master, Taken::One, true),
            (Role::Backup, Taken::One, true),
            (Role::Master, Taken::All, true),
            (Role::Master, Taken::One, false),
        ] {
            all.push(scenario(Case { sequence, role, nodes, shielded }));
        }
    }
    let recorded = "what the kernel tells, in the order that was recorded of Kube-OVN 1.16.2";
    let own = format!("{PREFIX}order");
    let about = format!("the sequences by Kube-OVN's own daemon: {recorded}");
    let mut own =
        Scenario::new(&own, &about, false, |context| in_order(context, Enslaver::KubeOvn));
    own.only = Some(DatapathKind::Ovs);
    own.enslaver = Enslaver::KubeOvn;
    let about = format!("the sequences as they are replayed: {recorded}");
    let replay = |context| in_order(context, Enslaver::Replay);
    all.extend([own, Scenario::new("replay-order", &about, false, replay)]);
    all
}

/// What the kernel told of each sequence, of the first node and one after the other, when Kube-OVN's
/// own daemon did it. A recording that is not right is told by `kube-ovn-order`, a replay that is not by
/// `replay-order`.
const RECORDED: [(Sequence, &str); 4] = [
    (Sequence::Bind, include_str!("../../kube-ovn/recorded/1.16.2-bind")),
    (Sequence::Unbind, include_str!("../../kube-ovn/recorded/1.16.2-unbind")),
    (Sequence::Exchange, include_str!("../../kube-ovn/recorded/1.16.2-exchange")),
    (Sequence::Unexchange, include_str!("../../kube-ovn/recorded/1.16.2-unexchange")),
];

/// Play them without keepalived and compare. What was seen is among the logs.
async fn in_order(context: Context, enslaver: Enslaver) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    if enslaver == Enslaver::KubeOvn {
        config.kube_ovn.clone_from(&context.kube_ovn);
    }
    let lab = objects::idle_lab(&config).await?;
    let mut order = Order::listen(&lab)?;
    let mut wrong = Vec::new();
    for (sequence, recorded) in RECORDED {
        sequence.run(&lab, &mut Undisturbed).await.outcome?;
        let seen = order.so_far()?;
        let log = lab.node(0)?.dir.join(format!("order-{sequence}.log"));
        fs::write(&log, seen.join("\n") + "\n").context("cannot write what was seen")?;
        if !seen.iter().map(String::as_str).eq(recorded.lines()) {
            wrong.push(format!("{sequence}: {seen:?}"));
        }
    }
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(format!("order-{enslaver}")))?;
    }
    ensure!(wrong.is_empty(), "another order than recorded: {}", wrong.join("; "));
    Ok(Vec::new())
}

fn scenario(case: Case) -> Scenario {
    let Case { sequence, role, nodes, shielded } = case;
    let (infix, whose) = match (nodes, role) {
        (Taken::All, _) => ("cluster-", "three masters at once"),
        (Taken::One, Role::Master) => ("", "the owner"),
        (Taken::One, Role::Backup) => ("backup-", "the waiting node"),
    };
    let (ending, what) = if shielded {
        ("shielded", "no transition, one owner, TCP alive")
    } else {
        ("unshielded", "disturbs keepalived, as it is known to")
    };
    let name = match nodes {
        Taken::All => format!("{PREFIX}{infix}{sequence}-{ending}"),
        Taken::One => format!("{PREFIX}{sequence}-{infix}{ending}"),
    };
    let about = format!("{sequence} by Kube-OVN's own daemon on {whose}: {what}");
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, shielded, move |context| {
        let directory = directory.clone();
        async move { repeat(context, case, &directory).await }
    });
    scenario.measures = true;
    scenario.only = Some(DatapathKind::Ovs);
    scenario.enslaver = Enslaver::KubeOvn;
    scenario
}

async fn repeat(context: Context, case: Case, directory: &str) -> Runs {
    let Case { sequence, role, nodes, shielded } = case;
    let program: PathBuf = context.kube_ovn.context("Kube-OVN's daemon is not there")?;
    let mut results = Vec::new();
    for run in 1..=if shielded { context.runs } else { 1 } {
        let mut spec = RunSpec::new(context.datapath, sequence, role);
        spec.nodes = nodes;
        spec.kube_ovn = Some(program.clone());
        spec.shield = shielded.then(|| context.vipshield.clone());
        spec.logs = context.logs.as_ref().map(|logs| logs.join(format!("{directory}-{run}")));
        let result = measure::run(&spec).await?;
        let check = if shielded { undisturbed(&result) } else { disturbed(&result) };
        if let Err(error) = check {
            bail!("run {run}: {error:#} ({})", report::verdict(&result));
        }
        results.push(result);
    }
    Ok(results)
}

/// What is known to happen without a shield: keepalived fails, and takes the VIP away under Kube-OVN's hands,
/// which begins anew then.
fn disturbed(result: &RunResult) -> Result<()> {
    let transitions = result.vrrp_transitions.unwrap_or(0);
    ensure!(transitions > 0, "no VRRP transition: the lab does not tell the truth");
    Ok(())
}
