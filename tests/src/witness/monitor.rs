//! Addresses and links of a node over time, as the kernel broadcasts them.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use netlink_packet_core::{NLM_F_DUMP, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::MulticastGroup;
use rtnetlink::sys::{Socket, SocketAddr};

use super::Watcher;
use super::timeline::Change;
use crate::clock;
use crate::netns::Netns;
use crate::rtnl::{address_of, messages, serialized, socket_in, usable};

const GROUPS: [MulticastGroup; 3] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];

/// What a monitor saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// An address is on an interface, or no longer.
    Address {
        /// Interface index.
        ifindex: u32,
        /// The address.
        address: IpAddr,
        /// Whether it is there.
        present: bool,
    },
    /// An interface can carry frames, or cannot.
    Link {
        /// Interface index.
        ifindex: u32,
        /// Whether it is up, running and has a carrier.
        usable: bool,
    },
}

#[derive(Debug, Default)]
struct Seen {
    facts: Vec<(Instant, Fact)>,
    complete: bool,
    overruns: u32,
}

/// Follows the addresses and links of one namespace.
#[derive(Debug)]
pub struct Monitor {
    seen: Arc<Mutex<Seen>>,
    _watcher: Watcher,
}

impl Monitor {
    /// Join the groups, then ask for everything there is: nothing falls in between.
    ///
    /// # Errors
    /// When the socket cannot be made, or the first dump does not arrive within 5 s (stretched).
    pub async fn start(namespace: &Netns) -> Result<Self> {
        let socket = socket_in(namespace, &GROUPS, Duration::from_millis(100))?;
        let seen = Arc::new(Mutex::new(Seen::default()));
        let kept = Arc::clone(&seen);
        let watcher = Watcher::start("monitor", move |over| follow(&socket, &kept, over))?;
        let monitor = Self { seen, _watcher: watcher };
        clock::until("the first dump of addresses", Duration::from_secs(5), async || {
            Ok(monitor.lock(|seen| seen.complete).then_some(()))
        })
        .await?;
        Ok(monitor)
    }

    /// Everything seen so far, in order.
    #[must_use]
    pub fn facts(&self) -> Vec<(Instant, Fact)> {
        self.lock(|seen| seen.facts.clone())
    }

    /// When which interface carried `wanted`.
    #[must_use]
    pub fn carriers(&self, wanted: IpAddr) -> Vec<Change<u32>> {
        let facts = self.facts().into_iter();
        facts
            .filter_map(|(at, fact)| match fact {
                Fact::Address { ifindex, address, present } if address == wanted => {
                    Some(Change { at, of: ifindex, so: present })
                }
                _ => None,
            })
            .collect()
    }

    /// When an interface became usable or stopped being so.
    #[must_use]
    pub fn usable(&self, wanted: u32) -> Vec<(Instant, bool)> {
        let facts = self.facts().into_iter();
        facts
            .filter_map(|(at, fact)| match fact {
                Fact::Link { ifindex, usable } if ifindex == wanted => Some((at, usable)),
                _ => None,
            })
            .collect()
    }

    /// Whether some node interface carries `wanted` now.
    #[must_use]
    pub fn carries(&self, wanted: IpAddr) -> bool {
        let whole = super::timeline::any_of(&self.carriers(wanted), |_| ());
        whole.last().is_some_and(|change| change.so)
    }

    /// How often the kernel dropped events because the monitor was slow: when
    /// not 0, what it saw is not the whole truth.
    #[must_use]
    pub fn overruns(&self) -> u32 {
        self.lock(|seen| seen.overruns)
    }

    fn lock<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn follow(socket: &Socket, kept: &Mutex<Seen>, over: &AtomicBool) {
    let mut questions = questions().into_iter();
    if let Err(error) = ask(socket, questions.next()) {
        log::error!("monitor: {error}");
        return;
    }
    while !over.load(Ordering::Relaxed) {
        let received = socket.recv_from_full();
        let at = clock::now();
        let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let data = match received {
            Ok((data, _)) => data,
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {
                seen.overruns += 1;
                continue;
            }
            Err(_) => continue,
        };
        if take(&data, at, &mut seen) {
            let next = questions.next();
            seen.complete = next.is_none();
            let _ = ask(socket, next);
        }
    }
}

fn questions() -> [RouteNetlinkMessage; 3] {
    let of = |family| {
        let mut question = AddressMessage::default();
        question.header.family = family;
        RouteNetlinkMessage::GetAddress(question)
    };
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    [links, of(AddressFamily::Inet), of(AddressFamily::Inet6)]
}

fn ask(socket: &Socket, question: Option<RouteNetlinkMessage>) -> std::io::Result<()> {
    let Some(question) = question else { return Ok(()) };
    let buffer = serialized(question, NLM_F_DUMP, 1);
    socket.send_to(&buffer, &SocketAddr::new(0, 0), 0).map(|_| ())
}

/// Note what a datagram says. True when it ends a dump.
fn take(data: &[u8], at: Instant, seen: &mut Seen) -> bool {
    let mut ended = false;
    for message in messages(data) {
        let fact = match message.payload {
            NetlinkPayload::Done(_) => {
                ended = true;
                None
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(m)) => address(&m, true),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(m)) => address(&m, false),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(m)) => {
                // Bridges send messages of their own family about their ports; these are no news.
                (m.header.interface_family == AddressFamily::Unspec).then_some(Fact::Link {
                    ifindex: m.header.index,
                    usable: usable(m.header.flags),
                })
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(m)) => {
                (m.header.interface_family == AddressFamily::Unspec)
                    .then_some(Fact::Link { ifindex: m.header.index, usable: false })
            }
            _ => None,
        };
        seen.facts.extend(fact.map(|fact| (at, fact)));
    }
    ended
}

fn address(message: &AddressMessage, present: bool) -> Option<Fact> {
    let address = address_of(message)?;
    Some(Fact::Address { ifindex: message.header.index, address, present })
}
