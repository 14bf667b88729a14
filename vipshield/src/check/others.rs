//! Others who have a hand in the node's network: NetworkManager, DHCP clients, Open vSwitch.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _};

use super::Finding;

const GROUP: &str = "network";

const DHCP_CLIENTS: [&str; 3] = ["dhclient", "dhcpcd", "udhcpc"];

pub(super) fn findings() -> Vec<Finding> {
    judge(&running())
}

/// The command names of what runs in this network namespace, as far as it is seen.
fn running() -> BTreeSet<String> {
    let inode = |path: String| fs::metadata(path).ok().map(|it| it.ino());
    let own = inode("/proc/thread-self/ns/net".to_owned());
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = entries.flatten().filter_map(|it| it.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let namespace = inode(format!("/proc/{pid}/ns/net"));
        // One that is hidden may be in this one.
        namespace.is_none() || namespace == own
    })
    .filter_map(|pid| {
        let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
        Some(String::from_utf8_lossy(&comm).trim_end().to_owned())
    })
    .collect()
}

fn judge(running: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(if running.contains("NetworkManager") {
        Finding::warn(
            GROUP,
            "NetworkManager",
            "it runs, and gives back what Kube-OVN takes off a NIC that it manages; Kube-OVN asks it to let go \
             of the NIC",
            "keep NIC and bridge out of it: unmanaged-devices= in its [keyfile]",
        )
    } else {
        Finding::pass(GROUP, "NetworkManager", "is not seen")
    });
    let clients: Vec<&str> =
        DHCP_CLIENTS.into_iter().filter(|client| running.contains(*client)).collect();
    findings.push(if clients.is_empty() {
        Finding::pass(GROUP, "dhcp-client", "none is seen")
    } else {
        Finding::warn(
            GROUP,
            "dhcp-client",
            format!(
                "{} runs: it gives the NIC its address back while a bridge has it",
                clients.join(", ")
            ),
            "give the node a static address, or have it leave the NIC alone",
        )
    });
    findings.push(if running.contains("ovs-vswitchd") {
        Finding::pass(GROUP, "openvswitch", "ovs-vswitchd runs")
    } else {
        Finding::skip(
            GROUP,
            "openvswitch",
            "ovs-vswitchd is not seen: Kube-OVN has not begun here, or its processes are hidden",
        )
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn who_else_changes_addresses_is_named() {
        let of = |names: &[&str]| -> Vec<Verdict> {
            judge(&names.iter().map(|name| (*name).to_owned()).collect())
                .iter()
                .map(|it| it.verdict)
                .collect()
        };
        assert_eq!(of(&[]), [Verdict::Pass, Verdict::Pass, Verdict::Skip]);
        let all = of(&["NetworkManager", "dhclient", "ovs-vswitchd"]);
        assert_eq!(all, [Verdict::Warn, Verdict::Warn, Verdict::Pass]);
    }
}
