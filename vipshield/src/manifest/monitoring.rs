//! Alerts, and how Prometheus finds vipshield's metrics, for the Prometheus operator.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Settings,
    objects::{METRICS_PORT, Metadata, NAME, Object},
};

/// Something that somebody should look at.
struct Alert {
    name: &'static str,
    expression: &'static str,
    /// For how long it has to be so.
    lasting: &'static str,
    severity: &'static str,
    summary: &'static str,
    /// What to do.
    description: &'static str,
}

const ALERTS: [Alert; 15] = [
    Alert {
        name: "VipshieldTwoOwners",
        expression: "sum by (router_id, family, vlan) (vipshield_router_owned) > 1",
        lasting: "15s",
        severity: "critical",
        summary: "More than one node owns virtual router {{ $labels.router_id }}",
        description: "Compare `vipshield status` of the nodes: whose adverts are not heard by the other?",
    },
    Alert {
        name: "VipshieldNoOwner",
        // Where keepalived is gone nothing is said of its routers any more; where vipshield is, nothing is known.
        expression: "group by (router_id, family, vlan) (last_over_time(vipshield_router_owned[1h])) unless \
                     max by (router_id, family, vlan) (vipshield_router_has_owner) > 0 and on () \
                     group(vipshield_build_info)",
        lasting: "30s",
        severity: "critical",
        summary: "No node owns virtual router {{ $labels.router_id }}",
        description: "See keepalived's log on each node, and `vipshield status` for what keeps it from being heard.",
    },
    Alert {
        name: "VipshieldAddressConflict",
        expression: "vipshield_conflicting_addresses > 0",
        lasting: "15s",
        severity: "critical",
        summary: "Somebody else answers for a VIP of {{ $labels.instance }}",
        description: "`vipshield status` names the hardware address that claims it.",
    },
    Alert {
        name: "VipshieldVipNowhere",
        expression: "vipshield_vip_wanted == 1 unless vipshield_vip_present == 1",
        lasting: "15s",
        severity: "critical",
        summary: "keepalived on {{ $labels.instance }} owns {{ $labels.address }}, and no interface has it",
        description: "Somebody took it off: `vipshield events` says when. keepalived puts it back when it is reloaded.",
    },
    Alert {
        name: "VipshieldFailOpen",
        expression: "increase(vipshield_guard_messages_total{rule=\"stale-heartbeat\"}[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "The guard on {{ $labels.instance }} let messages pass because vipshield did not come round",
        description: "It was stopped, or the node is very busy: give vipshield the capability SYS_NICE, or the node less to do.",
    },
    Alert {
        name: "VipshieldVersionSkew",
        expression: "count(count by (version) (vipshield_build_info)) > 1",
        lasting: "1h",
        severity: "warning",
        summary: "Nodes run different versions of vipshield",
        description: "An upgrade has not ended: see the DaemonSet's rollout.",
    },
    Alert {
        name: "VipshieldDegraded",
        expression: "vipshield_health{health=\"degraded\"} == 1",
        lasting: "3m",
        severity: "warning",
        summary: "keepalived on {{ $labels.instance }} is not guarded as it should be",
        description: "`vipshield status` gives the reasons, and what to do.",
    },
    Alert {
        name: "VipshieldGone",
        expression: "absent(vipshield_health)",
        lasting: "5m",
        severity: "warning",
        summary: "No vipshield is scraped",
        description: "Is the DaemonSet there, and is --metrics an address that Prometheus reaches?",
    },
    Alert {
        name: "VipshieldAway",
        expression: "count by (instance) (last_over_time(vipshield_build_info[1h])) unless count by (instance) \
                     (vipshield_build_info)",
        lasting: "5m",
        severity: "warning",
        summary: "vipshield on {{ $labels.instance }} is not scraped any more",
        description: "Nothing guards keepalived there if it does not run: see its pod, or `vipshield status`. \
                      A node that was taken out is forgotten after an hour.",
    },
    Alert {
        name: "VipshieldOverdue",
        expression: "increase(vipshield_overdue_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "keepalived on {{ $labels.instance }} believed something untrue for longer than the deadline",
        description: "`vipshield events` says what; `vipshield record` and a report of it help to mend this.",
    },
    Alert {
        name: "VipshieldStuck",
        expression: "max by (instance, nic) (vipshield_nic_phase{phase=~\"leaving|returning\"}) == 1",
        lasting: "2m",
        severity: "warning",
        summary: "{{ $labels.nic }} of {{ $labels.instance }} has been on its way for two minutes",
        description: "Kube-OVN has begun to take or give back the NIC and has not ended: see the log of kube-ovn-cni.",
    },
    Alert {
        name: "VipshieldActionsFail",
        expression: "increase(vipshield_failed_actions_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "vipshield on {{ $labels.instance }} could not do what it meant to: {{ $labels.action }}",
        description: "`vipshield events` names the action and the error.",
    },
    Alert {
        name: "VipshieldSocketUnguarded",
        expression: "sum by (instance) (vipshield_monitor_sockets{filter=~\"foreign|none|stale\"}) > 0",
        lasting: "1m",
        severity: "warning",
        summary: "keepalived on {{ $labels.instance }} has a netlink socket without the guard",
        description: "`vipshield status` says why; a filter of somebody else's is left alone.",
    },
    Alert {
        name: "VipshieldSilentOwner",
        expression: "increase(vipshield_silences_total[5m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "{{ $labels.instance }} owned a virtual router and sent no adverts",
        description: "A firewall that lets VRRP out on the NIC alone is the likely cause: accept it on the bridge too.",
    },
    Alert {
        name: "VipshieldReportsLost",
        expression: "increase(vipshield_guard_reports_lost_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "vipshield on {{ $labels.instance }} is behind its work",
        description: "The node is very busy. Give vipshield the capability SYS_NICE, or the node less to do.",
    },
];

#[derive(Clone, Debug, Serialize)]
pub(super) struct RulesSpec {
    groups: [Group; 1],
}

#[derive(Clone, Debug, Serialize)]
struct Group {
    name: &'static str,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Serialize)]
struct Rule {
    alert: &'static str,
    expr: &'static str,
    r#for: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
    annotations: BTreeMap<&'static str, &'static str>,
}

/// The alerts as Prometheus itself reads them.
pub(super) fn alerts() -> RulesSpec {
    let rule = |alert: &Alert| Rule {
        alert: alert.name,
        expr: alert.expression,
        r#for: alert.lasting,
        labels: BTreeMap::from([("severity", alert.severity)]),
        annotations: BTreeMap::from([
            ("summary", alert.summary),
            ("description", alert.description),
        ]),
    };
    RulesSpec { groups: [Group { name: NAME, rules: ALERTS.iter().map(rule).collect() }] }
}

pub(super) fn rules(settings: &Settings) -> Object<RulesSpec> {
    let metadata = Metadata::new(settings);
    Object {
        spec: Some(alerts()),
        ..Object::new("monitoring.coreos.com/v1", "PrometheusRule", metadata)
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ScrapeSpec {
    #[serde(rename = "kubernetesSDConfigs")]
    kubernetes: [Discovery; 1],
    relabelings: Vec<Relabeling>,
}

#[derive(Clone, Debug, Serialize)]
struct Discovery {
    role: &'static str,
    namespaces: Names,
}

#[derive(Clone, Debug, Serialize)]
struct Names {
    names: [String; 1],
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relabeling {
    source_labels: [&'static str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    regex: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_label: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
}

/// A pod without declared ports, which would be ports of the node, is found as such, and given its port here.
pub(super) fn scrapes(settings: &Settings) -> Object<ScrapeSpec> {
    let spec = ScrapeSpec {
        kubernetes: [Discovery {
            role: "Pod",
            namespaces: Names { names: [settings.namespace.clone()] },
        }],
        relabelings: vec![
            Relabeling {
                source_labels: ["__meta_kubernetes_pod_label_app_kubernetes_io_name"],
                regex: Some(NAME),
                action: Some("Keep"),
                ..Relabeling::default()
            },
            Relabeling {
                source_labels: ["__meta_kubernetes_pod_ip"],
                target_label: Some("__address__"),
                replacement: Some(format!("$1:{METRICS_PORT}")),
                ..Relabeling::default()
            },
            Relabeling {
                source_labels: ["__meta_kubernetes_pod_node_name"],
                target_label: Some("instance"),
                ..Relabeling::default()
            },
        ],
    };
    let metadata = Metadata::new(settings);
    let object = Object::new("monitoring.coreos.com/v1alpha1", "ScrapeConfig", metadata);
    Object { spec: Some(spec), ..object }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics;

    /// Whatever in an expression is a metric's name.
    fn metrics_in(expression: &str) -> BTreeSet<&str> {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("vipshield_")).collect()
    }

    #[test]
    fn alerts_are_on_metrics_that_exist() {
        let text = metrics::text(&metrics::sample(), metrics::Format::Plain).unwrap();
        let series: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split(['{', ' ']).next())
            .collect();
        for alert in &ALERTS {
            let named = metrics_in(alert.expression);
            assert!(!named.is_empty(), "{}", alert.name);
            for name in named {
                assert!(series.contains(name), "{}: there is no {name} in {series:?}", alert.name);
            }
        }
        assert!(!series.contains("vipshield_health_total"), "the check can fail");
    }

    #[test]
    fn alerts_are_on_labels_that_exist() {
        let text = metrics::text(&metrics::sample(), metrics::Format::Plain).unwrap();
        for alert in &ALERTS {
            for condition in
                alert.expression.split('{').skip(1).filter_map(|it| it.split('}').next())
            {
                let (label, values) = condition.split_once('=').unwrap();
                for value in values.trim_matches(['~', '"']).split('|') {
                    let wanted = format!("{label}=\"{value}\"");
                    assert!(text.contains(&wanted), "{}: {wanted}", alert.name);
                }
            }
        }
    }

    #[test]
    fn each_alert_is_in_the_operators_guide() {
        let guide = include_str!("../../../docs/OPERATIONS.md");
        for Alert { name, .. } in &ALERTS {
            assert!(guide.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn each_alert_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = ALERTS.iter().map(|alert| alert.name).collect();
        assert_eq!(names.len(), ALERTS.len());
    }
}
