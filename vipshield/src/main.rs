//! `vipshield`: configuration, runtime, end. What it does is in the library.

mod asking;
mod cleanup;
mod entering;
mod recordings;
mod tools;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, Parser as _};
use log::{debug, error, info, warn};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use sd_notify::NotifyState;
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use vipshield::{
    bpf::{BPFFS, Pins, Programs},
    check,
    claim::claim,
    cli::{Cli, Command, LogFormat, Metrics, Run},
    config::{File, Reloader, Settings},
    daemons::{Privilege, Probes, Scanner},
    driver::{Beginning, Driver, Outcome, Parts, forward_ebpf_log},
    engine::Config,
    logging, metrics,
    net::{Announcer, Carrier, Groups, Monitor, Neighbours, OWN, Replay, Vips},
    status::Server,
    succession::Answered,
};

use self::entering::{begin_anew, enter, recalled, stand_by};

/// `setpriority(2)`: the least nice.
const HIGHEST_PRIORITY: i32 = -20;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    logging::begin(match &command {
        Command::Run(options) => options.log_format,
        _ => LogFormat::Text,
    });
    match start(command) {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(options) => match LocalSet::new().block_on(&runtime()?, run(options))? {
            Outcome::Ended | Outcome::HandedOver => {}
            Outcome::Anew(known) => return Err(begin_anew(known.as_deref())),
        },
        Command::Status(options) => return asking::status(&options),
        Command::Events(options) => return asking::events(&options),
        Command::Check(options) => return tools::check(options),
        Command::Manifest(options) => tools::manifest(&options)?,
        Command::Man { directory } => tools::man(&directory)?,
        Command::Reload(options) => return asking::reload(&options),
        Command::Rules(options) => return recordings::rules(&options),
        Command::Record(options) => return recordings::record(&options),
        Command::Explain(options) => return recordings::explain(&options),
        Command::Cleanup(options) => runtime()?.block_on(async {
            let _only = claim(None)?;
            let file = File::read(options.guarded.config.as_deref())?;
            cleanup::clean_up(Settings::guarding(&options.guarded, file).daemons).await
        })?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "vipshield", &mut io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> Result<Runtime> {
    runtime::Builder::new_current_thread().enable_all().build().context("the runtime")
}

async fn run(options: Run) -> Result<Outcome> {
    let file = File::read(options.guarded.config.as_deref())?;
    let had_file = file.is_some();
    let settings = Settings::new(&options, file);
    let (only, predecessor) = enter(&options)?;
    // What it does otherwise is kill, and what is on the node would stay.
    let hangup = signal(SignalKind::hangup()).context("waiting for SIGHUP")?;
    for finding in check::at_start() {
        warn!("check: {finding}");
    }
    // What it does takes microseconds, and somebody else's traffic waits for it.
    if let Err(error) = setpriority_process(None, HIGHEST_PRIORITY) {
        debug!("its priority stays at the default (needs CAP_SYS_NICE): {error}");
    }
    raise_limit();
    // What is in the way of this one is said before anything is loaded.
    let server = match predecessor {
        Some(_) => Server::stand_by(&options.socket)?,
        None => Server::open(&options.socket)?,
    };
    let listener = only.listener().context("the socket that claims this network namespace")?;
    server.hear_successors(listener, Privilege::here()?).context("listening for who takes over")?;
    let names: Vec<String> = settings.daemons.iter().map(|it| it.name.clone()).collect();
    let mut programs = Programs::load(&names)?;
    forward_ebpf_log(&mut programs);
    let (connection, handle, _) = rtnetlink::new_connection().context("an rtnetlink socket")?;
    tokio::spawn(connection);
    let carrier = Carrier::new(handle.clone());
    let replay = Replay::open(handle.clone()).context("an rtnetlink socket")?;
    let vips = Vips::new(handle.clone(), replay.handle());
    let config = Config {
        interfaces: settings.interfaces.clone(),
        deadline: settings.deadline,
        replay_port: replay.port,
        own_addresses: OWN.map(Into::into).to_vec(),
        on_stop: settings.on_stop.into(),
        rules: settings.rules.clone(),
        observe: options.observe,
    };
    let does = if config.observe { "observes" } else { "guards" };
    info!("vipshield {} {does} {config}", env!("CARGO_PKG_VERSION"));
    // Without it nothing is carried, and that is said each time.
    if !options.observe
        && let Err(error) = carrier.prepare().await
    {
        warn!("{:#}", anyhow::Error::new(error));
    }
    let scanner = Scanner::new(settings.daemons.clone())?;
    // All that can fail by itself is done.
    let from = match predecessor {
        None => recalled().map_or(Beginning::Nothing, |known| Beginning::Itself(Box::new(known))),
        Some(predecessor) => match predecessor.ask(options.instance.clone()).await? {
            Answered::HandedOver(succession) => Beginning::Other(succession),
            Answered::Gone => return Ok(Outcome::Anew(None)),
            Answered::StandBy(other) => {
                let ended = stand_by(other, server).await?;
                return Ok(if ended { Outcome::Anew(None) } else { Outcome::Ended });
            }
        },
    };
    let scrapes = match settings.metrics {
        Metrics::Off => None,
        Metrics::At(address) => Some(metrics::serve(address)),
    };
    let monitor = Monitor::open(handle)?;
    programs.post_sentry(&monitor)?;
    programs.see_requests();
    if !options.observe {
        programs.adopt_classifiers()?;
    }
    let parts = Parts {
        programs,
        pins: Pins::new(Path::new(BPFFS), scanner.namespace()),
        monitor,
        replay,
        carrier,
        neighbours: Neighbours::open()?,
        groups: Groups::open().context("a packet socket (needs CAP_NET_RAW)")?,
        vips,
        announcer: Announcer::open()?,
        probes: Probes::default(),
        scanner,
        server,
        scrapes,
        config,
        instance: options.instance.clone(),
        record: options.record.clone(),
        reloader: Reloader::new(options, settings, had_file),
        hangup,
    };
    // The units that wait for vipshield may start; where nobody asked, nothing is told.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        debug!("telling systemd that it is ready: {error}");
    }
    Ok(Box::pin(Driver::run(parts, from)).await?)
}

/// The soft limit of open files is for programs that call `select(2)`, which this one does not; and
/// without a descriptor to spare it sees no daemon.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        debug!("its limit of open files stays as it is: {error}");
    }
}

/// Writes to the standard output. `vipshield events | head` is no error.
fn show(text: &str) -> Result<()> {
    shown(text).map(drop)
}

/// The same. False: nobody reads it any more.
fn shown(text: &str) -> Result<bool> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(true),
    }
}
