//! What is reported of tasks.

use std::{collections::BTreeSet, fs, process::Command};

use libtest_mimic::Failed;
use vipshield::bpf::{self, Programs};
use vipshield_common::{counters::Counter, tasks::TaskChange};

use super::{check, namespace};

/// What a task of this name did. Tracepoints see the whole machine: other tests, other labs.
fn change_of(name: &str, record: &[u8]) -> Option<u32> {
    let task = bpf::task_event(record)?;
    (task.comm.split(|byte| *byte == 0).next() == Some(name.as_bytes())).then_some(task.change)
}

pub(crate) fn by_name() -> Result<(), Failed> {
    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    let name = format!("vst{}", std::process::id());
    let directory = std::env::temp_dir().join(&name);
    fs::create_dir_all(&directory)?;
    let program = directory.join(&name);
    fs::copy("/bin/sh", &program)?;
    let mut programs = Programs::load(std::slice::from_ref(&name))?;
    // A shell that forks a child and waits for it, and has itself read its configuration anew.
    let ran =
        Command::new(&program).args(["-c", "(exit 0); trap : HUP; kill -HUP $$; exit 0"]).status();
    fs::remove_dir_all(&directory)?;
    check(ran?.success(), "the shell ran")?;
    let mut seen = BTreeSet::new();
    runtime.block_on(async {
        let all = async {
            while seen.len() < 4 {
                programs.tasks.read(|record| seen.extend(change_of(&name, record))).await?;
            }
            Ok::<(), Failed>(())
        };
        tokio::time::timeout(namespace::PATIENCE, all).await?
    })?;
    let all = [TaskChange::Exec, TaskChange::Fork, TaskChange::Exit, TaskChange::Reload];
    let all = all.map(|change| change as u32);
    check(seen == BTreeSet::from(all), format!("exec, fork, exit and reload: {seen:?}"))?;
    let counters = programs.counters()?;
    let count = |wanted| {
        counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, count)| *count)
    };
    check(count(Counter::TaskEvents) >= 4, "counted")?;
    check(count(Counter::TaskEventsLost) == 0, "none lost")?;
    // This process forked, under another name.
    check(count(Counter::TasksIgnored) > 0, "others are counted")
}
