//! The initial root of the virtual machine: busybox, the modules that reach the host's file
//! system, and a script.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::setup::kernel::{self, Kernel};
use crate::{shell, workspace};

/// Mounts the host's file system and hands over to the guest's script.
const INIT: &str = include_str!("init.sh");

/// What that needs, where the kernel does not have it built in.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/// Makes the initial root for this kernel in `directory` and packs it into `file`.
pub(super) fn pack(kernel: &Kernel, directory: &Path, file: &Path) -> Result<()> {
    for name in ["bin", "dev", "lower", "modules", "proc", "root", "sys", "upper"] {
        fs::create_dir_all(directory.join(name))?;
    }
    let busybox = workspace::program("busybox").context("busybox is missing")?;
    fs::copy(busybox, directory.join("bin/busybox"))?;
    let modules = directory.join("modules");
    let order = copy_modules(kernel, &modules)?;
    fs::write(modules.join("order"), order)?;
    fs::write(modules.join("directory"), kernel.modules().display().to_string())?;
    let init = directory.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    archive(directory, file)
}

/// Copies the modules and returns their names, one a line, in the order to load them.
fn copy_modules(kernel: &Kernel, directory: &Path) -> Result<String> {
    let mut order = String::new();
    for module in MODULES {
        for path in kernel::dependencies(kernel, module)? {
            let name = path.file_name().context("a module without a name")?.to_string_lossy();
            // Debian packs its newer kernels' modules with xz.
            let (name, packed) = match name.strip_suffix(".xz") {
                Some(plain) => (plain, true),
                None => (name.as_ref(), false),
            };
            if order.lines().any(|known| known == name) {
                continue;
            }
            let copy = directory.join(name);
            if packed {
                let unpacked = fs::File::create(copy)?;
                shell::run(
                    Command::new("busybox").args(["unxz", "-c"]).arg(&path).stdout(unpacked),
                )?;
            } else {
                fs::copy(&path, copy)?;
            }
            order.push_str(name);
            order.push('\n');
        }
    }
    Ok(order)
}

/// Packs the directory in the format the kernel unpacks.
fn archive(directory: &Path, file: &Path) -> Result<()> {
    let mut find =
        Command::new("find").arg(".").current_dir(directory).stdout(Stdio::piped()).spawn()?;
    let names = find.stdout.take().context("find has no output")?;
    let status = Command::new("cpio")
        .args(["--create", "--format=newc", "--quiet"])
        .current_dir(directory)
        .stdin(names)
        .stdout(fs::File::create(file)?)
        .status()
        .context("cpio")?;
    if !find.wait()?.success() || !status.success() {
        bail!("the initial root could not be packed: cpio: {status}");
    }
    Ok(())
}
