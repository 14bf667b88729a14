//! What the operator has chosen: at the start, and anew while vipshield runs.

use std::{fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Engine, OnStop, OwnRules, Weight, pattern, tell};

/// What the engine has to know before it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names of the interfaces to guard, and [patterns](pattern) of names: of those that daemons use the ones
    /// that fit. Empty for all that daemons use.
    pub interfaces: Vec<String>,
    /// For how long at the most something untrue may be withheld. What is learned from adverts makes
    /// it shorter, never longer.
    pub deadline: Duration,
    /// Netlink port from which [`Action::ReplayRemoval`](super::Action::ReplayRemoval) is carried out.
    pub replay_port: u32,
    /// Addresses that vipshield puts on NICs itself: they belong to nobody's NIC.
    pub own_addresses: Vec<IpAddr>,
    /// What is left behind at the end.
    pub on_stop: OnStop,
    /// Rules of the operator's own.
    #[serde(default, skip_serializing_if = "OwnRules::is_empty")]
    pub rules: OwnRules,
    /// It only looks: nothing is withheld, and nothing of the node's or of a daemon's is changed.
    #[serde(default, skip_serializing_if = "is_no")]
    pub observe: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_no(so: &bool) -> bool {
    !*so
}

impl Config {
    /// Interfaces that are guarded whether a daemon uses them or not.
    pub(super) fn named(&self) -> impl Iterator<Item = &String> {
        self.interfaces.iter().filter(|name| !pattern::is_pattern(name))
    }

    /// Whether an interface is one of those.
    pub(super) fn names(&self, name: &str) -> bool {
        self.named().any(|named| named == name)
    }

    /// Whether interfaces are guarded because daemons use them.
    pub(super) fn goes_by_use(&self) -> bool {
        self.interfaces.is_empty() || self.interfaces.iter().any(|name| pattern::is_pattern(name))
    }

    /// Whether an interface of this name may be guarded.
    pub(super) fn chooses(&self, name: &str) -> bool {
        self.interfaces.is_empty()
            || self.interfaces.iter().any(|chosen| pattern::matches(chosen, name))
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interfaces.as_slice() {
            [] => f.write_str("the interfaces that VRRP sockets are bound to")?,
            interfaces => f.write_str(&interfaces.join(", "))?,
        }
        if self.observe {
            return f.write_str("; nothing is withheld, and nothing changed");
        }
        write!(f, "; what is untrue is withheld for {} ms at the most", self.deadline.as_millis())?;
        let guard = self.rules.guard.iter().map(|rule| rule.name.as_str());
        let names: Vec<&str> =
            guard.chain(self.rules.telling.iter().map(|rule| rule.name.as_str())).collect();
        if !names.is_empty() {
            write!(f, "; rules of one's own: {}", names.join(", "))?;
        }
        Ok(())
    }
}

impl Engine {
    /// What is left behind at the end.
    #[must_use]
    pub const fn on_stop(&self) -> OnStop {
        self.config.on_stop
    }

    /// Takes the configuration that was told last, once nothing is untrue to daemons.
    pub(super) fn take_configuration(&mut self) {
        if self.nics.values().any(|nic| nic.belief.untrue().next().is_some()) {
            return;
        }
        let Some(config) = self.next_config.take() else { return };
        if config != self.config {
            let text = format!("configured anew: {config}");
            tell(&mut self.actions, Weight::Info, None, text);
            self.config = config;
        }
    }
}
