//! What follows from tasks that were born, or died.

use std::time::Duration;

use vipshield_common::tasks::{TaskChange, TaskEvent};

use crate::daemons::{Kin, Scope};

/// When daemons are looked for after one of them was seen to exec or fork: it opens its sockets
/// some moments later.
pub(super) const AFTER_BIRTH: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(20),
    Duration::from_millis(60),
    Duration::from_millis(150),
    Duration::from_millis(400),
];
/// So many looks are put off at the most.
pub(super) const MOST_LOOKS: usize = 2 * AFTER_BIRTH.len();

/// Whether a tool was started that takes and gives back NICs.
pub(super) fn is_hint(tasks: &[TaskEvent]) -> bool {
    changes(tasks).any(|(change, _)| change == TaskChange::Tool)
}

/// Whether a daemon was seen to start or to end. Not a fork: keepalived forks for every script it runs;
/// nor the end of what is no daemon: such a fork may be all that runs the script.
pub(super) fn is_turnover(tasks: &[TaskEvent], kin: impl Fn(u32) -> Kin) -> bool {
    changes(tasks).any(|(change, pid)| match change {
        TaskChange::Exec => true,
        TaskChange::Exit => kin(pid) == Kin::Daemon,
        TaskChange::Fork | TaskChange::Tool | TaskChange::Reload => false,
    })
}

/// Where and how much later daemons are to be looked for.
///
/// What a daemon forks is a script: those that speak VRRP are started by a parent that is none, and
/// that is neither looked for in vain whenever a script is begun, nor when it has ended.
pub(super) fn looks(
    tasks: &[TaskEvent],
    kin: impl Fn(u32) -> Kin,
) -> Option<(Scope, &'static [Duration])> {
    let wanted = |(change, pid)| match (change, kin(pid)) {
        (TaskChange::Exec, Kin::Daemon | Kin::Other | Kin::Untold)
        | (TaskChange::Fork, Kin::Other | Kin::Untold) => Some((Scope::All, true)),
        (TaskChange::Reload, Kin::Daemon | Kin::Other | Kin::Untold) => Some((Scope::Known, true)),
        (TaskChange::Exit, Kin::Daemon | Kin::Untold) => Some((Scope::Known, false)),
        (TaskChange::Exec | TaskChange::Fork | TaskChange::Reload, Kin::Stranger)
        | (TaskChange::Fork, Kin::Daemon)
        | (TaskChange::Exit, Kin::Other | Kin::Stranger)
        | (TaskChange::Tool, _) => None,
    };
    let (scope, born) = changes(tasks).filter_map(wanted).max()?;
    // An exit is seen before the task's files are closed: it is over some moments later.
    let delays = if born { &AFTER_BIRTH[..] } else { AFTER_BIRTH.get(1..4).unwrap_or(&[]) };
    Some((scope, delays))
}

fn changes(tasks: &[TaskEvent]) -> impl Iterator<Item = (TaskChange, u32)> {
    tasks.iter().filter_map(|task| Some((TaskChange::from_u32(task.change)?, task.pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: u32 = 700;
    const PARENT: u32 = 699;
    const STRANGER: u32 = 5000;

    fn kin(pid: u32) -> Kin {
        match pid {
            DAEMON => Kin::Daemon,
            STRANGER => Kin::Stranger,
            _ => Kin::Other,
        }
    }

    fn task(change: TaskChange, pid: u32) -> [TaskEvent; 1] {
        [TaskEvent { pid, change: change as u32, ..TaskEvent::default() }]
    }

    #[test]
    fn a_script_of_a_daemon_is_no_turnover() {
        let is_turnover = |change, pid| is_turnover(&task(change, pid), kin);
        assert!(is_turnover(TaskChange::Exec, 701));
        assert!(is_turnover(TaskChange::Exit, DAEMON));
        for change in [TaskChange::Fork, TaskChange::Tool, TaskChange::Reload] {
            assert!(!is_turnover(change, DAEMON), "{change:?}");
        }
        assert!(!is_turnover(TaskChange::Exit, 701));
    }

    #[test]
    fn daemons_are_looked_for_when_one_may_have_come_or_gone() {
        let first = |change, pid| {
            looks(&task(change, pid), kin).map(|(scope, delays)| (scope, delays.first().copied()))
        };
        let (now, soon) = (Some(Duration::ZERO), Some(Duration::from_millis(5)));
        assert_eq!(first(TaskChange::Exec, PARENT), Some((Scope::All, now)));
        assert_eq!(first(TaskChange::Fork, PARENT), Some((Scope::All, now)));
        assert_eq!(first(TaskChange::Reload, PARENT), Some((Scope::Known, now)));
        assert_eq!(first(TaskChange::Exit, DAEMON), Some((Scope::Known, soon)));
        assert!(is_hint(&task(TaskChange::Tool, 1)) && !is_hint(&task(TaskChange::Exec, 1)));
    }

    #[test]
    fn nobody_is_looked_for_because_of_a_script_or_a_stranger() {
        let nothing = |change, pid| assert_eq!(looks(&task(change, pid), kin), None, "{change:?}");
        nothing(TaskChange::Fork, DAEMON);
        nothing(TaskChange::Exit, 701);
        nothing(TaskChange::Tool, PARENT);
        for change in [TaskChange::Exec, TaskChange::Fork, TaskChange::Exit, TaskChange::Reload] {
            nothing(change, STRANGER);
        }
        // What else happened counts.
        let both = [task(TaskChange::Fork, DAEMON), task(TaskChange::Exit, DAEMON)].concat();
        assert_eq!(looks(&both, kin).map(|it| it.0), Some(Scope::Known));
        let both = [task(TaskChange::Reload, PARENT), task(TaskChange::Fork, PARENT)].concat();
        assert_eq!(looks(&both, kin), Some((Scope::All, &AFTER_BIRTH[..])));
    }

    /// In a PID namespace of its own vipshield knows nobody by the kernel's number.
    #[test]
    fn who_cannot_be_told_may_be_anybody() {
        let looks = |change| looks(&task(change, DAEMON), |_| Kin::Untold).map(|it| it.0);
        assert_eq!(looks(TaskChange::Fork), Some(Scope::All));
        assert_eq!(looks(TaskChange::Exit), Some(Scope::Known));
        assert!(!is_turnover(&task(TaskChange::Exit, DAEMON), |_| Kin::Untold));
    }
}
