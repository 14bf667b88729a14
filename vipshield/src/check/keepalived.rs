//! What keepalived's configuration has that is hazardous here.

use super::{
    Finding, Question, Seen,
    hazards::{self, GROUP},
};
use crate::{
    engine::{Daemon, Role},
    keepalived,
};

pub(super) fn findings(question: &Question, seen: &Seen) -> Vec<Finding> {
    let speaks = |daemon: &&Daemon| daemon.role == Role::Vrrp && daemon.trouble.is_none();
    let daemons: Vec<&Daemon> = seen.daemons.iter().filter(speaks).collect();
    if daemons.is_empty() {
        let text = "no keepalived that speaks VRRP is seen";
        return vec![Finding::skip(GROUP, "configuration", text)];
    }
    daemons.into_iter().flat_map(|daemon| of(daemon, question)).collect()
}

fn of(daemon: &Daemon, question: &Question) -> Vec<Finding> {
    let who = format!("{} {}", daemon.name, daemon.pid);
    let mut findings = vec![match keepalived::version_of(daemon.pid) {
        Ok(Some(version)) => Finding::pass(GROUP, "version", format!("{who}: {version}")),
        Ok(None) => Finding::skip(GROUP, "version", format!("{who}: its executable does not say")),
        Err(error) => Finding::skip(GROUP, "version", format!("{who}: its executable: {error}")),
    }];
    match keepalived::configuration_of(daemon.pid, keepalived::MAX_CONFIGURATION) {
        Ok(conf) => {
            findings.extend(hazards::findings(&conf, &question.interfaces, question.deadline));
        }
        Err(error) => {
            let path = keepalived::path_of(daemon.pid);
            let text = format!("{who}: {}: {error}", path.display());
            findings.push(Finding::skip(GROUP, "configuration", text));
        }
    }
    findings
}
