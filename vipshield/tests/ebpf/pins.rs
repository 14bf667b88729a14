//! What a vipshield that was killed has pinned for the next one.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use libtest_mimic::Failed;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use vipshield::{
    bpf::Pins,
    engine::{Address, LetPass},
};

use super::{FREE, check, namespace::Stage};

/// A bpffs that this thread alone sees.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new() -> Result<Self, Failed> {
        let nothing = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
        let at = env::temp_dir().join(format!("vipshield-bpffs-{}", std::process::id()));
        fs::create_dir_all(&at)?;
        mount(Some("bpf"), &at, Some("bpf"), MsFlags::empty(), nothing)?;
        Ok(Self(at))
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

/// The names of NICs, for whoever finds a socket that was guarded; until they are taken away.
pub(crate) fn names() -> Result<(), Failed> {
    let bpffs = Bpffs::new()?;
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let (nic, cookie) = (stage.index("nic")?, stage.cookie()?);
    let known = BTreeMap::from([(nic, "nic".to_owned())]);
    let pins = Pins::new(&bpffs.0, 4_026_531_840);
    check(pins.names(&[cookie]).is_empty(), "nothing at first")?;
    check(!pins.remove()?, "and nothing to take away")?;
    // One that is killed right before it renames leaves what it had pinned.
    for _ in 0..2 {
        pins.keep(&stage.programs);
        check(pins.names(&[cookie]) == known, "found")?;
    }
    check(pins.names(&[cookie + 1_000_000]).is_empty(), "of other sockets, nothing")?;
    check(Pins::new(&bpffs.0, 7).names(&[cookie]).is_empty(), "nor of another namespace")?;

    // The process is gone, and its tables are not.
    let next = stage.load_another()?;
    drop(std::mem::replace(&mut stage.programs, next));
    check(pins.names(&[cookie]) == known, "found when it is gone")?;
    // What the next one knows takes their place.
    stage.arm(FREE)?;
    stage.programs.set_policy(nic, "other", FREE, &LetPass::new())?;
    pins.keep(&stage.programs);
    let names = pins.names(&[cookie]);
    check(names == BTreeMap::from([(nic, "other".to_owned())]), format!("then {names:?}"))?;

    // Of another layout nothing is taken: these have each other's.
    let directory = bpffs.0.join("vipshield/4026531840");
    let path = |name: &str| directory.join(name);
    fs::rename(path("NICS_v3"), path("aside"))?;
    check(pins.names(&[cookie]).is_empty(), "without one of the tables, nothing")?;
    fs::rename(path("SOCKETS_v3"), path("NICS_v3"))?;
    fs::rename(path("aside"), path("SOCKETS_v3"))?;
    check(pins.names(&[cookie]).is_empty(), "nor from other tables")?;
    check(pins.remove()?, "there was something")?;
    check(!bpffs.0.join("vipshield").exists(), "nothing stays")?;

    // Where there is no bpffs, or none to be written to, nothing is kept and nothing left.
    let elsewhere = env::temp_dir().join(format!("vipshield-no-bpffs-{}", std::process::id()));
    fs::create_dir_all(&elsewhere)?;
    let nowhere = Pins::new(&elsewhere, 7);
    nowhere.keep(&stage.programs);
    check(nowhere.names(&[cookie]).is_empty(), "nothing is kept")?;
    check(fs::remove_dir(&elsewhere).is_ok(), "and nothing left")?;
    Ok(())
}

/// The addresses that a daemon believes to be there, for whoever finds its socket.
pub(crate) fn held() -> Result<(), Failed> {
    let bpffs = Bpffs::new()?;
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let (nic, cookie) = (stage.index("nic")?, stage.cookie()?);
    for (address, prefix_len) in [("192.0.2.11", 24), ("198.51.100.12", 32)] {
        stage.add_address("nic", &format!("{address}/{prefix_len}"))?;
        stage.delete_address("nic", &format!("{address}/{prefix_len}"))?;
    }
    // It is back: nothing is untrue about it.
    stage.add_address("nic", "198.51.100.12/32")?;
    stage.seen()?;
    let pins = Pins::new(&bpffs.0, 4_026_531_840);
    check(pins.held(&[cookie]).is_empty(), "nothing at first")?;
    pins.keep(&stage.programs);
    let gone = Address { ip: "192.0.2.11".parse()?, prefix_len: 24 };
    let known = BTreeMap::from([(nic, [gone].into())]);
    let next = stage.load_another()?;
    drop(std::mem::replace(&mut stage.programs, next));
    let held = pins.held(&[cookie]);
    check(held == known, format!("found when it is gone: {held:?}"))?;
    check(pins.held(&[cookie + 1_000_000]).is_empty(), "of other sockets, nothing")?;
    check(pins.remove()?, "there was something")?;
    check(pins.held(&[cookie]).is_empty(), "nothing stays")
}
