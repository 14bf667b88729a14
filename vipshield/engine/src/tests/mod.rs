//! The engine on virtual time: a model of a node, of the guard and of a daemon around the real
//! engine, which is reached by its public interface alone.

mod adapters;
mod audit;
mod bench;
mod carrying;
mod daemons;
mod ending;
mod excluded;
mod failed;
mod failures;
mod guard;
mod handover;
mod health;
mod heeding;
mod ipv6;
mod keepalived;
mod kube_ovn;
mod many;
mod missing;
mod names;
mod node;
mod observe;
mod outranked;
mod own;
mod passage;
mod phases;
mod probe;
mod properties;
mod recorded;
mod rest;
mod restarts;
mod scenarios;
pub(crate) mod seeded;
mod settings;
mod told;
mod two_nics;
mod unseen;
mod vips;
mod warnings;
mod watch;
mod wire;

use self::{
    bench::{Bench, engine},
    kube_ovn::Sequence,
    node::Datapath,
};

/// Every sequence on every datapath.
fn all() -> impl Iterator<Item = (Sequence, Datapath)> {
    Sequence::ALL.into_iter().flat_map(|s| Datapath::ALL.into_iter().map(move |d| (s, d)))
}

/// A bench on which everything before `sequence` is done.
fn ready_for(sequence: Sequence, datapath: Datapath) -> Bench {
    let mut bench = Bench::new(datapath);
    if let Some(before) = sequence.before() {
        bench.sequence(before);
    }
    bench
}
