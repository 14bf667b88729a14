//! `vipshield rules`, `vipshield record` and `vipshield explain`.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use log::error;
use vipshield::{
    cli::{Explain, Output, Record, Rules, TableOutput},
    config::File,
    engine::rules,
    recording,
    status::{self, Answer, ClientError, Request},
};

use super::{asking::UNREACHABLE, show};

/// Exit status if something is wrong with the configuration file.
pub(super) const WRONG: u8 = 2;

/// Looks through the configuration file and prints the rules.
pub(super) fn rules(options: &Rules) -> Result<ExitCode> {
    let file = match File::read(options.config.as_deref()) {
        Ok(file) => file.unwrap_or_default(),
        Err(error) => {
            // A line for each, as compilers and editors have them.
            eprintln!("{error}");
            return Ok(ExitCode::from(WRONG));
        }
    };
    show(&match options.output {
        TableOutput::Table => rules::text(file.rules()),
        TableOutput::Json => serde_json::to_string_pretty(&rules::lines(file.rules()))? + "\n",
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Writes down what the running vipshield has in memory.
pub(super) fn record(options: &Record) -> Result<ExitCode> {
    let recording = match status::ask(&options.socket, &Request::Record) {
        Err(error @ ClientError::Unreachable { .. }) => {
            error!("{error}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
        Ok(Answer::Recording { recording }) => recording,
        Ok(Answer::Refused { error }) => bail!("the running vipshield refused: {error}"),
        Ok(Answer::Status(_) | Answer::Events(_) | Answer::Reloaded { .. }) => {
            bail!("the running vipshield answered something else")
        }
        Err(error) => return Err(error.into()),
    };
    if options.file == Path::new("-") {
        show(&recording)?;
    } else {
        // Only its user may read it: it has all addresses of the node in it.
        let mut open = OpenOptions::new();
        let file = open.write(true).create(true).truncate(true).mode(0o600).open(&options.file);
        file.and_then(|mut file| file.write_all(recording.as_bytes()))
            .with_context(|| options.file.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Explains a recording.
pub(super) fn explain(options: &Explain) -> Result<ExitCode> {
    let recording = recording::read(&options.file)?;
    if let Some(path) = &options.svg {
        let drawn = recording::explain_svg(&recording, options.at)?;
        if path == Path::new("-") {
            show(&drawn)?;
        } else {
            fs::write(path, drawn).with_context(|| path.display().to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    show(&match options.output {
        Output::Text => recording::explain_text(&recording, options.at),
        Output::Json => recording::explain_json(&recording, options.at)?,
    })?;
    Ok(ExitCode::SUCCESS)
}
