//! The pod that vipshield runs in: a DaemonSet's, a static one, or keepalived's own.

use serde::Serialize;
use serde_saphyr::Commented;

use super::{
    Settings,
    objects::{METRICS_PORT, Metadata, NAME, Object, Selector, labels},
};
use crate::{bpf::BPFFS, check::NEEDED};

type Said<T> = Commented<T>;

fn said<T>(value: T, why: &str) -> Said<T> {
    Commented(value, why.to_owned())
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DaemonSetSpec {
    selector: Selector,
    update_strategy: UpdateStrategy,
    template: Template,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct UpdateStrategy {
    r#type: &'static str,
    rolling_update: RollingUpdate,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RollingUpdate {
    max_surge: Said<u8>,
    max_unavailable: u8,
}

#[derive(Clone, Debug, Serialize)]
struct Template {
    metadata: Metadata,
    spec: PodSpec,
}

/// Of a whole pod, or of a patch: what is none is left to others.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_network: Option<Said<bool>>,
    #[serde(rename = "hostPID", skip_serializing_if = "Option::is_none")]
    host_pid: Option<Said<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    share_process_namespace: Option<Said<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    automount_service_account_token: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enable_service_links: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_class_name: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<Affinity>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tolerations: Vec<Toleration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    termination_grace_period_seconds: Option<Said<u16>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<Container>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Container>,
    volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Affinity {
    node_affinity: NodeAffinity,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeAffinity {
    required_during_scheduling_ignored_during_execution: NodeTerms,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeTerms {
    node_selector_terms: [NodeTerm; 1],
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeTerm {
    match_expressions: [Toleration; 1],
}

/// A key that is there: of a label or of a taint.
#[derive(Clone, Debug, Serialize)]
struct Toleration {
    key: &'static str,
    operator: &'static str,
}

const CONTROL_PLANE: Toleration =
    Toleration { key: "node-role.kubernetes.io/control-plane", operator: "Exists" };

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: &'static str,
    image: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_policy: Option<Said<&'static str>>,
    args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<Variable>,
    security_context: SecurityContext,
    resources: Resources,
    #[serde(skip_serializing_if = "Option::is_none")]
    startup_probe: Option<Probe>,
    liveness_probe: Probe,
    #[serde(skip_serializing_if = "Option::is_none")]
    readiness_probe: Option<Probe>,
    volume_mounts: Vec<Mount>,
}

/// What the pod's own status says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Variable {
    name: &'static str,
    value_from: Source,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Source {
    field_ref: Field,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Field {
    field_path: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SecurityContext {
    run_as_user: Said<u32>,
    run_as_group: u32,
    read_only_root_filesystem: bool,
    allow_privilege_escalation: bool,
    capabilities: Capabilities,
    seccomp_profile: Typed,
    app_armor_profile: Typed,
    se_linux_options: Typed,
}

#[derive(Clone, Debug, Serialize)]
struct Capabilities {
    drop: [&'static str; 1],
    add: Vec<Said<&'static str>>,
}

#[derive(Clone, Debug, Serialize)]
struct Typed {
    r#type: Said<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
struct Resources {
    requests: Amounts,
    limits: Amounts,
}

#[derive(Clone, Debug, Serialize)]
struct Amounts {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'static str>,
    memory: Said<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    exec: Exec,
    period_seconds: u8,
    timeout_seconds: u8,
    failure_threshold: u8,
}

#[derive(Clone, Debug, Serialize)]
struct Exec {
    command: [&'static str; 3],
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    name: &'static str,
    #[serde(rename = "mountPath")]
    path: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_only: Option<bool>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_path: Option<HostPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_dir: Option<EmptyDir>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_map: Option<ConfigMap>,
}

#[derive(Clone, Debug, Serialize)]
struct ConfigMap {
    name: &'static str,
    optional: Said<bool>,
}

#[derive(Clone, Debug, Serialize)]
struct HostPath {
    path: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EmptyDir {
    medium: &'static str,
    size_limit: &'static str,
}

/// The node's own address, to a container.
const NODE_ADDRESS: &str = "NODE_ADDRESS";
/// Where the control socket is.
const RUN: &str = "/run/vipshield";
const CGROUP: &str = "/sys/fs/cgroup";
/// Where the configuration file is. All of it is mounted: the kubelet never brings a single file up to date.
const CONFIGURATION: &str = "/etc/vipshield";

/// Read by `vipshield run --instance`.
const INSTANCE: &str = "VIPSHIELD_INSTANCE";

pub(super) fn daemonset(settings: &Settings) -> Object<DaemonSetSpec> {
    let configuration = Volume {
        config_map: Some(ConfigMap {
            name: NAME,
            optional: said(true, "without it vipshield goes by its defaults"),
        }),
        ..Volume::named("configuration")
    };
    let spec = PodSpec {
        service_account_name: Some(NAME),
        priority_class_name: Some("system-node-critical"),
        affinity: Some(Affinity {
            node_affinity: NodeAffinity {
                required_during_scheduling_ignored_during_execution: NodeTerms {
                    node_selector_terms: [NodeTerm { match_expressions: [CONTROL_PLANE] }],
                },
            },
        }),
        tolerations: vec![CONTROL_PLANE],
        ..whole(settings, configuration)
    };
    let spec = DaemonSetSpec {
        selector: Selector::own(),
        update_strategy: UpdateStrategy {
            r#type: "RollingUpdate",
            rolling_update: RollingUpdate {
                max_surge: said(1, "the new one takes over from the old one, which ends then"),
                max_unavailable: 0,
            },
        },
        template: Template { metadata: unnamed(), spec },
    };
    Object { spec: Some(spec), ..Object::new("apps/v1", "DaemonSet", Metadata::new(settings)) }
}

pub(super) fn static_pod(settings: &Settings) -> Object<PodSpec> {
    let spec = PodSpec {
        priority_class_name: Some("system-node-critical"),
        ..whole(settings, configuration_of_the_node())
    };
    Object { spec: Some(spec), ..Object::new("v1", "Pod", Metadata::new(settings)) }
}

/// A patch for a pod that is somebody else's.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Patch {
    spec: PodSpec,
}

/// keepalived waits for no probe of it: a vipshield that does not start must not keep keepalived from doing so.
pub(super) fn sidecar(settings: &Settings) -> Patch {
    let container = Container {
        startup_probe: None,
        readiness_probe: None,
        restart_policy: Some(said(
            "Always",
            "makes it a sidecar: it runs for as long as the pod does",
        )),
        ..container(settings)
    };
    let spec = PodSpec {
        share_process_namespace: Some(said(true, "keepalived is looked for in the pod")),
        init_containers: vec![container],
        volumes: volumes(configuration_of_the_node()),
        ..PodSpec::default()
    };
    Patch { spec }
}

fn unnamed() -> Metadata {
    Metadata { labels: labels(), ..Metadata::default() }
}

fn whole(settings: &Settings, configuration: Volume) -> PodSpec {
    PodSpec {
        host_network: Some(said(true, "keepalived's, the node's")),
        host_pid: Some(said(true, "keepalived is looked for among the node's processes")),
        dns_policy: Some("Default"),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(said(
            30,
            "it waits 10 s for a move of the NIC to end",
        )),
        containers: vec![container(settings)],
        volumes: volumes(configuration),
        ..PodSpec::default()
    }
}

fn container(settings: &Settings) -> Container {
    let interfaces = settings.interfaces.iter().map(|name| format!("--interface={name}"));
    let metrics = settings.scrape.then(|| format!("--metrics=$({NODE_ADDRESS}):{METRICS_PORT}"));
    let address = Variable {
        name: NODE_ADDRESS,
        value_from: Source { field_ref: Field { field_path: "status.hostIP" } },
    };
    // Who has handed over, and is started again, knows by it that it is to wait.
    let instance = Variable {
        name: INSTANCE,
        value_from: Source { field_ref: Field { field_path: "metadata.uid" } },
    };
    Container {
        name: NAME,
        image: settings.image.clone(),
        restart_policy: None,
        args: std::iter::once("run".to_owned()).chain(interfaces).chain(metrics).collect(),
        env: [instance].into_iter().chain(settings.scrape.then_some(address)).collect(),
        security_context: security_context(),
        resources: Resources {
            requests: Amounts {
                cpu: Some("10m"),
                memory: said("48Mi", "what it takes on a node with a few NICs"),
            },
            limits: Amounts {
                cpu: None,
                memory: said("128Mi", "and no limit of CPU: withheld truths wait for a turn"),
            },
        },
        startup_probe: Some(probe(1, 30)),
        liveness_probe: probe(15, 4),
        readiness_probe: Some(probe(10, 3)),
        volume_mounts: vec![
            Mount { name: "run", path: RUN, read_only: None },
            Mount { name: "bpffs", path: BPFFS, read_only: None },
            Mount { name: "cgroup", path: CGROUP, read_only: Some(true) },
            Mount { name: "configuration", path: CONFIGURATION, read_only: Some(true) },
        ],
    }
}

fn security_context() -> SecurityContext {
    let typed = |kind, why| Typed { r#type: said(kind, why) };
    SecurityContext {
        run_as_user: said(0, "capabilities of another user are lost at exec"),
        run_as_group: 0,
        read_only_root_filesystem: true,
        allow_privilege_escalation: false,
        capabilities: Capabilities {
            drop: ["ALL"],
            add: NEEDED.iter().map(|(_, name, purpose)| said(*name, purpose)).collect(),
        },
        seccomp_profile: typed(
            "RuntimeDefault",
            "has to let bpf in with CAP_BPF; an older runtime's asks for SYS_ADMIN: Unconfined there",
        ),
        app_armor_profile: typed(
            "Unconfined",
            "runtimes' profiles refuse to look into processes outside of them",
        ),
        se_linux_options: typed(
            "spc_t",
            "container_t may neither load eBPF nor look into the node's processes",
        ),
    }
}

/// Whether vipshield answers, not how keepalived is: a node without one must not stop a rollout.
const fn probe(period_seconds: u8, failure_threshold: u8) -> Probe {
    let exec = Exec { command: ["vipshield", "status", "--answers"] };
    // The client itself gives up after 5 s.
    Probe { exec, period_seconds, timeout_seconds: 6, failure_threshold }
}

impl Volume {
    const fn named(name: &'static str) -> Self {
        Self { name, host_path: None, empty_dir: None, config_map: None }
    }

    fn of_the_node(name: &'static str, path: &'static str, r#type: &'static str) -> Self {
        Self { host_path: Some(HostPath { path, r#type }), ..Self::named(name) }
    }
}

/// A static pod may refer to no `ConfigMap`, and the pod that a sidecar joins may be one.
fn configuration_of_the_node() -> Volume {
    Volume::of_the_node("configuration", CONFIGURATION, "DirectoryOrCreate")
}

fn volumes(configuration: Volume) -> Vec<Volume> {
    let run = EmptyDir { medium: "Memory", size_limit: "1Mi" };
    vec![
        Volume { empty_dir: Some(run), ..Volume::named("run") },
        Volume::of_the_node("bpffs", BPFFS, "Directory"),
        Volume::of_the_node("cgroup", CGROUP, "Directory"),
        configuration,
    ]
}
