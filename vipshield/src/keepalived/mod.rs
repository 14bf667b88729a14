//! keepalived's version and configuration, as far as they can be read: it is neither asked nor run.

pub(crate) mod conf;

use std::{
    fs::{self, File},
    io::{self, Read as _},
    mem,
    net::IpAddr,
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, open, openat2};

use self::conf::Statement;
use crate::engine::{
    Excluded,
    pattern::{is_pattern, matches},
};

/// Where keepalived looks first if it is not told.
const DEFAULT: &str = "/etc/keepalived/keepalived.conf";
/// Of a configuration so many bytes are read, with all that it includes: by who does nothing else, and by the loop.
pub(crate) const MAX_CONFIGURATION: u64 = 1 << 20;
pub(crate) const MAX_CONFIGURATION_IN_LOOP: u64 = 1 << 18;
const MAX_EXECUTABLE: u64 = 32 << 20;
/// So many files are included, at any depth.
const MAX_INCLUDED: usize = 64;
/// VIPs of one daemon that no advert names: as many as anybody has.
const MAX_EXCLUDED: usize = 1024;

/// The version of a process's executable, if that says so.
pub(crate) fn version_of(pid: u32) -> io::Result<Option<String>> {
    let executable = read(File::open(process(pid).join("exe")), MAX_EXECUTABLE)?;
    Ok(version(&executable))
}

/// The file with a process's configuration, as the process sees it.
pub(crate) fn path_of(pid: u32) -> PathBuf {
    let arguments = fs::read(process(pid).join("cmdline")).unwrap_or_default();
    path_in(&arguments)
}

/// What is in it now, with what it includes in place of that, up to so many bytes. What cannot be read stays an
/// `include`.
pub(crate) fn configuration_of(pid: u32, most: u64) -> io::Result<Statement> {
    let process = process(pid);
    let path = path_of(pid);
    let text = read(open_in(&process, &path), most)?;
    let mut configuration = conf::read(&String::from_utf8_lossy(&text));
    let room = most.saturating_sub(text.len() as u64);
    Include { process: &process, left: MAX_INCLUDED, room }
        .expand(&mut configuration, beside(&path));
    Ok(configuration)
}

/// Whether a statement stands for other files. The last letter says what it is to keepalived if there is none.
pub(crate) fn is_include(statement: &Statement) -> bool {
    let words = ["include", "includer", "includem", "includew", "includeb", "includea"];
    statement.word(0).is_some_and(|word| words.contains(&word))
}

/// Reads the files that are included.
struct Include<'a> {
    process: &'a Path,
    /// So many more.
    left: usize,
    /// And so many bytes.
    room: u64,
}

impl Include<'_> {
    /// What a file of this directory includes goes to where it does so, at any depth. Names are relative to that
    /// directory, and the last part of one may be a pattern.
    fn expand(&mut self, statement: &mut Statement, directory: &Path) {
        for mut inner in mem::take(&mut statement.block) {
            let name = inner.word(1).filter(|_| is_include(&inner));
            let Some(path) = name.map(|name| directory.join(name)) else {
                self.expand(&mut inner, directory);
                statement.block.push(inner);
                continue;
            };
            match self.read(&path) {
                Ok(read) => statement.block.extend(read),
                Err(_) => statement.block.push(inner),
            }
        }
    }

    fn read(&mut self, path: &Path) -> io::Result<Vec<Statement>> {
        let mut all = Vec::new();
        for file in files(self.process, path)? {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::FileTooLarge)?;
            let text = read(open_in(self.process, &file), self.room)?;
            self.room = self.room.saturating_sub(text.len() as u64);
            let mut read = conf::read(&String::from_utf8_lossy(&text));
            self.expand(&mut read, beside(&file));
            all.extend(read.block);
        }
        Ok(all)
    }
}

fn beside(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// What a path stands for, in the order of the names.
fn files(process: &Path, path: &Path) -> io::Result<Vec<PathBuf>> {
    let pattern = path.file_name().unwrap_or_default().to_string_lossy();
    if !is_pattern(&pattern) {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in Dir::new(open_in(process, beside(path))?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if !name.starts_with('.') && matches(&pattern, &name) {
            found.push(beside(path).join(&*name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The VIPs that are in no advert (`virtual_ipaddress_excluded`), each with its virtual router.
pub(crate) fn excluded(configuration: &Statement) -> Vec<Excluded> {
    let mut all = Vec::new();
    for instance in configuration.all("vrrp_instance") {
        let id = instance.find("virtual_router_id").and_then(|it| it.word(1)?.parse().ok());
        let Some(router_id) = id else { continue };
        for vip in instance.all("virtual_ipaddress_excluded").flat_map(|it| &it.block) {
            let address = vip.word(0).and_then(|word| word.split('/').next());
            let address = address.and_then(|address| address.parse::<IpAddr>().ok());
            all.extend(address.map(|ip| Excluded { router_id, ip }));
        }
    }
    all.truncate(MAX_EXCLUDED);
    all
}

fn process(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
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
fn path_in(arguments: &[u8]) -> PathBuf {
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
            assert_eq!(path_in(arguments.as_bytes()), Path::new(expected), "{arguments:?}");
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
    fn what_is_included_is_read_where_it_is_included() {
        let name = format!("vipshield-include-{}", std::process::id());
        let process = std::env::temp_dir().join(name);
        let conf = process.join("root/etc/conf.d");
        fs::create_dir_all(&conf).unwrap();
        for (file, text) in [
            ("b.conf", "b"),
            ("a.conf", "a {\n include more\n}"),
            ("more", "more\nincludea ../none"),
            (".c.conf", "hidden"),
            ("self", "self\ninclude self"),
        ] {
            fs::write(conf.join(file), text).unwrap();
        }
        let mut read = conf::read("x {\n include conf.d/*.conf\n}\ninclude nowhere/*");
        let mut include = Include { process: &process, left: 8, room: 1_000 };
        include.expand(&mut read, Path::new("/etc"));
        let expected = "x {\n a {\n more\n includea ../none\n }\n b\n}\ninclude nowhere/*";
        assert_eq!(read, conf::read(expected));
        let mut read = conf::read("include self");
        Include { process: &process, left: 3, room: 1_000 }
            .expand(&mut read, Path::new("/etc/conf.d"));
        assert_eq!(read, conf::read("self\nself\nself\ninclude self"));
        fs::remove_dir_all(process).unwrap();
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

    #[test]
    fn vips_that_no_advert_names_are_found() {
        let text = "vrrp_instance A {\n virtual_router_id 51\n virtual_ipaddress {\n 192.0.2.10\n }\n \
            virtual_ipaddress_excluded {\n 192.0.2.20/32 dev eth0\n $OTHER\n 2001:db8::20\n }\n}\n\
            vrrp_instance B {\n virtual_router_id 300\n virtual_ipaddress_excluded {\n 192.0.2.30\n }\n}\n\
            vrrp_instance C {\n virtual_ipaddress_excluded {\n 192.0.2.40\n }\n}";
        let found: Vec<(u8, String)> = excluded(&conf::read(text))
            .iter()
            .map(|it| (it.router_id, it.ip.to_string()))
            .collect();
        assert_eq!(found, [(51, "192.0.2.20".to_owned()), (51, "2001:db8::20".to_owned())]);
    }

    proptest! {
        #[test]
        fn any_executable_and_command_line_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            version(&bytes);
            path_in(&bytes);
        }
    }
}
