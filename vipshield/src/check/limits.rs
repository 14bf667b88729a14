//! How much of the node's processors vipshield's control group may use.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::Finding;
use crate::daemons::cgroup_directory;

const GROUP: &str = "process";
const NAME: &str = "cpu-limit";

/// Microseconds that all processes of a group may run in each period of so many (`cpu.max` in
/// `Documentation/admin-guide/cgroup-v2.rst`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    quota: u64,
    period: u64,
}

impl Limit {
    /// None where there is no limit, or no such text.
    fn parse(text: &str) -> Option<Self> {
        let (quota, period) = text.trim().split_once(' ')?;
        Some(Self { quota: quota.parse().ok()?, period: period.parse().ok().filter(|us| *us > 0)? })
    }

    /// What there is to run in, of a thousand of one processor.
    const fn share(self) -> u64 {
        self.quota.saturating_mul(1000) / self.period
    }
}

/// The limit of this process's group, or of one that it is in: the least.
pub(super) fn finding() -> Finding {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if is_of_version_1(&groups) {
        let text = "control groups of version 1 have the limits here, and are not looked at";
        return Finding::skip(GROUP, NAME, text);
    }
    match cgroup_directory(std::process::id()) {
        Ok(directory) => judge(least(&directory).as_ref()),
        Err(error) => Finding::skip(GROUP, NAME, error.to_string()),
    }
}

/// Whether another hierarchy than that of version 2 limits processor time (`cgroups(7)`).
fn is_of_version_1(groups: &str) -> bool {
    let mut hierarchies = groups.lines().filter_map(|line| line.split(':').nth(1));
    hierarchies.any(|controllers| controllers.split(',').any(|name| name == "cpu"))
}

fn least(directory: &Path) -> Option<(PathBuf, Limit)> {
    let limits = directory.ancestors().filter_map(|group| {
        let text = fs::read_to_string(group.join("cpu.max")).ok()?;
        Some((group.to_owned(), Limit::parse(&text)?))
    });
    limits.min_by_key(|(_, limit)| limit.share())
}

fn judge(limit: Option<&(PathBuf, Limit)>) -> Finding {
    let Some((group, limit)) = limit else {
        return Finding::pass(GROUP, NAME, "none");
    };
    let Limit { quota, period } = limit;
    let text = format!(
        "{} allows {quota} us of processor time in each {period} us: once they are used up, vipshield stands still \
         for the rest, in the middle of a sequence too",
        group.display()
    );
    let way_out = "set no resources.limits.cpu for the container (a LimitRange of the namespace may have set \
         it), or no CPUQuota= for the unit";
    Finding::warn(GROUP, NAME, text, way_out)
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn a_limit_is_read() {
        assert_eq!(Limit::parse("5000 100000\n"), Some(Limit { quota: 5000, period: 100_000 }));
        for none in ["max 100000\n", "", "5000", "5000 0", "-1 100000"] {
            assert_eq!(Limit::parse(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_hierarchy_of_version_1_is_known() {
        assert!(is_of_version_1("4:cpu,cpuacct:/kubepods\n0::/\n"));
        assert!(!is_of_version_1("5:cpuset:/\n1:name=systemd:/cpu\n0::/cpu\n"));
    }

    #[test]
    fn the_least_of_all_groups_counts() {
        let top = std::env::temp_dir().join(format!("vipshield-limits-{}", std::process::id()));
        let pod = top.join("pod");
        let container = pod.join("container");
        fs::create_dir_all(&container).unwrap();
        assert_eq!(judge(least(&container).as_ref()).verdict, Verdict::Pass);
        fs::write(container.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(judge(least(&container).as_ref()).verdict, Verdict::Pass);
        fs::write(top.join("cpu.max"), "400000 100000\n").unwrap();
        fs::write(pod.join("cpu.max"), "20000 100000\n").unwrap();
        let found = least(&container);
        let finding = judge(found.as_ref());
        assert_eq!(found, Some((pod, Limit { quota: 20_000, period: 100_000 })));
        assert_eq!(finding.verdict, Verdict::Warn);
        assert!(finding.text.contains("pod allows 20000 us"), "{finding}");
        fs::remove_dir_all(top).unwrap();
    }
}
