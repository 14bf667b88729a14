//! What the eBPF programs cost: `BPF_PROG_TEST_RUN` on the running kernel, nanoseconds a packet and
//! a netlink message, next to an empty program of the same type in the same run.
//!
//! `cargo bench --package vipshield --bench cost -- --json FILE`, as root. Programs are taken from
//! the object by their type, so that a new classifier is measured without being named here.

mod kernel;
mod messages;

use std::{fs, io, os::fd::AsFd as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use aya::programs::Program;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    sched::{CloneFlags, CpuSet, sched_setaffinity, unshare},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;
use tokio::runtime::Runtime;
use vipshield::{
    bpf::Programs,
    daemons,
    engine::{LetPass, Shunt, Trigger},
};
use vipshield_common::{
    counters::Counter,
    guard::{GuardedSocket, withhold},
};

use self::kernel::{ProgramType, empty, run};

/// Rounds of each case; in each the empty program runs as often, right before it.
const ROUNDS: usize = 31;
/// Runs of a program in a round.
const RUNS: u32 = 20_000;
/// The same where each run leaves a report: no more than the ring buffer holds.
const REPORTING_RUNS: u32 = 200;
/// A socket's cookie is numbered on; so many of the next ones are taken for guarded.
const COOKIES_AHEAD: u64 = 8;

/// A measured case.
#[derive(Debug, Serialize)]
struct Figure {
    program: String,
    case: String,
    /// Median over the rounds.
    ns: f64,
    /// The empty program of the same type.
    empty_ns: f64,
    ratio: f64,
}

/// A netlink message that a socket filter gets.
struct Message {
    program: &'static str,
    case: &'static str,
    bytes: Vec<u8>,
    /// What proves that it went the way it was meant to.
    counter: Counter,
    /// Whether it leaves a report.
    reports: bool,
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cost: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `--json FILE`; cargo adds `--bench`.
fn json_file() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "--json");
    arguments.nth(1).map(PathBuf::from)
}

fn measure() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace: needs root")?;
    // A cookie is numbered by the CPU on which it is given.
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpu).context("staying on one CPU")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (nic, bearer) = runtime.block_on(messages::two_links())?;
    let mut programs = {
        let _inside = runtime.enter();
        Programs::load(&[]).context("loading the programs")?
    };
    let hidden = withhold::ADDRESS_REMOVAL | withhold::ADMIN_DOWN;
    programs.set_policy(nic, messages::NIC, hidden, &LetPass::new())?;
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    programs.beat(u64::try_from(std::time::Duration::from(now).as_nanos())? + 600_000_000_000)?;
    // As for a NIC that is a port, and nothing thrown.
    let lasts = std::time::Duration::from_millis(500);
    let shunt = Shunt { bearer, trigger: Trigger::Cut, lasts, over: true };
    programs.set_shunt(nic, Some(shunt))?;
    runtime.block_on(programs.all_placed())?;

    let mut figures = classifiers(&mut programs, nic)?;
    for message in messages::all(nic, bearer) {
        figures.push(filter(&mut programs, &runtime, &message)?);
    }
    println!("{}", table(&figures));
    if let Some(file) = json_file() {
        fs::write(&file, serde_json::to_vec_pretty(&figures)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// A TCP segment through every classifier that is in the object.
fn classifiers(programs: &mut Programs, nic: u32) -> Result<Vec<Figure>> {
    let segment = messages::tcp_segment();
    let empty = empty(ProgramType::SchedClassifier)?;
    let mut figures = Vec::new();
    for (name, program) in programs.object_mut().programs_mut() {
        let Program::SchedClassifier(program) = program else { continue };
        if program.fd().is_err() {
            program.load().with_context(|| name.to_owned())?;
        }
        let fd = program.fd()?.as_fd();
        let (mut nanoseconds, mut nothing) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            nothing.push(run(empty.as_fd(), &segment, nic, RUNS)?);
            nanoseconds.push(run(fd, &segment, nic, RUNS)?);
        }
        figures.push(figure(name, "TCP segment of 1,514 bytes", nanoseconds, nothing));
    }
    if figures.is_empty() {
        bail!("the object has no classifier");
    }
    Ok(figures)
}

/// A netlink message through a socket filter.
fn filter(programs: &mut Programs, runtime: &Runtime, message: &Message) -> Result<Figure> {
    // The kernel takes the first 14 bytes for an Ethernet header, and socket filters do not see it
    // (`bpf_prog_test_run_skb` in `net/bpf/test_run.c`): for them the message is at offset 0, as it
    // is on a netlink socket.
    let mut frame = vec![0; 14];
    frame.extend(&message.bytes);
    let empty = empty(ProgramType::SocketFilter)?;
    let runs = if message.reports { REPORTING_RUNS } else { RUNS };
    let (mut nanoseconds, mut nothing) = (Vec::new(), Vec::new());
    // Now and then somebody else gets the cookie that was expected.
    for _ in 0..4 * ROUNDS {
        let guarded = guard_next_socket(programs)?;
        nothing.push(run(empty.as_fd(), &frame, 0, runs)?);
        let before = count(programs, message.counter)?;
        let took = {
            let program = programs.object_mut().program(message.program);
            let fd = program.context(message.program)?.fd()?;
            run(fd.as_fd(), &frame, 0, runs)?
        };
        if count(programs, message.counter)? - before == u64::from(runs) {
            nanoseconds.push(took);
        }
        for cookie in guarded {
            programs.forget_socket(cookie)?;
        }
        if message.reports {
            runtime.block_on(drain(programs))?;
        }
        if nanoseconds.len() == ROUNDS {
            return Ok(figure(message.program, message.case, nanoseconds, nothing));
        }
    }
    bail!("{}, {}: counter {} did not count", message.program, message.case, message.counter.name())
}

/// The kernel makes a socket for each test run, and numbers it when the program asks: what comes
/// after the number of a new one is taken for guarded.
fn guard_next_socket(programs: &mut Programs) -> Result<Vec<u64>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let cookie = daemons::cookie(&socket)?;
    let entry = GuardedSocket { port: 1, replay_port: 2 };
    let next: Vec<u64> = (cookie..cookie + COOKIES_AHEAD).collect();
    for cookie in &next {
        programs.guard(&socket, *cookie, entry)?;
    }
    Ok(next)
}

/// Takes what was reported out of the ring buffers.
async fn drain(programs: &mut Programs) -> Result<()> {
    let limit = std::time::Duration::from_millis(1);
    for ring in [&mut programs.reports, &mut programs.intents] {
        // The other one may be empty.
        let _ = tokio::time::timeout(limit, ring.read(|_| {})).await;
    }
    Ok(())
}

fn count(programs: &Programs, wanted: Counter) -> Result<u64> {
    let all = programs.counters()?;
    Ok(all.into_iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, value)| value))
}

fn figure(program: &str, case: &str, nanoseconds: Vec<f64>, nothing: Vec<f64>) -> Figure {
    let (ns, empty_ns) = (median(nanoseconds), median(nothing));
    let (program, case) = (program.to_owned(), case.to_owned());
    Figure { program, case, ns, empty_ns, ratio: ns / empty_ns }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn table(figures: &[Figure]) -> String {
    let head = "program         case                                          ns  empty ns  ratio";
    let lines = figures.iter().map(|figure| {
        let Figure { program, case, ns, empty_ns, ratio } = figure;
        format!("{program:<14}  {case:<40}  {ns:>6.0}  {empty_ns:>8.0}  {ratio:>5.1}")
    });
    std::iter::once(head.to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

/// What a system call said.
fn last_error(what: &str) -> anyhow::Error {
    anyhow::Error::new(io::Error::last_os_error()).context(what.to_owned())
}
