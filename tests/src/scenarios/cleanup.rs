//! `vipshield cleanup` where the NIC is a port, and where it may not do what it is for; and SIGHUP.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::scene::{Beginning, failover, staged, still};
use super::{Context, Scenario};
use crate::clock;
use crate::lab::Lab;
use crate::measure::Role;
use crate::process::Program;
use crate::sequence::{Sequence, Undisturbed};
use crate::sockets::{Filter, Sockets};

/// What keeps `vipshield cleanup` from all that it does, and from telling whose filter one is.
const NOBODY: &str = "--bounding-set=-all --inh-caps=-all";
const NO_ADMIN: &str = "--bounding-set=-sys_admin --inh-caps=-sys_admin";

pub(super) fn scenarios() -> Vec<Scenario> {
    let port = |role, name: &'static str, about: &'static str| {
        Scenario::new(name, about, true, move |context| async move {
            let beginning = Beginning { role, shields: &[0], early: false };
            Box::pin(staged(name, context, beginning, async |lab, context| {
                on_a_port(lab, context).await
            }))
            .await
        })
    };
    vec![
        port(
            Role::Master,
            "cleanup-port",
            "cleaned up after while its NIC is a port, the owner speaks and hears on",
        ),
        port(
            Role::Backup,
            "cleanup-port-backup",
            "cleaned up after while its NIC is a port, the waiting node hears the owner on",
        ),
        Scenario::new(
            "hangup",
            "without a file SIGHUP ends no vipshield, and it says that there is nothing to reload",
            true,
            |context| async move {
                let beginning = Beginning { role: Role::Master, shields: &[0], early: false };
                Box::pin(staged("hangup", context, beginning, async |lab, _| hang_up(lab).await))
                    .await
            },
        ),
    ]
}

async fn on_a_port(lab: &mut Lab, context: &Context) -> Result<()> {
    Sequence::Bind.run(lab, &mut Undisturbed).await.outcome?;
    clock::pass(failover(lab)).await;
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let from = clock::now();
    vipshield.kill().await?;
    for how in [NOBODY, NO_ADMIN] {
        let refused = refused(lab, context, how).await?;
        ensure!(refused || filters(lab)?.is_empty(), "{how}: cleanup says that all is well");
    }
    let said = lab.clean_up(0, &context.vipshield).await?;
    ensure!(filters(lab)?.is_empty(), "filters are left: {:?}; {said}", filters(lab)?);
    clock::pass(2 * failover(lab)).await;
    still(lab, from)?;

    // Once the NIC is its own again, the sockets are found and moved, though nothing but their
    // membership tells of a vipshield.
    Sequence::Unbind.run(lab, &mut Undisturbed).await.outcome?;
    lab.clean_up(0, &context.vipshield).await?;
    let node = lab.node(0)?;
    let nic = node.host.rtnl.link_at(node.nic)?.index;
    let sockets = sockets(lab)?;
    let mut vrrp = sockets.0.values().filter(|socket| socket.is_vrrp());
    ensure!(vrrp.all(|socket| socket.bound == nic), "a VRRP socket is elsewhere: {sockets:?}");
    Ok(())
}

/// Whether `vipshield cleanup` fails without these privileges.
async fn refused(lab: &Lab, context: &Context, how: &str) -> Result<bool> {
    let host = &lab.node(0)?.host;
    let cleanup = Program::new("vipshield cleanup", "setpriv", lab.token());
    let cleanup = cleanup.args(how.split(' ')).arg(&context.vipshield).arg("cleanup");
    Ok(cleanup.inside(&host.namespace).succeed(Duration::from_secs(10)).await.is_err())
}

fn sockets(lab: &Lab) -> Result<Sockets> {
    let node = lab.node(0)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    Sockets::of(&keepalived.processes()?, &node.host)
}

/// The sockets of the first node's keepalived that carry a filter of eBPF.
fn filters(lab: &Lab) -> Result<Vec<String>> {
    let sockets = sockets(lab)?;
    let filtered = sockets.0.values().filter(|socket| socket.filter == Filter::Ebpf);
    Ok(filtered.map(ToString::to_string).collect())
}

async fn hang_up(lab: &mut Lab) -> Result<()> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    vipshield.hang_up()?;
    clock::until("a word about SIGHUP", Duration::from_secs(5), async || {
        vipshield.status().await?;
        let said = vipshield.log().iter().any(|line| line.text.contains("nothing to reload"));
        Ok(said.then_some(()))
    })
    .await?;
    lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?.stop().await
}
