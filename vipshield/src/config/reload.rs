//! Taking the file anew while vipshield runs: wholly or not at all.

use std::path::PathBuf;

use thiserror::Error;

use super::{DEFAULT, File, LoadError, Settings};
use crate::{cli::Run, engine::Config};

/// What is changed in the file cannot be changed in a vipshield that runs.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{}: restart vipshield for that (nothing has changed)",
    .0.join("; ")
)]
pub struct Unchangeable(Vec<String>);

/// A file is not taken.
#[derive(Debug, Error)]
pub enum Refusal {
    /// It cannot be read, or something is wrong with it.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It was there, and is not any more.
    #[error("{} is gone, and what it said still holds: an empty file says the defaults", .0.display())]
    Gone(PathBuf),
    /// It would change what cannot be changed.
    #[error(transparent)]
    Unchangeable(#[from] Unchangeable),
}

/// What came of a look at the file.
#[derive(Debug)]
pub enum Reloaded {
    /// There is none, and there was none.
    NoFile,
    /// It says what is so already.
    Same,
    /// This is to be so from now on.
    Taken(Config),
}

/// Takes the file anew. See the [module](self).
#[derive(Debug)]
pub struct Reloader {
    given: Run,
    /// What is in force.
    settings: Settings,
    /// There was a file.
    had_file: bool,
}

impl Reloader {
    /// Of a vipshield that was started so and goes by this, with a file or without.
    #[must_use]
    pub const fn new(given: Run, settings: Settings, had_file: bool) -> Self {
        Self { given, settings, had_file }
    }

    /// The file that is read.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.given.guarded.config.clone().unwrap_or_else(|| DEFAULT.into())
    }

    /// Reads the file, and says what the engine is to go by from now on, which goes by `config`. Of an error
    /// nothing follows.
    pub fn reload(&mut self, config: &Config) -> Result<Reloaded, Refusal> {
        let file = File::read(self.given.guarded.config.as_deref())?;
        let is_there = file.is_some();
        // Whoever writes one may have it away for a moment.
        if self.had_file && !is_there {
            return Err(Refusal::Gone(self.path()));
        }
        let settings = Settings::new(&self.given, file);
        let changed = unchangeable(&self.settings, &settings);
        if !changed.is_empty() {
            return Err(Unchangeable(changed).into());
        }
        let config = Config {
            interfaces: settings.interfaces.clone(),
            deadline: settings.deadline,
            on_stop: settings.on_stop.into(),
            rules: settings.rules.clone(),
            ..config.clone()
        };
        if settings == self.settings {
            self.had_file = is_there;
            return Ok(if is_there { Reloaded::Same } else { Reloaded::NoFile });
        }
        (self.settings, self.had_file) = (settings, is_there);
        Ok(Reloaded::Taken(config))
    }
}

/// What differs that stays as it is for as long as vipshield runs.
fn unchangeable(before: &Settings, after: &Settings) -> Vec<String> {
    let mut changed = Vec::new();
    if before.daemons != after.daemons {
        let list = |settings: &Settings| {
            let all: Vec<String> = settings.daemons.iter().map(ToString::to_string).collect();
            all.join(", ")
        };
        changed.push(format!(
            "the daemons are {} and cannot become {} while it runs",
            list(before),
            list(after)
        ));
    }
    if before.metrics != after.metrics {
        changed.push(format!(
            "metrics are at {} and cannot move to {} while it runs",
            before.metrics, after.metrics
        ));
    }
    changed
}
