//! Times and spans: the arithmetic of the witnesses, without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The part of time that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its first instant.
    pub from: Instant,
    /// Its last.
    pub to: Instant,
}

impl Window {
    /// Whether `at` lies in it.
    #[must_use]
    pub fn contains(&self, at: Instant) -> bool {
        self.from <= at && at <= self.to
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.to.saturating_duration_since(self.from)
    }
}

/// That something is so, or no longer so, from `at` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<K> {
    /// When.
    pub at: Instant,
    /// Of what: a node, or an address on an interface.
    pub of: K,
    /// Whether it is so.
    pub so: bool,
}

/// How many were so at one time, and for how long more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The most that were so at one time.
    pub most: usize,
    /// The time during which two or more were so.
    pub total: Duration,
}

/// Who was so during the window. `changes` need not be sorted; what happened
/// before the window counts as the state in which it begins.
#[must_use]
pub fn overlap<K: Ord + Clone>(changes: &[Change<K>], window: Window) -> Overlap {
    let mut sorted: Vec<_> = changes.iter().filter(|change| change.at <= window.to).collect();
    sorted.sort_by_key(|change| change.at);
    let mut so = BTreeSet::new();
    let (mut most, mut total, mut last) = (0, Duration::ZERO, window.from);
    for change in sorted {
        if change.at > window.from {
            most = most.max(so.len());
            if so.len() > 1 {
                total += change.at.saturating_duration_since(last);
            }
            last = change.at;
        }
        if change.so {
            so.insert(change.of.clone());
        } else {
            so.remove(&change.of);
        }
    }
    if so.len() > 1 {
        total += window.to.saturating_duration_since(last);
    }
    Overlap { most: most.max(so.len()), total }
}

/// From changes of parts to changes of wholes: a whole is so while any of its
/// parts is. `whole` names the whole of a part.
#[must_use]
pub fn any_of<P: Ord + Clone, W: Ord + Clone>(
    changes: &[Change<P>],
    whole: impl Fn(&P) -> W,
) -> Vec<Change<W>> {
    let mut sorted: Vec<_> = changes.iter().collect();
    sorted.sort_by_key(|change| change.at);
    let mut parts: BTreeMap<W, BTreeSet<P>> = BTreeMap::new();
    let mut wholes = Vec::new();
    for change in sorted {
        let name = whole(&change.of);
        let set = parts.entry(name.clone()).or_default();
        let before = !set.is_empty();
        if change.so {
            set.insert(change.of.clone());
        } else {
            set.remove(&change.of);
        }
        let after = !set.is_empty();
        if before != after {
            wholes.push(Change { at: change.at, of: name, so: after });
        }
    }
    wholes
}

/// How long something was not so within the window, starting as `initially`.
#[must_use]
pub fn time_not_so(changes: &[(Instant, bool)], initially: bool, window: Window) -> Duration {
    let (mut so, mut last, mut total) = (initially, window.from, Duration::ZERO);
    for &(at, now) in changes.iter().filter(|(at, _)| *at <= window.to) {
        if at > window.from {
            if !so {
                total += at.saturating_duration_since(last);
            }
            last = at;
        }
        so = now;
    }
    if !so {
        total += window.to.saturating_duration_since(last);
    }
    total
}

/// The longest time within the window in which something was not so all the time, starting as
/// `initially`, and when that began.
#[must_use]
pub fn longest_not_so(changes: &[(Instant, bool)], initially: bool, window: Window) -> Gap {
    let mut longest = Gap { from: window.from, length: Duration::ZERO };
    let mut since = (!initially).then_some(window.from);
    let end = [(window.to, true)];
    for &(at, so) in changes.iter().filter(|(at, _)| *at <= window.to).chain(&end) {
        let at = at.max(window.from);
        if !so {
            since.get_or_insert(at);
        } else if let Some(from) = since.take() {
            let length = at.saturating_duration_since(from);
            if length > longest.length {
                longest = Gap { from, length };
            }
        }
    }
    longest
}

/// The same changes without what was so for less than `shortest`.
#[must_use]
pub fn without_blinks(changes: &[(Instant, bool)], shortest: Duration) -> Vec<(Instant, bool)> {
    let mut kept: Vec<(Instant, bool)> = Vec::new();
    for &(at, so) in changes {
        match kept.last() {
            Some((since, true)) if !so && at.saturating_duration_since(*since) < shortest => {
                kept.pop();
            }
            _ => kept.push((at, so)),
        }
    }
    kept
}

/// Sightings of many, turned into changes: each is so from a sighting until
/// `lifetime` after the last one before a longer silence.
#[must_use]
pub fn spans<K: Ord + Clone>(sightings: &[(Instant, K)], lifetime: Duration) -> Vec<Change<K>> {
    let mut per: BTreeMap<K, Vec<Instant>> = BTreeMap::new();
    for (at, of) in sightings {
        per.entry(of.clone()).or_default().push(*at);
    }
    let mut changes = Vec::new();
    for (of, mut times) in per {
        times.sort();
        let mut last: Option<Instant> = None;
        for at in times {
            match last {
                Some(seen) if at.saturating_duration_since(seen) <= lifetime => {}
                Some(seen) => {
                    changes.push(Change { at: seen, of: of.clone(), so: false });
                    changes.push(Change { at, of: of.clone(), so: true });
                }
                None => changes.push(Change { at, of: of.clone(), so: true }),
            }
            last = Some(at);
        }
        if let Some(seen) = last {
            changes.push(Change { at: seen, of, so: false });
        }
    }
    changes
}

/// The longest gap in a row of probes, less one `period`: the longest time
/// between the sending of two consecutive answered probes. A gap that reaches
/// the window's edge counts up to the edge.
///
/// `probes` are send times with whether an answer came, in order of sending.
#[must_use]
pub fn longest_gap(probes: &[(Instant, bool)], window: Window, period: Duration) -> Gap {
    let answered = probes.iter().filter(|(at, answered)| *answered && window.contains(*at));
    // The window may end between two probes: the last one sent is its edge here.
    let edge = probes.iter().rev().map(|(at, _)| *at).find(|at| window.contains(*at));
    let ends = answered.map(|(at, _)| *at).chain([edge.unwrap_or(window.to)]);
    let (mut last, mut longest) = (window.from, Gap { from: window.from, length: Duration::ZERO });
    for at in ends {
        let length = at.saturating_duration_since(last);
        if length > longest.length {
            longest = Gap { from: last, length };
        }
        last = at;
    }
    Gap { length: longest.length.saturating_sub(period), ..longest }
}

/// A time in which something was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When it began; among probes, when the last answered one before it was sent.
    pub from: Instant,
    /// How long it lasted; among probes, less one period.
    pub length: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Milliseconds after an arbitrary instant.
    struct Base(Instant);

    impl Base {
        fn new() -> Self {
            Self(clock::now())
        }
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }
        fn window(&self, from: u64, to: u64) -> Window {
            Window { from: self.at(from), to: self.at(to) }
        }
        fn change<K>(&self, ms: u64, of: K, so: bool) -> Change<K> {
            Change { at: self.at(ms), of, so }
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_owner_after_the_other_does_not_overlap() {
        let t = Base::new();
        let changes = [
            t.change(0, "node1", true),
            t.change(500, "node1", false),
            t.change(600, "node2", true),
        ];
        let seen = overlap(&changes, t.window(100, 1_000));
        assert_eq!(seen, Overlap { most: 1, total: Duration::ZERO });
    }

    #[test]
    fn two_owners_are_counted_only_inside_the_window() {
        let t = Base::new();
        let changes = [
            t.change(0, "node1", true),
            t.change(50, "node2", true),
            t.change(300, "node1", false),
            t.change(900, "node1", true),
        ];
        let seen = overlap(&changes, t.window(100, 1_000));
        assert_eq!(seen, Overlap { most: 2, total: ms(200 + 100) });
        let seen = overlap(&changes, t.window(400, 800));
        assert_eq!(seen, Overlap { most: 1, total: Duration::ZERO });
    }

    #[test]
    fn nobody_at_all() {
        let t = Base::new();
        let seen = overlap::<&str>(&[], t.window(0, 10));
        assert_eq!(seen, Overlap { most: 0, total: Duration::ZERO });
    }

    #[test]
    fn an_address_on_two_interfaces_is_one_owner() {
        let t = Base::new();
        let changes = [
            t.change(0, ("node1", 2), true),
            t.change(10, ("node1", 3), true),
            t.change(20, ("node1", 2), false),
            t.change(30, ("node1", 3), false),
        ];
        let nodes = any_of(&changes, |part| part.0);
        assert_eq!(nodes, [t.change(0, "node1", true), t.change(30, "node1", false)]);
    }

    #[test]
    fn time_down_is_summed() {
        let t = Base::new();
        let changes = [(t.at(50), false), (t.at(200), true), (t.at(300), false)];
        assert_eq!(time_not_so(&changes, true, t.window(100, 400)), ms(100 + 100));
        assert_eq!(time_not_so(&[], false, t.window(100, 400)), ms(300));
        assert_eq!(time_not_so(&[], true, t.window(100, 400)), Duration::ZERO);
    }

    #[test]
    fn the_longest_time_down_is_in_one_piece() {
        let t = Base::new();
        let changes = [
            (t.at(50), false),
            (t.at(200), true),
            (t.at(300), false),
            (t.at(310), false),
            (t.at(450), true),
            (t.at(600), false),
        ];
        let gap = |from, length| Gap { from: t.at(from), length: ms(length) };
        assert_eq!(longest_not_so(&changes, true, t.window(0, 400)), gap(50, 150));
        assert_eq!(longest_not_so(&changes, true, t.window(100, 500)), gap(300, 150));
        assert_eq!(longest_not_so(&changes, true, t.window(100, 1_000)), gap(600, 400));
        assert_eq!(longest_not_so(&[], false, t.window(100, 400)), gap(100, 300));
        assert_eq!(longest_not_so(&[], true, t.window(100, 400)).length, Duration::ZERO);
    }

    #[test]
    fn a_blink_is_nothing() {
        let t = Base::new();
        let changes = [(t.at(0), true), (t.at(100), false), (t.at(200), true), (t.at(205), false)];
        assert_eq!(without_blinks(&changes, ms(50)), changes[..2]);
        assert_eq!(without_blinks(&changes, ms(5)), changes);
    }

    #[test]
    fn sightings_become_spans() {
        let t = Base::new();
        let seen = [(t.at(0), 'a'), (t.at(100), 'a'), (t.at(900), 'a'), (t.at(50), 'b')];
        let changes = spans(&seen, ms(300));
        assert_eq!(
            changes,
            [
                t.change(0, 'a', true),
                t.change(100, 'a', false),
                t.change(900, 'a', true),
                t.change(900, 'a', false),
                t.change(50, 'b', true),
                t.change(50, 'b', false),
            ]
        );
    }

    #[test]
    fn gaps_are_between_answered_probes() {
        let t = Base::new();
        let probes: Vec<_> = (0..100).map(|n| (t.at(n), !(40..50).contains(&n))).collect();
        let gap = longest_gap(&probes, t.window(0, 99), ms(1));
        assert_eq!(gap, Gap { from: t.at(39), length: ms(10) });
        let all: Vec<_> = (0..100).map(|n| (t.at(n), true)).collect();
        assert_eq!(longest_gap(&all, t.window(0, 99), ms(1)).length, Duration::ZERO);
    }

    #[test]
    fn a_gap_reaches_the_edges() {
        let t = Base::new();
        let late: Vec<_> = (0..100).map(|n| (t.at(n), n >= 30)).collect();
        assert_eq!(longest_gap(&late, t.window(0, 99), ms(1)).length, ms(29));
        let never: Vec<_> = (0..100).map(|n| (t.at(n), false)).collect();
        assert_eq!(longest_gap(&never, t.window(0, 99), ms(1)).length, ms(98));
        assert_eq!(longest_gap(&[], t.window(0, 99), ms(1)).length, ms(98));
    }
}
