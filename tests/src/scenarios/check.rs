//! `vipshield check` on a node where keepalived runs: nothing fails; and what is put in its way is named.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::variants::option;
use super::{Context, Runs, Scenario};
use crate::config::LabConfig;
use crate::lab::Lab;
use crate::process::Program;

/// `linux/capability.h`, in the order in which they are taken away.
const CAPABILITIES: [(u8, &str); 5] =
    [(12, "NET_ADMIN"), (13, "NET_RAW"), (19, "SYS_PTRACE"), (38, "PERFMON"), (39, "BPF")];

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario::new(
        "check",
        "check finds nothing wrong with a node that is well, and what is wrong with one that is not",
        true,
        |context| async move { check(context).await },
    )]
}

async fn check(context: Context) -> Runs {
    for (hazard, named) in [
        (None, None),
        (Some("use_vmac"), Some("use_vmac")),
        (Some("down_timer_adverts 2"), Some("down_timer_adverts")),
    ] {
        let mut config = LabConfig::new(context.datapath);
        config.nodes.truncate(1);
        if let Some(hazard) = hazard {
            option(&mut config, hazard);
        }
        let mut lab = Lab::build(config).await?;
        lab.start_keepalived(0)?;
        let keepalived = lab.node(0)?.keepalived.as_ref().context("keepalived does not run")?;
        keepalived.wait_for("VI_1", "MASTER", Duration::from_secs(15)).await?;
        let outcome = match named {
            None => well(&lab, &context).await,
            Some(named) => fails(&lab, &context, &[named], &[]).await,
        };
        outcome.with_context(|| hazard.unwrap_or("an ordinary node"))?;
    }
    Ok(Vec::new())
}

async fn well(lab: &Lab, context: &Context) -> Result<()> {
    let all: Vec<u8> = CAPABILITIES.iter().map(|(number, _)| *number).collect();
    let (code, report) = ask(lab, context, &all, &["--interface", "ens192"]).await?;
    let failed = named(&report, "fail");
    ensure!(failed.is_empty() && code < 2, "exit status {code}, failed: {failed:?}");
    let passed = named(&report, "pass");
    for name in ["ebpf", "socket-filter", "daemons", "interface", "version", "instance"] {
        ensure!(passed.iter().any(|it| it == name), "{name} did not pass: {report}");
    }
    for (number, name) in CAPABILITIES {
        let others: Vec<u8> = all.iter().copied().filter(|it| *it != number).collect();
        let (code, report) = ask(lab, context, &others, &[]).await?;
        let failed = named(&report, "fail");
        ensure!(code == 2 && failed.iter().any(|it| it == name), "without {name}: {failed:?}");
        ensure!(
            CAPABILITIES.iter().all(|(_, it)| *it == name || !failed.iter().any(|one| one == it)),
            "without {name} alone: {failed:?}"
        );
    }
    fails(lab, context, &["interface"], &["--interface", "ens256"]).await
}

/// With every capability it ends with 2, and these findings among others.
async fn fails(lab: &Lab, context: &Context, names: &[&str], options: &[&str]) -> Result<()> {
    let all: Vec<u8> = CAPABILITIES.iter().map(|(number, _)| *number).collect();
    let (code, report) = ask(lab, context, &all, options).await?;
    let failed = named(&report, "fail");
    ensure!(
        code == 2 && names.iter().all(|name| failed.iter().any(|it| it == name)),
        "exit status {code}, failed: {failed:?} and not {names:?}"
    );
    Ok(())
}

/// The exit status of `vipshield check` on the node, and its report.
async fn ask(
    lab: &Lab,
    context: &Context,
    capabilities: &[u8],
    options: &[&str],
) -> Result<(i32, Value)> {
    let output = Program::new("vipshield check", &context.vipshield, lab.token())
        .limited_to(capabilities)
        .args(["check", "-o", "json"])
        .args(options)
        .inside(&lab.node(0)?.host.namespace)
        .output(Duration::from_secs(20))
        .await?;
    let code = output.status.code().context("it was killed")?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("exit status {code}: {}", String::from_utf8_lossy(&output.stderr))
    })?;
    Ok((code, report))
}

/// The names of the findings with this verdict.
fn named(report: &Value, verdict: &str) -> Vec<String> {
    let findings = report.get("findings").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |finding: &Value, key: &str| finding.get(key)?.as_str().map(str::to_owned);
    findings
        .iter()
        .filter(|finding| text(finding, "verdict").as_deref() == Some(verdict))
        .filter_map(|finding| text(finding, "name"))
        .collect()
}
