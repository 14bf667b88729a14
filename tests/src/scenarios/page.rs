//! `docs/node.md` says what vipshield puts on a node in each phase, object by object: that is what there is.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::failures::SLACK;
use super::scene::{Beginning, phase, staged};
use crate::clock;
use crate::config::DatapathKind;
use crate::lab::Lab;
use crate::measure::Role;
use crate::objects::{self, Objects};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};

/// What is said to people.
const PAGE: &str = include_str!("../../../docs/node.md");

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut page = Scenario::new(
        "phases-object-by-object",
        "docs/node.md names all that vipshield puts on a node, in each phase",
        true,
        |context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            staged("phases-object-by-object", context, beginning, async |lab, _| all(lab).await)
                .await
        },
    );
    page.only = Some(DatapathKind::Bridge);
    vec![page]
}

/// The lines of the page about a phase.
fn said(of: &str) -> Result<BTreeSet<String>> {
    let heading = format!("## {of}\n");
    let (_, rest) = PAGE.split_once(&heading).with_context(|| format!("no heading {of}"))?;
    let section = rest.split("\n## ").next().unwrap_or(rest);
    let (_, block) =
        section.split_once("```text\n").with_context(|| format!("no block in {of}"))?;
    let block = block.split("```").next().unwrap_or(block);
    Ok(block.lines().filter(|line| *line != "(nothing)").map(str::to_owned).collect())
}

/// What bears marks on the first node.
async fn found(lab: &Lab) -> Result<BTreeSet<String>> {
    let objects = Objects::of(&lab.node(0)?.host, lab.token()).await?;
    let marked = objects.without(&[objects::CLSACT]).marked();
    Ok(marked.into_iter().map(|line| line.trim_start_matches("left: ").to_owned()).collect())
}

async fn is_as_said(lab: &Lab, of: &str) -> Result<()> {
    let (said, found) = (said(of)?, found(lab).await?);
    let lines = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join("\n");
    ensure!(
        said == found,
        "{of}: the page says\n{}\nand there is\n{}",
        lines(&said),
        lines(&found)
    );
    Ok(())
}

async fn within(lab: &Lab, sequence: Sequence, step: StepKind, of: &str) -> Result<()> {
    let mut looked = Ok(());
    let mut hook = Before::new(step, async || {
        looked = is_as_said(lab, of).await;
        Verdict::Continue
    });
    let outcome = sequence.run(lab, &mut hook).await.outcome;
    ensure!(hook.reached(), "{sequence} has no such step");
    looked.and(outcome)
}

async fn all(lab: &mut Lab) -> Result<()> {
    let lab = &*lab;
    is_as_said(lab, "free").await?;
    within(lab, Sequence::Bind, StepKind::AddPort, "leaving").await?;
    phase(lab, 0, "bridged", SLACK).await?;
    clock::pass(objects::RELEASE).await;
    is_as_said(lab, "bridged").await?;
    within(lab, Sequence::Unbind, StepKind::ReplaceAddress, "returning").await?;
    phase(lab, 0, "free", SLACK).await?;
    clock::pass(objects::RELEASE).await;
    is_as_said(lab, "free").await?;
    Sequence::Exchange.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", SLACK).await?;
    clock::pass(objects::RELEASE).await;
    is_as_said(lab, "bridged").await
}
