//! Events and actions, each in a line.

use crate::{
    About, Action, Event, Heard, Intent, LetPass, Link, own,
    rules::Withholds,
    wire::{Content, Frame},
};

pub(super) fn action(action: &Action) -> String {
    match action {
        Action::SetPolicy { name, withhold, passes, .. } => {
            format!("{name}: {}", policy(*withhold, passes))
        }
        other => other.to_string(),
    }
}

/// What the guard does about a NIC.
pub(super) fn policy(withhold: u32, passes: &LetPass) -> String {
    if passes.is_empty() {
        Withholds(withhold).to_string()
    } else {
        format!("{}, but pass {}", Withholds(withhold), own::messages(passes))
    }
}

pub(super) fn event(event: &Event) -> String {
    match event {
        Event::Snapshot { links, addresses, routes, rules } => format!(
            "all there is: {} links, {} addresses, {} routes, {} rules",
            links.len(),
            addresses.len(),
            routes.len(),
            rules.len()
        ),
        Event::Link { link } => self::link(link),
        Event::LinkRemoved { ifindex } => format!("interface {ifindex} is gone"),
        Event::Address { ifindex, address, requester } => {
            format!("{address} is on interface {ifindex}{}", by(*requester))
        }
        Event::AddressRemoved { ifindex, address, requester } => {
            format!("{address} left interface {ifindex}{}", by(*requester))
        }
        Event::Inherited { names, held } => {
            let names: Vec<&str> = names.values().map(String::as_str).collect();
            let held: Vec<String> = held.values().flatten().map(ToString::to_string).collect();
            let held: Vec<&str> = held.iter().map(String::as_str).collect();
            format!("NICs of an earlier vipshield: {}; withheld: {}", list(&names), list(&held))
        }
        Event::Carried { nics } => {
            format!("an earlier vipshield carries for {} NICs", nics.len())
        }
        Event::TakenOver { .. } => "taken over from another vipshield".to_owned(),
        Event::Heard { frames } => {
            let frames: Vec<String> = frames.iter().map(heard).collect();
            format!("on the wire: {}", frames.join("; "))
        }
        Event::Received { adverts } => {
            let adverts: Vec<String> = adverts
                .iter()
                .map(|it| format!("{} on interface {}", it.source, it.ifindex))
                .collect();
            format!("adverts received: {}", adverts.join("; "))
        }
        Event::Intent { intent } => self::intent(intent),
        Event::LastWords { intents } => {
            let intents: Vec<String> = intents.iter().map(self::intent).collect();
            format!(
                "last words: {}",
                if intents.is_empty() { "none".into() } else { intents.join("; ") }
            )
        }
        Event::Moved { addresses } => {
            format!("{} VIPs that an earlier vipshield has moved", addresses.len())
        }
        Event::Granted { port, .. } => format!("the kernel granted an IPv6 address{}", by(*port)),
        Event::Route { ifindex, route, .. } => {
            format!("route to {}/{} on interface {ifindex}", route.destination, route.prefix_len)
        }
        Event::RouteRemoved { ifindex, route } => {
            format!("no route to {}/{} on interface {ifindex}", route.destination, route.prefix_len)
        }
        Event::Rule { rule } => format!("a rule at priority {}", rule.priority),
        Event::RuleRemoved { rule } => format!("no rule at priority {}", rule.priority),
        Event::Switch { ifindex, served } => {
            let does = if *served { "takes" } else { "takes no" };
            format!("switch {ifindex} {does} new flows")
        }
        Event::Turnover => "a daemon starts or ends".to_owned(),
        Event::Daemons { daemons } => {
            let daemons: Vec<String> =
                daemons.iter().map(|it| format!("{} {}", it.name, it.pid)).collect();
            let daemons: Vec<&str> = daemons.iter().map(String::as_str).collect();
            format!("daemons: {}", list(&daemons))
        }
        Event::Speakers { speakers } => format!("{} others that speak VRRP", speakers.len()),
        Event::DaemonsUnknown { error, .. } => format!("daemons cannot be looked at: {error}"),
        Event::Withheld { message } => {
            let what = about(&message.about);
            let (rule, ifindex) = (message.rule, message.ifindex);
            format!(
                "withheld of interface {ifindex} by rule {rule}: {what}{}",
                by(message.requester)
            )
        }
        Event::Succeeded { action } => format!("done: {}", self::action(action)),
        Event::Failed { action, error } => format!("failed: {}: {error}", self::action(action)),
        Event::Configured { config } => format!("configured: {config}"),
        Event::Tick => "a deadline has come".to_owned(),
        Event::Stop => "told to end".to_owned(),
    }
}

fn by(port: u32) -> String {
    if port == 0 { String::new() } else { format!(" (by netlink port {port})") }
}

fn list(words: &[&str]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn link(link: &Link) -> String {
    let state = match (link.up, link.running) {
        (true, true) => "up, running",
        (true, false) => "up, no carrier",
        (false, _) => "down",
    };
    let master = link.master.map(|master| format!(", port of {master}")).unwrap_or_default();
    format!("link {} ({}): {state}{master}", link.name, link.ifindex)
}

fn intent(intent: &Intent) -> String {
    let what = if intent.wanted { "wants" } else { "gives up" };
    let refused = if intent.refused { ", which the kernel refused" } else { "" };
    format!("netlink port {} {what} {}{refused}", intent.port, intent.address)
}

fn about(about: &About) -> String {
    match about {
        About::AddressRemoval { address } => format!("{address} left"),
        About::AdminDown => "taken down".to_owned(),
        About::CarrierLoss => "no carrier".to_owned(),
        About::Rename { name } => format!("called {name}"),
        About::NameConflict { name } => format!("called {name} too"),
        About::BridgePort => "a bridge's word about its port".to_owned(),
        About::OwnAddress { ip } => format!("vipshield's own {ip}"),
        About::KnownAddress { ip } => format!("{ip}, which it knows"),
        About::RouteRemoval { destination } => format!("route to {destination} dropped"),
    }
}

fn heard(heard: &Heard) -> String {
    let way = if heard.sent { "sent" } else { "received" };
    let says = match &heard.frame {
        Ok(Frame { content: Content::Advert(advert), .. }) => {
            format!("advert of {}, priority {}", advert.source, advert.priority)
        }
        Ok(Frame { content: Content::Arp(_), .. }) => "ARP".to_owned(),
        Ok(Frame { content: Content::Neighbour(_), .. }) => "neighbour discovery".to_owned(),
        Ok(Frame { content: Content::Other, .. }) => "another frame".to_owned(),
        Err(malformed) => format!("malformed: {malformed}"),
    };
    format!("{says} {way} on interface {}", heard.ifindex)
}
