//! Prometheus metrics over HTTP: `GET /metrics`, on loopback unless told otherwise.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use log::{debug, info, warn};
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::{ConstCounter, Counter as Counted},
        family::Family,
        gauge::Gauge,
    },
    registry::Registry,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use vipshield_common::counters::Counter;

use crate::{
    engine::{self, Filter, Health, Phase},
    status::Status,
    wire::Malformed,
};

/// Connections served at once; Prometheus needs one.
const MAX_CONNECTIONS: usize = 8;
/// A client that is slower is dropped.
const PATIENCE: Duration = Duration::from_secs(5);
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
        match TcpListener::bind(address).await {
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
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(response);
    }
    let (back, status) = oneshot::channel();
    let text = match sender.send(back).await {
        Ok(()) => status.await.ok().and_then(|status| text(&status).ok()),
        Err(_) => None,
    };
    if let Some(text) = text {
        response
            .headers_mut()
            .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(CONTENT));
        *response.body_mut() = Full::new(Bytes::from(text));
    } else {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

/// The metrics in OpenMetrics text.
pub fn text(status: &Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("vipshield");
    let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    for counter in Counter::ALL {
        let value = ConstCounter::new(count(counter.name()));
        registry.register(counter.name(), counter.help().trim_end_matches('.'), value);
    }
    for (name, help) in [
        ("withheld", "Netlink messages withheld from guarded daemons"),
        ("released", "Truths told to guarded daemons after they had been withheld"),
        ("rebound", "VRRP sockets moved to another interface"),
        ("announced", "Announcements of VIPs that moved to another interface"),
        ("failed_actions", "Actions that failed"),
    ] {
        registry.register(name, help, ConstCounter::new(count(name)));
    }
    let phases = Family::<Vec<(String, String)>, Gauge>::default();
    for nic in &status.nics {
        for phase in Phase::ALL {
            let labels =
                vec![("nic".to_owned(), nic.name.clone()), ("phase".to_owned(), phase.to_string())];
            phases.get_or_create(&labels).set(i64::from(phase == nic.phase));
        }
    }
    registry.register("nic_phase", "1 for the phase a guarded NIC is in", phases);
    let sockets = Family::<Vec<(String, String)>, Gauge>::default();
    for filter in [Filter::Guard, Filter::Foreign, Filter::None, Filter::Stale] {
        let label = match filter {
            Filter::Guard => "guard",
            Filter::Foreign => "foreign",
            Filter::None => "none",
            Filter::Stale => "stale",
        };
        let number = status
            .daemons
            .iter()
            .flat_map(|daemon| &daemon.monitors)
            .filter(|found| **found == filter)
            .count();
        sockets
            .get_or_create(&vec![("filter".to_owned(), label.to_owned())])
            .set(i64::try_from(number).unwrap_or(i64::MAX));
    }
    registry.register("monitor_sockets", "Monitor sockets of guarded daemons, by filter", sockets);
    register_heard(&mut registry, status);
    let warnings: Gauge = Gauge::default();
    warnings.set(i64::try_from(status.warnings.len()).unwrap_or(i64::MAX));
    registry.register("warnings", "Things that an operator should mend", warnings);
    let health = Family::<Labels, Gauge>::default();
    for word in Health::ALL.map(|health| health.to_string()) {
        let is_it = word == status.health.to_string();
        health.get_or_create(&labels([("health", word)])).set(i64::from(is_it));
    }
    registry.register("health", "1 for the word that vipshield status says", health);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

type Labels = Vec<(String, String)>;

fn labels<const N: usize>(pairs: [(&str, String); N]) -> Labels {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What was heard on the wire. Of virtual routers only those that this node takes part in: the
/// others are anybody's to invent.
fn register_heard(registry: &mut Registry, status: &Status) {
    let count = |name: &str| status.counters.get(name).copied().unwrap_or(0);
    let malformed = Family::<Labels, Counted>::default();
    for reason in Malformed::ALL {
        let value = count(&format!("malformed_{reason}"));
        malformed.get_or_create(&labels([("reason", reason.to_string())])).inc_by(value);
    }
    let help = "Frames of which nothing was made, by reason";
    registry.register("malformed_frames", help, malformed);
    for (name, help) in [
        ("adverts", "VRRP adverts seen, by who sent them"),
        ("claims", "ARP and neighbour discovery that gives an address a hardware address"),
    ] {
        let family = Family::<Labels, Counted>::default();
        for origin in ["own", "foreign"] {
            let value = count(&format!("{name}_{origin}"));
            family.get_or_create(&labels([("origin", origin.to_owned())])).inc_by(value);
        }
        registry.register(name, help, family);
    }
    let evicted = Family::<Labels, Counted>::default();
    for table in ["routers", "senders", "claimants"] {
        let value = count(&format!("{table}_evicted"));
        evicted.get_or_create(&labels([("table", table.to_owned())])).inc_by(value);
    }
    registry.register("evictions", "Entries that made place in a full table", evicted);
    for (name, help) in [
        ("conflicts", "Times that somebody else was found to claim an address this node owns"),
        ("silences", "Times that this node was found to own and to send no adverts"),
        ("frames_stray", "Frames on interfaces that are no guarded NIC's"),
    ] {
        registry.register(name, help, ConstCounter::new(count(name)));
    }
    let conflicts: Gauge = Gauge::default();
    let number = status.claims.iter().filter(|claim| claim.conflict.is_some()).count();
    conflicts.set(i64::try_from(number).unwrap_or(i64::MAX));
    registry.register(
        "conflicting_addresses",
        "Addresses of this node that others claim",
        conflicts,
    );
    let owned = Family::<Labels, Gauge>::default();
    for router in status.routers.iter().filter(|router| router.ours) {
        let family = match router.family {
            engine::Family::Ipv4 => "ipv4",
            engine::Family::Ipv6 => "ipv6",
        };
        let labels = labels([
            ("nic", router.nic.clone()),
            ("router_id", router.router_id.to_string()),
            ("family", family.to_owned()),
            ("version", u8::from(router.version).to_string()),
            ("vlan", router.vlan.map(|vlan| vlan.to_string()).unwrap_or_default()),
        ]);
        let own = router.senders.iter().any(|it| it.own && router.owner == Some(it.source));
        owned.get_or_create(&labels).set(own.into());
    }
    registry.register("router_owned", "1 if adverts say that this node owns it", owned);
    let deadlines = Family::<Labels, Gauge>::default();
    for nic in &status.nics {
        let deadline = i64::try_from(nic.deadline_ms).unwrap_or(i64::MAX);
        deadlines.get_or_create(&labels([("nic", nic.name.clone())])).set(deadline);
    }
    let help = "What is untrue about a NIC is withheld for so long at the most";
    registry.register("deadline_milliseconds", help, deadlines);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::engine::{DaemonStatus, NicStatus, Role};

    #[test]
    fn every_counter_and_phase_is_there_once() {
        let status = Status {
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
            routers: Vec::new(),
            claims: Vec::new(),
            counters: BTreeMap::from([
                ("withheld".to_owned(), 7),
                ("malformed_vrrp_checksum".to_owned(), 3),
                ("adverts_foreign".to_owned(), 9),
            ]),
        };
        let text = text(&status).unwrap();
        for counter in Counter::ALL {
            let line = format!("vipshield_{}_total 0", counter.name());
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line}");
        }
        for line in [
            "vipshield_withheld_total 7",
            "vipshield_nic_phase{nic=\"ens192\",phase=\"bridged\"} 1",
            "vipshield_nic_phase{nic=\"ens192\",phase=\"free\"} 0",
            "vipshield_monitor_sockets{filter=\"guard\"} 1",
            "vipshield_malformed_frames_total{reason=\"vrrp_checksum\"} 3",
            "vipshield_malformed_frames_total{reason=\"truncated\"} 0",
            "vipshield_adverts_total{origin=\"foreign\"} 9",
            "vipshield_deadline_milliseconds{nic=\"ens192\"} 190",
            "vipshield_health{health=\"healthy\"} 0",
            "vipshield_health{health=\"degraded\"} 1",
            "vipshield_health{health=\"idle\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
