//! What a node's network consists of: every link, address, route, rule, queueing discipline and
//! setting, as lines of text that can be compared one by one.
//!
//! ip(8) and tc(8) say what there is, so that neither vipshield's code nor the lab's own can make a
//! mistake on both sides.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;

use crate::bpf::BpfObjects;
use crate::clock;
use crate::config::LabConfig;
use crate::lab::{Host, Lab, Node};
use crate::process::Program;
use crate::sequence::{Before, Sequence, StepKind, Undisturbed, Verdict};
use crate::sockets::{Filter, Sockets};

/// How long what is left of a transition may take to go: for ten seconds after a bridge appeared, or a daemon
/// that may start, vipshield stays prepared for it.
pub(crate) const RELEASE: Duration = Duration::from_secs(12);
/// Any process of the machine may give such a sign. How long to wait for the last one.
const SIGNS: Duration = Duration::from_mins(1);
/// How long it may take to go once nobody keeps it: IPv6 addresses are checked for duplicates.
const END: Duration = Duration::from_secs(8);
/// How vipshield's documentation says that its objects can be told: protocol number of routes and
/// rules, number of its table, its addresses.
pub(crate) const MARKS: [&str; 5] =
    ["proto 118", "table 5252", "169.254.52.52", "169.254.52.53", "169.254.52.54"];
/// Where its TC programs are as long as it runs, on kernels without tcx (before Linux 6.6).
pub(crate) const CLSACT: &str = "clsact";

/// The objects of one node, each with how often it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects(BTreeMap<String, usize>);

impl Objects {
    /// Everything that `host` has now. `token` marks the processes that look.
    ///
    /// # Errors
    /// When ip(8) or tc(8) is missing or fails.
    pub async fn of(host: &Host, token: &str) -> Result<Self> {
        let ask = async |program: &str, arguments: &str| {
            let program = Program::new(program, program, token).args(arguments.split(' '));
            program.inside(&host.namespace).succeed(Duration::from_secs(10)).await
        };
        let mut objects = Self::default();
        objects.add(ask("ip", "-d -N -o link show").await?.lines().filter_map(link));
        objects.add(ask("ip", "-d -N -o address show").await?.lines().filter_map(address));
        for family in ["-4", "-6"] {
            let routes = ask("ip", &format!("{family} -d -N -o route show table all")).await?;
            objects.add(routes.lines().map(|line| route(family, line)));
            let rules = ask("ip", &format!("{family} -d -N -o rule show")).await?;
            objects.add(rules.lines().map(|line| format!("rule {family} {}", words(line))));
        }
        objects.add(ask("tc", "-d qdisc show").await?.lines().map(words));
        objects.add(host.namespace.run(settings)?.into_iter());
        Ok(objects)
    }

    fn add(&mut self, lines: impl Iterator<Item = String>) {
        for line in lines {
            *self.0.entry(line).or_default() += 1;
        }
    }

    /// Without those in whose line one of these words is.
    #[must_use]
    pub fn without(&self, words: &[impl AsRef<str>]) -> Self {
        let mentions = |line: &str| {
            let padded = format!(" {line} ").replace('/', " ");
            words.iter().any(|word| padded.contains(&format!(" {} ", word.as_ref())))
        };
        let kept = self.0.iter().filter(|(line, _)| !mentions(line));
        Self(kept.map(|(line, count)| (line.clone(), *count)).collect())
    }

    /// What `self` has and `expected` has not, and the other way round.
    #[must_use]
    pub fn difference(&self, expected: &Self) -> Vec<String> {
        let beyond = |one: &Self, other: &Self, word: &str| {
            let count = |line| other.0.get(line).copied().unwrap_or(0);
            let more = one.0.iter().filter(|(line, number)| **number > count(*line));
            more.map(|(line, _)| format!("{word}: {line}")).collect::<Vec<_>>()
        };
        [beyond(self, expected, "left"), beyond(expected, self, "missing")].concat()
    }

    /// Those that bear a mark of vipshield's.
    #[must_use]
    pub fn marked(&self) -> Vec<String> {
        self.difference(&self.without(&MARKS))
    }

    /// Whether an IPv6 address is still being checked for duplicates.
    fn is_tentative(&self) -> bool {
        self.0.keys().any(|line| line.contains(" tentative"))
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(line, count)| writeln!(f, "{count} {line}"))
    }
}

/// The words of a line with one blank between them. Lifetimes that run down are only said to.
fn words(line: &str) -> String {
    let mut text = Vec::new();
    let mut last = "";
    for word in line.split([' ', '\t', '\\']).filter(|word| !word.is_empty()) {
        let seconds = word.strip_suffix("sec").is_some_and(|rest| rest.parse::<u64>().is_ok());
        let runs_down = seconds && matches!(last, "expires" | "valid_lft" | "preferred_lft");
        text.push(if runs_down { "limited" } else { word });
        last = word;
    }
    text.join(" ")
}

/// `2: ens192@if5: <BROADCAST,UP> mtu 1500 qdisc noqueue master br0 ...`: what tells a link from
/// another, not what the kernel counts.
fn link(line: &str) -> Option<String> {
    let line = words(line);
    let mut all = line.split(' ').skip(1);
    let name = all.next()?.trim_end_matches(':').split('@').next()?;
    let flags = all.next()?;
    let mut text = format!("link {name} {flags}");
    let rest: Vec<&str> = all.collect();
    for pair in rest.windows(2) {
        let [key, value] = pair else { continue };
        // Open vSwitch gives the device that stands for its datapath a random one.
        let wanted = match *key {
            "mtu" | "qdisc" | "master" | "promiscuity" | "allmulti" | "addrgenmode" => true,
            "link/ether" => name != "ovs-system",
            _ => false,
        };
        if wanted {
            text.extend([" ", *key, " ", *value]);
        }
    }
    Some(text)
}

/// `2: ens192 inet 192.0.2.11/24 scope 0 ens192 valid_lft forever ...`
fn address(line: &str) -> Option<String> {
    let line = words(line);
    line.split_once(' ').map(|(_, rest)| format!("address {rest}"))
}

fn route(family: &str, line: &str) -> String {
    format!("route {family} {}", words(line))
}

/// The settings of every interface of the calling thread's namespace, and those that decide which
/// addresses may be used.
fn settings() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let base = format!("/proc/sys/net/{family}/conf");
        for interface in std::fs::read_dir(&base).with_context(|| base.clone())?.flatten() {
            let keys = std::fs::read_dir(interface.path());
            lines.extend(
                keys.into_iter().flatten().flatten().filter_map(|key| setting(&key.path())),
            );
        }
        for key in ["ip_forward", "ip_nonlocal_bind"] {
            lines.extend(setting(&Path::new("/proc/sys/net").join(family).join(key)));
        }
    }
    Ok(lines)
}

/// One setting; none for what cannot be read or is not there.
fn setting(path: &Path) -> Option<String> {
    let value = std::fs::read_to_string(path).ok()?;
    let key = path.strip_prefix("/proc/sys/net").ok()?.display();
    Some(format!("setting {key} = {}", words(value.trim())))
}

/// What an unshielded run leaves: for each sequence of a row, the objects of each node after it.
pub type Reference = Arc<Vec<Vec<Objects>>>;

/// Play these sequences one after the other without keepalived, whose part is taken by addresses
/// that stay where they are put, and without vipshield. One lab for each configuration and row:
/// what it showed is kept.
///
/// # Errors
/// When the lab cannot be built or a sequence fails.
pub async fn reference(config: &LabConfig, row: &[Sequence]) -> Result<Reference> {
    type Cell = Arc<OnceCell<Reference>>;
    static KNOWN: Mutex<Option<HashMap<String, Cell>>> = Mutex::new(None);
    let key = format!("{config:?} {row:?}");
    let cell = {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.get_or_insert_default().entry(key).or_default())
    };
    let made = cell.get_or_try_init(|| async {
        let lab = idle_lab(config).await?;
        let mut seen = Vec::new();
        for sequence in row {
            on_every_nic(*sequence, &lab).await.context("without keepalived")?;
            seen.push(at_rest(&lab).await?);
        }
        anyhow::Ok(Arc::new(seen))
    });
    made.await.context("what an unshielded run leaves").map(Arc::clone)
}

/// The objects of each node when a sequence, after `before`, is about to take its first step of
/// this kind. As `reference`, without keepalived and vipshield.
///
/// # Errors
/// When the lab cannot be built, a sequence fails, or has no such step.
pub async fn reference_before(
    config: &LabConfig,
    before: &[Sequence],
    sequence: Sequence,
    kind: StepKind,
) -> Result<Vec<Objects>> {
    let lab = idle_lab(config).await?;
    for sequence in before {
        on_every_nic(*sequence, &lab).await?;
    }
    let mut seen = None;
    let mut hook = Before::new(kind, async || {
        seen = Some(at_rest(&lab).await);
        Verdict::Continue
    });
    sequence.run(&lab, &mut hook).await.outcome?;
    seen.with_context(|| format!("{sequence} has no such step"))?
}

/// A lab in which nothing runs but what takes the NIC.
pub(crate) async fn idle_lab(config: &LabConfig) -> Result<Lab> {
    let lab = Lab::build(config.clone()).await?;
    let host = &lab.node(config.owner())?.host;
    for instance in &config.instances {
        let nic = instance.addresses_on.as_ref().or(instance.nic.as_ref());
        let nic = nic.unwrap_or(&config.nic);
        for address in &instance.addresses {
            // As keepalived adds it: without a broadcast address, IPv6 without a search for
            // duplicates, and a single IPv6 address as none that the node itself speaks from.
            let how = match (address.address.is_ipv6(), address.length) {
                (true, 128) => "nodad preferred_lft 0",
                (true, _) => "nodad",
                (false, _) => "",
            };
            host.shell(&format!("ip address add {address} dev {nic} {how}"))?;
        }
    }
    // As long as an address is checked for duplicates, what happens to it is another story.
    at_rest(&lab).await?;
    Ok(lab)
}

/// Play a sequence on the first node's NICs, at the same time where it has two.
///
/// # Errors
/// The first step that failed.
pub async fn on_every_nic(sequence: Sequence, lab: &Lab) -> Result<()> {
    let (mut first, mut second) = (Undisturbed, Undisturbed);
    match &lab.config.second {
        None => sequence.run(lab, &mut first).await.outcome,
        Some(other) => {
            let (one, two) = tokio::join!(
                sequence.run(lab, &mut first),
                sequence.run_on(lab, &other.nic, &other.bridge, &mut second),
            );
            one.outcome.and(two.outcome)
        }
    }
}

/// The objects of every node, once they change no more.
async fn at_rest(lab: &Lab) -> Result<Vec<Objects>> {
    let deadline = clock::now() + clock::patience(Duration::from_secs(10));
    let mut last = Vec::new();
    loop {
        let now = everything(lab).await?;
        if now == last && !now.iter().any(Objects::is_tentative) {
            return Ok(now);
        }
        if clock::now() >= deadline {
            bail!("the lab does not come to rest");
        }
        last = now;
        clock::pass(Duration::from_millis(400)).await;
    }
}

async fn everything(lab: &Lab) -> Result<Vec<Objects>> {
    let mut all = Vec::new();
    for node in &lab.nodes {
        all.push(Objects::of(&node.host, lab.token()).await?);
    }
    Ok(all)
}

/// How much of vipshield there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It runs, and nothing happens: its filters stand.
    Guarding,
    /// It was killed and cleaned up after: VRRP sockets are where the NIC's frames arrive.
    Cleaned,
    /// It is gone.
    Gone,
}

/// vipshield runs on, but the transition is over: nothing is left of it but its TC programs, the
/// filters on keepalived's rtnetlink sockets, and where its VRRP sockets are bound while the NIC is a port.
///
/// # Errors
/// Every object that differs, by name.
pub async fn released(lab: &Lab, expected: &[Objects]) -> Result<()> {
    let vipshield = lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
    let began = clock::now();
    let (mut signs, mut quiet_since) = (0, began);
    let aside: Vec<String> = [CLSACT.to_owned()].into_iter().chain(link_local_vips(lab)).collect();
    loop {
        let found = differences(lab, expected, &aside, Stage::Guarding).await?;
        let now = clock::now();
        if found.is_empty() || now >= quiet_since + clock::patience(RELEASE) {
            return differing(&found).context("while vipshield runs on");
        }
        if now >= began + clock::patience(SIGNS) {
            log::warn!(
                "processes called keepalived start all the time: what bears a mark is passed"
            );
            return equal_but_for_marks(lab, expected).await;
        }
        let all = vipshield.counter("task_events").await?;
        if all != signs {
            (signs, quiet_since) = (all, now);
        }
        clock::pass(Duration::from_millis(200)).await;
    }
}

/// vipshield is gone: nothing is left. `bpf` is what it had of eBPF; objects with one of the words
/// in `aside` do not count.
///
/// # Errors
/// Every object that differs, by name.
pub async fn gone(
    lab: &Lab,
    expected: &[Objects],
    aside: &[String],
    bpf: &BpfObjects,
) -> Result<()> {
    if bpf.is_empty() {
        bail!("vipshield had nothing of eBPF: it guarded nothing");
    }
    equal(lab, expected, aside, Stage::Gone, END).await.context("after vipshield's end")?;
    differing(&bpf.left().await).context("after vipshield's end")
}

/// The first node is as it is without vipshield, whose TC programs alone may be there.
///
/// # Errors
/// Every object that differs, by name.
pub async fn untouched(lab: &Lab, expected: &[Objects]) -> Result<()> {
    let expected = expected.first().context("no node")?.without(&[CLSACT]);
    let deadline = clock::now() + clock::patience(END);
    loop {
        let now = Objects::of(&lab.node(0)?.host, lab.token()).await?;
        let found = now.without(&[CLSACT]).difference(&expected);
        if found.is_empty() || clock::now() >= deadline {
            return differing(&found);
        }
        clock::pass(Duration::from_millis(200)).await;
    }
}

/// vipshield was killed, and cleaned up after: nothing is left, but that VRRP sockets stay on the bridge while
/// their NIC is a port.
///
/// # Errors
/// Every object that differs, by name.
pub async fn cleaned(
    lab: &Lab,
    expected: &[Objects],
    aside: &[String],
    bpf: &BpfObjects,
) -> Result<()> {
    equal(lab, expected, aside, Stage::Cleaned, END).await.context("after the clean-up")?;
    differing(&bpf.left().await).context("after the clean-up")
}

/// vipshield runs, and is prepared for what may come: but for what bears its marks, the nodes are
/// as without it.
///
/// # Errors
/// Every object that differs, by name.
pub async fn equal_but_for_marks(lab: &Lab, expected: &[Objects]) -> Result<()> {
    let marks = MARKS.into_iter().chain([CLSACT]).map(str::to_owned);
    let marks: Vec<String> = marks.chain(link_local_vips(lab)).collect();
    equal(lab, expected, &marks, Stage::Guarding, END).await.context("while vipshield runs")
}

/// The link-local VIPs: Kube-OVN leaves them on a NIC that is a port, where nobody answers for them;
/// vipshield has them on the bridge.
fn link_local_vips(lab: &Lab) -> impl Iterator<Item = String> {
    let is_local = |vip: &IpAddr| matches!(vip, IpAddr::V6(vip) if vip.is_unicast_link_local());
    let vips: Vec<IpAddr> = lab.config.vips().filter(is_local).collect();
    vips.into_iter().map(|vip| vip.to_string())
}

async fn equal(
    lab: &Lab,
    expected: &[Objects],
    aside: &[String],
    stage: Stage,
    limit: Duration,
) -> Result<()> {
    let deadline = clock::now() + clock::patience(limit);
    loop {
        let found = differences(lab, expected, aside, stage).await?;
        if found.is_empty() || clock::now() >= deadline {
            return differing(&found);
        }
        clock::pass(Duration::from_millis(200)).await;
    }
}

/// What differs now, in words.
async fn differences(
    lab: &Lab,
    expected: &[Objects],
    aside: &[String],
    stage: Stage,
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for ((node, now), expected) in lab.nodes.iter().zip(everything(lab).await?).zip(expected) {
        let lines = now.without(aside).difference(&expected.without(aside));
        let lines = lines.into_iter().chain(sockets(node, stage)?);
        found.extend(lines.map(|line| format!("{}: {line}", node.config.name)));
    }
    Ok(found)
}

fn differing(found: &[String]) -> Result<()> {
    match found.len() {
        0 => Ok(()),
        number => bail!("{number} objects differ:\n    {}", found.join("\n    ")),
    }
}

/// How the sockets of a node's keepalived differ from what they were before vipshield came. What
/// keepalived opened since then is as keepalived made it, but for filters.
///
/// # Errors
/// When the interfaces cannot be listed.
fn sockets(node: &Node, stage: Stage) -> Result<Vec<String>> {
    let Some(keepalived) = &node.keepalived else { return Ok(Vec::new()) };
    let now = Sockets::of(&keepalived.processes()?, &node.host)?;
    let mut found = Vec::new();
    for (inode, socket) in &now.0 {
        let before = node.sockets_before.0.get(inode);
        let mut as_it_was = before.cloned().unwrap_or_else(|| socket.clone());
        let (filter, place) = match stage {
            Stage::Guarding => (socket.is_rtnetlink(), socket.is_vrrp()),
            Stage::Cleaned => (false, socket.is_vrrp()),
            Stage::Gone => (false, false),
        };
        if filter && socket.filter == Filter::Ebpf {
            (as_it_was.filter, as_it_was.mark) = (Filter::Ebpf, socket.mark);
        } else if before.is_none() && socket.filter == Filter::Ebpf {
            (as_it_was.filter, as_it_was.mark) = (Filter::None, 0);
        }
        if place {
            let home = as_it_was.bound;
            as_it_was.bound = socket.bound;
            // What keepalived joined it stays a member of.
            if as_it_was.member_on.iter().all(|index| socket.member_on.contains(index)) {
                as_it_was.member_on.clone_from(&socket.member_on);
            }
            // What only sends IPv6 sends through the NIC, port or not.
            let moves = !(socket.sends_only() && socket.is_ipv6());
            let should_be_home = !moves || !node.host.rtnl.is_port(home)?;
            if before.is_some() && should_be_home != (socket.bound == home) {
                found.push(format!("not where the NIC's frames arrive: {socket}"));
            }
        }
        if *socket != as_it_was {
            found.push(format!("{socket}, but it was: {as_it_was}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(lines: &[&str]) -> Objects {
        let mut objects = Objects::default();
        objects.add(lines.iter().map(|line| (*line).to_owned()));
        objects
    }

    #[test]
    fn every_difference_is_named_once() {
        let expected = objects(&["a", "b", "b"]);
        assert_eq!(expected.difference(&expected), [""; 0]);
        let now = objects(&["a", "a", "b"]);
        assert_eq!(now.difference(&expected), ["left: a", "missing: b"]);
    }

    #[test]
    fn a_lifetime_that_runs_down_is_the_same_at_any_time() {
        assert_eq!(
            words("x  valid_lft 3sec preferred_lft forever"),
            "x valid_lft limited preferred_lft forever"
        );
        assert_eq!(words("expires 2sec pref medium"), "expires limited pref medium");
    }

    #[test]
    fn links_are_what_they_are_not_what_they_count() {
        let line = "12: ens192@if5: <BROADCAST,UP> mtu 1500 qdisc noqueue master br0 state UP \
                    qlen 1000\\    link/ether 52:54:00:00:00:01 brd ff:ff promiscuity 1";
        let text = "link ens192 <BROADCAST,UP> mtu 1500 qdisc noqueue master br0 link/ether \
                    52:54:00:00:00:01 promiscuity 1";
        assert_eq!(link(line).unwrap(), text);
        assert!(!link(&line.replace("ens192@if5", "ovs-system")).unwrap().contains("ether"));
    }

    #[test]
    fn addresses_lose_their_index() {
        let line = "3: d0    inet 192.0.2.1/24 scope 0 d0\\       valid_lft forever";
        assert_eq!(
            address(line).unwrap(),
            "address d0 inet 192.0.2.1/24 scope 0 d0 valid_lft forever"
        );
    }

    #[test]
    fn what_is_set_aside_is_a_whole_word() {
        let all = objects(&[
            "address ens192 inet 192.0.2.10/32 scope 0",
            "address ens192 inet 192.0.2.101/24 scope 0",
            "route -4 1 default dev ens192 table 5252 proto 118",
        ]);
        assert_eq!(all.without(&["192.0.2.10"]).0.len(), 2);
        assert_eq!(all.without(&MARKS).0.len(), 2);
    }
}
