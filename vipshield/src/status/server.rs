//! The control socket's server.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use log::debug;
use nix::sys::stat::{Mode, umask};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{Answer, Request};

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 4096;
/// A client that is slower is dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests waiting for the driver.
const QUEUE: usize = 16;
/// Clients at a time; more wait to be accepted. Each costs a descriptor.
const CLIENTS: usize = 16;

/// The control socket could not be opened.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another vipshield answers there.
    #[error("another vipshield answers on {}: stop it first, or give --socket", .0.display())]
    Occupied(PathBuf),
    /// Something else is there, and stays.
    #[error("{} is there, and is no socket: give --socket another path", .0.display())]
    Taken(PathBuf),
    /// The socket or its directory could not be made.
    #[error("the control socket {}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A request, and where its answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Answer>);

/// The control socket; its file is removed when this is dropped.
pub struct Server {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
}

impl Server {
    /// Listens on `path`, mode 0600. Needs a tokio runtime.
    pub fn open(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        match StdUnixStream::connect(path) {
            Ok(_) => return Err(ServerError::Occupied(path.to_owned())),
            // Left by a vipshield that was killed. Of a file that is no socket the kernel says the same.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
                    return Err(ServerError::Taken(path.to_owned()));
                }
                fs::remove_file(path).map_err(failed)?;
            }
            Err(_) => {}
        }
        // The mode must be right from the first moment, not after a chmod.
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        let listener = UnixListener::bind(path);
        umask(before);
        let (sender, requests) = mpsc::channel(QUEUE);
        tokio::spawn(accept(listener.map_err(failed)?, sender));
        Ok(Self { path: path.to_owned(), requests })
    }

    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!("removing {}: {error}", self.path.display());
        }
    }
}

async fn accept(listener: UnixListener, sender: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    let mut spare = None;
    loop {
        // When there is no descriptor left, one client at a time can ask why.
        spare = spare.or_else(|| File::open("/dev/null").ok());
        // It is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let mut accepted = listener.accept().await;
        if accepted.as_ref().is_err_and(is_out_of_descriptors) && spare.take().is_some() {
            accepted = listener.accept().await;
        }
        match accepted {
            Ok((stream, _)) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let _place = place;
                    match timeout(PATIENCE, serve(stream, sender)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!("a client of the control socket: {error}"),
                        Err(_) => debug!("a client of the control socket was too slow"),
                    }
                });
            }
            Err(error) => {
                debug!("accepting on the control socket: {error}");
                // Out of descriptors: give the clients that hold them time to end.
                tokio::time::timeout(PATIENCE, std::future::pending::<()>()).await.ok();
            }
        }
        if sender.is_closed() {
            return;
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

async fn serve(stream: UnixStream, sender: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => {
            let (back, answer) = oneshot::channel();
            match sender.send((request, back)).await {
                Ok(()) => answer.await.unwrap_or_else(|_| ending()),
                Err(_) => ending(),
            }
        }
        Err(error) => Answer::Refused { error: format!("not a request: {error}") },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

fn ending() -> Answer {
    Answer::Refused { error: "vipshield is ending".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_no_socket_stays() {
        let name = format!("vipshield-server-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, "precious").unwrap();
        let refused = Server::open(&path).err().unwrap().to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
        // Whoever listened there is gone.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let server = Server::open(&path).unwrap();
        assert!(matches!(Server::open(&path), Err(ServerError::Occupied(_))));
        drop(server);
        assert!(!path.exists());
    }
}
