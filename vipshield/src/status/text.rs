//! Answers for people.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use humantime::format_rfc3339_millis;

use super::{PastEvent, Status};
use crate::engine::{ClaimantStatus, Family, Filter, Health, Role, RouterStatus, Weight};

/// Of virtual routers that are not known to be this node's no more are shown: anybody can invent
/// them.
const MAX_OTHERS: usize = 16;

/// The status as a few lines.
#[must_use]
pub fn status_text(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "vipshield {} (process {}), up {}, {}",
        status.version,
        status.pid,
        duration(status.uptime_ms),
        status.health
    );
    let reasons = match &status.health {
        Health::Degraded { reasons } => reasons.as_slice(),
        Health::Healthy | Health::Idle => &[],
    };
    for reason in reasons {
        let _ = writeln!(text, "degraded: {reason}");
    }
    for warning in status.warnings.iter().filter(|warning| !reasons.contains(warning)) {
        let _ = writeln!(text, "warning: {warning}");
    }
    for nic in &status.nics {
        let bearer = nic.bearer.as_ref().map_or("unknown", |bearer| bearer.name.as_str());
        let _ = writeln!(
            text,
            "{} (interface {}): {} for {}, bearer {bearer}, deadline {} ms, addresses {}",
            nic.name,
            nic.ifindex,
            nic.phase,
            duration(nic.phase_ms),
            nic.deadline_ms,
            if nic.addresses.is_empty() { "none".to_owned() } else { nic.addresses.join(" ") }
        );
    }
    if status.daemons.is_empty() {
        let _ = writeln!(
            text,
            "no daemon is seen; if keepalived runs here, look at hostNetwork, hostPID and --daemon"
        );
    }
    for daemon in &status.daemons {
        let role = match daemon.role {
            Role::Vrrp => "VRRP",
            Role::Checkers => "checkers",
        };
        let guarded = daemon.monitors.iter().filter(|filter| **filter == Filter::Guard).count();
        let _ = write!(
            text,
            "{} {} ({role}): {guarded} of {} monitor sockets guarded",
            daemon.name,
            daemon.pid,
            daemon.monitors.len()
        );
        let mut bound: Vec<&str> =
            daemon.vrrp.iter().filter_map(|socket| socket.bound.as_deref()).collect();
        bound.dedup();
        if !bound.is_empty() {
            let _ = write!(text, ", VRRP sockets on {}", bound.join(" "));
        }
        text.push('\n');
    }
    let (ours, others): (Vec<_>, Vec<_>) = status.routers.iter().partition(|router| router.ours);
    for router in ours.iter().chain(others.iter().take(MAX_OTHERS)) {
        text.push_str(&router_line(router));
    }
    if others.len() > MAX_OTHERS {
        let _ = writeln!(text, "and {} more virtual routers", others.len() - MAX_OTHERS);
    }
    for claim in &status.claims {
        let macs: Vec<String> = claim.claimants.iter().map(claimant).collect();
        let _ = writeln!(
            text,
            "{}{}: claimed by {}{}",
            claim.address,
            if claim.wanted { " (wanted here)" } else { "" },
            if macs.is_empty() { "nobody".to_owned() } else { macs.join(", ") },
            if claim.conflict.is_some() { ": CONFLICT" } else { "" }
        );
    }
    for name in ["withheld", "released", "rebound", "announced", "failed_actions", "conflicts"] {
        let _ = writeln!(text, "{name:>16} {}", status.counters.get(name).copied().unwrap_or(0));
    }
    text
}

/// How it is, in one line.
#[must_use]
pub fn brief_text(status: &Status) -> String {
    match &status.health {
        Health::Degraded { reasons } => format!("{}: {}\n", status.health, reasons.join("; ")),
        Health::Healthy | Health::Idle => format!("{}\n", status.health),
    }
}

/// A virtual router in a line.
fn router_line(router: &RouterStatus) -> String {
    let family = match router.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    let vlan = router.vlan.map(|vlan| format!(" in VLAN {vlan}")).unwrap_or_default();
    let said: Vec<String> = router
        .senders
        .iter()
        .map(|sender| {
            format!(
                "{}{}{} priority {} every {} ms, {} ago",
                sender.source,
                if sender.own { " (this node)" } else { "" },
                if router.owner == Some(sender.source) { " owner," } else { "" },
                sender.priority,
                sender.interval_ms,
                duration(sender.last_seen_ms)
            )
        })
        .collect();
    format!(
        "{}: virtual router {} ({family}, version {}){vlan}{}: {}\n",
        router.nic,
        router.router_id,
        u8::from(router.version),
        if router.ours { "" } else { ", not known to be this node's" },
        said.join("; ")
    )
}

fn claimant(claimant: &ClaimantStatus) -> String {
    let own = if claimant.own { " (this node)" } else { "" };
    format!("{}{own} {} ago", claimant.mac, duration(claimant.last_seen_ms))
}

/// Events, one a line, oldest first, with their times in UTC.
#[must_use]
pub fn events_text(events: &[PastEvent], now: SystemTime) -> String {
    let mut text = String::new();
    for event in events {
        let mark = match event.notice.weight {
            Weight::Detail => ' ',
            Weight::Info => '-',
            Weight::Warning => '!',
        };
        let at = now.checked_sub(Duration::from_millis(event.ago_ms)).unwrap_or(UNIX_EPOCH);
        let _ = writeln!(text, "{} {mark} {}", format_rfc3339_millis(at), event.notice);
    }
    text
}

fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{:03}s", seconds, ms % 1000),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::Notice, metrics::sample};

    #[test]
    fn an_event_has_its_time() {
        let notice = Notice {
            weight: Weight::Warning,
            nic: Some("ens192".to_owned()),
            text: "is gone".to_owned(),
        };
        let now = UNIX_EPOCH + Duration::from_hours(24);
        let text = events_text(&[PastEvent { number: 1, ago_ms: 1_500, notice }], now);
        assert_eq!(text, "1970-01-01T23:59:58.500Z ! ens192: is gone\n");
    }

    #[test]
    fn how_it_is_fits_a_line() {
        assert_eq!(brief_text(&sample()), "degraded: the first\n");
        let healthy = Status { health: Health::Healthy, ..sample() };
        assert_eq!(brief_text(&healthy), "healthy\n");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(1_234), "1.234s");
        assert_eq!(duration(61_000), "1m01s");
        assert_eq!(duration(3_660_000), "1h01m");
        assert_eq!(duration(90_000_000), "1d01h");
    }
}
