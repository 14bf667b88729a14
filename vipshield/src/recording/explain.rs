//! A recording, explained: played through this vipshield's engine.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::Recording;
use crate::{
    cli::Moment,
    engine::{
        record::{Clocks, Entry},
        replay::{
            Belief, NicView, Replay, Step,
            picture::{NoPicture, picture},
            svg::svg,
        },
    },
};

/// A step with its time of day.
#[derive(Serialize)]
struct Timed {
    time: String,
    #[serde(flatten)]
    step: Step,
}

/// Every entry for people; with a moment, where things stood then.
#[must_use]
pub fn explain_text(recording: &Recording, at: Option<Moment>) -> String {
    let mut text = notes(recording);
    let clocks = recording.header.clocks;
    let mut differing = 0_usize;
    let steps = play(recording, at);
    if let Some(at) = at {
        match steps.last() {
            None => text.push_str("nothing was recorded by then\n"),
            Some(step) => state(&mut text, clocks, step, moment(recording, at)),
        }
        return text;
    }
    for step in &steps {
        differing += usize::from(!step.differs.is_empty());
        let mut time = clocks.time_of_day(Duration::from_nanos(step.at_ns));
        let marked = [
            ("", &step.events),
            ("  = ", &step.changes),
            ("  > ", &step.actions),
            ("  ! ", &step.differs),
        ];
        for (mark, lines) in marked {
            for line in lines {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{time:12} {mark}{line}");
                time.clear();
            }
        }
    }
    let _ = match differing {
        0 => writeln!(text, "{} entries, each decided now as it was recorded", steps.len()),
        _ => writeln!(
            text,
            "{} entries, {differing} of them decided otherwise now (marked !)",
            steps.len()
        ),
    };
    text
}

/// The same for programs: an array of entries, or of the one that came last before a moment.
pub fn explain_json(recording: &Recording, at: Option<Moment>) -> serde_json::Result<String> {
    let steps = play(recording, at);
    let skipped = if at.is_some() { steps.len().saturating_sub(1) } else { 0 };
    let timed = steps.into_iter().skip(skipped).map(|step| {
        let time = recording.header.clocks.time_of_day(Duration::from_nanos(step.at_ns));
        Timed { time, step }
    });
    serde_json::to_string_pretty(&timed.collect::<Vec<_>>()).map(|text| text + "\n")
}

/// A transition as a picture: the last one, or the one at a moment.
pub fn explain_svg(recording: &Recording, at: Option<Moment>) -> Result<String, NoPicture> {
    let at = at.map(|at| moment(recording, at));
    picture(&recording.header, &recording.entries, at).map(|picture| svg(&picture))
}

/// What whoever reads on should know.
fn notes(recording: &Recording) -> String {
    let mut text = String::new();
    let version = &recording.header.version;
    if version != env!("CARGO_PKG_VERSION") {
        let own = env!("CARGO_PKG_VERSION");
        let _ = writeln!(text, "note: recorded by vipshield {version}, explained by {own}");
    }
    if !recording.header.whole {
        text.push_str(
            "note: it begins with a checkpoint: what was under way then is not known, and the first decisions \
             may differ\n",
        );
    }
    if recording.cut_off {
        text.push_str("note: its last line is not all there, and left out\n");
    }
    text
}

fn play(recording: &Recording, at: Option<Moment>) -> Vec<Step> {
    let until = at.map_or(Duration::MAX, |at| moment(recording, at));
    let mut replay = Replay::new(&recording.header);
    recording
        .entries
        .iter()
        .take_while(|entry| entry.at <= until)
        .map(|entry| replay.play(entry))
        .collect()
}

/// A moment in the engine's time: of a time of day the first since the recording began.
fn moment(recording: &Recording, at: Moment) -> Duration {
    const DAY: Duration = Duration::from_hours(24);
    let began = recording.entries.first().map_or(Duration::ZERO, |entry: &Entry| entry.at);
    match at {
        Moment::After(after) => began.saturating_add(after),
        Moment::OfDay(time) => {
            let first = recording.header.clocks.since_midnight(began);
            let day = if time >= first { Duration::ZERO } else { DAY };
            let after = time.saturating_add(day).saturating_sub(first);
            // A time is said to the millisecond, and what happened in that counts.
            began.saturating_add(after).saturating_add(Duration::from_millis(1))
        }
    }
}

fn state(text: &mut String, clocks: Clocks, step: &Step, at: Duration) {
    let now = clocks.time_of_day(Duration::from_nanos(step.at_ns));
    let _ = writeln!(text, "as of {} (the last event was at {now})", clocks.time_of_day(at));
    for view in &step.nics {
        let NicView { nic, phase, phase_rule, bearer, .. } = view;
        let bearer = bearer.as_deref().unwrap_or("unknown");
        let _ = writeln!(text, "{nic}: {phase} (rule {phase_rule}), bearer {bearer}");
        for (what, is, rule) in [
            ("guard", &view.policy, view.policy_rule),
            ("carry", &view.carry, view.carry_rule),
            ("shunt", &view.shunt, view.shunt_rule),
        ] {
            let _ = writeln!(text, "  {what}: {is} (rule {rule})");
        }
        for Belief { what, is } in &view.believed {
            let _ = writeln!(text, "  the daemons believe {what}: {is}");
        }
        for untrue in &view.untrue {
            let due = clocks.time_of_day(Duration::from_nanos(untrue.due_ns));
            let _ = writeln!(text, "  untrue to the daemons: {}, told at {due}", untrue.what);
        }
    }
    if step.nics.is_empty() {
        text.push_str("no NIC is guarded\n");
    }
}
