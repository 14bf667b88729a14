//! Daemons: how they are found, and what they are shown once they are guarded.

use std::{collections::BTreeMap, fs};

use aya::programs::SocketFilter;
use libtest_mimic::Failed;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use vipshield::{
    bpf::Programs,
    daemons::{self, Kin, Looked, Mark, Scanner, Scope},
    engine::{Address, Daemon, Filter, SocketId},
    net::{Carrier, OWN, STAND_IN},
};
use vipshield_common::{
    counters::Counter,
    guard::GuardedSocket,
    tasks::{TaskEvent, UNKNOWN},
};

use super::{
    FREE, carry, check,
    daemon::StandIn,
    namespace::{self, Seen, Stage},
};

/// The filters on the stand-in's monitor sockets and its command socket, in this order.
fn filters(scanner: &mut Scanner) -> Result<(Daemon, Vec<Filter>), Failed> {
    let Looked { daemons, .. } = scanner.scan(Scope::All)?;
    let daemon = daemons.into_iter().next().ok_or("the daemon is not found")?;
    let monitors = daemon.monitors.iter().map(|monitor| monitor.filter);
    let found = monitors.chain(daemon.commands.iter().map(|command| command.filter)).collect();
    Ok((daemon, found))
}

/// Found by its executable, with its sockets; and whose filters they carry.
pub(crate) fn daemon() -> Result<(), Failed> {
    use Filter::{Foreign, Guard, None, Stale};

    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    let stand_in = StandIn::start(&format!("vsd{}", std::process::id()))?;
    let mut programs = Programs::load(&[])?;
    let mut scanner = Scanner::new(vec![stand_in.name.clone()])?;
    let (daemon, found) = filters(&mut scanner)?;
    check(daemon.pid == stand_in.pid(), "by its process")?;
    check(found == [Foreign, None, None], format!("as it started: {found:?}"))?;

    let socket = daemon.monitors.get(1).ok_or("two monitors")?.id;
    let command = daemon.commands.first().ok_or("a command socket")?.id;
    let (duplicate, listened) = (daemons::borrow(socket)?, daemons::borrow(command)?);
    let (cookie, other) = (daemons::cookie(&duplicate)?, daemons::cookie(&listened)?);
    let entry = GuardedSocket { port: daemons::port(&duplicate)?, replay_port: 0 };
    programs.guard(&duplicate, cookie, entry)?;
    scanner.remember(socket, cookie);
    programs.listen(&listened, other, entry)?;
    scanner.remember(command, other);
    let (_, found) = filters(&mut scanner)?;
    check(found == [Foreign, Guard, Guard], format!("guarded: {found:?}"))?;

    // Another vipshield finds the filters, and knows by the marks of their sockets whose they are.
    let mut another = Scanner::new(vec![stand_in.name.clone()])?;
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, Stale, Stale], format!("left over: {found:?}"))?;
    // They stay when the one is gone that put them there.
    drop(programs);
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, Stale, Stale], format!("of one that is gone: {found:?}"))?;
    let mut next = Programs::load(&[])?;
    next.guard(&duplicate, cookie, entry)?;
    another.remember(socket, cookie);
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, Guard, Stale], format!("one of them replaced: {found:?}"))?;
    // An eBPF filter on a socket without a mark is somebody else's.
    setsockopt(&listened, sockopt::Mark, &0)?;
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, Guard, Foreign], format!("one of them foreign: {found:?}"))?;
    // So is any other mark's, also if the daemon set it itself; it stays when a filter is taken off.
    setsockopt(&listened, sockopt::Mark, &7)?;
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, Guard, Foreign], format!("the daemon's own mark: {found:?}"))?;
    daemons::detach_filter(&listened)?;
    check(getsockopt(&listened, sockopt::Mark)? == 7, "the daemon's own mark stays")?;
    // A mark without a filter says nothing: somebody took that off, or it was never put there.
    daemons::set_mark(&listened, Mark::Intent)?;
    SocketFilter::detach(&duplicate)?;
    let (_, found) = filters(&mut another)?;
    check(found == [Foreign, None, None], format!("marks alone: {found:?}"))?;
    for socket in [&duplicate, &listened] {
        daemons::detach_filter(socket)?;
        check(getsockopt(socket, sockopt::Mark)? == 0, "vipshield's mark goes")?;
    }
    drop((next, duplicate, listened));

    // What the daemon closed is not mistaken for what it opens next.
    let elsewhere = SocketId { inode: socket.inode + 1, ..socket };
    check(daemons::borrow(elsewhere).is_err(), "another inode is another socket")?;
    let Looked { daemons, died, .. } = scanner.scan(Scope::Known)?;
    check(daemons.len() == 1 && !died, "looked at without looking at others")?;
    let task = TaskEvent { pid: stand_in.pid(), admin_of: UNKNOWN, ..TaskEvent::default() };
    let kin = |scanner: &Scanner| scanner.kin(&task);
    check(kin(&scanner) == Kin::Daemon && scanner.gone().is_empty(), "it is there")?;
    stand_in.rename()?;
    check(scanner.gone().is_empty(), "whatever its executable is called by now")?;
    let Looked { daemons, died, .. } = scanner.scan(Scope::All)?;
    check(daemons.len() == 1 && !died, "to every look")?;
    let pid = stand_in.pid();
    drop(stand_in);
    check(scanner.gone() == [pid], "it is seen to be gone")?;
    check(daemons::borrow(socket).is_err(), "a process that is gone")?;
    let Looked { daemons, mut gone, died } = scanner.scan(Scope::Known)?;
    gone.sort_unstable();
    let mut both = vec![cookie, other];
    both.sort_unstable();
    check(daemons.is_empty() && died, "it died")?;
    check(gone == both, "its guarded sockets are reported as gone")?;
    check(scanner.kin(&task) == Kin::Stranger, "and is nobody any more")
}

/// A daemon that started on a port has read the stand-in. It hears of the address, and not of its
/// end; then that vipshield's own are gone. The bridge loses nothing by it.
pub(crate) fn introduced() -> Result<(), Failed> {
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
    // That it came, to leave at once, is nothing to note down.
    expected.extend(OWN.map(|own| Seen::AddressGone(own.into())));
    let seen = stage.seen()?;
    check(seen == expected, format!("{seen:?}"))?;
    stage.counted(Counter::WithheldAddress, 1)?;
    let after = carry::objects()?;
    check(after == before, format!("something changed:\n{after}\ninstead of\n{before}"))?;
    check(carry::way("192.0.2.11")? == "local", "the bridge has its address")?;
    check(carry::way("203.0.113.9")? == "br0", "and its routes")?;

    // A NIC that has its address keeps it. What stands in ends by itself on a machine that takes its time.
    stage.block_on(carrier.stand_in(nic, true))?;
    stage.show("br0", Some(address))?;
    stage.show("nic", None)?;
    let after = carry::objects()?;
    check(after == before, format!("something is left:\n{after}\ninstead of\n{before}"))?;
    stage.block_on(carrier.stand_in(nic, false))?;
    stage.block_on(carrier.stand_in(nic, false))?;
    let after = carry::objects()?;
    check(after == without, format!("nor of the stand-in:\n{after}\ninstead of\n{without}"))?;
    stage.block_on(carrier.stand_in(nic, true))?;
    check(
        stage.block_on(carrier.sweep(&BTreeMap::new()))? == 1,
        "a stand-in that was left is swept",
    )?;
    check(carry::objects()? == without, "and gone")
}
