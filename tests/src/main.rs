//! The lab's command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand, ValueEnum};
use futures_util::{StreamExt, stream};
use tokio::signal::unix::{SignalKind, signal};
use vipshield_lab::case::Case;
use vipshield_lab::clock;
use vipshield_lab::config::{DatapathKind, Taken};
use vipshield_lab::footprint;
use vipshield_lab::give_up;
use vipshield_lab::measure::{self, Role, RunResult, RunSpec};
use vipshield_lab::peers;
use vipshield_lab::pretender::{self, Pretence};
use vipshield_lab::process;
use vipshield_lab::release::Release;
use vipshield_lab::report;
use vipshield_lab::scenarios::{self, Outcome, Scenario};
use vipshield_lab::sequence::Sequence;
use vipshield_lab::witness::stall::StallWitness;

/// So many labs that measure packets at a time: they wait most of the time, and a processor each is
/// enough not to disturb one another.
const MEASURING: usize = 2;

/// Prove vipshield: real keepalived on hosts in network namespaces, Kube-OVN's
/// sequences replayed step by step.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Stretch every deadline this many times: for emulated machines.
    #[arg(long, global = true, env = clock::SLOW_ENV, default_value_t = 1)]
    slow: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show side by side what a sequence does without a shield and with it.
    Demo(Demo),
    /// Measure how soon the VIP is gone once keepalived gives it up.
    GiveUp(GiveUp),
    /// Measure what vipshield takes of a node on which nothing happens, and how soon it guards.
    Footprint(Footprint),
    /// Play a case, and say whether it holds (docs/CASES.md).
    Case(OneCase),
    /// List the scenarios.
    List,
    /// Run scenarios and say which of them hold.
    Test(Test),
    /// Measure what else one may do about a NIC that is taken, beside vipshield.
    Peers(Peers),
    /// Stand for a program that may do nothing: what scenarios start under other names.
    #[command(hide = true)]
    Pretend(Pretence),
}

#[derive(Debug, clap::Args)]
struct Demo {
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    /// Which sequences: bind, unbind, exchange, unexchange, or all.
    #[arg(long, value_delimiter = ',', default_value = "bind,unbind")]
    sequence: Vec<String>,
    /// What node1, whose NIC is taken, is to VRRP.
    #[arg(long, value_enum, default_value_t = Roles::Master)]
    role: Roles,
    /// Whose NIC is taken: node1's, or that of all three masters at once, of which node1 is the
    /// owner [default: the one, then the other].
    #[arg(long, value_enum)]
    nodes: Option<Taken>,
    /// Without vipshield, with it, or both.
    #[arg(long, value_enum, default_value_t = Shield::Both)]
    shield: Shield,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct GiveUp {
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    /// How often it is given up with the NIC a port; a quarter as often with the NIC free.
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// vipshield's program [default: beside this one].
    #[arg(long)]
    vipshield: Option<PathBuf>,
    /// Write the results here, as a JSON array.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Peers {
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    /// Which sequences: bind, unbind, exchange, unexchange.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bind,unbind")]
    sequence: Vec<Sequence>,
    /// How often each.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// vipshield's program [default: beside this one].
    #[arg(long)]
    vipshield: Option<PathBuf>,
    /// Write the results here, as a JSON array.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Footprint {
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    /// How often each is started.
    #[arg(long, default_value_t = 10)]
    starts: usize,
    /// For how long both are looked at with the NIC free, and as long with it a port.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// vipshield's program [default: beside this one].
    #[arg(long)]
    vipshield: Option<PathBuf>,
    /// Write the results here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct OneCase {
    /// The file that describes it.
    file: PathBuf,
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Test {
    /// What takes the NIC.
    #[arg(long, value_enum, default_value_t = DatapathKind::Bridge)]
    datapath: DatapathKind,
    #[command(flatten)]
    common: Common,
    /// Only the scenarios that an emulated machine has the time for.
    #[arg(long)]
    core: bool,
    /// The long scenarios too, which try every step of a sequence.
    #[arg(long)]
    every_step: bool,
    /// The less usual scenarios too, of which others show as much.
    #[arg(long)]
    extra: bool,
    /// Only scenarios whose names match one of these; `*` stands for anything.
    names: Vec<String>,
}

/// What both ways of running have in common.
#[derive(Debug, clap::Args)]
struct Common {
    /// How often each sequence with vipshield (in a demo: each) is run.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// How many labs at a time; scenarios that measure packets run two at a time at the most.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// vipshield's program [default: beside this one].
    #[arg(long)]
    vipshield: Option<PathBuf>,
    /// The keepalived of all nodes, by its version or the name of its root [default: the installed one].
    #[arg(long, value_name = "VERSION")]
    keepalived: Option<String>,
    /// Where keepalived of other releases is, each in a root of its own.
    #[arg(long, value_name = "DIRECTORY")]
    releases: Option<PathBuf>,
    /// The program that is Kube-OVN's own daemon: in a demo it takes the NIC in place of the replay.
    #[arg(long, value_name = "PROGRAM")]
    kube_ovn: Option<PathBuf>,
    /// The program that is Prometheus, for the scenarios in which it looks on.
    #[arg(long, value_name = "PROGRAM")]
    prometheus: Option<PathBuf>,
    /// Write the results here, as a JSON array.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Copy every log below this directory.
    #[arg(long)]
    logs: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Roles {
    Master,
    Backup,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shield {
    Off,
    On,
    Both,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).init();
    let cli = Cli::parse();
    clock::set_slow(cli.slow);
    process::take_precedence();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
        .and_then(|runtime| runtime.block_on(until_told_to_stop(cli.command)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vipshield-lab: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Do the command's work. A signal drops it, and with it the lab.
async fn until_told_to_stop(command: Command) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let work = async {
        match command {
            Command::Demo(demo) => run_demo(demo).await,
            Command::Peers(options) => run_peers(options).await,
            Command::GiveUp(options) => run_give_up(options).await,
            Command::Footprint(options) => run_footprint(options).await,
            Command::Case(case) => run_case(case).await,
            Command::List => Ok(list()),
            Command::Test(test) => run_test(test).await,
            Command::Pretend(pretence) => pretender::be_one(&pretence).map(|()| ExitCode::SUCCESS),
        }
    };
    tokio::select! {
        outcome = work => outcome,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
        _ = hangup.recv() => Ok(ExitCode::from(129)),
    }
}

impl Common {
    /// From now on labs run the keepalived that is asked for.
    fn choose_keepalived(&self) -> Result<()> {
        if let Some(wanted) = &self.keepalived {
            Release::find(self.releases.as_deref(), wanted)?.choose();
        }
        Ok(())
    }
}

async fn run_demo(demo: Demo) -> Result<ExitCode> {
    demo.common.choose_keepalived()?;
    let mut sequences = Vec::new();
    for name in &demo.sequence {
        if name == "all" {
            sequences.extend(Sequence::value_variants());
        } else {
            let found = Sequence::from_str(name, false);
            sequences.push(found.map_err(|_| anyhow!("no sequence {name}"))?);
        }
    }
    let roles: &[Role] = match demo.role {
        Roles::Master => &[Role::Master],
        Roles::Backup => &[Role::Backup],
        Roles::All => &[Role::Master, Role::Backup],
    };
    let shields: &[bool] = match demo.shield {
        Shield::Off => &[false],
        Shield::On => &[true],
        Shield::Both => &[false, true],
    };
    let program = vipshield_program(demo.common.vipshield)?;
    let one = roles.iter().map(|role| (*role, Taken::One));
    let all = [(Role::Master, Taken::All)];
    let who = one.chain(all).filter(|(_, nodes)| demo.nodes.is_none_or(|only| only == *nodes));
    let who: Vec<(Role, Taken)> = who.collect();
    let mut specs = Vec::new();
    for &sequence in &sequences {
        for &(role, nodes) in &who {
            for &shield in shields {
                for run in 1..=demo.common.runs {
                    let shielded = if shield { "shielded" } else { "unshielded" };
                    let of = format!("{}-{sequence}-{role}-{nodes}", demo.datapath);
                    let name = format!("{of}-{shielded}-{run}");
                    let mut spec = RunSpec::new(demo.datapath, sequence, role);
                    spec.nodes = nodes;
                    spec.kube_ovn.clone_from(&demo.common.kube_ovn);
                    spec.shield = shield.then(|| program.clone());
                    spec.logs = demo.common.logs.as_ref().map(|logs| logs.join(&name));
                    specs.push((name, spec));
                }
            }
        }
    }
    let mut runs = stream::iter(specs)
        .map(async |(name, spec)| measure::run_undivided(&spec).await.context(name))
        .buffered(demo.common.jobs.max(1));
    let mut results = Vec::new();
    while let Some(result) = runs.next().await {
        let result = result?;
        println!("{}", report::verdict(&result));
        for note in &result.notes {
            println!("  note: {note}");
        }
        results.push(result);
    }
    println!("\n{}", report::results(&results));
    write_json(demo.common.json.as_deref(), &results)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_give_up(options: GiveUp) -> Result<ExitCode> {
    let program = vipshield_program(options.vipshield)?;
    let figures = give_up::measure(options.datapath, &program, options.runs).await?;
    print!("{}", give_up::table(&figures));
    write_json(options.json.as_deref(), &figures)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_peers(options: Peers) -> Result<ExitCode> {
    let program = vipshield_program(options.vipshield)?;
    let Peers { datapath, sequence, runs, .. } = options;
    let found = peers::measure(datapath, &sequence, &program, runs).await?;
    print!("\n{}", peers::table(&found));
    write_json(options.json.as_deref(), &found)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_footprint(options: Footprint) -> Result<ExitCode> {
    let program = vipshield_program(options.vipshield)?;
    let window = Duration::from_secs(options.seconds);
    let found = footprint::measure(options.datapath, &program, options.starts, window).await?;
    print!("{}", footprint::table(&found));
    write_json(options.json.as_deref(), &found)?;
    Ok(ExitCode::SUCCESS)
}

async fn run_test(test: Test) -> Result<ExitCode> {
    test.common.choose_keepalived()?;
    let chosen = |scenario: &Scenario| {
        let mut names = test.names.iter();
        let is_wanted = names.any(|pattern| scenarios::matches(pattern, &scenario.name));
        let is_usual = (test.every_step || !scenario.name.ends_with(scenarios::EVERY_STEP))
            && (test.extra || !scenario.extra);
        (is_wanted || test.names.is_empty() && is_usual)
            && (!test.core || scenarios::is_core(&scenario.name))
    };
    let wanted: Vec<Scenario> = scenarios::all().into_iter().filter(chosen).collect();
    if wanted.is_empty() {
        bail!("no scenario matches {}", test.names.join(" "));
    }
    run_all(wanted, test.datapath, test.common).await
}

async fn run_case(options: OneCase) -> Result<ExitCode> {
    options.common.choose_keepalived()?;
    let name = options.file.display().to_string();
    let text =
        std::fs::read_to_string(&options.file).with_context(|| format!("cannot read {name}"))?;
    let case = match Case::parse(&name, &text) {
        Ok(case) => case,
        Err(mistake) => {
            eprintln!("{mistake}");
            return Ok(ExitCode::from(2));
        }
    };
    run_all(vec![scenarios::of_case(case)], options.datapath, options.common).await
}

/// Run scenarios, and say of each what came of it.
async fn run_all(
    wanted: Vec<Scenario>,
    datapath: DatapathKind,
    common: Common,
) -> Result<ExitCode> {
    let (measuring, others): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|scenario| scenario.measures);
    let context = scenarios::Context {
        datapath,
        vipshield: vipshield_program(common.vipshield)?,
        releases: common.releases,
        kube_ovn: common.kube_ovn,
        prometheus: common.prometheus,
        runs: common.runs,
        logs: common.logs,
    };
    let stalls = StallWitness::start()?;
    let one = |scenario| one_scenario(scenario, context.clone(), &stalls);
    // In whatever order they end: some take a hundred times as long as others.
    let jobs = common.jobs.max(1);
    let few = stream::iter(measuring).map(one).buffer_unordered(jobs.min(MEASURING));
    let many = stream::iter(others).map(one).buffer_unordered(jobs);
    let mut running = std::pin::pin!(few.chain(many));
    let mut outcomes = Vec::new();
    while let Some(outcome) = running.next().await {
        let reason = outcome.reason.as_ref().map(|reason| format!(" ({reason})"));
        let (name, datapath) = (&outcome.name, outcome.datapath);
        let took = format!("{datapath}, {:.1} s", outcome.seconds);
        println!("{} {name} [{took}]{}", outcome.result, reason.unwrap_or_default());
        outcomes.push(outcome);
    }
    let count = |result| outcomes.iter().filter(|outcome| outcome.result == result).count();
    let (passed, failed, skipped) = (count("ok"), count("FAILED"), count("skipped"));
    let measured: Vec<_> = outcomes
        .iter()
        .flat_map(|outcome| {
            outcome.runs.iter().map(|run| Measured { scenario: &outcome.name, run })
        })
        .collect();
    write_json(common.json.as_deref(), &measured)?;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// One measured run of a scenario, as it is written to a file.
#[derive(serde::Serialize)]
struct Measured<'a> {
    scenario: &'a str,
    #[serde(flatten)]
    run: &'a RunResult,
}

/// Runs a scenario. One that failed while the machine stood still shows nothing, and is run once
/// more.
async fn one_scenario(
    scenario: Scenario,
    context: scenarios::Context,
    stalls: &StallWitness,
) -> Outcome {
    let datapath = context.datapath;
    let began = clock::now();
    let (result, reason, runs) = if let Some(why) = scenario.hindrance(&context) {
        ("skipped", Some(why), Vec::new())
    } else {
        let mut outcome = scenario.run(context.clone()).await;
        if let Err(error) = &outcome
            && let Some(pause) = stalls.longest_since(began)
        {
            println!("again {} (the machine stood still for {pause:?}; {error:#})", scenario.name);
            outcome = scenario.run(context).await;
        }
        match outcome {
            Ok(runs) => ("ok", None, runs),
            Err(error) => ("FAILED", Some(format!("{error:#}")), Vec::new()),
        }
    };
    let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
    Outcome { name: scenario.name, datapath, result, reason, seconds, runs }
}

fn list() -> ExitCode {
    let rows: Vec<_> =
        scenarios::all().into_iter().map(|scenario| vec![scenario.name, scenario.about]).collect();
    print!("{}", report::table(&rows));
    ExitCode::SUCCESS
}

fn write_json(path: Option<&Path>, results: &impl serde::Serialize) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = serde_json::to_string_pretty(results).context("results")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn vipshield_program(given: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(path) = given {
        return std::path::absolute(path).context("vipshield's path");
    }
    let own = std::env::current_exe().context("the path of this program")?;
    Ok(own.with_file_name("vipshield"))
}
