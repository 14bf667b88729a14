//! The node's own network state: seen through rtnetlink, changed through rtnetlink.

mod announce;
mod carry;
mod clsact;
mod dump;
mod groups;
mod monitor;
mod neighbours;
mod own;
mod replay;
mod route;
mod rule;
mod sourced;
mod switch;
mod unix;
mod vip;

pub use self::{
    announce::{AnnounceError, Announcer},
    carry::{Carrier, CarryError, PROTOCOL, SPARE_TABLE},
    clsact::ClsactError,
    dump::dump,
    groups::{GroupError, Groups},
    monitor::{Monitor, MonitorError, Read},
    neighbours::{NeighbourError, Neighbours},
    own::{ANCHOR, EARLY_ANCHOR, OWN, STAND_IN},
    replay::{Replay, ReplayError},
    switch::{Service, SwitchError, service},
    unix::{NamedSocket, named},
    vip::{VipError, Vips},
};
