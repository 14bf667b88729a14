//! The commands that ask no running vipshield: `check`, `manifest`, `man`.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use tokio::task::LocalSet;
use vipshield::{
    check::{self, Question},
    cli::{self, Cli, Output},
    config::{File, Settings},
    manifest,
};

use crate::{recordings::WRONG, runtime, show};

/// Where text is broken on a terminal.
pub(crate) const WIDTH: usize = 80;

/// Looks whether vipshield can work here.
pub(crate) fn check(options: cli::Check) -> Result<ExitCode> {
    let cli::Check { guarded, brief, output } = options;
    let file = match File::read(guarded.config.as_deref()) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(WRONG));
        }
    };
    let Settings { interfaces, daemons, deadline, .. } = Settings::guarding(&guarded, file);
    let question = Question { interfaces, daemons, deadline };
    let report = LocalSet::new().block_on(&runtime()?, check::check(&question));
    let width = io::stdout().is_terminal().then_some(WIDTH);
    let text = match output {
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
        Output::Text if brief => check::brief_text(&report, width),
        Output::Text => check::report_text(&report, width),
    };
    show(&text)?;
    Ok(ExitCode::from(report.exit_status()))
}

/// Prints what Kubernetes needs.
pub(crate) fn manifest(options: &cli::Manifest) -> Result<()> {
    let cli::Manifest { kind, namespace, image, interfaces, scrape } = options.clone();
    show(&manifest::yaml(kind, &manifest::Settings { namespace, image, interfaces, scrape })?)
}

/// Writes a page of the manual for each command.
pub(crate) fn man(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    clap_mangen::generate_to(Cli::command(), directory).context("writing the manual")
}
