//! `vipshield manifest`: what Kubernetes needs to run vipshield, from one source.
//!
//! `packaging` has what these print without options; a test keeps it so.

mod dashboard;
mod monitoring;
mod objects;
mod pod;

use clap::ValueEnum;
use serde::Serialize;
use serde_saphyr::{SerializeError, ser_options, to_string_with_options};
use thiserror::Error;

use self::objects::{Metadata, Object};

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A DaemonSet for the nodes of the control plane, and its ServiceAccount
    Daemonset,
    /// A pod for /etc/kubernetes/manifests, beside keepalived's
    StaticPod,
    /// A patch for keepalived's own pod: vipshield within it, without the host's PID namespace
    Sidecar,
    /// The ServiceAccount, which may do nothing
    Rbac,
    /// A NetworkPolicy for those network plugins that apply it to pods in the host's network
    Networkpolicy,
    /// Alerts and a scrape configuration for the Prometheus operator
    Monitoring,
    /// The same alerts as a rule file for Prometheus itself
    Alerts,
    /// A dashboard for Grafana, as JSON
    Dashboard,
}

/// What differs from cluster to cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the objects.
    pub namespace: String,
    /// Image of vipshield.
    pub image: String,
    /// The NICs to guard; none: those that keepalived uses.
    pub interfaces: Vec<String>,
    /// Metrics are served at the node's address, for Prometheus to reach them.
    pub scrape: bool,
}

/// It could not be written as YAML.
#[derive(Debug, Error)]
#[error("writing YAML: {0}")]
pub struct ManifestError(#[from] SerializeError);

/// The objects as YAML, with comments.
pub fn yaml(kind: Kind, settings: &Settings) -> Result<String, ManifestError> {
    match kind {
        Kind::Daemonset => {
            documents(&[about(kind), &text(&account(settings))?, &text(&pod::daemonset(settings))?])
        }
        Kind::StaticPod => documents(&[about(kind), &text(&pod::static_pod(settings))?]),
        Kind::Sidecar => documents(&[about(kind), &text(&pod::sidecar(settings))?]),
        Kind::Rbac => documents(&[about(kind), &text(&account(settings))?]),
        Kind::Networkpolicy => {
            documents(&[about(kind), &text(&objects::network_policy(settings))?])
        }
        Kind::Monitoring => documents(&[
            about(kind),
            &text(&monitoring::rules(settings))?,
            &text(&monitoring::scrapes(settings))?,
        ]),
        Kind::Alerts => documents(&[about(kind), &text(&monitoring::alerts())?]),
        Kind::Dashboard => documents(&[about(kind), dashboard::DASHBOARD]),
    }
}

/// What is said before the objects, as comments.
const fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::Daemonset => {
            "# vipshield beside keepalived on each node of the control plane.\n\
             # `kubectl exec -n NAMESPACE POD -- vipshield check` tells what stands in its way.\n\
             # A configuration file: `kubectl create configmap -n NAMESPACE vipshield --from-file=vipshield.toml`.\n"
        }
        Kind::StaticPod => {
            "# For /etc/kubernetes/manifests of each node that keepalived runs on. A configuration file is the node's\n\
             # own: /etc/vipshield/vipshield.toml.\n"
        }
        Kind::Sidecar => {
            "# A strategic merge patch for keepalived's own pod: Kubernetes 1.29 or later, which starts such a\n\
             # container before keepalived and stops it after. keepalived's pod has hostNetwork: true already. A\n\
             # configuration file is the node's own: /etc/vipshield/vipshield.toml.\n"
        }
        Kind::Rbac => {
            "# vipshield asks the API server for nothing: the account has no role and no token.\n"
        }
        Kind::Networkpolicy => {
            "# Most network plugins apply no policy to pods in the host's network: then this changes nothing.\n"
        }
        Kind::Monitoring => {
            "# For the Prometheus operator. Metrics are on loopback unless told otherwise: print the pod with --scrape,\n\
             # and vipshield serves them at its node's address.\n"
        }
        Kind::Alerts => "# For `rule_files` of Prometheus' own configuration.\n",
        // It is JSON.
        Kind::Dashboard => "",
    }
}

fn account(settings: &Settings) -> Object<objects::Nothing> {
    Object {
        automount_service_account_token: Some(false),
        ..Object::new("v1", "ServiceAccount", Metadata::new(settings))
    }
}

fn text(value: &impl Serialize) -> Result<String, ManifestError> {
    let options = ser_options! { prefer_block_scalars: false, compact_list_indent: true };
    Ok(to_string_with_options(value, options)?)
}

/// Comments, then documents with a line between them.
#[expect(clippy::unnecessary_wraps, reason = "reads well at the place of use")]
fn documents(parts: &[&str]) -> Result<String, ManifestError> {
    let (about, objects) = parts.split_first().unwrap_or((&"", &[]));
    Ok(format!("{about}{}", objects.join("---\n")))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn settings() -> Settings {
        Settings {
            namespace: "kube-system".to_owned(),
            image: concat!("vipshield:", env!("CARGO_PKG_VERSION")).to_owned(),
            interfaces: Vec::new(),
            scrape: false,
        }
    }

    /// What differs from cluster to cluster, as `packaging/helm/expected/values.yaml` says it.
    fn other_settings() -> Settings {
        Settings {
            namespace: "edge".to_owned(),
            image: "registry.example/vipshield:9".to_owned(),
            interfaces: vec!["ens192".to_owned(), "ens224".to_owned()],
            scrape: true,
        }
    }

    /// `VIPSHIELD_WRITE_GOLDEN=1 cargo test` writes them.
    #[test]
    fn packaging_has_what_is_printed() {
        for kind in Kind::value_variants() {
            let name = kind.to_possible_value().unwrap().get_name().to_owned();
            let path = match kind {
                Kind::Dashboard => "grafana/vipshield.json".to_owned(),
                Kind::Alerts => format!("prometheus/{name}.yaml"),
                _ => format!("kubernetes/{name}.yaml"),
            };
            packaging_has(&path, &yaml(*kind, &settings()).unwrap());
        }
    }

    /// `cargo xtask lint` holds what Helm makes of the chart against these.
    #[test]
    fn the_chart_is_held_against_what_is_printed() {
        let alerts = yaml(Kind::Alerts, &settings()).unwrap();
        packaging_has("helm/vipshield/files/alerts.yaml", &alerts);
        for kind in [Kind::Daemonset, Kind::Monitoring] {
            let name = kind.to_possible_value().unwrap().get_name().to_owned();
            let printed = yaml(kind, &other_settings()).unwrap();
            packaging_has(&format!("helm/expected/{name}.yaml"), &printed);
        }
        let chart = include_str!("../../../packaging/helm/vipshield/Chart.yaml");
        for key in ["version", "appVersion"] {
            let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
            assert!(chart.lines().any(|it| it == line), "{line} in {chart}");
        }
    }

    fn packaging_has(path: &str, printed: &str) {
        let packaging = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging"));
        let path = packaging.join(path);
        if std::env::var_os("VIPSHIELD_WRITE_GOLDEN").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, printed).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, printed, "{} is not what `vipshield manifest` prints", path.display());
    }

    #[test]
    fn a_configuration_file_is_where_vipshield_reads_it() {
        let (directory, _) = crate::config::DEFAULT.rsplit_once('/').unwrap();
        for kind in [Kind::Daemonset, Kind::StaticPod, Kind::Sidecar] {
            let printed = yaml(kind, &settings()).unwrap();
            let mounted = format!("mountPath: {directory}\n");
            assert!(printed.contains(&mounted) && !printed.contains("subPath"), "{printed}");
            // Static pods may refer to no other object.
            assert_eq!(printed.contains("configMap:"), kind == Kind::Daemonset, "{kind:?}");
        }
    }

    #[test]
    fn exactly_five_capabilities_are_asked_for_and_each_says_why() {
        for kind in [Kind::Daemonset, Kind::StaticPod, Kind::Sidecar] {
            let printed = yaml(kind, &settings()).unwrap();
            let added: Vec<&str> = printed
                .lines()
                .map(str::trim)
                .skip_while(|line| *line != "add:")
                .skip(1)
                .take_while(|line| line.starts_with("- "))
                .collect();
            let names: Vec<&str> =
                added.iter().filter_map(|line| line[2..].split_whitespace().next()).collect();
            assert_eq!(names, ["BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_PTRACE"]);
            assert!(added.iter().all(|line| line.contains(" # ")), "{added:?}");
            assert!(printed.contains("drop:\n") && printed.contains("- ALL\n"));
            assert!(!printed.contains("privileged: true") && !printed.contains("containerPort"));
        }
    }

    #[test]
    fn only_the_sidecar_does_without_the_host_s_processes() {
        for (kind, host) in
            [(Kind::Daemonset, true), (Kind::StaticPod, true), (Kind::Sidecar, false)]
        {
            let printed = yaml(kind, &settings()).unwrap();
            assert_eq!(printed.contains("hostPID: true"), host, "{kind:?}");
            assert_eq!(printed.contains("shareProcessNamespace: true"), !host, "{kind:?}");
        }
    }

    #[test]
    fn settings_are_where_they_belong() {
        let settings = other_settings();
        for kind in [Kind::Daemonset, Kind::StaticPod, Kind::Sidecar] {
            let printed = yaml(kind, &settings).unwrap();
            for line in [
                "image: registry.example/vipshield:9",
                "- --interface=ens192",
                "- --metrics=$(NODE_ADDRESS):9590",
                "fieldPath: status.hostIP",
            ] {
                assert!(printed.lines().any(|it| it.trim() == line), "{line} in {printed}");
            }
        }
        let no_objects = [Kind::Sidecar, Kind::Alerts, Kind::Dashboard];
        for kind in Kind::value_variants().iter().filter(|kind| !no_objects.contains(kind)) {
            let printed = yaml(*kind, &settings).unwrap();
            assert!(printed.contains("namespace: edge\n"), "{printed}");
            assert!(!printed.contains("namespace: kube-system"), "{printed}");
        }
    }
}
