//! Firewall rules that name the NIC: behind one that lets VRRP in on the NIC alone, a keepalived whose traffic
//! goes by the bridge hears nothing.
//!
//! nftables, and iptables on top of it, are asked for over netlink (`linux/netfilter/nf_tables.h`). A rule is
//! not understood: whether the name is in it is all that is looked for.

use std::{fs, io};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::Finding;
use crate::net::dump;

const GROUP: &str = "network";

/// `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const NFT_MSG_NEWRULE: u16 = 10 << 8 | 6;
const NFT_MSG_GETRULE: u16 = 10 << 8 | 7;

/// A node with kube-proxy has tens of thousands of rules.
const MAX_RULES: usize = 200_000;

/// Tables of the older iptables, which are not looked into.
const LEGACY: [&str; 2] =
    ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];

pub(super) fn findings(nics: &[String]) -> Vec<Finding> {
    let mut findings = match rules() {
        Ok(rules) => nics.iter().map(|nic| judge(nic, &rules)).collect(),
        Err(error) => vec![Finding::skip(GROUP, "firewall", format!("nftables: {error}"))],
    };
    let tables: String = LEGACY.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    if !tables.trim().is_empty() {
        findings.push(Finding::skip(
            GROUP,
            "firewall",
            "iptables-legacy is in use, and not looked into: see that VRRP is accepted on the bridge too",
        ));
    }
    findings
}

fn judge(nic: &str, rules: &[Vec<u8>]) -> Finding {
    let name = "firewall";
    let naming = rules.iter().filter(|rule| names(rule, nic)).count();
    if naming == 0 {
        return Finding::pass(
            GROUP,
            name,
            format!("none of {} rules of nftables names {nic}", rules.len()),
        );
    }
    Finding::warn(
        GROUP,
        name,
        format!(
            "{naming} rules of nftables name {nic}: if VRRP is accepted there alone, a keepalived that waits \
             hears nothing once {nic} is a port"
        ),
        "accept protocol 112 on the bridge too (iifname), in and out",
    )
}

/// An attribute's value begins after a byte of its header that is zero, and a name is padded with zeros.
fn names(rule: &[u8], nic: &str) -> bool {
    let wanted: Vec<u8> = [b"\0", nic.as_bytes(), b"\0"].concat();
    rule.windows(wanted.len()).any(|window| window == wanted)
}

/// Every rule of this network namespace, as the kernel encodes it.
fn rules() -> io::Result<Vec<Vec<u8>>> {
    /// `struct nfgenmsg`: every family, version, resource.
    const BODY: [u8; 4] = [0; 4];
    let mut found = Vec::new();
    dump(NETLINK_NETFILTER, NFT_MSG_GETRULE, &BODY, |kind, body| {
        if kind == NFT_MSG_NEWRULE && found.len() < MAX_RULES {
            found.push(body.to_vec());
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn a_rule_that_names_the_nic_is_found() {
        let rule = |name: &[u8]| [b"\x14\x00\x01\x00".as_slice(), name, &[0; 9]].concat();
        let rules = [rule(b"ens192"), rule(b"ens1920"), rule(b"xens192")];
        assert!(names(&rules[0], "ens192"));
        assert!(!names(&rules[1], "ens192") && !names(&rules[2], "ens192"));
        assert_eq!(judge("ens192", &rules).verdict, Verdict::Warn);
        assert_eq!(judge("ens224", &rules).verdict, Verdict::Pass);
    }
}
