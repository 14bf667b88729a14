//! Kube-OVN's sequences, replayed step by step.
//!
//! A [`Sequence`] is what `pkg/daemon` of Kube-OVN does to a node's NIC. Every
//! step first asks the caller's [`Hooks`], which may let it go, delay it,
//! repeat it, or fail it; a hook that has not answered yet is a pause.

mod kube_ovn;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::lab::{Lab, Node};

/// Which sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sequence {
    /// The NIC becomes a port; the bridge takes its addresses.
    Bind,
    /// The NIC gets its addresses back; the bridge goes away.
    Unbind,
    /// As bind, but the bridge gets the NIC's name too.
    Exchange,
    /// As unbind, after exchange.
    Unexchange,
}

impl Sequence {
    /// What has to have happened before this one can, if anything.
    #[must_use]
    pub fn prerequisite(self) -> Option<Self> {
        match self {
            Self::Bind | Self::Exchange => None,
            Self::Unbind => Some(Self::Bind),
            Self::Unexchange => Some(Self::Exchange),
        }
    }

    /// The one that undoes it.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Bind => Self::Unbind,
            Self::Unbind => Self::Bind,
            Self::Exchange => Self::Unexchange,
            Self::Unexchange => Self::Exchange,
        }
    }

    /// Replay it on the lab's first node, or have Kube-OVN's own daemon do it where that runs: it asks no
    /// hooks.
    ///
    /// # Errors
    /// The first step that failed, by name. What was done stays done, as with Kube-OVN.
    pub async fn run(self, lab: &Lab, hooks: &mut dyn Hooks) -> Replay {
        self.run_at(lab, 0, hooks).await
    }

    /// The same on the node with this position.
    ///
    /// # Errors
    /// As [`Sequence::run`].
    pub async fn run_at(self, lab: &Lab, node: usize, hooks: &mut dyn Hooks) -> Replay {
        self.replay(lab.node(node), &lab.config.nic, &lab.config.bridge, hooks).await
    }

    /// The same with another NIC of the first node.
    ///
    /// # Errors
    /// As [`Sequence::run`].
    pub async fn run_on(self, lab: &Lab, nic: &str, bridge: &str, hooks: &mut dyn Hooks) -> Replay {
        self.replay(lab.node(0), nic, bridge, hooks).await
    }

    async fn replay(
        self,
        node: Result<&Node>,
        nic: &str,
        bridge: &str,
        hooks: &mut dyn Hooks,
    ) -> Replay {
        if let Ok(Node { kube_ovn: Some(daemon), .. }) = node {
            return daemon.run(self, nic, bridge).await;
        }
        let started = clock::now();
        let mut steps = Steps { hooks, taken: Vec::new() };
        let outcome = match node {
            Ok(node) => self.play(node, nic, bridge, &mut steps).await,
            Err(error) => Err(error),
        };
        let (ended, retries) = (clock::now(), Vec::new());
        Replay { started, ended, steps: steps.taken, retries, outcome }
    }

    /// What Kube-OVN does when NetworkManager says that the IP configuration of an enslaved NIC
    /// changed: move what addresses the NIC has to the bridge, and delete what the bridge has and
    /// the NIC has not. A NIC without addresses changes nothing.
    ///
    /// # Errors
    /// When a step fails, or nothing is enslaved.
    pub async fn nic_reconfigured(lab: &Lab, exchanged: bool) -> Result<()> {
        let node = lab.node(0)?;
        let (mut nic, mut bridge) = (lab.config.nic.as_str(), lab.config.bridge.as_str());
        if exchanged {
            std::mem::swap(&mut nic, &mut bridge);
        }
        let provider = kube_ovn::Provider { host: &node.host, datapath: &node.datapath };
        let mut steps = Steps { hooks: &mut Undisturbed, taken: Vec::new() };
        provider.transfer(&mut steps, nic, bridge, true).await
    }

    async fn play(self, node: &Node, nic: &str, bridge: &str, steps: &mut Steps<'_>) -> Result<()> {
        let provider = kube_ovn::Provider { host: &node.host, datapath: &node.datapath };
        match self {
            Self::Bind => provider.bind(steps, nic, bridge).await,
            Self::Unbind => provider.unbind(steps, nic, bridge).await,
            Self::Exchange => provider.exchange(steps, nic, bridge).await,
            Self::Unexchange => provider.unexchange(steps, nic, bridge).await,
        }
    }
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bind => "bind",
            Self::Unbind => "unbind",
            Self::Exchange => "exchange",
            Self::Unexchange => "unexchange",
        })
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Create the bridge unless it exists.
    AddBridge,
    /// Ask which ports the bridge has.
    ListPorts,
    /// Record which provider network the bridge serves.
    SetBridgeMapping,
    /// Record the hardware address of the chassis for the provider network.
    SetMacMapping,
    /// Forget both.
    RemoveMappings,
    /// List addresses and routes.
    List,
    /// Delete an address.
    DeleteAddress,
    /// Put an address on the other interface.
    ReplaceAddress,
    /// Give the bridge the NIC's hardware address.
    SetHwaddr,
    /// Set the bridge up.
    BridgeUp,
    /// Set the bridge down.
    BridgeDown,
    /// Put a route on the other interface.
    ReplaceRoute,
    /// Delete a route.
    DeleteRoute,
    /// Set the NIC up.
    NicUp,
    /// Set the NIC down.
    NicDown,
    /// Rename the NIC.
    Rename,
    /// Wait until no more route events come.
    WaitQuiet,
    /// Drop an alternative name of the NIC.
    DropAltname,
    /// Wait for the bridge's interface in the kernel.
    WaitBridge,
    /// Make the NIC a port of the bridge.
    AddPort,
    /// Take the NIC out of the bridge.
    DeletePort,
    /// Delete the bridge.
    DeleteBridge,
    /// A tool that Kube-OVN's own daemon ran, for whatever.
    Tool,
}

impl StepKind {
    /// Whether it leaves the node's network as it was: only Open vSwitch's database, or nothing at
    /// all, is different after it.
    #[must_use]
    pub fn is_bookkeeping(self) -> bool {
        matches!(
            self,
            Self::ListPorts
                | Self::SetBridgeMapping
                | Self::SetMacMapping
                | Self::RemoveMappings
                | Self::List
                | Self::WaitQuiet
                | Self::WaitBridge
        )
    }
}

/// A step about to be taken.
#[derive(Clone, Debug)]
pub struct Step {
    /// What it does.
    pub kind: StepKind,
    /// The same in words, with what it does it to.
    pub name: String,
}

/// What a hook wants of the step it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Continue,
    /// Take it this much later.
    Delay(Duration),
    /// Take it, then this many times more; how those end does not matter.
    Repeat(u32),
    /// Do not take it: the sequence fails there.
    Fail,
}

/// The future that a hook answers with.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// What a scenario does before each step.
pub trait Hooks {
    /// Called before `step`, which waits for the answer.
    fn before<'a>(&'a mut self, step: &'a Step) -> Answer<'a>;
}

/// Lets every step go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undisturbed;

impl Hooks for Undisturbed {
    fn before<'a>(&'a mut self, _: &'a Step) -> Answer<'a> {
        Box::pin(std::future::ready(Verdict::Continue))
    }
}

/// Does something once, before the first step of a kind.
#[derive(Debug)]
pub struct Before<F> {
    kind: StepKind,
    action: Option<F>,
}

impl<F: AsyncFnOnce() -> Verdict> Before<F> {
    /// Run `action` before the first step of this kind; its verdict is that step's.
    pub fn new(kind: StepKind, action: F) -> Self {
        Self { kind, action: Some(action) }
    }

    /// Whether the step was reached.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.action.is_none()
    }
}

impl<F: AsyncFnOnce() -> Verdict> Hooks for Before<F> {
    fn before<'a>(&'a mut self, step: &'a Step) -> Answer<'a> {
        Box::pin(async move {
            match self.action.take_if(|_| step.kind == self.kind) {
                Some(action) => action().await,
                None => Verdict::Continue,
            }
        })
    }
}

/// Does something once, before one of the steps that match.
pub struct At<M, F> {
    matches: M,
    ahead: usize,
    step: Option<Step>,
    action: Option<F>,
}

impl<M: FnMut(&Step) -> bool, F: AsyncFnOnce(&Step) -> Verdict> At<M, F> {
    /// Run `action` before the step of this number, counted from 0, among those that match; its
    /// verdict is that step's.
    pub fn new(number: usize, matches: M, action: F) -> Self {
        Self { matches, ahead: number, step: None, action: Some(action) }
    }

    /// Whether the step was reached.
    #[must_use]
    pub const fn is_reached(&self) -> bool {
        self.step.is_some()
    }

    /// The step, if it was reached.
    #[must_use]
    pub fn reached(self) -> Option<Step> {
        self.step
    }
}

impl<M: FnMut(&Step) -> bool, F: AsyncFnOnce(&Step) -> Verdict> Hooks for At<M, F> {
    fn before<'a>(&'a mut self, step: &'a Step) -> Answer<'a> {
        Box::pin(async move {
            if self.action.is_none() || !(self.matches)(step) {
                return Verdict::Continue;
            }
            if self.ahead > 0 {
                self.ahead -= 1;
                return Verdict::Continue;
            }
            match self.action.take() {
                Some(action) => action(self.step.insert(step.clone())).await,
                None => Verdict::Continue,
            }
        })
    }
}

/// A step that was taken.
#[derive(Clone, Debug)]
pub struct StepTime {
    /// What it did.
    pub step: Step,
    /// When it began, after its hook.
    pub began: Instant,
    /// When it was done.
    pub done: Instant,
}

/// A sequence that ran, replayed or done by Kube-OVN's own daemon.
#[derive(Debug)]
pub struct Replay {
    /// Just before the first step.
    pub started: Instant,
    /// Just after the last.
    pub ended: Instant,
    /// Its steps, in order.
    pub steps: Vec<StepTime>,
    /// Why Kube-OVN's own daemon began anew, each time that it did.
    pub retries: Vec<String>,
    /// How it ended.
    pub outcome: Result<()>,
}

/// Takes steps one by one.
struct Steps<'a> {
    hooks: &'a mut dyn Hooks,
    taken: Vec<StepTime>,
}

impl Steps<'_> {
    /// Ask the hook, then do `action`.
    async fn take<T>(
        &mut self,
        kind: StepKind,
        name: String,
        action: impl AsyncFn() -> Result<T>,
    ) -> Result<T> {
        let step = Step { kind, name };
        let mut repeat = 0;
        match self.hooks.before(&step).await {
            Verdict::Continue => {}
            Verdict::Delay(duration) => clock::pass(duration).await,
            Verdict::Repeat(times) => repeat = times,
            Verdict::Fail => bail!("{}: failed by the scenario", step.name),
        }
        let began = clock::now();
        let result = action().await;
        for _ in 0..repeat {
            if let Err(error) = action().await {
                log::debug!("{} repeated: {error:#}", step.name);
            }
        }
        let result = result.with_context(|| step.name.clone());
        self.taken.push(StepTime { step, began, done: clock::now() });
        result
    }
}
