//! What the running kernel has of what vipshield uses: tried out, not read off its version.

use std::{error::Error, io};

use aya::{
    maps::MapType,
    programs::{ProgramType, SchedClassifier, TcAttachType},
    sys::{is_map_supported, is_program_supported},
};

use super::{BpfError, Lack, Programs, btf, memlock, opening, sentry};
use crate::causes::causes;

/// Every network namespace has it.
const LOOPBACK: &str = "lo";

/// Something of the kernel that vipshield cannot do without.
struct Need {
    /// What it is, as in "the kernel has no ...".
    what: &'static str,
    /// What it is for.
    purpose: &'static str,
    /// How it can be had.
    way_out: &'static str,
    /// Whether the kernel has it.
    is_there: fn() -> Result<bool, String>,
}

const NEEDS: [Need; 4] = [
    Need {
        what: "eBPF socket filters",
        purpose: "nothing can be withheld from keepalived",
        way_out: "use Linux 3.19 or later with CONFIG_BPF_SYSCALL",
        is_there: || program(ProgramType::SocketFilter),
    },
    Need {
        what: "eBPF classifiers for TC",
        purpose: "nobody sees who owns a VIP, and packets are lost where a NIC joins or leaves a bridge",
        way_out: "use Linux 4.1 or later with CONFIG_NET_CLS_BPF",
        is_there: || program(ProgramType::SchedClassifier),
    },
    Need {
        what: "eBPF programs on raw tracepoints",
        purpose: "a keepalived that starts, is reloaded or dies is not noticed",
        way_out: "use Linux 4.17 or later with CONFIG_BPF_EVENTS",
        is_there: || program(ProgramType::RawTracePoint),
    },
    Need {
        what: "eBPF ring buffers",
        purpose: "what is withheld from keepalived could not be told later",
        way_out: "use Linux 5.8 or later, or a kernel that has them from there",
        is_there: || is_map_supported(MapType::RingBuf).map_err(|error| causes(&error)),
    },
];

fn program(kind: ProgramType) -> Result<bool, String> {
    is_program_supported(kind).map_err(|error| causes(&error))
}

/// Why nothing could be loaded, if the kernel or a limit lacks something.
pub(super) fn explain(error: BpfError) -> BpfError {
    let tried: Vec<_> = NEEDS.iter().map(|need| (need, (need.is_there)())).collect();
    let mut lacks = lacks(&tried);
    // A map of the least size can be made, and a program be loaded: so it is no missing capability.
    let allowed = tried.iter().all(|(_, there)| matches!(there, Ok(true)));
    if allowed && error.is_map_not_allowed() {
        lacks.extend(memlock::lack());
    }
    if lacks.is_empty() { error } else { BpfError::Lacking { lacks, source: Box::new(error) } }
}

fn lacks(tried: &[(&Need, Result<bool, String>)]) -> Vec<Lack> {
    let lack = |need: &Need| Lack {
        text: format!("the kernel has no {}: {}", need.what, need.purpose),
        way_out: need.way_out.to_owned(),
    };
    let missing = tried.iter().filter(|(_, there)| matches!(there, Ok(false)));
    missing.map(|(need, _)| lack(need)).collect()
}

/// Whether TC programs go without a qdisc (tcx, Linux 6.6).
pub fn has_tcx() -> Result<bool, String> {
    match SchedClassifier::query_tcx(LOOPBACK, TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match errno(&error) {
            // Nothing is there (`tcx_prog_query` in `kernel/bpf/tcx.c`).
            Some(libc::ENOENT) => Ok(true),
            // No such place (`bpf_prog_query` in `kernel/bpf/syscall.c`).
            Some(libc::EINVAL) => Ok(false),
            _ => Err(causes(&error)),
        },
    }
}

/// Whether the kernel describes its types (BTF).
pub fn tells_types() -> io::Result<()> {
    btf::Types::of_kernel().map(drop)
}

impl Programs {
    /// Tries the probes where ports join and leave their bridges. Without them that is seen a little later.
    pub fn try_probes(&mut self) -> Result<(), String> {
        sentry::try_probes(&mut self.ebpf).map_err(|error| causes(&error))
    }

    /// Tries the program on `setsockopt(2)`. Without it a daemon that is reloaded while names are exchanged
    /// fails once.
    pub fn try_socket_opening(&mut self) -> Result<(), BpfError> {
        opening::load(&mut self.ebpf)
    }
}

fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let own = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    own.or_else(|| error.source().and_then(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_has_not_is_named_and_what_could_not_be_tried_is_not() {
        let outcomes = [Ok(true), Err("EPERM".to_owned()), Ok(true), Ok(false)];
        let lacks = lacks(&NEEDS.iter().zip(outcomes).collect::<Vec<_>>());
        let texts: Vec<_> = lacks.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "the kernel has no eBPF ring buffers: what is withheld from keepalived could not be told later: use \
                 Linux 5.8 or later, or a kernel that has them from there"
            ]
        );
    }
}
