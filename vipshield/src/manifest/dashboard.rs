//! A dashboard for Grafana.

/// As Grafana imports it.
pub(super) const DASHBOARD: &str = include_str!("../../../packaging/grafana/vipshield.json");

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::metrics;

    /// Labels that Prometheus gives to what it scrapes.
    const TARGET: [&str; 2] = ["instance", "job"];

    /// The samples there are: their labels, with their values, by their name.
    fn samples() -> BTreeMap<String, BTreeSet<(String, String)>> {
        let text = metrics::text(&metrics::sample(), metrics::Format::Plain).unwrap();
        let mut samples: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
            let labels = rest.strip_prefix('{').and_then(|it| it.split('}').next()).unwrap_or("");
            samples.entry(name.to_owned()).or_default().extend(pairs(labels, "="));
        }
        samples
    }

    fn pairs(text: &str, sign: &str) -> Vec<(String, String)> {
        let pair = |it: &str| {
            let (label, value) = it.trim().split_once(sign)?;
            Some((label.to_owned(), value.trim_matches('"').to_owned()))
        };
        text.split(',').filter_map(pair).collect()
    }

    /// What is wrong with an expression and the legend of what it gives.
    fn wrong(expression: &str, legend: &str) -> Vec<String> {
        let samples = samples();
        let mut wrong = Vec::new();
        let mut known = BTreeSet::from(TARGET);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let prefixes = ["vipshield_", "process_"];
        let starts = prefixes.iter().flat_map(|prefix| expression.match_indices(prefix));
        for (start, _) in starts {
            let rest = &expression[start..];
            let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
            let Some(labels) = samples.get(name) else {
                wrong.push(format!("there is no {name}"));
                continue;
            };
            known.extend(labels.iter().map(|(label, _)| label.as_str()));
            let conditions =
                rest[name.len()..].strip_prefix('{').map_or("", |it| it.split('}').next().unwrap());
            for (label, value) in pairs(&conditions.replace("=~", "="), "=") {
                let has = |value: &str| labels.contains(&(label.clone(), value.to_owned()));
                if !TARGET.contains(&label.as_str()) && !value.split('|').all(has) {
                    wrong.push(format!("{name} has no {label}={value}"));
                }
            }
        }
        if !prefixes.iter().any(|prefix| expression.contains(prefix)) {
            wrong.push("no metric of vipshield's".to_owned());
        }
        let grouped = ["by (", "on ("].iter().flat_map(|word| expression.split(word).skip(1));
        let grouped = grouped.flat_map(|it| it.split(')').next().unwrap().split(','));
        let named = legend.split("{{").skip(1).map(|it| it.split("}}").next().unwrap());
        let unknown = grouped.chain(named).map(str::trim).filter(|label| !known.contains(label));
        wrong.extend(unknown.map(|label| format!("there is no label {label}")));
        wrong
    }

    fn text<'a>(value: &'a Value, key: &str) -> &'a str {
        value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
    }

    #[test]
    fn it_shows_what_there_is() {
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let title = text(panel, "title");
            if text(panel, "type") == "row" {
                continue;
            }
            assert!(!text(panel, "description").is_empty(), "{title}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{title}");
            for target in targets {
                let wrong = wrong(text(target, "expr"), text(target, "legendFormat"));
                assert!(wrong.is_empty(), "{title}: {wrong:?}");
            }
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let query = text(&variables[1], "query");
        let metric = query.trim_start_matches("label_values(").split(',').next().unwrap();
        assert!(samples().contains_key(metric), "{query}");
    }

    #[test]
    fn what_there_is_not_is_found() {
        for (expression, legend) in [
            ("sum(vipshield_healthy)", ""),
            ("vipshield_health{healt=\"idle\"}", ""),
            ("vipshield_health{health=\"well\"}", ""),
            ("vipshield_monitor_sockets{filter=~\"foreign|nothing\"}", ""),
            ("sum by (nod) (vipshield_health)", ""),
            ("vipshield_health", "{{node}}"),
            ("up", ""),
        ] {
            assert!(!wrong(expression, legend).is_empty(), "{expression} {legend}");
        }
        let right = "sum by (instance, health) (vipshield_health{health=~\"idle|degraded\"})";
        assert_eq!(wrong(right, "{{health}} {{instance}}"), [""; 0]);
    }

    /// What the operator is to see, whatever the panels are called.
    #[test]
    fn it_leaves_nothing_out() {
        for metric in [
            "vipshield_health{",
            "vipshield_nic_phase{",
            "vipshield_router_owned{",
            "vipshield_vip_wanted{",
            "vipshield_vip_present{",
            "vipshield_transition_duration_seconds_count{",
            "vipshield_transition_duration_seconds_bucket{",
            "vipshield_guard_messages_total{",
            "rule=\\\"stale-heartbeat\\\"",
            "vipshield_failed_actions_total{",
            "vipshield_loop_absence_max_seconds{",
            "vipshield_router_last_advert_age_seconds{",
        ] {
            assert!(DASHBOARD.contains(metric), "{metric}");
        }
    }
}
