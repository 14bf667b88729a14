//! What in a keepalived.conf does not go with a NIC that becomes a port, or with vipshield.

use std::time::Duration;

use super::{Finding, Verdict};
use crate::{
    engine::pattern::matches,
    keepalived::{conf::Statement, is_include},
};

pub(super) const GROUP: &str = "keepalived";

/// keepalived's defaults.
const ADVERT_INTERVAL: f64 = 1.0;
const DOWN_TIMER_ADVERTS: f64 = 3.0;
/// Of the shortest advert interval something untrue is withheld for so much.
const WITHHELD: f64 = 1.9;
/// What is shorter leaves a busy node no time to tell the truth.
const SHORTEST_INTERVAL: f64 = 0.1;

/// All that is wrong, and a line for each instance with which nothing is. `nics`: those that are guarded; none:
/// those of keepalived and of its VIPs.
pub(super) fn findings(conf: &Statement, nics: &[String], deadline: Duration) -> Vec<Finding> {
    let mut findings = global(conf);
    let globals = conf.find("global_defs");
    let default = globals.and_then(|it| it.find("default_interface")).and_then(|it| it.word(1));
    let instances: Vec<&Statement> = conf.all("vrrp_instance").collect();
    for instance in &instances {
        let found = of_instance(instance, default, nics, deadline);
        if found.iter().all(|finding| finding.verdict < Verdict::Warn) {
            findings.push(Finding::pass(GROUP, "instance", described(instance, default)));
        }
        findings.extend(found);
    }
    if instances.is_empty() {
        findings.push(Finding::skip(GROUP, "instance", "no vrrp_instance is configured"));
    }
    if conf.has_anywhere(is_include) {
        let text = "some of the files that are included cannot be read, and are not looked at";
        findings.push(Finding::skip(GROUP, "include", text));
    }
    findings
}

fn global(conf: &Statement) -> Vec<Finding> {
    let mut findings = Vec::new();
    if conf.has_anywhere(|it| {
        matches!(it.word(0), Some("linkbeat_use_polling" | "linkbeat_interfaces"))
    }) {
        findings.push(Finding::fail(
            GROUP,
            "linkbeat",
            "keepalived polls the carrier (linkbeat_use_polling), past every filter: it goes to FAULT while \
             Kube-OVN has the NIC down",
            "take linkbeat_use_polling and linkbeat_interfaces out",
        ));
    }
    findings
}

fn of_instance(
    instance: &Statement,
    default: Option<&str>,
    nics: &[String],
    deadline: Duration,
) -> Vec<Finding> {
    let name = instance.word(1).unwrap_or("without a name");
    let mut findings = Vec::new();
    for keyword in ["use_vmac", "use_ipvlan"] {
        if instance.find(keyword).is_some() {
            findings.push(Finding::fail(
                GROUP,
                keyword,
                format!("instance {name}: {keyword}: a NIC with such an interface on it cannot become a port"),
                format!("take {keyword} out"),
            ));
        }
    }
    let authentication = instance.find("authentication").and_then(|it| it.find("auth_type"));
    if authentication.and_then(|it| it.word(1)) == Some("AH") {
        findings.push(Finding::fail(
            GROUP,
            "auth_type",
            format!(
                "instance {name}: auth_type AH: its sockets are of protocol 51, which vipshield does not know: it \
                 leaves this keepalived alone"
            ),
            "take the authentication out (RFC 9568 has none), or use auth_type PASS",
        ));
    }
    findings.extend(vips_elsewhere(name, instance, default, nics));
    findings.extend(timers(name, instance, deadline));
    findings
}

fn interface<'a>(instance: &'a Statement, default: Option<&'a str>) -> Option<&'a str> {
    let own = instance.find("interface").and_then(|it| it.word(1));
    // A definition is not expanded.
    own.or(default).filter(|name| !name.contains('$'))
}

/// Addresses with the interface that they are configured for, if it is named.
fn vips(instance: &Statement) -> impl Iterator<Item = (&str, Option<&str>)> {
    let blocks = ["virtual_ipaddress", "virtual_ipaddress_excluded"];
    let blocks = blocks.into_iter().filter_map(|keyword| instance.find(keyword));
    blocks.flat_map(|block| &block.block).filter_map(|vip| {
        let device = vip.words.iter().skip_while(|word| *word != "dev").nth(1);
        Some((vip.word(0)?, device.map(String::as_str)))
    })
}

/// Where the interface of the VIP is not the one of the adverts, only the one that is guarded is safe.
fn vips_elsewhere(
    name: &str,
    instance: &Statement,
    default: Option<&str>,
    nics: &[String],
) -> Vec<Finding> {
    let Some(own) = interface(instance, default) else { return Vec::new() };
    vips(instance)
        .filter_map(|(vip, device)| Some((vip, device?)))
        .filter(|(_, device)| *device != own)
        .map(|(vip, device)| {
            let text =
                format!("instance {name}: {vip} is on {device}, and the adverts are on {own}");
            if nics.is_empty() || nics.iter().any(|nic| matches(nic, device)) {
                return Finding::pass(GROUP, "vip-device", format!("{text}; {device} is guarded"));
            }
            Finding::warn(
                GROUP,
                "vip-device",
                text,
                "give no --interface: both are guarded then; or name both",
            )
        })
        .collect()
}

fn seconds(instance: &Statement, keyword: &str, default: f64) -> Option<f64> {
    match instance.find(keyword).and_then(|it| it.word(1)) {
        None => Some(default),
        Some(text) => text.parse().ok().filter(|it: &f64| it.is_finite() && *it > 0.0),
    }
}

/// What is withheld must be told before the others' timers end: `down_timer_adverts` intervals after the last
/// advert, of which one may be nearly over.
fn timers(name: &str, instance: &Statement, deadline: Duration) -> Vec<Finding> {
    let interval = seconds(instance, "advert_int", ADVERT_INTERVAL);
    let adverts = seconds(instance, "down_timer_adverts", DOWN_TIMER_ADVERTS);
    let (Some(interval), Some(adverts)) = (interval, adverts) else {
        return vec![Finding::skip(
            GROUP,
            "advert_int",
            format!("instance {name}: advert_int or down_timer_adverts is no number"),
        )];
    };
    let mut findings = Vec::new();
    let withheld = (WITHHELD * interval).min(deadline.as_secs_f64());
    let timer = (adverts - 1.0) * interval;
    if withheld >= timer {
        findings.push(Finding::fail(
            GROUP,
            "down_timer_adverts",
            format!(
                "instance {name}: another node takes over {timer:.1} s after the last advert that may be missing, \
                 and something untrue is withheld for up to {withheld:.1} s"
            ),
            "leave down_timer_adverts at 3, or give a smaller --deadline",
        ));
    }
    if interval < SHORTEST_INTERVAL {
        findings.push(Finding::warn(
            GROUP,
            "advert_int",
            format!(
                "instance {name}: advert_int {interval}: a node that is busy for {withheld:.2} s fails over, with \
                 vipshield or without"
            ),
            format!("set it to {SHORTEST_INTERVAL} or more"),
        ));
    }
    findings
}

fn described(instance: &Statement, default: Option<&str>) -> String {
    let addresses: Vec<&str> = vips(instance).map(|(vip, _)| vip).collect();
    let word = |keyword: &str| instance.find(keyword).and_then(|it| it.word(1));
    format!(
        "{}: interface {}, router {}, every {} s, {}",
        instance.word(1).unwrap_or("without a name"),
        interface(instance, default).unwrap_or("not named"),
        word("virtual_router_id").unwrap_or("?"),
        word("advert_int").unwrap_or("1"),
        if addresses.is_empty() { "no address".to_owned() } else { addresses.join(" ") }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keepalived::conf::read;

    const GOOD: &str = "\
global_defs {
    router_id node1
    vrrp_mcast_group4 224.0.0.99
}
vrrp_instance VI_1 {
    state BACKUP
    interface ens192
    virtual_router_id 51
    priority 100
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass secret
    }
    virtual_ipaddress {
        192.0.2.10/32 dev ens192
    }
}
";

    fn judge(text: &str) -> Vec<(String, Verdict)> {
        findings(&read(text), &["ens192".to_owned()], Duration::from_millis(1900))
            .into_iter()
            .map(|it| (it.name, it.verdict))
            .collect()
    }

    fn changed(from: &str, to: &str) -> Vec<(String, Verdict)> {
        assert!(GOOD.contains(from));
        judge(&GOOD.replace(from, to))
    }

    #[test]
    fn an_ordinary_configuration_passes() {
        assert_eq!(judge(GOOD), [("instance".to_owned(), Verdict::Pass)]);
        let text = &findings(&read(GOOD), &[], Duration::from_millis(1900))[0].text;
        assert_eq!(text, "VI_1: interface ens192, router 51, every 1 s, 192.0.2.10/32");
    }

    #[test]
    fn what_is_hazardous_is_found() {
        for (from, to, name, verdict) in [
            ("state BACKUP", "use_vmac vrrp.51", "use_vmac", Verdict::Fail),
            ("state BACKUP", "use_ipvlan", "use_ipvlan", Verdict::Fail),
            ("state BACKUP", "linkbeat_use_polling", "linkbeat", Verdict::Fail),
            ("auth_type PASS", "auth_type AH", "auth_type", Verdict::Fail),
            ("dev ens192", "dev ens224", "vip-device", Verdict::Warn),
            ("state BACKUP", "down_timer_adverts 2", "down_timer_adverts", Verdict::Fail),
            ("advert_int 1", "advert_int 0.05", "advert_int", Verdict::Warn),
            ("advert_int 1", "advert_int soon", "advert_int", Verdict::Skip),
        ] {
            let found = changed(from, to);
            assert!(found.contains(&(name.to_owned(), verdict)), "{to}: {found:?}");
        }
    }

    #[test]
    fn an_instance_with_a_hazard_does_not_pass() {
        let found = changed("state BACKUP", "use_vmac");
        assert_eq!(found, [("use_vmac".to_owned(), Verdict::Fail)]);
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let found = changed("interface ens192", "interface $NIC");
        assert_eq!(found, [("instance".to_owned(), Verdict::Pass)]);
        assert_eq!(judge("include /etc/keepalived/*.conf").len(), 2);
        assert_eq!(judge("")[0].1, Verdict::Skip);
    }
}
