//! Which Rust compiler builds the eBPF programs.
//!
//! `core` for `bpfel-unknown-none` comes with no compiler: it is built from its source. That takes
//! a toolchain with the component `rust-src`, and leave to use `-Z build-std`. rustup's `nightly`
//! has both where the component could be installed; elsewhere Debian's `rustc-web`, `cargo-web`
//! and `rust-web-src`, linked as the rustup toolchain `debian-web`, do as well.

use std::env;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Names the toolchain to use, as rustup knows it; what is there is not searched then.
pub(crate) const VARIABLE: &str = "VIPSHIELD_EBPF_TOOLCHAIN";

/// Debian's compiler, under the name it is linked by.
pub(crate) const DEBIAN: &str = "debian-web";

/// The toolchains that may have what it takes, the preferred one first.
const CANDIDATES: [&str; 2] = ["nightly", DEBIAN];

/// A compiler that can build `core`.
#[derive(Debug, Clone)]
pub(crate) struct Compiler {
    /// The name rustup knows it by; empty where there is no rustup.
    pub(crate) toolchain: String,
    /// Its version, as `rustc --version` says it.
    version: String,
    /// Its channel is nightly: unstable options need no further leave.
    pub(crate) nightly: bool,
    /// The major version of LLVM that writes its bitcode.
    pub(crate) llvm: u32,
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.toolchain.is_empty() { "the only toolchain" } else { &self.toolchain };
        write!(f, "{name} ({}, LLVM {})", self.version, self.llvm)
    }
}

/// The compiler to use, and a linker that can read what it writes.
pub(crate) fn find() -> Result<Compiler> {
    let Some(linker) = linker() else {
        bail!("bpf-linker is not installed; `cargo xtask setup` installs it");
    };
    compiler(linker.llvm)
}

/// The compiler to use when the linker reads bitcode up to this major version of LLVM.
pub(crate) fn compiler(llvm: Option<u32>) -> Result<Compiler> {
    if let Ok(name) = env::var(VARIABLE) {
        return probe(&name).with_context(|| format!("{VARIABLE}={name}: not usable"));
    }
    let names: &[&str] = if has_rustup() { &CANDIDATES } else { &[""] };
    let found: Vec<Compiler> = names.iter().filter_map(|name| probe(name).ok()).collect();
    let fits = |compiler: &&Compiler| llvm.is_none_or(|llvm| compiler.llvm <= llvm);
    match (found.iter().find(fits), found.first()) {
        (Some(compiler), _) => Ok(compiler.clone()),
        (None, Some(compiler)) => bail!(
            "{compiler} writes bitcode that bpf-linker, made with LLVM {}, cannot read; \
             `cargo xtask setup` installs a pair that fits",
            llvm.unwrap_or_default()
        ),
        (None, None) => bail!(
            "no Rust toolchain here has the source of core (rustup's nightly with rust-src, or \
             Debian's rustc-web as debian-web); `cargo xtask setup` installs one"
        ),
    }
}

/// bpf-linker, as found in `PATH`.
pub(crate) struct Linker {
    /// The major version of the LLVM it is linked with. `None` where that is built in and does
    /// not show.
    pub(crate) llvm: Option<u32>,
}

/// bpf-linker, if it is installed and its libraries are there.
pub(crate) fn linker() -> Option<Linker> {
    output(Command::new("bpf-linker").arg("--version")).ok()?;
    let path = env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join("bpf-linker"))
        .find(|path| path.is_file())?;
    let libraries = output(Command::new("ldd").arg(path)).unwrap_or_default();
    Some(Linker { llvm: llvm_of_libraries(&libraries) })
}

/// The major version in the name of the LLVM library among what `ldd` lists: `libLLVM-14.so.1`,
/// `libLLVM.so.22.1`.
fn llvm_of_libraries(ldd: &str) -> Option<u32> {
    let name = ldd.split_whitespace().find_map(|word| word.strip_prefix("libLLVM"))?;
    let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether toolchains have names here; without rustup there is the one in `PATH`.
pub(crate) fn has_rustup() -> bool {
    output(Command::new("rustup").arg("--version")).is_ok()
}

/// What the toolchain of this name is, if it has the source of `core`. No name: the one in `PATH`.
pub(crate) fn probe(name: &str) -> Result<Compiler> {
    let rustc = |argument: &[&str]| {
        let mut command = if name.is_empty() {
            Command::new("rustc")
        } else {
            let mut command = Command::new("rustup");
            // A probe must not download a toolchain.
            command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", name, "rustc"]);
            command
        };
        output(command.args(argument))
    };
    let verbose = rustc(&["--version", "--verbose"])?;
    let sysroot = rustc(&["--print", "sysroot"])?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !source.is_file() {
        bail!("it has no rust-src ({} is not there)", source.display());
    }
    let field = |key: &str| {
        verbose
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .with_context(|| format!("rustc does not tell its {key}"))
    };
    let release = field("release: ")?;
    let llvm = field("LLVM version: ")?;
    Ok(Compiler {
        toolchain: name.to_owned(),
        version: format!("rustc {release}"),
        nightly: release.contains("nightly"),
        llvm: llvm
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .with_context(|| format!("LLVM version {llvm} is not a version"))?,
    })
}

/// What the command prints, if it succeeds.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::llvm_of_libraries;

    #[test]
    fn llvm_is_read_from_the_name_of_its_library() {
        let debian =
            "\tlinux-vdso.so.1 (0x7ffe)\n\tlibLLVM.so.22.1 => /usr/lib/libLLVM.so.22.1 (0x7f)\n";
        assert_eq!(llvm_of_libraries(debian), Some(22));
        assert_eq!(llvm_of_libraries("libLLVM-14.so.1 => /usr/lib/libLLVM-14.so.1"), Some(14));
        assert_eq!(llvm_of_libraries("\tstatically linked\n"), None);
    }
}
