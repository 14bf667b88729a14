//! The promise, held against the world after each look: what daemons believe is untrue for no longer than
//! the deadline.
//!
//! It asks the world and the belief alone, and keeps a clock of its own: neither the rules that say what is
//! untrue, nor the moment since which they say so, nor that something was asked for is taken for granted. So
//! a rule that forgets something, a loop that came too late and an action that fails are seen alike.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Engine,
    action::Action,
    belief::Believed,
    nic::Nic,
    notice::Weight,
    tell,
    world::{Address, Link},
};

/// So much later than the deadline a loop that is abreast of its work does not tell anything.
const SLACK: Duration = Duration::from_millis(250);

/// A guarded NIC's link, or an address of its.
type What = (u32, Option<Address>);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// What daemons take to be otherwise than it is.
    untrue: BTreeMap<What, Since>,
    /// How often something was untrue for too long.
    pub(super) overdue: u64,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Duration,
    /// When they should know.
    due: Duration,
    /// It has been for too long, and was counted.
    counted: bool,
}

impl Since {
    const fn now(now: Duration) -> Self {
        Self { at: now, due: Duration::MAX, counted: false }
    }

    /// A deadline that has become shorter meanwhile holds from now on, and puts off nothing that was due before.
    fn follow(&mut self, deadline: Duration, now: Duration) {
        self.due = self.at.saturating_add(deadline).max(now.min(self.due));
    }
}

impl Audit {
    /// What daemons take to be otherwise than it is.
    #[cfg(test)]
    pub(super) fn untrue(&self) -> Vec<What> {
        self.untrue.keys().copied().collect()
    }
}

impl Engine {
    /// Looks at everything that daemons take to be otherwise than it is.
    pub(super) fn audit(&mut self, now: Duration) {
        let found: Vec<What> = if self.guarded_sockets().is_empty() {
            Vec::new()
        } else {
            self.nics.values().flat_map(|nic| self.contradictions(nic)).collect()
        };
        for what in &found {
            self.audit.untrue.entry(*what).or_insert(Since::now(now));
        }
        let mut overdue = Vec::new();
        let mut untrue = std::mem::take(&mut self.audit.untrue);
        for ((ifindex, address), since) in &mut untrue {
            let Some(nic) = self.nics.get(ifindex) else { continue };
            let patience = self.patience(*ifindex).deadline;
            let deadline = self.deadlines(nic, patience).of(*address);
            since.follow(deadline, now);
            if now >= since.due.saturating_add(SLACK) && !since.counted {
                since.counted = true;
                let took = now.saturating_sub(since.at);
                overdue.push((nic.name.clone(), *address, took, deadline));
            }
        }
        untrue.retain(|what, _| found.contains(what));
        self.audit.untrue = untrue;
        for (name, address, took, deadline) in overdue {
            self.audit.overdue = self.audit.overdue.saturating_add(1);
            let what =
                address.map_or_else(|| "the link works".to_owned(), |it| format!("{it} is there"));
            let text = format!(
                "the daemons believed for {} ms that {what}, which was not so; they should have known after {} ms",
                took.as_millis(),
                deadline.as_millis()
            );
            tell(&mut self.actions, Weight::Warning, Some(&name), text);
        }
    }

    /// When something will have been untrue for too long.
    pub(super) fn next_overdue(&self) -> Option<Duration> {
        let uncounted = self.audit.untrue.iter().filter(|(_, since)| !since.counted);
        uncounted.map(|(_, since)| since.due.saturating_add(SLACK)).min()
    }

    /// What daemons take to be otherwise than it is about a NIC.
    fn contradictions(&self, nic: &Nic) -> Vec<What> {
        let ifindex = nic.ifindex;
        let fails = |action: &Action| self.failed.contains_key(action);
        let link = self.world.link(ifindex).filter(|link| {
            // Of two links of one name, one is known late to be called otherwise.
            let usurped = link.name != nic.name && nic.usurper(&self.world).is_some();
            let works = link.up && link.running && !usurped;
            !works && nic.belief.link() != Believed::Failed
        });
        // What a pod has of the same address is not the node's.
        let nowhere = |address: &Address| {
            let on_nic = self.world.has_ip(ifindex, address.ip);
            let on_bearer = nic.bearer.is_some_and(|bearer| self.world.has_ip(bearer, address.ip));
            !on_nic && !on_bearer && !self.world.on_a_bridge(address.ip)
        };
        let believed = nic.believed().filter(nowhere);
        let told = nic.belief.gone().iter().copied().filter(nowhere);
        let untold =
            told.filter(|address| fails(&Action::ReplayRemoval { ifindex, address: *address }));
        let link = link.map(|_: &Link| (ifindex, None));
        link.into_iter().chain(believed.chain(untold).map(|it| (ifindex, Some(it)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_that_alternate_put_nothing_off() {
        let ms = Duration::from_millis;
        let mut since = Since::now(ms(1000));
        for (now, deadline, due) in [
            (1000, 1900, 2900),
            (1500, 0, 1500),
            (1600, 0, 1500),
            (1700, 1900, 2900),
            (2000, 0, 2000),
            (2100, 1900, 2900),
            (3500, 0, 2900),
            (4000, 1900, 2900),
        ] {
            since.follow(ms(deadline), ms(now));
            assert_eq!(since.due, ms(due), "at {now} ms");
        }
    }
}
