//! The control group (version 2) that a daemon is in, as a directory to attach programs to.
//!
//! A process tells the path within the hierarchy, seen from the reader's own cgroup namespace
//! (`cgroup_namespaces(7)`). Where the hierarchy is mounted, and how much of it, differs from container
//! to container. So every mount that may show it is tried, and the directory that lists the process
//! is the right one.

use std::{
    fs::{self, File},
    io,
    path::{Component, Path, PathBuf},
};

use thiserror::Error;

/// Where systemd mounts the hierarchy; the second where version 1 is used beside it.
const MOUNTS: [&str; 2] = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];

/// A process's control group was not found.
#[derive(Debug, Error)]
pub enum CgroupError {
    /// It could not be read which one it is, or not be opened.
    #[error("{path}: {source}")]
    Process {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel has no version 2.
    #[error("process {0} is in no control group of version 2")]
    None(u32),
    /// No mount shows it.
    #[error(
        "the control group {group} of process {pid} is nowhere to be seen (mount the host's \
         /sys/fs/cgroup)"
    )]
    Unseen {
        /// The process.
        pid: u32,
        /// As the process tells it.
        group: PathBuf,
    },
}

/// Opens the directory of the control group that a process is in.
pub fn cgroup(pid: u32) -> Result<File, CgroupError> {
    let directory = cgroup_directory(pid)?;
    File::open(&directory).map_err(|source| CgroupError::Process { path: directory, source })
}

/// The directory of the control group that a process is in.
pub fn cgroup_directory(pid: u32) -> Result<PathBuf, CgroupError> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let lines =
        fs::read_to_string(&path).map_err(|source| CgroupError::Process { path, source })?;
    let group = unified(&lines).ok_or(CgroupError::None(pid))?;
    let found = candidates(pid, group).into_iter().find(|directory| lists(directory, pid));
    found.ok_or_else(|| CgroupError::Unseen { pid, group: group.to_owned() })
}

/// The path in the hierarchy of version 2, whose line in `/proc/PID/cgroup` begins with `0::`.
fn unified(lines: &str) -> Option<&Path> {
    lines.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new)
}

/// Where it may be: in this process's mounts, in those of the host's first process, and in the daemon's
/// own, where a container sees its own group as the root.
fn candidates(pid: u32, group: &Path) -> Vec<PathBuf> {
    let below: PathBuf =
        group.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let roots = [PathBuf::from("/"), "/proc/1/root".into(), format!("/proc/{pid}/root").into()];
    let mounts = roots.iter().flat_map(|root| MOUNTS.map(|mount| root.join(mount)));
    mounts.flat_map(|mount| [mount.join(&below), mount]).collect()
}

/// Whether a directory is the group that a process is in. Process ids are those that the reader sees.
fn lists(directory: &Path, pid: u32) -> bool {
    let Ok(members) = fs::read_to_string(directory.join("cgroup.procs")) else { return false };
    members.lines().any(|member| member.parse() == Ok(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_version_2_tells_the_group() {
        let hybrid = "9:name=systemd:/\n4:memory:/a\n0::/system.slice/keepalived.service\n";
        assert_eq!(unified(hybrid), Some(Path::new("/system.slice/keepalived.service")));
        assert_eq!(unified("0::/\n"), Some(Path::new("/")));
        assert_eq!(unified("4:memory:/a\n"), None);
        assert_eq!(unified(""), None);
    }

    #[test]
    fn a_group_outside_of_the_readers_is_looked_for_from_the_top() {
        let found = candidates(7, Path::new("/../../system.slice/keepalived.service"));
        let host = "/proc/1/root/sys/fs/cgroup/system.slice/keepalived.service";
        assert!(found.contains(&PathBuf::from(host)), "{found:?}");
        assert!(found.contains(&PathBuf::from("/proc/7/root/sys/fs/cgroup")), "{found:?}");
        assert!(
            found.iter().all(|path| !path.components().any(|part| part == Component::ParentDir))
        );
    }
}
