//! The compiler and the linker of the eBPF programs.

use std::ops::RangeInclusive;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::debian;
use crate::toolchain::{self, Compiler};
use crate::{shell, workspace};

/// The version of bpf-linker that fits the `aya` crates in the workspace's `Cargo.toml`.
const LINKER_VERSION: &str = "0.13.0";

/// The major versions of LLVM that this bpf-linker can be built with.
const LINKER_LLVM: RangeInclusive<u32> = 21..=23;

/// Debian's compiler, its cargo, the library's source, and clippy.
const COMPILER_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"];

/// Installs a compiler with the source of `core`, unless there is one, and a linker that reads
/// its bitcode, unless there is one.
pub(crate) fn install() -> Result<()> {
    if toolchain::find().is_ok() {
        return Ok(());
    }
    let compiler = compiler()?;
    println!("setup: eBPF programs are compiled by {compiler}");
    linker(&compiler)
}

/// A compiler whose bitcode a bpf-linker can read that is built with libraries of Debian's. An older
/// one of Debian's own is replaced by the newest.
fn compiler() -> Result<Compiler> {
    debian::freshen();
    let usable = |compiler: &Compiler| -> Result<bool> {
        Ok(LINKER_LLVM.contains(&compiler.llvm)
            && debian::unknown(&[&llvm_package(compiler)])?.is_empty())
    };
    if let Ok(compiler) = toolchain::compiler(None)
        && usable(&compiler)?
    {
        return Ok(compiler);
    }
    debian::install(&COMPILER_PACKAGES)?;
    let mut name = "";
    if toolchain::has_rustup() {
        name = toolchain::DEBIAN;
        println!("setup: rustup toolchain link {name} /usr");
        shell::run(Command::new("rustup").args(["toolchain", "link", name, "/usr"]))?;
    }
    let compiler = toolchain::probe(name).context("Debian's Rust compiler does not work")?;
    ensure!(
        usable(&compiler)?,
        "{compiler}: bpf-linker {LINKER_VERSION} needs LLVM {} to {}, and apt the package {}",
        LINKER_LLVM.start(),
        LINKER_LLVM.end(),
        llvm_package(&compiler)
    );
    Ok(compiler)
}

fn linker(compiler: &Compiler) -> Result<()> {
    let llvm = compiler.llvm;
    debian::install(&[&llvm_package(compiler), "libzstd-dev", "g++"])?;
    println!(
        "setup: cargo install bpf-linker {LINKER_VERSION} with LLVM {llvm} (one to three minutes)"
    );
    let feature = format!("llvm-{llvm}");
    let arguments = ["--locked", "--force", "--no-default-features", "--features", &feature];
    shell::run(
        workspace::cargo()?
            .args(["install", "--quiet", "bpf-linker", "--version", LINKER_VERSION])
            .args(arguments)
            .env("LLVM_PREFIX", format!("/usr/lib/{feature}"))
            .env_remove("CARGO_TARGET_DIR"),
    )
    .context("bpf-linker could not be built")?;
    toolchain::find().map(drop).context(
        "bpf-linker was installed but does not work; is cargo's bin directory (~/.cargo/bin) in \
         PATH?",
    )
}

/// The package with the LLVM that writes this compiler's bitcode.
fn llvm_package(compiler: &Compiler) -> String {
    format!("llvm-{}-dev", compiler.llvm)
}
