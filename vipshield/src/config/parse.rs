//! The file, read.

use std::{net::SocketAddr, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    DEADLINE, File,
    problem::Problem,
    reader::{Reader, Span, Value, value},
    rules::{self, Around},
};
use crate::{
    cli::{Leave, Metrics, executable_name, interface_pattern},
    daemons::Wanted,
};

/// The bounds of a deadline.
const SHORTEST: Duration = Duration::from_millis(50);
pub(super) const LONGEST: Duration = Duration::from_mins(1);

pub(super) const KEYS: [&str; 6] =
    ["interfaces", "daemons", "deadline", "on_stop", "metrics", "rules"];
const DAEMON_KEYS: [&str; 3] = ["name", "path", "cgroup"];

/// All that a file says; or everything that is wrong with it.
pub(super) fn parse(text: &str) -> Result<File, Vec<Problem>> {
    let mut reader = Reader::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        reader.wrong(error.span().unwrap_or(0..0), error.message());
    }
    // What a broken line was to say is not guessed.
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let file = read(&mut reader, document.get_ref());
    if reader.problems.is_empty() { Ok(file) } else { Err(reader.problems) }
}

fn read(reader: &mut Reader<'_>, table: &DeTable<'_>) -> File {
    reader.only(table, "", &KEYS);
    let mut file = File::default();
    if let Some(found) = value(table, "interfaces") {
        file.interfaces =
            interfaces(reader, "interfaces", found).into_iter().map(|it| it.0).collect();
    }
    if let Some(found) = value(table, "daemons") {
        file.daemons = daemons(reader, found);
    }
    if let Some(found) = value(table, "deadline") {
        file.deadline = reader.duration("deadline", found, (SHORTEST, LONGEST));
    }
    if let Some(found) = value(table, "on_stop")
        && let Some(text) = reader.string("on_stop", found, "\"keep\" or \"release\"")
    {
        file.on_stop = reader.word("on_stop", (&text, found.span()), &Leave::ALL);
    }
    if let Some(found) = value(table, "metrics")
        && let Some(text) = reader.string("metrics", found, "\"127.0.0.1:9590\" or \"off\"")
    {
        file.metrics = metrics(reader, &text, found.span());
    }
    if let Some(found) = value(table, "rules") {
        let deadline = file.deadline.unwrap_or(DEADLINE);
        let around = Around { interfaces: file.interfaces.clone(), deadline };
        file.rules = rules::read(reader, found, &around);
    }
    file
}

/// Names and patterns of interfaces.
pub(super) fn interfaces(
    reader: &mut Reader<'_>,
    key: &str,
    found: &Value<'_>,
) -> Vec<(String, Span)> {
    let mut known = Vec::new();
    for (text, span) in reader.strings(key, found, "\"ens192\" or [\"ens192\", \"bond*\"]") {
        match interface_pattern(&text) {
            Ok(name) => known.push((name, span)),
            Err(error) => reader.wrong(span, format!("{text:?} is no interface: {error}")),
        }
    }
    known
}

fn metrics(reader: &mut Reader<'_>, text: &str, span: Span) -> Option<Metrics> {
    let parsed = text.parse();
    if parsed.is_err() {
        let instead = match text.trim_start_matches(':').parse::<u16>() {
            Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)).to_string(),
            Err(_) => "127.0.0.1:9590".to_owned(),
        };
        let text = format!("{text:?} is no address with a port: write {instead:?}, or \"off\"");
        reader.wrong(span, text);
    }
    parsed.ok()
}

fn daemons(reader: &mut Reader<'_>, found: &Value<'_>) -> Vec<Wanted> {
    let DeValue::Array(all) = found.get_ref() else {
        return reader
            .strings("daemons", found, "\"keepalived\" or [[daemons]]")
            .into_iter()
            .filter_map(|(name, span)| executable(reader, &name, span))
            .map(Wanted::named)
            .collect();
    };
    if all.is_empty() {
        reader.wrong(found.span(), "no daemon would be guarded: leave daemons out, or name one");
    }
    let mut daemons = Vec::new();
    for one in all {
        let DeValue::Table(table) = one.get_ref() else {
            let name = reader.string("daemons", one, "\"keepalived\" or { name = \"keepalived\" }");
            let name = name.and_then(|name| executable(reader, &name, one.span()));
            daemons.extend(name.map(Wanted::named));
            continue;
        };
        daemons.extend(daemon(reader, one.span(), table));
    }
    daemons
}

fn daemon(reader: &mut Reader<'_>, whole: Span, table: &DeTable<'_>) -> Option<Wanted> {
    reader.only(table, " of a daemon", &DAEMON_KEYS);
    let path = value(table, "path").and_then(|found| {
        let path = reader.string("path", found, "\"/usr/sbin/keepalived\"")?;
        if path.starts_with('/') && !path.ends_with('/') {
            return Some((path, found.span()));
        }
        reader.wrong(
            found.span(),
            format!("{path:?} is no path of a file: write \"/usr/sbin/keepalived\""),
        );
        None
    });
    let cgroup = value(table, "cgroup").and_then(|found| {
        let cgroup = reader.string("cgroup", found, "\"/system.slice/keepalived.service\"")?;
        if cgroup.starts_with('/') || cgroup.starts_with('*') {
            return Some(cgroup);
        }
        let text = format!("{cgroup:?} is no control group: it begins with \"/\" or \"*\", as \"*/keepalived.service\"");
        reader.wrong(found.span(), text);
        None
    });
    let of_path = path.as_ref().and_then(|(path, _)| path.rsplit('/').next()).map(str::to_owned);
    let name = if let Some(found) = value(table, "name") {
        let name = reader.string("name", found, "\"keepalived\"")?;
        if of_path.as_ref().is_some_and(|of_path| *of_path != name) {
            let text = "name is not the last part of path: nothing is both: leave name out";
            reader.wrong(found.span(), text);
        }
        executable(reader, &name, found.span())?
    } else if let Some(name) = of_path {
        name
    } else {
        reader.wrong(whole, "a daemon has a name or a path: write name = \"keepalived\"");
        return None;
    };
    Some(Wanted { name, path: path.map(|(path, _)| path.into()), cgroup })
}

fn executable(reader: &mut Reader<'_>, name: &str, span: Span) -> Option<String> {
    match executable_name(name) {
        Ok(name) => Some(name),
        Err(_) if name.contains('/') => {
            reader.wrong(span, format!("{name:?} is a path: write {{ path = {name:?} }}"));
            None
        }
        Err(error) => {
            reader.wrong(span, format!("{name:?} is no executable's name: {error}"));
            None
        }
    }
}
