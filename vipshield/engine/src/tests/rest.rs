//! An engine at rest misses nothing: it asks for the same, at the same time, as one that looks at
//! everything whatever it is told.

use std::{net::IpAddr, time::Duration};

use proptest::{collection::vec, prelude::*};

use super::{
    super::{Action, Address, Engine, Event, Link, Route},
    all,
    bench::{Bench, DEADLINE, engine},
    node::Datapath,
    properties::{a_datapath, a_deed, cases, do_it},
    ready_for,
    told::an_event,
};

/// An engine, and one that never rests.
struct Twins {
    engine: Engine,
    restless: Engine,
    /// Looks that the one has spared.
    spared: usize,
}

impl Twins {
    fn new() -> Self {
        Self { engine: engine(), restless: engine(), spared: 0 }
    }

    /// Both are told. Returns what both ask for.
    fn tell(&mut self, event: &Event, now: Duration) -> Vec<Action> {
        let before = self.engine.evaluated;
        self.engine.handle(event.clone(), now);
        self.spared += usize::from(self.engine.evaluated == before);
        let restless = &mut self.restless;
        if restless.is_ending() {
            restless.at_the_end(event.clone());
        } else {
            let asked_before = restless.actions.len();
            restless.take_in(event.clone(), now);
            let must_end = restless.must_end(now);
            if restless.started && !must_end {
                restless.evaluate(now);
                restless.urgent_first(asked_before);
            }
            if must_end || restless.may_end(now) {
                restless.let_go(now);
            }
        }
        let asked: Vec<Action> = std::iter::from_fn(|| self.engine.poll_action()).collect();
        let also: Vec<Action> = std::iter::from_fn(|| self.restless.poll_action()).collect();
        assert_eq!(asked, also, "at {now:?}, told {event:?}");
        let deadlines = (self.engine.next_deadline(), self.restless.next_deadline());
        assert_eq!(deadlines.0, deadlines.1, "at {now:?}, told {event:?}");
        asked
    }

    /// The same, and what is asked for is done, or fails.
    fn tell_and_answer(&mut self, event: &Event, fail: bool, now: Duration) {
        let mut asked = self.tell(event, now);
        let mut rounds = 0;
        while !asked.is_empty() && rounds < 50 {
            rounds += 1;
            let actions: Vec<Action> = std::mem::take(&mut asked);
            for action in actions {
                if matches!(action, Action::Tell { .. } | Action::Finish { .. }) {
                    continue;
                }
                let event = if fail {
                    Event::Failed { action, error: "made to fail".to_owned() }
                } else {
                    Event::Succeeded { action }
                };
                asked.extend(self.tell(&event, now));
            }
        }
    }
}

/// What happens to the interface of a pod.
fn pod(number: u32, what: u8) -> Event {
    let ifindex = 1_000 + number;
    let ip = IpAddr::from([10, 16, 0, number as u8]);
    let address = Address { ip, prefix_len: 32 };
    let route = Route {
        destination: ip,
        prefix_len: 32,
        metric: 0,
        gateway: None,
        source: None,
        mtu: 1400,
    };
    match what {
        0 => Event::Link {
            link: Link {
                ifindex,
                name: format!("veth{number}"),
                up: true,
                running: true,
                kind: Some("veth".to_owned()),
                mac: vec![2, 0, 0, 1, 0, number as u8],
                ..Link::default()
            },
        },
        1 => Event::Address { ifindex, address, requester: 77 },
        2 => Event::Route { ifindex, route, replaces: number == 0 },
        3 => Event::RouteRemoved { ifindex, route },
        4 => Event::AddressRemoved { ifindex, address, requester: 77 },
        _ => Event::LinkRemoved { ifindex },
    }
}

fn of_a_pod() -> impl Strategy<Value = Event> {
    (0_u32..3, 0_u8..6).prop_map(|(number, what)| pod(number, what))
}

/// Long enough, at times, for somebody to be taken for gone, or to be forgotten.
fn a_while() -> impl Strategy<Value = Duration> {
    prop_oneof![12 => 0_u64..100, 3 => 0_u64..700, 2 => 0_u64..5_000, 1 => 0_u64..90_000]
        .prop_map(Duration::from_millis)
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn whatever_it_is_told(
        events in vec((an_event(), vec((of_a_pod(), a_while()), 0..7), any::<bool>()), 1..40),
        datapath in a_datapath(),
        punctual: bool,
    ) {
        let mut twins = Twins::new();
        let mut now = Duration::from_secs(1);
        let start = Bench::unshielded(datapath);
        twins.tell_and_answer(&start.node.snapshot(), false, now);
        twins.tell_and_answer(&Event::Daemons { daemons: start.found() }, false, now);
        for (event, pods, fail) in events {
            let first = (event, Duration::from_millis(1));
            for (event, wait) in std::iter::once(first).chain(pods) {
                let then = now + wait;
                while punctual && let Some(deadline) = twins.engine.next_deadline()
                    && deadline <= then
                {
                    now = now.max(deadline);
                    twins.tell_and_answer(&Event::Tick, fail, now);
                }
                now = then;
                twins.tell_and_answer(&event, fail, now);
            }
        }
        twins.tell(&Event::Stop, now);
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn whatever_happens_to_the_node(
        datapath in a_datapath(),
        deeds in vec(a_deed(), 1..30),
        noise in vec((of_a_pod(), 0_u32..100), 1..40),
    ) {
        let mut bench = Bench::new(datapath);
        bench.grace = Duration::MAX;
        for deed in deeds {
            do_it(&mut bench, deed);
        }
        bench.advance(3 * DEADLINE);
        replay(&bench, &noise);
    }
}

/// Tells twins what an engine was told on a bench, and of pods between.
fn replay(bench: &Bench, noise: &[(Event, u32)]) -> Twins {
    let mut twins = Twins::new();
    let mut noise = noise.iter().cycle();
    let mut before = Duration::ZERO;
    for (at, event) in &bench.told {
        if let Some((event, part)) = noise.next().filter(|_| *at > before) {
            let between = before + at.saturating_sub(before) * *part / 100;
            twins.tell(event, between);
        }
        twins.tell(event, *at);
        before = *at;
    }
    twins
}

#[test]
fn in_every_sequence() {
    let noise: Vec<(Event, u32)> =
        (0..6).map(|what| (pod(u32::from(what % 2), what), u32::from(what) * 15)).collect();
    for (sequence, datapath) in all() {
        let mut bench = ready_for(sequence, datapath);
        bench.sequence(sequence);
        let twins = replay(&bench, &noise);
        assert!(twins.spared > 0, "{sequence:?} on {datapath:?}");
    }
}

#[test]
fn what_pods_do_needs_no_look_at_everything() {
    for datapath in Datapath::ALL {
        let mut bench = Bench::new(datapath);
        bench.advance(60 * DEADLINE);
        let mut twins = replay(&bench, &[(Event::Tick, 0)]);
        let now = bench.now;
        for _ in 0..10 {
            twins.tell(&pod(1, 0), now);
        }
        let looked = twins.engine.evaluated;
        for what in (0..6).cycle().take(1_000) {
            twins.tell(&pod(u32::from(what / 2), what), now + Duration::from_hours(1));
        }
        assert_eq!(twins.engine.evaluated, looked, "{datapath:?}");
    }
}
