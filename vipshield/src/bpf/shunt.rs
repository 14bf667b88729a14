//! Laying shunts: the TC programs on NIC and bearer, and the maps that say when they act.

use std::collections::HashMap as Laid;

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
};
use vipshield_common::{
    maps,
    shunt::{ShuntEnd, Thrown, trigger},
};

use super::{
    BpfError, absent_is_fine,
    classifiers::{Classifier, Classifiers},
    placer::Ticket,
    take,
};
use crate::engine::{Shunt, Trigger};

/// See the [module](self).
pub(super) struct Shunts {
    ends: HashMap<MapData, u32, ShuntEnd>,
    thrown: HashMap<MapData, u32, Thrown>,
    /// By NIC.
    laid: Laid<u32, Shunt>,
    /// NICs whose programs are being put in place.
    waiting: Laid<Ticket, u32>,
}

impl Shunts {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            ends: take(ebpf, maps::SHUNT_ENDS)?,
            thrown: take(ebpf, maps::SHUNTED)?,
            laid: Laid::new(),
            waiting: Laid::new(),
        })
    }

    /// Replaces the shunt of a NIC. One that was thrown because the NIC joined its bridge stays so for its
    /// time, or until it is over; any other ends here. None: it is laid; otherwise once what was asked for is
    /// [in place](Self::placed).
    pub(super) fn set(
        &mut self,
        classifiers: &mut Classifiers,
        ebpf: &mut Ebpf,
        nic: u32,
        shunt: Option<Shunt>,
    ) -> Result<Option<Ticket>, BpfError> {
        if shunt.is_none_or(|shunt| shunt.over || shunt.trigger == Trigger::Join) {
            absent_is_fine(maps::SHUNTED, self.thrown.remove(&nic))?;
        }
        if let Some(old) = self.laid.get(&nic).map(|shunt| shunt.bearer)
            && shunt.is_none_or(|shunt| shunt.bearer != old)
        {
            absent_is_fine(maps::SHUNT_ENDS, self.ends.remove(&nic))?;
            self.laid.remove(&nic);
            if !self.give_to_another(old)? {
                absent_is_fine(maps::SHUNT_ENDS, self.ends.remove(&old))?;
                classifiers.detach(old, Classifier::ShuntEgress);
            }
            if shunt.is_none() {
                classifiers.detach(nic, Classifier::ShuntIngress);
            }
        }
        let Some(shunt) = shunt else { return Ok(None) };
        // Before anything can fail: what was attached by then is found again.
        self.laid.insert(nic, shunt);
        let places = [(nic, Classifier::ShuntIngress), (shunt.bearer, Classifier::ShuntEgress)];
        let ticket = classifiers.attach(ebpf, &places)?;
        match ticket {
            Some(ticket) => {
                self.waiting.insert(ticket, nic);
            }
            None => self.arm(nic, shunt)?,
        }
        Ok(ticket)
    }

    /// Programs that were asked for are in place, or could not be put there.
    pub(super) fn placed(&mut self, ticket: Ticket, in_place: bool) -> Result<(), BpfError> {
        let nic = self.waiting.remove(&ticket);
        let laid = nic.and_then(|nic| Some((nic, *self.laid.get(&nic)?)));
        // What was laid since waits for its own.
        match laid.filter(|(nic, _)| in_place && !self.waiting.values().any(|other| other == nic)) {
            Some((nic, shunt)) => self.arm(nic, shunt),
            None => Ok(()),
        }
    }

    /// Tells the programs.
    fn arm(&mut self, nic: u32, shunt: Shunt) -> Result<(), BpfError> {
        let Shunt { bearer, trigger, lasts, .. } = shunt;
        let trigger = match trigger {
            Trigger::Join => trigger::JOIN,
            Trigger::Cut => trigger::CUT,
        };
        let lasts_ms = u32::try_from(lasts.as_millis()).unwrap_or(u32::MAX);
        for (at, peer) in [(nic, bearer), (bearer, nic)] {
            self.ends
                .insert(at, ShuntEnd { peer, nic, trigger, lasts_ms }, 0)
                .map_err(|source| BpfError::Map { map: maps::SHUNT_ENDS, source })?;
        }
        Ok(())
    }

    /// Gives a bearer's end to another NIC with a shunt to it. A bearer of several NICs has one end
    /// only: the last one's. False: there is no other NIC.
    fn give_to_another(&mut self, bearer: u32) -> Result<bool, BpfError> {
        let mut others = self.laid.iter().filter(|(_, other)| other.bearer == bearer);
        let Some((nic, _)) = others.next() else { return Ok(false) };
        // One that was not laid wholly has no end.
        let Ok(end) = self.ends.get(nic, 0) else { return Ok(false) };
        self.ends
            .insert(bearer, ShuntEnd { peer: *nic, ..end }, 0)
            .map_err(|source| BpfError::Map { map: maps::SHUNT_ENDS, source })?;
        Ok(true)
    }
}
