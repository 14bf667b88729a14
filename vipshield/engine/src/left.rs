//! What a vipshield that is gone, or hands over, has left: each thing until the NIC that it is about is guarded.

use std::collections::{BTreeMap, BTreeSet};

use super::{carry::Carried, nic::Remembered, world::Address};

/// See the [module](self). By interface index.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// The names under which daemons know its NICs.
    pub(super) names: BTreeMap<u32, String>,
    /// Addresses of which it has withheld that they left.
    pub(super) held: BTreeMap<u32, BTreeSet<Address>>,
    /// What it carries.
    pub(super) carried: BTreeMap<u32, Carried>,
    /// What it has said of its NICs while it handed over.
    pub(super) remembered: BTreeMap<u32, Remembered>,
    /// It has guarded a daemon here, as what it has left says.
    pub(super) marks: bool,
}
