//! A directory per lab under `/run/vipshield-lab`, and the removal of what
//! labs left behind that were killed before they could clean up.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::clock;
use crate::netns::{NETNS_DIR, Netns, unbind};

/// The environment variable that every process started by a lab carries: the
/// lab's [`RunDir::token`]. It tells a lab's processes from everybody else's.
pub const MARK: &str = "VIPSHIELD_LAB";

const BASE: &str = "/run/vipshield-lab";

static LABS: AtomicU32 = AtomicU32::new(0);

/// One lab's directory. Dropping it ends the lab's processes and removes the
/// directory. Those are the ones that carry its mark, and all in its network
/// namespaces: what a daemon starts may have another environment.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    token: String,
    prefix: String,
    /// Held to the end: the number of one that is gone would soon be another's.
    namespaces: Mutex<Vec<Arc<Netns>>>,
}

impl RunDir {
    /// Make the directory of a new lab of this process.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create() -> Result<Self> {
        let number = LABS.fetch_add(1, Ordering::Relaxed) + 1;
        let pid = std::process::id();
        let start = start_time(pid).context("cannot read the start time of this process")?;
        let path = Path::new(BASE).join(format!("{pid}-{start}")).join(number.to_string());
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let token = token(pid, start, number);
        let prefix = format!("vs{pid}-{number}-");
        Ok(Self { path, token, prefix, namespaces: Mutex::default() })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What [`MARK`] is set to in this lab's processes.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Make this lab's namespace for `host`.
    ///
    /// # Errors
    /// As [`Netns::create`].
    pub fn namespace(&self, host: &str) -> Result<Arc<Netns>> {
        let namespace = Netns::create(&format!("{}{host}", self.prefix))?;
        let mut all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&namespace));
        Ok(namespace)
    }

    /// Make (or find) a directory below it.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let all = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let namespaces =
            all.iter().filter_map(|it| it.net().metadata().ok()).map(|it| identity(&it));
        end(&self.token, &namespaces.collect::<Vec<_>>());
        if let Err(error) = fs::remove_dir_all(&self.path) {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
        if let Some(parent) = self.path.parent() {
            // Fails while another lab of this process lives: then that one removes it.
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Remove what dead labs left: their processes, namespaces and directories.
pub fn sweep() {
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some((pid, start)) = path.file_name().and_then(|name| name.to_str()).and_then(owner)
        else {
            continue;
        };
        if start_time(pid).is_some_and(|now| now == start) {
            continue;
        }
        log::info!("removing what lab {pid} left behind");
        let prefix = format!("vs{pid}-");
        let entries = fs::read_dir(NETNS_DIR).into_iter().flatten().flatten();
        let names: Vec<PathBuf> = entries
            .filter(|entry| entry.file_name().to_str().is_some_and(|it| it.starts_with(&prefix)))
            .map(|entry| entry.path())
            .collect();
        let namespaces: Vec<Identity> = names.iter().filter_map(|name| named(name)).collect();
        end(&format!("{pid}-{start}-"), &namespaces);
        for name in &names {
            unbind(name);
        }
        if let Err(error) = fs::remove_dir_all(&path) {
            log::warn!("cannot remove {}: {error}", path.display());
        }
    }
}

/// No lab's begins as another's does: what is marked is found by how its mark begins.
fn token(pid: u32, start: u64, number: u32) -> String {
    format!("{pid}-{start}-{number}-")
}

fn owner(name: &str) -> Option<(u32, u64)> {
    let (pid, start) = name.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// When a process began, in clock ticks since boot (proc(5), field 22 of stat).
/// With the process id it names a process for good.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold blanks, but ends with the last parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// A file by its device and number: what a namespace is known by.
type Identity = (u64, u64);

fn identity(file: &fs::Metadata) -> Identity {
    (file.dev(), file.ino())
}

fn named(path: &Path) -> Option<Identity> {
    fs::metadata(path).ok().map(|file| identity(&file))
}

/// Kill every process whose mark begins with `token` or that is in one of these
/// network namespaces, and wait until they are gone.
fn end(token: &str, namespaces: &[Identity]) {
    let deadline = clock::now() + clock::patience(Duration::from_secs(5));
    let mut killed = BTreeSet::new();
    loop {
        for pid in processes(token, namespaces) {
            log::debug!("killing leftover process {pid}");
            let _ = kill(pid, Signal::SIGKILL);
            killed.insert(pid);
        }
        // Those that this process adopted are its to reap; the others are gone from its sight.
        killed
            .retain(|pid| waitpid(*pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive));
        if killed.is_empty() && processes(token, namespaces).is_empty() {
            return;
        }
        if clock::now() >= deadline {
            log::warn!("processes {killed:?} would not end");
            return;
        }
        clock::nap(Duration::from_millis(5));
    }
}

fn processes(token: &str, namespaces: &[Identity]) -> Vec<Pid> {
    let mark = format!("{MARK}={token}");
    let carries = |pid: u32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ.split(|&byte| byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        })
    };
    let inside = |pid: u32| {
        named(Path::new(&format!("/proc/{pid}/ns/net"))).is_some_and(|it| namespaces.contains(&it))
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&pid| pid != std::process::id() && (carries(pid) || inside(pid)))
        .map(|pid| Pid::from_raw(pid as i32))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_named_by_id_and_start() {
        let start = start_time(std::process::id()).unwrap();
        assert_eq!(owner(&format!("42-{start}")), Some((42, start)));
        assert_eq!(owner("42"), None);
        assert_eq!(owner("logs"), None);
    }

    #[test]
    fn a_lab_that_ends_takes_no_other_along() {
        assert!(!token(42, 7, 44).starts_with(&token(42, 7, 4)));
        assert!(token(42, 7, 44).starts_with("42-7-"), "all of them, once their process is dead");
    }
}
