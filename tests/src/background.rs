//! What Kube-OVN's daemon does on every node for ever, also while nothing happens: `ovs-vsctl` every three
//! seconds, and the flows of the bridges anew every fifteen (1.16.2; seen in its log).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use crate::clock;
use crate::datapath::Datapath;
use crate::lab::Lab;
use crate::measure;

/// How often it starts its tools.
pub const TURN: Duration = Duration::from_secs(3);
/// How many, one after the other.
const TOOLS: usize = 4;
/// In each so many turns it reads the flows and puts them back.
const FLOWS: usize = 5;

/// Goes on until it is dropped.
#[derive(Debug)]
pub struct Background(Vec<JoinHandle<()>>);

impl Background {
    /// On each node whose NIC is taken, but where Kube-OVN's own daemon runs.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        let taken = lab.nodes.iter().take(measure::taken(lab).len());
        let replayed = taken.filter(|node| node.kube_ovn.is_none());
        Self(replayed.map(|node| tokio::spawn(go_on(Arc::clone(&node.datapath)))).collect())
    }

    /// Ends it. Nothing of it uses the nodes any more then.
    pub async fn stop(mut self) {
        for task in self.0.drain(..) {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn go_on(datapath: Arc<Datapath>) {
    for turn in 1.. {
        if let Err(error) = one_turn(&datapath, turn % FLOWS == 0).await {
            // A sequence was in its way: Kube-OVN tries again in the next turn, and so does this.
            log::warn!("in the background: {error:#}");
        }
        clock::pass(TURN).await;
    }
}

async fn one_turn(datapath: &Datapath, flows: bool) -> Result<()> {
    for _ in 0..TOOLS {
        datapath.look().await?;
    }
    if flows { datapath.renew_flows().await } else { Ok(()) }
}
