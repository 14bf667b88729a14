//! The configuration file: taken anew at any moment, and what it says is so.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::failures::{SLACK, told};
use super::scene::{Beginning, failover, phase, staged_in, still};
use super::variants::two_nics;
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::Role;
use crate::sequence::{Answer, Hooks, Sequence, Step, Undisturbed, Verdict};
use crate::vipshield::Vipshield;

/// A file like any other.
const PLAIN: &str = "interfaces = \"ens192\"\n";
/// One that differs in all that can be taken anew. Its first rule is for nothing that happens here.
const OTHER: &str = r#"interfaces = ["ens192", "ens1*"]
deadline = "3s"
on_stop = "keep"

[[rules]]
table = "guard"
name = "after-failures"
when = { message = "bridge-port", phase = "down" }
then = "pass"

[[rules]]
table = "telling"
name = "sooner"
when = { untrue = "link", for = "1s" }
then = "tell"
"#;
/// A rule that decides nothing.
const IDLE: &str = r#"deadline = "500ms"

[[rules]]
table = "guard"
name = "idle"
when = { message = "carrier-loss", phase = "down" }
then = "pass"
"#;

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "reload-midway",
            "another configuration is taken before each step of bind and unbind: nobody notices",
            true,
            |context| async move {
                let config = with(LabConfig::new(context.datapath), PLAIN);
                Box::pin(staged_in(config, "reload-midway", context, BEGINNING, midway)).await
            },
        ),
        Scenario::new(
            "reload-refused",
            "a file that is wrong, or asks for what needs a restart, changes nothing: reload fails and says why",
            true,
            |context| async move {
                let config = with(LabConfig::new(context.datapath), DEADLINE_900);
                Box::pin(staged_in(config, "reload-refused", context, BEGINNING, refused)).await
            },
        ),
        Scenario::new(
            "own-guard-rule",
            "a rule of one's own passes what would be withheld: keepalived sees the NIC down, and up again",
            true,
            |context| async move {
                let config = with(LabConfig::new(context.datapath), PLAIN);
                Box::pin(staged_in(config, "own-guard-rule", context, BEGINNING, passes)).await
            },
        ),
        Scenario::new(
            "interfaces-pattern",
            "of the NICs that keepalived uses those that fit a pattern are guarded, and after a reload others",
            true,
            |context| async move { Box::pin(pattern(context)).await },
        ),
    ]
}

const DEADLINE_900: &str = "interfaces = \"ens192\"\ndeadline = \"900ms\"\n";
const BEGINNING: Beginning = Beginning { role: Role::Master, shields: &[0], early: false };

fn with(mut config: LabConfig, file: &'static str) -> LabConfig {
    config.shield.file = Some(file);
    config
}

fn vipshield(lab: &Lab) -> Result<&Vipshield> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")
}

/// Puts this file in place and has it taken.
async fn take(vipshield: &Vipshield, file: &str) -> Result<String> {
    vipshield.configure(file)?;
    let (code, said) = vipshield.reload().await?;
    ensure!(code == 0, "reload ended with {code}: {said}");
    Ok(said)
}

/// Has a file taken before each step, never the same as the one before.
struct Reloading<'l> {
    vipshield: &'l Vipshield,
    times: usize,
    failed: Result<()>,
}

impl Hooks for Reloading<'_> {
    fn before<'a>(&'a mut self, _: &'a Step) -> Answer<'a> {
        Box::pin(async move {
            let file = if self.times.is_multiple_of(2) { OTHER } else { PLAIN };
            if self.failed.is_ok() {
                self.failed = take(self.vipshield, file).await.map(drop);
            }
            self.times += 1;
            Verdict::Continue
        })
    }
}

async fn midway(lab: &mut Lab, _: &Context) -> Result<()> {
    let from = clock::now();
    for (sequence, end) in [(Sequence::Bind, "bridged"), (Sequence::Unbind, "free")] {
        let mut hook = Reloading { vipshield: vipshield(lab)?, times: 0, failed: Ok(()) };
        sequence.run(lab, &mut hook).await.outcome?;
        let Reloading { times, failed, .. } = hook;
        failed.with_context(|| format!("{sequence}"))?;
        ensure!(times >= 5, "{sequence} had {times} steps");
        phase(lab, 0, end, SLACK).await?;
        clock::pass(failover(lab)).await;
        still(lab, from).with_context(|| format!("{sequence}"))?;
    }
    Ok(())
}

/// The deadline of the only NIC, as the status says.
async fn deadline(vipshield: &Vipshield) -> Result<u64> {
    let status = vipshield.status().await?;
    let deadline = status.pointer("/nics/0/deadline_ms").and_then(Value::as_u64);
    deadline.context("no deadline in status")
}

async fn refused(lab: &mut Lab, _: &Context) -> Result<()> {
    let from = clock::now();
    let vipshield = vipshield(lab)?;
    ensure!(deadline(vipshield).await? == 900, "the file's deadline holds");
    for (file, expected) in [
        ("deadline = \"500ms\"\ninterface = \"ens192\"\n", ":2:1: unknown key \"interface\""),
        (IDLE, ":6:8: the rule never matches"),
        ("deadline = \"500ms\"\ndaemons = \"vrrpd\"\n", "restart vipshield"),
        ("deadline = ", "vipshield.toml:1:"),
        ("\u{0}\u{1}", "vipshield.toml:1:"),
    ] {
        vipshield.configure(file)?;
        let (code, said) = vipshield.reload().await?;
        ensure!(code == 1 && said.contains(expected), "reload ended with {code}: {said}");
        ensure!(deadline(vipshield).await? == 900, "{file:?} has changed the deadline");
        let events = vipshield.events().await?.to_string();
        ensure!(events.contains("the configuration stays as it was"), "no word of it in {events}");
    }
    // What was refused is no obstacle to the next.
    vipshield.configure("interfaces = \"ens192\"\ndeadline = \"700ms\"\n")?;
    vipshield.hang_up()?;
    clock::until("the file taken at SIGHUP", SLACK, async || {
        Ok((deadline(vipshield).await? == 700).then_some(()))
    })
    .await?;
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(failover(lab)).await;
    still(lab, from)
}

/// Takes the first node's NIC down and sets it up again before the deadline; returns how many of the messages
/// about that were passed by a rule of one's own, and what was withheld of them.
async fn blink(lab: &Lab) -> Result<(u64, u64)> {
    let node = lab.node(0)?;
    let counted = async || -> Result<(u64, u64)> {
        let vipshield = vipshield(lab)?;
        let passed = vipshield.counter("guard_passed_own_rule").await?;
        Ok((passed, vipshield.counter("guard_withheld_admin_down").await?))
    };
    let before = counted().await?;
    node.host.rtnl.down(node.nic)?;
    let after = clock::until("a word about the NIC", SLACK, async || {
        let now = counted().await?;
        Ok((now != before).then_some(now))
    })
    .await;
    node.host.rtnl.up(node.nic)?;
    let after = after?;
    Ok((after.0 - before.0, after.1 - before.1))
}

async fn passes(lab: &mut Lab, _: &Context) -> Result<()> {
    let from = clock::now();
    let (passed, withheld) = blink(lab).await?;
    ensure!(passed == 0 && withheld > 0, "without a rule: {passed} passed, {withheld} withheld");
    clock::pass(failover(lab)).await;
    still(lab, from).context("without a rule")?;

    let rule = "[[rules]]\ntable = \"guard\"\nname = \"let-down\"\n\
                when = { message = \"admin-down\", interface = \"ens*\", role = \"owner\" }\nthen = \"pass\"\n";
    let said = take(vipshield(lab)?, &format!("{PLAIN}{rule}")).await?;
    ensure!(said.contains("let-down"), "{said}");
    let from = clock::now();
    let (passed, withheld) = blink(lab).await?;
    ensure!(passed > 0 && withheld == 0, "with the rule: {passed} passed, {withheld} withheld");
    told(lab, 0, "FAULT", from, SLACK).await?;
    told(lab, 0, "MASTER", from, 2 * failover(lab)).await?;
    phase(lab, 0, "free", SLACK).await?;

    // Taken back, the rule passes nothing any more.
    take(vipshield(lab)?, PLAIN).await?;
    let from = clock::now();
    let (passed, withheld) = blink(lab).await?;
    ensure!(passed == 0 && withheld > 0, "afterwards: {passed} passed, {withheld} withheld");
    clock::pass(failover(lab)).await;
    still(lab, from).context("afterwards")
}

/// The names of the guarded NICs.
async fn guarded(vipshield: &Vipshield) -> Result<Vec<String>> {
    let status = vipshield.status().await?;
    let nics = status.get("nics").and_then(Value::as_array).context("no NICs in status")?;
    let names = nics.iter().filter_map(|nic| nic.get("name").and_then(Value::as_str));
    Ok(names.map(str::to_owned).collect())
}

async fn pattern(context: Context) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    two_nics(&mut config);
    let config = with(config, "interfaces = [\"ens1*\", \"bond?\"]\n");
    staged_in(config, "interfaces-pattern", context, BEGINNING, async |lab, _| {
        let from = clock::now();
        let names = guarded(vipshield(lab)?).await?;
        ensure!(names == ["ens192"], "guarded are {names:?}");
        for sequence in [Sequence::Bind, Sequence::Unbind] {
            sequence.run(lab, &mut Undisturbed).await.outcome?;
            clock::pass(failover(lab)).await;
            still(lab, from).with_context(|| format!("{sequence}"))?;
        }
        take(vipshield(lab)?, "interfaces = \"*224\"\n").await?;
        let names =
            clock::until("the other NIC alone guarded", Duration::from_secs(5), async || {
                let names = guarded(vipshield(lab)?).await?;
                Ok((names == ["ens224"]).then_some(names))
            });
        names.await?;
        still(lab, from)
    })
    .await
}
