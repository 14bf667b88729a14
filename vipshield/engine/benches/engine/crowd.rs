//! A node with many interfaces: one NIC with a VIP, free or a port of Open vSwitch, and the interfaces
//! of pods, each with an address and a route.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use vipshield_engine::{
    Action, Address, CommandSocket, Config, Daemon, Engine, Event, Family, Filter, Heard, Link,
    MonitorSocket, OnStop, OwnRules, Role, Route, Rule, RuleKind, SocketId, VrrpSocket,
    wire::{Advert, Arp, Authentication, Checksum, Content, Frame, Mac, Operation, Version},
};

/// The interfaces of pods are numbered from here.
const FIRST_POD: u32 = 10;
/// Behind those of pods: whoever walks over interfaces to find these meets all others first.
const NIC: u32 = 1_000_002;
const DATAPATH: u32 = 1_000_003;
const BRIDGE: u32 = 1_000_004;
const NIC_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);
const NODE_IP: &str = "192.0.2.11/24";
const VIP: &str = "192.0.2.10/32";
const COMMAND_PORT: u32 = 1234;
/// Netlink port of whoever makes interfaces for pods.
const CNI: u32 = 4001;

/// Where the NIC's traffic goes up the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the NIC.
    Free,
    /// On a bridge of Open vSwitch.
    Bridged,
}

/// Something that happens again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The interface of a pod appears, and goes.
    PodLink,
    /// An address of it.
    PodAddress,
    /// A route to it.
    PodRoute,
    /// An advert of this node passes the NIC.
    Advert,
    /// Another host claims the VIP, by ARP.
    Claim,
    /// The kernel tells of an address of the NIC that is known.
    NicAddress,
    /// The VIP goes, and comes back, with all that follows from it.
    VipMoves,
}

impl Happening {
    pub(crate) const ALL: [Self; 7] = [
        Self::PodLink,
        Self::PodAddress,
        Self::PodRoute,
        Self::Advert,
        Self::Claim,
        Self::NicAddress,
        Self::VipMoves,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PodLink => "link of a pod",
            Self::PodAddress => "address of a pod",
            Self::PodRoute => "route to a pod",
            Self::Advert => "advert",
            Self::Claim => "ARP claim of the VIP",
            Self::NicAddress => "address of the NIC, as before",
            Self::VipMoves => "VIP goes and comes back",
        }
    }

    /// How many events that is.
    pub(crate) const fn events(self) -> u32 {
        match self {
            Self::Advert | Self::Claim | Self::NicAddress => 1,
            Self::PodLink | Self::PodAddress | Self::PodRoute | Self::VipMoves => 2,
        }
    }
}

/// See the [module](self).
pub(crate) struct Crowd {
    engine: Engine,
    place: Place,
    /// How many pods there are.
    pods: u32,
    now: Duration,
}

/// What every node has.
fn rules() -> Vec<Rule> {
    let rules = |family| {
        [(0, RuleKind::Local), (32_766, RuleKind::Main)].map(|(priority, kind)| Rule {
            family,
            priority,
            kind,
        })
    };
    Family::ALL.into_iter().flat_map(rules).collect()
}

impl Crowd {
    /// With so many interfaces of pods.
    pub(crate) fn new(place: Place, pods: u32) -> Self {
        let engine = Engine::new(Config {
            interfaces: vec!["ens192".to_owned()],
            deadline: Duration::from_secs(1),
            replay_port: 4242,
            own_addresses: Vec::new(),
            on_stop: OnStop::default(),
            rules: OwnRules::default(),
            observe: false,
        });
        let now = Duration::from_secs(100);
        let mut crowd = Self { engine, place, pods, now };
        let numbers = 0..pods;
        crowd.tell(Event::Snapshot {
            links: crowd
                .infrastructure()
                .into_iter()
                .chain(numbers.clone().map(pod_link))
                .collect(),
            addresses: [NODE_IP, VIP]
                .map(|ip| (crowd.holder(), address(ip)))
                .into_iter()
                .chain(numbers.clone().map(|number| (FIRST_POD + number, pod_address(number))))
                .collect(),
            routes: std::iter::once((crowd.holder(), default_route()))
                .chain(numbers.map(|number| (FIRST_POD + number, pod_route(number))))
                .collect(),
            rules: rules(),
        });
        crowd.tell(Event::Daemons { daemons: vec![keepalived(crowd.holder())] });
        // What is new settles.
        for _ in 0..4 {
            crowd.happen(Happening::Advert);
            crowd.now += Duration::from_secs(1);
            crowd.tell(Event::Tick);
        }
        crowd
    }

    /// It happens once.
    pub(crate) fn happen(&mut self, what: Happening) {
        self.now += Duration::from_millis(1);
        let (number, holder) = (self.pods, self.holder());
        let ifindex = FIRST_POD + number;
        match what {
            Happening::PodLink => {
                self.tell(Event::Link { link: pod_link(number) });
                self.tell(Event::LinkRemoved { ifindex });
            }
            Happening::PodAddress => {
                let (address, requester) = (pod_address(number), CNI);
                self.tell(Event::Address { ifindex, address, requester });
                self.tell(Event::AddressRemoved { ifindex, address, requester });
            }
            Happening::PodRoute => {
                let route = pod_route(number);
                self.tell(Event::Route { ifindex, route, replaces: true });
                self.tell(Event::RouteRemoved { ifindex, route });
            }
            Happening::Advert => {
                let frame = frame(NIC_MAC, Content::Advert(advert()));
                let heard = Heard { ifindex: holder, sent: true, shunted: false, frame: Ok(frame) };
                self.tell(Event::Heard { frames: vec![heard] });
            }
            Happening::Claim => {
                let frame = frame(PEER_MAC, Content::Arp(arp()));
                let heard =
                    Heard { ifindex: holder, sent: false, shunted: false, frame: Ok(frame) };
                self.tell(Event::Heard { frames: vec![heard] });
            }
            Happening::NicAddress => {
                let address = address(NODE_IP);
                self.tell(Event::Address { ifindex: holder, address, requester: CNI });
            }
            Happening::VipMoves => {
                let (ifindex, address, requester) = (holder, address(VIP), CNI);
                self.tell(Event::AddressRemoved { ifindex, address, requester });
                self.tell(Event::Address { ifindex, address, requester });
            }
        }
    }

    /// As the driver does it: the event, and what follows from it.
    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.engine.handle(event, self.now);
            while let Some(action) = self.engine.poll_action() {
                if !matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                    events.push_back(Event::Succeeded { action });
                }
            }
            let _ = self.engine.next_deadline();
        }
    }

    /// The interface that has the NIC's addresses.
    const fn holder(&self) -> u32 {
        match self.place {
            Place::Free => NIC,
            Place::Bridged => BRIDGE,
        }
    }

    fn infrastructure(&self) -> Vec<Link> {
        let bridged = self.place == Place::Bridged;
        let link = |ifindex, name: &str, kind: Option<&str>, master| Link {
            ifindex,
            name: name.to_owned(),
            up: true,
            running: true,
            master,
            kind: kind.map(str::to_owned),
            link: None,
            mac: NIC_MAC.0.to_vec(),
        };
        let mut datapath = link(DATAPATH, "ovs-system", Some("openvswitch"), None);
        datapath.mac = vec![2, 0, 0, 0, 0, 3];
        let mut bridge = link(BRIDGE, "br-provider", Some("openvswitch"), Some(DATAPATH));
        if !bridged {
            bridge.mac = vec![2, 0, 0, 0, 0, 4];
        }
        vec![link(NIC, "ens192", None, bridged.then_some(DATAPATH)), datapath, bridge]
    }
}

/// The interface of a pod, a port of Open vSwitch.
fn pod_link(number: u32) -> Link {
    let [_, a, b, c] = number.to_be_bytes();
    Link {
        ifindex: FIRST_POD + number,
        name: format!("{number:08x}_h"),
        up: true,
        running: true,
        master: Some(DATAPATH),
        kind: Some("veth".to_owned()),
        link: None,
        mac: vec![2, 1, 0, a, b, c],
    }
}

fn pod_address(number: u32) -> Address {
    let [_, a, b, c] = number.to_be_bytes();
    Address { ip: IpAddr::from([10, a, b, c]), prefix_len: 32 }
}

fn pod_route(number: u32) -> Route {
    let destination = pod_address(number).ip;
    Route { destination, prefix_len: 32, metric: 0, gateway: None, source: None, mtu: 1400 }
}

fn default_route() -> Route {
    let (destination, gateway) = (IpAddr::from([0; 4]), Some(IpAddr::from([192, 0, 2, 1])));
    Route { destination, prefix_len: 0, metric: 100, gateway, source: None, mtu: 0 }
}

fn address(text: &str) -> Address {
    let parts = text.split_once('/').and_then(|(ip, prefix_len)| {
        Some(Address { ip: ip.parse().ok()?, prefix_len: prefix_len.parse().ok()? })
    });
    parts.unwrap_or(Address { ip: IpAddr::from([0; 4]), prefix_len: 0 })
}

fn keepalived(bound: u32) -> Daemon {
    let id = |fd| SocketId { pid: 700, fd, inode: u64::from(700 + fd.unsigned_abs()) };
    let vrrp = |fd| VrrpSocket {
        id: id(fd),
        family: Family::Ipv4,
        bound: Some(bound),
        home: Some(NIC),
        multicast: None,
        group: None,
        sends: false,
    };
    Daemon {
        pid: 700,
        start_time: 1,
        name: "keepalived".to_owned(),
        role: Role::Vrrp,
        commands: vec![CommandSocket { id: id(11), port: COMMAND_PORT, filter: Filter::None }],
        monitors: vec![MonitorSocket { id: id(10), filter: Filter::None }],
        vrrp: vec![vrrp(20), vrrp(21)],
        trouble: None,
        polls: false,
        excluded: Vec::new(),
    }
}

fn advert() -> Advert {
    Advert {
        version: Version::V2,
        source: address(NODE_IP).ip,
        destination: IpAddr::from([224, 0, 0, 18]),
        hops: 255,
        router_id: 51,
        priority: 150,
        interval: Duration::from_secs(1),
        addresses: vec![address(VIP).ip],
        authentication: Authentication::None,
        checksum: Checksum::Standard,
        trailer: false,
    }
}

fn arp() -> Arp {
    let vip = [192, 0, 2, 10].into();
    Arp {
        operation: Operation::Reply,
        sender_mac: PEER_MAC,
        sender: vip,
        target_mac: Mac([0xff; 6]),
        target: vip,
    }
}

fn frame(source: Mac, content: Content) -> Frame {
    Frame { destination: Mac([0xff; 6]), source, vlan: None, content }
}
