//! A keepalived that begins anew while its NIC is a port of a bridge.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};

use super::ground::insist;
use super::scene::{Beginning, failover, served_by, staged_in, still};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::keepalived::{Keepalived, Transition};
use crate::lab::Lab;
use crate::measure::{self, Role, Witnesses};
use crate::sequence::{Sequence, Undisturbed};
use crate::stack::Stack;
use crate::witness::advert::AdvertWitness;
use crate::witness::probe;
use crate::witness::timeline::Window;

/// For so long nothing may happen: longer than a waiting node that hears nothing waits.
const WATCH: Duration = Duration::from_secs(5);

/// How it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anew {
    /// Ended, and started.
    Restarted,
    /// Killed with all its processes, and started.
    Killed,
    /// Its VRRP process is killed: the parent starts another at once.
    Respawned,
    /// SIGHUP: it reads its configuration again.
    Reloaded,
}

impl Anew {
    pub(super) const ALL: [Self; 4] =
        [Self::Restarted, Self::Killed, Self::Respawned, Self::Reloaded];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Restarted => "restart",
            Self::Killed => "kill",
            Self::Respawned => "respawn",
            Self::Reloaded => "reload",
        }
    }

    /// Do it to the first node's keepalived, which is `running`. Returns since when its state
    /// changes count.
    pub(super) async fn happen(
        self,
        lab: &Lab,
        running: &mut Option<Keepalived>,
    ) -> Result<Instant> {
        match self {
            Self::Respawned => {
                let running = running.as_mut().context("keepalived does not run")?;
                let before = running.vrrp_child()?;
                let since = clock::now();
                kill(before, Signal::SIGKILL).context("keepalived's VRRP process")?;
                let limit = Duration::from_secs(5);
                // 2.0 and 2.3.4 end where no interface has the configured name.
                let mut is_over = || {
                    let has_ended = !running.running();
                    has_ended || running.vrrp_child().is_ok_and(|pid| pid != before)
                };
                clock::until("another VRRP process", limit, || {
                    let is_over = is_over();
                    async move { Ok(is_over.then_some(())) }
                })
                .await?;
                Ok(since)
            }
            Self::Reloaded => {
                let since = clock::now();
                running.as_ref().context("keepalived does not run")?.reload()?;
                Ok(since)
            }
            Self::Restarted | Self::Killed => {
                let old = running.take();
                if let Some(old) = old.filter(|_| self == Self::Restarted) {
                    old.stop().await?;
                }
                let since = clock::now();
                *running = Some(lab.spawn_keepalived(0)?);
                Ok(since)
            }
        }
    }

    /// The same to a keepalived that is in the lab.
    async fn happen_in(self, lab: &mut Lab) -> Result<Instant> {
        let mut running = lab.node_mut(0)?.keepalived.take();
        let since = self.happen(lab, &mut running).await;
        lab.node_mut(0)?.keepalived = running;
        since
    }
}

/// Every way, on both roles, behind a bridge of another name and of the NIC's own.
pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    for anew in Anew::ALL {
        for sequence in [Sequence::Bind, Sequence::Exchange] {
            for role in [Role::Master, Role::Backup] {
                all.push(scenario(anew, sequence, role));
            }
        }
    }
    for stack in [Stack::Ipv6, Stack::Dual] {
        all.push(of_stack(stack));
    }
    all
}

/// Once begun anew behind a bridge of its NIC's name, an owner of IPv6 addresses is one for good.
fn of_stack(stack: Stack) -> Scenario {
    let name = format!("daemon-restart-exchange{}", stack.infix());
    let about = "keepalived's restart on the owner after exchange: owner of its IPv6 VIPs, once";
    let directory = name.clone();
    Scenario::new(&name, about, true, move |context| {
        let directory = directory.clone();
        async move {
            let config = LabConfig::stacked(context.datapath, stack);
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            staged_in(config, &directory, context, beginning, async |lab, _| owner_once(lab).await)
                .await
        }
    })
}

async fn owner_once(lab: &mut Lab) -> Result<()> {
    Sequence::Exchange.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(Duration::from_secs(1)).await;
    Anew::Restarted.happen_in(lab).await?;
    measure::settled(lab, Role::Master).await?;
    let witnesses = Witnesses::paced(lab, probe::LEISURELY).await?;
    // The other node has had the time to give way.
    clock::pass(Duration::from_secs(1)).await;
    let from = clock::now();
    clock::pass(2 * WATCH).await;
    still(lab, from)?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    for seen in witnesses.further(from, Window { from, to: clock::now() }) {
        ensure!(seen.owners_max == 1, "{}: {} owners", seen.vip, seen.owners_max);
        ensure!(seen.probe.lost * 2 < seen.probe.sent, "{} does not answer", seen.vip);
    }
    Ok(())
}

fn scenario(anew: Anew, sequence: Sequence, role: Role) -> Scenario {
    let (suffix, who) = match role {
        Role::Master => ("", "the owner"),
        Role::Backup => ("-backup", "the waiting node"),
    };
    let name = format!("daemon-{}-{sequence}{suffix}", anew.name());
    let what = match anew {
        Anew::Reloaded => "nothing changes, also when the NIC is given back",
        Anew::Restarted | Anew::Killed | Anew::Respawned => {
            "no FAULT, the node's own source address"
        }
    };
    let about = format!("keepalived's {} on {who} after {sequence}: {what}", anew.name());
    let directory = name.clone();
    Scenario::new(&name, &about, true, move |context| {
        let directory = directory.clone();
        async move { begin_anew(context, anew, sequence, role, &directory).await }
    })
}

async fn begin_anew(
    context: Context,
    anew: Anew,
    sequence: Sequence,
    role: Role,
    directory: &str,
) -> Runs {
    let mut config = LabConfig::new(context.datapath);
    if role == Role::Backup {
        config.owner_is_second();
    }
    let mut lab = Lab::build(config).await?;
    measure::elect(&mut lab, role).await?;
    lab.start_vipshield(0, &context.vipshield).await?;
    let outcome = watched(&mut lab, anew, sequence, role).await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

async fn watched(lab: &mut Lab, anew: Anew, sequence: Sequence, role: Role) -> Result<()> {
    sequence.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(Duration::from_secs(1)).await;

    let adverts = AdvertWitness::start(&lab.client)?;
    let begun = clock::now();
    let since = anew.happen_in(lab).await?;
    match role {
        // The waiting node hears the owner throughout, or it would make itself one.
        Role::Backup => {
            clock::pass(WATCH).await;
            heard_only(lab, since, &["BACKUP"])?;
            let other = measure::transitions(lab, Window { from: begun, to: clock::now() });
            let other: Vec<_> = other.iter().filter(|seen| seen.node != "node1").collect();
            ensure!(other.is_empty(), "the owner changed its state: {other:?}");
            // And it can become one.
            lab.node_mut(1)?.keepalived.take().context("keepalived does not run")?.stop().await?;
            reach(lab, "MASTER", since).await?;
        }
        Role::Master if anew == Anew::Reloaded => {
            clock::pass(WATCH).await;
            heard_only(lab, since, &["MASTER"])?;
        }
        Role::Master => reach(lab, "MASTER", since).await?,
    }
    clock::pass(Duration::from_secs(2)).await;
    heard_only(lab, since, &["BACKUP", "MASTER"])?;
    own_source(lab, &adverts, begun)?;
    if anew == Anew::Reloaded { reloaded_again(lab, sequence).await } else { Ok(()) }
}

/// It kept everything: another time nothing changes either, nor when its NIC is given back.
async fn reloaded_again(lab: &mut Lab, sequence: Sequence) -> Result<()> {
    let since = Anew::Reloaded.happen_in(lab).await?;
    clock::pass(failover(lab)).await;
    insist(sequence.opposite(), lab).await?;
    clock::pass(failover(lab)).await;
    still(lab, since)
}

/// Wait until this node alone is MASTER, its adverts alone are heard, and the client reaches the
/// VIP there.
pub(super) async fn speaks_alone(
    lab: &Lab,
    witnesses: &Witnesses,
    adverts: &AdvertWitness,
    owner: usize,
) -> Result<()> {
    let mac = lab.node(owner)?.config.mac;
    let spell = clock::patience(Duration::from_secs_f64(1.5 * lab.config.advert_int));
    let what = format!("{} alone MASTER, and heard", lab.node(owner)?.config.name);
    clock::until(&what, 2 * failover(lab), async || {
        let now = clock::now();
        let window = Window { from: now.checked_sub(spell).unwrap_or(now), to: now };
        let heard = adverts.within(window);
        let states = lab.nodes.iter().enumerate().flat_map(|(number, node)| {
            let instances = lab.config.instances.iter();
            let told = node
                .keepalived
                .iter()
                .flat_map(move |keepalived| instances.clone().map(|it| keepalived.state(&it.name)));
            told.map(move |state| (number, state))
        });
        let masters: Vec<usize> = states
            .filter(|(_, state)| state.as_deref() == Some("MASTER"))
            .map(|(number, _)| number)
            .collect();
        let alone =
            masters == [owner] && !heard.is_empty() && heard.iter().all(|advert| advert.mac == mac);
        Ok(alone.then_some(()))
    })
    .await?;
    served_by(lab, witnesses, owner, failover(lab)).await
}

fn keepalived(lab: &Lab) -> Result<&Keepalived> {
    lab.node(0)?.keepalived.as_ref().context("keepalived does not run")
}

/// An error if the first node's keepalived told another state than these.
pub(super) fn heard_only(lab: &Lab, since: Instant, states: &[&str]) -> Result<()> {
    // Where two owners come to it in the same moment, it tells of the other's lower priority (`MASTER_RX_LOWER_PRI`),
    // which is no state.
    let is_told = |change: &Transition| change.at >= since && !change.state.contains('_');
    let told = keepalived(lab)?.transitions().into_iter().filter(is_told);
    let told: Vec<String> = told.map(|change| change.state).collect();
    let other = told.iter().find(|state| !states.contains(&state.as_str()));
    ensure!(other.is_none(), "node1 told {told:?}");
    Ok(())
}

async fn reach(lab: &Lab, state: &str, since: Instant) -> Result<()> {
    let keepalived = keepalived(lab)?;
    clock::until(&format!("node1 in {state}"), Duration::from_secs(10), async || {
        let mut told = keepalived.transitions().into_iter();
        Ok(told.any(|change| change.at >= since && change.state == state).then_some(()))
    })
    .await
}

/// Adverts of the first node bear its own address, and there are some.
pub(super) fn own_source(lab: &Lab, adverts: &AdvertWitness, since: Instant) -> Result<()> {
    let node = &lab.node(0)?.config;
    let own: Vec<Ipv4Addr> = node
        .addresses
        .iter()
        .filter_map(|prefix| match prefix.address {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    let Some(first) = own.first() else { bail!("the node has no IPv4 address") };
    let sent: Vec<Ipv4Addr> = adverts
        .within(Window { from: since, to: clock::now() })
        .into_iter()
        .filter(|advert| advert.mac == node.mac)
        .filter_map(|advert| match advert.source {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        })
        .collect();
    ensure!(!sent.is_empty(), "node1 sent no advert");
    let other = sent.iter().find(|source| *source != first);
    ensure!(other.is_none(), "node1 sent adverts from {sent:?}");
    Ok(())
}
