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
            self, DaemonStatus, Filter, Health, NicStatus, Phase, Role, RouterStatus, SenderStatus,
            Transitions, VipStatus,
        },
        status::Absence,
        wire::{Mac, Version},
    };

    let router = RouterStatus {
        nic: "ens192".to_owned(),
        router_id: 51,
        family: engine::Family::Ipv4,
        version: Version::V3,
        vlan: None,
        ours: true,
        owner: Some("192.0.2.1".parse().unwrap()),
        addresses: Vec::new(),
        senders: vec![SenderStatus {
            source: "192.0.2.1".parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            own: true,
            priority: 100,
            interval_ms: 1_000,
            last_seen_ms: 250,
            adverts: 7,
        }],
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
            transitions: vec![Transitions {
                to: Phase::Bridged,
                number: 4,
                took_us: 40_150_000,
                classes: [0, 2, 1, 0, 0, 0, 0, 0, 0, 0],
            }],
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
        absence: Absence {
            longest_us: 1_500_000,
            in_transition_us: 2_500,
            own_in_transition_us: 1_500,
        },
        failed_actions: BTreeMap::from([("carry".to_owned(), 4)]),
        own_rules: BTreeMap::from([("quick-carrier".to_owned(), 2)]),
        counters: BTreeMap::from([
            ("withheld".to_owned(), 7),
            ("malformed_vrrp_checksum".to_owned(), 3),
            ("adverts_foreign".to_owned(), 9),
        ]),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::{LocalSet, spawn_local},
    };

    use super::*;

    /// The loop that is asked for a status.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Loop {
        Answers,
        /// It takes the question, and ends before it has answered.
        Ends,
        Ended,
    }

    /// What comes back for each request.
    async fn exchanged<const N: usize>(of: Loop, requests: [&str; N]) -> [String; N] {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut asked) = mpsc::channel::<oneshot::Sender<Status>>(MAX_CONNECTIONS);
        let turns = async move {
            if of == Loop::Ended {
                return;
            }
            while let Some(back) = asked.recv().await {
                if of == Loop::Answers {
                    back.send(sample()).unwrap();
                }
            }
        };
        let asking = async {
            spawn_local(accept(listener, sender));
            spawn_local(turns);
            let mut answers = Vec::new();
            for request in requests {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answers.push(answer);
            }
            answers
        };
        LocalSet::new().run_until(asking).await.try_into().unwrap()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    }

    fn parts(answer: &str) -> (&str, &str) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split("\r\n").next().unwrap(), body)
    }

    #[tokio::test]
    async fn the_probes_say_whether_the_loop_answers() {
        for path in ["/healthz", "/readyz"] {
            let [answer] = exchanged(Loop::Answers, [&get(path)]).await;
            // The sample is of a vipshield that is degraded: that is no matter of theirs.
            assert_eq!(parts(&answer), ("HTTP/1.1 200 OK", "ok\n"), "{path}");
            for of in [Loop::Ends, Loop::Ended] {
                let [answer] = exchanged(of, [&get(path)]).await;
                let unavailable = ("HTTP/1.1 503 Service Unavailable", "");
                assert_eq!(parts(&answer), unavailable, "{path} {of:?}");
            }
        }
    }

    #[tokio::test]
    async fn the_format_is_the_one_that_is_asked_for() {
        let accepting = |what: &str| get("/metrics").replace("Host:", &format!("{what}\r\nHost:"));
        let open = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let [open, plain, nothing] = exchanged(
            Loop::Answers,
            [&accepting(open), &accepting("Accept: text/plain;version=0.0.4"), &get("/metrics")],
        )
        .await;
        assert!(
            open.contains("content-type: application/openmetrics-text; version=1.0.0;"),
            "{open}"
        );
        assert!(open.ends_with("# EOF\n") && open.contains("# TYPE vipshield_withheld counter\n"));
        for answer in [plain, nothing] {
            assert!(answer.contains("content-type: text/plain; version=0.0.4;"), "{answer}");
            assert!(answer.contains("# TYPE vipshield_withheld_total counter\n"), "{answer}");
            assert!(!answer.contains("# EOF"), "{answer}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_and_what_is_not_http_is_refused() {
        let post = get("/metrics").replace("GET", "POST");
        let head = get("/metrics").replace("GET", "HEAD");
        let [root, longer, post, head, garbage, after] = exchanged(
            Loop::Answers,
            [
                &get("/"),
                &get("/metricsx"),
                &post,
                &head,
                "\u{16}\u{3}\u{1}\r\n\r\n",
                &get("/healthz"),
            ],
        )
        .await;
        for answer in [&root, &longer] {
            assert_eq!(parts(answer), ("HTTP/1.1 404 Not Found", ""));
        }
        assert_eq!(parts(&post), ("HTTP/1.1 405 Method Not Allowed", ""));
        assert_eq!(parts(&head), ("HTTP/1.1 200 OK", ""));
        assert_eq!(parts(&garbage), ("HTTP/1.1 400 Bad Request", ""));
        assert_eq!(parts(&after), ("HTTP/1.1 200 OK", "ok\n"), "others are still answered");
    }
}
