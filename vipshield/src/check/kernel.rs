//! What the kernel has: vipshield's own programs are loaded, tried on sockets of its own, and let go of.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::fs::{Access, access, statfs};

use super::Finding;
use crate::{
    bpf::{self, BPFFS, BpfError, Lack, Programs},
    causes::causes,
    net::named,
};

const GROUP: &str = "kernel";

/// `BPF_FS_MAGIC` in `linux/magic.h`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

pub(super) fn findings(daemons: &[String]) -> Vec<Finding> {
    let mut findings = programs(daemons);
    findings.push(tcx(&bpf::has_tcx()));
    findings.push(bpffs());
    let diagnosed = named(b"vipshield");
    findings.push(unix_diag(&diagnosed.map(drop)));
    findings
}

/// `told`: the kernel describes its types. `used`: programs may read what has these types.
fn types(told: &io::Result<()>, used: bool) -> Finding {
    let name = "btf";
    let (text, way_out) = match told {
        Ok(()) if used => {
            return Finding::pass(
                GROUP,
                name,
                "the kernel describes its types, and lets them be read",
            );
        }
        Ok(()) => (
            "the kernel lets no program read its structures".to_owned(),
            "boot with lockdown=integrity, or none",
        ),
        Err(error) => (
            format!("/sys/kernel/btf/vmlinux: {error}"),
            "use a kernel with CONFIG_DEBUG_INFO_BTF (Linux 5.4)",
        ),
    };
    let costs = "ports are seen to join and leave a little later, which may cost a packet, and every process \
                 named like a daemon is looked at";
    Finding::warn(GROUP, name, format!("{text}: {costs}"), way_out)
}

/// Loads everything, as `run` does.
fn programs(daemons: &[String]) -> Vec<Finding> {
    let name = "ebpf";
    let told = bpf::tells_types();
    let mut programs = match Programs::load(daemons) {
        Ok(programs) => programs,
        Err(error) => {
            let mut findings = vec![types(&told, true)];
            findings.extend(refused(name, &error));
            return findings;
        }
    };
    vec![
        types(&told, programs.knows_types()),
        Finding::pass(GROUP, name, "the kernel takes vipshield's programs; raw tracepoints work"),
        socket_filter(&try_filter(&mut programs)),
        probes(programs.try_probes()),
        socket_opening(&programs.try_socket_opening()),
    ]
}

fn refused(name: &str, error: &BpfError) -> Vec<Finding> {
    let BpfError::Lacking { lacks, source } = error else {
        let way_out = "see the capabilities and the lockdown above, and in a container the seccomp profile, which \
                       has to let bpf in with CAP_BPF (or Unconfined); else report it, with the kernel's version";
        return vec![Finding::fail(GROUP, name, causes(error), way_out)];
    };
    let fail = |lack: &Lack| {
        Finding::fail(GROUP, name, format!("{} ({})", lack.text, causes(source)), &lack.way_out)
    };
    lacks.iter().map(fail).collect()
}

fn try_filter(programs: &mut Programs) -> Result<(), String> {
    let own = Socket::new(NETLINK_ROUTE).map_err(|error| error.to_string())?;
    programs.post_sentry(&own).map_err(|error| causes(&error))
}

fn socket_filter(tried: &Result<(), String>) -> Finding {
    let name = "socket-filter";
    match tried {
        Ok(()) => Finding::pass(GROUP, name, "goes on a netlink socket"),
        Err(error) => Finding::fail(
            GROUP,
            name,
            format!("a filter on a netlink socket of vipshield's own: {error}"),
            "let the seccomp profile and the security module allow setsockopt(2) with SO_ATTACH_BPF",
        ),
    }
}

fn probes(tried: Result<(), String>) -> Finding {
    let name = "kprobe";
    match tried {
        Ok(()) => Finding::pass(
            GROUP,
            name,
            "ports that join and leave, and requests for IPv6 addresses, are seen in the kernel",
        ),
        Err(error) => Finding::warn(
            GROUP,
            name,
            format!(
                "{error}: ports are seen to join and leave a little later, which may cost a packet, and IPv6 \
                 addresses that keepalived takes on a busy node may be taken for somebody else's"
            ),
            "use a kernel with CONFIG_KPROBES and BTF, not locked down; where the permission is denied, as by Debian's \
             kernels to all but CAP_SYS_ADMIN, set kernel.perf_event_paranoid to 2 or less",
        ),
    }
}

fn socket_opening(tried: &Result<(), BpfError>) -> Finding {
    let name = "cgroup-setsockopt";
    match tried {
        Ok(()) => {
            Finding::pass(GROUP, name, "keepalived may be reloaded while names are exchanged")
        }
        Err(error) => Finding::warn(
            GROUP,
            name,
            format!(
                "{}: a keepalived that is reloaded while names are exchanged fails once",
                causes(error)
            ),
            "use Linux 5.15 or later, with CONFIG_CGROUP_BPF; or reload keepalived at other times",
        ),
    }
}

fn tcx(there: &Result<bool, String>) -> Finding {
    let name = "tcx";
    match there {
        Ok(true) => Finding::pass(GROUP, name, "TC programs need no qdisc"),
        Ok(false) => Finding::pass(
            GROUP,
            name,
            "not before Linux 6.6: TC programs use a clsact qdisc (module sch_ingress), which is not tried out",
        ),
        Err(error) => Finding::skip(GROUP, name, error.clone()),
    }
}

fn bpffs() -> Finding {
    let path = Path::new(BPFFS);
    let kind = statfs(path).map(|it| it.f_type).map_err(io::Error::from);
    let writable = access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
        && fs::metadata(path).is_ok_and(|it| it.mode() & 0o200 != 0);
    judge_bpffs(&kind, writable)
}

fn judge_bpffs(kind: &io::Result<i64>, writable: bool) -> Finding {
    let name = "bpffs";
    let text = match kind {
        Ok(BPF_FS_MAGIC) if writable => {
            return Finding::pass(GROUP, name, format!("{BPFFS} can be written to"));
        }
        Ok(BPF_FS_MAGIC) => format!("{BPFFS} cannot be written to"),
        Ok(_) => format!("no bpffs is mounted at {BPFFS}"),
        Err(error) => format!("{BPFFS}: {error}"),
    };
    Finding::warn(
        GROUP,
        name,
        format!(
            "{text}: what a vipshield that is killed while names are exchanged knew of them, the next one guesses"
        ),
        format!("mount -t bpf bpf {BPFFS}; in a container mount the node's as a hostPath"),
    )
}

fn unix_diag(asked: &io::Result<()>) -> Finding {
    let name = "unix_diag";
    match asked {
        Ok(()) => Finding::pass(GROUP, name, "tells whether another vipshield runs here"),
        Err(error) => Finding::fail(
            GROUP,
            name,
            format!("asking who holds a name: {error}: vipshield does not start"),
            "modprobe unix_diag",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn what_is_missing_is_said_with_what_it_costs() {
        let failed = || Err("EPERM".to_owned());
        let errors = || io::Error::from_raw_os_error(libc::ENOENT);
        for (finding, verdict) in [
            (types(&Ok(()), true), Verdict::Pass),
            (types(&Ok(()), false), Verdict::Warn),
            (types(&Err(errors()), false), Verdict::Warn),
            (socket_filter(&failed()), Verdict::Fail),
            (probes(failed()), Verdict::Warn),
            (socket_opening(&Err(BpfError::Missing("it"))), Verdict::Warn),
            (tcx(&Ok(false)), Verdict::Pass),
            (tcx(&failed().map(|()| true)), Verdict::Skip),
            (judge_bpffs(&Ok(BPF_FS_MAGIC), true), Verdict::Pass),
            (judge_bpffs(&Ok(BPF_FS_MAGIC), false), Verdict::Warn),
            (judge_bpffs(&Ok(1), true), Verdict::Warn),
            (judge_bpffs(&Err(errors()), false), Verdict::Warn),
            (unix_diag(&Ok(())), Verdict::Pass),
            (unix_diag(&Err(errors())), Verdict::Fail),
        ] {
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert_eq!(finding.way_out.is_some(), verdict >= Verdict::Warn, "{finding:?}");
        }
    }

    #[test]
    fn each_thing_that_the_kernel_lacks_has_its_own_line() {
        let lack = |text: &str| Lack { text: text.to_owned(), way_out: format!("no {text}") };
        let source = || Box::new(BpfError::Missing("map"));
        let lacks = vec![lack("ring"), lack("filter")];
        let findings = refused("ebpf", &BpfError::Lacking { lacks, source: source() });
        let told: Vec<_> = findings.iter().map(|it| (it.text.as_str(), it.verdict)).collect();
        let expected = [
            ("ring (the eBPF object has no map)", Verdict::Fail),
            ("filter (the eBPF object has no map)", Verdict::Fail),
        ];
        assert_eq!(told, expected);
        assert_eq!(findings[1].way_out.as_deref(), Some("no filter"));
        assert_eq!(refused("ebpf", &source()).len(), 1);
    }
}
