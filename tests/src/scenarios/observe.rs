//! A vipshield that only looks: what happens is what happens without one.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::handovers::take_over;
use super::scene::{Beginning, quietly, staged_in, still};
use super::{Context, Scenario};
use crate::clock;
use crate::config::{DatapathKind, LabConfig};
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::objects::{self, Objects};
use crate::sequence::{Sequence, Undisturbed};

/// For what is seen, told and answered.
const SOON: Duration = Duration::from_secs(5);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "observed-bind",
            "vipshield run --observe changes nothing and withholds nothing: keepalived goes to FAULT, and events say \
             what happened",
            async |lab, context| {
                let before = objects(lab).await?;
                lab.start_vipshield(0, &context.vipshield).await?;
                looks(lab, &before).await
            },
        ),
        scenario(
            "observed-handover",
            "one that only looks hands over to one that guards, which does so from then on, and hands over to none \
             that only looks",
            async |lab, context| {
                lab.start_vipshield(0, &context.vipshield).await?;
                hands_over(lab, context).await
            },
        ),
    ]
}

/// On the owner, with a vipshield that only looks.
fn scenario(
    name: &'static str,
    about: &str,
    work: impl AsyncFn(&mut Lab, &Context) -> Result<()> + Copy + 'static,
) -> Scenario {
    let mut scenario = Scenario::new(name, about, true, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[], early: false };
        let mut config = LabConfig::new(context.datapath);
        config.shield.observes = true;
        staged_in(config, name, context, beginning, work).await
    });
    scenario.only = Some(DatapathKind::Bridge);
    scenario
}

async fn hands_over(lab: &mut Lab, context: &Context) -> Result<()> {
    lab.config.shield.observes = false;
    take_over(lab, 0, &context.vipshield).await.context("one that guards takes over")?;
    let from = clock::now();
    for sequence in [Sequence::Bind, Sequence::Unbind] {
        quietly(lab, sequence).await.with_context(|| format!("{sequence}, guarded"))?;
    }
    still(lab, from)?;
    // What one that only looks would see, the one that guards has recorded; to look is no reason to end that.
    lab.config.shield.observes = true;
    let next = lab.spawn_vipshield(0, &context.vipshield)?;
    clock::until("one that only looks says why it ends", SOON, async || {
        let refused = next.log().iter().any(|line| line.text.contains("already guards"));
        Ok(refused.then_some(()))
    })
    .await?;
    quietly(lab, Sequence::Bind).await.context("bind, with one that was refused")?;
    still(lab, from)
}

async fn objects(lab: &Lab) -> Result<Objects> {
    // It hears what passes, with programs that pass everything.
    Ok(Objects::of(&lab.node(0)?.host, lab.token()).await?.without(&[objects::CLSACT]))
}

async fn looks(lab: &mut Lab, before: &Objects) -> Result<()> {
    let status = shield(lab)?.status().await?;
    let reasons = status.pointer("/reasons").and_then(Value::as_array);
    let says = reasons.is_some_and(|all| all.iter().any(|it| it.to_string().contains("--observe")));
    ensure!(says, "status does not say that it only observes: {status}");
    let changed = objects(lab).await?.difference(before);
    ensure!(changed.is_empty(), "it changed the node: {}", changed.join("; "));

    let mut notes = Vec::new();
    measure::insist(Sequence::Bind, lab, 0, &mut Undisturbed, &mut notes).await.context("bind")?;
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    let failed = clock::until("FAULT", SOON, async || {
        Ok((keepalived.state("VI_1").as_deref() == Some("FAULT")).then_some(()))
    });
    failed.await.context("keepalived has noticed nothing: vipshield did more than look")?;
    let other = lab.node(1)?.keepalived.as_ref().context("the other keepalived does not run")?;
    other.wait_for("VI_1", "MASTER", SOON).await.context("the other node does not take over")?;
    // Its adverts are heard.
    clock::pass(Duration::from_secs(2)).await;
    let said = shield(lab)?.events().await?.to_string();
    ensure!(said.contains("being taken"), "nothing is said of the bind: {said}");
    let withheld = shield(lab)?.status().await?.pointer("/counters/withheld").cloned();
    ensure!(withheld == Some(Value::from(0)), "withheld: {withheld:?}");
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    vipshield.stop().await
}

fn shield(lab: &Lab) -> Result<&crate::vipshield::Vipshield> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")
}
