//! One measured run: a lab, a sequence, and what the witnesses say of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::background::Background;
use crate::clock;
use crate::config::{DatapathKind, LabConfig, Taken};
use crate::enslaver::Enslaver;
use crate::further::VipSeen;
use crate::lab::Lab;
use crate::objects;
use crate::peers::Peer;
use crate::sequence::{Hooks, Replay, Sequence, Undisturbed};
use crate::stack::Stack;
use crate::witness::arp::ArpReport;
use crate::witness::probe::ProbeReport;
use crate::witness::tcp::TcpReport;
use crate::witness::timeline::Window;
pub use crate::witnesses::{Observed, TransitionSeen, Witnesses, transitions};

/// What the first node, whose NIC is taken, is to VRRP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It owns the VIP.
    Master,
    /// The second node owns it.
    Backup,
}

impl Role {
    /// The state keepalived calls it by.
    #[must_use]
    pub fn state(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Master => Self::Backup,
            Self::Backup => Self::Master,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Master => "master",
            Self::Backup => "backup",
        })
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// What takes the NIC.
    pub datapath: DatapathKind,
    /// How.
    pub sequence: Sequence,
    /// The first node's role.
    pub role: Role,
    /// The families of its addresses.
    pub stack: Stack,
    /// Whose NIC is taken: of all, the first owns the VIP, and there are three.
    pub nodes: Taken,
    /// The program that is Kube-OVN's own daemon, if that takes the NIC.
    pub kube_ovn: Option<PathBuf>,
    /// What else is done about it.
    pub peer: Peer,
    /// vipshield's program, where it is to guard the nodes whose NIC is taken.
    pub shield: Option<PathBuf>,
    /// How long the window goes on after the last step.
    pub settle: Duration,
    /// Whether what is left is compared with what is left without vipshield.
    pub compare: bool,
    /// Where logs are copied.
    pub logs: Option<PathBuf>,
}

impl RunSpec {
    /// An undisturbed run with the window of the design.
    #[must_use]
    pub fn new(datapath: DatapathKind, sequence: Sequence, role: Role) -> Self {
        let (stack, nodes, settle) = (Stack::Ipv4, Taken::One, Duration::from_secs(5));
        let (kube_ovn, shield, compare, logs) = (None, None, false, None);
        let peer = Peer::Nothing;
        Self {
            datapath,
            sequence,
            role,
            stack,
            nodes,
            kube_ovn,
            peer,
            shield,
            settle,
            compare,
            logs,
        }
    }

    fn config(&self) -> LabConfig {
        let mut config = match self.nodes {
            Taken::One => LabConfig::stacked(self.datapath, self.stack),
            Taken::All => LabConfig::cluster(self.datapath),
        };
        config.kube_ovn.clone_from(&self.kube_ovn);
        self.peer.configure(&mut config);
        if self.role == Role::Backup {
            config.owner_is_second();
        }
        config
    }
}

/// A step of the sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepSeen {
    /// Milliseconds after the window began.
    pub at_ms: f64,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// What it did.
    pub name: String,
}

/// The result of one run. What was not measured is null, never 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The kernel's release.
    pub kernel: String,
    /// keepalived's version.
    pub keepalived: String,
    /// What took the NIC.
    pub datapath: DatapathKind,
    /// Whose hand it was in.
    pub enslaver: Enslaver,
    /// How.
    pub sequence: Sequence,
    /// The first node's role when the window began.
    pub role: Role,
    /// The families of its addresses.
    pub stack: Stack,
    /// Whose NIC was taken.
    pub nodes: Taken,
    /// Whether vipshield guarded those.
    pub shield: bool,
    /// From the first step to the last on all nodes, in milliseconds.
    pub sequence_ms: f64,
    /// How long the first node's NIC was down or without carrier within the window, in milliseconds.
    pub nic_down_ms: Option<f64>,
    /// How long the switch's port was, on the other end of its cable.
    pub wire_down_ms: Option<f64>,
    /// State changes of all instances on all nodes within the window.
    pub vrrp_transitions: Option<usize>,
    /// The most nodes that had the VIP configured at one time.
    pub owners_max: Option<usize>,
    /// How long two nodes had it, in milliseconds.
    pub owners_overlap_ms: Option<f64>,
    /// The probe of the VIP.
    pub probe: Option<ProbeReport>,
    /// The connection to the VIP.
    pub tcp: Option<TcpReport>,
    /// Messages that vipshield withheld from keepalived.
    pub withheld: Option<u64>,
    /// Messages that it released.
    pub released: Option<u64>,
    /// For how long vipshield's loop was away at the longest while a NIC was taken or given back, in milliseconds:
    /// in the sequence and what was replayed before it.
    pub loop_absence_ms: Option<f64>,
    /// The same, less the time in which other programs had its processor.
    pub loop_absence_own_ms: Option<f64>,
    /// The probe of the VIP in a window of the same length before: what the
    /// machine does to it on its own.
    pub idle: Option<ProbeReport>,
    /// The probe of the first node's own address.
    pub node_probe: Option<ProbeReport>,
    /// Who answered for the VIP on the wire.
    pub arp: Option<ArpReport>,
    /// The other VIPs.
    pub further: Vec<VipSeen>,
    /// The state changes.
    pub transitions: Vec<TransitionSeen>,
    /// The steps.
    pub steps: Vec<StepSeen>,
    /// How often the sequence was begun: Kube-OVN retries one that fails.
    pub attempts: u32,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Start keepalived on all nodes, the owner's first: had they to elect one, a waiting node that is
/// early could be owner for a moment after all seems settled. Wait until the first has `role` and the
/// other nodes theirs.
///
/// # Errors
/// When they do not get there within 15 s (stretched).
pub async fn elect(lab: &mut Lab, role: Role) -> Result<()> {
    let owner = usize::from(role == Role::Backup);
    lab.start_keepalived(owner)?;
    has_role(lab, owner, Role::Master).await?;
    for number in (0..lab.nodes.len()).filter(|number| *number != owner) {
        lab.start_keepalived(number)?;
    }
    settled(lab, role).await
}

/// Wait until every node has the role that belongs to `role` of the first.
///
/// # Errors
/// When they do not within 15 s (stretched).
pub async fn settled(lab: &Lab, role: Role) -> Result<()> {
    for (number, role) in roles(lab, role) {
        has_role(lab, number, role).await?;
    }
    Ok(())
}

/// The roles of all nodes when the first has this one: the owner is the first or the second.
fn roles(lab: &Lab, role: Role) -> impl Iterator<Item = (usize, Role)> + use<> {
    let owner = usize::from(role == Role::Backup);
    (0..lab.nodes.len()).map(move |n| (n, if n == owner { Role::Master } else { Role::Backup }))
}

/// Wait until all instances of a node are in this role.
async fn has_role(lab: &Lab, number: usize, role: Role) -> Result<()> {
    let node = lab.node(number)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    for instance in &lab.config.instances {
        keepalived
            .wait_for(&instance.name, role.state(), Duration::from_secs(15))
            .await
            .with_context(|| format!("{} is not {role}", node.config.name))?;
    }
    Ok(())
}

/// The lab of a run is elected, shielded, and the sequence's prerequisite done. Notes say what could not be had.
async fn prepare(spec: &RunSpec, lab: &mut Lab, notes: &mut Vec<String>) -> Result<()> {
    elect(lab, spec.role).await?;
    if let Some(program) = &spec.shield {
        for number in taken(lab) {
            lab.start_vipshield(number, program).await?;
        }
    }
    if let Some(first) = spec.sequence.prerequisite() {
        let taken = async {
            take(first, lab, notes).await?;
            clock::pass(spec.settle).await;
            anyhow::Ok(())
        };
        spec.peer.beside(lab, taken).await?;
        if settled_now(lab, spec.role) {
            return Ok(());
        }
        if spec.shield.is_some() {
            bail!("{first} already cost node1 its role");
        }
        // Without a shield the first sequence breaks keepalived for good, and a
        // restart does not help: its interface has no address any more.
        notes.push(format!("node1 had lost its role to {first} when {} began", spec.sequence));
    }
    Ok(())
}

fn settled_now(lab: &Lab, role: Role) -> bool {
    roles(lab, role).all(|(number, wanted)| {
        let keepalived = lab.nodes.get(number).and_then(|node| node.keepalived.as_ref());
        lab.config.instances.iter().all(|instance| {
            keepalived
                .and_then(|keepalived| keepalived.state(&instance.name))
                .is_some_and(|state| state == wanted.state())
        })
    })
}

/// The nodes whose NIC is taken.
pub(crate) fn taken(lab: &Lab) -> std::ops::Range<usize> {
    match lab.config.taken {
        Taken::One => 0..1,
        Taken::All => 0..lab.nodes.len(),
    }
}

/// Replay a sequence at the same time on every node whose NIC is taken. Returns the first node's
/// replay, with how often it was begun, and when the last node's ended.
async fn take(
    sequence: Sequence,
    lab: &Lab,
    notes: &mut Vec<String>,
) -> Result<((Replay, u32), Instant)> {
    let replays = taken(lab).map(async |number| {
        let mut notes = Vec::new();
        let done = insist(sequence, lab, number, &mut Undisturbed, &mut notes).await?;
        anyhow::Ok((done, notes))
    });
    let mut first = None;
    let mut ended = clock::now();
    for (number, done) in join_all(replays).await.into_iter().enumerate() {
        let ((replay, attempts), said) = done?;
        notes.extend(said.into_iter().map(|note| match lab.config.taken {
            Taken::One => note,
            Taken::All => format!("node{}: {note}", number + 1),
        }));
        ended = ended.max(replay.ended);
        first.get_or_insert((replay, attempts));
    }
    Ok((first.context("the lab has no node")?, ended))
}

/// Replay a sequence on a node as Kube-OVN's controller does: when a step fails, begin
/// again a second later.
pub(crate) async fn insist(
    sequence: Sequence,
    lab: &Lab,
    node: usize,
    hooks: &mut dyn Hooks,
    notes: &mut Vec<String>,
) -> Result<(Replay, u32)> {
    let mut attempts = 1;
    let mut replay = sequence.run_at(lab, node, hooks).await;
    // Kube-OVN's own daemon begins anew by itself.
    let own = lab.node(node)?.kube_ovn.is_some();
    while let Err(error) = &replay.outcome {
        notes.push(format!("{sequence} failed: {error:#}"));
        if own || attempts == 3 {
            bail!("{sequence} failed {attempts} times: {error:#}");
        }
        attempts += 1;
        clock::pass(Duration::from_secs(1)).await;
        let again = sequence.run_at(lab, node, hooks).await;
        replay.ended = again.ended;
        replay.steps.extend(again.steps);
        replay.outcome = again.outcome;
    }
    notes.extend(replay.retries.iter().map(|why| format!("{sequence} was begun anew: {why}")));
    attempts += replay.retries.len() as u32;
    Ok((replay, attempts))
}

/// Run a sequence once, in a lab of its own, and measure.
///
/// # Errors
/// When the lab cannot be built, or the sequence cannot be finished. That
/// keepalived suffers is no error but a result.
pub async fn run(spec: &RunSpec) -> Result<RunResult> {
    let mut notes = Vec::new();
    let mut lab = Lab::build(spec.config()).await?;
    let background = Background::start(&lab);
    let outcome = async {
        prepare(spec, &mut lab, &mut notes).await?;
        measure(spec, &mut lab, &mut notes).await
    };
    let outcome = outcome.await;
    background.stop().await;
    if let Some(logs) = &spec.logs {
        lab.save_logs(logs)?;
    }
    let mut result = outcome?;
    result.notes = notes;
    if let Some(logs) = &spec.logs {
        let text = serde_json::to_string_pretty(&result).context("result")?;
        std::fs::write(logs.join("result.json"), text).context("cannot write result.json")?;
    }
    Ok(result)
}

/// As [`run`], but without a shield again, up to five times, when keepalived
/// was faster than Kube-OVN: between two of its steps it can give the VIP up
/// by itself, so that the next step fails and the run shows a retry instead of
/// the sequence. A note says so.
///
/// # Errors
/// As [`run`].
pub async fn run_undivided(spec: &RunSpec) -> Result<RunResult> {
    let mut discarded = 0;
    loop {
        let mut result = run(spec).await?;
        if result.shield || result.attempts == 1 || discarded == 4 {
            if discarded > 0 {
                result.notes.push(format!(
                    "run again {discarded} times: keepalived had given the VIP up before \
                     Kube-OVN could move it"
                ));
            }
            return Ok(result);
        }
        discarded += 1;
    }
}

async fn measure(spec: &RunSpec, lab: &mut Lab, notes: &mut Vec<String>) -> Result<RunResult> {
    let mut witnesses = Witnesses::start(lab).await?;
    let before = counters(lab).await?;
    let idle_from = clock::now();
    clock::pass(spec.settle).await;

    let from = clock::now();
    let taken = async {
        let taken = take(spec.sequence, lab, notes).await?;
        clock::pass((taken.1 + spec.settle).saturating_duration_since(clock::now())).await;
        anyhow::Ok(taken)
    };
    let ((replay, attempts), ended) = spec.peer.beside(lab, taken).await?;
    let window = Window { from, to: clock::now() };
    witnesses.finish().await;

    let after = counters(lab).await?;
    let absence = absence_of(lab, "in_transition_us").await?;
    let own_absence = absence_of(lab, "own_in_transition_us").await?;
    let seen = witnesses.observe(lab, window);
    if witnesses.blind_spots() > 0 {
        notes.push("the address monitor lost events".to_owned());
    }
    end(spec, lab).await?;
    let since = |at: Instant| clock::millis(at.saturating_duration_since(from));
    let steps = replay.steps.iter().map(|step| StepSeen {
        at_ms: since(step.began),
        took_ms: clock::millis(step.done.saturating_duration_since(step.began)),
        name: step.step.name.clone(),
    });
    let counted = |pick: fn(&(u64, u64)) -> u64| {
        Some(pick(after.as_ref()?).saturating_sub(pick(before.as_ref()?)))
    };
    Ok(RunResult {
        kernel: kernel()?,
        keepalived: lab.config.keepalived.version()?,
        datapath: spec.datapath,
        enslaver: if spec.kube_ovn.is_some() { Enslaver::KubeOvn } else { Enslaver::Replay },
        sequence: spec.sequence,
        role: spec.role,
        stack: spec.stack,
        nodes: spec.nodes,
        shield: spec.shield.is_some(),
        sequence_ms: clock::millis(ended.saturating_duration_since(replay.started)),
        nic_down_ms: Some(seen.nic_down_ms),
        wire_down_ms: Some(seen.wire_down_ms),
        vrrp_transitions: Some(seen.transitions.len()),
        owners_max: Some(seen.owners_max),
        owners_overlap_ms: Some(seen.owners_overlap_ms),
        probe: Some(seen.probe),
        tcp: seen.tcp,
        withheld: counted(|(withheld, _)| *withheld),
        released: counted(|(_, released)| *released),
        loop_absence_ms: absence,
        loop_absence_own_ms: own_absence,
        idle: Some(witnesses.probe().report(Window { from: idle_from, to: from })),
        node_probe: Some(seen.node_probe),
        arp: seen.arp,
        further: witnesses.further(idle_from, window),
        transitions: seen.transitions,
        steps: steps.collect(),
        attempts,
        notes: Vec::new(),
    })
}

/// End vipshield, where it runs. What is left is looked at before and after, if the run is to be
/// compared.
async fn end(spec: &RunSpec, lab: &mut Lab) -> Result<()> {
    for node in lab.nodes.iter_mut().skip(1) {
        if let Some(vipshield) = node.vipshield.take() {
            vipshield.stop().await?;
        }
    }
    if lab.node(0)?.vipshield.is_none() {
        return Ok(());
    }
    let mut row: Vec<Sequence> = spec.sequence.prerequisite().into_iter().collect();
    row.push(spec.sequence);
    let expected = if spec.compare {
        objects::reference(&lab.config, &row).await?.last().cloned()
    } else {
        None
    };
    if let Some(expected) = &expected {
        objects::released(lab, expected).await?;
    }
    let vipshield = lab.node_mut(0)?.vipshield.take().context("vipshield does not run")?;
    let bpf = vipshield.bpf_objects()?;
    vipshield.stop().await?;
    if let Some(expected) = &expected {
        let vips: Vec<String> = lab.config.vips().map(|vip| vip.to_string()).collect();
        objects::gone(lab, expected, &vips, &bpf).await?;
    }
    Ok(())
}

/// The longest absence of a loop within a transition, in milliseconds.
async fn absence_of(lab: &Lab, which: &str) -> Result<Option<f64>> {
    let mut longest = None;
    for vipshield in lab.nodes.iter().filter_map(|node| node.vipshield.as_ref()) {
        let status = vipshield.status().await?;
        let us = status.pointer(&format!("/absence/{which}")).and_then(serde_json::Value::as_u64);
        let ms = us.context("status does not say how long the loop was away")? as f64 / 1e3;
        longest = Some(longest.map_or(ms, |longest: f64| longest.max(ms)));
    }
    Ok(longest)
}

async fn counters(lab: &Lab) -> Result<Option<(u64, u64)>> {
    let mut counted = None;
    for vipshield in lab.nodes.iter().filter_map(|node| node.vipshield.as_ref()) {
        let (withheld, released) = counted.unwrap_or_default();
        let more = (vipshield.counter("withheld").await?, vipshield.counter("released").await?);
        counted = Some((withheld + more.0, released + more.1));
    }
    Ok(counted)
}

/// The running kernel's release.
///
/// # Errors
/// Without `/proc`.
pub fn kernel() -> Result<String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    Ok(release.trim().to_owned())
}
