//! Which daemons are to be guarded.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::engine::pattern;

/// What `/proc/PID/comm` shows of a name.
const COMM_LENGTH: usize = 15;

/// A daemon that is to be guarded wherever it runs in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its executable's name, without directories.
    pub name: String,
    /// Its executable's path, as its own container has it; any of that name if there is none.
    pub path: Option<PathBuf>,
    /// The control group that it is in, or a pattern of them; any if there is none.
    pub cgroup: Option<String>,
}

impl Wanted {
    /// Whoever executes what has this name.
    #[must_use]
    pub const fn named(name: String) -> Self {
        Self { name, path: None, cgroup: None }
    }

    /// Whether a process that executes this is one.
    pub(super) fn is(&self, pid: u32, executable: &Path) -> bool {
        let Some(text) = executable.to_str() else { return false };
        // An executable that was upgraded under a running daemon.
        let path = Path::new(text.strip_suffix(" (deleted)").unwrap_or(text));
        path.file_name().is_some_and(|name| *name == *self.name)
            && self.path.as_ref().is_none_or(|wanted| wanted == path)
            && self.is_in_its_cgroup(pid)
    }

    /// The same of one of which no more is shown than its command name.
    pub(super) fn may_be(&self, pid: u32, comm: &str) -> bool {
        let cut = self.name.get(..COMM_LENGTH).unwrap_or(&self.name);
        cut == comm && self.is_in_its_cgroup(pid)
    }

    fn is_in_its_cgroup(&self, pid: u32) -> bool {
        let Some(wanted) = &self.cgroup else { return true };
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let mut groups = groups.lines().filter_map(group);
        groups.any(|group| pattern::matches(wanted, group))
    }
}

impl From<String> for Wanted {
    fn from(name: String) -> Self {
        Self::named(name)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str(&self.name)?,
        }
        match &self.cgroup {
            Some(cgroup) => write!(f, " in {cgroup}"),
            None => Ok(()),
        }
    }
}

/// The path of a line of `/proc/PID/cgroup` (`cgroups(7)`): of version 2, or of systemd's hierarchy of
/// version 1.
fn group(line: &str) -> Option<&str> {
    line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_known_by_all_that_is_said_of_it() {
        let pid = std::process::id();
        let named = Wanted::named("keepalived".to_owned());
        assert!(named.is(pid, Path::new("/usr/sbin/keepalived")));
        assert!(named.is(pid, Path::new("/usr/sbin/keepalived (deleted)")));
        assert!(!named.is(pid, Path::new("/usr/sbin/keepalived2")));
        let at = Wanted { path: Some("/opt/keepalived".into()), ..named.clone() };
        assert!(at.is(pid, Path::new("/opt/keepalived")));
        assert!(!at.is(pid, Path::new("/usr/sbin/keepalived")));
        let within = |cgroup: &str| Wanted { cgroup: Some(cgroup.to_owned()), ..named.clone() };
        assert!(
            within("*").is(pid, Path::new("/usr/sbin/keepalived"))
                && within("*").may_be(pid, "keepalived")
        );
        assert!(!within("/nowhere/*").is(pid, Path::new("/usr/sbin/keepalived")));
        assert!(!within("/nowhere/*").may_be(pid, "keepalived"));
        let long = Wanted::named("keepalived-of-mine".to_owned());
        assert!(long.may_be(pid, "keepalived-of-m"));
    }

    #[test]
    fn a_control_group_is_read_in_both_versions() {
        assert_eq!(
            group("0::/system.slice/keepalived.service"),
            Some("/system.slice/keepalived.service")
        );
        assert_eq!(group("1:name=systemd:/system.slice"), Some("/system.slice"));
        assert_eq!(group("4:memory:/system.slice"), None);
    }
}
