//! A node with two uplinks: what goes by which while one of them, or both, are taken.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::scene::{failover, phase, still};
use super::variants::{run, two_nics};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::witness::arrivals::Arrivals;
use crate::witness::probe::Probe;
use crate::witness::timeline::Window;

/// An address of the client's that the node reaches by a default route only.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The time between two probes of it.
const PERIOD: Duration = Duration::from_millis(5);
/// How long the first NIC is kept on its way once the second has arrived. It is less than the
/// deadline.
const PAUSE: Duration = Duration::from_secs(1);
/// For how long nothing may arrive on a busy machine.
const GAP: Duration = Duration::from_millis(500);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "node-second-uplink",
            "what goes by another uplink does so while the NIC is taken and given back",
            true,
            |context| async move { Box::pin(by_the_other(context)).await },
        ),
        Scenario::new(
            "node-two-uplinks",
            "two NICs with default routes are taken at overlapping times: the better one leads on",
            true,
            |context| async move { Box::pin(both_taken(context)).await },
        ),
    ]
}

/// Which uplink the node prefers.
#[derive(Clone, Copy, Debug)]
enum Preferred {
    First,
    Second,
}

/// Both NICs have a default route, each to the client.
fn config(context: &Context, preferred: Preferred) -> LabConfig {
    let mut config = LabConfig::new(context.datapath);
    two_nics(&mut config);
    let (first, second) = match preferred {
        Preferred::First => (100, 200),
        Preferred::Second => (200, 100),
    };
    run(&mut config, "ip route delete default");
    run(&mut config, &format!("ip route add default via 192.0.2.100 dev ens192 metric {first}"));
    run(
        &mut config,
        &format!("ip route add default via 198.51.100.100 dev ens224 metric {second}"),
    );
    config
}

/// Echo requests to the far address, and what arrives of them by either uplink.
struct Far {
    _probe: Probe,
    by_first: Arrivals,
    by_second: Arrivals,
}

impl Far {
    fn watch(lab: &Lab) -> Result<Self> {
        lab.client.shell(&format!("ip address add {FAR}/32 dev lo"))?;
        let by_first = Arrivals::start(&lab.client, "eth0", FAR)?;
        let by_second = Arrivals::start(&lab.client, "eth1", FAR)?;
        let probe = Probe::start(&lab.node(0)?.host, FAR.into(), PERIOD)?;
        Ok(Self { _probe: probe, by_first, by_second })
    }

    /// An error unless everything within the window went by this uplink, and nothing was held up:
    /// what the node sends to a bridge without a port waits there for a neighbour.
    fn went_by(&self, uplink: Preferred, window: Window) -> Result<()> {
        let (by, other) = match uplink {
            Preferred::First => (&self.by_first, &self.by_second),
            Preferred::Second => (&self.by_second, &self.by_first),
        };
        let (arrived, strayed) = (by.within(window), other.within(window));
        ensure!(strayed == 0, "{strayed} packets went by the other uplink, {arrived} by this");
        let found = by.longest_gap(window, PERIOD);
        ensure!(found <= clock::patience(GAP), "nothing arrived for {found:?}");
        Ok(())
    }
}

async fn on(
    context: Context,
    preferred: Preferred,
    name: &str,
    work: impl AsyncFnOnce(&mut Lab, &Context) -> Result<()>,
) -> Runs {
    let mut lab = Lab::build(config(&context, preferred)).await?;
    let outcome = async {
        measure::elect(&mut lab, Role::Master).await?;
        work(&mut lab, &context).await
    }
    .await;
    if let Some(logs) = &context.logs {
        lab.save_logs(&logs.join(name))?;
    }
    outcome.map(|()| Vec::new())
}

async fn by_the_other(context: Context) -> Runs {
    on(context, Preferred::Second, "node-second-uplink", async |lab, context| {
        lab.start_vipshield(0, &context.vipshield).await?;
        let far = Far::watch(lab)?;
        for (sequence, settled) in [(Sequence::Bind, "bridged"), (Sequence::Unbind, "free")] {
            let from = clock::now();
            sequence.run(lab, &mut Undisturbed).await.outcome?;
            phase(lab, 0, settled, Duration::from_secs(5)).await?;
            clock::pass(failover(lab)).await;
            let window = Window { from, to: clock::now() };
            far.went_by(Preferred::Second, window).with_context(|| sequence.to_string())?;
            still(lab, from).with_context(|| sequence.to_string())?;
        }
        lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await
    })
    .await
}

async fn both_taken(context: Context) -> Runs {
    on(context, Preferred::First, "node-two-uplinks", async |lab, context| {
        lab.start_vipshield_for(0, &context.vipshield, None).await?;
        let far = Far::watch(lab)?;
        let from = clock::now();
        let other = lab.config.second.clone().context("no second NIC")?;
        let mut taken = Ok(());
        let mut hook = Before::new(StepKind::AddPort, async || {
            // The first leads on as long as it is on its way, also once the second has arrived.
            let (nic, bridge) = (&other.nic, &other.bridge);
            taken = Sequence::Bind.run_on(lab, nic, bridge, &mut Undisturbed).await.outcome;
            clock::pass(PAUSE).await;
            Verdict::Continue
        });
        let replay = Sequence::Bind.run(lab, &mut hook).await;
        ensure!(hook.reached(), "there is no such step");
        replay.outcome?;
        taken?;
        clock::pass(failover(lab)).await;
        let window = Window { from, to: clock::now() };
        far.went_by(Preferred::First, window)?;
        still(lab, from)?;
        lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await
    })
    .await
}
