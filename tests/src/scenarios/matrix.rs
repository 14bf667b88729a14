//! Every sequence, in both roles, without a shield and with it.

use anyhow::{Context as _, Result, bail, ensure};

use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{DatapathKind, Taken};
use crate::further::VipSeen;
use crate::measure::{self, Role, RunResult, RunSpec};
use crate::report;
use crate::sequence::Sequence;
use crate::stack::Stack;

/// What the sequences do without a shield must be seen, or the lab does not
/// tell the truth; with the shield nothing may be seen.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for stack in [Stack::Ipv4, Stack::Ipv6, Stack::Dual] {
        for shielded in [false, true] {
            for sequence in SEQUENCES {
                for role in [Role::Master, Role::Backup] {
                    // Both families at once without a shield show nothing that each does not.
                    if shielded || stack != Stack::Dual {
                        all.push(scenario(Case { sequence, role, stack, shielded }));
                    }
                }
            }
        }
    }
    all
}

pub(super) const SEQUENCES: [Sequence; 4] =
    [Sequence::Bind, Sequence::Unbind, Sequence::Exchange, Sequence::Unexchange];

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
struct Case {
    sequence: Sequence,
    role: Role,
    stack: Stack,
    shielded: bool,
}

fn scenario(case: Case) -> Scenario {
    let Case { sequence, role, stack, shielded } = case;
    let (backup, node) = match role {
        Role::Master => ("", "the owner"),
        Role::Backup => ("-backup", "the waiting node"),
    };
    let ending = if shielded { "shielded" } else { "unshielded" };
    let name = format!("{sequence}{}{backup}-{ending}", stack.infix());
    let families = match stack {
        Stack::Ipv4 => "",
        Stack::Ipv6 => " (IPv6)",
        Stack::Dual => " (IPv4 and IPv6)",
    };
    let about = if shielded {
        format!("{sequence} on {node}{families}: no transition, one owner, TCP alive")
    } else {
        format!("{sequence} on {node}{families} disturbs keepalived, as it is known to")
    };
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, shielded, move |context| {
        let directory = directory.clone();
        async move { repeat(context, case, &directory).await }
    });
    scenario.measures = shielded;
    // What the families have in common is seen where both are at once.
    scenario.extra = stack == Stack::Ipv6
        && (role == Role::Backup
            || !shielded && matches!(sequence, Sequence::Unbind | Sequence::Unexchange));
    scenario
}

async fn repeat(context: Context, case: Case, directory: &str) -> Runs {
    let Case { sequence, role, stack, shielded } = case;
    let mut results = Vec::new();
    // The unshielded ones show the lab's honesty; once is enough.
    let runs = if shielded { context.runs } else { 1 };
    for run in 1..=runs {
        let mut spec = RunSpec::new(context.datapath, sequence, role);
        spec.stack = stack;
        spec.shield = shielded.then(|| context.vipshield.clone());
        spec.compare = shielded;
        spec.logs = context.logs.as_ref().map(|logs| logs.join(format!("{directory}-{run}")));
        let result = measure::run_undivided(&spec).await?;
        let check = if shielded { undisturbed(&result) } else { disturbed(&result) };
        if let Err(error) = check {
            bail!("run {run} of {runs}: {error:#} ({})", report::verdict(&result));
        }
        results.push(result);
    }
    Ok(results)
}

/// So many probes may a busy machine lose without vipshield's fault; without the carry a sequence
/// loses tens of them.
pub(super) const OWED_TO_THE_MACHINE: u64 = 10;

/// So long may vipshield's loop be away within a transition, in milliseconds, less what others had its
/// processor for: what is seen meanwhile has to wait. It is some 5, but where what it writes waits for the kernel's
/// lock behind a program that is put on an interface (17; 27 to 71 when the loop did that itself: decision 8).
const LOOP_ABSENCE_MS: f64 = 25.0;

/// The promise: no transition, no second owner, no broken connection, and no packet lost that the
/// NIC could have carried.
pub(super) fn undisturbed(result: &RunResult) -> Result<()> {
    ensure!(result.vrrp_transitions == Some(0), "VRRP transitions");
    ensure!(result.owners_max == Some(1), "owners: {:?}", result.owners_max);
    ensure!(result.tcp.is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
    if loss_is_told(result.datapath)
        && let Some((probe, down)) = result.probe.as_ref().zip(result.nic_down_ms)
    {
        // The NIC is up again in its node's view before the lab's switch has heard of it, which takes the lock that all
        // nodes of the lab have in common.
        let down = down.max(result.wire_down_ms.unwrap_or(0.0));
        // One probe a millisecond.
        let excusable = down as u64 + OWED_TO_THE_MACHINE;
        ensure!(probe.lost <= excusable, "{} probes lost, {down:.1} ms NIC down", probe.lost);
    }
    if clock::is_counted()
        && let Some(absence) = result.loop_absence_own_ms
    {
        let limit =
            if result.nodes == Taken::All { 3.0 * LOOP_ABSENCE_MS } else { LOOP_ABSENCE_MS };
        ensure!(absence <= limit, "vipshield's loop was away for {absence:.1} ms");
    }
    ensure!(result.attempts == 1, "the sequence failed {} times", result.attempts - 1);
    result.further.iter().try_for_each(|seen| {
        let down = result.nic_down_ms.unwrap_or(0.0).max(result.wire_down_ms.unwrap_or(0.0));
        further(seen, result.datapath, down).with_context(|| seen.vip.to_string())
    })
}

/// The same of a VIP beside the first.
fn further(seen: &VipSeen, datapath: DatapathKind, down: f64) -> Result<()> {
    ensure!(seen.owners_max == 1, "owners: {}", seen.owners_max);
    ensure!(seen.tcp.is_none_or(|tcp| tcp.alive), "the TCP connection is broken");
    ensure!(seen.answering.len() == 1, "neighbours are answered by {:?}", seen.answering);
    let excusable = down as u64 + OWED_TO_THE_MACHINE;
    let lost = seen.probe.lost;
    ensure!(
        !loss_is_told(datapath) || lost <= excusable,
        "{lost} probes lost, {down:.1} ms NIC down"
    );
    Ok(())
}

/// Whether what is lost tells of vipshield. Open vSwitch in an emulated machine loses more than a sequence does
/// where the host has something else to do.
fn loss_is_told(datapath: DatapathKind) -> bool {
    datapath == DatapathKind::Bridge || clock::is_counted()
}

/// What is known to happen without a shield.
fn disturbed(result: &RunResult) -> Result<()> {
    let transitions = result.vrrp_transitions.unwrap_or(0);
    ensure!(transitions > 0, "no VRRP transition: the lab does not tell the truth");
    if result.sequence == Sequence::Bind && result.role == Role::Master {
        let owners = result.owners_max;
        // For IPv6 keepalived goes on sending through the NIC, takes the VIP anew, and has it twice;
        // nobody answers for the link-local one, which Kube-OVN leaves on the port.
        if result.stack == Stack::Ipv6 {
            ensure!(owners == Some(1), "{owners:?} owners: the lab does not tell the truth");
            let mute = |seen: &VipSeen| 2 * seen.probe.lost > seen.probe.sent;
            ensure!(
                result.further.iter().any(mute),
                "all VIPs are answered for: the lab does not tell the truth"
            );
        } else {
            ensure!(owners == Some(2), "not two owners: the lab does not tell the truth");
        }
    }
    Ok(())
}
