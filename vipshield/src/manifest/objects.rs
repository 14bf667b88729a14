//! Objects of Kubernetes, as far as they are needed here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Settings;

pub(super) const NAME: &str = "vipshield";
/// Where Prometheus finds metrics if they are not on loopback.
pub(super) const METRICS_PORT: u16 = 9590;

pub(super) type Labels = BTreeMap<&'static str, &'static str>;

/// By which vipshield's pods are found.
pub(super) fn labels() -> Labels {
    Labels::from([("app.kubernetes.io/name", NAME)])
}

/// Any object.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<S> {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) automount_service_account_token: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spec: Option<S>,
}

/// A specification of which there is none.
#[derive(Clone, Debug, Serialize)]
pub(super) enum Nothing {}

impl<S> Object<S> {
    pub(super) const fn new(
        api_version: &'static str,
        kind: &'static str,
        metadata: Metadata,
    ) -> Self {
        Self { api_version, kind, metadata, automount_service_account_token: None, spec: None }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Metadata {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    pub(super) labels: Labels,
}

impl Metadata {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { name: Some(NAME), namespace: Some(settings.namespace.clone()), labels: labels() }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    pub(super) match_labels: Labels,
}

impl Selector {
    pub(super) fn own() -> Self {
        Self { match_labels: labels() }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkPolicySpec {
    pod_selector: Selector,
    policy_types: [&'static str; 2],
    ingress: Vec<IngressRule>,
    /// It asks nobody for anything.
    egress: [(); 0],
}

#[derive(Clone, Debug, Serialize)]
struct IngressRule {
    ports: Vec<Port>,
}

#[derive(Clone, Debug, Serialize)]
struct Port {
    protocol: &'static str,
    port: u16,
}

pub(super) fn network_policy(settings: &Settings) -> Object<NetworkPolicySpec> {
    let metrics = Port { protocol: "TCP", port: METRICS_PORT };
    let spec = NetworkPolicySpec {
        pod_selector: Selector::own(),
        policy_types: ["Ingress", "Egress"],
        ingress: vec![IngressRule { ports: vec![metrics] }],
        egress: [],
    };
    let metadata = Metadata::new(settings);
    Object { spec: Some(spec), ..Object::new("networking.k8s.io/v1", "NetworkPolicy", metadata) }
}
