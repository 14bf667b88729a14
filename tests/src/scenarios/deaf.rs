//! A firewall that lets VRRP in on the NIC alone: the daemon's sockets follow the traffic to the bridge,
//! and hear nothing there.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::failures::{SLACK, master_down, told};
use super::scene::{Beginning, MOMENT, failover, one_owner, quietly, served_by, staged_in, still};
use super::variants::each;
use super::wire::{list, shows};
use super::{Context, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::{Host, Lab};
use crate::measure::{Role, Witnesses};
use crate::rundir::RunDir;
use crate::sequence::{Sequence, Undisturbed};

/// Where the firewall's rules are.
const TABLE: &str = "inet vrrp";

/// How adverts go.
#[derive(Clone, Copy, Debug)]
enum Way {
    Multicast,
    Unicast,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Multicast => "deaf-firewall",
            Self::Unicast => "deaf-firewall-unicast",
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let about = "a firewall accepts VRRP on the NIC only: a waiting node that is bound is told, and \
                 makes itself no second owner";
    let scenario = |way: Way| {
        let name = way.name();
        let mut scenario = Scenario::new(name, about, true, move |context: Context| async move {
            // Before vipshield has it told nothing yet of what it waits for; and it finds no address on the NIC
            // but its own.
            let early = matches!(way, Way::Multicast);
            let beginning = Beginning { role: Role::Backup, shields: &[0], early };
            let mut config = LabConfig::new(context.datapath);
            if matches!(way, Way::Unicast) {
                // With its own address configured keepalived would not care whether the NIC has it.
                let peer = "unicast_peer {\n    PEER\n  }";
                each(&mut config, |instance| instance.options.push(peer.to_owned()));
            }
            let work = async |lab: &mut Lab, _: &Context| deaf(lab).await;
            staged_in(config, name, context, beginning, work).await
        });
        scenario.needs = Box::new(available);
        scenario
    };
    [Way::Multicast, Way::Unicast].map(scenario).into()
}

fn available(_: &Context) -> Result<()> {
    let run = RunDir::create()?;
    let made = Host::create(&run, "probe")?.shell(&format!("nft add table {TABLE}"));
    made.map_err(|error| anyhow!("neither nft nor nf_tables makes a firewall here ({error})"))
}

/// What passes on the NIC passes, and no VRRP elsewhere.
fn firewall(lab: &Lab) -> Result<()> {
    let nic = &lab.config.nic;
    let rules = format!(
        "nft -f - <<'END'\ntable {TABLE} {{\n  chain input {{\n    type filter hook input priority 0;\n    \
         iifname \"{nic}\" meta l4proto 112 accept\n    meta l4proto 112 drop\n  }}\n}}\nEND"
    );
    lab.node(0)?.host.shell(&rules)
}

async fn deaf(lab: &mut Lab) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let began = clock::now();
    firewall(lab)?;
    clock::pass(failover(lab)).await;
    still(lab, began).context("the NIC hears nothing already")?;

    let bound = clock::now();
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    let warned = |status: &Value| {
        list(status, "warnings").iter().any(|warning| warning.to_string().contains("firewall"))
    };
    let limit = failover(lab);
    let fault = told(lab, 0, "FAULT", bound, limit).await?;
    let took = fault.saturating_duration_since(bound);
    log::info!("told {took:?} after the bind began, of {:?}", master_down(&lab.config));
    shows(lab, "a warning of a firewall", SLACK * 4, warned).await?;
    clock::pass(2 * failover(lab)).await;
    stays_in(lab, "FAULT")?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, Duration::ZERO)?;

    // As soon as the socket hears, the daemon waits again.
    let opened = clock::now();
    lab.node(0)?.host.shell(&format!("nft delete table {TABLE}"))?;
    told(lab, 0, "BACKUP", opened, failover(lab)).await?;
    shows(lab, "no warning of a firewall", failover(lab), |status| !warned(status)).await?;
    let since = clock::now();
    clock::pass(failover(lab)).await;
    still(lab, since)?;
    quietly(lab, Sequence::Unbind).await?;
    served_by(lab, &witnesses, 1, failover(lab)).await?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))
}

fn stays_in(lab: &Lab, state: &str) -> Result<()> {
    let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
    let Some(instance) = lab.config.instances.first() else { bail!("no instance") };
    let now = keepalived.state(&instance.name);
    ensure!(now.as_deref() == Some(state), "node1 is in {now:?}, not in {state}");
    Ok(())
}
