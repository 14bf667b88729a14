//! Running other programs: seen, captured, or both.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

/// Runs the command with its output in plain sight; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| words(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", words(command));
    }
    Ok(())
}

/// What the command writes to its standard output; an error with what it complained of if it
/// fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| words(command))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", words(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a watched command ended.
pub(crate) struct Watched {
    /// Its exit status; of no meaning if the time ran out.
    pub(crate) status: ExitStatus,
    /// What it wrote to its standard output, line by line, as it was shown.
    pub(crate) lines: Vec<String>,
    /// It was killed because the time ran out.
    pub(crate) timed_out: bool,
}

/// Runs the command, shows each line of its standard output as it comes and keeps it. Kills the
/// command once `limit` has passed.
pub(crate) fn watch(command: &mut Command, limit: Option<Duration>) -> Result<Watched> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| words(command))?;
    let stdout = child.stdout.take().context("the child has no standard output")?;
    let child = Arc::new(Mutex::new(child));
    let (done, finished) = mpsc::channel::<()>();
    let watchdog = limit.map(|limit| {
        let child = Arc::clone(&child);
        thread::spawn(move || {
            let timed_out = finished.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
            if timed_out && let Ok(mut child) = child.lock() {
                // An error says that it has ended by itself.
                drop(child.kill());
            }
            timed_out
        })
    });
    let mut lines = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end_matches('\r').to_owned();
        println!("{line}");
        lines.push(line);
    }
    drop(done);
    let timed_out = match watchdog {
        Some(watchdog) => watchdog.join().map_err(|_| anyhow!("the watchdog panicked"))?,
        None => false,
    };
    let status = child.lock().map_err(|_| anyhow!("the watchdog panicked"))?.wait()?;
    Ok(Watched { status, lines, timed_out })
}

/// The command as one would type it.
pub(crate) fn words(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_command_shows_its_lines_and_its_status() {
        let watched =
            watch(Command::new("sh").args(["-c", "echo a; echo b; exit 3"]), None).unwrap();
        assert_eq!(watched.lines, ["a", "b"]);
        assert_eq!(watched.status.code(), Some(3));
        assert!(!watched.timed_out);
    }

    #[test]
    fn a_watched_command_that_hangs_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 600"]);
        let watched = watch(&mut command, Some(Duration::from_millis(200))).unwrap();
        assert!(watched.timed_out);
        assert_eq!(watched.lines, ["begun"]);
    }
}
