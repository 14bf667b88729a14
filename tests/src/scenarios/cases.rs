//! The cases of `cases/`, and those that are named on the command line: somebody's configuration of keepalived,
//! and what happens to his nodes.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::scene::served_by;
use super::{Context, Runs, Scenario};
use crate::case::{Action, Assert, Cable, Case, FILES, On, Shield, Step, Time, Which, fill};
use crate::clock;
use crate::config::Taken;
use crate::further::VipSeen;
use crate::lab::Lab;
use crate::measure::{self, Witnesses};
use crate::process::Program;
use crate::sequence::Undisturbed;
use crate::witness::probe;
use crate::witness::tcp::EchoServer;
use crate::witness::timeline::Window;

/// Where every node has a server, as control planes have.
const API_PORT: u16 = 6443;
/// The longest that owners take to be settled, scripts that have to succeed some times included.
const ELECTION: Duration = Duration::from_secs(20);
/// How long they have to be: where the owner of one is not who has the highest priority, longer than the other
/// would wait before it took over.
const SETTLED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// The longest time until what is asserted is so.
const SOON: Duration = Duration::from_secs(10);

pub(super) fn scenarios() -> Vec<Scenario> {
    FILES
        .iter()
        .map(|(name, text)| match Case::parse(&format!("{name}.toml"), text) {
            Ok(case) => scenario(case),
            Err(mistake) => {
                let about = "a case that cannot be read";
                Scenario::new(&format!("case-{name}"), about, false, move |_| {
                    std::future::ready(Err(mistake.clone().into()))
                })
            }
        })
        .collect()
}

/// A case as a scenario.
#[must_use]
pub fn scenario(case: Case) -> Scenario {
    let (name, extra) = (format!("case-{}", case.name), case.extra);
    let (about, shielded) = (case.about.clone(), case.shield != Shield::Off);
    let (modules, programs) = (case.modules.clone(), case.programs.clone());
    let (case, directory) = (Arc::new(case), name.clone());
    let mut scenario = Scenario::new(&name, &about, shielded, move |context| {
        let (case, directory) = (Arc::clone(&case), directory.clone());
        async move { run(&case, context, &directory).await }
    });
    scenario.extra = extra;
    scenario.needs = Box::new(move |_| {
        if let Some(missing) = programs.iter().find(|program| !program.exists()) {
            bail!("there is no {}", missing.display());
        }
        modules.iter().try_for_each(|it| module(it))
    });
    scenario
}

/// Whether this kernel has a module, or what it is for. Loads it.
fn module(name: &str) -> Result<()> {
    let tried = std::process::Command::new("modprobe").args(["--", name]).output();
    let has = tried.is_ok_and(|output| output.status.success());
    ensure!(has, "this kernel has no module {name}");
    Ok(())
}

async fn run(case: &Case, context: Context, directory: &str) -> Runs {
    let lab = Lab::build(case.config(context.datapath)).await?;
    let mut play = Play { lab, context };
    let outcome = play.play(case).await;
    if let Some(logs) = &play.context.logs {
        play.lab.save_logs(&logs.join(directory))?;
    }
    outcome.map(|()| Vec::new())
}

/// The owner of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Nobody else has its priority.
    Highest,
    Lower,
}

struct Play {
    lab: Lab,
    context: Context,
}

impl Play {
    async fn play(&mut self, case: &Case) -> Result<()> {
        let mut servers = Vec::new();
        for node in &self.lab.nodes {
            servers.push(EchoServer::on(&node.host, API_PORT)?);
        }
        for node in [On::Node1, On::Node2, On::Node3].into_iter().take(self.lab.nodes.len()) {
            for command in &case.before {
                self.shell(node, command).await.context("before")?;
            }
        }
        let shielded = match (case.shield, self.lab.config.taken) {
            (Shield::Off, _) => 0..0,
            (_, Taken::One) => 0..1,
            (_, Taken::All) => 0..self.lab.nodes.len(),
        };
        if case.shield == Shield::Before {
            for node in shielded.clone() {
                self.lab.start_vipshield(node, &self.context.vipshield).await?;
            }
        }
        self.elect().await?;
        for node in shielded {
            if case.shield == Shield::After {
                self.lab.start_vipshield(node, &self.context.vipshield).await?;
            }
            let vipshield = self.lab.node_mut(node)?.vipshield.as_mut();
            vipshield.context("vipshield does not run")?.guards().await?;
        }
        let mut witnesses = Witnesses::paced(&self.lab, probe::LEISURELY).await?;
        let mut since = clock::now();
        for step in &case.steps {
            let done = self.take(step, &mut witnesses, &mut since).await;
            done.with_context(|| step.to_string())?;
        }
        for node in &mut self.lab.nodes {
            if let Some(vipshield) = node.vipshield.take() {
                vipshield.stop().await?;
            }
        }
        Ok(())
    }

    /// Start keepalived on all nodes, the owner first, and wait until each instance has one owner for a while.
    async fn elect(&mut self) -> Result<()> {
        self.lab.start_keepalived(0)?;
        let instances: Vec<String> =
            self.lab.config.instances.iter().map(|instance| instance.name.clone()).collect();
        for instance in &instances {
            let keepalived = self.lab.node(0)?.keepalived.as_ref();
            let keepalived = keepalived.context("keepalived does not run")?;
            keepalived.wait_for(instance, "MASTER", ELECTION).await?;
        }
        for node in 1..self.lab.nodes.len() {
            self.lab.start_keepalived(node)?;
        }
        let settled: Cell<Option<Instant>> = Cell::new(None);
        clock::until("one owner of each instance", ELECTION, async || {
            let owned: Vec<_> = instances.iter().map(|it| self.owned(it)).collect();
            let now = clock::now();
            if owned.contains(&None) {
                settled.set(None);
                return Ok(None);
            }
            let begun = settled.get().unwrap_or(now);
            settled.set(Some(begun));
            let [usual, long] = SETTLED;
            let enough = if owned.contains(&Some(Owner::Lower)) { long } else { usual };
            Ok((now.duration_since(begun) >= clock::patience(enough)).then_some(()))
        })
        .await
    }

    /// Who is master of an instance, if one is and all others are waiting.
    fn owned(&self, instance: &str) -> Option<Owner> {
        let mut masters = Vec::new();
        let mut waiting = Vec::new();
        for node in &self.lab.nodes {
            let last = node.keepalived.as_ref()?.last(instance)?;
            match last.state.as_str() {
                "MASTER" => masters.push(last.priority),
                "BACKUP" => waiting.push(last.priority),
                _ => return None,
            }
        }
        let [master] = masters.as_slice() else { return None };
        let is_highest = waiting.iter().all(|waiting| waiting < master);
        Some(if is_highest { Owner::Highest } else { Owner::Lower })
    }

    async fn take(
        &mut self,
        step: &Step,
        witnesses: &mut Witnesses,
        since: &mut Instant,
    ) -> Result<()> {
        let node = step.on.node();
        let of = || node.context("the client has none");
        match &step.action {
            Action::Sequence(sequence) => {
                let mut notes = Vec::new();
                let (lab, hooks) = (&self.lab, &mut Undisturbed);
                measure::insist(*sequence, lab, of()?, hooks, &mut notes).await.map(drop)
            }
            Action::Wait(time) => {
                clock::pass(*time).await;
                Ok(())
            }
            Action::Run(command) => self.shell(step.on, command).await,
            Action::Kill(Which::Keepalived) => {
                let keepalived = self.lab.node_mut(of()?)?.keepalived.take();
                let keepalived = keepalived.context("keepalived does not run")?;
                // All at once: the parent would end the other one in an orderly way.
                for pid in keepalived.processes()? {
                    nix::sys::signal::kill(pid, Signal::SIGKILL).context("keepalived's process")?;
                }
                Ok(())
            }
            Action::Kill(Which::Vipshield) => {
                let vipshield = self.lab.node_mut(of()?)?.vipshield.take();
                vipshield.context("vipshield does not run")?.kill().await
            }
            Action::Start(Which::Keepalived) => self.lab.start_keepalived(of()?),
            Action::Start(Which::Vipshield) => {
                self.lab.start_vipshield(of()?, &self.context.vipshield).await
            }
            Action::Cable(cable) => self.lab.cable(of()?, *cable == Cable::In),
            Action::Assert(assert) => {
                self.assert(assert, witnesses, *since).await?;
                *since = clock::now();
                Ok(())
            }
        }
    }

    async fn assert(
        &self,
        assert: &Assert,
        witnesses: &mut Witnesses,
        since: Instant,
    ) -> Result<()> {
        let Assert { quiet, owner, transitions, gap, status } = assert;
        if let Some(Time(time)) = quiet {
            clock::pass(*time).await;
        }
        let window = Window { from: since, to: clock::now() };
        let seen = witnesses.observe(&self.lab, window);
        if quiet.is_some() {
            ensure!(seen.transitions.is_empty(), "transitions: {:?}", seen.transitions);
            ensure!(seen.owners_max == 1, "{} owners at a time", seen.owners_max);
            ensure!(seen.tcp.is_some_and(|tcp| tcp.alive), "the TCP connection is broken");
            for VipSeen { vip, owners_max, tcp, .. } in witnesses.further(since, window) {
                ensure!(owners_max == 1, "{vip}: {owners_max} owners at a time");
                ensure!(tcp.is_some_and(|tcp| tcp.alive), "{vip}: the TCP connection is broken");
            }
        }
        if let Some(wanted) = transitions {
            let told = &seen.transitions;
            ensure!(told.len() == *wanted, "{wanted} transitions expected, not {told:?}");
        }
        if let Some(Time(most)) = gap {
            let longest = Duration::from_secs_f64(seen.probe.longest_gap_ms / 1000.0);
            ensure!(longest <= clock::patience(*most), "nothing was answered for {longest:?}");
        }
        if let Some(node) = owner.and_then(On::node) {
            served_by(&self.lab, witnesses, node, SOON).await?;
            witnesses.reconnect(&self.lab)?;
        }
        if !status.is_empty() {
            self.says(status).await?;
        }
        Ok(())
    }

    /// Wait until `vipshield status` on the first node has these words.
    async fn says(&self, words: &[String]) -> Result<()> {
        let vipshield = self.lab.node(0)?.vipshield.as_ref().context("vipshield does not run")?;
        let last = RefCell::new(String::new());
        let said = clock::until("the words in status", SOON, async || {
            let (_, text) = vipshield.status_text().await?;
            let is_said = words.iter().all(|word| text.contains(word));
            *last.borrow_mut() = text;
            Ok(is_said.then_some(()))
        });
        said.await.with_context(|| format!("{words:?} in {}", last.into_inner()))
    }

    /// Run a command on a host; what it starts ends with the lab.
    async fn shell(&self, on: On, command: &str) -> Result<()> {
        let program = Program::new("sh", "sh", self.lab.token());
        // To the client the names of node1 mean what they mean there.
        let node = self.lab.node(on.node().unwrap_or(0))?;
        let command = fill(command, &self.lab.config, &node.config, &node.dir);
        let host = if on.node().is_some() { &node.host } else { &self.lab.client };
        let program = program.args(["-euc", &command]).inside(&host.namespace);
        let output = program.output(SOON).await?;
        if !output.status.success() {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            let (said, complained) = (text(&output.stdout), text(&output.stderr));
            bail!("{} ended with {}: {said} {complained}", host.name, output.status);
        }
        Ok(())
    }
}
