//! Where a time is on the axis. A transition is short beside what is shown of the time around it, so it is
//! stretched: the axis has three parts, each with a scale of its own.

use std::time::Duration;

use super::super::picture::{Extent, Picture};

/// How much of the width is before the stretched part, and how much after.
const BEFORE: f64 = 0.13;
const AFTER: f64 = 0.2;

/// At least so much around a transition is stretched, too.
const AROUND: Duration = Duration::from_millis(5);

/// Ticks are not closer than this.
const CLOSE: f64 = 46.0;

/// Ticks are not closer than this in time: in nanoseconds.
const FINEST: u64 = 100_000;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Scale {
    /// Times and where they are, in their order.
    stops: [(Duration, f64); 4],
    transition: Extent,
}

impl Scale {
    pub(super) fn new(picture: &Picture, left: f64, right: f64) -> Self {
        let Picture { shown, transition, .. } = picture;
        let length = transition.to.saturating_sub(transition.from);
        let around = (length / 6).max(AROUND);
        let from = transition.from.saturating_sub(around).max(shown.from);
        let to = transition.to.saturating_add(around).min(shown.to);
        let width = right - left;
        let stops = [
            (shown.from, left),
            (from, left + BEFORE * width),
            (to, right - AFTER * width),
            (shown.to, right),
        ];
        Self { stops, transition: *transition }
    }

    /// Always within the axis.
    pub(super) fn x(&self, at: Duration) -> f64 {
        let parts = self.stops.windows(2);
        let found =
            parts.filter_map(|part| <&[_; 2]>::try_from(part).ok()).find(|[_, (to, _)]| at <= *to);
        let Some([(from, left), (to, right)]) = found else { return self.stops[3].1 };
        let length = to.saturating_sub(*from).as_secs_f64();
        if length <= 0.0 {
            return *right;
        }
        let part = at.saturating_sub(*from).as_secs_f64() / length;
        left + part * (right - left)
    }

    /// Where the stretched part is.
    pub(super) const fn stretched(&self) -> (f64, f64) {
        let [_, (_, from), (_, to), _] = self.stops;
        (from, to)
    }

    /// Where the transition is.
    pub(super) fn transition(&self) -> (f64, f64) {
        (self.x(self.transition.from), self.x(self.transition.to))
    }

    /// A time since the transition began, in milliseconds.
    pub(super) fn since(&self, at: Duration) -> String {
        milliseconds(nanos(at) - nanos(self.transition.from), 1)
    }

    /// Where there are ticks, and what is written there.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let zero = nanos(self.transition.from);
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for part in self.stops.windows(2) {
            let [(from, left), (to, right)] = part else { continue };
            let most = ((right - left) / CLOSE).max(1.0);
            let length = to.saturating_sub(*from).as_nanos() as f64;
            let steps = [1_i128, 2, 5];
            let step = (0..18)
                .flat_map(|power| steps.map(|step| step * i128::from(FINEST) * 10_i128.pow(power)))
                .find(|step| length / *step as f64 <= most);
            let Some(step) = step else { continue };
            let (from, to) = (nanos(*from) - zero, nanos(*to) - zero);
            let mut at = from.div_euclid(step) * step;
            while at <= to {
                let time = u64::try_from(at + zero).map(Duration::from_nanos);
                if at >= from
                    && let Ok(time) = time
                {
                    let x = self.x(time);
                    if ticks.last().is_none_or(|(last, _)| x - last >= CLOSE * 0.6) {
                        let decimals = usize::from(step < 1_000_000);
                        ticks.push((x, milliseconds(at, decimals)));
                    }
                }
                at += step;
            }
        }
        ticks
    }
}

fn nanos(at: Duration) -> i128 {
    i128::try_from(at.as_nanos()).unwrap_or(i128::MAX / 4)
}

fn milliseconds(nanos: i128, decimals: usize) -> String {
    let text = format!("{:.decimals$}", nanos as f64 / 1e6);
    text.replace('-', "\u{2212}")
}
