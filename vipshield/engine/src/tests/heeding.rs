//! Adverts that a daemon does not heed, and routers of other clusters.

use super::{
    super::Event,
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{Datapath, KUBE_OVN, NIC, NODE_IP, Op, VIP, address},
    wire::{Change, NODE, PEER, PEER_MAC, SECOND, advert, heard, ms},
};
use crate::wire::{Advert, Authentication, Checksum, Fingerprint, Version};

/// What else may be different about an advert.
const OTHER_VIP: &str = "192.0.2.77/32";

fn password(of: [u8; 8]) -> Authentication {
    Authentication::Password(Fingerprint::of(of))
}

fn ours() -> Advert {
    Advert { authentication: password(*b"ours\0\0\0\0"), ..advert(NODE, 150, SECOND) }
}

/// An advert to which this node would yield.
fn theirs() -> Advert {
    Advert { authentication: password(*b"ours\0\0\0\0"), ..advert(PEER, 200, SECOND) }
}

/// A node that sends such adverts.
fn owner(own: &Advert) -> Bench {
    let mut bench = Bench::new(Datapath::Bridge);
    for _ in 0..2 {
        bench.feed(heard(true, own.clone()));
        bench.advance(SECOND);
    }
    bench
}

/// Both are heard for so many seconds.
fn together(bench: &mut Bench, own: &Advert, other: &Advert, seconds: u32) {
    for _ in 0..seconds {
        bench.feed(heard(false, other.clone()));
        bench.advance(ms(300));
        bench.feed(heard(true, own.clone()));
        bench.advance(ms(700));
    }
}

/// Whether this node would be told at once what is not as it was.
fn has_to_yield(bench: &mut Bench) -> bool {
    assert!(!bench.released());
    bench.change(&Op::RemoveAddress(NIC.to_owned(), address(NODE_IP), KUBE_OVN));
    bench.advance(ms(10));
    bench.released()
}

fn warning(bench: &Bench) -> Option<String> {
    let mut all = bench.status().warnings.into_iter();
    all.find(|text| text.contains("virtual_router_id"))
}

/// What differs, what it is called, and whether keepalived heeds it nevertheless.
const TABLE: [(&str, Option<&str>, Change); 14] = [
    ("nothing", None, |_| {}),
    ("more addresses", None, |it| it.addresses.push(address(OTHER_VIP).ip)),
    ("fewer adverts, in version 3", None, |it| it.interval = 2 * SECOND),
    ("other addresses", Some("other addresses"), |it| it.addresses = vec![address(OTHER_VIP).ip]),
    ("another password", Some("another password"), |it| {
        it.authentication = password(*b"theirs\0\0");
    }),
    ("no password", Some("another auth_type"), |it| it.authentication = Authentication::None),
    ("a header", Some("another auth_type"), |it| it.authentication = Authentication::Header),
    ("another interval", Some("another advert_int"), |it| it.interval = 2 * SECOND),
    ("another version", Some("another version"), |it| {
        (it.version, it.authentication) = (Version::V3, Authentication::None);
    }),
    ("unicast", Some("unicast"), |it| it.destination = NODE.parse().unwrap()),
    ("another checksum", Some("another kind of checksum"), |it| {
        it.checksum = Checksum::NoPseudoHeader;
    }),
    ("that of old unicast", None, |it| it.checksum = Checksum::GroupPseudoHeader),
    ("a trailer", Some("authentication"), |it| it.trailer = true),
    ("several", Some("other addresses, another password"), |it| {
        it.addresses = vec![address(OTHER_VIP).ip];
        it.authentication = password(*b"theirs\0\0");
    }),
];

#[test]
fn what_is_not_heeded_outranks_nobody_and_is_said() {
    for (what, name, change) in TABLE {
        let (mut own, mut other) = (ours(), theirs());
        if what.contains("version 3") {
            for advert in [&mut own, &mut other] {
                (advert.version, advert.authentication) = (Version::V3, Authentication::None);
            }
        }
        change(&mut other);
        let mut bench = owner(&own);
        assert_eq!(warning(&bench), None, "{what}");
        // Its sockets are elsewhere: what it does is no evidence.
        bench.sequence(Sequence::Bind);
        bench.feed(heard(true, own.clone()));
        bench.feed(heard(false, other.clone()));
        let router = bench.status().routers.into_iter().find(|router| router.ours).unwrap();
        let owner = if name.is_some() { NODE } else { PEER };
        assert_eq!(router.owner.map(|it| it.to_string()).as_deref(), Some(owner), "{what}");
        together(&mut bench, &own, &other, 2 * 4);
        let said = warning(&bench);
        match name {
            Some(name) => {
                let said = said.unwrap_or_else(|| panic!("{what} is not said"));
                let mac = PEER_MAC.to_string();
                let parts = [name, PEER, &mac, "virtual router 51", "priority 200"];
                assert!(parts.iter().all(|part| said.contains(part)), "{what}: {said}");
            }
            None => assert_eq!(said, None, "{what}"),
        }
        assert!(!bench.released(), "{what}");
        bench.feed(heard(true, own.clone()));
        bench.feed(heard(false, other.clone()));
        bench.sequence(Sequence::Unbind);
        assert_eq!(bench.released(), name.is_none(), "{what}");
    }
}

/// Whatever the reason is: one that stays owner at home does not heed it.
#[test]
fn one_that_goes_on_at_home_does_not_heed() {
    for (what, name, change) in TABLE.into_iter().filter(|(_, name, _)| name.is_none()) {
        let (mut own, mut other) = (ours(), theirs());
        if what.contains("version 3") {
            for advert in [&mut own, &mut other] {
                (advert.version, advert.authentication) = (Version::V3, Authentication::None);
            }
        }
        change(&mut other);
        let mut bench = owner(&own);
        together(&mut bench, &own, &other, 1);
        assert_eq!((warning(&bench), name), (None, None), "{what}");
        together(&mut bench, &own, &other, 8);
        let said = warning(&bench).unwrap_or_else(|| panic!("{what} is not said"));
        let more = what == "more addresses";
        let reason = if more { "other addresses" } else { "something that does not show" };
        assert!(said.contains(reason), "{what}: {said}");
        bench.feed(heard(false, other.clone()));
        assert!(!has_to_yield(&mut bench), "{what}");

        // It says something else now: that may be heeded.
        let mut bench = owner(&own);
        together(&mut bench, &own, &other, 8);
        other.priority += 1;
        bench.feed(heard(false, other));
        assert!(has_to_yield(&mut bench), "{what}");
    }
}

/// A node that has to yield speaks once more at the most.
#[test]
fn one_that_yields_at_home_does_heed() {
    let mut bench = owner(&ours());
    together(&mut bench, &ours(), &theirs(), 1);
    for _ in 0..8 {
        bench.feed(heard(false, theirs()));
        bench.advance(SECOND);
    }
    assert_eq!(warning(&bench), None);
    assert!(has_to_yield(&mut bench));
}

/// What a waiting node has asked for tells whom it waits for, and by whose interval it goes.
#[test]
fn a_waiting_node_does_not_follow_another_cluster() {
    let stranger = |it: &mut Advert| {
        it.addresses = vec![address(OTHER_VIP).ip];
        (it.interval, it.version) = (ms(100), Version::V3);
    };
    let mut other = advert(PEER, 255, SECOND);
    stranger(&mut other);
    let peer = Advert { version: Version::V3, ..advert("192.0.2.13", 200, SECOND) };
    for asked in [true, false] {
        let mut bench = Bench::new(Datapath::Bridge);
        if asked {
            bench.daemon_asks(address(VIP), false);
        }
        for _ in 0..4 {
            bench.feed(heard(false, peer.clone()));
            for _ in 0..10 {
                bench.feed(heard(false, other.clone()));
                bench.advance(ms(100));
            }
        }
        let expected = if asked { DEADLINE } else { ms(190) };
        assert_eq!(bench.deadline(), expected);
        let owner = bench.router().owner.map(|owner| owner.to_string());
        assert_eq!(owner.as_deref(), Some(if asked { "192.0.2.13" } else { PEER }));
        assert_eq!(warning(&bench).is_some(), asked);
    }
}

/// However fast somebody forges other adverts, it is said once a minute.
#[test]
fn a_forger_is_not_said_each_time() {
    let mut bench = owner(&ours());
    let from = bench.log.len();
    for minute in 0..3_u8 {
        for round in 0..6_u8 {
            let addresses = vec![[10, 0, minute, round].into()];
            let other = Advert { addresses, ..theirs() };
            together(&mut bench, &ours(), &other, 4);
            bench.advance(SECOND * 6);
            bench.feed(heard(true, ours()));
        }
    }
    let all = bench.log[from..].iter().filter(|(_, action)| {
        matches!(action, super::super::Action::Tell { notice } if notice.text.contains("heed"))
    });
    let said = all.count();
    assert!((2..=4).contains(&said), "{said} times");
    bench.feed(Event::Tick);
    bench.advance(SECOND);
    assert_eq!(warning(&bench), None, "it is silent");
}
