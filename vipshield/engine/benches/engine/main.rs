//! What an event costs the engine on a node with few interfaces and with many: it must be the same.
//!
//! `cargo bench --package vipshield-engine --bench engine -- --json FILE`; it needs nothing of the kernel.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a benchmark is no engine"
)]

mod cost;
mod crowd;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use serde::Serialize;

use self::crowd::{Crowd, Happening, Place};

/// Interfaces of pods, each with an address and a route.
const SIZES: [u32; 3] = [10, 1_000, 10_000];
/// Rounds of each case, on the nodes of all sizes one after the other.
const ROUNDS: usize = 31;
/// How often it happens in a round.
const RUNS: u32 = 200;

/// A measured case.
#[derive(Debug, Serialize)]
struct Figure {
    nic: &'static str,
    event: &'static str,
    interfaces: u32,
    /// Median over the rounds, of CPU time.
    ns: f64,
    /// To the smallest node.
    ratio: f64,
}

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error:#}");
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
    let mut figures = Vec::new();
    for (nic, place) in [("free", Place::Free), ("bridged", Place::Bridged)] {
        let mut crowds = SIZES.map(|pods| Crowd::new(place, pods));
        for what in Happening::ALL {
            let mut rounds = SIZES.map(|_| Vec::new());
            for _ in 0..ROUNDS {
                for (crowd, round) in crowds.iter_mut().zip(&mut rounds) {
                    round.push(cost::of_an_event(crowd, what, RUNS)?);
                }
            }
            let medians = rounds.map(median);
            let [smallest, ..] = medians;
            figures.extend(SIZES.into_iter().zip(medians).map(|(interfaces, ns)| Figure {
                nic,
                event: what.name(),
                interfaces,
                ns,
                ratio: ns / smallest,
            }));
        }
    }
    println!("{}", table(&figures));
    if let Some(file) = json_file() {
        fs::write(&file, serde_json::to_vec_pretty(&figures)?)
            .with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A line for each event, with the nodes of all sizes.
fn table(figures: &[Figure]) -> String {
    let sizes = SIZES.map(|size| format!("  {size:>6}  ratio")).concat();
    let head = format!("NIC      event, ns on a node of so many interfaces{sizes}");
    let lines = figures.chunks(SIZES.len()).filter_map(|of_an_event| {
        let first = of_an_event.first()?;
        let columns: Vec<String> = of_an_event
            .iter()
            .map(|figure| format!("  {:>6.0}  {:>5.1}", figure.ns, figure.ratio))
            .collect();
        Some(format!("{:<7}  {:<41}{}", first.nic, first.event, columns.concat()))
    });
    std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n")
}
