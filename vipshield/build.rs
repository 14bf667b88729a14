//! Compiles the eBPF programs and leaves the object in `OUT_DIR` under the name of its binary,
//! `vipshield-programs`, for `aya::include_bytes_aligned!`.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::env;

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

use crate::toolchain::{Compiler, VARIABLE};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed=build/toolchain.rs");
    let compiler = toolchain::find().context("the eBPF programs cannot be compiled")?;
    println!("the eBPF programs are compiled by {compiler}");
    println!("cargo:rustc-env=VIPSHIELD_EBPF_COMPILER={compiler}");
    enable(&compiler);
    let package =
        Package { name: "vipshield-ebpf", root_dir: "../vipshield-ebpf", ..Package::default() };
    aya_build::build_ebpf([package], Toolchain::Custom(&compiler.toolchain))
        .with_context(|| format!("the eBPF programs, compiled by {compiler}"))
}

/// `aya_build` asks for `-Z build-std`, the only source of `core` for this target, when the
/// compiler is a nightly or this variable allows it.
fn enable(compiler: &Compiler) {
    let mut variables = vec![("CARGO_TERM_QUIET", "true")];
    if !compiler.nightly {
        variables.push(("RUSTC_BOOTSTRAP", "1"));
    }
    for (name, value) in variables {
        // SAFETY: a build script's `main` before anything of it started a thread.
        unsafe { env::set_var(name, value) };
    }
}
