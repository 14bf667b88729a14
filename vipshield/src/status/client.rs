//! The control socket's client.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{Answer, Request};

const PATIENCE: Duration = Duration::from_secs(5);

/// The running vipshield could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error(
        "no vipshield answers on {}: {source}{}",
        path.display(),
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused =>
                " (is `vipshield run` running, with this --socket?)",
            io::ErrorKind::PermissionDenied => " (only the user that runs it may ask: try root)",
            _ => "",
        }
    )]
    Unreachable {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer makes no sense: another version, or no vipshield at all.
    #[error("what answers on {} is not a vipshield of this version: {source}", path.display())]
    Answer {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Asks the vipshield that listens on `path`.
pub fn ask(path: &Path, request: &Request) -> Result<Answer, ClientError> {
    let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
    let strange = |source| ClientError::Answer { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    let mut line = serde_json::to_vec(request).map_err(strange)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(unreachable)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(unreachable)?;
    serde_json::from_str(&answer).map_err(strange)
}
