//! Actions that failed: when they are tried again, and what the operator hears of it.
//!
//! The first failure is told, with what can be done about it; the same again is a detail; the end
//! of it is told once.

use std::time::Duration;

use super::{Engine, action::Action, notice::Weight, tell};

/// So many are tried again at a time: what else is due has its turn in between.
const AT_A_TIME: usize = 64;

/// After a failed action the same is tried again no sooner than this.
const RETRY: Duration = Duration::from_millis(500);

/// What can be done without is tried ever less often, and no less often than this.
const RETRY_OPTIONAL: Duration = Duration::from_secs(30);

/// An action that failed, until it succeeds or is not wanted any more.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the action is called.
    name: String,
    /// What can be done about it.
    remedy: &'static str,
    /// What the system said.
    pub(super) error: String,
    /// How often in a row.
    times: u32,
    /// When it may be tried again.
    again: Duration,
    /// It is being tried again.
    under_way: bool,
    /// The last look at everything would have asked for it: it is to be done still.
    missed: bool,
}

impl Failure {
    /// As the status has it.
    pub(super) fn warning(&self) -> String {
        format!("{}: {}; {}", self.name, self.error, self.remedy)
    }
}

impl Engine {
    /// Whether an action may not be tried yet, because it has just failed.
    pub(super) fn is_put_off(&mut self, action: &Action) -> bool {
        let failed = self.failed.get_mut(action).filter(|failure| !failure.under_way);
        failed.map(|failure| failure.missed = true).is_some()
    }

    /// Begins a look at everything. Returns what may be tried again now.
    pub(super) fn retries(&mut self, now: Duration) -> Vec<Action> {
        let mut due = Vec::new();
        for (action, failure) in &mut self.failed {
            failure.missed = false;
            if !failure.under_way && failure.again <= now && due.len() < AT_A_TIME {
                failure.under_way = true;
                due.push(action.clone());
            }
        }
        due
    }

    /// Ends a look at everything: what nobody asks for any more is nothing to mend, and forgotten
    /// when it would be tried again.
    pub(super) fn settle_failures(&mut self) {
        let mut failed = std::mem::take(&mut self.failed);
        failed.retain(|action, failure| !failure.under_way || self.pending.contains(action));
        for (action, failure) in &mut failed {
            failure.missed |= self.is_still_owed(action);
        }
        self.failed = failed;
    }

    /// Whether an action that failed, and that nothing in the world asks for again, is due still.
    pub(super) fn is_still_owed(&self, action: &Action) -> bool {
        match action {
            Action::ResyncLink { socket, ifindex } => {
                self.nics.get(ifindex).is_some_and(|nic| nic.belief.is_told())
                    || self.half_deaf().any(|(daemon, nic)| {
                        daemon.pid == socket.pid && nic.bearers.contains(ifindex)
                    })
            }
            Action::ReplayRemoval { ifindex, address } => {
                self.nics.contains_key(ifindex) && !self.world.has_ip(*ifindex, address.ip)
            }
            Action::ShowAddress { ifindex, address: Some(address) } => {
                self.nics.get(ifindex).is_some_and(|nic| nic.is_elsewhere(&self.world, *address))
                    || (self.half_deaf().next().is_some()
                        && self.world.has_ip(*ifindex, address.ip))
            }
            // The kernel took all that was on it, and any other NIC sees to the rules.
            Action::Carry { .. } => self.nics.is_empty(),
            Action::RemoveVip { ifindex, address } => {
                self.world.vips.is_given_up(address.ip) && self.world.has_ip(*ifindex, address.ip)
            }
            // What is to be set, the next look asks for.
            Action::SetPolicy { .. }
            | Action::ClearPolicy { .. }
            | Action::RestoreRoutes { .. }
            | Action::Shunt { .. }
            | Action::SetCommandPorts { .. }
            | Action::Guard { .. }
            | Action::Listen { .. }
            | Action::Unguard { .. }
            | Action::Rebind { .. }
            | Action::SetOpening { .. }
            | Action::MoveVip { .. }
            | Action::Announce { .. }
            | Action::StandIn { .. }
            | Action::Speak { .. }
            | Action::ShowAddress { address: None, .. }
            | Action::Rescan
            | Action::Watch { .. }
            | Action::WatchAddresses { .. }
            | Action::Answer { .. }
            | Action::SetProbe { .. }
            | Action::Tell { .. }
            | Action::Finish { .. } => false,
        }
    }

    /// What failed and is to be done still.
    pub(super) fn to_mend(&self) -> impl Iterator<Item = (&Action, &Failure)> {
        self.failed.iter().filter(|(_, failure)| failure.missed || failure.under_way)
    }

    /// When something may be tried again.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.failed.values().filter(|it| !it.under_way).map(|failure| failure.again).min()
    }

    pub(super) fn note_failure(&mut self, action: Action, error: &str, now: Duration) {
        let before = self.failed.remove(&action);
        let name = action.to_string();
        // The same words are no news, even if it is about another plan.
        let said = |failure: &Failure| failure.error == error && failure.name == name;
        let is_known = before.iter().chain(self.failed.values()).any(said);
        let times = before.map_or(0, |failure| failure.times).saturating_add(1);
        let pause = pause(&action, times);
        let (weight, text) = if is_known {
            (Weight::Detail, format!("{name}: {error}, {times} times by now"))
        } else {
            (Weight::Warning, format!("{name}: {error}; {}", remedy(&action)))
        };
        tell(&mut self.actions, weight, None, text);
        let failure = Failure {
            name,
            remedy: remedy(&action),
            error: error.to_owned(),
            times,
            again: now.saturating_add(pause),
            under_way: false,
            missed: true,
        };
        self.failed.insert(action, failure);
    }

    pub(super) fn note_success(&mut self, action: &Action) {
        if let Some(failure) = self.failed.remove(action) {
            let times = failure.times;
            let text = format!("{action}: done, after {times} attempts that failed");
            tell(&mut self.actions, Weight::Info, None, text);
        }
    }
}

/// Whether vipshield keeps its promises without it, but for packets in a moment of the kernel's.
pub(super) fn is_optional(action: &Action) -> bool {
    matches!(
        action,
        Action::Shunt { .. }
            | Action::RestoreRoutes { .. }
            | Action::Watch { .. }
            | Action::WatchAddresses { .. }
            | Action::Announce { .. }
            | Action::SetProbe { .. }
    )
}

fn pause(action: &Action, times: u32) -> Duration {
    if !is_optional(action) {
        return RETRY;
    }
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    RETRY.saturating_mul(doubled).min(RETRY_OPTIONAL)
}

/// What an operator can do about a failure, and what it costs until then.
fn remedy(action: &Action) -> &'static str {
    match action {
        Action::Shunt { .. } => {
            "vipshield does without, and single packets may be lost when the NIC joins or leaves a \
             bridge; it needs a kernel with CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and the \
             capabilities BPF and NET_ADMIN"
        }
        Action::Watch { .. } | Action::WatchAddresses { .. } => {
            "vipshield does without, and does not see who else owns an address; it needs the same \
             of the kernel as a shunt: CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, and the \
             capabilities BPF and NET_ADMIN"
        }
        Action::SetProbe { .. } => {
            "vipshield does without, and does not notice a firewall that keeps adverts from the daemons on \
             a bridge; it needs the capability NET_RAW"
        }
        Action::Answer { .. } => {
            "it is tried again; until then new neighbours may get no answer while addresses are on \
             their way"
        }
        Action::Carry { .. } | Action::StandIn { .. } => {
            "it is tried again; it needs a kernel with CONFIG_IP_MULTIPLE_TABLES (and \
             CONFIG_IPV6_MULTIPLE_TABLES), and the capability NET_ADMIN"
        }
        Action::Guard { .. }
        | Action::Listen { .. }
        | Action::Unguard { .. }
        | Action::Rebind { .. }
        | Action::Speak { .. }
        | Action::ResyncLink { .. } => {
            "it is tried again; if it stays, see that vipshield is in the host's PID namespace and \
             has the capabilities BPF, NET_ADMIN, NET_RAW and SYS_PTRACE"
        }
        Action::RestoreRoutes { .. } => {
            "what goes by them is unreachable until whoever made them makes them again, for Kube-OVN's pods some \
             seconds; it needs the capability NET_ADMIN"
        }
        Action::Announce { .. } => {
            "others may send to where the address was, until its next announcement or their own \
             question; it needs the capability NET_RAW"
        }
        Action::RemoveVip { .. }
        | Action::MoveVip { .. }
        | Action::ReplayRemoval { .. }
        | Action::ShowAddress { .. } => {
            "it is tried again; if it stays, see that vipshield has the capability NET_ADMIN"
        }
        Action::SetPolicy { .. }
        | Action::ClearPolicy { .. }
        | Action::SetCommandPorts { .. }
        | Action::SetOpening { .. } => {
            "it is tried again; if it stays, restart vipshield: until then keepalived may see too \
             much or too little"
        }
        Action::Rescan | Action::Tell { .. } | Action::Finish { .. } => "it is tried again",
    }
}
