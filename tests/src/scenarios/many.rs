//! More VIPs than fit into any queue.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Scenario;
use super::failures::told;
use super::scene::{Beginning, failover, quietly, staged_in};
use crate::clock;
use crate::config::LabConfig;
use crate::lab::{Lab, Node};
use crate::measure::Role;
use crate::rtnl::address_of;
use crate::sequence::Sequence;

/// Beside the one that the lab has.
const IPV4: u16 = 900;
const IPV6: u16 = 100;
/// So long keepalived may take to ask for all of them: that is not what is tried here.
const TAKEN: Duration = Duration::from_secs(30);
/// So long it may take at least to ask for the removal of all of them, and vipshield to follow.
const GIVEN_UP: Duration = Duration::from_secs(3);

pub(super) fn scenarios() -> Vec<Scenario> {
    let name = "vips-by-the-thousand";
    let about = "bind takes 1,000 VIPs, keepalived gives them up: none stays on the node";
    vec![Scenario::new(name, about, true, move |context| async move {
        let mut config = LabConfig::new(context.datapath);
        // They are in no advert, which has no room for so many.
        let excluded = further().try_fold(String::new(), |mut text, ip| {
            let length = if ip.is_ipv4() { 32 } else { 128 };
            writeln!(text, "    {ip}/{length} dev {}", config.nic).map(|()| text)
        })?;
        let excluded = format!("virtual_ipaddress_excluded {{\n{excluded}  }}");
        config.instances.iter_mut().for_each(|it| it.options.push(excluded.clone()));
        let beginning = Beginning { role: Role::Master, shields: &[0], early: true };
        staged_in(config, name, context, beginning, async |lab, _| all_leave(lab).await).await
    })]
}

fn further() -> impl Iterator<Item = IpAddr> {
    let ipv4 = (0..IPV4).map(|n| Ipv4Addr::from(0x0a37_0000 + u32::from(n)).into());
    ipv4.chain((0..IPV6).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0x37, 0, 0, 0, 0, n).into()))
}

async fn all_leave(lab: &mut Lab) -> Result<()> {
    let vips: BTreeSet<IpAddr> = further().chain(lab.config.vips()).collect();
    let left = |node: &Node| -> Result<usize> {
        let mut there = BTreeSet::new();
        for index in node.host.rtnl.indexes()? {
            there.extend(node.host.rtnl.addresses(index)?.iter().filter_map(address_of));
        }
        Ok(there.intersection(&vips).count())
    };
    let owner = lab.node(0)?;
    let asked = clock::now();
    clock::until("all VIPs taken", TAKEN, async || Ok((left(owner)? == vips.len()).then_some(())))
        .await?;
    let taken = clock::now().saturating_duration_since(asked);
    quietly(lab, Sequence::Bind).await?;
    let bound = left(owner)?;
    ensure!(bound == vips.len(), "{bound} of {} VIPs after the bind", vips.len());
    let pulled = clock::now();
    lab.cable(0, false)?;
    told(lab, 0, "FAULT", pulled, failover(lab)).await?;
    let stay = Cell::new(vips.len());
    let gone = clock::until("all VIPs given up", GIVEN_UP.max(2 * taken), async || {
        stay.set(left(owner)?);
        Ok((stay.get() == 0).then_some(()))
    })
    .await;
    gone.with_context(|| format!("{} of {} VIPs stay on the node", stay.get(), vips.len()))
}
