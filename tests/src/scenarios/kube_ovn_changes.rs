//! Kube-OVN's own daemon while its network is changed, and when it is killed in the middle.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::kube_ovn::PREFIX;
use super::scene::{Beginning, MOMENT, failover, one_owner, phase, served_by, staged_in, still};
use super::{Context, Scenario};
use crate::clock;
use crate::config::{DatapathKind, LabConfig};
use crate::enslaver::{Enslaver, KubeOvn, words};
use crate::lab::Lab;
use crate::measure::{Role, Witnesses};
use crate::sequence::Sequence;

const BEGINNING: Beginning = Beginning { role: Role::Master, shields: &[0], early: false };
/// What the daemon knows the network by.
const NETWORK: &str = "provider";
/// Another NIC of the node, which nobody uses.
const OTHER: &str = "ens224";
/// Before it is there again: a container that died is started anew after a moment.
const DEAD: Duration = Duration::from_secs(1);
/// How long it takes until a NIC is where it is to be.
const SOON: Duration = Duration::from_secs(20);

/// Calls of its tools in a sequence, not all, in their order and by words of them.
const BIND: [&str; 4] = ["add-br", "set bridge", "ovn-bridge-mappings", "add-port"];
const UNBIND: [&str; 3] = ["list-ports", "del-port", "del-br"];

pub(super) fn scenarios() -> Vec<Scenario> {
    let changes = "its network is written to, excludes the node, includes it, has another NIC, has this one \
                   again: no transition, one owner";
    let mut all = vec![scenario("changes", changes, |lab| Box::pin(changed(lab)))];
    for (name, taking, giving) in [
        ("killed", Sequence::Bind, Sequence::Unbind),
        ("killed-exchange", Sequence::Exchange, Sequence::Unexchange),
    ] {
        let about = format!(
            "killed in {taking} and {giving}, at calls of its tools, and started again: one owner, and all right in \
             the end"
        );
        all.push(scenario(name, &about, move |lab| Box::pin(killed(lab, taking, giving))));
    }
    all
}

type Work<'a> = std::pin::Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

fn scenario(
    name: &str,
    about: &str,
    work: impl for<'a> Fn(&'a mut Lab) -> Work<'a> + Copy + 'static,
) -> Scenario {
    let name = format!("{PREFIX}{name}");
    let directory = name.clone();
    let about = format!("Kube-OVN's own daemon: {about}");
    let mut scenario = Scenario::new(&name, &about, true, move |context: Context| {
        let directory = directory.clone();
        async move {
            let mut config = LabConfig::new(context.datapath);
            config.kube_ovn.clone_from(&context.kube_ovn);
            staged_in(config, &directory, context, BEGINNING, async |lab, _| work(lab).await).await
        }
    });
    scenario.only = Some(DatapathKind::Ovs);
    scenario.enslaver = Enslaver::KubeOvn;
    scenario
}

fn daemon(lab: &mut Lab) -> Result<&mut KubeOvn> {
    lab.node_mut(0)?.kube_ovn.as_mut().context("Kube-OVN's daemon does not run")
}

async fn changed(lab: &mut Lab) -> Result<()> {
    lab.node(0)?.host.shell(&format!("ip link add {OTHER} type dummy\nip link set {OTHER} up"))?;
    let witnesses = Witnesses::start(lab).await?;
    let from = clock::now();
    let nic = lab.config.nic.clone();
    let ready = format!("ready {NETWORK} {nic}");
    for (command, end, expected) in [
        (format!("create {NETWORK} {nic}"), Some(&ready), "bridged"),
        (format!("touch {NETWORK}"), Some(&ready), "bridged"),
        (format!("exclude {NETWORK}"), None, "free"),
        (format!("include {NETWORK}"), Some(&ready), "bridged"),
        (format!("custom {NETWORK} {OTHER}"), Some(&format!("ready {NETWORK} {OTHER}")), "free"),
        (format!("custom {NETWORK} {nic}"), Some(&ready), "bridged"),
    ] {
        let end = end.map_or_else(|| format!("excluding {NETWORK}"), Clone::clone);
        daemon(lab)?.does(&command, &end).await.with_context(|| command.clone())?;
        phase(lab, 0, expected, SOON).await.with_context(|| command.clone())?;
        clock::pass(failover(lab)).await;
        still(lab, from).with_context(|| command.clone())?;
        served_by(lab, &witnesses, 0, MOMENT).await.with_context(|| command)?;
    }
    one_owner(lab, &witnesses, from, clock::patience(MOMENT))
}

async fn killed(lab: &mut Lab, taking: Sequence, giving: Sequence) -> Result<()> {
    let nic = lab.config.nic.clone();
    let (create, ready) = words(taking, NETWORK, &nic);
    let (delete, deleted) = words(giving, NETWORK, &nic);
    let witnesses = Witnesses::start(lab).await?;
    let from = clock::now();
    for call in BIND {
        daemon(lab)?.dies_in(&create, call).await?;
        clock::pass(DEAD).await;
        daemon(lab)?.returns(&[&create], &ready).await.with_context(|| call.to_owned())?;
        phase(lab, 0, "bridged", SOON).await.with_context(|| call.to_owned())?;
        clock::pass(failover(lab)).await;
        still(lab, from).with_context(|| format!("{taking}, killed in {call}"))?;
        daemon(lab)?.does(&delete, &deleted).await?;
        phase(lab, 0, "free", SOON).await.with_context(|| call.to_owned())?;
    }
    for call in UNBIND {
        daemon(lab)?.does(&create, &ready).await?;
        clock::pass(DEAD).await;
        still(lab, from).with_context(|| format!("before {giving} is killed in {call}"))?;
        daemon(lab)?.dies_in(&delete, call).await?;
        clock::pass(DEAD).await;
        // The network is gone, and nobody ends what was begun.
        daemon(lab)?.returns(&[], "started").await.with_context(|| call.to_owned())?;
        clock::pass(failover(lab)).await;
        one_owner(lab, &witnesses, from, clock::patience(MOMENT))?;
        still(lab, from).with_context(|| format!("{giving}, killed in {call}"))?;
        daemon(lab)?.does(&create, &ready).await?;
        daemon(lab)?.does(&delete, &deleted).await?;
        phase(lab, 0, "free", SOON).await.with_context(|| call.to_owned())?;
    }
    clock::pass(failover(lab)).await;
    one_owner(lab, &witnesses, from, clock::patience(MOMENT))?;
    served_by(lab, &witnesses, 0, failover(lab)).await
}
