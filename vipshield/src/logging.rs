//! The log, on the standard error output: a line for each record, as text or as JSON.
//!
//! Where that output is systemd's journal, each line begins with its priority (`sd-daemon(3)`).

use std::{
    cell::RefCell,
    env,
    fmt::Display,
    io::{self, Write as _},
};

use env_logger::{Builder, Env};
use log::{Level, Record, log};
use rustix::fs::fstat;
use serde::Serialize;

use crate::{cli::LogFormat, engine::Notice};

/// Where what is told to the operator is logged from, by its target.
const NOTICES: &str = "vipshield::driver";

thread_local! {
    /// The NIC that the record at hand is about.
    static NIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Begins to log what `RUST_LOG` lets through, which is `info` and above if it says nothing.
pub fn begin(format: LogFormat) {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info"));
    builder.format_timestamp_millis();
    let journal = is_journal();
    if journal || format == LogFormat::Json {
        builder.format(move |out, record| {
            let time = out.timestamp_millis();
            let line = match format {
                LogFormat::Text => text(&time, record),
                LogFormat::Json => NIC.with_borrow(|nic| json(&time, record, nic.as_deref()))?,
            };
            out.write_all(
                if journal { prioritised(record.level(), &line) } else { line }.as_bytes(),
            )
        });
    }
    builder.init();
}

/// Logs what is told to the operator.
pub fn tell(level: Level, notice: &Notice) {
    NIC.set(notice.nic.clone());
    log!(target: NOTICES, level, "{notice}");
    NIC.take();
}

fn text(time: &impl Display, record: &Record<'_>) -> String {
    format!("[{time} {:<5} {}] {}\n", record.level(), record.target(), record.args())
}

/// A record, to programs.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'static str,
    target: &'a str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    nic: Option<&'a str>,
}

fn json(time: &impl Display, record: &Record<'_>, nic: Option<&str>) -> io::Result<String> {
    let line = Line {
        time: time.to_string(),
        level: match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        },
        target: record.target(),
        message: record.args().to_string(),
        nic,
    };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// With its priority, which each line of the text needs.
fn prioritised(level: Level, text: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let prefixed = |all: String, line: &str| format!("{all}<{priority}>{line}\n");
    text.lines().fold(String::new(), prefixed)
}

/// Whether the standard error output is the journal, and no pipe that somebody has put in its place.
fn is_journal() -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr()).is_ok_and(|stat| named_by(&named) == Some((stat.st_dev, stat.st_ino)))
}

/// Device and inode, as `systemd.exec(5)` has them in `JOURNAL_STREAM`.
fn named_by(text: &str) -> Option<(u64, u64)> {
    let (device, inode) = text.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json as value};

    use super::*;

    const TIME: &str = "2026-02-03T04:05:06.007Z";

    fn with_record<T>(then: impl FnOnce(&Record<'_>) -> T) -> T {
        let (level, target) = (Level::Warn, "vipshield::driver");
        then(
            &Record::builder()
                .level(level)
                .target(target)
                .args(format_args!("ens192: \"down\"\nat last"))
                .build(),
        )
    }

    #[test]
    fn a_record_is_one_object_a_line() {
        let line = with_record(|record| json(&TIME, record, Some("ens192"))).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        let object: Value = serde_json::from_str(&line).unwrap();
        let wanted = value!({
            "time": TIME, "level": "warn", "target": "vipshield::driver",
            "message": "ens192: \"down\"\nat last", "nic": "ens192",
        });
        assert_eq!(object, wanted);
        let line = with_record(|record| json(&TIME, record, None)).unwrap();
        assert!(!line.contains("nic"), "{line}");
    }

    #[test]
    fn each_line_of_the_journal_has_its_priority() {
        let lines = with_record(|record| prioritised(record.level(), &text(&TIME, record)));
        let first = "<4>[2026-02-03T04:05:06.007Z WARN  vipshield::driver] ens192: \"down\"";
        assert_eq!(lines, format!("{first}\n<4>at last\n"));
        assert_eq!(prioritised(Level::Error, "a\n"), "<3>a\n");
        assert_eq!(prioritised(Level::Info, "a\n"), "<6>a\n");
        assert_eq!(prioritised(Level::Debug, "a\n"), "<7>a\n");
    }

    #[test]
    fn a_journal_is_named_by_device_and_inode() {
        assert_eq!(named_by("8:12345"), Some((8, 12_345)));
        for text in ["", "8", "8:", ":5", "8:5:6", "a:b"] {
            assert_eq!(named_by(text), None, "{text}");
        }
    }
}
