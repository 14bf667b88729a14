//! What the engine is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{
    Config,
    action::Action,
    carry::{Carried, Route},
    handover::Handover,
    heard::Heard,
    probe::Received,
    rules::GuardRule,
    speakers::Speaker,
    vips::Intent,
    world::{Address, Daemon, Link, Rule},
};

/// Something was seen, or an action ended. Whatever it is, it only wakes the engine: decisions
/// follow from the whole observed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// All links, addresses, routes and rules: at start, and after events were lost.
    Snapshot {
        /// Every link.
        links: Vec<Link>,
        /// Every address with its interface index.
        addresses: Vec<(u32, Address)>,
        /// Every route of the main table with its interface index, or 0.
        routes: Vec<(u32, Route)>,
        /// Every rule of others, in the kernel's order.
        rules: Vec<Rule>,
    },
    /// A link appeared or changed.
    Link {
        /// The link as it now is.
        link: Link,
    },
    /// A link is gone.
    LinkRemoved {
        /// Interface index.
        ifindex: u32,
    },
    /// An address appeared or changed.
    Address {
        /// Interface index.
        ifindex: u32,
        /// The address.
        address: Address,
        /// Netlink port of whoever asked for it; 0 is the kernel.
        requester: u32,
    },
    /// An address is gone.
    AddressRemoved {
        /// Interface index.
        ifindex: u32,
        /// The address.
        address: Address,
        /// Netlink port of whoever asked for it; 0 is the kernel.
        requester: u32,
    },
    /// The NICs of a vipshield that is gone, and the names under which its daemons know them. Told
    /// once, before the first snapshot.
    Inherited {
        /// By interface index.
        names: BTreeMap<u32, String>,
        /// Addresses that they may believe to be there still: it was withheld that these left.
        #[serde(default)]
        held: BTreeMap<u32, BTreeSet<Address>>,
    },
    /// What a vipshield that is gone carries for NICs still. Told once, before the first snapshot.
    Carried {
        /// By interface index.
        nics: BTreeMap<u32, Carried>,
    },
    /// This vipshield takes over from one that runs. Told once, before the first snapshot.
    TakenOver {
        /// What that one knows.
        from: Box<Handover>,
    },
    /// Frames passed guarded NICs or their bearers.
    Heard {
        /// In the order in which they did.
        frames: Vec<Heard>,
    },
    /// Adverts arrived at sockets like those of the daemons.
    Received {
        /// Each is named once.
        adverts: Vec<Received>,
    },
    /// A process asked for an address, or for its removal.
    Intent {
        /// What exactly.
        intent: Intent,
    },
    /// The last that processes asked of each address, as it is kept where nothing is lost: whatever else
    /// was, or will be, heard of it is older.
    LastWords {
        /// What exactly.
        intents: Vec<Intent>,
    },
    /// Addresses that an earlier vipshield has moved for a daemon, and that are still there. Told
    /// once, when the daemons are known.
    Moved {
        /// Which, with the interface index of where they are.
        addresses: Vec<(u32, Address)>,
    },
    /// The kernel granted an IPv6 address, which it did not name, to a process.
    Granted {
        /// Netlink port from which it asked.
        port: u32,
        /// Sequence number of the request.
        sequence: u32,
    },
    /// A route of the main table appeared or changed.
    Route {
        /// Interface index; 0 if no single interface has it: it has several next hops, or leads nowhere.
        ifindex: u32,
        /// The route.
        route: Route,
        /// It took the place of the one, on whatever interface, that had its destination and metric.
        /// The kernel says nothing else of the end of that.
        replaces: bool,
    },
    /// A route of the main table is gone.
    RouteRemoved {
        /// Interface index, or 0.
        ifindex: u32,
        /// The route.
        route: Route,
    },
    /// Somebody added a routing rule.
    Rule {
        /// The rule.
        rule: Rule,
    },
    /// Somebody's routing rule is gone.
    RuleRemoved {
        /// The rule.
        rule: Rule,
    },
    /// Whether a switch that NICs are ports of takes new flows. Without it what is new gets nowhere, and what
    /// was under way goes on.
    Switch {
        /// Interface index of the switch: of Open vSwitch, its datapath.
        ifindex: u32,
        /// Whether it does.
        served: bool,
    },
    /// A guarded daemon was seen to start or to end: some moments later one may read what is there.
    Turnover,
    /// All guarded daemons.
    Daemons {
        /// The result of a whole scan.
        daemons: Vec<Daemon>,
    },
    /// Who else speaks VRRP, or might, and is not guarded.
    Speakers {
        /// All of them.
        speakers: Vec<Speaker>,
    },
    /// The daemons could not be looked at: what is known of them stays until [`Event::Daemons`].
    DaemonsUnknown {
        /// Why, and the way out.
        error: String,
        /// Process ids of those that are gone for certain.
        gone: Vec<u32>,
    },
    /// The guard withheld a message.
    Withheld {
        /// What it was.
        message: Withheld,
    },
    /// An action was carried out.
    Succeeded {
        /// Which.
        action: Action,
    },
    /// An action failed.
    Failed {
        /// Which.
        action: Action,
        /// What the system said, with the errno.
        error: String,
    },
    /// The operator has another configuration now. It holds once nothing is untrue to daemons, which is at the
    /// deadline at the latest: so it makes no deadline longer that runs.
    Configured {
        /// All of it.
        config: Box<Config>,
    },
    /// The deadline that [`next_deadline`](super::Engine::next_deadline) named has come. What daemons said until
    /// now has been told before.
    Tick,
    /// The operator asked vipshield to end: tell every daemon the truth and let go.
    Stop,
}

/// A message that the guard withheld, as the engine needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Interface index in the message.
    pub ifindex: u32,
    /// Netlink port of whoever asked for the change; 0 is the kernel.
    pub requester: u32,
    /// The guard's rule that withheld it.
    pub rule: GuardRule,
    /// What it would have said.
    pub about: About,
}

/// What a withheld message would have said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "snake_case")]
pub enum About {
    /// An address is gone.
    AddressRemoval {
        /// Which.
        address: Address,
    },
    /// The link was taken down.
    AdminDown,
    /// The link lost its carrier.
    CarrierLoss,
    /// The link has another name.
    Rename {
        /// The new one.
        name: String,
    },
    /// Another interface has the NIC's name.
    NameConflict {
        /// That name.
        name: String,
    },
    /// A bridge's word about its port.
    BridgePort,
    /// One of vipshield's own addresses came or went.
    OwnAddress {
        /// Which.
        ip: IpAddr,
    },
    /// An address came that, to the daemon, never left, or that is to leave at once.
    KnownAddress {
        /// Which.
        ip: IpAddr,
    },
    /// The kernel dropped a route of keepalived's.
    RouteRemoval {
        /// Where it led.
        destination: Address,
    },
}
