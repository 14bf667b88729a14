//! What follows from frames on the wire: how long something is withheld, who is outranked, who else
//! claims the VIP, and what a daemon had before vipshield started.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{
    super::{
        Action, Event, Heard, Link, Phase, RouterStatus, claims,
        routers::{MAX_ROUTERS, MAX_SENDERS},
    },
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, KUBE_OVN, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
};
use crate::wire::{
    Advert, Arp, Authentication, Checksum, Content, Fingerprint, Frame, Mac, Malformed, Operation,
    Version,
};

pub(super) const NODE: &str = "192.0.2.11";
pub(super) const PEER: &str = "192.0.2.12";
pub(super) const PEER_MAC: Mac = Mac([2, 0, 0, 0, 9, 9]);
pub(super) const OWN_MAC: Mac = Mac([2, 0, 0, 0, 0, NIC_INDEX as u8]);
pub(super) const SECOND: Duration = Duration::from_secs(1);
const CHANGEOVER: Duration = Duration::from_millis(500);

/// What is different about an advert.
pub(super) type Change = fn(&mut Advert);

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// An advert for the VIP to the group.
pub(super) fn advert(source: &str, priority: u8, interval: Duration) -> Advert {
    let whole = interval.subsec_millis() == 0;
    Advert {
        version: if whole { Version::V2 } else { Version::V3 },
        source: source.parse().unwrap(),
        destination: "224.0.0.18".parse().unwrap(),
        hops: 255,
        router_id: 51,
        priority,
        interval,
        addresses: vec![address(VIP).ip],
        authentication: Authentication::None,
        checksum: Checksum::Standard,
        trailer: false,
    }
}

pub(super) fn frame(source: Mac, content: Content) -> Frame {
    Frame { destination: Mac([1, 0, 0x5e, 0, 0, 18]), source, vlan: None, content }
}

pub(super) fn heard(sent: bool, advert: Advert) -> Event {
    let mac = if sent { OWN_MAC } else { PEER_MAC };
    let frame = Ok(frame(mac, Content::Advert(advert)));
    Event::Heard { frames: vec![Heard { ifindex: NIC_INDEX, sent, shunted: false, frame }] }
}

fn arp(mac: Mac, ip: IpAddr) -> Heard {
    let IpAddr::V4(ip) = ip else { panic!("{ip}") };
    let arp = Arp {
        operation: Operation::Reply,
        sender_mac: mac,
        sender: ip,
        target_mac: Mac([0xff; 6]),
        target: ip,
    };
    Heard {
        ifindex: NIC_INDEX,
        sent: false,
        shunted: false,
        frame: Ok(frame(mac, Content::Arp(arp))),
    }
}

fn claim(mac: Mac) -> Event {
    Event::Heard { frames: vec![arp(mac, address(VIP).ip)] }
}

impl Bench {
    /// This node's own advert.
    pub(super) fn speak(&mut self, priority: u8, interval: Duration) {
        self.feed(heard(true, advert(NODE, priority, interval)));
    }

    /// This many of the node's own, a second apart.
    pub(super) fn go_on(&mut self, priority: u8, count: usize) {
        for _ in 0..count {
            self.speak(priority, SECOND);
            self.advance(SECOND);
        }
    }

    /// This many adverts of the peer, each in its time.
    pub(super) fn hear(&mut self, count: u32, advert: &Advert) {
        for _ in 0..count {
            self.feed(heard(false, advert.clone()));
            self.advance(advert.interval);
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        ms(self.nic().deadline_ms)
    }

    pub(super) fn router(&self) -> RouterStatus {
        let mut routers = self.status().routers;
        assert_eq!(routers.len(), 1, "{routers:?}");
        routers.remove(0)
    }

    pub(super) fn counter(&self, name: &str) -> u64 {
        self.status().heard[name]
    }

    fn conflict(&self) -> Option<Mac> {
        self.status().claims.first().and_then(|claim| claim.conflict)
    }

    /// It has sent adverts for a while and owns the VIP.
    pub(super) fn owner() -> Self {
        let mut bench = Self::new(Datapath::Bridge);
        bench.speak(150, SECOND);
        bench.advance(SECOND);
        bench.speak(150, SECOND);
        bench
    }
}

#[test]
fn the_deadline_follows_the_adverts() {
    for (interval, deadline) in [
        (SECOND, DEADLINE),
        (10 * SECOND, DEADLINE),
        (ms(500), ms(950)),
        (ms(100), ms(190)),
        (ms(10), ms(50)),
    ] {
        let mut bench = Bench::new(Datapath::Bridge);
        assert_eq!(bench.deadline(), DEADLINE);
        bench.speak(150, interval);
        assert_eq!(bench.deadline(), deadline, "{interval:?}");
        // And what is nowhere is told by then.
        bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
        bench.advance(deadline.saturating_sub(ms(1)));
        assert!(!bench.released(), "{interval:?}");
        bench.advance(ms(1));
        assert!(bench.released(), "{interval:?}");
    }
}

#[test]
fn a_waiting_node_follows_the_owner_it_heeds() {
    let quick = |priority| advert(PEER, priority, ms(100));
    let mut bench = Bench::new(Datapath::Bridge);
    bench.hear(1, &quick(200));
    assert_eq!(bench.deadline(), DEADLINE, "one advert says nothing of a pace");
    bench.hear(3, &quick(200));
    assert_eq!(bench.deadline(), ms(190));
    bench.advance(61 * SECOND);
    bench.scan();
    assert_eq!(bench.deadline(), DEADLINE, "long ago");

    // This node speaks for another router: that one is not its own.
    let mut bench = Bench::new(Datapath::Bridge);
    let mut other = advert(NODE, 150, SECOND);
    other.router_id = 7;
    other.version = Version::V3;
    bench.feed(heard(true, other));
    bench.hear(5, &quick(200));
    assert_eq!(bench.deadline(), DEADLINE);
}

/// What its daemon does not heed makes nobody owner in this node's place.
#[test]
fn an_advert_that_is_not_heeded_makes_no_owner() {
    let mut bench = Bench::owner();
    let owner = |bench: &Bench| bench.router().owner.map(|owner| owner.to_string());
    assert_eq!(owner(&bench).as_deref(), Some(NODE));
    bench.feed(heard(false, advert(PEER, 255, 7 * SECOND)));
    assert_eq!(owner(&bench).as_deref(), Some(NODE));
    bench.feed(heard(false, advert(PEER, 255, SECOND)));
    assert_eq!(owner(&bench).as_deref(), Some(PEER));
}

#[test]
fn forged_adverts_do_not_hurry_an_owner() {
    let ours = |bench: &mut Bench| {
        let mut own = advert(NODE, 150, SECOND);
        own.version = Version::V3;
        bench.feed(heard(true, own));
    };
    let forged = advert(PEER, 200, ms(10));
    let cases: [(&str, Change); 4] = [
        ("a lower priority", |it| it.priority = 100),
        ("another router", |it| it.router_id = 52),
        ("unicast, which this node does not speak", |it| it.destination = NODE.parse().unwrap()),
        ("a password that this node does not send", |it| {
            it.authentication = Authentication::Password(Fingerprint::of(*b"password"));
        }),
    ];
    for (what, change) in cases {
        let mut bench = Bench::new(Datapath::Bridge);
        ours(&mut bench);
        let mut forged = forged.clone();
        change(&mut forged);
        bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
        bench.hear(10, &forged);
        assert!(!bench.released() && bench.deadline() == DEADLINE, "{what}");
    }
    // At a pace of its own it counts for nothing either.
    let mut bench = Bench::new(Datapath::Bridge);
    ours(&mut bench);
    for _ in 0..10 {
        bench.feed(heard(false, forged.clone()));
        bench.advance(ms(200));
    }
    assert_eq!(bench.deadline(), DEADLINE);
    // What VRRP itself heeds does.
    bench.hear(3, &forged);
    assert_eq!(bench.deadline(), ms(50));
}

#[test]
fn one_that_has_to_yield_is_told_at_once() {
    let outrank = advert(PEER, 151, SECOND);
    let cases: [(&str, bool, Change); 9] = [
        ("a higher priority", true, |_| {}),
        ("255", true, |it| it.priority = 255),
        ("the same priority and a higher address", true, |it| it.priority = 150),
        ("a lower priority", false, |it| it.priority = 149),
        ("a goodbye", false, |it| it.priority = 0),
        ("another router", false, |it| it.router_id = 52),
        ("another interval", false, |it| it.interval = 2 * SECOND),
        ("another version", false, |it| it.version = Version::V3),
        ("another checksum", false, |it| it.checksum = Checksum::NoPseudoHeader),
    ];
    for (what, told, change) in cases {
        let mut bench = Bench::owner();
        bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
        bench.advance(ms(10));
        let mut advert = outrank.clone();
        change(&mut advert);
        bench.feed(heard(false, advert));
        assert_eq!(bench.released(), told, "{what}");
    }
}

#[test]
fn one_that_does_not_own_has_nothing_to_yield() {
    // It was owner a moment ago, and has given up as VRRP says.
    let mut bench = Bench::owner();
    bench.daemon_asks(address(VIP), false);
    bench.feed(heard(false, advert(PEER, 200, SECOND)));
    bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
    bench.advance(ms(10));
    assert!(!bench.released());
    // And outside of a transition there is nothing to be told.
    let mut bench = Bench::owner();
    let asked = bench.log.len();
    bench.feed(heard(false, advert(PEER, 200, SECOND)));
    bench.advance(5 * SECOND);
    let asked: Vec<_> = bench.asked(asked).filter(|(_, it)| *it != Action::Rescan).collect();
    assert!(asked.is_empty(), "{asked:?}");
}

#[test]
fn a_vip_held_before_is_known_by_the_adverts() {
    for (sequence, name) in [(None, NIC), (Some(Sequence::Bind), BRIDGE)] {
        let mut bench = Bench::new(Datapath::Bridge);
        if let Some(sequence) = sequence {
            bench.sequence(sequence);
        }
        bench.speak(150, SECOND);
        assert_eq!(bench.places(address(VIP)), [name]);
        bench.kill_daemon();
        assert_eq!(bench.places(address(VIP)), Vec::<String>::new());
        // Its own address is not one that adverts are for.
        assert!(!bench.places(address(NODE_IP)).is_empty());
    }
}

#[test]
fn what_adverts_say_is_not_believed_of_everybody() {
    // Somebody else's, one that is not here, a goodbye.
    let cases: [(&str, bool, Change); 3] = [
        ("received", false, |_| {}),
        ("not here", true, |it| it.addresses = vec!["192.0.2.77".parse().unwrap()]),
        ("a goodbye", true, |it| it.priority = 0),
    ];
    for (what, sent, change) in cases {
        let mut bench = Bench::new(Datapath::Bridge);
        let mut advert = advert(NODE, 150, SECOND);
        change(&mut advert);
        bench.feed(heard(sent, advert));
        bench.kill_daemon();
        assert_eq!(bench.places(address(VIP)), [NIC], "{what}");
    }
    // Forwarded by the bridge for a guest behind it.
    let mut bench = Bench::new(Datapath::Bridge);
    bench.sequence(Sequence::Bind);
    bench.feed(heard(true, advert("192.0.2.99", 150, SECOND)));
    assert_eq!(bench.counter("adverts_own"), 0);
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), [BRIDGE]);

    // Of two daemons nothing tells whose it is.
    let mut bench = Bench::new(Datapath::Bridge);
    let mut daemons = bench.found();
    let mut second = daemons[0].clone();
    (second.pid, second.start_time) = (900, 900);
    second.monitors.clear();
    second.commands.clear();
    daemons.push(second);
    bench.scanned(daemons.clone());
    bench.speak(150, SECOND);
    bench.scanned(daemons[1..].to_vec());
    assert_eq!(bench.places(address(VIP)), [NIC]);
}

#[test]
fn what_was_given_up_is_not_believed_again() {
    let mut bench = Bench::owner();
    bench.sequence(Sequence::Bind);
    bench.daemon_asks(address(VIP), false);
    assert_eq!(bench.places(address(VIP)), Vec::<String>::new());
    // An advert that was sent before, and is heard after.
    bench.speak(150, SECOND);
    bench.change(&Op::AddAddress(BRIDGE.to_owned(), address(VIP)));
    assert_eq!(bench.places(address(VIP)), Vec::<String>::new());
}

#[test]
fn what_only_adverts_said_lapses_with_them() {
    let mut bench = Bench::owner();
    // As the kernel says it of IPv6: nobody asked for it.
    bench.change(&Op::RemoveAddress(NIC.to_owned(), address(VIP), 0));
    bench.advance(10 * SECOND);
    bench.scan();
    // Years later it is somebody else's.
    bench.change(&Op::AddAddress(NIC.to_owned(), address(VIP)));
    bench.kill_daemon();
    assert_eq!(bench.places(address(VIP)), [NIC]);
}

#[test]
fn a_second_owner_is_said_and_nothing_is_done() {
    let mut bench = Bench::owner();
    bench.feed(claim(OWN_MAC));
    bench.advance(SECOND);
    bench.speak(150, SECOND);
    let asked = bench.log.len();
    bench.feed(claim(PEER_MAC));
    assert_eq!(bench.conflict(), None, "it may be the next owner's first word");
    bench.advance(CHANGEOVER);
    assert_eq!(bench.conflict(), Some(PEER_MAC));
    assert_eq!(bench.counter("conflicts"), 1);
    assert!(bench.status().warnings.iter().any(|text| text.contains("02:00:00:00:09:09")));
    bench.feed(claim(PEER_MAC));
    bench.advance(SECOND);
    bench.speak(150, SECOND);
    assert_eq!(bench.counter("conflicts"), 1, "still the same");
    assert_eq!(bench.asked(asked).count(), 0, "{:?}", bench.log.last());
    bench.advance(12 * SECOND);
    assert_eq!(bench.conflict(), None);
    assert_eq!(bench.places(address(VIP)), [NIC]);
}

/// A bridge has a hardware address of its own until the NIC becomes its port.
#[test]
fn a_hardware_address_that_this_node_had_is_its_own_for_a_while() {
    const OLD: Mac = Mac([2, 0, 0, 0, 7, 7]);
    let owner = || {
        let mut bench = Bench::owner();
        bench.feed(claim(OWN_MAC));
        bench.advance(SECOND);
        bench.speak(150, SECOND);
        bench
    };
    let links = |kind: &str| {
        let (name, kind) = ("br0".to_owned(), Some(kind.to_owned()));
        let link = Link { ifindex: 41, name, kind, ..Link::default() };
        [OLD, OWN_MAC].map(|mac| Link { mac: mac.0.to_vec(), ..link.clone() })
    };
    for (kind, stays, conflict) in
        [("bridge", true, None), ("bridge", false, None), ("veth", true, Some(OLD))]
    {
        let mut bench = owner();
        let [before, after] = links(kind);
        bench.feed(Event::Link { link: before });
        bench.feed(if stays {
            Event::Link { link: after }
        } else {
            Event::LinkRemoved { ifindex: 41 }
        });
        bench.feed(claim(OLD));
        bench.advance(CHANGEOVER);
        assert_eq!(bench.conflict(), conflict, "{kind}");
        assert_eq!(bench.counter("claims_own"), 1 + u64::from(conflict.is_none()), "{kind}");
    }
    let mut bench = owner();
    for link in links("bridge") {
        bench.feed(Event::Link { link });
    }
    bench.advance(61 * SECOND);
    bench.feed(claim(OWN_MAC));
    bench.advance(SECOND);
    bench.speak(150, SECOND);
    bench.feed(claim(OLD));
    bench.advance(CHANGEOVER);
    assert_eq!(bench.conflict(), Some(OLD), "by now it is somebody else's");
}

#[test]
fn an_owner_that_changes_is_no_conflict() {
    // The one before speaks its last word.
    let mut bench = Bench::new(Datapath::Bridge);
    bench.feed(claim(PEER_MAC));
    bench.speak(150, SECOND);
    bench.feed(claim(PEER_MAC));
    bench.advance(CHANGEOVER.saturating_sub(ms(1)));
    bench.feed(claim(PEER_MAC));
    for _ in 0..5 {
        bench.speak(150, SECOND);
        bench.advance(SECOND);
    }
    assert_eq!(bench.counter("conflicts"), 0);
    // The next one announces itself, and this node yields.
    bench.feed(claim(PEER_MAC));
    bench.advance(ms(5));
    bench.daemon_asks(address(VIP), false);
    bench.advance(10 * SECOND);
    assert_eq!(bench.counter("conflicts"), 0);
}

#[test]
fn an_owner_that_falls_silent_is_looked_at() {
    let mut bench = Bench::owner();
    bench.sequence(Sequence::Bind);
    bench.speak(150, SECOND);
    let (asked, silences) = (bench.log.len(), bench.counter("silences"));
    bench.advance(ms(2499));
    assert_eq!(bench.asked(asked).count(), 0);
    bench.advance(ms(1));
    let asked: Vec<_> = bench.asked(asked).map(|(_, action)| action.clone()).collect();
    assert!(asked.contains(&Action::Rescan), "{asked:?}");
    let moved = asked.iter().filter(|action| matches!(action, Action::Rebind { .. })).count();
    assert_eq!(moved, 2, "its sockets are bound again: {asked:?}");
    let said =
        |bench: &Bench| bench.status().warnings.iter().any(|it| it.contains("lets VRRP out"));
    assert!(said(&bench));
    let before = bench.log.len();
    bench.advance(20 * SECOND);
    let again = bench.asked(before).any(|(_, action)| *action == Action::Rescan);
    assert!(!again, "once is enough");
    assert_eq!(bench.counter("silences"), silences + 1);
    bench.speak(150, SECOND);
    assert!(!said(&bench));
    bench.advance(3 * SECOND);
    assert_eq!(bench.counter("silences"), silences + 2);
}

#[test]
fn who_cannot_send_or_does_not_own_is_not_silent() {
    let mut bench = Bench::owner();
    bench.change(&Op::Down(NIC.to_owned()));
    bench.advance(20 * SECOND);
    assert_eq!(bench.counter("silences"), 0);
    assert_eq!(bench.phase(), Phase::Down);
    let mut bench = Bench::owner();
    bench.daemon_asks(address(VIP), false);
    bench.advance(20 * SECOND);
    let mut dead = Bench::owner();
    dead.kill_daemon();
    dead.advance(20 * SECOND);
    assert_eq!((bench.counter("silences"), dead.counter("silences")), (0, 0));
}

#[test]
fn frames_count_once_and_by_reason() {
    let mut bench = Bench::owner();
    bench.sequence(Sequence::Bind);
    let bridge = bench.node.index(BRIDGE).unwrap();
    let before = bench.counter("adverts_foreign");
    for ifindex in [NIC_INDEX, bridge] {
        let frame = Ok(frame(PEER_MAC, Content::Advert(advert(PEER, 100, SECOND))));
        let wrong = Err(Malformed::VrrpChecksum);
        let frames =
            [frame, wrong].map(|frame| Heard { ifindex, sent: false, shunted: false, frame });
        bench.feed(Event::Heard { frames: frames.to_vec() });
    }
    assert_eq!(bench.counter("adverts_foreign"), before + 1);
    assert_eq!(bench.counter("malformed_vrrp_checksum"), 1);
    let stray =
        Heard { ifindex: 99, sent: false, shunted: false, frame: Err(Malformed::Truncated) };
    bench.feed(Event::Heard { frames: vec![stray] });
    assert_eq!((bench.counter("frames_stray"), bench.counter("malformed_truncated")), (1, 0));
}

/// A forged frame: an advert of any router from any source, in any VLAN, or a claim of any address.
fn forged() -> impl Strategy<Value = Heard> {
    (any::<[u8; 6]>(), any::<u8>(), any::<u8>(), 1..=255_u8, 1..4095_u64, any::<bool>(), 0..40_u16)
        .prop_map(|(seed, priority, kind, router_id, interval, v3, vlan)| {
            let [a, b, c, d, ..] = seed;
            let mac = Mac([2, 9, a, b, c, d]);
            if kind % 3 == 0 {
                let ip = if kind % 2 == 0 { address(VIP).ip } else { IpAddr::from([10, a, b, c]) };
                return arp(mac, ip);
            }
            let source = if kind % 5 == 0 { PEER.to_owned() } else { format!("10.{a}.{b}.{c}") };
            let mut forged = advert(&source, priority, ms(10 * interval));
            forged.version = if v3 { Version::V3 } else { Version::V2 };
            forged.router_id = if kind % 4 == 0 { 51 } else { router_id };
            if kind % 7 == 0 {
                forged.addresses = vec![IpAddr::from([10, d, c, b])];
            }
            let mut frame = frame(mac, Content::Advert(forged));
            frame.vlan = (vlan > 20).then_some(vlan);
            Heard { ifindex: NIC_INDEX, sent: false, shunted: false, frame: Ok(frame) }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_flood_drives_out_nobody_and_moves_nothing(
        frames in proptest::collection::vec(forged(), 2000..4000),
    ) {
        let mut bench = Bench::owner();
        bench.hear(1, &advert(PEER, 100, SECOND));
        bench.feed(claim(OWN_MAC));
        let asked = bench.log.len();
        let total = frames.len();
        for frames in frames.chunks(100) {
            bench.feed(Event::Heard { frames: frames.to_vec() });
            bench.advance(ms(10));
        }
        let status = bench.status();
        prop_assert!(status.routers.len() <= MAX_ROUTERS);
        prop_assert!(status.routers.iter().all(|router| router.senders.len() <= MAX_SENDERS + 1));
        prop_assert!(status.claims.len() <= claims::MAX_CLAIMED);
        prop_assert!(status.claims.iter().all(|it| it.claimants.len() <= claims::MAX_CLAIMANTS));
        let own = status.routers.iter().filter(|router| router.senders.iter().any(|it| it.own));
        prop_assert_eq!(own.count(), 1);
        let vip = status.claims.iter().find(|claim| claim.address == address(VIP).ip);
        prop_assert!(vip.is_some_and(|claim| claim.claimants.iter().any(|it| it.own)));
        // Nothing is done, whatever they say.
        let done: Vec<_> = bench.asked(asked).collect();
        prop_assert!(done.is_empty(), "{:?}", done);
        prop_assert!(bench.log.len() - asked < 10, "and little is said");
        let counted = ["adverts_foreign", "claims_foreign"].map(|name| bench.counter(name));
        prop_assert_eq!(counted.iter().sum::<u64>() as usize, total + 1);
    }
}

#[test]
fn those_who_were_there_before_stay_through_a_flood() {
    let mut bench = Bench::owner();
    let peer = advert(PEER, 100, SECOND);
    bench.hear(2, &peer);
    for round in 0..20_u8 {
        for number in 0..100_u8 {
            let source = format!("10.0.{round}.{number}");
            bench.feed(heard(false, advert(&source, 120, SECOND)));
        }
        bench.hear(1, &peer);
        bench.speak(150, SECOND);
    }
    let router = bench.router();
    let peer = router.senders.iter().find(|sender| sender.source.to_string() == PEER);
    assert_eq!(peer.map(|peer| peer.adverts), Some(22), "it was never forgotten");
    assert_eq!(router.owner.map(|owner| owner.to_string()), Some(NODE.to_owned()));
    assert!(bench.counter("senders_evicted") > 1000);
}

#[test]
fn an_owner_that_begins_in_a_flood_is_seen() {
    let mut bench = Bench::new(Datapath::Bridge);
    let flood = |bench: &mut Bench, vlans: std::ops::Range<u16>| {
        for vlan in vlans {
            let invented = (1..=255).map(|router_id| {
                let forged = Advert { router_id, ..advert(PEER, 255, SECOND) };
                let mut frame = frame(PEER_MAC, Content::Advert(forged));
                frame.vlan = Some(vlan);
                Heard { ifindex: NIC_INDEX, sent: false, shunted: false, frame: Ok(frame) }
            });
            bench.feed(Event::Heard { frames: invented.collect() });
            bench.advance(ms(1));
        }
    };
    flood(&mut bench, 1..4);
    assert_eq!(bench.status().routers.len(), MAX_ROUTERS);
    bench.speak(150, SECOND);
    flood(&mut bench, 4..9);
    let status = bench.status();
    assert_eq!(status.routers.len(), MAX_ROUTERS);
    let mut senders = status.routers.iter().flat_map(|router| &router.senders);
    assert!(senders.any(|sender| sender.own), "this node is not there");
    assert!(bench.counter("routers_evicted") > 1000);
}
