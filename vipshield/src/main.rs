//! `vipshield`: configuration, runtime, end. What it does is in the library.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    os::linux::net::SocketAddrExt as _,
    os::unix::net::{SocketAddr, UnixListener},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{CommandFactory as _, Parser as _};
use env_logger::Env;
use log::{debug, error, info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use tokio::{
    runtime::{self, Runtime},
    task::LocalSet,
};
use vipshield::{
    bpf::{self, BPFFS, Pins, Programs},
    cli::{Cleanup, Cli, Command, Metrics, Output, Query, Run},
    daemons::{self, Looked, Scanner, Scope},
    driver::{Driver, Parts, forward_ebpf_log},
    engine::{Config, Daemon, Event, Family, Filter, Link, Role, VrrpSocket},
    metrics,
    net::{Announcer, Carrier, Groups, Monitor, OWN, Replay, Vips},
    status::{self, Answer, Request, Server},
};

/// `setpriority(2)`: the least nice.
const HIGHEST_PRIORITY: i32 = -20;

fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    match start(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<()> {
    match command {
        Command::Run(options) => LocalSet::new().block_on(&runtime()?, run(options)),
        Command::Status(query) => print(&query, Request::Status),
        Command::Events(query) => print(&query, Request::Events),
        Command::Cleanup(options) => runtime()?.block_on(cleanup(options)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vipshield", &mut io::stdout());
            Ok(())
        }
    }
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build().context("the runtime")
}

async fn run(options: Run) -> Result<()> {
    let _only = claim()?;
    // What it does takes microseconds, and somebody else's traffic waits for it.
    if let Err(error) = setpriority_process(None, HIGHEST_PRIORITY) {
        debug!("its priority stays at the default (needs CAP_SYS_NICE): {error}");
    }
    raise_limit();
    let server = Server::open(&options.socket)?;
    let scrapes = match options.metrics {
        Metrics::Off => None,
        Metrics::At(address) => Some(metrics::serve(address).await?),
    };
    let mut programs = Programs::load(&options.daemons)?;
    forward_ebpf_log(&mut programs);
    let (connection, handle, _) = rtnetlink::new_connection().context("an rtnetlink socket")?;
    tokio::spawn(connection);
    let carrier = Carrier::new(handle.clone());
    let replay = Replay::open(handle.clone()).context("an rtnetlink socket")?;
    let vips = Vips::new(handle.clone(), replay.handle());
    let config = Config {
        interfaces: options.interfaces,
        deadline: options.deadline,
        replay_port: replay.port,
        own_addresses: OWN.map(Into::into).to_vec(),
        on_stop: options.on_stop,
    };
    info!(
        "vipshield {} guards {} (what is untrue is withheld for {} ms at the most)",
        env!("CARGO_PKG_VERSION"),
        if config.interfaces.is_empty() {
            "the interfaces that VRRP sockets are bound to".to_owned()
        } else {
            config.interfaces.join(", ")
        },
        config.deadline.as_millis()
    );
    // Without it nothing is carried, and that is said each time.
    if let Err(error) = carrier.prepare().await {
        warn!("{:#}", anyhow::Error::new(error));
    }
    let monitor = Monitor::open(handle)?;
    programs.post_sentry(&monitor)?;
    programs.adopt_classifiers()?;
    let scanner = Scanner::new(options.daemons)?;
    let parts = Parts {
        programs,
        pins: Pins::new(Path::new(BPFFS), scanner.namespace()),
        monitor,
        replay,
        carrier,
        groups: Groups::open().context("a packet socket (needs CAP_NET_RAW)")?,
        vips,
        announcer: Announcer::open()?,
        scanner,
        server,
        scrapes,
        config,
    };
    Ok(Driver::run(parts).await?)
}

/// The soft limit of open files is for programs that call `select(2)`, which this one does not; and
/// without a descriptor to spare it sees no daemon.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        debug!("its limit of open files stays as it is: {error}");
    }
}

/// Makes this the only vipshield of its network namespace. Abstract unix sockets belong to one,
/// and vanish with their process (`unix(7)`).
fn claim() -> Result<UnixListener> {
    let address = SocketAddr::from_abstract_name("vipshield")?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("another vipshield already guards this network namespace: stop it first")
        }
        claimed => claimed.context("claiming this network namespace"),
    }
}

fn print(query: &Query, request: Request) -> Result<()> {
    let answer = status::ask(&query.socket, request)?;
    if let Answer::Refused { error } = answer {
        bail!("the running vipshield refused: {error}");
    }
    let text = match (query.output, &answer) {
        (Output::Json, answer) => serde_json::to_string_pretty(answer)? + "\n",
        (Output::Text, Answer::Status(status)) => status::status_text(status),
        (Output::Text, Answer::Events(events)) => status::events_text(events),
        (Output::Text, Answer::Refused { .. }) => String::new(),
    };
    // `vipshield events | head` is no error.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Moves the VRRP sockets of a daemon that a vipshield has moved back to their NIC. Returns from
/// where to where.
fn give_back_sockets(daemon: &Daemon, links: &[Link]) -> Result<Vec<(u32, u32)>> {
    let mut homes = Vec::new();
    let mut open = Vec::new();
    for socket in &daemon.vrrp {
        open.push((socket, daemons::borrow(socket.id)?));
    }
    let joined = |to: &VrrpSocket| -> Vec<u32> {
        let alike = open.iter().filter(|(one, _)| (one.bound, one.family) == (to.bound, to.family));
        let on = |(one, file): &(&VrrpSocket, _)| {
            let member = |link: &&Link| daemons::is_member(file, one.family, link.ifindex);
            links.iter().filter(member).map(|link| link.ifindex).collect::<Vec<_>>()
        };
        alike.flat_map(on).collect()
    };
    for (socket, file) in &open {
        if socket.family == Family::Ipv6 {
            daemons::speak_from_anywhere(file, false)
                .with_context(|| format!("{} {}, {}", daemon.name, daemon.pid, socket.id))?;
        }
        let joined = joined(socket);
        if let Some(nic) = daemons::home(socket, &joined, links) {
            if !daemons::stays(&joined, nic, links) {
                daemons::rebind(file, socket.family, socket.bound.as_slice(), nic, nic)
                    .with_context(|| format!("{} {}, {}", daemon.name, daemon.pid, socket.id))?;
                info!("{} {}: {} is back on interface {nic}", daemon.name, daemon.pid, socket.id);
            }
            homes.extend(socket.bound.map(|from| (from, nic)));
        }
    }
    Ok(homes)
}

/// Moves VIPs that a vipshield has moved back to the NIC where their daemon had put them, and will
/// look for them; if no daemon runs, they are nobody's. Returns how many.
async fn give_back_vips(vips: &Vips, found: &[Daemon], homes: &[(u32, u32)]) -> Result<usize> {
    let moved = vips.moved().await.context("listing addresses")?;
    let orphaned = found.iter().all(|daemon| daemon.role != Role::Vrrp);
    let mut returned = 0;
    for (ifindex, address) in moved {
        let home = homes.iter().find(|(from, _)| *from == ifindex);
        match home {
            Some((_, nic)) => vips.give_back(address, ifindex, *nic).await?,
            None if orphaned => vips.remove(ifindex, address).await?,
            None => continue,
        }
        info!("{address} is off interface {ifindex}");
        returned += 1;
    }
    Ok(returned)
}

/// Takes the guards of a vipshield that is gone off the daemons, moves their VRRP sockets back, and
/// takes its routes, rules and addresses off the node.
async fn cleanup(options: Cleanup) -> Result<()> {
    let _only = claim()?;
    let mut scanner = Scanner::new(options.daemons)?;
    let Looked { daemons: found, .. } = scanner.scan(Scope::All)?;
    let (connection, handle, _) = rtnetlink::new_connection().context("an rtnetlink socket")?;
    tokio::spawn(connection);
    let mut cleaned = 0;
    let left_behind =
        |daemon: &&Daemon| daemon.monitors.iter().any(|monitor| monitor.filter == Filter::Stale);
    let moved: Vec<&Daemon> = found.iter().filter(left_behind).collect();
    let vips = Vips::new(handle.clone(), handle.clone());
    let mut homes = Vec::new();
    if let Event::Snapshot { links, .. } = Monitor::open(handle.clone())?.snapshot().await? {
        for daemon in moved {
            homes.extend(give_back_sockets(daemon, &links)?);
        }
    }
    let returned = give_back_vips(&vips, &found, &homes).await?;
    for daemon in &found {
        let monitors = daemon.monitors.iter().map(|monitor| (monitor.id, monitor.filter));
        let commands = daemon.commands.iter().map(|command| (command.id, command.filter));
        for (id, _) in monitors.chain(commands).filter(|(_, filter)| *filter == Filter::Stale) {
            let socket = daemons::borrow(id)?;
            daemons::detach_filter(socket)
                .with_context(|| format!("{} {}, {id}", daemon.name, daemon.pid))?;
            info!("{} {}: vipshield's filter is off {id}", daemon.name, daemon.pid);
            cleaned += 1;
        }
    }
    let swept = returned + sweep(&Carrier::new(handle)).await?;
    let pins = Pins::new(Path::new(BPFFS), scanner.namespace());
    if pins.remove().context("tables in a bpffs")? {
        info!("what was pinned in {BPFFS} is gone");
    }
    info!(
        "{} daemons looked at, {cleaned} filters taken off; {swept} routes, rules, addresses and \
         classifiers taken back",
        found.len()
    );
    Ok(())
}

/// Takes back what a vipshield that was killed has left in this network namespace, but for the
/// guards. Returns how many objects that were.
async fn sweep(carrier: &Carrier) -> Result<usize> {
    let swept = carrier.sweep(&BTreeMap::new()).await?;
    let classified = bpf::sweep_classifiers().context("listing interfaces")?;
    carrier.release_clsact(&classified).await?;
    Ok(swept + classified.len())
}
