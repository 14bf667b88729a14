//! Network namespaces as values: made, entered, and gone when dropped.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Where `ip netns` looks for names.
pub const NETNS_DIR: &str = "/run/netns";

/// Where programs look for a bpffs.
const BPFFS: &str = "/sys/fs/bpf";

/// A network namespace bound to a name, so that `ip netns exec NAME` works on
/// it, together with a mount namespace in which `/sys` shows its devices.
///
/// Dropping it unbinds the name. The namespace itself ends with its last
/// process and its last socket.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    net: File,
    mounts: File,
}

impl Netns {
    /// Make a namespace called `name`, with its loopback down and nothing else in it.
    ///
    /// # Errors
    /// Without root, or when the name is taken.
    pub fn create(name: &str) -> Result<Arc<Self>> {
        share_netns_dir()?;
        let (net, mounts) = std::thread::spawn(new_namespaces)
            .join()
            .map_err(|_| anyhow!("the thread that made namespace {name} died"))?
            .with_context(|| format!("cannot make namespace {name}"))?;
        let path = Path::new(NETNS_DIR).join(name);
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        // From here on the value owns the file and the mount, so that an error below removes them.
        let namespace = Self { name: name.to_owned(), path, net, mounts };
        let source = format!("/proc/self/fd/{}", namespace.net.as_raw_fd());
        mount(Some(source.as_str()), &namespace.path, NO_STR, MsFlags::MS_BIND, NO_STR)
            .with_context(|| format!("cannot bind {}", namespace.path.display()))?;
        Ok(Arc::new(namespace))
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The network namespace, for `IFLA_NET_NS_FD` and `setns(2)`.
    #[must_use]
    pub fn net(&self) -> &File {
        &self.net
    }

    /// The mount namespace whose `/sys` shows this network namespace.
    #[must_use]
    pub fn mounts(&self) -> &File {
        &self.mounts
    }

    /// Run `work` on a thread inside the namespace. Sockets made there stay
    /// there, whoever uses them later.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    work()
                })
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} died", self.name))?
        })
    }

    /// Move the calling thread into the network namespace, for the rest of its life.
    ///
    /// # Errors
    /// Whatever `setns(2)` says.
    pub fn enter(&self) -> Result<()> {
        setns(self.net.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        unbind(&self.path);
    }
}

/// Unbind a name under `/run/netns` and remove it. Says so in the log when it cannot.
pub fn unbind(path: &Path) {
    // Another mount namespace may have copied the mount: detach, do not insist.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("cannot remove {}: {error}", path.display());
    }
}

const NO_STR: Option<&str> = None;

/// Make `/run/netns` a shared mount of its own, as ip-netns(8) does, so that
/// names bound later reach mount namespaces made earlier.
fn share_netns_dir() -> Result<()> {
    static ONCE: Mutex<()> = Mutex::new(());
    let _guard = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    std::fs::create_dir_all(NETNS_DIR).with_context(|| format!("cannot create {NETNS_DIR}"))?;
    let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
    if mount(NO_STR, NETNS_DIR, NO_STR, flags, NO_STR).is_ok() {
        return Ok(());
    }
    // Not a mount point yet: bind it to itself first.
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(NETNS_DIR), NETNS_DIR, NO_STR, bind, NO_STR)
        .and_then(|()| mount(NO_STR, NETNS_DIR, NO_STR, flags, NO_STR))
        .with_context(|| format!("cannot make {NETNS_DIR} a shared mount"))
}

/// On a thread of its own: leave for new namespaces and return handles on them.
fn new_namespaces() -> Result<(File, File)> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    mount(NO_STR, "/", NO_STR, MsFlags::MS_REC | MsFlags::MS_SLAVE, NO_STR)
        .context("cannot make the mounts private")?;
    // A sysfs shows the network devices of whoever mounted it. What was mounted
    // below the old one (bpffs, tracefs, cgroups) is put back on the new one.
    let below = mounts_below_sys()?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NO_STR)
        .context("cannot mount /sys")?;
    for (path, handle) in below.iter().filter(|(path, _)| path != Path::new(BPFFS)) {
        let source = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        if let Err(error) = mount(Some(source.as_str()), path, NO_STR, flags, NO_STR) {
            log::debug!("{} is not mounted in the namespace: {error}", path.display());
        }
    }
    // What is pinned there is each node's own, as on machines of their own.
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), NO_STR)
        .with_context(|| format!("cannot mount {BPFFS}"))?;
    let open = |kind: &str| {
        let path = format!("/proc/thread-self/ns/{kind}");
        File::open(&path).with_context(|| format!("cannot open {path}"))
    };
    Ok((open("net")?, open("mnt")?))
}

fn mounts_below_sys() -> Result<Vec<(PathBuf, File)>> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").context("mountinfo")?;
    let mut tops: Vec<(PathBuf, File)> = Vec::new();
    for path in table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from) {
        let nested = tops.iter().any(|(top, _)| path.starts_with(top));
        if path.starts_with("/sys/")
            && path != Path::new("/sys")
            && !nested
            && let Ok(handle) =
                File::options().read(true).custom_flags(nix::libc::O_PATH).open(&path)
        {
            tops.push((path, handle));
        }
    }
    Ok(tops)
}
