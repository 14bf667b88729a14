//! A router of another cluster with this one's virtual router id: its adverts are not heeded, and so
//! they change nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::failures::SLACK;
use super::scene::{Beginning, MOMENT, failover, one_owner, quietly, served_by, staged_in, still};
use super::variants::each;
use super::wire::{DEADLINE_MS, counter, has_deadline, list, owns, shows, status};
use super::{Context, Scenario};
use crate::clock;
use crate::config::LabConfig;
use crate::forge::{Advert, Forger, Version};
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::release::Release;
use crate::sequence::Sequence;

/// Not the lab's.
const OTHER_PASSWORD: [u8; 8] = *b"theirs\0\0";

/// What is different about the other cluster.
#[derive(Clone, Copy, Debug)]
enum Difference {
    Addresses,
    Password,
}

impl Difference {
    const fn name(self) -> &'static str {
        match self {
            Self::Addresses => "foreign-router-addresses",
            Self::Password => "foreign-router-password",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Self::Addresses => {
                "another cluster's router with the same id and a higher priority: bind costs nothing"
            }
            Self::Password => {
                "a router with the same addresses and another password: bind costs nothing"
            }
        }
    }

    /// What the status calls it.
    const fn word(self) -> &'static str {
        match self {
            Self::Addresses => "addresses",
            Self::Password => "password",
        }
    }

    fn config(self, context: &Context) -> LabConfig {
        let mut config = LabConfig::new(context.datapath);
        // Without it keepalived puts off its own next advert with each that it does not heed, and an owner is
        // silent beside a router of the same pace (`vrrp_init_instance_sands`), vipshield or none.
        each(&mut config, |instance| instance.options.push("lower_prio_no_advert".to_owned()));
        // Since 2.3.3 it heeds other addresses, too.
        config.keepalived = Release::installed();
        if matches!(self, Self::Password) {
            let block = "authentication {\n    auth_type PASS\n    auth_pass ours\n  }";
            each(&mut config, |instance| instance.options.push(block.to_owned()));
        }
        config
    }

    fn advert(self, lab: &Lab) -> Advert {
        let ours = Advert::new(Version::V2, 51, 200, lab.config.vips().collect());
        match self {
            Self::Addresses => Advert { addresses: vec![[192, 0, 2, 77].into()], ..ours },
            Self::Password => Advert { password: Some(OTHER_PASSWORD), ..ours },
        }
    }
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |difference: Difference| {
        let name = difference.name();
        Scenario::new(name, difference.about(), true, move |context: Context| async move {
            let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
            let config = difference.config(&context);
            let work = async |lab: &mut Lab, _: &Context| unheeded(lab, difference).await;
            staged_in(config, name, context, beginning, work).await
        })
    };
    [Difference::Addresses, Difference::Password].map(scenario).into()
}

fn is_said(status: &Value, difference: Difference) -> bool {
    let warnings = list(status, "warnings").iter().map(Value::to_string);
    warnings.into_iter().any(|warning| {
        ["52:54:00:00:66:66", "virtual router 51", "virtual_router_id", difference.word()]
            .iter()
            .all(|part| warning.contains(part))
    })
}

async fn unheeded(lab: &mut Lab, difference: Difference) -> Result<()> {
    let witnesses = Witnesses::start(lab).await?;
    let is_owner = |status: &Value| owns(status, Version::V2, 51, "192.0.2.11");
    shows(lab, "this node as owner", SLACK * 4, is_owner).await?;
    ensure!(!is_said(&status(lab).await?, difference), "a warning before there is a reason");
    let began = clock::now();
    let advert = difference.advert(lab).frame();
    let forger = Forger::start(&lab.client, "eth0", 1, move |_| advert.clone())?;
    quietly(lab, Sequence::Bind).await?;
    served_by(lab, &witnesses, 0, failover(lab)).await?;
    let last = status(lab).await?;
    ensure!(is_said(&last, difference), "no warning names the foreign router: {last}");
    ensure!(is_owner(&last), "this node is not seen as owner any more: {last}");
    ensure!(has_deadline(&last, DEADLINE_MS), "the deadline moved: {last}");
    drop(forger);
    still(lab, began)?;
    one_owner(lab, &witnesses, began, clock::patience(MOMENT))?;
    let released = counter(lab, "released").await?;
    ensure!(released == 0, "{released} truths told that were none");
    let ended = Duration::from_secs(10);
    shows(lab, "no foreign router", ended, |status| !is_said(status, difference)).await
}
