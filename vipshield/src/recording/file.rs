//! A recording on disk, in two files of a bounded size.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::WriteError;
use crate::engine::record::{Entry, Header};

/// A file that has grown to so many bytes is put aside.
const MOST: u64 = 64 * 1024 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    out: fs::File,
    bytes: u64,
    most: u64,
}

impl File {
    /// Begins it with this header, in place of any that is there.
    pub(super) fn create(path: PathBuf, header: &Header) -> Result<Self, WriteError> {
        Self::with_size(path, header, MOST)
    }

    fn with_size(path: PathBuf, header: &Header, most: u64) -> Result<Self, WriteError> {
        let out = open(&path)?;
        let mut this = Self { path, out, bytes: 0, most };
        this.line(serde_json::to_vec(header)?)?;
        Ok(this)
    }

    /// Writes an entry. If the file is full by then, the next begins with the checkpoint behind it.
    pub(super) fn write(
        &mut self,
        entry: &Entry,
        header: &Header,
        checkpoint: impl FnOnce() -> Entry,
    ) -> Result<(), WriteError> {
        self.line(serde_json::to_vec(entry)?)?;
        if self.bytes < self.most {
            return Ok(());
        }
        let path = self.path.clone();
        fs::rename(&path, aside(&path))
            .map_err(|source| WriteError::File { path: path.clone(), source })?;
        *self = Self::with_size(path, &Header { whole: false, ..header.clone() }, self.most)?;
        self.line(serde_json::to_vec(&checkpoint())?)?;
        // A world that is larger than a file would be all that is ever written.
        self.bytes = 0;
        Ok(())
    }

    fn line(&mut self, mut line: Vec<u8>) -> Result<(), WriteError> {
        line.push(b'\n');
        let written = self.out.write_all(&line);
        written.map_err(|source| WriteError::File { path: self.path.clone(), source })?;
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(())
    }
}

/// Only its user may read it: it has all addresses of the node in it.
fn open(path: &Path) -> Result<fs::File, WriteError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    opened.map_err(|source| WriteError::File { path: path.to_owned(), source })
}

fn aside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::read, *};
    use crate::engine::{Config, Event, OnStop, OwnRules, record::Clocks};

    #[test]
    fn a_full_file_is_put_aside_and_both_can_be_read() {
        let path = std::env::temp_dir().join(format!("vipshield-record-{}", std::process::id()));
        let config = Config {
            interfaces: vec!["ens192".to_owned()],
            deadline: Duration::from_secs(1),
            replay_port: 1,
            own_addresses: Vec::new(),
            on_stop: OnStop::Keep,
            rules: OwnRules::default(),
            observe: false,
        };
        let clocks = Clocks::default();
        let version = "1".to_owned();
        let header = Header { recording: 1, version, clocks, whole: true, config };
        let entry = |second| Entry {
            at: Duration::from_secs(second),
            events: vec![Event::Tick],
            actions: Vec::new(),
        };
        let checkpoint = |second| Entry { events: Vec::new(), ..entry(second) };
        let mut file = File::with_size(path.clone(), &header, 600).unwrap();
        for second in 1..=20 {
            file.write(&entry(second), &header, || checkpoint(second)).unwrap();
        }
        let entries = |path: &Path| {
            let read = read(path).unwrap();
            (read.header.whole, read.entries)
        };
        let (whole, later) = entries(&path);
        assert!(!whole && later[0].events.is_empty(), "it begins with a checkpoint: {later:?}");
        let (_, earlier) = entries(&aside(&path));
        let last = earlier.last().unwrap();
        assert_eq!(last.at, later[0].at, "and goes on where the other ends");
        assert!(!last.events.is_empty());
        fs::remove_file(&path).unwrap();
        fs::remove_file(aside(&path)).unwrap();
    }
}
