//! Settings of the kernel that matter here.

use std::{collections::BTreeMap, fs};

use super::Finding;

const GROUP: &str = "kernel";

/// What is shown, in this order.
const SHOWN: [&str; 6] = [
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_nonlocal_bind",
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_enable",
    "net.core.optmem_max",
];
/// A socket has room for two of vipshield's stubs: the next vipshield's is there before the last one's goes.
const STUBS: u64 = 1024;

pub(super) fn findings() -> Vec<Finding> {
    let read = |name: &&'static str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        Some((*name, fs::read_to_string(path).ok()?.trim().parse().ok()?))
    };
    judge(&SHOWN.iter().filter_map(read).collect())
}

fn judge(values: &BTreeMap<&str, u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is = |name: &str| values.get(name).copied();
    // `arp_ignore` in `net/ipv4/arp.c`: of the settings in use this one alone answers for nothing.
    if is("net.ipv4.conf.all.arp_ignore") == Some(8) {
        findings.push(Finding::warn(
            GROUP,
            "arp_ignore",
            "net.ipv4.conf.all.arp_ignore is 8: the node answers no ARP for its own addresses, the VIP included",
            "set it to 0, 1 or 2 (kube-proxy's strict ARP is 1)",
        ));
    }
    if is("net.core.bpf_jit_enable") == Some(0) {
        findings.push(Finding::warn(
            GROUP,
            "bpf_jit_enable",
            "net.core.bpf_jit_enable is 0: eBPF programs are interpreted, which costs each ARP and VRRP frame more",
            "set it to 1",
        ));
    }
    if let Some(room) = is("net.core.optmem_max").filter(|room| *room < STUBS) {
        findings.push(Finding::fail(
            GROUP,
            "optmem_max",
            format!(
                "net.core.optmem_max is {room}: keepalived's sockets have no room for a filter"
            ),
            format!("set it to {STUBS} or more (Linux has 20480 by default, 131072 since 6.7)"),
        ));
    }
    let shown: Vec<String> = SHOWN
        .iter()
        .filter_map(|name| {
            let short = name.rsplit('.').next().unwrap_or(name);
            Some(format!("{short} {}", is(name)?))
        })
        .collect();
    findings.push(if shown.is_empty() {
        Finding::skip(GROUP, "sysctls", "/proc/sys cannot be read")
    } else {
        Finding::pass(GROUP, "sysctls", shown.join(", "))
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    fn worst(values: &[(&'static str, u64)]) -> Verdict {
        let found = judge(&values.iter().copied().collect());
        found.iter().map(|finding| finding.verdict).max().unwrap()
    }

    #[test]
    fn settings_that_do_harm_are_named() {
        assert_eq!(worst(&[]), Verdict::Skip);
        for (name, good, bad, verdict) in [
            ("net.ipv4.conf.all.arp_ignore", 2, 8, Verdict::Warn),
            ("net.core.bpf_jit_enable", 1, 0, Verdict::Warn),
            ("net.core.optmem_max", 20_480, 1_000, Verdict::Fail),
        ] {
            assert_eq!(worst(&[(name, good)]), Verdict::Pass, "{name} {good}");
            assert_eq!(worst(&[(name, bad)]), verdict, "{name} {bad}");
        }
    }
}
