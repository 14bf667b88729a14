//! What the guard withholds from a daemon, and what it passes.

use std::net::Ipv6Addr;

use libtest_mimic::Failed;
use vipshield::{
    daemons::{AttachedFilter, attached_filter, detach_filter},
    engine::{About, Address, LetPass, Message, Withheld},
    net::ANCHOR,
};
use vipshield_common::{
    counters::Counter,
    guard::{
        RESYNC_SEQUENCE,
        rules::{RULES, TABLE, Then},
        withhold,
    },
};

use super::{
    FREE,
    carry::ip,
    check,
    namespace::{Seen, Stage, attach_classic_filter, monotonic_ns},
};

pub(crate) fn removed_address() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.add_address("nic", "2001:db8::11/64")?;
    // An IPv6 address is announced from a kernel worker, some time after it was added.
    let last = Seen::Address("2001:db8::11".parse()?);
    stage.wait_until(|seen| *seen == last)?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "2001:db8::11/64")?;
    let seen = stage.seen()?;
    check(seen.is_empty(), format!("removals are not seen: {seen:?}"))?;
    let reports = stage.reports()?;
    let expected = [
        About::AddressRemoval { address: Address { ip: "192.0.2.11".parse()?, prefix_len: 24 } },
        About::AddressRemoval { address: Address { ip: "2001:db8::11".parse()?, prefix_len: 64 } },
    ];
    let told: Vec<About> = reports.iter().map(|report| report.about.clone()).collect();
    check(told == expected, format!("both removals are reported: {reports:?}"))?;
    check(
        reports.iter().all(|report| report.ifindex == stage.index("nic").unwrap_or(0)),
        "with the NIC's index",
    )?;
    let rule = |report: &Withheld| report.rule.name() == "address-removal";
    check(reports.iter().all(rule), format!("with the rule: {reports:?}"))?;
    stage.counted(Counter::WithheldAddress, 2)?;
    stage.counted(Counter::PassedAddress, 2)
}

/// The kernel drops a route with its source (and says so since Linux 6.6, of IPv6 with its link always); keepalived takes
/// one of its own for a failure.
pub(crate) fn dropped_route() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    // `RTNLGRP_IPV4_ROUTE` and `RTNLGRP_IPV6_ROUTE`.
    for group in [7, 11] {
        stage.monitor.add_membership(group)?;
    }
    stage.add_address("nic", "2001:db8::11/64")?;
    let added = Seen::Address("2001:db8::11".parse()?);
    stage.wait_until(|seen| *seen == added)?;
    let route = |what: &str, more: &str| {
        ip(&format!("-6 route {what} 2001:db8:1::/48 via 2001:db8::100 dev nic {more}"))
    };
    let flush = || ip("link set nic down").and_then(|()| ip("link set nic up"));
    let withheld = |stage: &mut Stage, expected: u64, what: &str| {
        stage.seen()?;
        let count = stage.count(Counter::WithheldRoute)?;
        check(count == expected, format!("{what}: {count} withheld, not {expected}"))
    };
    route("add", "proto keepalived")?;
    route("del", "proto keepalived")?;
    withheld(&mut stage, 0, "whoever deletes it means it")?;
    // By its number too: so keepalived 2.0 makes them.
    for (more, expected) in [
        ("proto static", 0),
        ("proto keepalived table 100", 0),
        ("proto keepalived", 1),
        ("proto 112", 2),
    ] {
        route("add", more)?;
        flush()?;
        withheld(&mut stage, expected, more)?;
        stage.add_address("nic", "2001:db8::11/64")?;
    }
    let told = stage.reports()?.into_iter().map(|report| (report.rule.name(), report.about));
    let destination = Address { ip: "2001:db8:1::".parse()?, prefix_len: 48 };
    let expected = ("route-dropped", About::RouteRemoval { destination });
    check(told.into_iter().any(|told| told == expected), "it is reported")?;
    stage.programs.set_policy(nic, "nic", 0, &LetPass::new())?;
    route("add", "proto keepalived")?;
    flush()?;
    withheld(&mut stage, 2, "of a NIC that has failed it is seen")?;
    stage.counted(Counter::PassedRoute, 1)
}

/// The table that is printed is the one that decides: with another entry the kernel decides otherwise.
pub(crate) fn another_table() -> Result<(), Failed> {
    let mut table = TABLE;
    let changed = RULES.iter().position(|rule| rule.name == "address-removal");
    changed.and_then(|at| table.get_mut(at)).ok_or("it is a rule")?.then = Then::PASS;
    let mut stage = Stage::with_rules(&table)?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    let seen = stage.seen()?;
    let gone = Seen::AddressGone("192.0.2.11".parse()?);
    check(seen.contains(&gone), format!("what is withheld else passes: {seen:?}"))?;
    // By the same rule, which is counted as such.
    stage.counted(Counter::WithheldAddress, 1)
}

/// Of each kind of message: it is seen if its bit is set, and withheld if all others are.
pub(crate) fn own_rules() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    let address = "192.0.2.11";
    stage.add_bridge("br0")?;
    let none = LetPass::new();
    let mine = |messages: &[Message]| -> LetPass {
        messages.iter().map(|message| (*message, message.to_string())).collect()
    };
    let counted = |stage: &Stage, message: Message| -> Result<u64, Failed> {
        let counts = stage.programs.own_rules()?;
        let of = counts.iter().find(|(rule, _)| *rule == message.to_string());
        Ok(of.map_or(0, |(_, count)| *count))
    };
    for message in Message::ALL {
        let others: Vec<Message> =
            Message::ALL.into_iter().filter(|other| *other != message).collect();
        for is_let_pass in [false, true] {
            let let_pass = if is_let_pass { mine(&[message]) } else { mine(&others) };
            stage.programs.set_policy(nic, "nic", FREE, &none)?;
            // What is not looked at comes before or after.
            let down = |stage: &mut Stage, up: bool| stage.set_up("nic", up);
            match message {
                Message::Rename => down(&mut stage, false)?,
                Message::NameConflict => {
                    down(&mut stage, false)?;
                    stage.rename("nic", "other")?;
                }
                Message::BridgePort => stage.set_master("nic", Some("br0"))?,
                Message::AddressRemoval => stage.add_address("nic", &format!("{address}/24"))?,
                _ => {}
            }
            stage.seen()?;
            stage.programs.set_policy(nic, "nic", FREE, &let_pass)?;
            let passed = counted(&stage, message)?;
            match message {
                Message::Rename => stage.rename("nic", "other")?,
                Message::NameConflict => stage.add_bridge("nic")?,
                Message::BridgePort => stage.set_master("nic", None)?,
                Message::AddressRemoval => stage.delete_address("nic", &format!("{address}/24"))?,
                Message::AdminDown => down(&mut stage, false)?,
                Message::CarrierLoss => {}
            }
            let seen = stage.seen()?;
            stage.programs.set_policy(nic, "nic", FREE, &none)?;
            let is_it = |seen: &Seen| match (message, seen) {
                (Message::Rename, Seen::Link { name, .. }) => name == "other",
                (Message::NameConflict, Seen::Link { name, .. }) => name == "nic",
                (Message::AdminDown, Seen::Link { name, running, .. }) => name == "nic" && !running,
                (Message::BridgePort, Seen::LinkGone(gone)) => *gone == nic,
                (Message::AddressRemoval, Seen::AddressGone(gone)) => gone.to_string() == address,
                _ => false,
            };
            // That it passes without a carrier in this policy no rule has to say.
            if message != Message::CarrierLoss {
                let is_seen = seen.iter().any(is_it);
                check(is_seen == is_let_pass, format!("{message} of {let_pass:?}: {seen:?}"))?;
                let counts = counted(&stage, message)? > passed;
                check(counts == is_let_pass, format!("{message} of {let_pass:?} is counted"))?;
            }
            match message {
                Message::Rename => stage.rename("other", "nic")?,
                Message::NameConflict => {
                    stage.delete_link("nic")?;
                    stage.rename("other", "nic")?;
                }
                _ => {}
            }
            down(&mut stage, true)?;
        }
    }
    let all = stage.programs.own_rules()?.iter().map(|(_, count)| count).sum();
    stage.counted(Counter::PassedOwnRule, all)
}

pub(crate) fn own_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.daemon_asks("nic", "192.0.2.10/32")?;
    let seen = stage.seen()?;
    check(
        seen == [Seen::Address("192.0.2.10".parse()?), Seen::AddressGone("192.0.2.10".parse()?)],
        format!("the daemon sees what it did: {seen:?}"),
    )?;
    stage.counted(Counter::PassedOwnRequest, 2)?;
    stage.counted(Counter::WithheldAddress, 0)
}

/// The daemon has several processes: each is told what another one did, as long as it is known.
pub(crate) fn family_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.programs.set_command_ports(&[1, stage.command_port, u32::MAX])?;
    stage.daemon_asks("nic", "192.0.2.10/32")?;
    check(stage.seen()?.len() == 2, "it is seen")?;
    stage.programs.set_command_ports(&[1, u32::MAX])?;
    stage.daemon_asks("nic", "192.0.2.10/32")?;
    let seen = stage.seen()?;
    check(
        seen == [Seen::Address("192.0.2.10".parse()?)],
        format!("what is no process of the daemon any more is withheld: {seen:?}"),
    )?;
    stage.counted(Counter::PassedOwnRequest, 2)?;
    stage.counted(Counter::WithheldAddress, 1)
}

pub(crate) fn replayed_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.replay("nic", Address { ip: "192.0.2.11".parse()?, prefix_len: 24 })?;
    let seen = stage.seen()?;
    check(
        seen == [Seen::AddressGone("192.0.2.11".parse()?)],
        format!("the daemon gets to know, and not that it came for that: {seen:?}"),
    )?;
    stage.counted(Counter::WithheldReplay, 1)?;
    stage.counted(Counter::PassedReplay, 1)?;
    stage.counted(Counter::WithheldAddress, 0)
}

/// To the daemon an address whose removal was withheld never left: that it is back is no news, until something of
/// it passes, or the daemon may have forgotten it.
pub(crate) fn known_address() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let address = "192.0.2.11/24";
    let came = [Seen::Address("192.0.2.11".parse()?)];
    stage.add_address("nic", address)?;
    check(stage.seen()? == came, "it is news at first")?;
    stage.delete_address("nic", address)?;
    stage.add_address("nic", address)?;
    let seen = stage.seen()?;
    check(seen.is_empty(), format!("it never left: {seen:?}"))?;
    stage.counted(Counter::WithheldKnown, 1)?;
    let known = About::KnownAddress { ip: "192.0.2.11".parse()? };
    let reports = stage.reports()?;
    check(reports.iter().any(|report| report.about == known), format!("{reports:?}"))?;
    // It was said that it is gone.
    stage.delete_address("nic", address)?;
    stage.replay("nic", Address { ip: "192.0.2.11".parse()?, prefix_len: 24 })?;
    stage.seen()?;
    stage.add_address("nic", address)?;
    check(stage.seen()? == came, "it is news again")?;
    // The daemon may have forgotten it.
    for forgotten in [false, true] {
        stage.delete_address("nic", address)?;
        if forgotten {
            let nic = stage.index("nic")?;
            stage.programs.begin_epoch(nic)?;
        }
        stage.add_address("nic", address)?;
        check(stage.seen()?.is_empty() != forgotten, format!("news if forgotten: {forgotten}"))?;
    }
    // Nobody was there to withhold it.
    stage.delete_address("nic", address)?;
    stage.programs.still()?;
    stage.add_address("nic", address)?;
    stage.delete_address("nic", address)?;
    stage.seen()?;
    stage.programs.beat(monotonic_ns()?)?;
    stage.add_address("nic", address)?;
    check(stage.seen()? == came, "it is known to have left")
}

/// Of IPv6 the kernel does not say who asked: the address itself is let pass.
pub(crate) fn replayed_ipv6_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let ip: Ipv6Addr = "2001:db8::11".parse()?;
    let address = Address { ip: ip.into(), prefix_len: 64 };
    for (pass, counter, times) in
        [(false, Counter::WithheldAddress, 1), (true, Counter::PassedReplay, 1)]
    {
        stage.parts().1.pass_removal(ip, pass)?;
        stage.replay("nic", address)?;
        let gone = stage.seen()?.contains(&Seen::AddressGone(ip.into()));
        check(gone == pass, format!("the daemon gets to know: {gone}, let pass: {pass}"))?;
        stage.counted(counter, times)?;
    }
    stage.parts().1.pass_removal(ip, false)?;
    stage.replay("nic", address)?;
    stage.counted(Counter::WithheldAddress, 2)
}

pub(crate) fn other_interface() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("peer", "192.0.2.1/24")?;
    stage.delete_address("peer", "192.0.2.1/24")?;
    check(stage.seen()?.len() == 2, "both are seen")?;
    stage.counted(Counter::PassedOther, 2)
}

pub(crate) fn taken_down() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let bad =
        |seen: &Seen| matches!(seen, Seen::Link { name, running: false, .. } if name == "nic");
    // A NIC that was running says so for a moment when it comes up again (`linkwatch`): the carrier
    // goes first, and is known to be gone.
    stage.set_up("peer", false)?;
    stage.wait_until(bad)?;
    stage.seen()?;
    stage.set_up("nic", false)?;
    // Up again, but without a carrier, before userspace could widen the policy.
    stage.set_up("nic", true)?;
    stage.wait_for_counter(Counter::WithheldCarrierHeld)?;
    let seen = stage.seen()?;
    check(!seen.iter().any(bad), format!("neither down nor the missing carrier: {seen:?}"))?;
    check(stage.count(Counter::WithheldAdminDown)? > 0, "the first was withheld")?;
    stage.set_up("peer", true)?;
    stage.wait_until(
        |seen| matches!(seen, Seen::Link { name, running: true, .. } if name == "nic"),
    )?;
    // All is well: a carrier lost from here on is real.
    stage.set_up("peer", false)?;
    stage.wait_until(bad)
}

pub(crate) fn carrier_loss_free() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.set_up("peer", false)?;
    stage.wait_until(
        |seen| matches!(seen, Seen::Link { name, running: false, .. } if name == "nic"),
    )?;
    stage.counted(Counter::WithheldCarrier, 0)?;
    check(stage.count(Counter::PassedCarrier)? > 0, "and counted")
}

pub(crate) fn carrier_loss_in_transition() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE | withhold::CARRIER_LOSS)?;
    stage.set_up("peer", false)?;
    stage.wait_for_counter(Counter::WithheldCarrier)?;
    let seen = stage.seen()?;
    let told = seen.iter().any(|seen| matches!(seen, Seen::Link { name, .. } if name == "nic"));
    check(!told, format!("nothing about the NIC: {seen:?}"))?;
    let reports = stage.reports()?;
    check(
        reports.iter().any(|report| report.about == About::CarrierLoss),
        format!("it is reported: {reports:?}"),
    )?;
    // The deadline comes: the truth is asked for on the daemon's own socket.
    stage.resync("nic")?;
    let seen = stage.seen()?;
    let told = |seen: &Seen| matches!(seen, Seen::Link { name, running: false, sequence } if name == "nic" && *sequence == RESYNC_SEQUENCE);
    check(seen.iter().any(told), format!("the answer passes: {seen:?}"))?;
    check(stage.count(Counter::PassedAnswer)? > 0, "as an answer")
}

/// What follows what was withheld is withheld with it, whatever the policy says of it; what was let pass takes
/// what the message says besides along.
pub(crate) fn one_of_two() -> Result<(), Failed> {
    let is_nic = |seen: &Seen| matches!(seen, Seen::Link { name, .. } if ["nic", "other"].contains(&name.as_str()));
    // One that is up may be renamed since Linux 6.2 only.
    for (hidden, held, is_down) in [
        (withhold::ADMIN_DOWN, true, false),
        (withhold::RENAME, true, true),
        (withhold::ADMIN_DOWN, false, true),
        (withhold::CARRIER_LOSS, false, false),
    ] {
        let mut stage = Stage::new()?;
        stage.arm(0)?;
        let nic = stage.index("nic")?;
        if is_down {
            stage.set_up("nic", false)?;
        }
        stage.seen()?;
        stage.programs.set_policy(nic, "nic", hidden, &LetPass::new())?;
        match (hidden, held) {
            (withhold::RENAME, _) => {
                stage.rename("nic", "other")?;
                stage.rename("other", "nic")?;
            }
            (withhold::ADMIN_DOWN, true) => {
                stage.set_up("nic", false)?;
                stage.rename("nic", "other")?;
            }
            (withhold::ADMIN_DOWN, false) => stage.rename("nic", "other")?,
            _ => stage.set_up("nic", false)?,
        }
        let seen = stage.seen()?;
        let told = seen.iter().any(is_nic);
        check(told != held, format!("hidden {hidden:b}, held {held}: {seen:?}"))?;
    }
    Ok(())
}

pub(crate) fn rename_and_impostor() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.set_up("nic", false)?;
    stage.rename("nic", "br-provider")?;
    stage.set_up("br-provider", true)?;
    stage.add_bridge("nic")?;
    let seen = stage.seen()?;
    let told = seen.iter().any(
        |seen| matches!(seen, Seen::Link { name, .. } if name == "nic" || name == "br-provider"),
    );
    check(!told, format!("neither the new name nor the impostor: {seen:?}"))?;
    let reports = stage.reports()?;
    for about in [
        About::Rename { name: "br-provider".to_owned() },
        About::NameConflict { name: "nic".to_owned() },
    ] {
        check(reports.iter().any(|report| report.about == about), format!("{about:?}"))?;
    }
    // Back again.
    stage.delete_link("nic")?;
    stage.set_up("br-provider", false)?;
    stage.rename("br-provider", "nic")?;
    let seen = stage.seen()?;
    check(
        !seen.iter().any(|seen| matches!(seen, Seen::LinkGone(_))),
        format!("the impostor's end is not the NIC's: {seen:?}"),
    )?;
    stage.set_up("nic", true)?;
    stage.wait_until(
        |seen| matches!(seen, Seen::Link { name, running: true, .. } if name == "nic"),
    )?;
    check(stage.count(Counter::WithheldRename)? > 0, "renames are counted")?;
    check(stage.count(Counter::WithheldNameConflict)? > 0, "name conflicts are counted")
}

pub(crate) fn bridge_port() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_bridge("br0")?;
    stage.set_master("nic", Some("br0"))?;
    stage.set_master("nic", None)?;
    let nic = stage.index("nic")?;
    let seen = stage.seen()?;
    check(!seen.contains(&Seen::LinkGone(nic)), format!("the NIC is not gone: {seen:?}"))?;
    check(stage.count(Counter::WithheldBridgePort)? > 0, "the bridge's word is counted")
}

pub(crate) fn dumps_and_answers() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.arm(FREE | withhold::CARRIER_LOSS)?;
    stage.set_up("nic", false)?;
    let dumped = stage.dump()?;
    check(
        dumped
            .iter()
            .any(|seen| matches!(seen, Seen::Link { name, running: false, .. } if name == "nic")),
        format!("a dump tells the truth: {dumped:?}"),
    )?;
    check(stage.count(Counter::PassedDump)? > 0, "dumps are counted")?;
    // The end of a dump is of a type that the guard does not look at.
    check(stage.count(Counter::PassedUnrelated)? > 0, "unrelated messages are counted")
}

pub(crate) fn unknown_socket() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.programs.forget_socket(stage.cookie()?)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "both are seen")?;
    check(stage.count(Counter::PassedUnknownSocket)? > 0, "and counted")
}

/// A NIC that is gone is no NIC that somebody has taken.
pub(crate) fn unplugged() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    stage.set_up("nic", false)?;
    stage.delete_link("nic")?;
    let seen = stage.seen()?;
    check(seen.contains(&Seen::LinkGone(nic)), format!("it is seen: {seen:?}"))?;
    stage.counted(Counter::PassedRemoved, 1)
}

pub(crate) fn cleared_policy() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.programs.clear_policy(stage.index("nic")?, "nic")?;
    stage.programs.clear_policy(stage.index("nic")?, "nic")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "both are seen")
}

pub(crate) fn filters_are_told_apart() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let found = |stage: &Stage| attached_filter(stage.socket());
    check(found(&stage)? == AttachedFilter::None, "none at first")?;
    attach_classic_filter(&stage.monitor)?;
    check(found(&stage)? == AttachedFilter::Nothing, "a classic one that lets nothing in")?;
    detach_filter(stage.socket())?;
    stage.arm(FREE)?;
    check(found(&stage)? == AttachedFilter::Ebpf, "the guard")?;
    detach_filter(stage.socket())?;
    detach_filter(stage.socket())?;
    check(found(&stage)? == AttachedFilter::None, "none again")
}

pub(crate) fn own_address() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let anchor = format!("{ANCHOR}/32");
    stage.add_address("nic", &anchor)?;
    stage.delete_address("nic", &anchor)?;
    let seen = stage.seen()?;
    check(seen.is_empty(), format!("neither when it comes nor when it goes: {seen:?}"))?;
    let about = About::OwnAddress { ip: ANCHOR.into() };
    let reports = stage.reports()?;
    check(reports.iter().all(|report| report.about == about), format!("{reports:?}"))?;
    stage.counted(Counter::WithheldOwnAddress, 2)
}
