//! A bridge that is there and lets nothing through is told; one that does ends the shunt.

use std::time::Duration;

use super::{
    super::{Action, Event, Heard, Phase, Shunt},
    bench::{Bench, DEADLINE},
    kube_ovn::Sequence,
    node::{BRIDGE, Datapath, NIC, NIC_INDEX, NODE_IP, Op, VIP, address},
    wire::{NODE, OWN_MAC, PEER, PEER_MAC, advert, frame},
};
use crate::wire::{Content, Mac};

const MOMENT: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Where an advert is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Where it goes in.
    Before,
    /// Where it comes out, through the bridge.
    Behind,
    /// Where it comes out, by the shunt.
    Shunted,
}

const LOST: &[At] = &[At::Before];
const PAST: &[At] = &[At::Before, At::Shunted];
const THROUGH: &[At] = &[At::Before, At::Shunted, At::Behind];

impl Bench {
    fn bridge(&self) -> u32 {
        self.node.index(BRIDGE).unwrap()
    }

    /// An advert of this node, or of the peer, is seen at these places.
    fn passes(&mut self, own: bool, places: &[At]) {
        self.passes_as(own, places, |_| {});
    }

    fn passes_as(&mut self, own: bool, places: &[At], change: impl Fn(&mut crate::wire::Frame)) {
        let (source, mac, priority) =
            if own { (NODE, OWN_MAC, 150) } else { (PEER, PEER_MAC, 100) };
        let mut frame = frame(mac, Content::Advert(advert(source, priority, SECOND)));
        change(&mut frame);
        let frames = places.iter().map(|at| Heard {
            ifindex: if own == (*at == At::Before) { self.bridge() } else { NIC_INDEX },
            sent: own,
            shunted: *at == At::Shunted,
            frame: Ok(frame.clone()),
        });
        let frames = frames.collect();
        self.feed(Event::Heard { frames });
    }

    /// One each second, the last of them a second ago.
    fn pass(&mut self, own: bool, places: &[At], times: u32) {
        for _ in 0..times {
            self.passes(own, places);
            self.advance(SECOND);
        }
    }

    fn shunt(&self) -> Shunt {
        self.shunts[&NIC_INDEX]
    }

    fn believes(&self) -> bool {
        self.keepalived().view.has(NIC_INDEX, address(NODE_IP).ip)
    }

    /// What is said of the bridge; that a daemon sends fewer adverts than it should is another matter.
    fn warned(&self) -> Vec<String> {
        let mut warnings = self.status().warnings;
        warnings.retain(|text| !text.contains("none of its adverts leaves"));
        warnings
    }

    /// The node's address was shown to the daemon.
    fn shown(&self, from: usize) -> usize {
        let shown =
            |action: &&Action| matches!(action, Action::ShowAddress { address: Some(_), .. });
        self.asked(from).map(|(_, action)| action).filter(shown).count()
    }
}

/// A NIC that has just become a port, whose daemon owns the VIP or waits.
fn joined(datapath: Datapath, owner: bool) -> Bench {
    let mut bench = if owner { Bench::owner_of_vip(datapath) } else { Bench::new(datapath) };
    let steps = bench.steps(Sequence::Bind);
    let (last, before) = steps.split_last().unwrap();
    bench.run(before);
    let ahead = bench.shunt();
    assert!(!ahead.over && ahead.lasts > DEADLINE && ahead.lasts < DEADLINE + SECOND, "{ahead:?}");
    bench.change(&last.op);
    assert_eq!(bench.phase(), Phase::Bridged);
    assert!(!bench.shunt().over);
    bench
}

/// `unicast_peer`: as long as the shunt is thrown none of these adverts goes through the bridge.
#[test]
fn what_takes_the_shunt_alone_says_nothing_of_the_bridge() {
    for datapath in Datapath::ALL {
        let mut bench = joined(datapath, true);
        for _ in 0..3 {
            bench.passes_as(true, PAST, |frame| frame.destination = PEER_MAC);
            bench.advance(SECOND);
        }
        assert!(bench.believes() && !bench.released(), "{datapath:?}");
    }
}

#[test]
fn a_bridge_that_never_forwards_is_told_a_deadline_after_the_nic_joined() {
    for datapath in Datapath::ALL {
        for owner in [true, false] {
            let mut bench = joined(datapath, owner);
            bench.advance(DEADLINE / 2);
            bench.passes(owner, PAST);
            bench.advance((DEADLINE / 2).saturating_sub(MOMENT));
            assert!(bench.believes() && !bench.released(), "{datapath:?}, owner: {owner}");
            assert_eq!(bench.warned(), Vec::<String>::new());
            bench.advance(MOMENT);
            assert!(!bench.believes(), "{datapath:?}, owner: {owner}");
            let [warning] = &bench.warned()[..] else { panic!("one warning") };
            assert!(warning.contains("adverts do not get through"), "{warning}");
            let vip = Action::ReplayRemoval { ifindex: NIC_INDEX, address: address(VIP) };
            let told = bench.releases().any(|action| action == vip);
            assert!(!(owner && told), "its daemon gives it up");
            assert!(!bench.shunt().over, "what the daemon says now still gets out");

            // As long as the new owner is not heard, it stays so; then it is over.
            let from = bench.log.len();
            bench.pass(false, LOST, 30);
            assert!(!bench.believes() && bench.shown(from) == 0);
            bench.passes(false, THROUGH);
            assert!(bench.believes(), "{datapath:?}, owner: {owner}");
            assert!(bench.shown(from) > 0 && bench.shunt().over);
            assert_eq!(bench.warned(), Vec::<String>::new());
            bench.pass(false, THROUGH, 30);
            bench.sequence(Sequence::Unbind);
            assert_eq!(bench.phase(), Phase::Free);
        }
    }
}

#[test]
fn a_bridge_that_forwards_ends_the_shunt() {
    for owner in [true, false] {
        let mut bench = joined(Datapath::Ovs, owner);
        bench.advance(DEADLINE / 4);
        bench.passes(owner, PAST);
        assert!(!bench.shunt().over);
        // It took a while.
        bench.advance(DEADLINE / 2);
        bench.passes(owner, &[At::Behind]);
        assert!(bench.shunt().over);
        bench.pass(owner, &[At::Before, At::Behind], 30);
        assert!(bench.is_calm() && !bench.released(), "owner: {owner}");
    }
}

#[test]
fn a_bridge_that_ceases_to_forward_is_told_a_deadline_after_the_first_that_is_lost() {
    for owner in [true, false] {
        let mut bench = joined(Datapath::Bridge, owner);
        bench.pass(owner, THROUGH, 30);
        bench.passes(owner, LOST);
        bench.advance(DEADLINE / 2);
        if owner {
            // Others who get in are no reason to believe that this node gets out.
            bench.passes(false, THROUGH);
        }
        bench.passes(owner, LOST);
        bench.advance((DEADLINE / 2).saturating_sub(MOMENT));
        assert!(bench.believes());
        bench.advance(MOMENT);
        assert!(!bench.believes(), "owner: {owner}");
        // Nobody says anything any more: it is tried again.
        bench.advance(Duration::from_secs(15));
        assert!(bench.believes(), "owner: {owner}");
    }
}

#[test]
fn what_comes_out_late_was_not_lost() {
    let mut bench = joined(Datapath::Ovs, true);
    bench.pass(true, THROUGH, 3);
    bench.passes(true, LOST);
    bench.advance(DEADLINE.saturating_sub(MOMENT));
    bench.passes(true, &[At::Behind]);
    bench.advance(SECOND);
    assert!(bench.is_calm() && !bench.released());
}

/// An owner that gets out need not hear what anybody puts on its wire.
#[test]
fn what_others_put_on_the_wire_of_an_owner_does_not_matter() {
    let mut bench = joined(Datapath::Bridge, true);
    bench.pass(false, THROUGH, 1);
    for _ in 0..30 {
        bench.passes(true, &[At::Before, At::Behind]);
        bench.pass(false, LOST, 1);
    }
    assert!(bench.is_calm() && !bench.released());
}

#[test]
fn what_need_not_come_out_is_not_missed() {
    let hosts: fn(&mut crate::wire::Frame) = |frame| frame.destination = Mac([2, 0, 0, 0, 7, 7]);
    let tagged: fn(&mut crate::wire::Frame) = |frame| frame.vlan = Some(7);
    for (own, change) in [(false, hosts), (false, tagged), (true, tagged)] {
        let mut bench = joined(Datapath::Bridge, own);
        bench.pass(own, THROUGH, 3);
        for _ in 0..10 {
            bench.passes_as(own, LOST, change);
            bench.advance(SECOND);
        }
        assert!(bench.is_calm() && !bench.released(), "own: {own}");
    }
    // Another program takes frames away before they are seen.
    let mut bench = joined(Datapath::Bridge, false);
    bench.pass(false, LOST, 10);
    assert!(bench.is_calm() && !bench.released());
}

#[test]
fn a_carrier_that_was_lost_says_nothing_of_the_bridge() {
    let mut bench = joined(Datapath::Bridge, true);
    bench.pass(true, THROUGH, 3);
    bench.change(&Op::Carrier(NIC.to_owned(), false));
    bench.pass(true, LOST, 1);
    bench.change(&Op::Carrier(NIC.to_owned(), true));
    let from = bench.log.len();
    bench.advance(10 * DEADLINE);
    assert!(bench.believes() && bench.shown(from) == 0);
    assert_eq!(bench.warned(), Vec::<String>::new());
}
