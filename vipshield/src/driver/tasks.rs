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

/// What happened to whom.
pub(super) fn known(
    tasks: &[TaskEvent],
    kin: impl Fn(&TaskEvent) -> Kin,
) -> Vec<(TaskChange, Kin)> {
    tasks.iter().filter_map(|task| Some((TaskChange::from_u32(task.change)?, kin(task)))).collect()
}

/// Whether a daemon was seen to start or to end. Not a fork: keepalived forks for every script it runs;
/// nor the end of what is no daemon: such a fork may be all that runs the script.
pub(super) fn is_turnover(tasks: &[(TaskChange, Kin)]) -> bool {
    tasks.iter().any(|(change, kin)| match change {
        TaskChange::Exec => *kin != Kin::Stranger,
        TaskChange::Exit => *kin == Kin::Daemon,
        TaskChange::Fork | TaskChange::Reload => false,
    })
}

/// Where and how much later daemons are to be looked for.
///
/// What a daemon forks is a script: those that speak VRRP are started by a parent that is none, and
/// that is neither looked for in vain whenever a script is begun, nor when it has ended.
pub(super) fn looks(tasks: &[(TaskChange, Kin)]) -> Option<(Scope, &'static [Duration])> {
    let wanted = |(change, kin): &(TaskChange, Kin)| match (change, kin) {
        (TaskChange::Exec, Kin::Daemon | Kin::Other | Kin::Untold)
        | (TaskChange::Fork, Kin::Other | Kin::Untold) => Some((Scope::All, true)),
        (TaskChange::Reload, Kin::Daemon | Kin::Other | Kin::Untold) => Some((Scope::Known, true)),
        (TaskChange::Exit, Kin::Daemon | Kin::Untold) => Some((Scope::Known, false)),
        (TaskChange::Exec | TaskChange::Fork | TaskChange::Reload, Kin::Stranger)
        | (TaskChange::Fork, Kin::Daemon)
        | (TaskChange::Exit, Kin::Other | Kin::Stranger) => None,
    };
    let (scope, born) = tasks.iter().filter_map(wanted).max()?;
    // An exit is seen before the task's files are closed: it is over some moments later.
    let delays = if born { &AFTER_BIRTH[..] } else { AFTER_BIRTH.get(1..4).unwrap_or(&[]) };
    Some((scope, delays))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: u32 = 700;
    const PARENT: u32 = 699;
    const STRANGER: u32 = 5000;

    fn kin(task: &TaskEvent) -> Kin {
        match task.pid {
            DAEMON => Kin::Daemon,
            STRANGER => Kin::Stranger,
            _ => Kin::Other,
        }
    }

    fn task(change: TaskChange, pid: u32) -> Vec<(TaskChange, Kin)> {
        let change = change as u32;
        known(&[TaskEvent { pid, change, ..TaskEvent::default() }], kin)
    }

    #[test]
    fn a_script_of_a_daemon_is_no_turnover() {
        let is_turnover = |change, pid| is_turnover(&task(change, pid));
        assert!(is_turnover(TaskChange::Exec, 701));
        assert!(is_turnover(TaskChange::Exit, DAEMON));
        for change in [TaskChange::Fork, TaskChange::Reload] {
            assert!(!is_turnover(change, DAEMON), "{change:?}");
        }
        assert!(!is_turnover(TaskChange::Exit, 701));
    }

    #[test]
    fn daemons_are_looked_for_when_one_may_have_come_or_gone() {
        let first = |change, pid| {
            looks(&task(change, pid)).map(|(scope, delays)| (scope, delays.first().copied()))
        };
        let (now, soon) = (Some(Duration::ZERO), Some(Duration::from_millis(5)));
        assert_eq!(first(TaskChange::Exec, PARENT), Some((Scope::All, now)));
        assert_eq!(first(TaskChange::Fork, PARENT), Some((Scope::All, now)));
        assert_eq!(first(TaskChange::Reload, PARENT), Some((Scope::Known, now)));
        assert_eq!(first(TaskChange::Exit, DAEMON), Some((Scope::Known, soon)));
    }

    #[test]
    fn nothing_follows_from_what_a_stranger_does() {
        for change in [TaskChange::Exec, TaskChange::Fork, TaskChange::Exit, TaskChange::Reload] {
            let tasks = task(change, STRANGER);
            assert!(!is_turnover(&tasks), "{change:?}");
            assert_eq!(looks(&tasks), None, "{change:?}");
        }
    }

    #[test]
    fn nobody_is_looked_for_because_of_a_script() {
        let nothing = |change, pid| assert_eq!(looks(&task(change, pid)), None, "{change:?}");
        nothing(TaskChange::Fork, DAEMON);
        nothing(TaskChange::Exit, 701);
        // What else happened counts.
        let both = [task(TaskChange::Fork, DAEMON), task(TaskChange::Exit, DAEMON)].concat();
        assert_eq!(looks(&both).map(|it| it.0), Some(Scope::Known));
        let both = [task(TaskChange::Reload, PARENT), task(TaskChange::Fork, PARENT)].concat();
        assert_eq!(looks(&both), Some((Scope::All, &AFTER_BIRTH[..])));
    }

    /// In a PID namespace of its own vipshield knows nobody by the kernel's number.
    #[test]
    fn who_cannot_be_told_may_be_anybody() {
        let untold = |change| [(change, Kin::Untold)];
        let looks = |change| looks(&untold(change)).map(|it| it.0);
        assert_eq!(looks(TaskChange::Fork), Some(Scope::All));
        assert_eq!(looks(TaskChange::Exit), Some(Scope::Known));
        assert!(!is_turnover(&untold(TaskChange::Exit)) && is_turnover(&untold(TaskChange::Exec)));
    }
}
