//! A TCP connection to the VIP that says something all the time.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::AbortHandle;

use super::Watcher;
use super::timeline::{Window, longest_gap};
use crate::clock;
use crate::lab::Host;

/// The port of the echo servers.
const PORT: u16 = 7;
/// The time between two messages.
const PERIOD: Duration = Duration::from_millis(10);
/// The length of a message in bytes.
const MESSAGE: usize = 64;

/// What became of the connection within a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpReport {
    /// Whether the connection of before the window still exchanged messages in
    /// its last second.
    pub alive: bool,
    /// The longest time between two completed exchanges, less one period; up
    /// to the window's end where none completed any more.
    pub longest_stall_ms: f64,
}

/// An echo server on a node.
#[derive(Debug)]
pub struct EchoServer(AbortHandle);

impl EchoServer {
    /// Listen on every address of `host`, also on those it gets later.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(host: &Host) -> Result<Self> {
        Self::on(host, PORT)
    }

    /// The same on another port.
    ///
    /// # Errors
    /// When it is taken.
    pub fn on(host: &Host, port: u16) -> Result<Self> {
        let listener = host.namespace.run(|| {
            let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
            let listener = TcpListener::bind(any).context("echo server")?;
            listener.set_nonblocking(true).context("echo server")?;
            Ok(listener)
        })?;
        let listener = tokio::net::TcpListener::from_std(listener).context("echo server")?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream));
            }
        });
        Ok(Self(task.abort_handle()))
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn echo(mut stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; MESSAGE];
    while stream.read_exact(&mut buffer).await.is_ok() && stream.write_all(&buffer).await.is_ok() {}
}

/// Whether the echo server behind `target` takes a new connection from `host` now.
pub async fn connects(host: &Host, target: IpAddr) -> bool {
    let namespace = Arc::clone(&host.namespace);
    let target = SocketAddr::new(target, PORT);
    let limit = clock::patience(Duration::from_millis(500));
    let attempt = tokio::task::spawn_blocking(move || {
        namespace.run(|| Ok(TcpStream::connect_timeout(&target, limit).is_ok()))
    });
    attempt.await.is_ok_and(|connected| connected.unwrap_or(false))
}

/// The client's end.
#[derive(Debug)]
pub struct TcpWitness {
    exchanges: Arc<Mutex<Vec<Instant>>>,
    _watcher: Watcher,
}

impl TcpWitness {
    /// Connect from `host` to the echo server behind `target` and start to exchange.
    ///
    /// # Errors
    /// When the connection is not made within 3 s (stretched).
    pub fn start(host: &Host, target: IpAddr) -> Result<Self> {
        let target = SocketAddr::new(target, PORT);
        let limit = clock::patience(Duration::from_secs(3));
        let stream = host.namespace.run(|| {
            TcpStream::connect_timeout(&target, limit)
                .with_context(|| format!("cannot connect to {target}"))
        })?;
        stream.set_nodelay(true).context("TCP witness")?;
        stream.set_read_timeout(Some(Duration::from_millis(50))).context("TCP witness")?;
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&exchanges);
        let watcher = Watcher::start("tcp", move |over| talk(stream, &kept, over))?;
        Ok(Self { exchanges, _watcher: watcher })
    }

    /// What became of the connection within `window`.
    #[must_use]
    pub fn report(&self, window: Window) -> TcpReport {
        let all = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done: Vec<_> = all.iter().map(|at| (*at, true)).collect();
        // Where nothing completes any more, the stall lasts to the end.
        done.push((window.to, false));
        let last = all.iter().rev().find(|at| window.contains(**at));
        let recent = Duration::from_secs(1);
        TcpReport {
            alive: last.is_some_and(|at| window.to.saturating_duration_since(*at) <= recent),
            longest_stall_ms: clock::millis(longest_gap(&done, window, PERIOD).length),
        }
    }
}

/// Send a message every period once the one before has come back. Returns when
/// the connection breaks.
fn talk(mut stream: TcpStream, exchanges: &Mutex<Vec<Instant>>, over: &AtomicBool) {
    let mut number: u64 = 0;
    loop {
        let began = clock::now();
        let mut message = [0; MESSAGE];
        message.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, value)| *byte = value);
        if stream.write_all(&message).is_err() {
            return;
        }
        let mut answer = Vec::with_capacity(MESSAGE);
        while answer.len() < MESSAGE {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let mut buffer = [0; MESSAGE];
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => answer.extend_from_slice(buffer.get(..length).unwrap_or_default()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
        if answer != message {
            log::error!("TCP witness: message {number} came back changed");
            return;
        }
        exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(clock::now());
        number += 1;
        clock::nap((began + PERIOD).saturating_duration_since(clock::now()));
    }
}
