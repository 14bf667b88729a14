//! Compiles the eBPF programs and leaves the object in `OUT_DIR` under the name of its binary,
//! `vipshield-programs`, for `aya::include_bytes_aligned!`, without what only debuggers read.

#[path = "build/toolchain.rs"]
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

use crate::toolchain::{Compiler, VARIABLE};

/// The object's name.
const OBJECT: &str = "vipshield-programs";

/// How the programs are compiled, whatever the rest is: the workspace's profile is for small code, and not what the
/// verifiers of all kernels have seen.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "thin"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];

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
        .with_context(|| format!("the eBPF programs, compiled by {compiler}"))?;
    let object = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?).join(OBJECT);
    strip(&object).with_context(|| object.display().to_string())
}

/// Four fifths of the object are DWARF, which nobody loads: the kernel has lines and types from BTF.
fn strip(object: &Path) -> Result<()> {
    let bytes = fs::read(object)?;
    let mut elf = Builder::read(bytes.as_slice())?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    // LLVM has one table for the names of sections and of symbols; this writer wants two.
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    elf.delete_orphans();
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    fs::write(object, stripped)?;
    Ok(())
}

/// `aya_build` asks for `-Z build-std`, the only source of `core` for this target, when the
/// compiler is a nightly or this variable allows it.
fn enable(compiler: &Compiler) {
    let mut variables = vec![("CARGO_TERM_QUIET", "true")];
    variables.extend(PROFILE);
    if !compiler.nightly {
        variables.push(("RUSTC_BOOTSTRAP", "1"));
    }
    for (name, value) in variables {
        // SAFETY: a build script's `main` before anything of it started a thread.
        unsafe { env::set_var(name, value) };
    }
}
