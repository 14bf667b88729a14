//! Prometheus metrics and probes over HTTP, on loopback unless told otherwise: `GET /metrics`, `/healthz`, `/readyz`.
//!
//! The probes ask whether vipshield's loop answers, not how keepalived is: a node without one does not stop a
//! rollout.

mod exposition;
mod process;

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use log::{debug, info, warn};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::status::Status;

pub use self::exposition::{Format, text};

/// Connections served at once; Prometheus needs one.
const MAX_CONNECTIONS: usize = 8;
/// A client that is slower is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 64;

/// Why metrics are not served for the moment, as an operator reads it.
type Trouble = Rc<RefCell<Option<String>>>;

/// Scrapes, once metrics are served.
pub struct Scrapes {
    asked: mpsc::Receiver<oneshot::Sender<Status>>,
    trouble: Trouble,
}

impl Scrapes {
    /// Where the status for the next scrape goes. Cancel safe.
    pub async fn next(&mut self) -> Option<oneshot::Sender<Status>> {
        self.asked.recv().await
    }

    /// Why nobody can scrape for the moment.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }
}

/// Serves metrics at `address`, as soon as that can be had; each scrape asks for a status. Needs a tokio
/// `LocalSet`.
#[must_use]
pub fn serve(address: SocketAddr) -> Scrapes {
    let (sender, asked) = mpsc::channel(MAX_CONNECTIONS);
    let trouble = Trouble::default();
    tokio::task::spawn_local(listen(address, sender, Rc::clone(&trouble)));
    Scrapes { asked, trouble }
}

/// Anybody may have the port, which is no reason not to guard.
async fn listen(
    address: SocketAddr,
    sender: mpsc::Sender<oneshot::Sender<Status>>,
    trouble: Trouble,
) {
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!(
                    "metrics are not served at {address}: {error}; tried again every {} s (give \
                     --metrics another address, or off)",
                    PATIENCE.as_secs()
                );
                if trouble.borrow().as_ref() != Some(&text) {
                    warn!("{text}");
                }
                trouble.replace(Some(text));
                timeout(PATIENCE, std::future::pending::<()>()).await.ok();
            }
        }
    };
    if trouble.take().is_some() {
        info!("metrics are served at {address}");
    }
    accept(listener, sender).await;
}

/// One that takes over listens beside the one that hands over, which lets it (`SO_REUSEPORT`, `socket(7)`: of
/// the same user alone).
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<oneshot::Sender<Status>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sender = Rc::new(sender);
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("accepting a scrape: {error}");
                timeout(PATIENCE, std::future::pending::<()>()).await.ok();
                continue;
            }
        };
        let sender = Rc::clone(&sender);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| answer(request, Rc::clone(&sender)));
            let connection = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(PATIENCE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("a scrape: {error}"),
                Err(_) => debug!("a scrape was too slow"),
            }
            drop(place);
        });
    }
}

async fn answer(
    request: HttpRequest<Incoming>,
    sender: Rc<mpsc::Sender<oneshot::Sender<Status>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    let path = request.uri().path();
    if !["/metrics", "/healthz", "/readyz"].contains(&path) {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response);
    }
    let (back, status) = oneshot::channel();
    let status = match sender.send(back).await {
        Ok(()) => status.await.ok(),
        Err(_) => None,
    };
    let accepted = request.headers().get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or("");
    let format = if path == "/metrics" { Format::accepted(accepted) } else { Format::Plain };
    let text = status.and_then(|status| match path {
        "/metrics" => text(&status, format).ok(),
        _ => Some("ok\n".to_owned()),
    });
    if let Some(text) = text {
        let kind = HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(CONTENT_TYPE, kind);
        *response.body_mut() = Full::new(Bytes::from(text));
    } else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// A status with something in each list that makes metrics.
#[cfg(test)]
pub(crate) fn sample() -> Status {
    use std::collections::BTreeMap;

    use crate::{
        engine::{
            self, DaemonStatus, Filter, Health, NicStatus, Phase, Role, RouterStatus, VipStatus,
        },
        status::Absence,
        wire::Version,
    };

    let router = RouterStatus {
        nic: "ens192".to_owned(),
        router_id: 51,
        family: engine::Family::Ipv4,
        version: Version::V3,
        vlan: None,
        ours: true,
        owner: None,
        addresses: Vec::new(),
        senders: Vec::new(),
    };
    Status {
        version: String::new(),
        pid: 1,
        network_namespace: 1,
        uptime_ms: 1,
        health: Health::Degraded { reasons: vec!["the first".to_owned()] },
        nics: vec![NicStatus {
            name: "ens192".to_owned(),
            ifindex: 2,
            phase: Phase::Bridged,
            phase_ms: 5,
            bearer: None,
            addresses: Vec::new(),
            deadline_ms: 190,
        }],
        missing: Vec::new(),
        warnings: Vec::new(),
        daemons: vec![DaemonStatus {
            pid: 9,
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            monitors: vec![Filter::Guard, Filter::Foreign],
            vrrp: Vec::new(),
        }],
        routers: vec![router],
        claims: Vec::new(),
        vips: vec![VipStatus {
            address: "192.0.2.10".parse().unwrap(),
            wanted: true,
            on: vec!["br-provider".to_owned()],
        }],
        absence: Absence { longest_us: 1_500_000, in_transition_us: 2_500 },
        counters: BTreeMap::from([
            ("withheld".to_owned(), 7),
            ("malformed_vrrp_checksum".to_owned(), 3),
            ("adverts_foreign".to_owned(), 9),
        ]),
    }
}
