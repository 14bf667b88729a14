//! How soon the VIP is off every interface of a node once its daemon gives it up.
//!
//! A real keepalived gives up whenever it hears an advert of a higher priority, and takes the VIP
//! again when no more come: one forged advert is one run. That moment lies between the advert's
//! sending and keepalived's word on its notify FIFO, so the time to the VIP's absence is shown from
//! both: the one is too long by keepalived's own share, the other too short. With a free NIC
//! keepalived removes the VIP itself, which is what a machine allows at best.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock;
use crate::config::{DatapathKind, LabConfig};
use crate::forge::{Advert, Version};
use crate::keepalived::Keepalived;
use crate::lab::{Host, Lab};
use crate::measure::Role;
use crate::netns::Netns;
use crate::report;
use crate::sequence::{Sequence, Undisturbed};
use crate::witness::monitor::Monitor;
use crate::witness::timeline::any_of;

/// Seconds between adverts: keepalived takes the VIP again after three of them.
const ADVERT_INT: f64 = 0.05;
/// Higher than the node's own.
const PRIORITY: u8 = 200;
/// What a run may take at the most.
const LIMIT: Duration = Duration::from_secs(5);
/// An advert that nobody heeded is followed by another.
const AGAIN: Duration = Duration::from_secs(1);
/// VRRP's protocol number and group (RFC 5798, 5.1.1.2 and 5.1.1.4).
const PROTOCOL: i32 = 112;
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Where the NIC is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It is its own master: keepalived removes the VIP itself.
    Free,
    /// It is a port: keepalived's request misses the VIP.
    Bridged,
}

/// One time to the VIP's absence, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// What was measured at one place.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Where the NIC was.
    pub place: Place,
    /// How often the VIP was given up.
    pub runs: usize,
    /// From the moment the advert was sent that made keepalived give up: too long by its own share.
    pub from_advert_ms: Spread,
    /// From keepalived's word on its FIFO: too short; 0 where the VIP was gone by then.
    pub from_notice_ms: Spread,
    /// From the advert to keepalived's word.
    pub keepalived_ms: Spread,
}

/// Let a guarded node give its VIP up `runs` times while its NIC is a port, and a quarter as often
/// before, while it is free.
///
/// # Errors
/// When the lab cannot be built, or a run does not end.
pub async fn measure(
    datapath: DatapathKind,
    vipshield: &Path,
    runs: usize,
) -> Result<Vec<Figures>> {
    let mut config = LabConfig::new(datapath);
    config.advert_int = ADVERT_INT;
    // Nobody else wants to be the owner.
    config.nodes.truncate(1);
    let mut lab = Lab::build(config).await?;
    lab.start_vipshield(0, vipshield).await?;
    lab.start_keepalived(0)?;
    let node = lab.node(0)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    keepalived.wait_for("VI_1", Role::Master.state(), Duration::from_secs(15)).await?;
    let monitor = Monitor::start(&node.host.namespace).await?;
    let forger = Forger::start(&lab)?;
    let mut figures = Vec::new();
    for place in [Place::Free, Place::Bridged] {
        if place == Place::Bridged {
            Sequence::Bind.run(&lab, &mut Undisturbed).await.outcome?;
        }
        let mut times = Vec::new();
        // What the machine allows is known sooner.
        let runs = if place == Place::Free { runs.div_ceil(4) } else { runs };
        for _ in 0..runs {
            times.push(give_up(&lab, &monitor, &forger).await?);
        }
        if monitor.overruns() > 0 {
            bail!("the address monitor lost events");
        }
        figures.push(summary(place, &times));
    }
    Ok(figures)
}

/// When things happened in one run.
struct Times {
    sent: Instant,
    told: Instant,
    gone: Instant,
}

async fn give_up(lab: &Lab, monitor: &Monitor, forger: &Forger) -> Result<Times> {
    let vip = lab.config.vip()?;
    let node = lab.node(0)?;
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?;
    // Where it is of use: on the NIC while that is free, off it while it is a port.
    let port = node.host.rtnl.is_port(node.nic)?;
    clock::until("the VIP where it is of use", LIMIT, async || {
        let changes = monitor.carriers(vip);
        let on_nic = changes.iter().rev().find(|change| change.of == node.nic);
        let on_nic = on_nic.is_some_and(|change| change.so);
        let owner = keepalived.state("VI_1").is_some_and(|state| state == "MASTER");
        Ok((owner && monitor.carries(vip) && on_nic != port).then_some(()))
    })
    .await?;
    let (sent, told) = gave_up(keepalived, forger).await?;
    let gone = clock::until("the VIP gone from every interface", LIMIT, async || {
        let whole = any_of(&monitor.carriers(vip), |_| ());
        Ok(whole.iter().find(|change| change.at >= sent && !change.so).map(|change| change.at))
    })
    .await?;
    Ok(Times { sent, told, gone })
}

/// Send adverts until keepalived says that it gave up. Returns when the last was sent, and when it
/// said so: right after the bind its sockets may not be where the first one arrives.
async fn gave_up(keepalived: &Keepalived, forger: &Forger) -> Result<(Instant, Instant)> {
    let last = Cell::new(forger.send()?);
    clock::until("keepalived's word that it gave up", LIMIT, async || {
        let sent = last.get();
        let mut all = keepalived.transitions().into_iter();
        let told = all.find(|change| change.at >= sent && change.state == "BACKUP");
        if told.is_none() && clock::now() >= sent + clock::patience(AGAIN) {
            last.set(forger.send()?);
        }
        Ok(told.map(|told| (sent, told.at)))
    })
    .await
}

fn summary(place: Place, times: &[Times]) -> Figures {
    let spread = |from: fn(&Times) -> Instant, to: fn(&Times) -> Instant| {
        spread(times.iter().map(|it| clock::millis(to(it).saturating_duration_since(from(it)))))
    };
    Figures {
        place,
        runs: times.len(),
        from_advert_ms: spread(|it| it.sent, |it| it.gone),
        from_notice_ms: spread(|it| it.told, |it| it.gone),
        keepalived_ms: spread(|it| it.sent, |it| it.told),
    }
}

/// Of times, in milliseconds.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    // The smallest value that so many in a hundred do not exceed.
    let at = |percent: usize| {
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    Spread { p50: at(50), p99: at(99), max: at(100) }
}

/// One row for each place and each way to count.
#[must_use]
pub fn table(figures: &[Figures]) -> String {
    let mut rows =
        vec![["NIC", "runs", "from", "p50 ms", "p99 ms", "max ms"].map(str::to_owned).to_vec()];
    for figure in figures {
        let place = match figure.place {
            Place::Free => "free",
            Place::Bridged => "bridged",
        };
        for (from, spread) in [
            ("advert to VIP gone", &figure.from_advert_ms),
            ("notice to VIP gone", &figure.from_notice_ms),
            ("advert to notice", &figure.keepalived_ms),
        ] {
            let number = |value: f64| format!("{value:.2}");
            rows.push(vec![
                place.to_owned(),
                figure.runs.to_string(),
                from.to_owned(),
                number(spread.p50),
                number(spread.p99),
                number(spread.max),
            ]);
        }
    }
    report::table(&rows)
}

/// Sends adverts of a higher priority from the client.
struct Forger {
    socket: Socket,
    advert: Vec<u8>,
}

impl Forger {
    fn start(lab: &Lab) -> Result<Self> {
        let Host { namespace, .. } = &lab.client;
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        };
        let own = lab.config.client.iter().find_map(|prefix| v4(&prefix.address));
        let own = own.context("the client has no IPv4 address")?;
        let vip = v4(&lab.config.vip()?).context("the VIP is no IPv4 address")?;
        let router = lab.config.instances.first().context("no VRRP instance")?.router_id;
        let socket = open(namespace, own)?;
        Ok(Self { socket, advert: advert(own, router, vip) })
    }

    /// Returns when.
    fn send(&self) -> Result<Instant> {
        let at = clock::now();
        let to = SocketAddr::from((GROUP, 0));
        self.socket.send_to(&self.advert, &to.into()).context("sending an advert")?;
        Ok(at)
    }
}

fn open(namespace: &Netns, own: Ipv4Addr) -> Result<Socket> {
    namespace.run(|| {
        let protocol = Protocol::from(PROTOCOL);
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).context("raw socket")?;
        socket.set_multicast_ttl_v4(255)?;
        socket.set_multicast_if_v4(&own)?;
        socket.set_multicast_loop_v4(false)?;
        socket.bind(&SocketAddr::from((own, 0)).into())?;
        Ok(socket)
    })
}

/// An advert of version 3, without its IP header.
fn advert(from: Ipv4Addr, router: u8, vip: Ipv4Addr) -> Vec<u8> {
    let advert = Advert::new(Version::V3, router, PRIORITY, vec![vip.into()]);
    let interval = Duration::from_secs_f64(ADVERT_INT);
    Advert { source: from.into(), interval, ..advert }.message()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let all = spread((1..=200).rev().map(f64::from));
        assert_eq!((all.p50, all.p99, all.max), (100.0, 198.0, 200.0));
        let one = spread([7.0].into_iter());
        assert_eq!((one.p50, one.p99, one.max), (7.0, 7.0, 7.0));
    }

    #[test]
    fn an_advert_is_as_the_standard_has_it() {
        let advert = advert([192, 0, 2, 100].into(), 51, [192, 0, 2, 10].into());
        assert_eq!(advert[..6], [0x31, 51, 200, 1, 0, 5]);
        assert_eq!(advert[8..], [192, 0, 2, 10]);
        // The sum over everything, checksum included, is all ones.
        let head = [192, 0, 2, 100, 224, 0, 0, 18, 0, 112, 0, 12];
        let words = head.iter().chain(&advert).copied().collect::<Vec<u8>>();
        let sum: u32 = words.chunks(2).map(|w| u32::from(w[0]) * 256 + u32::from(w[1])).sum();
        assert_eq!((sum >> 16) + (sum & 0xffff), 0xffff);
    }
}
