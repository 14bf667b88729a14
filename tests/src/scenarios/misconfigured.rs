//! vipshield where it guards nothing: it says so, and what to do about it, and leaves the node alone. And
//! a VIP on another interface than its instance's.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::scene::{failover, phase, served_by, still};
use super::variants::{each, run};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::{LabConfig, SecondNic};
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::objects::{self, Objects};
use crate::process;
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::vipshield::{Place, is_ready};
use crate::witness::probe;
use crate::witness::timeline::Window;

/// All processes are looked at every ten seconds.
const FOUND: Duration = Duration::from_secs(15);
/// The longest time without an answer within a move on a busy machine.
const GAP: Duration = Duration::from_millis(500);
/// The name of another executable.
const RENAMED: &str = "vrrp-speaker";

/// What an operator got wrong.
#[derive(Clone, Copy, Debug)]
enum Mistake {
    /// vipshield's container has a PID namespace of its own.
    Processes,
    /// `--interface` names another one than keepalived's.
    Interface,
    /// `--interface` names none that there is.
    Missing,
    /// vipshield runs in another network namespace.
    Network,
    /// keepalived's executable has another name.
    Name,
    /// Adverts are in IP authentication headers.
    Header,
}

const MISTAKES: [(Mistake, &str, &str, &[&str]); 6] = [
    (
        Mistake::Processes,
        "wrong-pid-namespace",
        "without the host's processes vipshield says so, and puts nothing on the node",
        &["degraded", "hostPID", "shareProcessNamespace"],
    ),
    (
        Mistake::Interface,
        "wrong-interface",
        "guarding another interface vipshield says so, and puts nothing on the node",
        &["degraded", "speaks VRRP on ens192", "--interface"],
    ),
    (
        Mistake::Missing,
        "missing-interface",
        "guarding an interface that is not there vipshield says so, and puts nothing on the node",
        &["degraded", "no interface ens256", "speaks VRRP on ens192"],
    ),
    (
        Mistake::Network,
        "wrong-network-namespace",
        "in another network namespace vipshield says so, and puts nothing on the node",
        &["degraded", "another network namespace", "hostNetwork"],
    ),
    (
        Mistake::Name,
        "wrong-daemon-name",
        "a keepalived by another name is named, and nothing is put on the node",
        &["degraded", RENAMED, "--daemon"],
    ),
    (
        Mistake::Header,
        "authentication-header",
        "a keepalived with auth_type AH is said to be none of which anything is known, and left alone",
        &["degraded", "auth_type AH", "cannot be guarded"],
    ),
];

pub(super) fn scenarios() -> Vec<Scenario> {
    let mistaken = MISTAKES.map(|(mistake, name, about, words)| {
        Scenario::new(name, about, true, move |context| async move {
            alone(name, context, async |lab, context| said(lab, context, mistake, words).await)
                .await
        })
    });
    let mut all = Vec::from(mistaken);
    all.push(Scenario::new(
        "daemon-late",
        "without keepalived vipshield is idle, with it healthy: the exit status of its status says so",
        true,
        |context| async move { alone("daemon-late", context, late).await },
    ));
    all.push(Scenario::new(
        "vip-on-another-nic",
        "the interface of a VIP is guarded, though its instance speaks on another",
        true,
        |context| async move { on_another_nic(context).await },
    ));
    all
}

/// In a lab with one node.
async fn alone(
    name: &str,
    context: Context,
    work: impl AsyncFnOnce(&mut Lab, &Context) -> Result<()>,
) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    config.nodes.truncate(1);
    run(&mut config, "ip link add ens224 up type veth peer name far");
    let mut lab = Lab::build(config).await?;
    let outcome = work(&mut lab, &context).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

async fn said(lab: &mut Lab, context: &Context, mistake: Mistake, words: &[&str]) -> Result<()> {
    let expected = objects::reference(&lab.config, &[Sequence::Bind]).await?;
    match mistake {
        Mistake::Name => rename(lab)?,
        Mistake::Header => {
            let option = "authentication {\n    auth_type AH\n    auth_pass secret\n  }";
            each(&mut lab.config, |it| it.options.push(option.to_owned()));
        }
        Mistake::Processes | Mistake::Interface | Mistake::Missing | Mistake::Network => {}
    }
    master(lab).await?;
    let client = lab.client.namespace.clone();
    let (place, nic) = match mistake {
        Mistake::Processes => (Place::Processes, "ens192"),
        Mistake::Interface => (Place::Node, "ens224"),
        Mistake::Missing => (Place::Node, "ens256"),
        Mistake::Network => (Place::Network(&client), "eth0"),
        Mistake::Name | Mistake::Header => (Place::Node, "ens192"),
    };
    lab.misplace_vipshield(&context.vipshield, place, Some(nic))?;
    let told = tells(lab, 1, words).await;
    let untouched = untouched(lab, expected.last().context("no reference")?).await;
    match (told, untouched) {
        (Err(one), Err(other)) => Err(one.context(format!("and also: {other:#}"))),
        (told, untouched) => told.and(untouched),
    }
}

/// Wait until `vipshield status` ends with this exit status, and has all these words.
async fn tells(lab: &Lab, code: i32, words: &[&str]) -> Result<()> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let last = RefCell::new(String::new());
    let heard = clock::until("the right status", FOUND, async || {
        let (found, text) = vipshield.status_text().await?;
        let right = found == code && words.iter().all(|word| text.contains(word));
        *last.borrow_mut() = format!("exit status {found} and not {code} with {words:?}: {text}");
        Ok(right.then_some(()))
    })
    .await;
    heard.with_context(|| last.into_inner())
}

/// A bind puts nothing on the node, neither while it lasts nor afterwards, and takes nothing off it that
/// keepalived gives up when it sees what happened.
async fn untouched(lab: &Lab, expected: &[Objects]) -> Result<()> {
    let host = &lab.node(0)?.host;
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    let child = keepalived.vrrp_child()?;
    // Between two steps it may give the VIP up by itself, and Kube-OVN's next step fails.
    kill(child, Signal::SIGSTOP).context("keepalived's VRRP process")?;
    let mut within = Vec::new();
    let mut hook = Before::new(StepKind::AddPort, async || {
        match Objects::of(host, lab.token()).await {
            Ok(objects) => within = objects.marked(),
            Err(error) => within = vec![format!("{error:#}")],
        }
        Verdict::Continue
    });
    let bound = Sequence::Bind.run(lab, &mut hook).await.outcome;
    kill(child, Signal::SIGCONT).context("keepalived's VRRP process")?;
    bound?;
    ensure!(hook.reached(), "there is no such step");
    keepalived.wait_for("VI_1", "FAULT", Duration::from_secs(5)).await?;
    clock::pass(GAP).await;
    ensure!(within.is_empty(), "within the bind there were {within:?}");
    objects::untouched(lab, expected).await.context("after the bind")
}

async fn master(lab: &mut Lab) -> Result<()> {
    lab.start_keepalived(0)?;
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    keepalived.wait_for("VI_1", "MASTER", Duration::from_secs(15)).await
}

/// keepalived's executable is copied under another name.
fn rename(lab: &mut Lab) -> Result<()> {
    let copy = lab.node(0)?.dir.join(RENAMED);
    process::copied(&lab.config.keepalived.executable()?, &copy)?;
    lab.config.keepalived.program = copy;
    Ok(())
}

async fn late(lab: &mut Lab, context: &Context) -> Result<()> {
    let nic = lab.config.nic.clone();
    lab.misplace_vipshield(&context.vipshield, Place::Node, Some(&nic))?;
    tells(lab, 1, &["no daemon is seen"]).await?;
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    // Idle, were it not for the keepalived of another lab.
    let status = vipshield.status().await?;
    ensure!(is_ready(&status), "without keepalived it is {status}");
    master(lab).await?;
    tells(lab, 0, &["healthy"]).await?;
    let from = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    phase(lab, 0, "bridged", Duration::from_secs(5)).await?;
    clock::pass(Duration::from_secs(2)).await;
    still(lab, from)?;
    tells(lab, 0, &["healthy"]).await?;
    lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    tells(lab, 1, &["degraded", "waited for"]).await?;
    // Nobody answers for one that has ended.
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let code = vipshield.ended_status().await?;
    ensure!(code == 2, "exit status {code} and not 2 where none runs");
    Ok(())
}

async fn on_another_nic(context: Context) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    config.second = Some(SecondNic {
        nic: "ens224".to_owned(),
        bridge: "br-second".to_owned(),
        network: [198, 51, 100],
    });
    for instance in &mut config.instances {
        instance.nic = Some("ens224".to_owned());
        instance.addresses_on = Some("ens192".to_owned());
    }
    let mut lab = Lab::build(config).await?;
    let outcome = undisturbed(&mut lab, &context).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join("vip-on-another-nic"))?;
    }
    outcome.map(|()| Vec::new())
}

/// The NIC of the VIP is taken and given back, with a vipshield that finds the VIP when it is there
/// already; and the VIP follows its daemon.
async fn undisturbed(lab: &mut Lab, context: &Context) -> Result<()> {
    measure::elect(lab, Role::Master).await?;
    lab.misplace_vipshield(&context.vipshield, Place::Node, None)?;
    let both = clock::until("both interfaces guarded", FOUND, async || {
        let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
        let Ok(status) = vipshield.status().await else { return Ok(None) };
        Ok(status.pointer("/nics/1").is_some().then_some(()))
    });
    // Without the other one it is seen what that costs.
    let both = both.await;
    let witnesses = Witnesses::paced(lab, probe::LEISURELY).await?;
    for sequence in [Sequence::Bind, Sequence::Unbind, Sequence::Bind] {
        let from = clock::now();
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(failover(lab)).await;
        let seen = witnesses.observe(lab, Window { from, to: clock::now() });
        let of = || -> Result<()> {
            still(lab, from)?;
            ensure!(seen.owners_max == 1, "{} owners at a time", seen.owners_max);
            ensure!(seen.tcp.as_ref().is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
            let gap = Duration::from_secs_f64(seen.probe.longest_gap_ms / 1000.0);
            ensure!(gap <= clock::patience(GAP), "nothing was answered for {gap:?}");
            Ok(())
        };
        let lost = format!("{} of {} probes lost in {sequence}", seen.probe.lost, seen.probe.sent);
        of().context(lost)?;
    }
    both?;
    // It goes from the bridge when it is given up.
    lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?.stop().await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await
}
