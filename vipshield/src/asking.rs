//! The commands that ask the running vipshield: `status`, `events`, `reload`.

use std::{
    io::{self, IsTerminal as _},
    os::fd::AsFd as _,
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use log::error;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use textwrap::{Options, fill};
use vipshield::{
    cli::{self, Output, Query},
    engine::Health,
    status::{self, Answer, ClientError, Request},
};

use crate::{show, shown, tools::WIDTH};

/// Exit status if no vipshield answers.
pub(crate) const UNREACHABLE: u8 = 2;
/// It is asked again after so long, by who waits and by who watches.
const AGAIN: Duration = Duration::from_millis(500);
const WATCHED: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows how it is. The exit status says the same.
pub(crate) fn status(options: &cli::Status) -> Result<ExitCode> {
    let begun = now();
    loop {
        // One that waits for its turn refuses, and lives.
        let asked = if options.answers {
            said(&options.query, &Request::Status)?
        } else {
            ask(&options.query, &Request::Status)?
        };
        let code = match &asked {
            Ok(Answer::Status(status)) if !options.answers => code(&status.health),
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(UNREACHABLE),
        };
        let waits = options.wait.is_some_and(|wait| now().duration_since(begun) < wait);
        if waits && code != ExitCode::SUCCESS {
            pause(AGAIN);
            continue;
        }
        if options.watch && io::stdout().is_terminal() {
            show(CLEAR)?;
        }
        let read = match &asked {
            Ok(Answer::Status(status)) if options.brief => shown(&status::brief_text(status))?,
            Ok(answer) => shown(&text(answer, options.query.output)?)?,
            Err(error) => {
                error!("{error}");
                true
            }
        };
        if !options.watch || !read {
            return Ok(code);
        }
        pause(WATCHED);
    }
}

/// Shows what happened lately.
pub(crate) fn events(options: &cli::Events) -> Result<ExitCode> {
    let mut answer = match ask(&options.query, &Request::Events)? {
        Ok(answer) => answer,
        Err(error) => {
            error!("{error}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    if let (Answer::Events(events), Some(since)) = (&mut answer, options.since) {
        events.retain(|event| Duration::from_millis(event.ago_ms) <= since);
    }
    if options.follow {
        return follow(&options.query, answer);
    }
    show(&text(&answer, options.query.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Goes on, also with the next vipshield, from what was shown.
fn follow(query: &Query, first: Answer) -> Result<ExitCode> {
    let mut asked = Ok(first);
    let mut seen = 0;
    let mut gone = false;
    loop {
        match asked {
            Ok(Answer::Events(mut events)) => {
                // Another one counts anew.
                if events.last().is_some_and(|last| last.number < seen) {
                    seen = 0;
                }
                events.retain(|event| event.number > seen);
                seen = events.last().map_or(seen, |last| last.number);
                let lines = match query.output {
                    Output::Json => events.iter().try_fold(String::new(), |lines, event| {
                        serde_json::to_string(event).map(|line| lines + &line + "\n")
                    })?,
                    Output::Text => text(&Answer::Events(events), Output::Text)?,
                };
                if !shown(&lines)? {
                    return Ok(ExitCode::SUCCESS);
                }
                gone = false;
            }
            Ok(_) => bail!("the running vipshield answered something else"),
            // It may be about to be started again.
            Err(error) if !gone => {
                error!("{error}");
                gone = true;
            }
            Err(_) => {}
        }
        if is_deserted(AGAIN) {
            return Ok(ExitCode::SUCCESS);
        }
        asked = ask(query, &Request::Events)?;
    }
}

/// Has the configuration file taken anew.
pub(crate) fn reload(options: &cli::Reload) -> Result<ExitCode> {
    match said(&options.query, &Request::Reload)? {
        Err(error) => {
            error!("{error}");
            Ok(ExitCode::from(UNREACHABLE))
        }
        Ok(answer) => {
            let is_refused = matches!(answer, Answer::Refused { .. });
            show(&text(&answer, options.query.output)?)?;
            Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// Asks; the inner error is that none answers.
fn ask(query: &Query, request: &Request) -> Result<Result<Answer, ClientError>> {
    match said(query, request)? {
        Ok(Answer::Refused { error }) => bail!("the running vipshield refused: {error}"),
        answer => Ok(answer),
    }
}

/// The same, and to refuse is an answer.
fn said(query: &Query, request: &Request) -> Result<Result<Answer, ClientError>> {
    match status::ask(&query.socket, request) {
        Err(error @ ClientError::Unreachable { .. }) => Ok(Err(error)),
        answer => Ok(Ok(answer?)),
    }
}

fn text(answer: &Answer, output: Output) -> Result<String> {
    let text = match (output, answer) {
        (Output::Json, answer) => serde_json::to_string_pretty(answer)? + "\n",
        (Output::Text, Answer::Status(status)) => status::status_text(status),
        (Output::Text, Answer::Events(events)) => status::events_text(events, wall_clock()),
        (Output::Text, Answer::Refused { error: text } | Answer::Reloaded { reloaded: text }) => {
            format!("{text}\n")
        }
        (Output::Text, Answer::Recording { .. }) => String::new(),
    };
    let fits = output == Output::Text && io::stdout().is_terminal();
    Ok(if fits { fitted(&text) } else { text })
}

/// No line is wider than a terminal; what goes on is indented.
fn fitted(text: &str) -> String {
    let options = Options::new(WIDTH).subsequent_indent("    ");
    text.lines().map(|line| fill(line, &options) + "\n").collect()
}

fn code(health: &Health) -> ExitCode {
    match health {
        Health::Healthy => ExitCode::SUCCESS,
        Health::Degraded { .. } | Health::Idle => ExitCode::FAILURE,
    }
}

#[expect(clippy::disallowed_methods, reason = "how long somebody has waited at a terminal")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "when events were, for people")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Waits for so long, or until nobody reads the standard output any more: of a pipe the kernel says so unasked.
fn is_deserted(time: Duration) -> bool {
    let stdout = io::stdout();
    let mut descriptors = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let time = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    poll(&mut descriptors, time).is_ok_and(|many| many > 0)
}

#[expect(clippy::disallowed_methods, reason = "somebody waits at a terminal")]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_goes_on_is_indented() {
        let long = "word ".repeat(30);
        let text = fitted(&format!("first\nsecond\n{}\n", long.trim_end()));
        assert!(text.starts_with("first\nsecond\nword word"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("    word")).count(), 1, "{text}");
    }
}
