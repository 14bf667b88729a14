//! What the kernel said of links and addresses, and what of it the guard withheld.
//!
//! A recording has the two apart: the monitor's events, and the guard's reports. They come by different ways,
//! so either may be first.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use crate::{About, Event, Withheld};

/// A report is of what was said no longer than this before or after it.
const WITHIN: Duration = Duration::from_millis(100);

/// What a report may be recognised by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Down,
    NoCarrier,
    Called(String),
    Here(IpAddr),
    Gone(IpAddr),
}

/// Reports that have found no message yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    by: BTreeMap<(u32, Token), VecDeque<Duration>>,
}

impl Reports {
    /// The guard withheld this.
    pub(super) fn add(&mut self, at: Duration, message: &Withheld) {
        let token = match &message.about {
            About::AddressRemoval { address } => Token::Gone(address.ip),
            About::AdminDown => Token::Down,
            About::CarrierLoss => Token::NoCarrier,
            About::Rename { name } | About::NameConflict { name } => Token::Called(name.clone()),
            About::OwnAddress { ip } | About::KnownAddress { ip } => Token::Here(*ip),
            // A message of its own, which the monitor does not get, or of which nothing is drawn.
            About::BridgePort | About::RouteRemoval { .. } => return,
        };
        self.by.entry((message.ifindex, token)).or_default().push_back(at);
    }

    /// Whether this message, of all the next, was withheld. Of several reports the earliest is used up.
    pub(super) fn has(&mut self, at: Duration, event: &Event) -> bool {
        let (ifindex, tokens) = match event {
            Event::Link { link } => {
                let mut tokens = vec![Token::Called(link.name.clone())];
                if !link.up {
                    tokens.push(Token::Down);
                } else if !link.running {
                    tokens.push(Token::NoCarrier);
                }
                (link.ifindex, tokens)
            }
            Event::Address { ifindex, address, .. } => (*ifindex, vec![Token::Here(address.ip)]),
            Event::AddressRemoved { ifindex, address, .. } => {
                (*ifindex, vec![Token::Gone(address.ip)])
            }
            _ => return false,
        };
        tokens.into_iter().any(|token| self.take(at, &(ifindex, token)))
    }

    fn take(&mut self, at: Duration, key: &(u32, Token)) -> bool {
        let Some(reports) = self.by.get_mut(key) else { return false };
        while reports.front().is_some_and(|report| report.saturating_add(WITHIN) < at) {
            reports.pop_front();
        }
        let is_of_it = reports.front().is_some_and(|report| *report <= at.saturating_add(WITHIN));
        if is_of_it {
            reports.pop_front();
        }
        is_of_it
    }
}
