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
    take,
};
use crate::engine::{Shunt, Trigger};

/// See the [module](self).
pub(super) struct Shunts {
    ends: HashMap<MapData, u32, ShuntEnd>,
    thrown: HashMap<MapData, u32, Thrown>,
    /// Bearers by NIC.
    laid: Laid<u32, u32>,
}

impl Shunts {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            ends: take(ebpf, maps::SHUNT_ENDS)?,
            thrown: take(ebpf, maps::SHUNTED)?,
            laid: Laid::new(),
        })
    }

    /// Replaces the shunt of a NIC. One that was thrown because the NIC joined its bridge stays so for its
    /// time, or until it is over; any other ends here.
    pub(super) fn set(
        &mut self,
        classifiers: &mut Classifiers,
        ebpf: &mut Ebpf,
        nic: u32,
        shunt: Option<Shunt>,
    ) -> Result<(), BpfError> {
        if shunt.is_none_or(|shunt| shunt.over || shunt.trigger == Trigger::Join) {
            absent_is_fine(maps::SHUNTED, self.thrown.remove(&nic))?;
        }
        if let Some(old) = self.laid.get(&nic).copied()
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
        let Some(Shunt { bearer, trigger, lasts, .. }) = shunt else { return Ok(()) };
        let trigger = match trigger {
            Trigger::Join => trigger::JOIN,
            Trigger::Cut => trigger::CUT,
        };
        let lasts_ms = u32::try_from(lasts.as_millis()).unwrap_or(u32::MAX);
        // Before anything can fail: what was attached by then is found again.
        self.laid.insert(nic, bearer);
        classifiers.attach(ebpf, nic, Classifier::ShuntIngress)?;
        classifiers.attach(ebpf, bearer, Classifier::ShuntEgress)?;
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
        let mut others = self.laid.iter().filter(|(_, other)| **other == bearer);
        let Some((nic, _)) = others.next() else { return Ok(false) };
        // One that was not laid wholly has no end.
        let Ok(end) = self.ends.get(nic, 0) else { return Ok(false) };
        self.ends
            .insert(bearer, ShuntEnd { peer: *nic, ..end }, 0)
            .map_err(|source| BpfError::Map { map: maps::SHUNT_ENDS, source })?;
        Ok(true)
    }
}
