//! The command line of what explains decisions: rules and recordings.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{DEFAULT_SOCKET, Output};

/// `vipshield rules`.
#[derive(Args, Clone, Debug)]
pub struct Rules {
    /// Configuration file; it is looked through, and its rules are printed first [default:
    /// /etc/vipshield/vipshield.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "VIPSHIELD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Format of the tables
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: TableOutput,
}

/// Format of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TableOutput {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `vipshield record`.
#[derive(Args, Clone, Debug)]
pub struct Record {
    /// Where to write it; `-` is the standard output
    pub file: PathBuf,
    /// Control socket
    #[arg(long, value_name = "PATH", env = "VIPSHIELD_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// `vipshield explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// The recording
    pub file: PathBuf,
    /// Show only where things stood then: a time of day (UTC, as 10:31:07.412), or so many seconds after the
    /// recording's first event (as +12.5); with `--svg`, the transition then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub at: Option<Moment>,
    /// Draw the last transition instead: what the kernel said, what daemons were told and what was withheld from
    /// them, phases, VIPs, adverts, and what vipshield did, over one axis of time; `-` is the standard output
    #[arg(long, value_name = "OUT", conflicts_with = "output")]
    pub svg: Option<PathBuf>,
    /// Format of the answer
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

/// A moment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after midnight (UTC).
    OfDay(Duration),
    /// So long after the first event.
    After(Duration),
}

fn moment(text: &str) -> Result<Moment, String> {
    let expected = || format!("{text:?}: expected a time of day like 10:31:07.412, or +SECONDS");
    let seconds = |text: &str| -> Result<Duration, String> {
        let is_plain = |c: char| c.is_ascii_digit() || c == '.';
        let number: f64 = text.parse().map_err(|_| expected())?;
        if !text.chars().all(is_plain) {
            return Err(expected());
        }
        Duration::try_from_secs_f64(number).map_err(|_| expected())
    };
    if let Some(after) = text.strip_prefix('+') {
        return seconds(after).map(Moment::After);
    }
    let parts: Vec<&str> = text.split(':').collect();
    let [hours, minutes, rest] = parts.as_slice() else { return Err(expected()) };
    let number = |text: &str, below: u64| {
        text.parse().ok().filter(|number: &u64| *number < below).ok_or_else(expected)
    };
    let whole = number(hours, 24)? * 3600 + number(minutes, 60)? * 60;
    let rest = seconds(rest)?;
    if rest >= Duration::from_mins(1) {
        return Err(expected());
    }
    Ok(Moment::OfDay(Duration::from_secs(whole) + rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_of_day_or_an_offset() {
        let day = |seconds: u64, millis: u32| {
            Ok(Moment::OfDay(Duration::new(seconds, millis * 1_000_000)))
        };
        assert_eq!(moment("10:31:07.412"), day(37_867, 412));
        assert_eq!(moment("00:00:00"), day(0, 0));
        assert_eq!(moment("+12.5"), Ok(Moment::After(Duration::from_millis(12_500))));
        for wrong in
            ["", "10:31", "24:00:00", "10:60:00", "10:31:60", "+", "+x", "+-1", "1:2:3:4", "+inf"]
        {
            assert!(moment(wrong).is_err(), "{wrong:?}");
        }
    }
}
