//! The eBPF programs on the running kernel: a real netlink socket in a network namespace of its
//! own carries the guard, the kernel announces real changes, and what arrives is compared with
//! what should. Every path's counter is asserted.

mod answer;
mod carry;
mod daemon;
mod forged;
mod frames;
mod intent;
mod monitor;
mod namespace;
mod shunt;
mod tap;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv6Addr,
    process::{Command, ExitCode},
};

use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;
use vipshield::{
    bpf::{self, Programs},
    daemons::{AttachedFilter, attached_filter, detach_filter},
    engine::{About, Address},
    net::{ANCHOR, Carrier, OWN, STAND_IN},
};
use vipshield_common::{
    counters::Counter,
    guard::{RESYNC_SEQUENCE, STALL_NS, withhold},
    tasks::TaskChange,
};

use self::namespace::{Seen, Stage, monotonic_ns};

/// What `Phase::Free` withholds.
const FREE: u32 = withhold::ADDRESS_REMOVAL | withhold::ADMIN_DOWN | withhold::RENAME;

type Case = (&'static str, fn() -> Result<(), Failed>);

const CASES: &[Case] = &[
    ("a removed address is withheld and reported", removed_address),
    ("what the daemon removed itself passes", own_removal),
    ("what another process of the daemon removed passes", family_removal),
    ("a removal that is replayed passes", replayed_removal),
    ("an IPv6 removal that is replayed passes while it is let pass", replayed_ipv6_removal),
    ("an address of another interface passes", other_interface),
    ("a NIC that was taken down stays up to the daemon until it works again", taken_down),
    ("a lost carrier passes outside a transition", carrier_loss_free),
    ("a lost carrier is withheld within a transition", carrier_loss_in_transition),
    ("a rename and the impostor are withheld", rename_and_impostor),
    ("a bridge's word about its port is withheld", bridge_port),
    ("dumps, answers and unrelated messages pass", dumps_and_answers),
    ("without a heartbeat everything passes", stale_heartbeat),
    ("a heartbeat is kept for as long as the loop comes back", kept_heartbeat),
    ("a killed vipshield's names of NICs are inherited by who guards the same sockets", inherited),
    ("a socket that is not in the table sees everything", unknown_socket),
    ("what is too short to be understood passes", forged::malformed),
    ("withheld messages of which nobody reads are counted", forged::reports_nobody_reads),
    ("that the NIC is gone passes", unplugged),
    ("a policy that is cleared withholds nothing", cleared_policy),
    ("a classic filter is told from the guard", filters_are_told_apart),
    ("a daemon is found, guarded, and its own filter left alone", daemon::is_found),
    ("an address of vipshield's own is never seen", own_address),
    ("what the kernel refuses a daemon is reported", intent::refused_requests),
    ("what was answered elsewhere is no answer's", intent::answered_elsewhere),
    ("reports that nobody reads are counted", intent::reports_nobody_reads),
    ("a daemon is told of an address that is elsewhere, and nothing is left", introduced),
    ("the table of local addresses is split beforehand", carry::prepared),
    ("a node is carried, and nothing is left of it", carry::carried_and_taken_back),
    ("what is carried ends unless it is renewed", carry::ends_unless_renewed),
    ("what a killed vipshield left is swept", carry::swept),
    ("of plans that were carried in part nothing is left", carry::half_carried),
    ("a NIC that joins a bridge is shunted until the bridge forwards", shunt::joined),
    ("a NIC that leaves its bridge is shunted until that is known", shunt::cut),
    ("a port that is disabled is shunted", shunt::disabled),
    ("a port without a carrier is not shunted", shunt::without_carrier),
    ("of a shunt that cannot be laid nothing stays", shunt::half_laid),
    ("of two NICs on a bridge each has its shunt", shunt::two_on_a_bridge),
    ("what cannot be shunted goes its usual way", shunt::not_copied),
    ("a shunt ends when its bearer is taken down", shunt::bearer_down),
    ("every kind of frame about who owns an address is reported", watch::every_kind),
    ("an advert is captured as long as an MTU allows", watch::long_adverts),
    ("frames about nothing of interest are not reported", watch::of_no_interest),
    ("malformed frames are counted by what is wrong with them", watch::malformed),
    ("a flood starves nobody and changes no verdict", watch::flood),
    ("frames that nobody reads are counted", watch::nobody_reads),
    ("without a heartbeat no frame is reported", watch::stale),
    ("of a watch nothing stays", watch::nothing_stays),
    ("the watch sees what the shunt takes, and IPv6 is shunted", watch::before_the_shunt),
    ("a request for a carried address is answered", answer::requests),
    ("what is no proper request is not", answer::no_requests),
    ("a solicitation for a carried address is answered", answer::solicitations),
    ("what is no proper solicitation is not", answer::no_solicitations),
    ("groups of what is answered are held", answer::groups),
    ("what was answered goes on as it came", answer::goes_on),
    ("after lost events the monitor goes on", monitor::lost_events),
    ("a tool that starts is a hint", tools),
    ("tasks are reported by name", tasks),
];

/// For these the kernel has to let tracing programs in.
const CASES_WITH_TRACING: &[Case] = &[
    ("a NIC is seen to join before the kernel says so", shunt::joined_unannounced),
    ("a NIC of another namespace is another NIC", shunt::elsewhere),
    ("a NIC is seen to leave before the kernel says so", shunt::cut_unannounced),
];

fn main() -> ExitCode {
    if let Some(result) = daemon::be_one() {
        return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let arguments = Arguments::from_args();
    // Only the superuser may load programs and make namespaces.
    let root = Uid::effective().is_root();
    let traces = root && can_trace();
    let hindrance = (!traces).then_some("needs tracing programs");
    let trials = CASES
        .iter()
        .map(|case| (case, None))
        .chain(CASES_WITH_TRACING.iter().map(|case| (case, hindrance)))
        .map(|((name, case), hindrance)| {
            let trial = Trial::test(*name, *case);
            match hindrance.or((!root).then_some("needs root")) {
                Some(hindrance) => trial.with_ignored_flag(true).with_kind(hindrance),
                None => trial,
            }
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Whether the kernel has BTF and kprobes, and nothing forbids their use.
fn can_trace() -> bool {
    let bridge = Stage::new().and_then(|stage| stage.add_bridge("br0").map(|()| stage));
    bridge.is_ok_and(|mut stage| stage.programs.see_ports_leave())
}

fn check(condition: bool, what: impl Into<String>) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(what.into().into()) }
}

fn removed_address() -> Result<(), Failed> {
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
    stage.counted(Counter::WithheldAddress, 2)?;
    stage.counted(Counter::PassedTrue, 2)
}

fn own_removal() -> Result<(), Failed> {
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
fn family_removal() -> Result<(), Failed> {
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

fn replayed_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.replay("nic", Address { ip: "192.0.2.11".parse()?, prefix_len: 24 })?;
    let seen = stage.seen()?;
    check(
        seen == [Seen::Address("192.0.2.11".parse()?), Seen::AddressGone("192.0.2.11".parse()?)],
        format!("the daemon gets to know: {seen:?}"),
    )?;
    stage.counted(Counter::PassedReplay, 2)?;
    stage.counted(Counter::WithheldAddress, 0)
}

/// Of IPv6 the kernel does not say who asked: the address itself is let pass.
fn replayed_ipv6_removal() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let ip: Ipv6Addr = "2001:db8::11".parse()?;
    let address = Address { ip: ip.into(), prefix_len: 64 };
    // That it came is said too.
    for (pass, counter, times) in
        [(false, Counter::WithheldAddress, 1), (true, Counter::PassedReplay, 2)]
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

fn other_interface() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("peer", "192.0.2.1/24")?;
    stage.delete_address("peer", "192.0.2.1/24")?;
    check(stage.seen()?.len() == 2, "both are seen")?;
    stage.counted(Counter::PassedOther, 2)
}

fn taken_down() -> Result<(), Failed> {
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
    stage.wait_for_counter(Counter::WithheldCarrier)?;
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

fn carrier_loss_free() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.set_up("peer", false)?;
    stage.wait_until(
        |seen| matches!(seen, Seen::Link { name, running: false, .. } if name == "nic"),
    )?;
    stage.counted(Counter::WithheldCarrier, 0)
}

fn carrier_loss_in_transition() -> Result<(), Failed> {
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

fn rename_and_impostor() -> Result<(), Failed> {
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
        About::Impostor { name: "nic".to_owned() },
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
    check(stage.count(Counter::WithheldImpostor)? > 0, "impostors are counted")
}

fn bridge_port() -> Result<(), Failed> {
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

fn dumps_and_answers() -> Result<(), Failed> {
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

fn stale_heartbeat() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.programs.still()?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    let seen = stage.seen()?;
    check(
        seen.contains(&Seen::AddressGone("192.0.2.11".parse()?)),
        format!("the removal is seen: {seen:?}"),
    )?;
    check(stage.count(Counter::PassedStale)? > 0, "and counted")?;
    // A heartbeat in the past is none.
    stage.programs.beat(monotonic_ns()?.saturating_sub(2_000_000_000))?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "within 2 s of the last heartbeat everything passes")
}

fn kept_heartbeat() -> Result<(), Failed> {
    fn now() -> u64 {
        monotonic_ns().unwrap_or_default()
    }
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    // Nobody but the thread renews it from now on, and it has just said that it is alive.
    let pulse = stage.programs.keep_heartbeat(now)?;
    let removal = |stage: &mut Stage| {
        stage.add_address("nic", "192.0.2.11/24")?;
        stage.delete_address("nic", "192.0.2.11/24")?;
        let gone = Seen::AddressGone("192.0.2.11".parse()?);
        Ok::<_, Failed>(stage.seen()?.contains(&gone))
    };
    let began = now();
    while now() < began + 2 * STALL_NS {
        pulse.alive();
        let seen = removal(&mut stage)?;
        // What happened while this test was not given a turn is none of the guard's.
        check(!seen || !pulse.is_fresh(), "withheld for as long as the loop is alive")?;
    }
    check(stage.count(Counter::WithheldAddress)? > 0, "and counted")?;
    check(pulse.is_kept(), "the thread runs")?;
    // The loop does not come back.
    let hung = now();
    while !removal(&mut stage)? {
        check(now() < hung + 2 * STALL_NS, "withheld for too long after the loop hung")?;
    }
    pulse.alive();
    while removal(&mut stage)? {
        check(now() < hung + 6 * STALL_NS, "a loop that is back is alive")?;
        pulse.alive();
    }
    drop(pulse);
    check(removal(&mut stage)?, "once it is dropped everything passes")
}

fn inherited() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let (nic, cookie) = (stage.index("nic")?, stage.cookie()?);
    let next = stage.load_another()?;
    check(next.inherited_names(&[cookie + 1_000_000])?.is_empty(), "of other sockets, nothing")?;
    let names = next.inherited_names(&[cookie])?;
    check(names == BTreeMap::from([(nic, "nic".to_owned())]), format!("found {names:?}"))?;
    check(stage.programs.inherited_names(&[cookie])?.is_empty(), "nor from oneself")
}

fn unknown_socket() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.programs.forget_socket(stage.cookie()?)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "both are seen")?;
    check(stage.count(Counter::PassedUnknownSocket)? > 0, "and counted")
}

/// A NIC that is gone is no NIC that somebody has taken.
fn unplugged() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    let nic = stage.index("nic")?;
    stage.set_up("nic", false)?;
    let before = stage.count(Counter::PassedTrue)?;
    stage.delete_link("nic")?;
    let seen = stage.seen()?;
    check(seen.contains(&Seen::LinkGone(nic)), format!("it is seen: {seen:?}"))?;
    stage.counted(Counter::PassedTrue, before + 1)
}

fn cleared_policy() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.arm(FREE)?;
    stage.add_address("nic", "192.0.2.11/24")?;
    stage.programs.clear_policy(stage.index("nic")?, "nic")?;
    stage.programs.clear_policy(stage.index("nic")?, "nic")?;
    stage.delete_address("nic", "192.0.2.11/24")?;
    check(stage.seen()?.len() == 2, "both are seen")
}

fn filters_are_told_apart() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let found = |stage: &Stage| attached_filter(stage.socket());
    check(found(&stage)? == AttachedFilter::None, "none at first")?;
    namespace::attach_classic_filter(&stage.monitor)?;
    check(found(&stage)? == AttachedFilter::Classic, "a classic one")?;
    detach_filter(stage.socket())?;
    stage.arm(FREE)?;
    check(found(&stage)? == AttachedFilter::Ebpf, "the guard")?;
    detach_filter(stage.socket())?;
    detach_filter(stage.socket())?;
    check(found(&stage)? == AttachedFilter::None, "none again")
}

fn own_address() -> Result<(), Failed> {
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

/// A daemon that started on a port has read the stand-in. It hears of the address, and not of its
/// end; then that vipshield's own are gone. The bridge loses nothing by it.
fn introduced() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    stage.set_up("lo", true)?;
    let nic = stage.index("nic")?;
    stage.add_bridge("br0")?;
    stage.set_master("nic", Some("br0"))?;
    // What IPv6 adds some seconds later is not what is looked for.
    fs::write("/proc/sys/net/ipv6/conf/br0/disable_ipv6", "1")?;
    stage.set_up("br0", true)?;
    stage.wait_until_running("br0")?;
    stage.add_address("br0", "192.0.2.11/24")?;
    carry::ip("route add default via 192.0.2.100 dev br0")?;
    let carrier = Carrier::new(stage.handle());
    let without = carry::objects()?;
    stage.block_on(carrier.stand_in(nic, true))?;
    // Renewed.
    stage.block_on(carrier.stand_in(nic, true))?;
    let before = carry::objects()?;
    check(before.contains(&STAND_IN.to_string()), "the stand-in is there")?;

    stage.arm(FREE)?;
    stage.seen()?;
    let address = Address { ip: "192.0.2.11".parse()?, prefix_len: 24 };
    stage.show("nic", Some(address))?;
    let mut expected = vec![Seen::Address(address.ip)];
    for own in OWN {
        expected.extend([Seen::Address(own.into()), Seen::AddressGone(own.into())]);
    }
    let seen = stage.seen()?;
    check(seen == expected, format!("{seen:?}"))?;
    stage.counted(Counter::WithheldAddress, 1)?;
    let after = carry::objects()?;
    check(after == before, format!("something changed:\n{after}\ninstead of\n{before}"))?;
    check(carry::way("192.0.2.11")? == "local", "the bridge has its address")?;
    check(carry::way("203.0.113.9")? == "br0", "and its routes")?;

    // A NIC that has its address keeps it.
    stage.show("br0", Some(address))?;
    stage.show("nic", None)?;
    check(carry::objects()? == before, "nothing is left")?;
    stage.block_on(carrier.stand_in(nic, false))?;
    stage.block_on(carrier.stand_in(nic, false))?;
    let after = carry::objects()?;
    check(after == without, format!("nor of the stand-in:\n{after}\ninstead of\n{without}"))?;
    stage.block_on(carrier.stand_in(nic, true))?;
    check(stage.block_on(carrier.sweep())? == 1, "a stand-in that was left is swept")?;
    check(carry::objects()? == without, "and gone")
}

fn tools() -> Result<(), Failed> {
    let stage = namespace::runtime()?;
    let _inside = stage.enter();
    let mut programs = Programs::load(&[])?;
    let directory = std::env::temp_dir().join(format!("vst-tool-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let program = directory.join("ovs-vsctl");
    fs::copy("/bin/true", &program)?;
    let ran = Command::new(&program).status();
    fs::remove_dir_all(&directory)?;
    check(ran?.success(), "the tool ran")?;
    let mut seen = Vec::new();
    stage.block_on(async {
        let first = async {
            while seen.is_empty() {
                programs.tasks.read(|record| seen.extend(change_of("ovs-vsctl", record))).await?;
            }
            Ok::<(), Failed>(())
        };
        tokio::time::timeout(namespace::PATIENCE, first).await?
    })?;
    check(seen.contains(&(TaskChange::Tool as u32)), format!("its start: {seen:?}"))?;
    check(seen.iter().all(|change| *change == TaskChange::Tool as u32), "and nothing else of it")
}

/// What a task of this name did. Tracepoints see the whole machine: other tests, other labs.
fn change_of(name: &str, record: &[u8]) -> Option<u32> {
    let task = bpf::task_event(record)?;
    (task.comm.split(|byte| *byte == 0).next() == Some(name.as_bytes())).then_some(task.change)
}

fn tasks() -> Result<(), Failed> {
    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    let name = format!("vst{}", std::process::id());
    let directory = std::env::temp_dir().join(&name);
    fs::create_dir_all(&directory)?;
    let program = directory.join(&name);
    fs::copy("/bin/sh", &program)?;
    let mut programs = Programs::load(std::slice::from_ref(&name))?;
    // A shell that forks a child and waits for it, and has itself read its configuration anew.
    let ran =
        Command::new(&program).args(["-c", "(exit 0); trap : HUP; kill -HUP $$; exit 0"]).status();
    fs::remove_dir_all(&directory)?;
    check(ran?.success(), "the shell ran")?;
    let mut seen = BTreeSet::new();
    runtime.block_on(async {
        let all = async {
            while seen.len() < 4 {
                programs.tasks.read(|record| seen.extend(change_of(&name, record))).await?;
            }
            Ok::<(), Failed>(())
        };
        tokio::time::timeout(namespace::PATIENCE, all).await?
    })?;
    let all = [TaskChange::Exec, TaskChange::Fork, TaskChange::Exit, TaskChange::Reload];
    let all = all.map(|change| change as u32);
    check(seen == BTreeSet::from(all), format!("exec, fork, exit and reload: {seen:?}"))?;
    let counters = programs.counters()?;
    let count = |wanted| {
        counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, count)| *count)
    };
    check(count(Counter::TaskEvents) >= 4, "counted")?;
    check(count(Counter::TaskEventsLost) == 0, "none lost")?;
    // This process forked, under another name.
    check(count(Counter::TasksIgnored) > 0, "others are counted")
}
