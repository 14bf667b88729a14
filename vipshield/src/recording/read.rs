//! Reading a recording.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::engine::record::{Entry, FORMAT, Header};

/// A recording could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file.
    #[error("{}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of it.
    #[error(
        "{}, line {line}{}",
        path.display(),
        if *line == 1 { " (a recording begins with its header: is this one of vipshield's?)" } else { "" }
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line.
        line: usize,
        /// What is wrong, with the column.
        source: serde_json::Error,
    },
    /// It is of another format.
    #[error(
        "{}, line 1: the recording has format {found} (of vipshield {version}), this vipshield reads {FORMAT}: \
         explain it with the vipshield that recorded it",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Who wrote it.
        version: String,
    },
    /// Time goes back.
    #[error("{}, line {line}: it is earlier than the line before", path.display())]
    Order {
        /// The file.
        path: PathBuf,
        /// The number of the line.
        line: usize,
    },
}

/// A recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its first line.
    pub header: Header,
    /// All others.
    pub entries: Vec<Entry>,
    /// Its last line is not all there: whoever wrote it was killed.
    pub cut_off: bool,
}

/// Reads a recording.
pub fn read(path: &Path) -> Result<Recording, ReadError> {
    let failed = |source| ReadError::File { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut text = String::new();
    file.read_line(&mut text).map_err(failed)?;
    let header: Header = parse(path, 1, &text)?;
    if header.recording != FORMAT {
        let (found, version) = (header.recording, header.version);
        return Err(ReadError::Format { path: path.to_owned(), found, version });
    }
    let mut entries: Vec<Entry> = Vec::new();
    for line in 2.. {
        text.clear();
        if file.read_line(&mut text).map_err(failed)? == 0 {
            break;
        }
        let entry: Entry = match parse(path, line, &text) {
            Err(_) if !text.ends_with('\n') => {
                return Ok(Recording { header, entries, cut_off: true });
            }
            entry => entry?,
        };
        if entries.last().is_some_and(|last| entry.at < last.at) {
            return Err(ReadError::Order { path: path.to_owned(), line });
        }
        entries.push(entry);
    }
    Ok(Recording { header, entries, cut_off: false })
}

fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T, ReadError> {
    serde_json::from_str(text).map_err(|source| ReadError::Line {
        path: path.to_owned(),
        line,
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HEADER: &str = r#"{"recording":1,"version":"1","clocks":{"monotonic_ns":0,"unix_ms":0},"whole":true,"config":{"interfaces":[],"deadline":{"secs":1,"nanos":0},"replay_port":1,"own_addresses":[],"on_stop":"Keep"}}"#;
    const ENTRY: &str = r#"{"at_ns":5,"events":["tick"],"actions":[]}"#;

    fn said_of(text: &str) -> String {
        let name = format!("vipshield-read-{}-{}", std::process::id(), text.len());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        let read = read(&path);
        fs::remove_file(&path).unwrap();
        match read {
            Ok(read) => format!("{} entries, cut off: {}", read.entries.len(), read.cut_off),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert_eq!(said_of(&format!("{HEADER}\n{ENTRY}\n{ENTRY}\n")), "2 entries, cut off: false");
        assert_eq!(said_of(&format!("{HEADER}\n{ENTRY}\n{{\"at")), "1 entries, cut off: true");
        for (text, said) in [
            (String::new(), "line 1"),
            ("hello\n".to_owned(), "is this one of vipshield's?"),
            (format!("{HEADER}\n{ENTRY}\nhello\n{ENTRY}\n"), "line 3"),
            (format!("{HEADER}\n{{\"at_ns\":1,\"events\":[\"no\"],\"actions\":[]}}\n"), "line 2"),
            (format!("{HEADER}\n{ENTRY}\n{}\n", ENTRY.replace('5', "4")), "line 3: it is earlier"),
            (HEADER.replace("\"recording\":1", "\"recording\":9"), "format 9"),
        ] {
            assert!(said_of(&text).contains(said), "{said}: {}", said_of(&text));
        }
    }
}
