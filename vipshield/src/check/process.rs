//! vipshield's own process: what it may do, and what it sees.

use std::{fs, io, os::unix::fs::MetadataExt as _};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::{Finding, limits};

const GROUP: &str = "process";

/// Inodes of the first namespaces of a node (`linux/proc_ns.h`).
const FIRST_USER: u64 = 0xefff_fffd;
const FIRST_PID: u64 = 0xefff_fffc;

/// Capabilities that vipshield needs: number (`linux/capability.h`), name, and what it is for.
pub(crate) const NEEDED: [(u32, &str, &str); 5] = [
    (39, "BPF", "loads eBPF programs and their maps"),
    (38, "PERFMON", "lets eBPF programs read what a message says, and follow tasks"),
    (12, "NET_ADMIN", "puts filters, routes, rules and VIPs in place"),
    (13, "NET_RAW", "announces VIPs, and hears what keepalived's sockets hear"),
    (19, "SYS_PTRACE", "finds keepalived's sockets and works on duplicates of them"),
];
/// `CAP_SYS_ADMIN` stands for these two (`bpf_capable`, `perfmon_capable` in `linux/capability.h`).
const IN_SYS_ADMIN: [u32; 2] = [39, 38];
const SYS_ADMIN: u32 = 21;
const SYS_NICE: u32 = 23;

/// What `/proc/PID/status` says, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Status {
    effective: Option<u64>,
    seccomp: Option<u32>,
}

impl Status {
    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        Self {
            effective: field("CapEff").and_then(|hex| u64::from_str_radix(hex, 16).ok()),
            seccomp: field("Seccomp").and_then(|mode| mode.parse().ok()),
        }
    }
}

/// The namespaces of this process and of the node's first one, by inode.
#[derive(Clone, Copy, Debug, Default)]
struct Namespaces {
    user: Option<u64>,
    pid: Option<u64>,
    network: Option<u64>,
    /// The network namespace of process 1, or of a kernel thread.
    first_network: Option<u64>,
}

/// Everything; `sees_daemon`: one was found.
pub(super) fn findings(sees_daemon: bool) -> Vec<Finding> {
    let mut findings = own();
    let namespaces = namespaces();
    findings.push(pid_namespace(namespaces, sees_daemon));
    findings.push(network_namespace(namespaces, sees_daemon));
    findings
}

/// What does not depend on others.
pub(super) fn own() -> Vec<Finding> {
    let status = Status::parse(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default());
    let mut findings = capabilities(status.effective);
    findings.push(user_namespace(namespaces()));
    findings.push(seccomp(status.seccomp, &duplicate_own_descriptor()));
    findings.push(limits::finding());
    findings
}

fn namespaces() -> Namespaces {
    let inode = |path: &str| fs::metadata(path).ok().map(|namespace| namespace.ino());
    let pid = inode("/proc/thread-self/ns/pid");
    // Process 1 may be hidden; process 2 is the kernel's where it is seen as such.
    let kernel = || (pid == Some(FIRST_PID)).then(|| inode("/proc/2/ns/net")).flatten();
    Namespaces {
        user: inode("/proc/thread-self/ns/user"),
        pid,
        network: inode("/proc/thread-self/ns/net"),
        first_network: inode("/proc/1/ns/net").or_else(kernel),
    }
}

fn capabilities(effective: Option<u64>) -> Vec<Finding> {
    let Some(effective) = effective else {
        return vec![Finding::skip(GROUP, "capabilities", "/proc/thread-self/status does not say")];
    };
    let has = |number: u32| effective >> number & 1 == 1;
    let mut findings: Vec<Finding> = NEEDED
        .iter()
        .map(|(number, name, purpose)| {
            if has(*number) || (IN_SYS_ADMIN.contains(number) && has(SYS_ADMIN)) {
                Finding::pass(GROUP, name, *purpose)
            } else {
                let text = format!("CAP_{name} is missing, which {purpose}");
                let way_out = format!(
                    "add {name} to the container's securityContext.capabilities.add, or CAP_{name} to the \
                     unit's AmbientCapabilities"
                );
                Finding::fail(GROUP, name, text, way_out)
            }
        })
        .collect();
    let nice = if has(SYS_NICE) {
        "has a turn before other programs on a busy node"
    } else {
        "is not given, and need not be: helps on a busy node"
    };
    findings.push(Finding::pass(GROUP, "SYS_NICE", nice));
    findings
}

/// eBPF asks for capabilities in the first user namespace, whatever this one gives.
fn user_namespace(namespaces: Namespaces) -> Finding {
    let name = "user-namespace";
    match namespaces.user {
        Some(FIRST_USER) => Finding::pass(GROUP, name, "the node's"),
        Some(_) => Finding::fail(
            GROUP,
            name,
            "not the node's: capabilities in it are none over eBPF",
            "run vipshield without a user namespace of its own (hostUsers: true, no userns-remap)",
        ),
        None => Finding::skip(GROUP, name, "/proc/thread-self/ns/user cannot be looked at"),
    }
}

fn pid_namespace(namespaces: Namespaces, sees_daemon: bool) -> Finding {
    let name = "pid-namespace";
    match namespaces.pid {
        Some(FIRST_PID) => Finding::pass(GROUP, name, "the node's"),
        Some(_) if sees_daemon => {
            Finding::pass(GROUP, name, "not the node's; a daemon is seen in it")
        }
        Some(_) => Finding::warn(
            GROUP,
            name,
            "not the node's, and no daemon is seen in it",
            "set hostPID: true; in keepalived's own pod shareProcessNamespace: true",
        ),
        None => Finding::skip(GROUP, name, "/proc/thread-self/ns/pid cannot be looked at"),
    }
}

fn network_namespace(namespaces: Namespaces, sees_daemon: bool) -> Finding {
    let name = "network-namespace";
    match (namespaces.network, namespaces.first_network) {
        (Some(own), Some(first)) if own == first => Finding::pass(GROUP, name, "that of process 1"),
        (Some(_), Some(_)) if sees_daemon => {
            Finding::pass(GROUP, name, "not that of process 1; a daemon is seen in it")
        }
        (Some(_), Some(_)) => Finding::warn(
            GROUP,
            name,
            "not that of process 1, and no daemon is seen in it",
            "set hostNetwork: true, or run vipshield in keepalived's network namespace",
        ),
        _ => Finding::skip(GROUP, name, "that of process 1 cannot be looked at"),
    }
}

/// What vipshield does with keepalived's sockets, done with its own.
fn duplicate_own_descriptor() -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(&own, 0, PidfdGetfdFlags::empty())?;
    Ok(())
}

fn seccomp(mode: Option<u32>, duplicated: &io::Result<()>) -> Finding {
    let name = "seccomp";
    let refused = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
    };
    match (mode, duplicated) {
        (_, Err(error)) if refused(error) => Finding::fail(
            GROUP,
            name,
            format!("pidfd_open(2) or pidfd_getfd(2) is refused: {error}"),
            "it needs Linux 5.6; let the seccomp profile allow both (RuntimeDefault does with SYS_PTRACE)",
        ),
        (Some(0), _) => Finding::pass(GROUP, name, "no profile"),
        (Some(_), _) => Finding::pass(GROUP, name, "a profile, which lets pidfd_getfd(2) in"),
        (None, _) => Finding::skip(GROUP, name, "the kernel does not say"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Verdict, *};

    const ALL: u64 = 1 << 39 | 1 << 38 | 1 << 12 | 1 << 13 | 1 << 19;

    fn verdicts(effective: u64) -> Vec<(String, Verdict)> {
        capabilities(Some(effective)).into_iter().map(|it| (it.name, it.verdict)).collect()
    }

    #[test]
    fn a_status_is_read() {
        let text = "Name:\tvipshield\nCapPrm:\t00\nCapEff:\t000001ffffffffff\nSeccomp:\t2\n\
                    Seccomp_filters:\t1\n";
        let expected = Status { effective: Some((1 << 41) - 1), seccomp: Some(2) };
        assert_eq!(Status::parse(text), expected);
        assert_eq!(Status::parse(""), Status::default());
    }

    #[test]
    fn each_capability_that_is_missing_is_named() {
        assert!(verdicts(ALL).iter().all(|(_, verdict)| *verdict == Verdict::Pass));
        for (number, name, _) in NEEDED {
            let failed: Vec<String> = verdicts(ALL & !(1 << number))
                .into_iter()
                .filter(|(_, verdict)| *verdict == Verdict::Fail)
                .map(|(name, _)| name)
                .collect();
            assert_eq!(failed, [name]);
        }
    }

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_alone() {
        let failed = verdicts(1 << SYS_ADMIN);
        let failed: Vec<&str> = failed
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Fail)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(failed, ["NET_ADMIN", "NET_RAW", "SYS_PTRACE"]);
    }

    #[test]
    fn another_namespace_is_no_fault_where_a_daemon_is_seen() {
        let own =
            Namespaces { user: Some(1), pid: Some(1), network: Some(1), first_network: Some(2) };
        assert_eq!(user_namespace(own).verdict, Verdict::Fail);
        for (sees, verdict) in [(true, Verdict::Pass), (false, Verdict::Warn)] {
            assert_eq!(pid_namespace(own, sees).verdict, verdict);
            assert_eq!(network_namespace(own, sees).verdict, verdict);
        }
        let unknown = Namespaces::default();
        assert_eq!(network_namespace(unknown, true).verdict, Verdict::Skip);
        assert_eq!(user_namespace(unknown).verdict, Verdict::Skip);
    }

    #[test]
    fn a_profile_that_refuses_is_told_from_one_that_does_not() {
        let refused = Err(io::Error::from_raw_os_error(libc::EPERM));
        assert_eq!(seccomp(Some(2), &refused).verdict, Verdict::Fail);
        assert_eq!(seccomp(Some(2), &Ok(())).verdict, Verdict::Pass);
        assert_eq!(seccomp(Some(0), &Ok(())).verdict, Verdict::Pass);
        let passing = Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(seccomp(None, &passing).verdict, Verdict::Skip);
    }

    proptest! {
        #[test]
        fn any_status_is_read_without_a_panic(text in "\\PC*") {
            let status = Status::parse(&text);
            capabilities(status.effective);
        }
    }
}
