//! More addresses than are dealt with at a time, and words that were lost.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use super::{
    super::{
        Action, Address, CommandSocket, Daemon, Engine, Event, Filter, Intent, Link, MonitorSocket,
        Role, SocketId, world::usual,
    },
    all,
    bench::{DEADLINE, engine},
    kube_ovn::Step,
    node::{BRIDGE, NIC, NIC_INDEX},
    ready_for,
};

const BRIDGE_INDEX: u32 = 9;
const PID: u32 = 700;
const PORT: u32 = 1234;
const VIPS: u32 = 1000;
/// So much is wanted at a time, with all that concerns no single address.
const AT_A_TIME: usize = 80;

fn vip(number: u32) -> Address {
    Address { ip: Ipv4Addr::from(0x0a37_0000 + number).into(), prefix_len: 32 }
}

fn own() -> Address {
    Address { ip: Ipv4Addr::new(192, 0, 2, 11).into(), prefix_len: 24 }
}

fn link(ifindex: u32, name: &str, kind: Option<&str>, master: Option<u32>) -> Link {
    let kind = kind.map(str::to_owned);
    Link {
        ifindex,
        name: name.to_owned(),
        up: true,
        running: true,
        kind,
        master,
        ..Link::default()
    }
}

fn daemon() -> Daemon {
    let socket = |fd| SocketId { pid: PID, fd, inode: 1 };
    Daemon {
        pid: PID,
        start_time: 1,
        name: "keepalived".to_owned(),
        role: Role::Vrrp,
        commands: vec![CommandSocket { id: socket(3), port: PORT, filter: Filter::Guard }],
        monitors: vec![MonitorSocket { id: socket(4), filter: Filter::Guard }],
        vrrp: Vec::new(),
        trouble: None,
        polls: false,
        excluded: Vec::new(),
    }
}

/// A node whose bridge has the NIC, and many VIPs that a daemon took.
struct Many {
    engine: Engine,
    now: Duration,
    /// What was seen, and what came of the last actions.
    seen: Vec<Event>,
    /// How often the engine looked.
    looks: usize,
    /// What was taken off, in order.
    removed: Vec<Address>,
}

impl Many {
    fn taken() -> Self {
        let mut many = Self::bridged(true);
        many.say(false, 1, true);
        many.settle(|_| false);
        assert!(many.removed.is_empty());
        many
    }

    fn bridged(there: bool) -> Self {
        let mut many = Self {
            engine: engine(),
            now: Duration::from_secs(1),
            seen: Vec::new(),
            looks: 0,
            removed: Vec::new(),
        };
        many.seen.push(many.snapshot(there));
        many.seen.push(Event::Daemons { daemons: vec![daemon()] });
        many.settle(|_| false);
        many
    }

    fn snapshot(&self, there: bool) -> Event {
        let _ = self;
        let bridge = link(BRIDGE_INDEX, BRIDGE, Some("bridge"), None);
        let vips = (0..if there { VIPS } else { 0 }).map(vip);
        Event::Snapshot {
            links: vec![link(NIC_INDEX, NIC, None, Some(BRIDGE_INDEX)), bridge],
            addresses: vips.chain([own()]).map(|address| (BRIDGE_INDEX, address)).collect(),
            routes: Vec::new(),
            rules: usual(),
        }
    }

    /// The daemon's word on all of them, the last that there is or in turn.
    fn say(&mut self, last: bool, sequence: u32, wanted: bool) {
        let intents = (0..VIPS).map(|number| Intent {
            ifindex: NIC_INDEX,
            port: PORT,
            sequence: sequence + number,
            address: vip(number),
            wanted,
            refused: true,
        });
        if last {
            self.seen.push(Event::LastWords { intents: intents.collect() });
        } else {
            self.seen.extend(intents.map(|intent| Event::Intent { intent }));
        }
    }

    /// One look. Returns how much it wanted.
    fn look(&mut self, fails: &impl Fn(Address) -> bool) -> usize {
        self.looks += 1;
        self.engine.handle_all(std::mem::take(&mut self.seen), self.now);
        let mut wanted = 0;
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::Tell { .. } | Action::Finish { .. } => continue,
                Action::RemoveVip { address, .. } if fails(address) => {
                    let error = "EPERM".to_owned();
                    self.seen.push(Event::Failed { action, error });
                }
                action => {
                    if let Action::RemoveVip { address, .. } = action {
                        self.removed.push(address);
                    }
                    self.seen.push(Event::Succeeded { action });
                }
            }
            wanted += 1;
        }
        wanted
    }

    fn settle(&mut self, fails: impl Fn(Address) -> bool) {
        while !self.seen.is_empty() {
            let wanted = self.look(&fails);
            assert!(wanted <= AT_A_TIME, "{wanted} actions at a time");
            assert!(self.looks < 10 * VIPS as usize, "no end");
        }
    }

    /// Whether all are gone, each once.
    fn all_gone(&self) -> bool {
        let gone: BTreeSet<&Address> = self.removed.iter().collect();
        gone.len() == self.removed.len() && gone.len() == VIPS as usize
    }
}

#[test]
fn what_was_given_up_goes_some_at_a_time() {
    for last in [false, true] {
        let mut many = Many::taken();
        let before = many.looks;
        many.say(last, VIPS + 1, false);
        many.settle(|_| false);
        assert!(many.all_gone(), "{} are gone", many.removed.len());
        let looks = many.looks - before;
        assert!(looks < 20, "{looks} looks");
    }
}

#[test]
fn what_a_dead_daemon_had_goes_some_at_a_time() {
    let mut many = Many::taken();
    many.seen.push(Event::Daemons { daemons: Vec::new() });
    many.settle(|_| false);
    assert!(many.all_gone(), "{} are gone", many.removed.len());
}

#[test]
fn what_is_wanted_again_stays() {
    let mut many = Many::taken();
    many.say(true, VIPS + 1, false);
    many.look(&|_| false);
    let gone = many.removed.len();
    assert!(gone > 0);
    many.say(true, 2 * VIPS + 1, true);
    many.settle(|_| false);
    assert_eq!(many.removed.len(), gone, "what is still there stays");
}

#[test]
fn one_that_cannot_be_removed_holds_up_no_other() {
    let mut many = Many::taken();
    many.say(true, VIPS + 1, false);
    let fails = |address: Address| address.to_string() < vip(700).to_string();
    many.settle(fails);
    let stay = (0..VIPS).filter(|number| fails(vip(*number))).count();
    assert!(stay > 100);
    assert_eq!(many.removed.len(), VIPS as usize - stay);
    // They are tried again, and not all the time.
    many.now += DEADLINE;
    many.seen.push(Event::Tick);
    many.settle(|_| false);
    assert!(many.all_gone(), "{} are gone", many.removed.len());
}

#[test]
fn what_is_heard_after_the_last_word_is_older() {
    for wanted in [false, true] {
        let mut many = Many::taken();
        many.say(true, 2 * VIPS, wanted);
        many.say(false, VIPS, !wanted);
        many.settle(|_| false);
        assert_eq!(many.all_gone(), !wanted, "{} are gone", many.removed.len());
    }
}

/// A daemon that started and was found only after it had taken its VIPs.
#[test]
fn many_may_be_taken_before_the_daemon_is_found() {
    let mut many = Many::bridged(true);
    many.seen.push(Event::Daemons { daemons: Vec::new() });
    many.settle(|_| false);
    many.say(false, 1, true);
    many.settle(|_| false);
    many.seen.push(Event::Daemons { daemons: vec![daemon()] });
    many.settle(|_| false);
    many.say(true, VIPS + 1, false);
    many.settle(|_| false);
    assert!(many.all_gone(), "{} are gone", many.removed.len());
}

/// Of what was lost nothing is missing where the last words are kept.
#[test]
fn after_lost_events_the_last_words_count() {
    let watched = |many: &mut Many| {
        let mut watched = None;
        while !many.seen.is_empty() {
            many.engine.handle_all(std::mem::take(&mut many.seen), many.now);
            while let Some(action) = many.engine.poll_action() {
                if let Action::WatchAddresses { addresses } = &action {
                    watched = Some(addresses.len());
                }
                many.seen.push(Event::Succeeded { action });
            }
        }
        watched
    };
    // They are on their way, and nobody knows but the daemon.
    let mut many = Many::taken();
    many.say(true, VIPS + 1, true);
    many.seen.push(many.snapshot(false));
    assert_eq!(watched(&mut many), None, "still wanted");
    let mut many = Many::taken();
    many.seen.push(many.snapshot(false));
    assert_eq!(watched(&mut many), Some(0), "without the last words they are doubted");
    // They were taken, which nobody heard.
    let mut many = Many::bridged(true);
    many.say(true, 1, true);
    many.seen.push(many.snapshot(true));
    assert!(watched(&mut many).is_some_and(|watched| watched > 0));
}

#[test]
fn more_than_can_be_remembered_is_said() {
    let mut many = Many::bridged(false);
    let intents = |from: u32| {
        let intents = (from..from + 4096).map(|number| Intent {
            ifindex: NIC_INDEX,
            port: PORT,
            sequence: number,
            address: vip(number),
            wanted: true,
            refused: true,
        });
        Event::LastWords { intents: intents.collect() }
    };
    many.seen.push(intents(0));
    many.settle(|_| false);
    let warnings = many.engine.status(many.now).warnings;
    assert!(warnings.iter().any(|text| text.contains("4096 addresses")), "{warnings:?}");
}

/// The monitor says what the guard reports, so that the daemon hears the truth in time all the same: the bench
/// sees to that.
#[test]
fn reports_that_are_lost_change_nothing() {
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.unreported = true;
        bench.sequence(sequence);
        assert!(!bench.released(), "{sequence:?} on {datapath:?} is not noticed");
        let mut bench = ready_for(sequence, datapath);
        bench.unreported = true;
        let steps: Vec<Step> = bench.steps(sequence);
        let half = steps.len() / 2;
        bench.run(&steps[..half]);
        bench.advance(3 * DEADLINE);
    }
}
