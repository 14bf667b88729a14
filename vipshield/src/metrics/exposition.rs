//! What is served, in the formats that Prometheus reads.

use std::{collections::BTreeSet, sync::atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter as Counted},
        family::Family,
        gauge::Gauge,
    },
    registry::Registry,
};
use vipshield_common::{counters::Counter, guard::rules::RULES};

use super::process;
use crate::{
    engine::{
        self, Action, Filter, Health, NicStatus, Phase, RouterStatus, TRANSITION_BOUNDS,
        Transitions,
    },
    status::Status,
    wire::Malformed,
};

/// How OpenMetrics ends.
const END: &str = "# EOF\n";
/// Each address is a label, and there may be thousands.
const MAX_VIPS: usize = 256;

/// The two formats that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4.
    Plain,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that a client gets which accepts this.
    pub(super) fn accepted(accept: &str) -> Self {
        let wanted =
            accept.split(',').any(|it| it.trim().starts_with("application/openmetrics-text"));
        if wanted { Self::OpenMetrics } else { Self::Plain }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The metrics.
///
/// # Errors
/// None that a string gives.
pub fn text(status: &Status, format: Format) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("vipshield");
    register_guard(&mut registry, status);
    register_state(&mut registry, status);
    register_heard(&mut registry, status);
    let mut open = String::new();
    encode(&mut open, &registry)?;
    let mut own = Registry::default();
    process::register(&mut own);
    let mut more = String::new();
    encode(&mut more, &own)?;
    let open = open.trim_end_matches(END).to_owned() + &more;
    Ok(match format {
        Format::OpenMetrics => open,
        Format::Plain => plain(&open),
    })
}

/// In the text format 0.0.4 a counter's family has its samples' name, and nothing marks the end.
fn plain(open: &str) -> String {
    let counters: BTreeSet<&str> = open
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut plain = String::with_capacity(open.len());
    for line in open.trim_end_matches(END).lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "UNIT", ..] => continue,
            ["#", kind, family, rest] if counters.contains(family) => {
                plain.extend(["# ", kind, " ", family, "_total ", rest]);
            }
            _ => plain.push_str(line),
        }
        plain.push('\n');
    }
    plain
}

/// What became of messages.
fn register_guard(registry: &mut Registry, status: &Status) {
    let messages = Family::<Labels, Counted>::default();
    for (number, rule) in RULES.iter().enumerate() {
        let Some(counter) = Counter::ALL.get(number) else { continue };
        let verdict = if rule.then.reason() == 0 { "passed" } else { "withheld" };
        let labels = labels([("verdict", verdict.to_owned()), ("rule", rule.name.to_owned())]);
        let mut value = status.counters.get(counter.name()).copied().unwrap_or(0);
        if *counter == Counter::PassedOwnRule {
            // Each of them has its own line.
            value = value.saturating_sub(status.own_rules.values().sum());
        }
        messages.get_or_create(&labels).inc_by(value);
    }
    for (rule, passed) in &status.own_rules {
        let labels = labels([("verdict", "passed".to_owned()), ("rule", rule.clone())]);
        messages.get_or_create(&labels).inc_by(*passed);
    }
    let help = "Netlink messages to guarded daemons, by verdict and the rule that decided";
    registry.register("guard_messages", help, messages);
    let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    for counter in Counter::ALL {
        let value = ConstCounter::new(count(counter.name()));
        registry.register(counter.name(), counter.help().trim_end_matches('.'), value);
    }
    for (name, help) in [
        ("withheld", "Netlink messages withheld from guarded daemons"),
        ("released", "Truths told to guarded daemons after they had been withheld"),
        ("overdue", "Times that daemons believed something untrue for longer than the deadline"),
        ("rebound", "VRRP sockets moved to another interface"),
        ("announced", "Announcements of VIPs that moved to another interface"),
    ] {
        registry.register(name, help, ConstCounter::new(count(name)));
    }
    let failed = Family::<Labels, Counted>::default();
    for kind in Action::KINDS {
        let failures = status.failed_actions.get(kind).copied().unwrap_or(0);
        failed.get_or_create(&labels([("action", kind.to_owned())])).inc_by(failures);
    }
    registry.register("failed_actions", "Actions that failed, by what was to be done", failed);
}

/// How things are.
fn register_state(registry: &mut Registry, status: &Status) {
    let build = Family::<Labels, Gauge>::default();
    build.get_or_create(&labels([("version", status.version.clone())])).set(1);
    registry.register("build_info", "1 for the version that runs", build);
    let absence = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for (when, us) in
        [("any", status.absence.longest_us), ("transition", status.absence.in_transition_us)]
    {
        absence.get_or_create(&labels([("when", when.to_owned())])).set(us as f64 / 1e6);
    }
    let help =
        "The longest that one turn of the loop took, at any time and while a NIC was in transition";
    registry.register("loop_absence_max_seconds", help, absence);
    let (wanted, present) =
        (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
    for vip in status.vips.iter().take(MAX_VIPS) {
        let labels = labels([("address", vip.address.to_string())]);
        wanted.get_or_create(&labels).set(vip.wanted.into());
        present.get_or_create(&labels).set((!vip.on.is_empty()).into());
    }
    let help = "1 if a daemon of this node means to have the VIP; the first 256 VIPs";
    registry.register("vip_wanted", help, wanted);
    registry.register("vip_present", "1 if an interface of this node has the VIP", present);
    let phases = Family::<Vec<(String, String)>, Gauge>::default();
    for nic in &status.nics {
        for phase in Phase::ALL {
            let labels =
                vec![("nic".to_owned(), nic.name.clone()), ("phase".to_owned(), phase.to_string())];
            phases.get_or_create(&labels).set(i64::from(phase == nic.phase));
        }
    }
    registry.register("nic_phase", "1 for the phase a guarded NIC is in", phases);
    let ended = |nic: &NicStatus| {
        let with = |it: &Transitions| {
            (labels([("nic", nic.name.clone()), ("to", it.to.to_string())]), it.clone())
        };
        nic.transitions.iter().map(with).collect::<Vec<_>>()
    };
    let took = Durations(status.nics.iter().flat_map(ended).collect());
    let help = "How long it took until a guarded NIC was in this phase, from when it began to be taken or given back";
    registry.register("transition_duration_seconds", help, took);
    let sockets = Family::<Vec<(String, String)>, Gauge>::default();
    for filter in [Filter::Guard, Filter::Foreign, Filter::None, Filter::Stale] {
        let label = match filter {
            Filter::Guard => "guard",
            Filter::Foreign => "foreign",
            Filter::None => "none",
            Filter::Stale => "stale",
        };
        let number = status
            .daemons
            .iter()
            .flat_map(|daemon| &daemon.monitors)
            .filter(|found| **found == filter)
            .count();
        sockets
            .get_or_create(&vec![("filter".to_owned(), label.to_owned())])
            .set(i64::try_from(number).unwrap_or(i64::MAX));
    }
    registry.register("monitor_sockets", "Monitor sockets of guarded daemons, by filter", sockets);
    let warnings: Gauge = Gauge::default();
    warnings.set(i64::try_from(status.warnings.len()).unwrap_or(i64::MAX));
    registry.register("warnings", "Things that an operator should mend", warnings);
    let health = Family::<Labels, Gauge>::default();
    for word in Health::ALL.map(|health| health.to_string()) {
        let is_it = word == status.health.to_string();
        health.get_or_create(&labels([("health", word)])).set(i64::from(is_it));
    }
    registry.register("health", "1 for the word that vipshield status says", health);
}

/// Counted elsewhere.
#[derive(Debug)]
struct Durations(Vec<(Labels, Transitions)>);

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, transitions) in &self.0 {
            let Transitions { number, took_us, classes, .. } = transitions;
            let bounds = TRANSITION_BOUNDS.iter().map(|ms| *ms as f64 / 1000.0);
            let mut buckets: Vec<(f64, u64)> = bounds.zip(classes.iter().copied()).collect();
            let longer = number.saturating_sub(classes.iter().sum());
            buckets.push((f64::INFINITY, longer));
            let mut of_these = encoder.encode_family(labels)?;
            let sum = *took_us as f64 / 1e6;
            of_these.encode_histogram::<NoLabelSet>(sum, *number, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

type Labels = Vec<(String, String)>;

fn labels<const N: usize>(pairs: [(&str, String); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn router_labels(router: &RouterStatus) -> Labels {
    let family = match router.family {
        engine::Family::Ipv4 => "ipv4",
        engine::Family::Ipv6 => "ipv6",
    };
    labels([
        ("nic", router.nic.clone()),
        ("router_id", router.router_id.to_string()),
        ("family", family.to_owned()),
        ("version", u8::from(router.version).to_string()),
        ("vlan", router.vlan.map(|vlan| vlan.to_string()).unwrap_or_default()),
    ])
}

/// What was heard on the wire. Of virtual routers only those that this node takes part in: the
/// others are anybody's to invent.
fn register_heard(registry: &mut Registry, status: &Status) {
    let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let malformed = Family::<Labels, Counted>::default();
    for reason in Malformed::ALL {
        let value = count(&format!("malformed_{reason}"));
        malformed.get_or_create(&labels([("reason", reason.to_string())])).inc_by(value);
    }
    let help = "Frames of which nothing was made, by reason";
    registry.register("malformed_frames", help, malformed);
    for (name, help) in [
        ("adverts", "VRRP adverts seen, by who sent them"),
        ("claims", "ARP and neighbour discovery that gives an address a hardware address"),
    ] {
        let family = Family::<Labels, Counted>::default();
        for origin in ["own", "foreign"] {
            let value = count(&format!("{name}_{origin}"));
            family.get_or_create(&labels([("origin", origin.to_owned())])).inc_by(value);
        }
        registry.register(name, help, family);
    }
    let evicted = Family::<Labels, Counted>::default();
    for table in ["routers", "senders", "claimants"] {
        let value = count(&format!("{table}_evicted"));
        evicted.get_or_create(&labels([("table", table.to_owned())])).inc_by(value);
    }
    registry.register("evictions", "Entries that made place in a full table", evicted);
    for (name, help) in [
        ("conflicts", "Times that somebody else was found to claim an address this node owns"),
        ("silences", "Times that this node was found to own and to send no adverts"),
        ("frames_stray", "Frames on interfaces that are no guarded NIC's"),
    ] {
        registry.register(name, help, ConstCounter::new(count(name)));
    }
    let conflicts: Gauge = Gauge::default();
    let number = status.claims.iter().filter(|claim| claim.conflict.is_some()).count();
    conflicts.set(i64::try_from(number).unwrap_or(i64::MAX));
    registry.register(
        "conflicting_addresses",
        "Addresses of this node that others claim",
        conflicts,
    );
    let owned = Family::<Labels, Gauge>::default();
    for router in status.routers.iter().filter(|router| router.ours) {
        let labels = router_labels(router);
        let own = router.senders.iter().any(|it| it.own && router.owner == Some(it.source));
        owned.get_or_create(&labels).set(own.into());
    }
    registry.register("router_owned", "1 if adverts say that this node owns it", owned);
    let attended = Family::<Labels, Gauge>::default();
    for router in status.routers.iter().filter(|router| router.ours) {
        attended.get_or_create(&router_labels(router)).set(router.owner.is_some().into());
    }
    let help = "1 if adverts say that some node owns it";
    registry.register("router_has_owner", help, attended);
    let ages = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for router in status.routers.iter().filter(|router| router.ours) {
        let heard = router.senders.iter().filter(|it| router.owner == Some(it.source));
        if let Some(age) = heard.map(|it| it.last_seen_ms).min() {
            let labels = router_labels(router);
            ages.get_or_create(&labels).set(age as f64 / 1000.0);
        }
    }
    let help = "How long ago the last advert of its owner was seen";
    registry.register("router_last_advert_age_seconds", help, ages);
    let deadlines = Family::<Labels, Gauge<f64, AtomicU64>>::default();
    for nic in &status.nics {
        let deadline = nic.deadline_ms as f64 / 1000.0;
        deadlines.get_or_create(&labels([("nic", nic.name.clone())])).set(deadline);
    }
    let help = "What is untrue about a NIC is withheld for so long at the most";
    registry.register("deadline_seconds", help, deadlines);
}

#[cfg(test)]
mod tests {
    use super::{super::sample, *};

    #[test]
    fn every_counter_and_phase_is_there_once() {
        let text = text(&sample(), Format::OpenMetrics).unwrap();
        for counter in Counter::ALL {
            let line = format!("vipshield_{}_total 0", counter.name());
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}");
        }
        for line in [
            "vipshield_withheld_total 7",
            "vipshield_nic_phase{nic=\"ens192\",phase=\"bridged\"} 1",
            "vipshield_nic_phase{nic=\"ens192\",phase=\"free\"} 0",
            "vipshield_monitor_sockets{filter=\"guard\"} 1",
            "vipshield_malformed_frames_total{reason=\"vrrp_checksum\"} 3",
            "vipshield_malformed_frames_total{reason=\"truncated\"} 0",
            "vipshield_adverts_total{origin=\"foreign\"} 9",
            "vipshield_deadline_seconds{nic=\"ens192\"} 0.19",
            "vipshield_guard_messages_total{verdict=\"withheld\",rule=\"admin-down\"} 0",
            "vipshield_router_has_owner{nic=\"ens192\",router_id=\"51\",family=\"ipv4\",version=\"3\",vlan=\"\"} 1",
            "vipshield_vip_wanted{address=\"192.0.2.10\"} 1",
            "vipshield_vip_present{address=\"192.0.2.10\"} 1",
            "vipshield_failed_actions_total{action=\"carry\"} 4",
            "vipshield_failed_actions_total{action=\"shunt\"} 0",
            "vipshield_loop_absence_max_seconds{when=\"any\"} 1.5",
            "vipshield_loop_absence_max_seconds{when=\"transition\"} 0.0025",
            "vipshield_health{health=\"healthy\"} 0",
            "vipshield_health{health=\"degraded\"} 1",
            "vipshield_health{health=\"idle\"} 0",
            "vipshield_transition_duration_seconds_sum{nic=\"ens192\",to=\"bridged\"} 40.15",
            "vipshield_transition_duration_seconds_count{nic=\"ens192\",to=\"bridged\"} 4",
            "vipshield_transition_duration_seconds_bucket{le=\"0.05\",nic=\"ens192\",to=\"bridged\"} 2",
            "vipshield_transition_duration_seconds_bucket{le=\"30.0\",nic=\"ens192\",to=\"bridged\"} 3",
            "vipshield_transition_duration_seconds_bucket{le=\"+Inf\",nic=\"ens192\",to=\"bridged\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_format_is_the_one_that_is_accepted() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for accept in ["", "*/*", "text/plain;version=0.0.4"] {
            assert_eq!(Format::accepted(accept), Format::Plain, "{accept}");
        }
    }

    /// Each sample belongs to the family that was announced last, of whose type it is, and none is there twice.
    #[test]
    fn plain_text_is_as_its_readers_want_it() {
        let text = text(&sample(), Format::Plain).unwrap();
        let (mut family, mut kind, mut seen) = (String::new(), String::new(), BTreeSet::new());
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, _, ..] => {
                    let prefixes = ["vipshield_", "process_"];
                    assert!(prefixes.iter().any(|it| name.starts_with(it)), "{line}");
                }
                ["#", "TYPE", name, of] => {
                    assert!(seen.insert(line.to_owned()), "{name} twice");
                    (family, kind) = (name.to_owned(), of.to_owned());
                }
                [sample, value] => {
                    let name = sample.split('{').next().unwrap();
                    let of = match kind.as_str() {
                        "histogram" => ["_bucket", "_sum", "_count"]
                            .iter()
                            .find_map(|part| name.strip_suffix(part)),
                        _ => Some(name),
                    };
                    assert_eq!(of, Some(family.as_str()), "{line}");
                    assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
                    assert!(
                        value.parse::<f64>().is_ok() && seen.insert(sample.to_owned()),
                        "{line}"
                    );
                }
                _ => panic!("{line}"),
            }
        }
        assert!(text.contains("vipshield_withheld_total 7\n") && text.ends_with('\n'));
    }
}
