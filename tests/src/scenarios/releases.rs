//! keepalived of other releases than the one that is installed: all sequences in a row.

use anyhow::{Context as _, Result, ensure};

use super::ground::insist;
use super::matrix::SEQUENCES;
use super::scene::{Beginning, failover, staged_in};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::release::Release;
use crate::sequence::Sequence;
use crate::stack::Stack;
use crate::witness::probe;
use crate::witness::timeline::Window;

/// The releases of distributions, as their roots are called, the oldest keepalived first: 2.0.19, 2.1.5,
/// 2.2.4, 2.3.3, and the newest.
const SUITES: [&str; 5] = ["focal", "bullseye", "jammy", "trixie", "sid"];

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for suite in SUITES {
        for stack in [Stack::Ipv4, Stack::Ipv6, Stack::Dual] {
            for role in [Role::Master, Role::Backup] {
                all.push(scenario(suite, stack, role));
            }
        }
    }
    all
}

fn scenario(suite: &'static str, stack: Stack, role: Role) -> Scenario {
    let (backup, node) = match role {
        Role::Master => ("", "the owner"),
        Role::Backup => ("-backup", "the waiting node"),
    };
    let families = match stack {
        Stack::Ipv4 => "IPv4",
        Stack::Ipv6 => "IPv6",
        Stack::Dual => "IPv4 and IPv6",
    };
    let name = format!("release-{suite}{}{backup}", stack.infix());
    let about =
        format!("all sequences on {node} with the keepalived of {suite} ({families}): undisturbed");
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, &about, true, move |context| {
        let directory = directory.clone();
        async move { in_a_row(context, suite, stack, role, &directory).await }
    });
    scenario.release = Some(suite);
    // What the families have in common is seen where both are at once.
    scenario.extra = stack == Stack::Ipv6;
    scenario
}

async fn in_a_row(
    context: Context,
    suite: &str,
    stack: Stack,
    role: Role,
    directory: &str,
) -> Runs {
    let mut config = LabConfig::stacked(context.datapath, stack);
    let releases = context.releases.as_deref().context("no other releases")?;
    config.keepalived = Release::below(releases, suite);
    all_sequences(config, role, context, directory).await
}

/// One after the other on the first node of this lab, which has this role: nobody may notice anything.
pub(super) async fn all_sequences(
    config: LabConfig,
    role: Role,
    context: Context,
    directory: &str,
) -> Runs {
    let beginning = Beginning { role, shields: &[0], early: false };
    staged_in(config, directory, context, beginning, async |lab, _| {
        let witnesses = Witnesses::paced(lab, probe::LEISURELY).await?;
        for sequence in SEQUENCES {
            undisturbed(lab, &witnesses, sequence).await.with_context(|| sequence.to_string())?;
        }
        Ok(())
    })
    .await
}

/// No transition on any node, one owner of each VIP, the connections alive.
async fn undisturbed(lab: &Lab, witnesses: &Witnesses, sequence: Sequence) -> Result<()> {
    let from = clock::now();
    insist(sequence, lab).await?;
    clock::pass(failover(lab)).await;
    let window = Window { from, to: clock::now() };
    let seen = witnesses.observe(lab, window);
    ensure!(seen.transitions.is_empty(), "transitions: {:?}", seen.transitions);
    ensure!(seen.owners_max == 1, "{} owners at a time", seen.owners_max);
    ensure!(seen.tcp.is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
    for seen in witnesses.further(from, window) {
        let vip = seen.vip;
        ensure!(seen.owners_max == 1, "{vip}: {} owners at a time", seen.owners_max);
        ensure!(seen.tcp.is_none_or(|tcp| tcp.alive), "{vip}: the TCP connection is broken");
    }
    Ok(())
}
