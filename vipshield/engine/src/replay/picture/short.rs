//! Events and actions in a few words, as they stand beside a mark.

use std::net::IpAddr;

use crate::{About, Action, Link, Route};

/// What is another of a link; nothing, if only what is not looked at is.
pub(super) fn link(was: Option<&Link>, link: &Link, name: impl Fn(u32) -> String) -> String {
    let Some(was) = was else { return format!("{} appears", link.name) };
    let mut words = Vec::new();
    if was.name != link.name {
        words.push(format!("called {}", link.name));
    }
    if was.up != link.up {
        words.push(if link.up { "up" } else { "down" }.to_owned());
    } else if was.running != link.running {
        words.push(if link.running { "carrier" } else { "no carrier" }.to_owned());
    }
    if was.master != link.master {
        words.push(match link.master {
            Some(master) => format!("port of {}", name(master)),
            None => "no port".to_owned(),
        });
    }
    if was.mac != link.mac {
        words.push("another MAC".to_owned());
    }
    words.join(", ")
}

pub(super) fn route(sign: char, route: &Route) -> String {
    if route.prefix_len == 0 {
        return format!("{sign}default");
    }
    format!("{sign}{}/{}", route.destination, route.prefix_len)
}

/// What was not told.
pub(super) fn about(about: &About) -> String {
    match about {
        About::AddressRemoval { address } => format!("\u{2212}{}", address.ip),
        About::AdminDown => "down".to_owned(),
        About::CarrierLoss => "no carrier".to_owned(),
        About::Rename { name } | About::NameConflict { name } => format!("called {name}"),
        // Their rules' names say as much.
        About::BridgePort | About::OwnAddress { .. } => String::new(),
        About::KnownAddress { ip } => format!("+{ip}"),
        About::RouteRemoval { destination } => format!("\u{2212}route {destination}"),
    }
}

/// The row in which an action stands, and a few words; none if it changes nothing that people look for here.
pub(super) fn action(action: &Action, name: impl Fn(u32) -> String) -> Option<(Row, String)> {
    let with = |verb: &str, ip: &IpAddr| format!("{verb} {ip}");
    Some(match action {
        Action::SetPolicy { .. } => (Row::Guard, "policy".to_owned()),
        Action::ClearPolicy { .. } => (Row::Guard, "policy ends".to_owned()),
        Action::Guard { .. } => (Row::Guard, "guard".to_owned()),
        Action::Unguard { .. } => (Row::Guard, "unguard".to_owned()),
        Action::Carry { new, .. } if new.is_empty() => (Row::Carry, "carry ends".to_owned()),
        Action::Carry { .. } => (Row::Carry, "carry".to_owned()),
        Action::RestoreRoutes { .. } => (Row::Carry, "routes restored".to_owned()),
        Action::Answer { answers, .. } if answers.addresses.is_empty() => {
            (Row::Carry, "answers end".to_owned())
        }
        Action::Answer { .. } => (Row::Carry, "answer ARP".to_owned()),
        Action::Shunt { shunt: None, .. } => (Row::Shunt, "taken up".to_owned()),
        Action::Shunt { shunt: Some(shunt), .. } => {
            (Row::Shunt, if shunt.over { "over" } else { "laid" }.to_owned())
        }
        Action::RemoveVip { address, .. } => (Row::Vips, with("remove", &address.ip)),
        Action::MoveVip { address, to, .. } => {
            (Row::Vips, format!("move {} to {}", address.ip, name(*to)))
        }
        Action::Announce { address, .. } => (Row::Vips, with("announce", address)),
        Action::StandIn { wanted: true, .. } => (Row::Vips, "stand-in".to_owned()),
        Action::StandIn { .. } => (Row::Vips, "stand-in ends".to_owned()),
        Action::Rebind { to: Some(to), .. } => (Row::Sockets, format!("rebind to {}", name(*to))),
        Action::Rebind { to: None, .. } => (Row::Sockets, "let go".to_owned()),
        Action::SetOpening { opening: Some(_), .. } => (Row::Sockets, "new ones led".to_owned()),
        Action::SetOpening { .. } => (Row::Sockets, "new ones as asked".to_owned()),
        Action::Speak { .. } => (Row::Sockets, "source".to_owned()),
        Action::ResyncLink { .. } => (Row::Told, "link".to_owned()),
        Action::ReplayRemoval { address, .. } => (Row::Told, format!("\u{2212}{}", address.ip)),
        Action::ShowAddress { address: Some(address), .. } => {
            (Row::Told, format!("+{}", address.ip))
        }
        Action::ShowAddress { .. } => (Row::Told, "none of its own".to_owned()),
        Action::SetCommandPorts { .. }
        | Action::Listen { .. }
        | Action::Watch { .. }
        | Action::WatchAddresses { .. }
        | Action::SetProbe { .. }
        | Action::Rescan
        | Action::Tell { .. }
        | Action::Finish { .. } => return None,
    })
}

/// Rows of what vipshield did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row {
    Guard,
    Carry,
    Shunt,
    Vips,
    Sockets,
    Told,
    /// What failed, and is else not shown.
    Other,
}

impl Row {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Guard => "guard",
            Self::Carry => "carry, routes",
            Self::Shunt => "shunt",
            Self::Vips => "VIPs",
            Self::Sockets => "VRRP sockets",
            Self::Told => "tell daemons",
            Self::Other => "other",
        }
    }
}
