//! Adverts that go to other multicast groups than VRRP's own: a waiting node hears its owner also while its NIC is
//! a port.

use super::releases::all_sequences;
use super::variants::option;
use super::{Context, Runs, Scenario};
use crate::config::LabConfig;
use crate::measure::Role;
use crate::stack::Stack;

/// What is configured.
#[derive(Clone, Copy)]
struct Groups {
    name: &'static str,
    stack: Stack,
    change: fn(&mut LabConfig),
}

const GROUPS: [Groups; 2] = [
    Groups {
        name: "group-global",
        stack: Stack::Dual,
        change: |lab| {
            lab.globals.push("vrrp_mcast_group4 224.0.0.99".to_owned());
            lab.globals.push("vrrp_mcast_group6 ff02::99".to_owned());
        },
    },
    Groups {
        name: "group-of-instance",
        stack: Stack::Ipv4,
        change: |lab| option(lab, "mcast_dst_ip 224.0.0.99"),
    },
];

pub(super) fn scenarios() -> Vec<Scenario> {
    GROUPS.into_iter().map(scenario).collect()
}

fn scenario(groups: Groups) -> Scenario {
    let about = "all sequences on a waiting node whose adverts go to another group: undisturbed";
    Scenario::new(groups.name, about, true, move |context| waiting(context, groups))
}

async fn waiting(context: Context, groups: Groups) -> Runs {
    let mut config = LabConfig::stacked(context.datapath, groups.stack);
    (groups.change)(&mut config);
    all_sequences(config, Role::Backup, context, groups.name).await
}
