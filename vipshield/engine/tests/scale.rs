//! What an event costs the engine does not grow with the number of interfaces and routes.

#[path = "../benches/engine/cost.rs"]
mod cost;
#[path = "../benches/engine/crowd.rs"]
mod crowd;

use self::crowd::{Crowd, Happening, Place};

/// A hundred times the interfaces.
const SIZES: [u32; 2] = [300, 30_000];
/// An event may cost so many times as much: what walks over them costs a hundred times as much.
const MARGIN: f64 = 10.0;
/// The best of so many rounds counts.
const ROUNDS: usize = 7;
const RUNS: u32 = 20;

#[test]
fn an_event_costs_the_same_with_a_hundred_times_the_interfaces() {
    for place in [Place::Free, Place::Bridged] {
        let mut crowds = SIZES.map(|pods| Crowd::new(place, pods));
        for what in Happening::ALL {
            let [few, many] = crowds.each_mut().map(|crowd| {
                let rounds = (0..ROUNDS).map(|_| cost::of_an_event(crowd, what, RUNS).unwrap());
                rounds.fold(f64::INFINITY, f64::min)
            });
            let name = what.name();
            assert!(
                many < MARGIN * few,
                "{place:?}: {name}: {few:.0} ns with {SIZES:?} interfaces becomes {many:.0} ns"
            );
        }
    }
}
