//! The configuration: the command line before the environment, before the file, before the defaults.
//!
//! A file is taken wholly or not at all. What is wrong with it is said with its place, all of it at once, and
//! what to write instead.

mod nearest;
mod parse;
mod problem;
mod reader;
mod reload;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

pub use self::{
    problem::{Problem, Problems},
    reload::{Reloaded, Reloader, Unchangeable},
};
use crate::{
    cli::{Guarded, Leave, Metrics, Run},
    daemons::Wanted,
    engine::OwnRules,
};

/// The file that is read if there is one and none is named.
pub const DEFAULT: &str = "/etc/vipshield/vipshield.toml";
/// For how long something untrue is withheld at the most, if nothing else is said.
const DEADLINE: Duration = Duration::from_millis(1900);
const METRICS_PORT: u16 = 9590;
/// No configuration is longer.
const LARGEST: u64 = 256 * 1024;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    interfaces: Vec<String>,
    daemons: Vec<Wanted>,
    deadline: Option<Duration>,
    on_stop: Option<Leave>,
    metrics: Option<Metrics>,
    rules: OwnRules,
}

impl File {
    /// Its rules.
    #[must_use]
    pub const fn rules(&self) -> &OwnRules {
        &self.rules
    }

    /// What a text says, which is that of a file of this name.
    pub fn parse(name: &str, text: &str) -> Result<Self, Problems> {
        parse::parse(text).map_err(|problems| Problems::new(name.to_owned(), problems))
    }

    /// Reads a file. None: none was named, and there is none where it would be.
    pub fn read(named: Option<&Path>) -> Result<Option<Self>, LoadError> {
        let path = named.unwrap_or(Path::new(DEFAULT));
        let failed = |source| LoadError::File { path: path.to_owned(), source };
        let bytes = match read(path) {
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            bytes => bytes.map_err(failed)?,
        };
        let name = path.display().to_string();
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let valid = String::from_utf8_lossy(valid);
            let (at, text) = (valid.len(), "what follows is not UTF-8: save the file as that");
            Problems::new(name.clone(), vec![Problem::new(&valid, at..at, text.to_owned())])
        })?;
        Ok(Some(Self::parse(&name, text)?))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::metadata(path)?;
    // Reading a pipe may never end.
    if !file.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if file.len() > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} KiB", LARGEST / 1024)));
    }
    fs::read(path)
}

/// A configuration is not taken.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the configuration file {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something is wrong with it.
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// What vipshield goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Interfaces to guard, and patterns of them; none: those keepalived uses.
    pub interfaces: Vec<String>,
    /// Daemons to guard.
    pub daemons: Vec<Wanted>,
    /// The longest that something untrue is withheld.
    pub deadline: Duration,
    /// What is left behind at the end.
    pub on_stop: Leave,
    /// Where metrics are served.
    pub metrics: Metrics,
    /// Rules of one's own.
    pub rules: OwnRules,
}

impl Settings {
    /// The command line and the environment (which clap has put together) before the file before the defaults.
    #[must_use]
    pub fn new(given: &Run, file: Option<File>) -> Self {
        let mut settings = Self::guarding(&given.guarded, file);
        settings.on_stop = given.on_stop.unwrap_or(settings.on_stop);
        if given.observe {
            // There is nothing to be kept.
            settings.on_stop = Leave::Release;
        }
        settings.metrics = given.metrics.unwrap_or(settings.metrics);
        settings
    }

    /// The same where nothing but what is guarded can be given.
    #[must_use]
    pub fn guarding(given: &Guarded, file: Option<File>) -> Self {
        let file = file.unwrap_or_default();
        let first = |given: &[String], file: Vec<String>| {
            if given.is_empty() { file } else { given.to_vec() }
        };
        let mut daemons: Vec<Wanted> =
            if given.daemons.is_empty() { file.daemons } else { Vec::new() };
        daemons.extend(given.daemons.iter().cloned().map(Wanted::named));
        if daemons.is_empty() {
            daemons.push(Wanted::named("keepalived".to_owned()));
        }
        let metrics = Metrics::At(SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT)));
        Self {
            interfaces: first(&given.interfaces, file.interfaces),
            daemons,
            deadline: given.deadline.or(file.deadline).unwrap_or(DEADLINE),
            on_stop: file.on_stop.unwrap_or(Leave::Keep),
            metrics: file.metrics.unwrap_or(metrics),
            rules: file.rules,
        }
    }
}
