//! Daemons: how they are found, and what they are shown once they are guarded.

use std::fs;

use libtest_mimic::Failed;
use vipshield::{
    bpf::{self, Programs},
    daemons::{self, Scanner},
    engine::{Address, Filter, SocketId},
    net::{Carrier, OWN, STAND_IN},
};
use vipshield_common::{counters::Counter, guard::GuardedSocket};

use super::{
    FREE, carry, check,
    daemon::StandIn,
    namespace::{self, Seen, Stage},
};

pub(crate) fn daemon() -> Result<(), Failed> {
    let runtime = namespace::runtime()?;
    let _inside = runtime.enter();
    let stand_in = StandIn::start(&format!("vsd{}", std::process::id()))?;
    let mut programs = Programs::load(&[])?;
    let mut scanner = Scanner::new(vec![stand_in.name.clone()])?;
    let filters = |scanner: &mut Scanner, leftover: bool| {
        let (daemons, _) = scanner.scan(&mut || leftover)?;
        let daemon = daemons.into_iter().next().ok_or("the daemon is not found")?;
        check(daemon.pid == stand_in.pid(), "by its process")?;
        check(daemon.commands.len() == 1, "with its command socket")?;
        let filters: Vec<Filter> = daemon.monitors.iter().map(|m| m.filter).collect();
        Ok::<_, Failed>((daemon, filters))
    };
    let (daemon, found) = filters(&mut scanner, false)?;
    check(found == [Filter::Foreign, Filter::None], format!("as it started: {found:?}"))?;

    let socket = daemon.monitors.get(1).ok_or("two monitors")?.id;
    let duplicate = daemons::borrow(socket)?;
    let cookie = daemons::cookie(&duplicate)?;
    let entry = GuardedSocket { port: daemons::port(&duplicate)?, replay_port: 0 };
    programs.guard(&duplicate, cookie, entry)?;
    scanner.remember(socket, cookie);
    let (_, found) = filters(&mut scanner, false)?;
    check(found == [Filter::Foreign, Filter::Guard], format!("guarded: {found:?}"))?;

    // Another vipshield finds the guard: left over if its owner is gone, foreign otherwise.
    let mut another = Scanner::new(vec![stand_in.name.clone()])?;
    let (_, found) = filters(&mut another, true)?;
    check(found == [Filter::Foreign, Filter::Stale], format!("left over: {found:?}"))?;
    let (_, found) = filters(&mut another, false)?;
    check(found == [Filter::Foreign, Filter::Foreign], format!("foreign: {found:?}"))?;
    drop(programs);
    check(bpf::other_guard_loaded(&[]), "the guard stays loaded on its socket")?;
    daemons::detach_filter(&duplicate)?;
    drop(duplicate);

    // What the daemon closed is not mistaken for what it opens next.
    let elsewhere = SocketId { inode: socket.inode + 1, ..socket };
    check(daemons::borrow(elsewhere).is_err(), "another inode is another socket")?;
    drop(stand_in);
    check(daemons::borrow(socket).is_err(), "a process that is gone")?;
    let (daemons, gone) = scanner.scan(&mut || false)?;
    check(daemons.is_empty() && gone == [cookie], "its guarded socket is reported as gone")
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
