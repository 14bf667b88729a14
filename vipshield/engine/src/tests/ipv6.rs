//! What is different about IPv6: the kernel does not say who asked for an address, and announces one
//! later than it answers; link-local VIPs stay behind; sockets send from what the NIC has.

use std::{collections::VecDeque, time::Duration};

use super::{
    super::{
        Action, Address, CommandSocket, Daemon, Engine, Event, Family, Filter, Intent, Link,
        MonitorSocket, Phase, Role, SocketId, VrrpSocket, world::usual,
    },
    bench::{DEADLINE, engine},
    node::{BRIDGE, NIC},
};

const NIC_INDEX: u32 = 2;
const BRIDGE_INDEX: u32 = 3;
const PORT: u32 = 1234;
const PID: u32 = 700;
const OWN: &str = "2001:db8::11/64";
const VIP: &str = "2001:db8::10/128";
const LOCAL: &str = "fe80::5054:ff:fe00:1/64";
/// The descriptor of the socket that only sends.
const SENDS: i32 = 6;
const LOCAL_VIP: &str = "fe80::10/128";

fn address(text: &str) -> Address {
    let (ip, length) = text.split_once('/').unwrap();
    Address { ip: ip.parse().unwrap(), prefix_len: length.parse().unwrap() }
}

fn nic(master: Option<u32>) -> Link {
    let (up, running) = (true, true);
    Link { ifindex: NIC_INDEX, name: NIC.to_owned(), up, running, master, ..Link::default() }
}

fn bridge() -> Link {
    let kind = Some("bridge".to_owned());
    let (up, running) = (true, true);
    Link { ifindex: BRIDGE_INDEX, name: BRIDGE.to_owned(), up, running, kind, ..Link::default() }
}

fn socket(fd: i32) -> SocketId {
    SocketId { pid: PID, fd, inode: fd as u64 }
}

fn daemon() -> Daemon {
    let vrrp = |fd| VrrpSocket {
        id: socket(fd),
        family: Family::Ipv6,
        bound: Some(NIC_INDEX),
        home: Some(NIC_INDEX),
        multicast: None,
        group: None,
        sends: fd == SENDS,
    };
    Daemon {
        pid: PID,
        start_time: 1,
        name: "keepalived".to_owned(),
        role: Role::Vrrp,
        commands: vec![CommandSocket { id: socket(3), port: PORT, filter: Filter::None }],
        monitors: vec![MonitorSocket { id: socket(4), filter: Filter::None }],
        vrrp: vec![vrrp(5), vrrp(6)],
        trouble: None,
        polls: false,
        excluded: Vec::new(),
    }
}

/// An engine whose every action succeeds at once.
struct Six {
    engine: Engine,
    now: Duration,
}

impl Six {
    /// A free NIC with these addresses.
    fn with(addresses: &[&str]) -> Self {
        let mut six = Self { engine: engine(), now: Duration::from_secs(1) };
        let addresses = addresses.iter().map(|text| (NIC_INDEX, address(text))).collect();
        six.feed(Event::Snapshot {
            links: vec![nic(None)],
            addresses,
            routes: Vec::new(),
            rules: usual(),
        });
        six
    }

    /// The same with a daemon.
    fn guarding(addresses: &[&str]) -> Self {
        let mut six = Self::with(addresses);
        six.feed(Event::Daemons { daemons: vec![daemon()] });
        six
    }

    /// Everything it wants done in consequence.
    fn feed(&mut self, event: Event) -> Vec<Action> {
        let mut wanted = Vec::new();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            self.engine.handle(event, self.now);
            while let Some(action) = self.engine.poll_action() {
                if matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                    continue;
                }
                wanted.push(action.clone());
                events.push_back(Event::Succeeded { action });
            }
            assert!(wanted.len() < 100, "no end: {wanted:?}");
        }
        wanted
    }

    fn comes(&mut self, ifindex: u32, text: &str) -> Vec<Action> {
        self.feed(Event::Address { ifindex, address: address(text), requester: 0 })
    }

    fn goes(&mut self, ifindex: u32, text: &str) -> Vec<Action> {
        self.feed(Event::AddressRemoved { ifindex, address: address(text), requester: 0 })
    }

    fn says(&mut self, text: &str, wanted: bool, refused: bool) -> Vec<Action> {
        let (port, sequence, ifindex, address) = (PORT, 0, 2, address(text));
        let intent = Intent { port, sequence, ifindex, address, wanted, refused };
        self.feed(Event::Intent { intent })
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.feed(Event::Tick)
    }

    /// The NIC becomes a port of the bridge, which has its addresses.
    fn enslave(&mut self, moved: &[&str]) -> Vec<Action> {
        let mut wanted = self.feed(Event::Link { link: bridge() });
        for text in moved {
            wanted.extend(self.goes(NIC_INDEX, text));
            wanted.extend(self.comes(BRIDGE_INDEX, text));
        }
        wanted.extend(self.feed(Event::Link { link: nic(Some(BRIDGE_INDEX)) }));
        assert_eq!(self.phase(), Phase::Bridged);
        wanted
    }

    fn phase(&self) -> Phase {
        self.engine.status(self.now).nics[0].phase
    }

    fn is_home(&self, text: &str) -> bool {
        let nics = self.engine.status(self.now).nics;
        nics[0].addresses.iter().any(|known| known == text)
    }
}

fn moves(wanted: &[Action]) -> Vec<(Address, u32, u32)> {
    let of = |action: &Action| match action {
        Action::MoveVip { address, from, to } => Some((*address, *from, *to)),
        _ => None,
    };
    wanted.iter().filter_map(of).collect()
}

fn replays(wanted: &[Action]) -> usize {
    wanted.iter().filter(|action| matches!(action, Action::ReplayRemoval { .. })).count()
}

#[test]
fn what_the_daemon_removes_itself_is_not_missed() {
    let mut six = Six::guarding(&[OWN, VIP]);
    six.goes(NIC_INDEX, VIP);
    assert_eq!(six.phase(), Phase::Leaving, "anybody may have removed it");
    six.says(VIP, false, false);
    assert_eq!(six.phase(), Phase::Free);
    assert!(!six.is_home(VIP));
    assert_eq!(replays(&six.after(2 * DEADLINE)), 0);
}

#[test]
fn what_somebody_else_removes_is_told_at_the_deadline_and_only_once() {
    let mut six = Six::guarding(&[OWN, VIP]);
    six.goes(NIC_INDEX, OWN);
    assert_eq!(replays(&six.after(DEADLINE)), 1);
    // The kernel says of its moment on the NIC what it says of any address.
    six.comes(NIC_INDEX, OWN);
    six.goes(NIC_INDEX, OWN);
    assert_eq!(replays(&six.after(2 * DEADLINE)), 0);
    // Later it is the address itself.
    six.comes(NIC_INDEX, OWN);
    assert!(six.is_home(OWN));
}

#[test]
fn a_vip_taken_on_a_port_goes_to_the_bridge() {
    for granted_first in [false, true] {
        let mut six = Six::guarding(&[OWN, LOCAL]);
        six.says(VIP, false, true);
        six.enslave(&[OWN]);
        let grant = Event::Granted { port: PORT, sequence: 1 };
        let mut wanted = Vec::new();
        if granted_first {
            wanted.extend(six.feed(grant.clone()));
        }
        wanted.extend(six.comes(NIC_INDEX, VIP));
        if !granted_first {
            wanted.extend(six.feed(grant));
        }
        let removed = |action: &Action| matches!(action, Action::RemoveVip { .. });
        assert!(!wanted.iter().any(removed), "{wanted:?}");
        assert_eq!(moves(&wanted), [(address(VIP), NIC_INDEX, BRIDGE_INDEX)]);
    }
}

/// While names are exchanged the bridge has the NIC's, and a daemon that begins anew takes its VIP there.
#[test]
fn a_vip_taken_on_the_bridge_stays_there() {
    for granted_first in [false, true] {
        let mut six = Six::guarding(&[OWN, LOCAL, VIP]);
        six.enslave(&[OWN, VIP]);
        six.feed(Event::Link { link: Link { name: BRIDGE.to_owned(), ..nic(Some(BRIDGE_INDEX)) } });
        six.feed(Event::Link { link: Link { name: NIC.to_owned(), ..bridge() } });
        six.says(VIP, false, false);
        six.goes(BRIDGE_INDEX, VIP);
        let grant = Event::Granted { port: PORT, sequence: 1 };
        let mut wanted = Vec::new();
        if granted_first {
            wanted.extend(six.feed(grant.clone()));
        }
        wanted.extend(six.comes(BRIDGE_INDEX, VIP));
        if !granted_first {
            wanted.extend(six.feed(grant));
        }
        wanted.extend(six.after(DEADLINE));
        let removed = |action: &Action| matches!(action, Action::RemoveVip { .. });
        assert!(!wanted.iter().any(removed), "{wanted:?}");
        assert!(six.is_home(VIP), "it is the daemon's");
    }
}

/// A daemon takes its VIP, and all that is announced in that moment is lost.
#[test]
fn a_vip_that_only_a_snapshot_shows_may_be_the_daemons() {
    for granted in [false, true] {
        let mut six = Six::guarding(&[OWN, LOCAL]);
        let (port, sequence, ifindex, vip) = (PORT, 0, NIC_INDEX, address(VIP));
        let given_up =
            Intent { port, sequence, ifindex, address: vip, wanted: false, refused: true };
        six.feed(Event::LastWords { intents: vec![given_up] });
        let mut wanted = six.feed(Event::Snapshot {
            links: vec![nic(None)],
            addresses: [OWN, LOCAL, VIP].map(|it| (NIC_INDEX, address(it))).to_vec(),
            routes: Vec::new(),
            rules: Vec::new(),
        });
        let removed = |action: &Action| matches!(action, Action::RemoveVip { .. });
        assert!(!wanted.iter().any(removed), "{wanted:?}");
        if granted {
            wanted = six.feed(Event::Granted { port: PORT, sequence: 9 });
        }
        wanted.extend(six.after(DEADLINE));
        assert_eq!(wanted.iter().any(removed), !granted, "{wanted:?}");
    }
}

/// On a busy node much happens between an address that appears and the next time that daemons are listened to.
#[test]
fn nothing_is_taken_off_before_all_was_heard() {
    for granted in [false, true] {
        let mut six = Six::guarding(&[OWN, LOCAL]);
        six.says(VIP, false, true);
        let mut wanted = six.comes(NIC_INDEX, VIP);
        six.now += DEADLINE;
        wanted.extend(six.comes(NIC_INDEX, "2001:db8::77/64"));
        let removed = |action: &Action| matches!(action, Action::RemoveVip { .. });
        assert!(!wanted.iter().any(removed), "{wanted:?}");
        assert!(six.engine.next_deadline().is_some_and(|at| at <= six.now), "it is due");
        if granted {
            six.feed(Event::Granted { port: PORT, sequence: 9 });
        }
        wanted.extend(six.feed(Event::Tick));
        assert_eq!(wanted.iter().any(removed), !granted, "{wanted:?}");
    }
}

/// The kernel gives a bridge an address of its own, which is no answer to what a daemon asked for.
#[test]
fn what_the_kernel_makes_on_a_bridge_is_no_daemons() {
    let mut six = Six::guarding(&[OWN, LOCAL]);
    six.enslave(&[OWN]);
    six.feed(Event::Granted { port: PORT, sequence: 1 });
    six.comes(BRIDGE_INDEX, "fe80::5054:ff:fe00:77/64");
    six.comes(NIC_INDEX, VIP);
    let wanted = six.feed(Event::Daemons { daemons: Vec::new() });
    let removed = |action: &Action| match action {
        Action::RemoveVip { address, .. } => Some(*address),
        _ => None,
    };
    assert!(wanted.iter().filter_map(removed).all(|gone| gone == address(VIP)), "{wanted:?}");
}

#[test]
fn what_was_given_up_and_nobody_asked_for_again_is_taken_off() {
    let mut six = Six::guarding(&[OWN]);
    six.says(VIP, false, true);
    let mut wanted = six.comes(NIC_INDEX, VIP);
    wanted.extend(six.after(Duration::from_millis(3)));
    let off = Action::RemoveVip { ifindex: NIC_INDEX, address: address(VIP) };
    assert!(wanted.contains(&off), "{wanted:?}");
}

#[test]
fn nobody_is_granted_what_the_nic_had_before() {
    let mut six = Six::guarding(&[OWN]);
    six.goes(NIC_INDEX, OWN);
    six.feed(Event::Granted { port: PORT, sequence: 1 });
    six.comes(NIC_INDEX, OWN);
    let wanted = six.feed(Event::Daemons { daemons: Vec::new() });
    let removed = |action: &Action| matches!(action, Action::RemoveVip { .. });
    assert!(!wanted.iter().any(removed), "the daemon's end takes the node's address: {wanted:?}");
}

#[test]
fn addresses_of_a_bridge_that_has_just_got_its_port_are_carried_until_they_are_there() {
    let mut six = Six::guarding(&[OWN]);
    six.feed(Event::Link { link: bridge() });
    let mut wanted = six.goes(NIC_INDEX, OWN);
    let carried = |wanted: &[Action]| {
        let mut plans = wanted.iter().filter_map(|action| match action {
            Action::Carry { new, .. } => Some((new.addresses.len(), new.routes.len())),
            _ => None,
        });
        plans.next_back()
    };
    wanted.extend(six.feed(Event::Link { link: nic(Some(BRIDGE_INDEX)) }));
    assert_eq!(six.phase(), Phase::Leaving);
    assert_eq!(carried(&wanted), Some((1, 0)));
    let wanted = six.comes(BRIDGE_INDEX, OWN);
    assert_eq!((six.phase(), carried(&wanted)), (Phase::Bridged, Some((0, 0))));
}

#[test]
fn a_link_local_vip_follows_the_nics_traffic() {
    let mut six = Six::guarding(&[OWN, LOCAL, LOCAL_VIP]);
    let wanted = six.enslave(&[OWN]);
    assert_eq!(moves(&wanted), [(address(LOCAL_VIP), NIC_INDEX, BRIDGE_INDEX)]);
    let wanted = six.feed(Event::Link { link: nic(None) });
    assert_eq!(moves(&wanted), [(address(LOCAL_VIP), BRIDGE_INDEX, NIC_INDEX)]);
}

#[test]
fn a_link_local_vip_survives_that_the_nic_is_taken_down() {
    let mut six = Six::guarding(&[OWN, LOCAL, LOCAL_VIP]);
    let down = Link { up: false, running: false, ..nic(None) };
    six.feed(Event::Link { link: down });
    for text in [LOCAL_VIP, LOCAL, OWN] {
        assert_eq!(moves(&six.goes(NIC_INDEX, text)), []);
    }
    let wanted = six.feed(Event::Link { link: nic(None) });
    assert_eq!(moves(&wanted), [(address(LOCAL_VIP), NIC_INDEX, NIC_INDEX)]);
}

#[test]
fn a_vipshield_that_ends_leaves_a_link_local_vip_where_it_found_it() {
    let mut six = Six::guarding(&[OWN, LOCAL, LOCAL_VIP]);
    six.enslave(&[OWN]);
    let wanted = six.feed(Event::Stop);
    assert_eq!(moves(&wanted), [(address(LOCAL_VIP), BRIDGE_INDEX, NIC_INDEX)]);
}

/// Which sockets are moved, and to where.
fn moved(wanted: &[Action]) -> Vec<(i32, Option<u32>)> {
    let of = |action: &Action| match action {
        Action::Rebind { socket, to, .. } => Some((socket.id.fd, *to)),
        _ => None,
    };
    wanted.iter().filter_map(of).collect()
}

/// As a scan finds the socket that receives, and the one that sends.
fn found(bound: [Option<u32>; 2], multicast: Option<u32>) -> Event {
    let mut daemon = daemon();
    for (socket, bound) in daemon.vrrp.iter_mut().zip(bound) {
        (socket.bound, socket.multicast) = (bound, multicast.filter(|_| socket.sends));
    }
    Event::Daemons { daemons: vec![daemon] }
}

/// keepalived names the NIC in each advert that it sends: a socket that is bound elsewhere may not send that
/// without a scope in the destination, which it gives since 2.2.5.
#[test]
fn a_socket_that_only_sends_stays_on_the_nic() {
    let (here, there) = (Some(NIC_INDEX), Some(BRIDGE_INDEX));
    let mut six = Six::guarding(&[OWN, LOCAL]);
    six.feed(found([here, here], here));
    assert_eq!(moved(&six.enslave(&[OWN])), [(5, there)]);
    assert_eq!(moved(&six.feed(found([there, here], here))), []);
    // Its daemon began anew and took the bridge for its NIC, or a vipshield moved it: so it may send.
    assert_eq!(moved(&six.feed(found([there, there], there))), []);
    six.feed(Event::Link { link: nic(None) });
    let wanted = six.feed(found([here, there], there));
    assert_eq!(moved(&wanted), [(SENDS, here)], "the bridge is about to go");
}

/// Bound, it would have no way but the NIC's to peers that the bridge leads to.
#[test]
fn a_socket_that_sends_to_peers_is_let_go_of_while_the_nic_is_a_port() {
    let (here, there) = (Some(NIC_INDEX), Some(BRIDGE_INDEX));
    let mut six = Six::guarding(&[OWN, LOCAL]);
    six.feed(found([here, here], None));
    assert_eq!(moved(&six.enslave(&[OWN])), [(5, there), (SENDS, None)]);
    assert_eq!(moved(&six.feed(found([there, None], None))), []);
    // Opened anew by its daemon, on the one or the other.
    for bound in [here, there] {
        assert_eq!(moved(&six.feed(found([there, bound], None))), [(SENDS, None)]);
    }
    let wanted = six.feed(Event::Link { link: nic(None) });
    assert_eq!(moved(&wanted), [(5, here), (SENDS, here)]);
    assert_eq!(moved(&six.feed(found([here, here], None))), []);
}

/// keepalived 2.0 never bound it; a vipshield that was killed may have let it go. So it sends wherever the NIC is.
#[test]
fn a_socket_that_sends_to_peers_and_was_found_unbound_stays_so() {
    let (here, there) = (Some(NIC_INDEX), Some(BRIDGE_INDEX));
    let mut six = Six::with(&[OWN, LOCAL]);
    assert_eq!(moved(&six.feed(found([here, None], None))), []);
    assert_eq!(moved(&six.enslave(&[OWN])), [(5, there)]);
    assert_eq!(moved(&six.feed(Event::Link { link: nic(None) })), [(5, here)]);
}

/// keepalived up to 2.0.20 binds none that it sends from: what it may send from is told by where it sends.
#[test]
fn an_unbound_socket_may_send_without_its_address_too() {
    let mut six = Six::with(&[OWN]);
    let mut daemon = daemon();
    for socket in daemon.vrrp.iter_mut().filter(|socket| socket.sends) {
        (socket.bound, socket.multicast) = (None, Some(NIC_INDEX));
    }
    let wanted = six.feed(Event::Daemons { daemons: vec![daemon] });
    let speaks = |action: &&Action| matches!(action, Action::Speak { from_anywhere: true, .. });
    assert_eq!(wanted.iter().filter(speaks).count(), 2, "{wanted:?}");
}

/// Of one that is checked for duplicates the kernel says nothing before it is done with that.
#[test]
fn daemons_were_told_only_if_the_address_was_not_there() {
    for there in [false, true] {
        let mut six = Six::guarding(&[OWN, LOCAL]);
        six.goes(NIC_INDEX, LOCAL);
        six.now += DEADLINE;
        six.engine.handle(Event::Tick, six.now);
        let mut events = Vec::new();
        while let Some(action) = six.engine.poll_action() {
            if matches!(action, Action::ReplayRemoval { .. }) && there {
                let (ifindex, address) = (NIC_INDEX, address(LOCAL));
                events.push(Event::Address { ifindex, address, requester: 0 });
            }
            events.push(Event::Succeeded { action });
        }
        six.engine.handle_all(events, six.now);
        let mut said = Vec::new();
        while let Some(action) = six.engine.poll_action() {
            if let Action::Tell { notice } = action {
                said.push(notice.text);
            }
        }
        let told = said.iter().any(|text| text.contains("were told that fe80"));
        assert_eq!(told, !there, "{said:?}");
        assert_eq!(six.is_home(LOCAL), there, "{said:?}");
    }
}

#[test]
fn vrrp_sockets_may_send_without_their_address_for_as_long_as_vipshield_runs() {
    let mut six = Six::with(&[OWN]);
    let speak = |wanted: &[Action], so: bool| {
        let of = |action: &&Action| matches!(action, Action::Speak { from_anywhere, .. } if *from_anywhere == so);
        wanted.iter().filter(of).count()
    };
    assert_eq!(speak(&six.feed(Event::Daemons { daemons: vec![daemon()] }), true), 2);
    assert_eq!(speak(&six.feed(Event::Daemons { daemons: vec![daemon()] }), true), 0);
    assert_eq!(speak(&six.feed(Event::Stop), false), 2);
}
