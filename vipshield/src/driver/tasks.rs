//! What follows from tasks that were born, or died.

use std::time::Duration;

use vipshield_common::tasks::{TaskChange, TaskEvent};

/// When daemons are looked for after one of them was seen to exec or fork: it opens its sockets
/// some moments later.
const AFTER_BIRTH: [Duration; 6] = [
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
pub(super) fn is_turnover(tasks: &[TaskEvent], is_daemon: impl Fn(u32) -> bool) -> bool {
    changes(tasks).any(|(change, pid)| match change {
        TaskChange::Exec => true,
        TaskChange::Exit => is_daemon(pid),
        TaskChange::Fork | TaskChange::Tool | TaskChange::Reload => false,
    })
}

/// How much later daemons are to be looked for.
pub(super) fn looks(tasks: &[TaskEvent]) -> &'static [Duration] {
    let any = |wanted: &[TaskChange]| changes(tasks).any(|(change, _)| wanted.contains(&change));
    if any(&[TaskChange::Exec, TaskChange::Fork, TaskChange::Reload]) {
        &AFTER_BIRTH
    } else if any(&[TaskChange::Exit]) {
        // An exit is seen before the task's files are closed: it is over some moments later.
        AFTER_BIRTH.get(1..4).unwrap_or(&[])
    } else {
        &[]
    }
}

fn changes(tasks: &[TaskEvent]) -> impl Iterator<Item = (TaskChange, u32)> {
    tasks.iter().filter_map(|task| Some((TaskChange::from_u32(task.change)?, task.pid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON: u32 = 700;

    fn task(change: TaskChange, pid: u32) -> [TaskEvent; 1] {
        [TaskEvent { pid, change: change as u32, ..TaskEvent::default() }]
    }

    #[test]
    fn a_script_of_a_daemon_is_no_turnover() {
        let is_turnover = |change, pid| is_turnover(&task(change, pid), |pid| pid == DAEMON);
        assert!(is_turnover(TaskChange::Exec, 701));
        assert!(is_turnover(TaskChange::Exit, DAEMON));
        for change in [TaskChange::Fork, TaskChange::Tool, TaskChange::Reload] {
            assert!(!is_turnover(change, DAEMON), "{change:?}");
        }
        assert!(!is_turnover(TaskChange::Exit, 701));
    }

    #[test]
    fn daemons_are_looked_for_when_one_may_have_come_or_gone() {
        let first = |change| looks(&task(change, DAEMON)).first().copied();
        for change in [TaskChange::Exec, TaskChange::Fork, TaskChange::Reload] {
            assert_eq!(first(change), Some(Duration::ZERO), "{change:?}");
        }
        assert_eq!(first(TaskChange::Exit), Some(Duration::from_millis(5)));
        assert_eq!(first(TaskChange::Tool), None);
        assert!(is_hint(&task(TaskChange::Tool, 1)) && !is_hint(&task(TaskChange::Exec, 1)));
    }
}
