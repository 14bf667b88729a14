//! Addresses that are lost for good, one after the other: what tells is what keepalived does, not what vipshield
//! says.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::ground::insist;
use super::scene::{Beginning, failover, staged_in};
use super::{Context, Runs, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::release::Release;
use crate::rtnl::address_of;
use crate::sequence::Sequence;
use crate::stack::Stack;

/// Releases of which each takes note of addresses in another way, and the one that is installed.
const SUITES: [Option<&str>; 5] =
    [None, Some("focal"), Some("bullseye"), Some("trixie"), Some("sid")];

/// It is guarded for so long when its NIC is taken.
const GUARDED_BEFORE: Duration = Duration::from_secs(2);
/// When keepalived has heard of it at the latest: after the deadline, on a busy machine.
const HEARD: Duration = Duration::from_secs(6);

pub(super) fn scenarios() -> Vec<Scenario> {
    SUITES.into_iter().map(scenario).collect()
}

fn scenario(suite: Option<&'static str>) -> Scenario {
    let name = format!("addresses-lost{}", suite.map(|it| format!("-{it}")).unwrap_or_default());
    let about =
        "of each kind of address that is lost keepalived hears, also after the NIC was taken";
    let directory = name.clone();
    let mut scenario = Scenario::new(&name, about, true, move |context| {
        let directory = directory.clone();
        async move { losing(context, suite, &directory).await }
    });
    scenario.release = suite;
    scenario
}

async fn losing(context: Context, suite: Option<&str>, directory: &str) -> Runs {
    let mut config = LabConfig::stacked(context.datapath, Stack::Dual);
    if let Some(suite) = suite {
        let releases = context.releases.as_deref().context("no other releases")?;
        config.keepalived = Release::below(releases, suite);
    }
    let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
    staged_in(config, directory, context, beginning, async |lab, _| {
        // One that is guarded for less than a second when its NIC is taken is shown the address, whatever it knows,
        // and 2.0.19 notes it down once more.
        clock::pass(GUARDED_BEFORE).await;
        // keepalived has not heard that its addresses left, and came back.
        for sequence in [Sequence::Bind, Sequence::Unbind] {
            insist(sequence, lab).await?;
            clock::pass(failover(lab)).await;
        }
        measure::settled(lab, Role::Master).await?;
        for (vip, instance) in [("192.0.2.10/32", "VI_1"), ("2001:db8::10/128", "VI_6")] {
            // It gives up what it does not have, and takes it again.
            lose(lab, vip, instance, "BACKUP").await?;
            measure::settled(lab, Role::Master).await?;
        }
        // 2.0.19 notes it down twice by itself: as it is checked for duplicates, and as it is found to be none.
        if suite != Some("focal") {
            let made = link_local(lab)?;
            lose(lab, &made, "VI_6", "FAULT").await?;
        }
        lose(lab, "192.0.2.11/24", "VI_1", "FAULT").await
    })
    .await
}

/// The address that the kernel made of the NIC's hardware address.
fn link_local(lab: &Lab) -> Result<String> {
    let node = lab.node(0)?;
    let addresses = node.host.rtnl.addresses(node.nic)?;
    let made = addresses.iter().find(|it| {
        let link_local = matches!(
            address_of(it),
            Some(std::net::IpAddr::V6(ip)) if ip.is_unicast_link_local()
        );
        link_local && it.header.prefix_len == 64
    });
    let ip = made.and_then(address_of).context("the NIC has no link-local address")?;
    Ok(format!("{ip}/64"))
}

/// An address goes, and this instance gets into that state.
async fn lose(lab: &Lab, address: &str, instance: &str, state: &str) -> Result<()> {
    let node = lab.node(0)?;
    let since = clock::now();
    node.host.shell(&format!("ip address del {address} dev {}", lab.config.nic))?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    let what = format!("{instance} in {state} without {address}");
    clock::until(&what, HEARD, async || {
        let mut told = keepalived.transitions().into_iter();
        let is = |change: &crate::keepalived::Transition| {
            change.at >= since && change.instance == instance && change.state == state
        };
        Ok(told.any(|change| is(&change)).then_some(()))
    })
    .await
}
