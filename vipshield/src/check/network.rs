//! The NIC, who speaks VRRP on it, its addresses, and the routing rules of others.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};

use super::{Finding, Question, Seen, firewall};
use crate::{
    causes::causes,
    engine::{
        Address, Daemon, Event, Family, Link, Rule, RuleKind,
        pattern::{is_pattern, matches},
        refusal,
    },
    net::{Monitor, OWN},
};

const GROUP: &str = "network";

/// What there is.
#[derive(Debug, Default)]
struct Node {
    links: Vec<Link>,
    addresses: Vec<(u32, Address)>,
    rules: Vec<Rule>,
    /// Interfaces with an IPv4 address that ends unless somebody renews it.
    leased: BTreeSet<u32>,
}

impl Node {
    fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.ifindex == ifindex)
    }

    fn name(&self, ifindex: u32) -> String {
        self.link(ifindex).map_or_else(|| format!("interface {ifindex}"), |link| link.name.clone())
    }
}

pub(super) async fn findings(question: &Question, seen: &Seen) -> Vec<Finding> {
    let mut findings = daemons(question, seen);
    let node = match read().await {
        Ok(node) => node,
        Err(error) => {
            findings.push(Finding::skip(GROUP, "interfaces", error));
            return findings;
        }
    };
    findings.extend(interfaces(question, &seen.daemons, &node));
    findings.extend(rules(&node.rules));
    let nics = nics(question, &seen.daemons, &node);
    findings.extend(firewall::findings(&nics));
    findings
}

async fn read() -> Result<Node, String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("an rtnetlink socket: {error}"))?;
    tokio::spawn(connection);
    let mut monitor = Monitor::open(handle.clone()).map_err(|error| causes(&error))?;
    let snapshot = monitor.snapshot().await.map_err(|error| causes(&error))?;
    let listed: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(|error| causes(&error))?;
    let leased = listed.iter().filter(|address| ends(address)).map(|it| it.header.index).collect();
    match snapshot {
        Event::Snapshot { links, addresses, rules, .. } => {
            Ok(Node { links, addresses, rules, leased })
        }
        _ => Ok(Node { leased, ..Node::default() }),
    }
}

/// Of IPv6 most do: routers say so. vipshield's own do too.
fn ends(address: &AddressMessage) -> bool {
    let permanent = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Flags(flags) => flags.contains(AddressFlags::Permanent),
        _ => false,
    };
    let own = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(ip) => OWN.iter().any(|own| ip == own),
        _ => false,
    };
    address.header.family == AddressFamily::Inet
        && !address.attributes.iter().any(|it| permanent(it) || own(it))
}

fn daemons(question: &Question, seen: &Seen) -> Vec<Finding> {
    let name = "daemons";
    if let Some(trouble) = &seen.trouble {
        return vec![Finding::skip(GROUP, name, trouble.clone())];
    }
    if seen.daemons.is_empty() {
        let names: Vec<&str> = question.daemons.iter().map(|it| it.name.as_str()).collect();
        return vec![Finding::warn(
            GROUP,
            name,
            format!("no {} is seen in this network namespace", names.join(" or ")),
            "start it, or see to the namespaces and SYS_PTRACE above; --daemon names another executable",
        )];
    }
    let finding = |daemon: &Daemon| {
        let who = format!("{} {}", daemon.name, daemon.pid);
        match &daemon.trouble {
            Some(trouble) => Finding::fail(
                GROUP,
                name,
                format!("{who} cannot be guarded: {trouble}"),
                "see SYS_PTRACE, yama, apparmor and selinux above",
            ),
            None => Finding::pass(
                GROUP,
                name,
                format!(
                    "{who}: {} VRRP sockets, {} monitors",
                    daemon.vrrp.len(),
                    daemon.monitors.len()
                ),
            ),
        }
    };
    seen.daemons.iter().map(finding).collect()
}

/// Where daemons speak VRRP: a NIC that a vipshield has moved sockets from counts, not where they are.
fn spoken_on(daemons: &[Daemon]) -> BTreeSet<u32> {
    let sockets = daemons.iter().flat_map(|daemon| &daemon.vrrp);
    sockets.filter_map(|socket| socket.home.or(socket.bound)).collect()
}

/// The names of the NICs that are or would be guarded.
fn nics(question: &Question, daemons: &[Daemon], node: &Node) -> Vec<String> {
    let spoken = || spoken_on(daemons).into_iter().map(|ifindex| node.name(ifindex));
    if question.interfaces.is_empty() {
        return spoken().collect();
    }
    let (patterns, mut names): (Vec<_>, Vec<_>) =
        question.interfaces.iter().cloned().partition(|name| is_pattern(name));
    let fits = |name: &String| patterns.iter().any(|pattern| matches(pattern, name));
    let fitting: Vec<String> =
        spoken().filter(|name| fits(name) && !names.contains(name)).collect();
    names.extend(fitting);
    names
}

fn interfaces(question: &Question, daemons: &[Daemon], node: &Node) -> Vec<Finding> {
    let spoken = spoken_on(daemons);
    let links: BTreeMap<&str, &Link> =
        node.links.iter().map(|link| (link.name.as_str(), link)).collect();
    let mut findings = Vec::new();
    for name in nics(question, daemons, node) {
        let Some(link) = links.get(name.as_str()) else {
            findings.push(Finding::fail(
                GROUP,
                "interface",
                format!("there is no {name} in this network namespace"),
                "name keepalived's interface with --interface, or none",
            ));
            continue;
        };
        findings.push(interface(link, node, &spoken));
        if node.leased.contains(&link.ifindex) {
            findings.push(Finding::warn(
                GROUP,
                "dhcp",
                format!(
                    "an address of {name} ends unless it is renewed, by DHCP: while {name} is a port nobody \
                     renews it there"
                ),
                "give the node a static address, or a DHCP client that follows to the bridge",
            ));
        }
    }
    findings
}

fn interface(link: &Link, node: &Node, spoken: &BTreeSet<u32>) -> Finding {
    let name = "interface";
    let Link { name: nic, kind, .. } = link;
    let on_it = |ifindex: &u32| {
        *ifindex == link.ifindex
            || node.link(*ifindex).is_some_and(|upper| upper.link == Some(link.ifindex))
    };
    let addresses: Vec<String> = node
        .addresses
        .iter()
        .filter(|(ifindex, address)| *ifindex == link.ifindex && !address.is_link_local())
        .map(|(_, address)| address.ip.to_string())
        .collect();
    let virtual_mac = matches!(kind.as_deref(), Some("macvlan" | "ipvlan"));
    if virtual_mac {
        return Finding::fail(
            GROUP,
            name,
            format!(
                "{nic} is a {} (use_vmac or use_ipvlan): its NIC cannot become a port",
                kind.as_deref().unwrap_or_default()
            ),
            "take use_vmac and use_ipvlan out of keepalived's configuration",
        );
    }
    if link.is_bridge() {
        return Finding::warn(
            GROUP,
            name,
            format!("keepalived speaks on {nic}, a bridge: that is not the NIC that is taken"),
            "configure keepalived with the NIC's name, or name the NIC with --interface",
        );
    }
    if !link.may_be_nic() {
        return Finding::warn(
            GROUP,
            name,
            format!("{nic} is no Ethernet interface that could become a port"),
            "name keepalived's NIC with --interface, or none",
        );
    }
    if !spoken.is_empty() && !spoken.iter().any(on_it) {
        let on: Vec<String> = spoken.iter().map(|ifindex| node.name(*ifindex)).collect();
        return Finding::warn(
            GROUP,
            name,
            format!("no daemon speaks VRRP on {nic}, but on {}", on.join(", ")),
            "name that with --interface, or none",
        );
    }
    let state = match (link.master, link.running) {
        (Some(master), _) => format!("a port of {}", node.name(master)),
        (None, true) => "up".to_owned(),
        (None, false) => "without a carrier".to_owned(),
    };
    let addresses =
        if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") };
    Finding::pass(GROUP, name, format!("{nic}: {state}, {addresses}"))
}

fn rules(rules: &[Rule]) -> Vec<Finding> {
    let name = "rules";
    let mut findings = Vec::new();
    for family in Family::ALL {
        let of: Vec<Rule> = rules.iter().filter(|rule| rule.family == family).copied().collect();
        if of.is_empty() {
            continue;
        }
        let before = of.iter().take_while(|rule| rule.kind != RuleKind::Local).count();
        findings.push(if let Some(refusal) = refusal(&of, family) {
            Finding::warn(
                GROUP,
                name,
                format!("{family}: {refusal}: nothing is carried while the NIC is on its way, which costs packets"),
                "give the rules their usual order (ip rule)",
            )
        } else if before > 0 {
            Finding::warn(
                GROUP,
                name,
                format!(
                    "{family}: {before} rules of others are asked before the local table's, and decide first \
                     what is local"
                ),
                "see (ip rule) that they leave the node's addresses and the VIP alone",
            )
        } else {
            Finding::pass(GROUP, name, format!("{family}: {} rules, vipshield's have a place", of.len()))
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::{
        daemons::Wanted,
        engine::{Role, SocketId, VrrpSocket},
    };

    fn link(ifindex: u32, name: &str, kind: Option<&str>) -> Link {
        Link {
            ifindex,
            name: name.to_owned(),
            up: true,
            running: true,
            master: None,
            kind: kind.map(str::to_owned),
            link: None,
            mac: vec![2, 0, 0, 0, 0, 1],
        }
    }

    fn daemon(on: u32) -> Daemon {
        let id = SocketId { pid: 9, fd: 8, inode: 7 };
        let socket = VrrpSocket {
            id,
            family: Family::Ipv4,
            bound: Some(on),
            home: None,
            multicast: None,
            group: None,
            sends: false,
        };
        Daemon {
            pid: 9,
            start_time: 1,
            name: "keepalived".to_owned(),
            role: Role::Vrrp,
            commands: Vec::new(),
            monitors: Vec::new(),
            vrrp: vec![socket],
            trouble: None,
            polls: false,
            excluded: Vec::new(),
        }
    }

    fn question(interfaces: &[&str]) -> Question {
        Question {
            interfaces: interfaces.iter().map(|it| (*it).to_owned()).collect(),
            daemons: vec![Wanted::named("keepalived".to_owned())],
            deadline: std::time::Duration::from_millis(1900),
        }
    }

    fn node() -> Node {
        let vmac = Link { link: Some(2), ..link(3, "vrrp.51", Some("macvlan")) };
        let links = vec![link(2, "ens192", None), vmac, link(4, "br0", Some("bridge"))];
        Node { links, ..Node::default() }
    }

    fn worst(interfaces: &[&str], on: u32) -> Verdict {
        let found = super::interfaces(&question(interfaces), &[daemon(on)], &node());
        found.iter().map(|it| it.verdict).max().unwrap()
    }

    #[test]
    fn an_interface_that_is_not_keepalived_s_is_found() {
        assert_eq!(worst(&[], 2), Verdict::Pass);
        assert_eq!(worst(&["ens192"], 2), Verdict::Pass);
        assert_eq!(worst(&["ens*"], 2), Verdict::Pass, "as the configuration file may have it");
        assert_eq!(worst(&["ens224"], 2), Verdict::Fail, "there is none");
        assert_eq!(worst(&["ens192"], 4), Verdict::Warn, "it speaks elsewhere");
        assert_eq!(worst(&[], 3), Verdict::Fail, "use_vmac");
        assert_eq!(worst(&[], 4), Verdict::Warn, "a bridge");
    }

    #[test]
    fn an_address_of_dhcp_s_is_found() {
        let node = Node { leased: BTreeSet::from([2]), ..node() };
        let found = super::interfaces(&question(&[]), &[daemon(2)], &node);
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["interface", "dhcp"]);
    }

    #[test]
    fn a_daemon_that_is_not_seen_is_said() {
        let none = Seen { daemons: Vec::new(), trouble: None };
        assert_eq!(daemons(&question(&[]), &none)[0].verdict, Verdict::Warn);
        let hidden = Daemon { trouble: Some("EPERM".to_owned()), ..daemon(2) };
        let seen = Seen { daemons: vec![hidden, daemon(2)], trouble: None };
        let verdicts: Vec<Verdict> =
            daemons(&question(&[]), &seen).iter().map(|it| it.verdict).collect();
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Pass]);
    }

    #[test]
    fn rules_before_the_local_table_s_are_found() {
        let rule = |priority, kind| Rule { family: Family::Ipv4, priority, kind };
        let [local, main] = [rule(0, RuleKind::Local), rule(32_766, RuleKind::Main)];
        let of = |rules: &[Rule]| super::rules(rules).iter().map(|it| it.verdict).max();
        assert_eq!(of(&[local, main]), Some(Verdict::Pass));
        assert_eq!(of(&[local, rule(5, RuleKind::Other), main]), Some(Verdict::Pass));
        let late = rule(100, RuleKind::Local);
        assert_eq!(of(&[rule(9, RuleKind::Other), late, main]), Some(Verdict::Warn));
        assert_eq!(of(&[main]), Some(Verdict::Warn), "no place");
        assert_eq!(of(&[]), None);
    }
}
