//! What an operator should mend: found in what is observed, and said until it is mended.

use super::{
    Engine,
    failed::Failure,
    nic::Nic,
    unseen::Unseen,
    world::{Daemon, Family, Filter},
};

/// Something to mend, and the NIC it is about.
pub(super) struct Finding {
    pub(super) nic: Option<String>,
    pub(super) text: String,
}

impl Engine {
    /// Says what was not found before.
    pub(super) fn warn(&mut self) {
        for finding in self.findings() {
            self.mention(finding.nic.as_deref(), finding.text);
        }
    }

    /// All that is to be mended now, failed actions included.
    pub(super) fn warnings(&self) -> Vec<String> {
        let findings = self.findings().into_iter().map(|finding| match finding.nic {
            Some(nic) => format!("{nic}: {}", finding.text),
            None => finding.text,
        });
        let unseen = self.unseen.iter().map(Unseen::warning);
        let failed = self.to_mend().map(Failure::warning);
        let conflicts = self.claims.of.iter().filter_map(|(ip, claimed)| {
            let mac = claimed.conflict?;
            Some(format!("{mac} answers for {ip}, which this node owns: two owners"))
        });
        findings.chain(unseen).chain(failed).chain(conflicts).collect()
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for daemon in self.world.daemons.values() {
            findings.extend(daemon.trouble.iter().map(|trouble| Finding {
                nic: None,
                text: format!(
                    "{} {} cannot be guarded, and sees every event: {trouble}",
                    daemon.name, daemon.pid
                ),
            }));
            let foreign = daemon.monitors.iter().filter(|it| it.filter == Filter::Foreign);
            findings.extend(foreign.map(|monitor| Finding {
                nic: None,
                text: format!(
                    "{} {}: its netlink socket ({}) already has a filter that is not \
                     vipshield's; it is left alone, and this daemon sees every event (if a vipshield \
                     that was killed has left it: this one knows its own with CAP_SYS_ADMIN, or \
                     restart the daemon)",
                    daemon.name, daemon.pid, monitor.id
                ),
            }));
            let foreign = daemon.commands.iter().filter(|it| it.filter == Filter::Foreign);
            findings.extend(foreign.map(|command| Finding {
                nic: None,
                text: format!(
                    "{} {}: its netlink socket ({}) already has a filter that is not \
                     vipshield's; it is left alone, and an address that this daemon gives up \
                     while a bridge has it stays there",
                    daemon.name, daemon.pid, command.id
                ),
            }));
            findings.extend(self.virtual_macs(daemon));
        }
        let unserved = self.nics.values().filter(|nic| !self.world.is_served(nic.ifindex));
        findings.extend(unserved.map(|nic| Finding {
            nic: Some(nic.name.clone()),
            text: "the Open vSwitch that it is a port of takes no new flows: ovs-vswitchd is gone; start it \
                   again"
                .to_owned(),
        }));
        findings.extend(self.refused());
        findings.extend(self.nics.values().filter_map(|nic| {
            let text = nic.too_many_routes()?;
            Some(Finding { nic: Some(nic.name.clone()), text })
        }));
        findings.extend(self.half_deaf().map(|(daemon, nic)| Finding {
            nic: Some(nic.name.clone()),
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
            Some(Finding { nic: None, text })
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
                Finding { nic: Some(nic), text }
            })
            .collect()
    }
}
