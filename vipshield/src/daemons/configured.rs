//! What the configuration of a daemon has that nobody tells: VIPs that no advert names.

use std::{
    collections::BTreeMap,
    io, mem,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use log::warn;

use crate::{
    engine::{Daemon, Excluded, Role},
    keepalived,
};

/// So long a look waits for a file that was begun to be read. Where it takes longer, a later look has what is in it.
const PATIENCE: Duration = Duration::from_millis(10);
/// So many files are read at once.
const MAX_READERS: usize = 8;

/// Process id and start time.
type Who = (u32, u64);
type Found = io::Result<Vec<Excluded>>;

/// Reads the configuration of each daemon once, on threads of their own: it may be on a file system whose server
/// is gone, and reading does not end there.
pub(super) struct Configured {
    read: fn(u32) -> Found,
    daemons: BTreeMap<Who, State>,
    /// Each thread holds it.
    readers: Arc<()>,
}

enum State {
    /// For a thread.
    Waiting,
    Reading(Receiver<Found>),
    Known(Vec<Excluded>),
}

impl Default for Configured {
    fn default() -> Self {
        Self::new(|pid| {
            keepalived::configuration_of(pid, keepalived::MAX_CONFIGURATION_IN_LOOP)
                .map(|configuration| keepalived::excluded(&configuration))
        })
    }
}

impl Configured {
    fn new(read: fn(u32) -> Found) -> Self {
        Self { read, daemons: BTreeMap::new(), readers: Arc::default() }
    }

    /// Gives each daemon what is known of its configuration by now.
    pub(super) fn fill(&mut self, daemons: &mut [Daemon]) {
        let mut before = mem::take(&mut self.daemons);
        for daemon in daemons.iter_mut().filter(|daemon| daemon.role == Role::Vrrp) {
            let who = (daemon.pid, daemon.start_time);
            let (mut state, patience) = before
                .remove(&who)
                .map_or((State::Waiting, PATIENCE), |state| (state, Duration::ZERO));
            if matches!(state, State::Waiting) {
                state = self.begin(daemon.pid).map_or(State::Waiting, State::Reading);
            }
            if let State::Reading(reading) = &state
                && let Some(known) = hear(reading, patience, daemon)
            {
                state = known;
            }
            match &state {
                State::Known(excluded) => daemon.excluded.clone_from(excluded),
                _ if patience > Duration::ZERO => unknown(daemon, "it is not read yet"),
                _ => {}
            }
            self.daemons.insert(who, state);
        }
    }

    /// A later look tries again where there is no thread to be had.
    fn begin(&self, pid: u32) -> Option<Receiver<Found>> {
        if Arc::strong_count(&self.readers) > MAX_READERS {
            return None;
        }
        let (say, reading) = sync_channel(1);
        let (read, alive) = (self.read, Arc::clone(&self.readers));
        let thread = thread::Builder::new().name("configuration".to_owned()).spawn(move || {
            // Nobody hears it if the daemon has ended meanwhile.
            let _ = say.send(read(pid));
            drop(alive);
        });
        thread.is_ok().then_some(reading)
    }
}

/// What was read, if that is over.
fn hear(reading: &Receiver<Found>, patience: Duration, daemon: &Daemon) -> Option<State> {
    let found = match reading.recv_timeout(patience) {
        Ok(found) => found,
        Err(RecvTimeoutError::Timeout) => return None,
        Err(RecvTimeoutError::Disconnected) => {
            Err(io::Error::other("the thread that read it has ended"))
        }
    };
    Some(State::Known(found.unwrap_or_else(|error| {
        unknown(daemon, &error.to_string());
        Vec::new()
    })))
}

/// Says what is not known, and why.
fn unknown(daemon: &Daemon, why: &str) {
    warn!(
        "{} {}: {}: {why}: which VIPs it has and names in no advert (virtual_ipaddress_excluded) is known \
         only once it puts them on an interface",
        daemon.name,
        daemon.pid,
        keepalived::path_of(daemon.pid).display(),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Held, nothing can be read.
    static SERVER: Mutex<()> = Mutex::new(());

    fn vip() -> Excluded {
        Excluded { router_id: 51, ip: [192, 0, 2, 20].into() }
    }

    fn daemon(pid: u32) -> Daemon {
        Daemon {
            pid,
            start_time: 0,
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            commands: Vec::new(),
            monitors: Vec::new(),
            vrrp: Vec::new(),
            trouble: None,
            polls: false,
            excluded: Vec::new(),
        }
    }

    /// What one look finds, if it is known by then.
    fn look(configured: &mut Configured, pid: u32) -> Option<Vec<Excluded>> {
        let mut daemons = [daemon(pid)];
        configured.fill(&mut daemons);
        let [daemon] = daemons;
        let state = configured.daemons.get(&(pid, 0));
        matches!(state, Some(State::Known(_))).then_some(daemon.excluded)
    }

    /// What is known once no file is being read any more: the first look may be refused a thread, and the second one be
    /// gone before what it had begun.
    fn known(configured: &mut Configured, pid: u32) -> Option<Vec<Excluded>> {
        (0..3).find_map(|_| {
            let found = look(configured, pid);
            while Arc::strong_count(&configured.readers) > 1 {
                thread::yield_now();
            }
            found
        })
    }

    #[test]
    fn what_does_not_end_is_not_waited_for() {
        let read = |_| {
            drop(SERVER.lock());
            Ok(vec![vip()])
        };
        let mut configured = Configured::new(read);
        let held = SERVER.lock();
        // One daemon after the other, as under who starts it again and again.
        for pid in 1..=20 {
            assert_eq!(look(&mut configured, pid), None);
        }
        assert_eq!(Arc::strong_count(&configured.readers), 1 + MAX_READERS);
        drop(held);
        assert_eq!(known(&mut configured, 20), Some(vec![vip()]));
    }

    #[test]
    fn each_is_read_once() {
        let mut configured = Configured::new(|pid| match pid {
            1 => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(vec![vip()]),
        });
        assert_eq!(known(&mut configured, 1), Some(Vec::new()));
        assert_eq!(known(&mut configured, 2), Some(vec![vip()]));
        configured.read = |_| Ok(Vec::new());
        assert_eq!(look(&mut configured, 2), Some(vec![vip()]));
        // Another process with its number.
        let mut other = [Daemon { start_time: 1, ..daemon(2) }];
        configured.fill(&mut other);
        assert!(!configured.daemons.contains_key(&(2, 0)));
    }
}
