//! What vipshield takes of a node on which nothing happens, beside what keepalived takes of it in the same
//! time: memory, processor time, wakes; and how soon it guards after its start.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

use crate::clock;
use crate::config::{DatapathKind, LabConfig};
use crate::give_up::{Place, Spread, spread};
use crate::keepalived::Keepalived;
use crate::lab::Lab;
use crate::measure::{self, Role};
use crate::report;
use crate::sequence::{Sequence, Undisturbed};

/// What vipshield says once everything is guarded.
const GUARDED: &str = "every NIC and every daemon is guarded";
/// What a start may take at the most.
const LIMIT: Duration = Duration::from_secs(10);
/// What is begun after a start or a sequence is over by then.
const SETTLED: Duration = Duration::from_secs(15);

/// What processes took in a window in which nothing happened.
#[derive(Clone, Debug, Serialize)]
pub struct Taken {
    /// Memory that is theirs at the end of it, shared pages of files included, in KiB.
    pub resident_kib: u64,
    /// The part of it that is in no file.
    pub anonymous_kib: u64,
    /// The most that it has been so far.
    pub peak_kib: u64,
    /// Processor time, in percent of one processor.
    pub cpu_percent: f64,
    /// How often a thread was woken, each second.
    pub wakes_per_second: f64,
}

/// What was taken in one window.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Where the NIC was.
    pub place: Place,
    /// How long the window was.
    pub seconds: f64,
    /// vipshield.
    pub vipshield: Taken,
    /// keepalived, both processes of it.
    pub keepalived: Taken,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Footprint {
    /// The kernel's release.
    pub kernel: String,
    /// keepalived's version.
    pub keepalived: String,
    /// How long vipshield's program is, in bytes.
    pub vipshield_bytes: u64,
    /// How long keepalived's is, without the libraries that it needs.
    pub keepalived_bytes: u64,
    /// How often each was started.
    pub starts: usize,
    /// From vipshield's start until it says that everything is guarded, in milliseconds.
    pub vipshield_start_ms: Spread,
    /// From keepalived's start until it tells its first state, in milliseconds.
    pub keepalived_start_ms: Spread,
    /// What both take, idle.
    pub idle: Vec<Idle>,
}

/// Start each so often, then look at both for so long with the NIC free, and again with it a port.
///
/// # Errors
/// When the lab cannot be built, or a process is gone.
pub async fn measure(
    datapath: DatapathKind,
    vipshield: &Path,
    starts: usize,
    window: Duration,
) -> Result<Footprint> {
    let mut lab = Lab::build(LabConfig::new(datapath)).await?;
    let keepalived_start_ms = spread(keepalived_starts(&mut lab, starts).await?.into_iter());
    measure::elect(&mut lab, Role::Master).await?;
    let vipshield_start_ms =
        spread(vipshield_starts(&mut lab, vipshield, starts).await?.into_iter());
    let mut idle = Vec::new();
    for place in [Place::Free, Place::Bridged] {
        if place == Place::Bridged {
            Sequence::Bind.run(&lab, &mut Undisturbed).await.outcome?;
        }
        clock::pass(SETTLED).await;
        idle.push(look(&lab, place, window).await?);
    }
    let length = |program: &Path| {
        let found = fs::metadata(program).with_context(|| program.display().to_string());
        anyhow::Ok(found?.len())
    };
    Ok(Footprint {
        kernel: measure::kernel()?,
        keepalived: lab.config.keepalived.version()?,
        vipshield_bytes: length(vipshield)?,
        keepalived_bytes: length(&lab.config.keepalived.executable()?)?,
        starts,
        vipshield_start_ms,
        keepalived_start_ms,
        idle,
    })
}

async fn keepalived_starts(lab: &mut Lab, starts: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..starts {
        let began = clock::now();
        lab.start_keepalived(0)?;
        let started = lab.node(0)?.keepalived.as_ref();
        let started: &Keepalived = started.context("keepalived does not run")?;
        let first = clock::until("keepalived's first state", LIMIT, async || {
            Ok(started.transitions().first().map(|told| told.at))
        });
        took.push(since(began, first.await?));
        let running = lab.node_mut(0)?.keepalived.take();
        running.context("keepalived does not run")?.stop().await?;
    }
    Ok(took)
}

/// The last one runs on.
async fn vipshield_starts(lab: &mut Lab, program: &Path, starts: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..starts {
        if let Some(running) = lab.node_mut(0)?.vipshield.take() {
            running.stop().await?;
        }
        let began = clock::now();
        let started = lab.spawn_vipshield(0, program)?;
        let guarded = clock::until("vipshield's word that all is guarded", LIMIT, async || {
            let mut lines = started.log().into_iter();
            Ok(lines.find(|line| line.text.contains(GUARDED)).map(|line| line.at))
        });
        took.push(since(began, guarded.await?));
        lab.node_mut(0)?.vipshield = Some(started);
    }
    Ok(took)
}

fn since(from: Instant, to: Instant) -> f64 {
    clock::millis(to.saturating_duration_since(from))
}

async fn look(lab: &Lab, place: Place, window: Duration) -> Result<Idle> {
    let node = lab.node(0)?;
    let vipshield = [node.vipshield.as_ref().context("vipshield does not run")?.pid()];
    let keepalived = node.keepalived.as_ref().context("keepalived does not run")?.processes()?;
    let used = || anyhow::Ok((Used::of(&vipshield)?, Used::of(&keepalived)?));
    let (from, before) = (clock::now(), used()?);
    clock::pass(window).await;
    let (to, after) = (clock::now(), used()?);
    let seconds = to.saturating_duration_since(from).as_secs_f64();
    Ok(Idle {
        place,
        seconds,
        vipshield: taken(&vipshield, &before.0, &after.0, seconds)?,
        keepalived: taken(&keepalived, &before.1, &after.1, seconds)?,
    })
}

/// What processes have used since they began.
struct Used {
    cpu: Duration,
    wakes: u64,
}

impl Used {
    fn of(pids: &[Pid]) -> Result<Self> {
        let mut used = Self { cpu: Duration::ZERO, wakes: 0 };
        for pid in pids {
            // Threads that have ended are in it, and it is exact; /proc/PID/stat counts ticks.
            used.cpu +=
                clock_gettime(clock_getcpuclockid(*pid)?).context("a process's time")?.into();
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                // One that has ended meanwhile does not count, as those that ended before do not.
                if let Ok(status) = fs::read_to_string(thread?.path().join("status")) {
                    used.wakes += field(&status, "voluntary_ctxt_switches")?;
                }
            }
        }
        Ok(used)
    }
}

fn taken(pids: &[Pid], before: &Used, after: &Used, seconds: f64) -> Result<Taken> {
    let mut memory = [0; 3];
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        for (sum, name) in memory.iter_mut().zip(["VmRSS", "RssAnon", "VmHWM"]) {
            *sum += field(&status, name)?;
        }
    }
    let [resident_kib, anonymous_kib, peak_kib] = memory;
    Ok(Taken {
        resident_kib,
        anonymous_kib,
        peak_kib,
        cpu_percent: after.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds * 100.0,
        wakes_per_second: after.wakes.saturating_sub(before.wakes) as f64 / seconds,
    })
}

/// A number of `/proc/PID/status`.
fn field(status: &str, name: &str) -> Result<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).with_context(|| format!("no {name} in {status}"))
}

/// A row for each figure: vipshield's, keepalived's, and the one divided by the other.
#[must_use]
pub fn table(footprint: &Footprint) -> String {
    let mut rows =
        vec![["what", "NIC", "vipshield", "keepalived", "ratio"].map(str::to_owned).to_vec()];
    let mut row = |what: &str, nic: &str, [own, other]: [f64; 2], digits: usize| {
        let number = |value: f64| format!("{value:.digits$}");
        let ratio = format!("{:.1}", own / other);
        rows.push(vec![what.to_owned(), nic.to_owned(), number(own), number(other), ratio]);
    };
    let bytes = [footprint.vipshield_bytes, footprint.keepalived_bytes];
    row("program, MB", "", bytes.map(|bytes| bytes as f64 / 1e6), 1);
    let start = [&footprint.vipshield_start_ms, &footprint.keepalived_start_ms];
    row("start, ms, p50", "free", start.map(|spread| spread.p50), 0);
    row("start, ms, max", "free", start.map(|spread| spread.max), 0);
    for idle in &footprint.idle {
        let nic = match idle.place {
            Place::Free => "free",
            Place::Bridged => "bridged",
        };
        let both = [&idle.vipshield, &idle.keepalived];
        let mib = |kib: u64| kib as f64 / 1024.0;
        row("resident, MiB", nic, both.map(|taken| mib(taken.resident_kib)), 1);
        row("of it in no file, MiB", nic, both.map(|taken| mib(taken.anonymous_kib)), 1);
        row("peak, MiB", nic, both.map(|taken| mib(taken.peak_kib)), 1);
        row("processor, %", nic, both.map(|taken| taken.cpu_percent), 3);
        row("wakes a second", nic, both.map(|taken| taken.wakes_per_second), 1);
    }
    report::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_status() {
        let status = "Name:\tvipshield\nVmHWM:\t   15000 kB\nVmRSS:\t   14000 kB\n";
        assert_eq!(field(status, "VmRSS").unwrap(), 14_000);
        assert_eq!(field(status, "VmHWM").unwrap(), 15_000);
        assert!(field(status, "RssAnon").is_err());
    }

    #[test]
    fn what_a_process_did_counts_for_it() {
        let before = Used::of(&[Pid::this()]).unwrap();
        let mut sum = 0_u64;
        for number in 0..20_000_000_u64 {
            sum = std::hint::black_box(sum ^ number);
        }
        let after = Used::of(&[Pid::this()]).unwrap();
        let taken = taken(&[Pid::this()], &before, &after, 1.0).unwrap();
        assert!(taken.cpu_percent > 0.0 && taken.resident_kib > 0, "{taken:?} {sum}");
        assert!(taken.peak_kib >= taken.resident_kib.min(taken.anonymous_kib));
    }
}
