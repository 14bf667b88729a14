//! Before Linux 5.11 maps and programs count against what a process may lock in memory, those of all
//! programs of its user together (`__bpf_map_charge`, `bpf_charge_memlock` in `kernel/bpf/syscall.c`).
//! Where they do not, the limit means nothing.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::error::Lack;

/// Lifts the limit as far as this process may: with `CAP_SYS_RESOURCE` altogether.
pub(super) fn lift() {
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        // What is allowed anyhow is not refused.
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
}

/// What to say if the limit is what keeps maps from being made.
pub(super) fn lack() -> Option<Lack> {
    getrlimit(Resource::Memlock).current.map(lack_of)
}

fn lack_of(limit: u64) -> Lack {
    Lack {
        text: format!(
            "this process may lock {} KiB in memory, against which eBPF maps count before Linux 5.11, those of \
             other programs included",
            limit / 1024
        ),
        way_out: "lift that limit: LimitMEMLOCK=infinity in the unit, or SYS_RESOURCE in the container's \
                  securityContext.capabilities.add"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_named_in_the_unit_in_which_it_is_set() {
        assert!(lack_of(65_536).text.contains(" 64 KiB "));
    }
}
