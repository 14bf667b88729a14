//! The control socket's server.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        fs::FileTypeExt as _,
        net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
    },
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
use crate::{daemons::Privilege, succession::Successor};

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

/// What a client wants.
#[derive(Debug)]
pub enum Asked {
    /// An answer.
    Question(Request, oneshot::Sender<Answer>),
    /// To take over.
    HandOver(Successor),
}

/// The control socket; its file is removed when this is dropped.
pub struct Server {
    path: PathBuf,
    /// Where it listens until it [steps in](Self::step_in).
    aside: Option<PathBuf>,
    /// Its file is another vipshield's by now.
    left: bool,
    sender: mpsc::Sender<Asked>,
    requests: mpsc::Receiver<Asked>,
}

/// Who may ask what.
#[derive(Clone)]
enum Access {
    /// The file's mode says who reaches the socket: he may ask everything.
    File,
    /// Everybody reaches it: who may change this network anyway may ask to take over.
    Takeover(Privilege),
}

impl Access {
    fn allows(&self, request: &Request, stream: &UnixStream) -> bool {
        match self {
            Self::File => true,
            Self::Takeover(privilege) => {
                let peer = stream.peer_cred().ok();
                let process = peer.and_then(|peer| peer.pid()).and_then(|pid| pid.try_into().ok());
                matches!(request, Request::HandOver { .. })
                    && process.is_some_and(|process| privilege.is_seen_to_have(process))
            }
        }
    }
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
        let (sender, requests) = listen(path).map_err(failed)?;
        Ok(Self { path: path.to_owned(), aside: None, left: false, sender, requests })
    }

    /// Listens beside the vipshield that has `path`, and takes its place with [`Self::step_in`]. Where nobody
    /// has it, as in another pod's file system, it is this one's at once.
    pub fn stand_by(path: &Path) -> Result<Self, ServerError> {
        match Self::open(path) {
            Err(ServerError::Occupied(_)) => {}
            opened => return opened,
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let aside = PathBuf::from(name);
        let failed = |source| ServerError::Socket { path: aside.clone(), source };
        // What one that was killed with this process id may have left.
        if let Err(error) = fs::remove_file(&aside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(error));
        }
        let (sender, requests) = listen(&aside).map_err(failed)?;
        Ok(Self { path: path.to_owned(), aside: Some(aside), left: false, sender, requests })
    }

    /// Who may take over is heard here too: it may see another file system, as in another container.
    pub fn hear_successors(
        &self,
        listener: StdUnixListener,
        privilege: Privilege,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(listener)?;
        tokio::spawn(accept(listener, self.sender.clone(), Access::Takeover(privilege)));
        Ok(())
    }

    /// From now on it is this one that is asked; at no time nobody is.
    pub fn step_in(&mut self) -> Result<(), ServerError> {
        let Some(aside) = &self.aside else { return Ok(()) };
        let failed = |source| ServerError::Socket { path: self.path.clone(), source };
        fs::rename(aside, &self.path).map_err(failed)?;
        self.aside = None;
        Ok(())
    }

    /// The file is another vipshield's.
    pub const fn leave(&mut self) {
        self.left = true;
    }

    /// The next request. Cancel safe.
    pub async fn next(&mut self) -> Option<Asked> {
        self.requests.recv().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let path = self.aside.as_ref().unwrap_or(&self.path);
        if !self.left
            && let Err(error) = fs::remove_file(path)
        {
            debug!("removing {}: {error}", path.display());
        }
    }
}

/// The mode is right from the first moment, not after a chmod.
fn listen(path: &Path) -> io::Result<(mpsc::Sender<Asked>, mpsc::Receiver<Asked>)> {
    let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
    let listener = UnixListener::bind(path);
    umask(before);
    let (sender, requests) = mpsc::channel(QUEUE);
    tokio::spawn(accept(listener?, sender.clone(), Access::File));
    Ok((sender, requests))
}

async fn accept(listener: UnixListener, sender: mpsc::Sender<Asked>, access: Access) {
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
                let (sender, access) = (sender.clone(), access.clone());
                tokio::spawn(async move {
                    let _place = place;
                    match timeout(PATIENCE, serve(stream, sender, access)).await {
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

async fn serve(
    mut stream: UnixStream,
    sender: mpsc::Sender<Asked>,
    access: Access,
) -> io::Result<()> {
    let mut line = String::new();
    // A client says one line, and waits: nothing is read ahead.
    BufReader::new((&mut stream).take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) if !access.allows(&request, &stream) => {
            Answer::Refused { error: "who asks may not change this network".to_owned() }
        }
        Ok(Request::HandOver { instance }) => {
            match sender.send(Asked::HandOver(Successor::new(stream, instance))).await {
                Ok(()) => return Ok(()),
                // It is dropped with the stream, and the client sees the end of that.
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(request) => {
            let (back, answer) = oneshot::channel();
            match sender.send(Asked::Question(request, back)).await {
                Ok(()) => answer.await.unwrap_or_else(|_| ending()),
                Err(_) => ending(),
            }
        }
        Err(error) => Answer::Refused { error: format!("not a request: {error}") },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    stream.write_all(&bytes).await
}

fn ending() -> Answer {
    Answer::Refused { error: "vipshield is ending".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};

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

    #[tokio::test]
    async fn by_the_name_nobody_is_told_anything() {
        let name = format!("vipshield-server-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = StdUnixListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let path = std::env::temp_dir().join(format!("{name}.sock"));
        let server = Server::open(&path).unwrap();
        server.hear_successors(listener, Privilege::here().unwrap()).unwrap();
        let stream = StdUnixStream::connect_addr(&address).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut stream = UnixStream::from_std(stream).unwrap();
        stream.write_all(b"{\"request\":\"status\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("may not change this network"), "{answer}");
    }
}
