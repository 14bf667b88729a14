//! How all is, in one word: for the status, its exit status, and the metrics.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Engine, notice::Weight, tell, world::Daemon};

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "health", rename_all = "lowercase")]
pub enum Health {
    /// Each guarded NIC has a daemon, each daemon is guarded, and nothing has failed that vipshield
    /// cannot do without.
    Healthy,
    /// Something is to be guarded and is not, or not wholly.
    Degraded {
        /// What is wrong, and what to do about it.
        reasons: Vec<String>,
    },
    /// No daemon is there, as far as can be told.
    #[default]
    Idle,
}

impl Health {
    /// In the order from good to bad, without reasons.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Idle, Self::Degraded { reasons: Vec::new() }];
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Healthy => "healthy",
            Self::Degraded { .. } => "degraded",
            Self::Idle => "idle",
        })
    }
}

/// What an operator may look for who expects a daemon to be guarded.
const IDLE: &str = "idle: no daemon that speaks VRRP is seen here; one that starts will be guarded";

/// What somebody should know who relies on it.
const OBSERVES: &str = "it only observes (--observe): nothing is withheld and nothing is done; run it without that to \
                        guard this node";

impl Engine {
    /// How all is.
    pub(super) fn health(&self, now: Duration) -> Health {
        let reasons = self.reasons(now);
        if !reasons.is_empty() {
            Health::Degraded { reasons }
        } else if self.nics.values().any(|nic| self.is_guarded(nic)) {
            Health::Healthy
        } else {
            Health::Idle
        }
    }

    /// What is in the way of being healthy. What an operator should mend comes first.
    fn reasons(&self, now: Duration) -> Vec<String> {
        if self.config.observe {
            return vec![OBSERVES.to_owned()];
        }
        let mut reasons = self.grave(now);
        if !self.looked {
            reasons.push("it has just begun to look for daemons".to_owned());
        }
        let is_bare = |daemon: &&Daemon| {
            let waits = !daemon.vrrp.is_empty() || !daemon.monitors.is_empty();
            waits && daemon.is_guardable() && !daemon.is_guarded()
        };
        let bare = self.world.daemons.values().filter(is_bare);
        reasons.extend(bare.map(|it| format!("{} {} is not guarded yet", it.name, it.pid)));
        let lacking = self.nics.values().filter(|nic| self.users(nic).next().is_none());
        reasons.extend(lacking.filter(|nic| self.is_waited_for(nic, now)).map(|nic| {
            format!("{}: its daemon is gone, or begins anew: it is waited for", nic.name)
        }));
        reasons
    }

    /// Says it when there is a daemon at last, and when there is none: neither is anything to mend.
    pub(super) fn tell_health(&mut self, now: Duration) {
        let health = self.health(now);
        let text = match health {
            // Its reasons are told by themselves.
            Health::Degraded { .. } => return,
            Health::Healthy => "healthy: every NIC and every daemon is guarded",
            Health::Idle => IDLE,
        };
        if self.told_health.as_ref() != Some(&health) {
            tell(&mut self.actions, Weight::Info, None, text.to_owned());
            self.told_health = Some(health);
        }
    }
}
