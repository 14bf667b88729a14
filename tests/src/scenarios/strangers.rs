//! Programs of others that bear the right names and may do nothing: nothing follows from them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::scene::failover;
use super::scene::{Beginning, MOMENT, gone, one_owner, quietly, served_by, staged, still};
use super::{Context, Scenario};
use crate::clock;
use crate::config::Prefix;
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::pretender::{self, Guise, Wish};
use crate::process::{Daemon, Program};
use crate::rtnl::address_of;
use crate::sequence::Sequence;
use crate::vipshield::Vipshield;

/// For so long pretenders ask for everything.
const ASKING: Duration = Duration::from_secs(2);
/// For so long programs are started.
const STARTING: Duration = Duration::from_secs(2);
/// So soon the VIP is gone when its keepalived is.
const SOON: Duration = Duration::from_secs(1);
/// More than vipshield guards.
const MONITORS: usize = 400;
/// More descriptors than anybody needs.
const DUPLICATES: usize = 19_000;
/// Where vipshield serves metrics.
const METRICS: &str = "127.0.0.1:9590";
/// An address on a bridge that is nobody's business.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 5));
/// What a daemon that starts would find on a port.
const STAND_IN: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 52, 53));

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![pretenders(), programs(), squatter()]
}

fn pretenders() -> Scenario {
    let name = "stranger-asks";
    let about = "programs called keepalived, which the kernel refuses everything, ask for addresses \
                 and their removal: nothing follows, and the real one dies and restarts as ever";
    Scenario::new(name, about, true, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
        staged(name, context, beginning, async |lab, _| asked_for(lab).await).await
    })
}

/// Each address of the node's NIC, and one on another bridge.
fn wishes(lab: &Lab) -> Result<Vec<Wish>> {
    let node = lab.node(0)?;
    let rtnl = &node.host.rtnl;
    rtnl.add_bridge("br-other", &[2, 0, 0, 0, 9, 9])?;
    let other = rtnl.link("br-other")?.index;
    rtnl.add_address(other, Prefix { address: ELSEWHERE, length: 24 })?;
    let on = |ifindex| {
        let addresses = rtnl.addresses(ifindex)?;
        let wish = move |message: &_| Some((address_of(message)?, ifindex));
        Ok::<Vec<_>, anyhow::Error>(addresses.iter().filter_map(wish).collect())
    };
    let all = on(node.nic)?.into_iter().chain(on(other)?);
    let wish = |(ip, ifindex)| Wish { ifindex, ip, length: if ip == ELSEWHERE { 24 } else { 32 } };
    Ok(all.map(wish).filter(|wish| wish.ip.is_ipv4()).collect())
}

/// Start one for each guise.
async fn pretend(lab: &Lab, pretence: &[String]) -> Result<Vec<Daemon>> {
    let mut running = Vec::new();
    for guise in [Guise::Nobody, Guise::OwnUserNamespace] {
        let (node, token, epoch) = (lab.node(0)?, lab.token(), lab.epoch);
        running.push(pretender::start(guise, pretence, node, token, epoch).await?);
    }
    Ok(running)
}

async fn asked_for(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let vip = lab.config.vip()?;
    let wishes = wishes(lab)?;
    let mut pretence: Vec<String> = wishes.iter().map(|wish| format!("--delete={wish}")).collect();
    pretence.push("--take-over=vipshield".to_owned());
    let pretenders = pretend(lab, &pretence).await?;
    clock::pass(ASKING).await;
    for pretender in &pretenders {
        let answers = pretender.lines();
        let refused = answers.iter().filter(|line| line.text.ends_with(": -1")).count();
        ensure!(refused > 10, "the kernel refused {refused} requests: {answers:?}");
        let answer = answers.iter().find(|line| line.text.starts_with("take over: "));
        let is_refused = |text: &str| text.contains("may not change this network");
        ensure!(answer.is_some_and(|line| is_refused(&line.text)), "taken over: {answer:?}");
    }
    still(lab, began)?;
    let lost = witnesses.vip_changes(0).into_iter().find(|(at, there)| *at >= began && !there);
    ensure!(lost.is_none(), "the VIP was taken off");
    let node = lab.node(0)?;
    for wish in &wishes {
        let addresses = node.host.rtnl.addresses(wish.ifindex)?;
        let there = addresses.iter().filter_map(address_of).any(|ip| ip == wish.ip);
        ensure!(there, "{wish} is gone");
    }
    let log = node.vipshield.as_ref().context("vipshield does not run")?.log();
    let wrong = log.iter().find(|line| line.text.contains("is taken off"));
    ensure!(wrong.is_none(), "vipshield said {wrong:?}");
    drop(pretenders);

    // Now they want the VIP, and have more sockets than can be guarded.
    let nic = lab.node(0)?.nic;
    let pretenders = pretend(
        lab,
        &[
            format!("--add={nic}={vip}/32"),
            format!("--monitors={MONITORS}"),
            format!("--duplicates={DUPLICATES}"),
        ],
    )
    .await?;
    clock::pass(MOMENT).await;
    let dead = clock::now();
    let keepalived = lab.node_mut(0)?.keepalived.take().context("keepalived does not run")?;
    // The parent may neither start another one nor tell this one to end in order.
    for process in keepalived.processes()? {
        kill(process, Signal::SIGSTOP).context("keepalived")?;
    }
    for process in keepalived.processes()? {
        kill(process, Signal::SIGKILL).context("keepalived")?;
    }
    drop(keepalived);
    let left = gone(lab, &witnesses, 0, SOON).await?;
    let took = left.saturating_duration_since(dead);
    ensure!(took <= clock::patience(MOMENT), "the VIP was gone {took:?} after its daemon");
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    lab.start_keepalived(0)?;
    lab.node_mut(0)?.vipshield.as_mut().context("vipshield does not run")?.guards().await?;
    served_by(lab, &witnesses, 0, 2 * failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let status = vipshield.status().await?;
    let daemons = status.get("daemons").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(daemons == 1, "{daemons} daemons: {status}");
    drop(pretenders);
    quietly(lab, Sequence::Bind).await?;
    served_by(lab, &witnesses, 0, SOON).await
}

fn programs() -> Scenario {
    let name = "stranger-starts";
    let about = "nobody's programs called keepalived and ovs-vsctl, started over and over: nothing is \
                 put on the node, and vipshield answers as ever";
    Scenario::new(name, about, true, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
        staged(name, context, beginning, async |lab, _| started(lab).await).await
    })
}

async fn started(lab: &mut Lab) -> Result<()> {
    clock::pass(STARTING).await;
    storm(lab).await?;
    quietly(lab, Sequence::Bind).await?;
    storm(lab).await?;
    quietly(lab, Sequence::Unbind).await
}

/// Start them over and over, and look what there is.
async fn storm(lab: &Lab) -> Result<()> {
    let node = lab.node(0)?;
    let truth = std::path::Path::new("/bin/true");
    let mut programs = Vec::new();
    for name in ["keepalived", "ovs-vsctl"] {
        programs.push(pretender::copy(truth, node, name)?.display().to_string());
    }
    let script = format!("echo ready; while :; do {}; done", programs.join("; "));
    let since = clock::now();
    let mut storms = Vec::new();
    for guise in [Guise::Nobody, Guise::OwnUserNamespace] {
        // Whatever they do, the other labs of this machine need it too.
        let storm = Program::new("storm", "nice", lab.token())
            .args(guise.wrapper())
            .args(["sh", "-c", &script])
            .inside(&node.host.namespace)
            .start(&node.dir.join("storm.log"), lab.epoch)?;
        storms.push(storm);
    }
    let rules = node.host.rtnl.rules()?.len();
    let routes = node.host.rtnl.all_routes()?.len();
    let vipshield = node.vipshield.as_ref().context("vipshield does not run")?;
    while clock::now() < since + STARTING {
        let addresses = node.host.rtnl.addresses(node.nic)?;
        let stands_in = addresses.iter().filter_map(address_of).any(|ip| ip == STAND_IN);
        ensure!(!stands_in, "a stand-in was put on the NIC");
        vipshield.status().await.context("while strangers start")?;
    }
    let now = (node.host.rtnl.rules()?.len(), node.host.rtnl.all_routes()?.len());
    ensure!(now == (rules, routes), "rules and routes: {:?}, then {now:?}", (rules, routes));
    still(lab, since)
}

fn squatter() -> Scenario {
    let name = "stranger-squats";
    let about = "nobody has vipshield's name and its port for metrics: it guards, says so, serves \
                 metrics later, and a second vipshield takes over all the same";
    Scenario::new(name, about, true, move |context| async move {
        let beginning = Beginning { role: Role::Master, shields: &[], early: false };
        staged(name, context, beginning, squatted).await
    })
}

async fn squatted(lab: &mut Lab, context: &Context) -> Result<()> {
    let (node, token, epoch) = (lab.node(0)?, lab.token().to_owned(), lab.epoch);
    let pretence = ["--claim=vipshield".to_owned(), format!("--listen={METRICS}")];
    let squatter = pretender::start(Guise::Nobody, &pretence, node, &token, epoch).await?;
    lab.start_vipshield_for(0, &context.vipshield, None).await?;
    let node = lab.node(0)?;
    let vipshield = node.vipshield.as_ref().context("vipshield does not run")?;
    let says_metrics = |status: &Value| {
        let warnings = status.get("warnings").and_then(Value::as_array).into_iter().flatten();
        let mut warnings = warnings.filter_map(Value::as_str);
        warnings.any(|warning| warning.contains(METRICS) && warning.contains("tried again"))
    };
    let status = vipshield.status().await?;
    ensure!(says_metrics(&status), "nothing is said of the metrics: {status}");
    let named = vipshield
        .log()
        .into_iter()
        .any(|line| line.text.contains("@vipshield") && line.text.contains("65534"));
    ensure!(named, "the holder of its name is not named");
    taken_over(lab, context).await?;
    drop(squatter);
    // The first name is free now.
    taken_over(lab, context).await?;
    let node = lab.node(0)?;
    let vipshield = node.vipshield.as_ref().context("vipshield does not run")?;
    clock::until("metrics", Duration::from_secs(10), async || {
        let address: SocketAddr = METRICS.parse()?;
        let connected = node.host.namespace.run(move || Ok(TcpStream::connect(address).is_ok()))?;
        Ok((connected && !says_metrics(&vipshield.status().await?)).then_some(()))
    })
    .await?;
    quietly(lab, Sequence::Bind).await
}

/// A second vipshield finds the first, whatever that is called.
async fn taken_over(lab: &mut Lab, context: &Context) -> Result<()> {
    let (token, epoch, how) = (lab.token().to_owned(), lab.epoch, lab.config.shield);
    let first = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let second = Vipshield::start(&context.vipshield, lab.node(0)?, None, how, &token, epoch)?;
    first.hands_over().await?;
    lab.node_mut(0)?.vipshield.insert(second).guards().await
}
