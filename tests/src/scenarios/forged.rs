//! Forged adverts and claims: what VRRP does not heed changes nothing, what it heeds changes what
//! VRRP says.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::failures::{SLACK, told};
use super::scene::{
    Beginning, MOMENT, failover, gone, one_owner, quietly, served_by, staged_in, still,
};
use super::variants::each;
use super::wire::{DEADLINE_MS, counter, has_deadline, list, owns, shows, status};
use super::{Context, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::forge::{Advert, FORGER, Forger, Version, claim};
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};
use crate::stack::Stack;
use crate::witness::timeline::Window;

/// More virtual routers than a NIC has of one family and version.
const MAX_ROUTERS: usize = 512;
/// Frames a second.
const FLOOD: u32 = 10_000;
/// Adverts a second, when there is no flood of them.
const FEW: u32 = 5;

/// What the lab's virtual router speaks, and the forger with it.
#[derive(Clone, Copy, Debug)]
enum Tongue {
    V2,
    V3,
    Ipv6,
}

impl Tongue {
    fn config(self, context: &Context) -> LabConfig {
        let stack = if matches!(self, Self::Ipv6) { Stack::Ipv6 } else { Stack::Ipv4 };
        let mut config = LabConfig::stacked(context.datapath, stack);
        if matches!(self, Self::V3) {
            each(&mut config, |instance| instance.options.push("version 3".to_owned()));
        }
        config
    }

    const fn version(self) -> Version {
        match self {
            Self::V2 => Version::V2,
            Self::V3 | Self::Ipv6 => Version::V3,
        }
    }

    const fn router_id(self) -> u8 {
        match self {
            Self::V2 | Self::V3 => 51,
            Self::Ipv6 => 61,
        }
    }

    /// An advert of the lab's own virtual router.
    fn advert(self, lab: &Lab, priority: u8) -> Advert {
        Advert::new(self.version(), self.router_id(), priority, lab.config.vips().collect())
    }

    /// Whether a status has node1 as owner: over IPv6 owners speak from a link-local address.
    fn is_owner(self, status: &Value) -> bool {
        let address = match self {
            Self::V2 | Self::V3 => "192.0.2.11",
            Self::Ipv6 => "fe80::5054:ff:fe00:1",
        };
        owns(status, self.version(), self.router_id(), address)
    }

    /// What names of scenarios have of it.
    const fn infix(self) -> &'static str {
        match self {
            Self::V2 => "",
            Self::V3 => "-v3",
            Self::Ipv6 => "-ipv6",
        }
    }
}

/// What is forged.
#[derive(Clone, Copy, Debug)]
enum Play {
    Harmless,
    Claimed,
    /// Adverts of this priority, higher than the owner's.
    Outranked(u8),
    /// Adverts of priority 0, of which node1 hears in this role.
    Goodbyes(Role),
}

impl Play {
    fn name(self, tongue: Tongue) -> String {
        let infix = tongue.infix();
        match self {
            Self::Harmless => format!("forged-harmless{infix}"),
            Self::Claimed => format!("forged-claim{infix}"),
            Self::Outranked(255) => format!("forged-owner{infix}-highest"),
            Self::Outranked(_) => format!("forged-owner{infix}-high"),
            Self::Goodbyes(Role::Master) => format!("forged-goodbye{infix}-owner"),
            Self::Goodbyes(Role::Backup) => format!("forged-goodbye{infix}-waiting"),
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Harmless => {
                "10,000 forged frames a second that VRRP does not heed: bind and unbind cost nothing"
            }
            Self::Claimed => {
                "somebody else answers ARP for the VIP: said and counted, and nothing is done"
            }
            Self::Outranked(_) => {
                "adverts of a higher priority: the enslaved owner yields, and returns after them"
            }
            Self::Goodbyes(Role::Master) => {
                "adverts of priority 0: the owner answers each, and bind and unbind cost nothing"
            }
            Self::Goodbyes(Role::Backup) => {
                "priority 0: an enslaved node takes over in its skew time, unless the owner answers"
            }
        }
    }

    /// node1 is guarded once there is an owner. A killed owner has to be guarded too, to be rid of
    /// its VIP, and from the beginning.
    const fn beginning(self) -> Beginning {
        match self {
            Self::Goodbyes(Role::Backup) => {
                Beginning { role: Role::Backup, shields: &[0, 1], early: true }
            }
            Self::Harmless | Self::Claimed | Self::Outranked(_) | Self::Goodbyes(Role::Master) => {
                Beginning { role: Role::Master, shields: &[0], early: false }
            }
        }
    }

    async fn act(self, lab: &mut Lab, tongue: Tongue) -> Result<()> {
        match self {
            Self::Harmless => harmless(lab, tongue).await,
            Self::Claimed => claimed(lab, tongue).await,
            Self::Outranked(priority) => outranked(lab, tongue, priority).await,
            Self::Goodbyes(Role::Master) => owner_hears_goodbyes(lab, tongue).await,
            Self::Goodbyes(Role::Backup) => waiting_hears_goodbyes(lab, tongue).await,
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let usual = [
        (Play::Harmless, Tongue::V2),
        (Play::Harmless, Tongue::V3),
        (Play::Claimed, Tongue::V2),
        (Play::Outranked(200), Tongue::V2),
        (Play::Outranked(255), Tongue::V2),
        (Play::Outranked(200), Tongue::V3),
        (Play::Outranked(200), Tongue::Ipv6),
        (Play::Goodbyes(Role::Backup), Tongue::V2),
    ];
    let extra = [
        (Play::Outranked(255), Tongue::V3),
        (Play::Goodbyes(Role::Master), Tongue::V2),
        (Play::Goodbyes(Role::Master), Tongue::V3),
        (Play::Goodbyes(Role::Backup), Tongue::V3),
    ];
    let usual = usual.map(|(play, tongue)| (play, tongue, false));
    let extra = extra.map(|(play, tongue)| (play, tongue, true));
    let scenario = |(play, tongue, extra): (Play, Tongue, bool)| {
        let name = play.name(tongue);
        let directory = name.clone();
        let mut scenario = Scenario::new(&name, play.about(), true, move |context: Context| {
            let directory = directory.clone();
            async move {
                let config = tongue.config(&context);
                let work = async |lab: &mut Lab, _: &Context| play.act(lab, tongue).await;
                staged_in(config, &directory, context, play.beginning(), work).await
            }
        });
        scenario.extra = extra;
        scenario
    };
    usual.into_iter().chain(extra).map(scenario).collect()
}

fn vip(lab: &Lab) -> Result<Ipv4Addr> {
    match lab.config.vip()? {
        IpAddr::V4(vip) => Ok(vip),
        IpAddr::V6(vip) => bail!("{vip} is not IPv4"),
    }
}

fn has_conflict(status: &Value) -> bool {
    list(status, "claims").iter().any(|claim| claim.get("conflict").is_some_and(Value::is_string))
}

/// Frames of which each has something that VRRP does not heed, nearly all of them of routers that
/// nobody has. `ours` are adverts of the lab's own.
fn unheeded(ours: impl Fn(u8) -> Advert, at: u64) -> Vec<u8> {
    let [.., c, b, a] = at.to_be_bytes();
    let own = ours(255);
    match at % 1000 {
        0 => ours(1).frame(),
        100 => Advert { wrong: 1, ..own }.frame(),
        200 => Advert { ttl: 254, ..own }.frame(),
        // In version 3 an owner is heeded whatever its interval, and nobody else.
        300 if own.version == Version::V3 => {
            Advert { interval: Duration::from_millis(10), ..ours(1) }.frame()
        }
        300 => Advert { interval: Duration::from_secs(7), ..own }.frame(),
        400 => ours(0).frame(),
        500 => {
            let mut short = own.frame();
            short.truncate(40);
            short
        }
        600 => claim([0x52, 0x54, 2, c, b, a], Ipv4Addr::new(192, 0, 2, 200)),
        700 => Advert { version: own.version.other(), ..own }.frame(),
        // keepalived takes it only if it is told to (`v3_checksum_as_v2`).
        800 if own.version == Version::V3 => Advert { pseudo_header: false, ..own }.frame(),
        _ => {
            let router_id = if a == own.router_id { 1 } else { a.max(1) };
            let (mac, source) = ([0x52, 0x54, 1, c, b, a], Ipv4Addr::new(10, c, b, a).into());
            Advert { mac, source, router_id, ..own }.frame()
        }
    }
}

async fn harmless(lab: &mut Lab, tongue: Tongue) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let is_owner = |status: &Value| tongue.is_owner(status);
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    let began = clock::now();
    let ours = tongue.advert(lab, 0);
    let ours = move |priority| Advert { priority, ..ours.clone() };
    let forger = Forger::start(&lab.client, "eth0", FLOOD, move |at| unheeded(&ours, at))?;
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

async fn claimed(lab: &mut Lab, tongue: Tongue) -> Result<()> {
    let vip = vip(lab)?;
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    shows(lab, "this node as owner", SLACK * 4, |it| tongue.is_owner(it)).await?;
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

async fn outranked(lab: &mut Lab, tongue: Tongue, priority: u8) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;

    let forged = clock::now();
    let advert = tongue.advert(lab, priority).frame();
    let sending = Forger::start(&lab.client, "eth0", FEW, move |_| advert.clone())?;
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
    shows(lab, "this node as owner", SLACK * 4, |it| tongue.is_owner(it)).await?;
    let from = clock::now();
    quietly(lab, Sequence::Unbind).await?;
    still(lab, from)
}

/// RFC 9568, section 6.4.3: who owns answers a goodbye with an advert, so that who waits stays so.
async fn owner_hears_goodbyes(lab: &mut Lab, tongue: Tongue) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    let (own, foreign) =
        (counter(lab, "adverts_own").await?, counter(lab, "adverts_foreign").await?);
    let goodbye = tongue.advert(lab, 0).frame();
    let sending = Forger::start(&lab.client, "eth0", FEW, move |_| goodbye.clone())?;
    for sequence in [Sequence::Bind, Sequence::Unbind] {
        quietly(lab, sequence).await?;
        served_by(lab, &witnesses, 0, failover(lab)).await?;
    }
    let sent = sending.sent();
    drop(sending);
    shows(lab, "this node as owner", SLACK * 4, |it| tongue.is_owner(it)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    // What the sequence kept from the NIC is neither heard nor answered.
    let heard = counter(lab, "adverts_foreign").await? - foreign;
    ensure!(heard > sent / 2, "of {sent} goodbyes {heard} were heard");
    let answers = counter(lab, "adverts_own").await? - own;
    ensure!(answers > sent / 2, "{sent} goodbyes, {answers} adverts of the owner");
    let released = counter(lab, "released").await?;
    ensure!(released == 0, "{released} truths told that were none");
    Ok(())
}

/// RFC 9568, section 6.4.2: who waits and hears a goodbye takes over after its skew time, unless
/// the owner is heard by then.
async fn waiting_hears_goodbyes(lab: &mut Lab, tongue: Tongue) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    quietly(lab, Sequence::Bind).await?;
    // The owner hears these, and its answers are heard.
    let living = clock::now();
    let goodbye = tongue.advert(lab, 0).frame();
    let sending = Forger::start(&lab.client, "eth0", FEW, move |_| goodbye.clone())?;
    clock::pass(failover(lab)).await;
    drop(sending);
    clock::pass(failover(lab)).await;
    still(lab, living)?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;

    drop(lab.node_mut(1)?.keepalived.take());
    gone(lab, &witnesses, 1, SLACK).await?;
    let owner = &lab.node(1)?.config;
    let source = owner.addresses.first().context("the owner has no address")?.address;
    let goodbye = Advert { mac: owner.mac, source, ..tongue.advert(lab, 0) }.frame();
    let resigned = clock::now();
    let _once = Forger::start(&lab.client, "eth0", 0, move |_| goodbye.clone())?;
    let taken = told(lab, 0, "MASTER", resigned, failover(lab)).await?;
    let took = taken.saturating_duration_since(resigned);
    let skew = skew(lab)?;
    ensure!(took <= clock::patience(skew + SLACK), "node1 took over after {took:?}, not {skew:?}");
    ensure!(took >= skew.saturating_sub(MOMENT), "node1 took over after {took:?}, before {skew:?}");
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    shows(lab, "this node as owner", SLACK * 4, |it| tongue.is_owner(it)).await?;

    let returned = clock::now();
    lab.start_keepalived(1)?;
    told(lab, 0, "BACKUP", returned, 2 * failover(lab)).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(2 * MOMENT))?;
    quietly(lab, Sequence::Unbind).await
}

/// How long node1 waits more than an owner that is silent asks for (RFC 9568, section 6.1).
fn skew(lab: &Lab) -> Result<Duration> {
    let priority = f64::from(lab.node(0)?.config.priority);
    Ok(Duration::from_secs_f64(lab.config.advert_int * (256.0 - priority) / 256.0))
}
