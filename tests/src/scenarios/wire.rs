//! What vipshield makes of what is said on the wire, true or not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::failures::{SLACK, told};
use super::scene::{MOMENT, failover, gone, one_owner, quietly, served_by, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::forge::{Advert, FORGER, Forger, advert_ipv6, claim};
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};
use crate::stack::Stack;
use crate::witness::timeline::Window;

/// The lab's own virtual routers.
const ROUTER: u8 = 51;
const ROUTER_IPV6: u8 = 61;
/// More virtual routers than a NIC has of one family and version.
const MAX_ROUTERS: usize = 512;
/// Frames a second.
const FLOOD: u32 = 10_000;
/// What vipshield takes for the most, without adverts that tell otherwise.
const DEADLINE_MS: u64 = 1900;
/// Seconds between two adverts; not a whole number, so it is version 3.
const QUICK: f64 = 0.2;
/// (3 - 1) such intervals, less a twentieth.
const QUICK_DEADLINE_MS: u64 = 380;

/// What is played.
#[derive(Clone, Copy, Debug)]
enum Play {
    Harmless,
    Claimed,
    /// By adverts of this priority.
    Outranked(u8),
    /// The same over IPv6.
    OutrankedIpv6(u8),
    Quick,
    Stopped,
    /// Killed after this sequence.
    HeldBefore(Option<Sequence>),
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let higher = "adverts of a higher priority: the enslaved owner yields, and returns after them";
    let held = "a VIP that keepalived had before vipshield began goes when keepalived is killed";
    let plays = [
        (
            "forged-harmless",
            "10,000 forged frames a second that VRRP does not heed: bind and unbind cost nothing",
            Play::Harmless,
        ),
        (
            "forged-claim",
            "somebody else answers ARP for the VIP: said and counted, and nothing is done",
            Play::Claimed,
        ),
        ("forged-owner-high", higher, Play::Outranked(200)),
        ("forged-owner-highest", higher, Play::Outranked(255)),
        ("forged-owner-ipv6-high", higher, Play::OutrankedIpv6(200)),
        (
            "quick-adverts",
            "with five adverts a second bind costs nothing, and a failure is told in time",
            Play::Quick,
        ),
        (
            "owner-stopped",
            "an owner that hangs and says nothing is noticed before the next one takes over",
            Play::Stopped,
        ),
        ("held-before-kill-free", held, Play::HeldBefore(None)),
        ("held-before-kill-bind", held, Play::HeldBefore(Some(Sequence::Bind))),
    ];
    let scenario = |(name, about, play): (&'static str, &str, Play)| {
        Scenario::new(name, about, true, move |context: Context| staged(name, context, play))
    };
    plays.into_iter().map(scenario).collect()
}

/// node1 owns the VIP and is then guarded.
async fn staged(name: &str, context: Context, play: Play) -> Runs {
    let ipv6 = matches!(play, Play::OutrankedIpv6(_));
    let stack = if ipv6 { Stack::Ipv6 } else { Stack::Ipv4 };
    let mut config = LabConfig::stacked(context.datapath, stack);
    if matches!(play, Play::Quick) {
        config.advert_int = QUICK;
    }
    let mut lab = Lab::build(config).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        lab.start_vipshield(0, &context.vipshield).await?;
        match play {
            Play::Harmless => harmless(&mut lab).await,
            Play::Claimed => claimed(&mut lab).await,
            Play::Outranked(priority) => {
                let advert = Advert::new(ROUTER, priority, vip(&lab)?).frame();
                outranked(&mut lab, advert, is_owner).await
            }
            Play::OutrankedIpv6(priority) => {
                let vips: Vec<Ipv6Addr> = lab.config.vips().filter_map(ipv6_address).collect();
                let advert = advert_ipv6(ROUTER_IPV6, priority, &vips);
                outranked(&mut lab, advert, is_owner_ipv6).await
            }
            Play::Quick => quick(&mut lab).await,
            Play::Stopped => stopped(&mut lab).await,
            Play::HeldBefore(sequence) => held_before(&mut lab, sequence).await,
        }
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

fn vip(lab: &Lab) -> Result<Ipv4Addr> {
    match lab.config.vip()? {
        IpAddr::V4(vip) => Ok(vip),
        IpAddr::V6(vip) => bail!("{vip} is not IPv4"),
    }
}

fn ipv6_address(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

async fn status(lab: &Lab) -> Result<Value> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?.status().await
}

async fn counter(lab: &Lab, name: &str) -> Result<u64> {
    lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?.counter(name).await
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// Wait until the status satisfies `is_so`.
async fn shows(
    lab: &Lab,
    what: &str,
    limit: Duration,
    is_so: impl Fn(&Value) -> bool,
) -> Result<()> {
    let last = std::cell::RefCell::new(Value::Null);
    let what = format!("a status with {what}");
    let shown = clock::until(&what, limit, async || {
        let status = status(lab).await?;
        let so = is_so(&status);
        *last.borrow_mut() = status;
        Ok(so.then_some(()))
    });
    shown.await.with_context(|| format!("the last one: {}", last.borrow()))
}

/// The router of the lab, with this node its owner.
fn is_owner(status: &Value) -> bool {
    owns(status, ROUTER, "192.0.2.11")
}

/// The same over IPv6: owners speak from their link-local address.
fn is_owner_ipv6(status: &Value) -> bool {
    owns(status, ROUTER_IPV6, "fe80::5054:ff:fe00:1")
}

fn owns(status: &Value, router_id: u8, address: &str) -> bool {
    list(status, "routers").iter().any(|router| {
        number(router, "router_id") == Some(router_id.into())
            && router.get("ours") == Some(&Value::Bool(true))
            && router.get("owner").and_then(Value::as_str) == Some(address)
    })
}

fn has_deadline(status: &Value, ms: u64) -> bool {
    list(status, "nics").iter().any(|nic| number(nic, "deadline_ms") == Some(ms))
}

fn has_conflict(status: &Value) -> bool {
    list(status, "claims").iter().any(|claim| claim.get("conflict").is_some_and(Value::is_string))
}

/// Frames of which each has something that VRRP does not heed, nearly all of them of routers that
/// nobody has.
fn unheeded(vip: Ipv4Addr, at: u64) -> Vec<u8> {
    let [.., c, b, a] = at.to_be_bytes();
    let strange = Advert {
        mac: [0x52, 0x54, 1, c, b, a],
        source: Ipv4Addr::new(10, c, b, a),
        ..Advert::new(if a == ROUTER { 1 } else { a.max(1) }, 255, vip)
    };
    let ours = |priority| Advert::new(ROUTER, priority, vip);
    match at % 1000 {
        0 => ours(1).frame(),
        100 => Advert { wrong: 1, ..ours(255) }.frame(),
        200 => Advert { ttl: 254, ..ours(255) }.frame(),
        300 => Advert { interval: 7, ..ours(255) }.frame(),
        400 => ours(0).frame(),
        500 => {
            let mut short = ours(255).frame();
            short.truncate(40);
            short
        }
        600 => claim([0x52, 0x54, 2, c, b, a], Ipv4Addr::new(192, 0, 2, 200)),
        _ => strange.frame(),
    }
}

async fn harmless(lab: &mut Lab) -> Result<()> {
    let vip = vip(lab)?;
    let witnesses = Witnesses::start(lab).await?;
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    let began = clock::now();
    let forger = Forger::start(&lab.client, "eth0", FLOOD, move |at| unheeded(vip, at))?;
    for sequence in [Sequence::Bind, Sequence::Unbind] {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(failover(lab)).await;
    }
    let sent = forger.sent();
    let last = status(lab).await?;
    drop(forger);
    // An owner also tells of every advert of a lower priority (`MASTER_RX_LOWER_PRI`).
    let mut roles = measure::transitions(lab, Window { from: began, to: clock::now() });
    roles.retain(|change| !change.state.contains('_'));
    ensure!(roles.is_empty(), "transitions: {roles:?}");
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;

    let took = began.elapsed().as_secs_f64();
    log::info!("{sent} frames in {took:.1} s");
    let asked = f64::from(FLOOD) * took;
    ensure!(sent as f64 > asked / 2.0, "no flood: {sent} frames in {took:.1} s");
    let routers = list(&last, "routers");
    ensure!(routers.len() <= MAX_ROUTERS, "{} routers are remembered", routers.len());
    ensure!(routers.len() > 100, "of the flood {} routers were seen", routers.len());
    ensure!(is_owner(&last), "this node is not seen as owner any more: {routers:?}");
    ensure!(has_deadline(&last, DEADLINE_MS), "the deadline moved: {last}");
    for name in ["malformed_vrrp_checksum", "malformed_hops", "adverts_foreign"] {
        ensure!(counter(lab, name).await? > 0, "{name} is 0");
    }
    let conflicts = counter(lab, "conflicts").await?;
    ensure!(conflicts == 0, "{conflicts} conflicts of the VIP, which nobody else claims");
    let released = counter(lab, "released").await?;
    ensure!(released == 0, "{released} truths told that were none");
    Ok(())
}

async fn claimed(lab: &mut Lab) -> Result<()> {
    let vip = vip(lab)?;
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    ensure!(!has_conflict(&status(lab).await?), "a conflict before there is one");

    let forger = Forger::start(&lab.client, "eth0", 20, move |_| claim(FORGER, vip))?;
    shows(lab, "a conflict", Duration::from_secs(3), has_conflict).await?;
    let told = status(lab).await?;
    ensure!(
        list(&told, "warnings")
            .iter()
            .any(|warning| warning.to_string().contains("52:54:00:00:66:66")),
        "no warning names the forger: {told}"
    );
    clock::pass(failover(lab)).await;
    drop(forger);
    still(lab, began)?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    let conflicts = counter(lab, "conflicts").await?;
    ensure!(conflicts == 1, "one conflict was counted {conflicts} times");
    shows(lab, "no conflict", Duration::from_secs(15), |status| !has_conflict(status)).await?;
    quietly(lab, Sequence::Unbind).await
}

/// By this advert. `is_owner` tells whether a status has this node as owner.
async fn outranked(
    lab: &mut Lab,
    advert: Vec<u8>,
    is_owner: impl Fn(&Value) -> bool,
) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;

    let forged = clock::now();
    let sending = Forger::start(&lab.client, "eth0", 5, move |_| advert.clone())?;
    let yielded = told(lab, 0, "BACKUP", forged, Duration::from_secs(2)).await?;
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(yielded);
    ensure!(late <= clock::patience(MOMENT), "the VIP left {late:?} after node1 yielded");
    clock::pass(failover(lab)).await;
    // Nobody is owner but the forger, who does not have the VIP.
    ensure!(!witnesses.has_vip(0) && !witnesses.has_vip(1), "somebody has the VIP");
    let ended = clock::now();
    drop(sending);
    told(lab, 0, "MASTER", ended, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))?;
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    let from = clock::now();
    quietly(lab, Sequence::Unbind).await?;
    still(lab, from)
}

async fn quick(lab: &mut Lab) -> Result<()> {
    let fits = |status: &Value| has_deadline(status, QUICK_DEADLINE_MS);
    shows(lab, "the deadline of quick adverts", SLACK * 4, fits).await?;
    quietly(lab, Sequence::Bind).await?;
    quietly(lab, Sequence::Unbind).await?;
    ensure!(fits(&status(lab).await?), "the deadline moved");

    // The node's own address is gone for good. Of no transition, but it might be the first of one.
    let node = lab.node(0)?;
    let own = *node.config.addresses.first().context("node1 has no address")?;
    let removed = clock::now();
    node.host.shell(&format!("ip address delete {own} dev {}", lab.config.nic))?;
    let fault = told(lab, 0, "FAULT", removed, Duration::from_millis(DEADLINE_MS)).await?;
    let took = fault.saturating_duration_since(removed);
    let limit = clock::patience(Duration::from_millis(QUICK_DEADLINE_MS) + SLACK);
    ensure!(took <= limit, "keepalived was told after {took:?}");
    let soonest = Duration::from_millis(QUICK_DEADLINE_MS - 80);
    ensure!(took >= soonest, "nothing was withheld: keepalived knew after {took:?}");
    Ok(())
}

async fn stopped(lab: &mut Lab) -> Result<()> {
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    let process = keepalived.vrrp_child()?;
    let began = clock::now();
    kill(process, Signal::SIGSTOP).context("stopping keepalived")?;
    let silent =
        |status: &Value| status.get("counters").and_then(|all| number(all, "silences")) == Some(1);
    let seen = shows(lab, "an owner that is silent", failover(lab), silent).await;
    let noticed = clock::now();
    let taken = told(lab, 1, "MASTER", began, failover(lab)).await;
    kill(process, Signal::SIGCONT).context("resuming keepalived")?;
    seen?;
    ensure!(noticed <= taken? + clock::patience(MOMENT), "it was noticed when it was too late");
    // It is still the better one.
    told(lab, 1, "BACKUP", began, 2 * failover(lab)).await?;
    shows(lab, "this node as owner", 2 * failover(lab), is_owner).await
}

async fn held_before(lab: &mut Lab, sequence: Option<Sequence>) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    if let Some(sequence) = sequence {
        sequence.run(lab, &mut Undisturbed).await.outcome?;
        clock::pass(failover(lab)).await;
    }
    still(lab, began)?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    let killed = clock::now();
    drop(lab.node_mut(0)?.keepalived.take());
    let left = gone(lab, &witnesses, 0, SLACK).await?;
    let late = left.saturating_duration_since(killed);
    ensure!(late <= clock::patience(SLACK), "the VIP left node1 after {late:?}");
    told(lab, 1, "MASTER", killed, failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))
}
