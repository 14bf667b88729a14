//! `vipshield`: configuration, runtime, end. What it does is in the library.

mod cleanup;

use std::{
    io::{self, Write as _},
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
    bpf::{BPFFS, Pins, Programs},
    claim::claim,
    cli::{Cli, Command, Metrics, Output, Query, Run},
    daemons::{Probes, Scanner},
    driver::{Driver, Parts, forward_ebpf_log},
    engine::{Config, Health},
    hangup::ignore_hangup,
    metrics,
    net::{Announcer, Carrier, Groups, Monitor, OWN, Replay, Vips},
    status::{self, Answer, ClientError, Request, Server},
};

/// `setpriority(2)`: the least nice.
const HIGHEST_PRIORITY: i32 = -20;

/// Exit status if no vipshield answers.
const UNREACHABLE: u8 = 2;

fn main() -> ExitCode {
    env_logger::Builder::from_env(Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .init();
    match start(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(options) => LocalSet::new().block_on(&runtime()?, run(options))?,
        Command::Status(query) => return print(&query, Request::Status),
        Command::Events(query) => return print(&query, Request::Events),
        Command::Cleanup(options) => runtime()?.block_on(async {
            let _only = claim()?;
            cleanup::clean_up(options.daemons).await
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

async fn run(options: Run) -> Result<()> {
    let _only = claim()?;
    ignore_hangup().context("waiting for SIGHUP")?;
    // What it does takes microseconds, and somebody else's traffic waits for it.
    if let Err(error) = setpriority_process(None, HIGHEST_PRIORITY) {
        debug!("its priority stays at the default (needs CAP_SYS_NICE): {error}");
    }
    raise_limit();
    let server = Server::open(&options.socket)?;
    let scrapes = match options.metrics {
        Metrics::Off => None,
        Metrics::At(address) => Some(metrics::serve(address)),
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
        probes: Probes::default(),
        scanner,
        server,
        scrapes,
        config,
    };
    Ok(Box::pin(Driver::run(parts)).await?)
}

/// The soft limit of open files is for programs that call `select(2)`, which this one does not; and
/// without a descriptor to spare it sees no daemon.
fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        debug!("its limit of open files stays as it is: {error}");
    }
}

/// Prints what the running vipshield answers. The exit status of its status says how it is.
fn print(query: &Query, request: Request) -> Result<ExitCode> {
    let answer = match status::ask(&query.socket, request) {
        Err(error @ ClientError::Unreachable { .. }) => {
            error!("{error}");
            return Ok(ExitCode::from(UNREACHABLE));
        }
        answer => answer?,
    };
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
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    Ok(match answer {
        Answer::Status(status) => match status.health {
            Health::Healthy => ExitCode::SUCCESS,
            Health::Degraded { .. } | Health::Idle => ExitCode::FAILURE,
        },
        Answer::Events(_) | Answer::Refused { .. } => ExitCode::SUCCESS,
    })
}
