//! Recordings: kept while vipshield runs, written down, read again.
//!
//! A line of JSON each: the header, then an entry of the engine's ([`crate::engine::record`]).

mod explain;
mod file;
mod read;

use std::path::PathBuf;

use log::warn;
use thiserror::Error;

use self::file::File;
pub use self::{
    explain::{explain_json, explain_svg, explain_text},
    read::{ReadError, Recording, read},
};
use crate::{
    causes::causes,
    engine::{
        Config, Engine,
        record::{Clocks, Entry, FORMAT, Header, Recent},
    },
};

/// A recording could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file.
    #[error("the recording {}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it.
    #[error("a line of a recording")]
    Line(#[from] serde_json::Error),
}

/// Keeps the engine's last entries, and writes all to a file if there is one.
#[derive(Debug)]
pub struct Recorder {
    header: Header,
    recent: Recent,
    file: Option<File>,
}

impl Recorder {
    /// Of an engine that has seen nothing yet.
    #[must_use]
    pub fn new(config: Config, clocks: Clocks) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let header = Header { recording: FORMAT, version, clocks, whole: true, config };
        Self { header, recent: Recent::default(), file: None }
    }

    /// Has all written to this file, too; when it has grown to its size it becomes the one of the same name
    /// with `.1` behind it, and is begun anew.
    pub fn write_to(&mut self, path: PathBuf) -> Result<(), WriteError> {
        self.file = Some(File::create(path, &self.header)?);
        Ok(())
    }

    /// Keeps what the engine was told and what it asked for.
    pub fn keep(&mut self, engine: &Engine, entry: Entry) {
        let at = entry.at;
        if let Some(file) = &mut self.file
            && let Err(error) = file.write(&entry, &self.header, || engine.checkpoint(at))
        {
            warn!("nothing more is recorded: {}", causes(&error));
            self.file = None;
        }
        self.recent.keep(entry);
        if self.recent.is_full() {
            self.recent.begin(engine.checkpoint(at));
        }
    }

    /// The last minutes.
    pub fn text(&self) -> Result<String, WriteError> {
        let header = Header { whole: self.recent.is_whole(), ..self.header.clone() };
        let mut text = serde_json::to_string(&header)?;
        text.push('\n');
        for entry in self.recent.entries() {
            text.push_str(&serde_json::to_string(entry)?);
            text.push('\n');
        }
        Ok(text)
    }
}
