//! The project's commands: `cargo xtask VERB`.
//!
//! This package needs nothing but cargo and a C linker, for it is what installs the rest.

mod bench;
mod build;
mod chart;
mod clock;
mod demo;
mod docs;
mod image;
mod lint;
mod package;
mod sbom;
mod setup;
mod shell;
mod statically;
mod tally;
mod test;
#[path = "../../vipshield/build/toolchain.rs"]
mod toolchain;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// vipshield's development commands
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install what is missing to build, test and demonstrate (Debian 12, as root)
    Setup(setup::Options),
    /// Build the release binary, eBPF programs included, and the lab
    Build,
    /// Show the sequences without vipshield and with it, side by side
    Demo(demo::Options),
    /// Run the tests: lint, unit, eBPF on this kernel, lab, virtual machine
    Test(test::Options),
    /// Run scenarios on a stock Debian kernel with Open vSwitch, in QEMU
    Vm(vm::Options),
    /// Measure what the sequences cost the traffic, without vipshield and with it
    Bench(bench::Options),
    /// Check format, lints, documentation and dependencies
    Lint,
    /// Make the Debian package
    Package,
    /// Make the container image, as an archive
    Image,
}

impl Verb {
    fn run(&self) -> Result<ExitCode> {
        match self {
            Self::Setup(options) => options.run()?,
            Self::Build => build::run()?,
            Self::Demo(options) => options.run()?,
            Self::Test(options) => return Ok(options.run()),
            Self::Vm(options) => options.run()?,
            Self::Bench(options) => options.run()?,
            Self::Lint => lint::run()?,
            Self::Package => package::run()?,
            Self::Image => image::run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn main() -> ExitCode {
    Verb::parse().run().unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
