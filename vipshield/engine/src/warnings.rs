//! What an operator should mend: found in what is observed, and said until it is mended.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    Engine,
    failed::is_optional,
    nic::{CutOff, Nic},
    speakers::Speaker,
    unseen::Unseen,
    vips::MAX_ADDRESSES,
    world::{Daemon, Family, Filter, Link, Role},
};

/// Something to mend, and the NIC it is about.
pub(super) struct Finding {
    pub(super) nic: Option<String>,
    pub(super) text: String,
    /// As long as it is so, something is not guarded that should be.
    pub(super) grave: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.nic {
            Some(nic) => write!(f, "{nic}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// A daemon that asks the kernel whether its NIC has a carrier: there is nothing that could be withheld.
fn polls(daemon: &Daemon) -> Option<Finding> {
    let text = format!(
        "{} {} polls the carrier of its NIC (linkbeat_use_polling or linkbeat_interfaces in \
         keepalived.conf), which nothing can withhold: if it looks while Kube-OVN has the NIC down, as in \
         an exchange of names, it goes to FAULT; take that out of keepalived's configuration",
        daemon.name, daemon.pid
    );
    (daemon.polls && daemon.role == Role::Vrrp).then_some(Finding { nic: None, text, grave: false })
}

impl Engine {
    /// keepalived that hears of another interface of its name, and not that its own has lost it, counts one reason
    /// to fail too few (`num_script_if_fault`, seen with 2.2.7: 4294967295 in its `keepalived.data`).
    fn muddle(&self, daemon: &Daemon) -> Option<Finding> {
        let text = format!(
            "{} {} has heard the end of an exchange of names of which a vipshield that was killed had withheld \
             the beginning: it may heed no failure of its link from now on; restart it when it suits you",
            daemon.name, daemon.pid
        );
        self.told.is_muddled(daemon.pid).then_some(Finding { nic: None, text, grave: true })
    }

    /// Says what was not found before.
    pub(super) fn warn(&mut self, now: Duration) {
        for finding in self.findings(now) {
            self.mention(finding.nic.as_deref(), finding.text);
        }
    }

    /// What keeps something from being guarded, and is to be mended.
    pub(super) fn grave(&self, now: Duration) -> Vec<String> {
        let findings = self.findings(now).into_iter().filter(|finding| finding.grave);
        let unseen = self.unseen.iter().map(Unseen::warning);
        let failed = self.to_mend().filter(|(action, _)| !is_optional(action));
        let failed = failed.map(|(_, failure)| failure.warning());
        findings.map(|finding| finding.to_string()).chain(unseen).chain(failed).collect()
    }

    /// All that is to be mended now, failed actions included.
    pub(super) fn warnings(&self, now: Duration) -> Vec<String> {
        let findings = self.findings(now).into_iter().map(|finding| finding.to_string());
        let unseen = self.unseen.iter().map(Unseen::warning);
        let failed = self.to_mend().map(|(_, failure)| failure.warning());
        let conflicts = self.claims.of.iter().filter_map(|(ip, claimed)| {
            let mac = claimed.conflict?;
            Some(format!("{mac} answers for {ip}, which this node owns: two owners"))
        });
        let strangers = self.strangers.heard.values().cloned();
        findings.chain(unseen).chain(failed).chain(strangers).chain(conflicts).collect()
    }

    fn findings(&self, now: Duration) -> Vec<Finding> {
        if self.config.observe {
            return Vec::new();
        }
        let mut findings = self.unguarded(now);
        for daemon in self.world.daemons.values() {
            findings.extend(daemon.trouble.iter().map(|trouble| Finding {
                nic: None,
                grave: true,
                text: format!(
                    "{} {} cannot be guarded, and sees every event: {trouble}",
                    daemon.name, daemon.pid
                ),
            }));
            let foreign = daemon.monitors.iter().filter(|it| it.filter == Filter::Foreign);
            findings.extend(foreign.map(|monitor| Finding {
                nic: None,
                grave: true,
                text: format!(
                    "{} {}: its netlink socket ({}) already has a filter that is not \
                     vipshield's; it is left alone, and this daemon sees every event (restart the \
                     daemon if it is not its own)",
                    daemon.name, daemon.pid, monitor.id
                ),
            }));
            let foreign = daemon.commands.iter().filter(|it| it.filter == Filter::Foreign);
            findings.extend(foreign.map(|command| Finding {
                nic: None,
                grave: false,
                text: format!(
                    "{} {}: its netlink socket ({}) already has a filter that is not \
                     vipshield's; it is left alone, and an address that this daemon gives up \
                     while a bridge has it stays there",
                    daemon.name, daemon.pid, command.id
                ),
            }));
            findings.extend(self.virtual_macs(daemon));
            findings.extend(polls(daemon));
            findings.extend(self.muddle(daemon));
        }
        if self.world.vips.is_full() {
            findings.push(Finding {
                nic: None,
                grave: true,
                text: format!(
                    "daemons want {MAX_ADDRESSES} addresses, and vipshield remembers no more: those that \
                     came later are not moved, not carried, and stay on a bridge when they are given up"
                ),
            });
        }
        findings.extend(self.nics.values().filter_map(|nic| self.bridge_fails(nic)));
        findings.extend(self.probes.deaf().map(|(nic, _, whom)| Finding {
            nic: self.nics.get(&nic).map(|nic| nic.name.clone()),
            grave: false,
            text: self.deafness(nic, whom),
        }));
        findings.extend(self.routers.silent().filter_map(|key| {
            let nic = self.nics.get(&key.nic)?;
            let bearer = nic.bearer.filter(|bearer| *bearer != nic.ifindex)?;
            let bearer = self.world.name_of(bearer);
            let text = format!(
                "this node owns virtual router {}, and none of its adverts leaves by {bearer}, so that \
                 another node takes over beside it: if its keepalived runs, the likely cause is a firewall \
                 that lets VRRP out on {} only; let it out on {bearer} too",
                key.router_id, nic.name
            );
            Some(Finding { nic: Some(nic.name.clone()), text, grave: false })
        }));
        findings.extend(self.refused());
        findings.extend(self.nics.values().filter_map(|nic| {
            let text = nic.too_many_routes()?;
            Some(Finding { nic: Some(nic.name.clone()), text, grave: false })
        }));
        findings.extend(self.half_deaf().map(|(daemon, nic)| Finding {
            nic: Some(nic.name.clone()),
            grave: false,
            text: format!(
                "{} {} was reloaded while the NIC was called otherwise, as Kube-OVN has it within an \
                 exchange of names: it binds its sockets by the name and sends by the NIC's number, \
                 which the kernel refuses, so it has none to send adverts from; it is told the NIC's \
                 name of now, fails once, and uses what has the name it is configured for; if this \
                 stays, restart it",
                daemon.name, daemon.pid
            ),
        }));
        findings
    }

    /// A bridge that is there and does not do what it is there for.
    fn bridge_fails(&self, nic: &Nic) -> Option<Finding> {
        let text = if nic.cut_off() == Some(CutOff::Lost) && !nic.belief.gone().is_empty() {
            "adverts do not get through the bridge that it is a port of: see whether the port forwards (the \
             spanning tree protocol lets it wait for half a minute), whether ovs-vswitchd runs and has \
             handler threads, and what filters the bridge has"
        } else {
            self.world.unserved_since(nic.ifindex)?;
            "the Open vSwitch that it is a port of takes no new flows: ovs-vswitchd is gone, or does not \
             get on; start it again"
        };
        Some(Finding { nic: Some(nic.name.clone()), text: text.to_owned(), grave: false })
    }

    /// The families of which nothing can be carried.
    fn refused(&self) -> impl Iterator<Item = Finding> {
        let concerned =
            |family: &Family| self.nics.values().any(|nic: &Nic| nic.has_to_do_with(*family));
        Family::ALL.into_iter().filter(concerned).filter_map(|family| {
            let refusal = self.world.place(family).err()?;
            let text = format!(
                "{family} is not carried while a NIC is on its way, which costs packets, because vipshield's \
                 rules have no place among the others: {refusal}"
            );
            Some(Finding { nic: None, text, grave: false })
        })
    }

    /// VRRP on a virtual interface of a NIC: such a NIC cannot become a port.
    fn virtual_macs(&self, daemon: &Daemon) -> Vec<Finding> {
        let mut names: Vec<(String, String)> = daemon
            .vrrp
            .iter()
            .filter_map(|socket| {
                let link = self.world.link(socket.bound?)?;
                let nic = self.nics.get(&link.lower()?)?;
                Some((nic.name.clone(), link.name.clone()))
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|(nic, link)| {
                let text = format!(
                    "{} {} speaks VRRP on {link}, a virtual interface of {nic} (use_vmac or \
                     use_ipvlan in keepalived.conf): the kernel has one receive handler for each \
                     interface, so {nic} cannot become a port, and Kube-OVN's own bind fails; take \
                     use_vmac out of keepalived's configuration, or give Kube-OVN another NIC",
                    daemon.name, daemon.pid
                );
                Finding { nic: Some(nic), text, grave: false }
            })
            .collect()
    }

    /// NICs without a daemon, and where the daemon may be that was meant.
    fn unguarded(&self, now: Duration) -> Vec<Finding> {
        let missing = self.missing().into_iter().map(|name| Finding {
            nic: None,
            grave: true,
            text: format!(
                "there is no interface {name} in this network namespace: it is guarded once it \
                 appears; --interface has to name keepalived's"
            ),
        });
        let mut findings: Vec<Finding> = missing.collect();
        let idle = |nic: &&Nic| self.users(nic).next().is_none() && !self.is_back_soon(nic, now);
        let idle: Vec<&Nic> = self.nics.values().filter(idle).collect();
        let grave = self.looked && (self.nics.is_empty() || !idle.is_empty());
        // One that was guarded here before was none of another network namespace.
        let never = self.world.daemons.is_empty() && !self.engaged && !self.left.marks;
        let speakers = self.speakers.iter().filter(|speaker| match speaker {
            Speaker::Renamed { .. } | Speaker::Hidden { .. } => true,
            Speaker::Elsewhere { .. } => grave && never,
        });
        let text = |speaker: &Speaker| Finding { nic: None, text: speaker.to_string(), grave };
        findings.extend(speakers.map(text));
        // Who names no interface has what daemons use guarded.
        if !grave || self.config.interfaces.is_empty() {
            return findings;
        }
        let elsewhere: Vec<Finding> = self
            .world
            .daemons
            .values()
            .filter_map(|daemon| self.speaks_elsewhere(daemon))
            .collect();
        let others = self.nics.values().any(|nic| self.is_guarded(nic));
        if others || !elsewhere.is_empty() {
            findings.extend(idle.into_iter().map(|nic| Finding {
                nic: Some(nic.name.clone()),
                text: "no daemon speaks VRRP on it, so nothing is done for it: --interface has to name \
                       keepalived's"
                    .to_owned(),
                grave,
            }));
        }
        findings.extend(elsewhere);
        findings
    }

    /// Where a daemon speaks VRRP that is no guarded NIC's.
    fn speaks_elsewhere(&self, daemon: &Daemon) -> Option<Finding> {
        let is_guarded = |link: &&Link| {
            let of = |ifindex: u32| self.nics.values().any(|nic| nic.bearers.contains(&ifindex));
            of(link.ifindex) || link.lower().is_some_and(of)
        };
        let links = daemon.vrrp.iter().filter_map(|socket| self.world.link(socket.bound?));
        let names: BTreeSet<&str> =
            links.filter(|link| !is_guarded(link)).map(|link| link.name.as_str()).collect();
        let on: Vec<&str> = names.into_iter().collect();
        let Daemon { name, pid, .. } = daemon;
        let text = format!(
            "{name} {pid} speaks VRRP on {}, which is not guarded: name that with --interface, or give \
             no --interface",
            on.join(" and ")
        );
        (!on.is_empty()).then_some(Finding { nic: None, text, grave: true })
    }
}
