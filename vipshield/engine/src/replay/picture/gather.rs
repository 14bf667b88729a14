//! What is to be in the picture, gathered while the recording is played.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::{Extent, Kind, Mark, Shade, band::Band, short, short::Row};
use crate::{
    Action, Config, Daemon, Engine, Event, Family, Heard, Link, Role,
    nic::Nic,
    phase::Phase,
    replay::words,
    wire::{Content as Says, Frame},
};

/// Something the kernel said of an interface.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) ifindex: u32,
    pub(super) is_route: bool,
    pub(super) event: Event,
    pub(super) mark: Mark,
}

/// What is known of a NIC.
#[derive(Debug, Default)]
pub(super) struct OfNic {
    pub(super) name: String,
    pub(super) bearers: BTreeSet<u32>,
    /// Those that are bridges.
    pub(super) bridges: BTreeSet<u32>,
    pub(super) phases: Vec<Phase>,
    pub(super) phase: Band,
    pub(super) untrue: Band,
    pub(super) bearer: Band,
    pub(super) carried: Band,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) transition: Extent,
    pub(super) shown: Extent,
    /// What vipshield itself puts on NICs is none of what people look for.
    own: Vec<IpAddr>,
    pub(super) said: Vec<Said>,
    pub(super) withheld: Vec<(crate::Withheld, Mark)>,
    /// Guarded daemons by process id, since when and until when.
    pub(super) daemons: BTreeMap<u32, (String, Extent)>,
    /// Told by vipshield itself, to this process or to all.
    pub(super) told: Vec<(Option<u32>, Mark)>,
    pub(super) nics: BTreeMap<u32, OfNic>,
    pub(super) vips: BTreeMap<IpAddr, Band>,
    pub(super) adverts: BTreeMap<(u8, Family), Vec<Mark>>,
    pub(super) did: BTreeMap<Row, Vec<Mark>>,
    /// Links as they were said to be last.
    links: BTreeMap<u32, Link>,
}

impl Gather {
    pub(super) fn new(transition: Extent, shown: Extent, config: &Config) -> Self {
        Self {
            transition,
            shown,
            own: config.own_addresses.clone(),
            said: Vec::new(),
            withheld: Vec::new(),
            daemons: BTreeMap::new(),
            told: Vec::new(),
            nics: BTreeMap::new(),
            vips: BTreeMap::new(),
            adverts: BTreeMap::new(),
            did: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Takes in what the engine is about to be told.
    pub(super) fn before(&mut self, engine: &Engine, entry: &crate::record::Entry) {
        if !self.shown.has(entry.at) {
            return;
        }
        for event in &entry.events {
            self.event(engine, entry.at, event);
        }
    }

    /// Takes in how things stand now.
    pub(super) fn after(&mut self, engine: &Engine, at: Duration) {
        for (ifindex, nic) in &engine.nics {
            self.nic(engine, *ifindex, nic, at);
        }
        for ip in engine.world.vips.known() {
            let place = place(engine, ip);
            self.vips.entry(ip).or_default().set(at, Some(place), self.shown);
        }
        let seen = |daemon: &&Daemon| {
            daemon.is_guarded() || engine.config.observe && daemon.role == Role::Vrrp
        };
        for daemon in engine.world.daemons.values().filter(seen) {
            let new = || (daemon.name.clone(), Extent { from: at, to: at });
            self.daemons.entry(daemon.pid).or_insert_with(new).1.to = at;
        }
        // Who ended before is not shown.
        self.daemons.retain(|_, (_, time)| time.to >= self.shown.from || time.to == at);
    }

    fn nic(&mut self, engine: &Engine, ifindex: u32, nic: &Nic, at: Duration) {
        let shown = self.shown;
        let of = self.nics.entry(ifindex).or_default();
        of.name.clone_from(&nic.name);
        of.bearers.extend(nic.bearers.iter().copied());
        of.bridges.extend(nic.bearers.iter().filter(|it| engine.world.is_bridge(**it)));
        if of.phases.last() != Some(&nic.phase) {
            // Of those before the transition only the last counts.
            if at < self.transition.from {
                of.phases.clear();
            }
            of.phases.push(nic.phase);
        }
        let phase = format!("{} (rule {})", nic.phase, nic.phase_rule);
        of.phase.set(at, Some((shade(nic.phase), phase)), shown);
        let untrue: Vec<String> = nic
            .belief
            .untrue()
            .map(|(address, _)| {
                address.map_or_else(|| "link".to_owned(), |address| address.ip.to_string())
            })
            .collect();
        let untrue = (!untrue.is_empty()).then(|| (Shade::Moving, untrue.join(", ")));
        of.untrue.set(at, untrue, shown);
        let name = |bearer| engine.world.name_of(bearer);
        let bearer = match nic.bearer {
            Some(bearer) if bearer == ifindex => (Shade::Home, "the NIC itself".to_owned()),
            Some(bearer) => (Shade::Away, name(bearer)),
            None => (Shade::Bad, "cannot be told".to_owned()),
        };
        of.bearer.set(at, Some(bearer), shown);
        let carried: BTreeSet<IpAddr> =
            nic.carried.plans().iter().flat_map(|plan| plan.addresses.iter().copied()).collect();
        let carried: Vec<String> = carried.iter().map(IpAddr::to_string).collect();
        let carried = (!carried.is_empty()).then(|| (Shade::Kept, carried.join(", ")));
        of.carried.set(at, carried, shown);
    }

    fn event(&mut self, engine: &Engine, at: Duration, event: &Event) {
        let mark = |kind, short: String| Mark { at, kind, short, text: words::event(event) };
        let name = |ifindex| engine.world.name_of(ifindex);
        match event {
            Event::Link { link } => {
                let was = self.links.get(&link.ifindex).or_else(|| engine.world.link(link.ifindex));
                let short = short::link(was, link, name);
                self.links.insert(link.ifindex, link.clone());
                self.said(link.ifindex, event, mark(Kind::Said, short));
            }
            Event::LinkRemoved { ifindex } => {
                self.links.remove(ifindex);
                self.said(*ifindex, event, mark(Kind::Said, "gone".to_owned()));
            }
            Event::Address { ifindex, address, .. } if !self.own.contains(&address.ip) => {
                self.said(*ifindex, event, mark(Kind::Said, format!("+{}", address.ip)));
            }
            Event::AddressRemoved { ifindex, address, .. } if !self.own.contains(&address.ip) => {
                self.said(*ifindex, event, mark(Kind::Said, format!("\u{2212}{}", address.ip)));
            }
            Event::Route { ifindex, route, .. } if route.is_movable() => {
                self.said(*ifindex, event, mark(Kind::Said, short::route('+', route)));
            }
            Event::RouteRemoved { ifindex, route } if route.is_movable() => {
                self.said(*ifindex, event, mark(Kind::Said, short::route('\u{2212}', route)));
            }
            Event::Withheld { message } => {
                let about = short::about(&message.about);
                let short = match about.as_str() {
                    "" => message.rule.to_string(),
                    about => format!("{about} ({})", message.rule),
                };
                self.withheld.push((message.clone(), mark(Kind::Withheld, short)));
            }
            Event::Heard { frames } => self.heard(at, frames, name),
            Event::Succeeded { action } => {
                if let Some((row, short)) = short::action(action, name) {
                    self.did(row, action, mark(Kind::Done, short));
                }
            }
            Event::Failed { action, .. } => {
                let shown = short::action(action, name);
                let (row, short) = shown.unwrap_or_else(|| (Row::Other, action.to_string()));
                self.did(row, action, mark(Kind::Failed, format!("{short} failed")));
            }
            Event::Snapshot { .. }
            | Event::Address { .. }
            | Event::AddressRemoved { .. }
            | Event::Inherited { .. }
            | Event::Carried { .. }
            | Event::TakenOver { .. }
            | Event::Received { .. }
            | Event::Intent { .. }
            | Event::LastWords { .. }
            | Event::Moved { .. }
            | Event::Granted { .. }
            | Event::Route { .. }
            | Event::RouteRemoved { .. }
            | Event::Rule { .. }
            | Event::RuleRemoved { .. }
            | Event::Switch { .. }
            | Event::Turnover
            | Event::Daemons { .. }
            | Event::Speakers { .. }
            | Event::DaemonsUnknown { .. }
            | Event::Configured { .. }
            | Event::Tick
            | Event::Stop => {}
        }
    }

    fn said(&mut self, ifindex: u32, event: &Event, mark: Mark) {
        let is_route = matches!(event, Event::Route { .. } | Event::RouteRemoved { .. });
        self.said.push(Said { ifindex, is_route, event: event.clone(), mark });
    }

    fn did(&mut self, row: Row, action: &Action, mark: Mark) {
        let told = match action {
            _ if mark.kind == Kind::Failed => None,
            Action::ResyncLink { socket, .. } => Some(Some(socket.pid)),
            Action::ReplayRemoval { .. } | Action::ShowAddress { address: Some(_), .. } => {
                Some(None)
            }
            _ => None,
        };
        if let Some(to) = told {
            let short = format!("{} by vipshield", mark.short);
            self.told.push((to, Mark { kind: Kind::Told, short, ..mark.clone() }));
        }
        self.did.entry(row).or_default().push(mark);
    }

    /// An advert passes the NIC and the bridge above it: it is one.
    fn heard(&mut self, at: Duration, frames: &[Heard], name: impl Fn(u32) -> String) {
        let mut adverts = BTreeMap::<_, Vec<String>>::new();
        for heard in frames {
            if let Ok(Frame { content: Says::Advert(advert), .. }) = &heard.frame {
                let family = Family::of(advert.source);
                let key = (advert.router_id, family, advert.source, advert.priority, heard.sent);
                adverts.entry(key).or_default().push(name(heard.ifindex));
            }
        }
        for ((router, family, source, priority, sent), on) in adverts {
            let (kind, way) = if sent { (Kind::Sent, "sent") } else { (Kind::Heard, "received") };
            let short = match (priority, sent) {
                (0, _) => format!("{source} gives up"),
                (_, true) => "sent".to_owned(),
                (_, false) => format!("from {source}"),
            };
            let on = on.join(", ");
            let text = format!("advert of {source}, priority {priority}, {way} on {on}");
            self.adverts.entry((router, family)).or_default().push(Mark { at, kind, short, text });
        }
    }
}

const fn shade(phase: Phase) -> Shade {
    match phase {
        Phase::Free => Shade::Home,
        Phase::Bridged => Shade::Away,
        Phase::Leaving | Phase::Returning => Shade::Moving,
        Phase::Down => Shade::Bad,
    }
}

/// Where a VIP is.
fn place(engine: &Engine, ip: IpAddr) -> (Shade, String) {
    let name = |ifindex: u32| {
        if engine.nics.contains_key(&ifindex) {
            "the NIC".to_owned()
        } else {
            engine.world.name_of(ifindex)
        }
    };
    let on: Vec<u32> = engine.world.holders(ip).collect();
    let is_carried = engine
        .nics
        .values()
        .any(|nic| nic.carried.plans().last().is_some_and(|plan| plan.addresses.contains(&ip)));
    match on.as_slice() {
        [] if !engine.world.vips.is_wanted(ip) => (Shade::Idle, "not on this node".to_owned()),
        [] if is_carried => (Shade::Kept, "nowhere, carried".to_owned()),
        [] => (Shade::Bad, "nowhere".to_owned()),
        [one] if engine.nics.contains_key(one) => (Shade::Home, "on the NIC".to_owned()),
        [one] => (Shade::Away, format!("on {}", name(*one))),
        several => {
            let names: Vec<String> = several.iter().map(|one| name(*one)).collect();
            (Shade::Moving, format!("on {}", names.join(" and ")))
        }
    }
}
