//! What the driver answers to who asks over the control socket, or scrapes.

use std::{collections::BTreeMap, time::Duration};

use super::{Driver, DriverError, monotonic, recent::Told};
use crate::{
    causes::causes,
    metrics::Scrapes,
    status::{Answer, PastEvent, Status},
};

impl Driver {
    pub(super) fn status(&self) -> Result<Status, DriverError> {
        let now = monotonic()?;
        let mut engine = self.work.engine.status(now);
        engine.warnings.extend(self.parts.scrapes.iter().filter_map(Scrapes::trouble));
        let mut counters: BTreeMap<String, u64> = self
            .parts
            .programs
            .counters()?
            .into_iter()
            .map(|(counter, value)| (counter.name().to_owned(), value))
            .collect();
        let withheld =
            counters.iter().filter(|(name, _)| name.starts_with("guard_withheld_")).map(|(_, n)| n);
        let withheld = withheld.sum();
        let mut warnings = engine.warnings;
        warnings.extend(requests_lost(self.parts.programs.intents_lost()?));
        counters.insert("withheld".to_owned(), withheld);
        counters.insert("released".to_owned(), engine.released);
        counters.insert("overdue".to_owned(), engine.overdue);
        counters.insert("rebound".to_owned(), engine.rebound);
        counters.insert("announced".to_owned(), engine.announced);
        counters.insert("failed_actions".to_owned(), engine.failed.values().sum());
        counters.extend(engine.heard);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            network_namespace: self.parts.scanner.namespace(),
            uptime_ms: millis(now.saturating_sub(self.started)),
            health: engine.health,
            nics: engine.nics,
            missing: engine.missing,
            warnings,
            daemons: engine.daemons,
            routers: engine.routers,
            claims: engine.claims,
            vips: engine.vips,
            absence: self.turns.longest(),
            failed_actions: engine.failed,
            own_rules: self.parts.programs.own_rules()?.into_iter().collect(),
            counters,
        })
    }

    /// What was seen and done in the last minutes.
    pub(super) fn recording(&self) -> Answer {
        match self.work.recorder.text() {
            Ok(recording) => Answer::Recording { recording },
            Err(error) => Answer::Refused { error: causes(&error) },
        }
    }

    pub(super) fn events(&self) -> Result<Vec<PastEvent>, DriverError> {
        let now = monotonic()?;
        let past = |told: &Told| PastEvent {
            number: told.number,
            ago_ms: millis(now.saturating_sub(told.at)),
            notice: told.notice.clone(),
        };
        Ok(self.recent.all().into_iter().map(past).collect())
    }
}

/// What daemons asked for and nobody knows of.
fn requests_lost(lost: u64) -> Option<String> {
    (lost > 0).then(|| {
        format!(
            "{lost} requests of daemons about addresses were lost: they spoke of more of them than there \
             is room for; an address that was given up may be on a bridge still: restart the daemon"
        )
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
