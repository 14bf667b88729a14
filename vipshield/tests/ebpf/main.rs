//! The eBPF programs on the running kernel: a real netlink socket in a network namespace of its
//! own carries the guard, the kernel announces real changes, and what arrives is compared with
//! what should. Every path's counter is asserted.

mod announce;
mod answer;
mod carry;
mod daemon;
mod forged;
mod found;
mod frames;
mod guard;
mod heartbeat;
mod intent;
mod monitor;
mod namespace;
mod opening;
mod pins;
mod privilege;
mod seeded;
mod shunt;
mod stub;
mod tap;
mod tasks;
mod watch;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::unistd::Uid;
use vipshield_common::guard::withhold;

use self::namespace::Stage;

/// What `Phase::Free` withholds.
const FREE: u32 = withhold::ADDRESS_REMOVAL | withhold::ADMIN_DOWN | withhold::RENAME;

type Case = (&'static str, fn() -> Result<(), Failed>);

const CASES: &[Case] = &[
    ("a removed address is withheld and reported", guard::removed_address),
    ("a route of keepalived's that the kernel dropped is withheld", guard::dropped_route),
    ("with another entry in its table the kernel judges otherwise", guard::another_table),
    ("what a rule of one's own lets pass is seen, and nothing else", guard::own_rules),
    ("what the daemon removed itself passes", guard::own_removal),
    ("what another process of the daemon removed passes", guard::family_removal),
    ("a removal that is replayed passes", guard::replayed_removal),
    ("an address that is back, to a daemon that was not told it had left", guard::known_address),
    ("an IPv6 removal that is replayed passes while it is let pass", guard::replayed_ipv6_removal),
    ("an address of another interface passes", guard::other_interface),
    ("a NIC that was taken down stays up to the daemon until it works again", guard::taken_down),
    ("a lost carrier passes outside a transition", guard::carrier_loss_free),
    ("a lost carrier is withheld within a transition", guard::carrier_loss_in_transition),
    ("of two things of which one is withheld the other goes with it", guard::one_of_two),
    ("a rename and the impostor are withheld", guard::rename_and_impostor),
    ("a bridge's word about its port is withheld", guard::bridge_port),
    ("dumps, answers and unrelated messages pass", guard::dumps_and_answers),
    ("without a heartbeat everything passes", heartbeat::stale),
    ("a heartbeat is kept for as long as the loop comes back", heartbeat::kept),
    ("an action that is not answered opens the guard", heartbeat::not_answered),
    ("a vipshield that is killed withholds nothing more", stub::killed),
    ("a guard takes another's place, and nothing passes meanwhile", stub::exchanged),
    ("what a killed vipshield has pinned tells the next one its NICs' names", pins::names),
    ("each of the guard's rules is missed by a test", seeded::each),
    ("and of which addresses it had withheld that they left", pins::held),
    ("a socket that is not in the table sees everything", guard::unknown_socket),
    ("what is too short to be understood passes", forged::malformed),
    ("withheld messages of which nobody reads are counted", forged::reports_nobody_reads),
    ("that the NIC is gone passes", guard::unplugged),
    ("a policy that is cleared withholds nothing", guard::cleared_policy),
    ("a classic filter is told from the guard", guard::filters_are_told_apart),
    ("a daemon is found, guarded, and its own filter left alone", found::daemon),
    ("who may change nothing is no daemon, whatever it is called", privilege::names_prove_nothing),
    ("who may change this network alone is one", privilege::root_of_its_own_network),
    ("a daemon's sockets are counted once, and bounded", privilege::too_many_sockets),
    ("an address of vipshield's own is never seen", guard::own_address),
    ("what the kernel refuses a daemon is reported", intent::refused_requests),
    ("what was answered elsewhere is no answer's", intent::answered_elsewhere),
    ("what a daemon said last is kept where nobody reads", intent::reports_nobody_reads),
    ("the last word on an address is the last", intent::the_last_counts),
    ("grants are kept where nobody reads", intent::grants_nobody_reads),
    ("words on too many addresses are lost and counted", intent::more_addresses_than_room),
    ("what the kernel does not look at is no intent", intent::unprivileged),
    ("a daemon is told of an address that is elsewhere, and nothing is left", found::introduced),
    ("the table of local addresses is split beforehand", carry::prepared),
    ("a node is carried, and nothing is left of it", carry::carried_and_taken_back),
    ("what is carried ends unless it is renewed", carry::ends_unless_renewed),
    ("what a killed vipshield left is swept", carry::swept),
    ("what another vipshield carries is found as it is", carry::found_as_it_is),
    ("an anchor that is put on ahead comes last", carry::anchored_behind),
    ("of plans that were carried in part nothing is left", carry::half_carried),
    ("of two NICs each is carried until it is taken back itself", carry::two_nics),
    ("what is carried comes behind all that others' rules say", carry::behind_others),
    ("very many routes are carried by few rules", carry::many_routes),
    ("a NIC that joins a bridge is shunted until the bridge forwards", shunt::joined),
    ("a NIC that joins before its shunt is laid is shunted", shunt::laid_late),
    ("a shunt lasts as long as it was said to, or until it is over", shunt::lasting),
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
    ("what goes past a bridge is told from what goes through it", watch::past_and_through),
    ("a request for a carried address is answered", answer::requests),
    ("what is no proper request is not", answer::no_requests),
    ("a solicitation for a carried address is answered", answer::solicitations),
    ("what is no proper solicitation is not", answer::no_solicitations),
    ("groups of what is answered are held", answer::groups),
    ("what was answered goes on as it came", answer::goes_on),
    ("a VRRP socket that joined elsewhere hears where it is", opening::joined_elsewhere),
    ("an announcement has the hardware address of the moment", announce::of_this_moment),
    ("after lost events the monitor goes on", monitor::lost_events),
    ("tasks are reported by name", tasks::by_name),
];

/// For these the kernel has to let tracing programs in.
const CASES_WITH_TRACING: &[Case] = &[
    ("a NIC is seen to join before the kernel says so", shunt::joined_unannounced),
    ("a NIC of another namespace is another NIC", shunt::elsewhere),
    ("a NIC is seen to leave before the kernel says so", shunt::cut_unannounced),
    ("an IPv6 address is known by what was asked for", intent::asked_for),
];

/// For these the kernel has to let a program on setsockopt(2) ask for the network namespace (Linux 5.15).
const CASES_WITH_OPENING: &[Case] = &[
    ("a VRRP socket sends multicast through what it is bound to", opening::sends),
    ("a VRRP socket is bound to what bears its NIC's traffic", opening::bound_by_name),
    ("sockets of others are opened as they want", opening::left_alone),
    ("without a heartbeat, or elsewhere, sockets are opened as they want", opening::fails_open),
];

fn main() -> ExitCode {
    if let Some(result) = daemon::be_one() {
        return if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if let Some(Err(error)) = stub::be_vipshield() {
        eprintln!("{}", error.message().unwrap_or_default());
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::from_args();
    // Only the superuser may load programs and make namespaces.
    let root = Uid::effective().is_root();
    let untraced = (!root || !can_trace()).then_some("needs tracing programs");
    let unopened = (!root || !can_open()).then_some("needs Linux 5.15");
    let trials = CASES
        .iter()
        .map(|case| (case, None))
        .chain(CASES_WITH_TRACING.iter().map(|case| (case, untraced)))
        .chain(CASES_WITH_OPENING.iter().map(|case| (case, unopened)))
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

/// Whether the kernel takes the program on setsockopt(2).
fn can_open() -> bool {
    Stage::new().is_ok_and(|mut stage| stage.programs.try_socket_opening().is_ok())
}

fn check(condition: bool, what: impl Into<String>) -> Result<(), Failed> {
    if condition { Ok(()) } else { Err(what.into().into()) }
}
