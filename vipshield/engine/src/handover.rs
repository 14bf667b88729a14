//! What one vipshield tells another that takes over from it while it runs: what the daemons were told, what
//! they mean to have, and who is heard on the wire. All else the next one finds in the kernel.
//!
//! Without it everything is learned again, as after a kill: which takes an advert or two, and of a daemon that
//! was told of a failure nobody knows that it waits for the end of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Engine,
    action::Action,
    belief::OfDaemons,
    ending::GRACE,
    names::Names,
    nic::Remembered,
    notice::Weight,
    pairs,
    probe::Deaf,
    routers::Routers,
    tell,
    vips::Vips,
    world::{Daemon, Filter, SocketId},
};

/// See the [module](self). Its times are of `CLOCK_MONOTONIC`, and mean the same to every process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    nics: BTreeMap<u32, Remembered>,
    daemons: BTreeMap<u32, Daemon>,
    names: Names,
    vips: Vips,
    routers: Routers,
    told: OfDaemons,
    #[serde(with = "pairs")]
    made: BTreeMap<SocketId, Option<u32>>,
    #[serde(with = "pairs")]
    placed: BTreeMap<SocketId, (Option<u32>, Option<u32>)>,
    speaking: BTreeSet<SocketId>,
    takers: BTreeMap<u32, BTreeSet<u32>>,
    unserved: BTreeMap<u32, Duration>,
    #[serde(with = "pairs")]
    deaf: Deaf,
    turnover_until: Option<Duration>,
    engaged: bool,
}

impl Handover {
    /// A layout that is not this one is not looked at.
    pub const VERSION: u32 = 3;

    /// So many things of like size are in it: NICs, daemons and VIPs.
    pub(super) fn size(&self) -> usize {
        self.nics.len() + self.daemons.len() + self.vips.len()
    }

    /// Its NICs, by interface index, and the names under which the daemons know them.
    #[must_use]
    pub fn names(&self) -> BTreeMap<u32, String> {
        self.nics.iter().map(|(ifindex, nic)| (*ifindex, nic.name().to_owned())).collect()
    }
}

impl Engine {
    /// For so long another vipshield has to wait at the most until a move is over.
    pub const HANDOVER_GRACE: Duration = GRACE;

    /// Whether another vipshield may take over: nothing is under way, or about to be.
    #[must_use]
    pub fn may_hand_over(&self, now: Duration) -> bool {
        self.started && self.is_calm(now)
    }

    /// What that is to know.
    #[must_use]
    pub fn hand_over(&self) -> Handover {
        Handover {
            nics: self.nics.iter().map(|(ifindex, nic)| (*ifindex, nic.remembered())).collect(),
            daemons: self.world.daemons.clone(),
            names: self.names.clone(),
            vips: self.world.vips.clone(),
            routers: self.routers.clone(),
            told: self.told.clone(),
            made: self.made.clone(),
            placed: self.placed.clone(),
            speaking: self.applied.sources().collect(),
            takers: self.takers.clone(),
            unserved: self.world.unserved().clone(),
            deaf: self.probes.known().clone(),
            turnover_until: self.turnover_until,
            engaged: self.engaged,
        }
    }

    /// Goes on from there.
    pub(super) fn take_over(&mut self, from: Handover) {
        self.left.marks = true;
        self.left.names.extend(from.names());
        let text = format!(
            "goes on where another vipshield was: {} NICs, {} daemons",
            from.nics.len(),
            from.daemons.len()
        );
        tell(&mut self.actions, Weight::Info, None, text);
        self.left.remembered = from.nics;
        // Those that are found now are no new ones. What they carry is the other's.
        self.world.daemons = from.daemons;
        for daemon in self.world.daemons.values_mut() {
            let monitors = daemon.monitors.iter_mut().map(|monitor| &mut monitor.filter);
            let filters = monitors.chain(daemon.commands.iter_mut().map(|it| &mut it.filter));
            filters.filter(|it| **it == Filter::Guard).for_each(|it| *it = Filter::Stale);
        }
        self.world.vips = from.vips;
        self.world.set_unserved(from.unserved);
        self.world.set_deaf(from.deaf.keys().copied().collect());
        self.probes.resume(from.deaf);
        self.names = from.names;
        self.routers = from.routers;
        self.told = from.told;
        self.made = from.made;
        self.placed = from.placed;
        for socket in from.speaking {
            self.applied.found(Action::Speak { socket, from_anywhere: true });
        }
        self.takers = from.takers;
        self.turnover_until = from.turnover_until;
        self.engaged = from.engaged;
    }
}
