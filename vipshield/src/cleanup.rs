//! `vipshield cleanup`: takes back what a vipshield that was killed has left.
//!
//! What cannot be looked at, or not taken back, keeps nothing else from being taken back; it is said, and
//! counted, and the command fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    os::fd::OwnedFd,
    path::Path,
};

use anyhow::{Context as _, Error, Result, ensure};
use log::{error, info};
use vipshield::{
    bpf::{self, BPFFS, Pins},
    daemons::{self, Membership, Scanner, Scope, Wanted},
    engine::{Daemon, Event, Family, Filter, Link, Role, SocketId, VrrpSocket},
    net::{Carrier, Monitor, Vips},
};

/// What was done, and what was not.
#[derive(Debug, Default)]
struct Tally {
    filters: usize,
    objects: usize,
    /// VRRP sockets and VIPs that are of use on a bridge only.
    kept: usize,
    failed: usize,
}

impl Tally {
    /// What was had, or nothing: then that is said and counted.
    fn had<T, E: Into<Error>>(&mut self, what: impl Display, result: Result<T, E>) -> Option<T> {
        let said = |error: E| error!("{what}: {:#}", error.into());
        let had = result.map_err(said).ok();
        self.failed += usize::from(had.is_none());
        had
    }
}

/// Takes the guards off these daemons, moves their VRRP sockets and VIPs back unless the NIC is
/// a port, and takes routes, rules and addresses of vipshield's own off the node.
pub(crate) async fn clean_up(wanted: Vec<Wanted>) -> Result<()> {
    let mut tally = Tally::default();
    let (connection, handle, _) = rtnetlink::new_connection().context("an rtnetlink socket")?;
    tokio::spawn(connection);
    let mut scanner = Scanner::new(wanted)?;
    let found = tally.had("looking for daemons", scanner.scan(Scope::All));
    let found = found.as_ref().map(|looked| looked.daemons.as_slice());
    let mut monitor = Monitor::open(handle.clone()).context("the rtnetlink monitor")?;
    let links = match monitor.snapshot().await? {
        Event::Snapshot { links, .. } => links,
        _ => Vec::new(),
    };
    let vips = Vips::new(handle.clone(), handle.clone());
    let daemons = found.unwrap_or_default();
    let homes = give_back_sockets(daemons, &links, &mut tally);
    // Of a daemon that was not seen nobody knows what it means to have.
    let is_seen = |daemon: &Daemon| daemon.trouble.is_none() && daemon.role != Role::Vrrp;
    let orphaned = found.is_some_and(|found| found.iter().all(is_seen));
    give_back_vips(&vips, &homes, orphaned, &mut tally).await;
    for daemon in daemons {
        take_filters_off(daemon, &mut tally);
    }
    let swept = sweep(&Carrier::new(handle)).await;
    tally.objects += tally.had("routes, rules, addresses and classifiers", swept).unwrap_or(0);
    let pins = Pins::new(Path::new(BPFFS), scanner.namespace());
    if tally.had(format!("tables in {BPFFS}"), pins.remove()) == Some(true) {
        info!("what was pinned in {BPFFS} is gone");
    }
    let Tally { filters, objects, kept, failed } = tally;
    let daemons = daemons.len();
    let mut text = format!(
        "{daemons} daemons found, {filters} filters taken off; {objects} routes, rules, addresses and \
         classifiers taken back"
    );
    if kept > 0 {
        text = format!(
            "{text}; {kept} VRRP sockets and VIPs stay on the bridge: once the NIC is given back, clean up again, \
             or start vipshield before"
        );
    }
    ensure!(failed == 0, "{text}; NOT everything: {failed} failures, see above");
    info!("{text}");
    Ok(())
}

/// Takes back what a vipshield that was killed has left in this network namespace, but for the
/// guards. Returns how many objects that were.
pub(crate) async fn sweep(carrier: &Carrier) -> Result<usize> {
    let swept = carrier.sweep(&BTreeMap::new()).await?;
    let classified = bpf::sweep_classifiers().context("listing interfaces")?;
    carrier.release_clsact(&classified).await?;
    Ok(swept + classified.len())
}

/// A duplicate of a daemon's socket. None: it is closed by now, as those of a daemon that hears of another interface, and
/// with it what was done to it.
fn borrow(id: SocketId) -> Result<Option<OwnedFd>> {
    match daemons::borrow(id) {
        Err(error) if error.is_gone() => Ok(None),
        borrowed => Ok(Some(borrowed?)),
    }
}

/// A daemon's sockets that may carry a filter, and whose that is.
fn filters(daemon: &Daemon) -> impl Iterator<Item = (SocketId, Filter)> {
    let monitors = daemon.monitors.iter().map(|monitor| (monitor.id, monitor.filter));
    monitors.chain(daemon.commands.iter().map(|command| (command.id, command.filter)))
}

fn take_filters_off(daemon: &Daemon, tally: &mut Tally) {
    let name = format!("{} {}", daemon.name, daemon.pid);
    if let Some(trouble) = &daemon.trouble {
        tally.had(&name, Err::<(), _>(Error::msg(trouble.clone())));
    }
    for (id, filter) in filters(daemon) {
        match filter {
            Filter::Stale => {
                let off = borrow(id)
                    .and_then(|socket| Ok(socket.map(daemons::detach_filter).transpose()?));
                if tally.had(format!("{name}, {id}"), off).flatten().is_some() {
                    info!("{name}: vipshield's filter is off {id}");
                    tally.filters += 1;
                }
            }
            Filter::None | Filter::Guard | Filter::Foreign => {}
        }
    }
}

/// Moves the VRRP sockets of daemons that a vipshield has moved back to their NIC, unless that is a port:
/// they would hear nobody there. Returns from where to where.
fn give_back_sockets(found: &[Daemon], links: &[Link], tally: &mut Tally) -> Vec<(u32, u32)> {
    let mut homes = Vec::new();
    let joined = tally.had("listing multicast groups", daemons::all_memberships());
    let joined = joined.unwrap_or_default();
    for daemon in found {
        let given_back = give_back_sockets_of(daemon, links, &joined, &mut homes);
        let name = format!("{} {}: its VRRP sockets", daemon.name, daemon.pid);
        tally.kept += tally.had(name, given_back).unwrap_or(0);
    }
    homes
}

/// Returns how many stay where they are.
fn give_back_sockets_of(
    daemon: &Daemon,
    links: &[Link],
    joined_by_anyone: &BTreeSet<Membership>,
    homes: &mut Vec<(u32, u32)>,
) -> Result<usize> {
    let mut open = Vec::new();
    for socket in &daemon.vrrp {
        open.extend(borrow(socket.id)?.map(|file| (socket, file)));
    }
    let joined = |to: &VrrpSocket| -> Vec<u32> {
        let alike = open.iter().filter(|(one, _)| (one.bound, one.family) == (to.bound, to.family));
        let on = |(one, file): &(&VrrpSocket, _)| {
            let joined = daemons::memberships(file, one.family, joined_by_anyone);
            joined.into_iter().map(|(ifindex, _)| ifindex).collect::<Vec<_>>()
        };
        alike.flat_map(on).collect()
    };
    let groups = joined_by_anyone.iter().map(|(_, group)| *group).collect();
    let was_guarded = filters(daemon).any(|(_, filter)| filter == Filter::Stale);
    let mut kept = 0;
    for (socket, file) in &open {
        let joined = joined(socket);
        // Nobody but a vipshield has a socket hear the group on one interface that joined on another.
        if !was_guarded && joined.iter().all(|on| Some(*on) == socket.bound) {
            continue;
        }
        let home = daemons::home(socket, &joined, links);
        if home.is_some_and(|nic| daemons::is_port(nic, links)) {
            info!("{} {}: {} stays on the bridge", daemon.name, daemon.pid, socket.id);
            kept += 1;
            continue;
        }
        if socket.family == Family::Ipv6 {
            daemons::speak_from_anywhere(file, false).with_context(|| socket.id)?;
        }
        if let Some(nic) = home {
            daemons::rebind(file, socket.family, socket.bound.as_slice(), nic, nic, &groups)
                .with_context(|| socket.id)?;
            info!("{} {}: {} is back on interface {nic}", daemon.name, daemon.pid, socket.id);
            homes.extend(socket.bound.map(|from| (from, nic)));
        }
    }
    Ok(kept)
}

/// Moves VIPs that a vipshield has moved back to the NIC where their daemon had put them, and will
/// look for them; `orphaned` ones are nobody's.
async fn give_back_vips(vips: &Vips, homes: &[(u32, u32)], orphaned: bool, tally: &mut Tally) {
    let moved = vips.moved().await;
    for (ifindex, address) in tally.had("listing addresses", moved).unwrap_or_default() {
        let done = match homes.iter().find(|(from, _)| *from == ifindex) {
            Some((_, nic)) => vips.give_back(address, ifindex, *nic).await,
            None if orphaned => vips.remove(ifindex, address).await,
            None => {
                info!("{address} stays on interface {ifindex}, where its daemon's traffic is");
                tally.kept += 1;
                continue;
            }
        };
        if tally.had(address, done).is_some() {
            info!("{address} is off interface {ifindex}");
            tally.objects += 1;
        }
    }
}
