//! keepalived's version and configuration, as far as they can be read: it is neither asked nor run.

mod conf;
mod hazards;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

use self::hazards::GROUP;
use super::{Finding, Question, Seen};
use crate::engine::{Daemon, Role};

/// Where keepalived looks first if it is not told.
const DEFAULT: &str = "/etc/keepalived/keepalived.conf";
/// What is longer is not read.
const MAX_CONFIGURATION: u64 = 1 << 20;
const MAX_EXECUTABLE: u64 = 32 << 20;

pub(super) fn findings(question: &Question, seen: &Seen) -> Vec<Finding> {
    let speaks = |daemon: &&Daemon| daemon.role == Role::Vrrp && daemon.trouble.is_none();
    let daemons: Vec<&Daemon> = seen.daemons.iter().filter(speaks).collect();
    if daemons.is_empty() {
        let text = "no keepalived that speaks VRRP is seen";
        return vec![Finding::skip(GROUP, "configuration", text)];
    }
    daemons.into_iter().flat_map(|daemon| of(daemon, question)).collect()
}

fn of(daemon: &Daemon, question: &Question) -> Vec<Finding> {
    let process = PathBuf::from(format!("/proc/{}", daemon.pid));
    let who = format!("{} {}", daemon.name, daemon.pid);
    let version = read(File::open(process.join("exe")), MAX_EXECUTABLE)
        .map(|executable| version(&executable));
    let mut findings = vec![match version {
        Ok(Some(version)) => Finding::pass(GROUP, "version", format!("{who}: {version}")),
        Ok(None) => Finding::skip(GROUP, "version", format!("{who}: its executable does not say")),
        Err(error) => Finding::skip(GROUP, "version", format!("{who}: its executable: {error}")),
    }];
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    let path = configuration(&arguments);
    match read(open_in(&process, &path), MAX_CONFIGURATION) {
        Ok(text) => {
            let conf = conf::read(&String::from_utf8_lossy(&text));
            findings.extend(hazards::findings(&conf, &question.interfaces, question.deadline));
        }
        Err(error) => findings.push(Finding::skip(
            GROUP,
            "configuration",
            format!("{who}: {}: {error}", path.display()),
        )),
    }
    findings
}

/// A file as the process sees it. Links in it must not lead out of its root (Linux 5.6).
fn open_in(process: &Path, path: &Path) -> io::Result<File> {
    let from = if path.is_absolute() { "root" } else { "cwd" };
    let directory = open(process.join(from), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(openat2(&directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?))
}

fn read(file: io::Result<File>, most: u64) -> io::Result<Vec<u8>> {
    let file = file?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// keepalived's executable has its version as text: `Keepalived v2.2.7 (01/16,2022)`.
fn version(executable: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"Keepalived v";
    let at = executable.windows(BEFORE.len()).position(|window| window == BEFORE)?;
    let rest = executable.get(at + BEFORE.len()..)?;
    let version: String = rest
        .iter()
        .map(|byte| char::from(*byte))
        .take_while(|c| c.is_ascii_digit() || *c == '.')
        .take(16)
        .collect();
    (!version.is_empty()).then(|| format!("keepalived {version}"))
}

/// The configuration that the command line names (`keepalived(8)`).
fn configuration(arguments: &[u8]) -> PathBuf {
    let mut words = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).skip(1);
    while let Some(word) = words.next() {
        let value = if word == "-f" || word == "--use-file" {
            words.next().map(std::borrow::Cow::into_owned)
        } else if let Some(value) = word.strip_prefix("--use-file=") {
            Some(value.to_owned())
        } else {
            word.strip_prefix("-f").filter(|rest| !rest.is_empty()).map(str::to_owned)
        };
        if let Some(path) = value.filter(|path| !path.is_empty()) {
            return PathBuf::from(path);
        }
    }
    PathBuf::from(DEFAULT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_command_line_names_its_configuration() {
        for (arguments, expected) in [
            ("keepalived\0", DEFAULT),
            ("keepalived\0-n\0-l\0-f\0/a.conf\0", "/a.conf"),
            ("keepalived\0-f/b.conf\0", "/b.conf"),
            ("keepalived\0--use-file=c.conf\0", "c.conf"),
            ("keepalived\0--use-file\0/d.conf\0-P\0", "/d.conf"),
            ("keepalived\0-f\0", DEFAULT),
            ("", DEFAULT),
        ] {
            assert_eq!(configuration(arguments.as_bytes()), Path::new(expected), "{arguments:?}");
        }
    }

    #[test]
    fn a_version_is_found_in_an_executable() {
        let executable = b"\x7fELF\0Keepalived v2.2.7 (01/16,2022)\0";
        assert_eq!(version(executable).as_deref(), Some("keepalived 2.2.7"));
        assert_eq!(version(b"Keepalived v"), None);
        assert_eq!(version(b""), None);
    }

    #[test]
    fn a_link_does_not_lead_out_of_a_root() {
        let name = format!("vipshield-check-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("root/etc")).unwrap();
        fs::write(root.join("root/etc/real.conf"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/real.conf", root.join("root/etc/k.conf")).unwrap();
        std::os::unix::fs::symlink("/../../../etc/hostname", root.join("root/etc/out")).unwrap();
        let text = |path: &str| read(open_in(&root, Path::new(path)), 100);
        assert_eq!(text("/etc/k.conf").unwrap(), b"inside");
        assert!(text("/etc/out").is_err());
        assert!(text("/etc").is_err(), "a directory");
        fs::remove_dir_all(root).unwrap();
    }

    proptest! {
        #[test]
        fn any_executable_and_command_line_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            version(&bytes);
            configuration(&bytes);
        }
    }
}
