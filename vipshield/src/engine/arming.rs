//! When to be prepared for a transition: after a sign that one may be near.
//!
//! A new bridge is a good sign. That a tool was started which makes and undoes bridges (`ovs-vsctl`)
//! is a weak one: a cluster's own network calls it all the time, in every network namespace. So what
//! came to nothing is believed ever less often, until something comes of it.

use std::time::Duration;

/// After a sign that a transition may be near, vipshield is prepared for it for so long.
const ARMED: Duration = Duration::from_secs(10);

/// However many hints there are, no longer than this: Kube-OVN takes a NIC in a second or two.
const ARMED_AT_MOST: Duration = Duration::from_secs(30);

/// For so long no hint is heeded after some that came to nothing; twice as long each time.
const PAUSE: Duration = Duration::from_secs(10);
const PAUSE_AT_MOST: Duration = Duration::from_mins(10);

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Arming {
    began: Duration,
    until: Option<Duration>,
    /// Hints are heeded again from then on.
    deaf_until: Duration,
    /// How long hints will not be heeded if those of now come to nothing.
    pause: Duration,
    /// A bridge appeared: something will come of that, until then.
    expects_until: Duration,
}

impl Arming {
    /// A tool was started.
    pub(super) fn hint(&mut self, now: Duration) {
        if now >= self.deaf_until {
            self.arm(now);
        }
    }

    /// A bridge appeared.
    pub(super) fn new_bridge(&mut self, now: Duration) {
        self.until = None;
        self.expects_until = now.saturating_add(ARMED);
        self.arm(now);
    }

    fn arm(&mut self, now: Duration) {
        if self.until.is_none() {
            self.began = now;
        }
        let most = self.began.saturating_add(ARMED_AT_MOST);
        self.until = Some(now.saturating_add(ARMED).min(most));
    }

    /// A transition is under way: hints are worth heeding.
    pub(super) fn came_true(&mut self) {
        self.pause = Duration::ZERO;
        self.deaf_until = Duration::ZERO;
        self.expects_until = Duration::ZERO;
    }

    /// Time went by.
    pub(super) fn expire(&mut self, now: Duration) {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            self.pause = self.pause.saturating_mul(2).clamp(PAUSE, PAUSE_AT_MOST);
            self.deaf_until = now.saturating_add(self.pause);
        }
    }

    /// Whether a transition is about to begin, as far as a good sign says.
    pub(super) fn expects_one(&self, now: Duration) -> bool {
        now < self.expects_until
    }

    pub(super) fn is_armed(&self) -> bool {
        self.until.is_some()
    }

    /// When it ends.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    /// Hints all the time, for so long from then on. Returns for how long it was armed.
    fn busy(arming: &mut Arming, now: &mut Duration, length: Duration) -> Duration {
        let mut armed = Duration::ZERO;
        let end = *now + length;
        while *now < end {
            arming.expire(*now);
            arming.hint(*now);
            armed += if arming.is_armed() { TICK } else { Duration::ZERO };
            *now += TICK;
        }
        armed
    }

    #[test]
    fn one_hint_arms_for_a_while() {
        let mut arming = Arming::default();
        let now = Duration::from_secs(100);
        arming.hint(now);
        assert!(arming.is_armed());
        assert_eq!(arming.next_deadline(), Some(now + ARMED));
        arming.expire(now + ARMED);
        assert!(!arming.is_armed());
    }

    #[test]
    fn hints_that_come_to_nothing_are_heeded_ever_less_often() {
        let mut arming = Arming::default();
        let mut now = Duration::from_secs(100);
        let minute = Duration::from_mins(1);
        let first = busy(&mut arming, &mut now, minute);
        assert!(first >= ARMED_AT_MOST, "{first:?}");
        busy(&mut arming, &mut now, 60 * minute);
        let hour = busy(&mut arming, &mut now, 60 * minute);
        assert!(hour <= 6 * ARMED_AT_MOST, "{hour:?} of an hour");
        assert!(hour >= 5 * ARMED_AT_MOST, "but they are: {hour:?}");
        // A transition came of it.
        arming.came_true();
        arming.hint(now);
        assert!(arming.is_armed());
    }

    #[test]
    fn a_new_bridge_is_heeded_always() {
        let mut arming = Arming::default();
        let mut now = Duration::from_secs(100);
        busy(&mut arming, &mut now, Duration::from_hours(2));
        arming.expire(now);
        arming.new_bridge(now);
        assert_eq!(arming.next_deadline(), Some(now + ARMED));
    }
}
