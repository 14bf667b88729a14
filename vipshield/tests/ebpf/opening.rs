//! How VRRP sockets are opened while names are exchanged, on the running kernel: this process's own control group
//! has the program for as long as a case runs.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use libtest_mimic::Failed;
use socket2::{Domain, Protocol, Socket, Type};
use vipshield::{daemons::cgroup, engine::Opening};
use vipshield_common::counters::Counter;

use super::{
    check,
    namespace::{PATIENCE, Stage, monotonic_ns},
};

/// VRRP, and another protocol that nobody speaks (RFC 3692).
const VRRP: i32 = 112;
const OTHER: i32 = 253;
/// The name by which daemons know the NIC.
const KNOWN: &str = "ens192";

/// What a NIC and its bridge are in an exchange, and an interface beside them.
struct Wire {
    stage: Stage,
    nic: u32,
    bridge: u32,
    other: u32,
}

fn wire() -> Result<Wire, Failed> {
    let mut stage = Stage::new()?;
    stage.add_bridge("br0")?;
    stage.programs.mind_openings(&cgroup(std::process::id())?);
    let (nic, bridge) = (stage.index("nic")?, stage.index("br0")?);
    let other = stage.index("peer")?;
    stage.programs.set_opening(nic, Some(&opening(nic, bridge)))?;
    stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    Ok(Wire { stage, nic, bridge, other })
}

/// Daemons know the NIC as `ens192`, which nothing is called.
fn opening(nic: u32, bridge: u32) -> Opening {
    let bearers = BTreeSet::from([nic, bridge]);
    Opening { name: KNOWN.to_owned(), bound_to: Some("br0".to_owned()), bearers }
}

fn bound(domain: Domain, protocol: i32, name: &str) -> Result<Socket, Failed> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.bind_device(Some(name.as_bytes()))?;
    Ok(socket)
}

/// `IP_MULTICAST_IF` with a `struct ip_mreqn`, as keepalived asks.
fn choose(socket: &Socket, ifindex: u32) -> io::Result<()> {
    let wanted = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: ifindex.cast_signed(),
    };
    let length = size_of::<libc::ip_mreqn>() as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes of the structure as it has.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            (&raw const wanted).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_refused(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

/// One that asks for the other end of its own wire is given its own end.
pub(crate) fn sends() -> Result<(), Failed> {
    let Wire { stage, nic, bridge, .. } = wire()?;
    let socket = bound(Domain::IPV4, VRRP, "br0")?;
    choose(&socket, nic)?;
    check(stage.count(Counter::OpeningsSending)? == 1, "it was counted")?;
    choose(&socket, bridge)?;
    let socket = bound(Domain::IPV6, VRRP, "br0")?;
    socket.set_multicast_if_v6(nic)?;
    check(socket.multicast_if_v6()? == bridge, "it sends through what it is bound to")?;
    check(stage.count(Counter::OpeningsSending)? == 2, "it was counted")?;
    // Two names, and a choice.
    check(stage.count(Counter::OpeningsPassed)? == 3, "what is right is let pass")
}

/// One that binds by the NIC's name is bound to what bears its traffic, whatever has the name.
pub(crate) fn bound_by_name() -> Result<(), Failed> {
    let Wire { mut stage, nic, bridge, other } = wire()?;
    for domain in [Domain::IPV4, Domain::IPV6] {
        let socket = bound(domain, VRRP, KNOWN)?;
        check(socket.device_index_v4()?.map(u32::from) == Some(bridge), "it is on the bridge")?;
    }
    check(stage.count(Counter::OpeningsBound)? == 2, "they were counted")?;
    check(bound(Domain::IPV4, OTHER, KNOWN).is_err(), "a socket of another protocol")?;
    for (name, index) in [("peer", other), ("nic", nic)] {
        let socket = bound(Domain::IPV4, VRRP, name)?;
        check(socket.device_index_v4()?.map(u32::from) == Some(index), name)?;
    }

    // The longest name there is, and back.
    let long = "fifteen-letters";
    super::carry::ip(&format!("link set nic name {long}"))?;
    let renamed = Opening { bound_to: Some(long.to_owned()), ..opening(nic, bridge) };
    stage.programs.set_opening(nic, Some(&renamed))?;
    let socket = bound(Domain::IPV4, VRRP, KNOWN)?;
    check(socket.device_index_v4()?.map(u32::from) == Some(nic), "it is on the NIC")?;
    stage.programs.set_opening(nic, Some(&Opening { bound_to: None, ..renamed }))?;
    check(bound(Domain::IPV4, VRRP, KNOWN).is_err(), "nothing has the name")?;
    stage.programs.set_opening(nic, None)?;
    check(bound(Domain::IPV4, VRRP, KNOWN).is_err(), "nor now")
}

/// Nobody else's choice is touched: what the kernel refuses it refuses.
pub(crate) fn left_alone() -> Result<(), Failed> {
    let Wire { mut stage, nic, other, .. } = wire()?;
    let socket = bound(Domain::IPV4, VRRP, "br0")?;
    check(is_refused(&choose(&socket, other)), "an interface of another wire")?;
    let stray = bound(Domain::IPV4, VRRP, "peer")?;
    check(is_refused(&choose(&stray, nic)), "a socket on another wire")?;
    let foreign = bound(Domain::IPV4, OTHER, "br0")?;
    check(is_refused(&choose(&foreign, nic)), "a socket of another protocol")?;
    // As short as the kernel takes it.
    socket.set_multicast_if_v4(&"127.0.0.1".parse()?).ok();
    let unbound = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(VRRP)))?;
    choose(&unbound, nic)?;
    check(stage.count(Counter::OpeningsSending)? == 0, "nothing was changed")?;

    stage.programs.set_opening(nic, None)?;
    check(is_refused(&choose(&socket, nic)), "once names are exchanged no longer")
}

/// Without a heartbeat it is as if nothing were there, and in another namespace it is.
pub(crate) fn fails_open() -> Result<(), Failed> {
    let Wire { mut stage, nic, bridge, .. } = wire()?;
    let socket = bound(Domain::IPV4, VRRP, "br0")?;
    stage.programs.still()?;
    check(is_refused(&choose(&socket, nic)), "vipshield hangs")?;
    check(bound(Domain::IPV4, VRRP, KNOWN).is_err(), "nothing has the name")?;
    check(stage.count(Counter::OpeningsPassed)? == 3, "they were counted")?;

    // Its program is on the same control group, and its interfaces have the same numbers.
    let elsewhere = wire()?;
    check((elsewhere.nic, elsewhere.bridge) == (nic, bridge), "numbers are a namespace's own")?;
    check(is_refused(&choose(&socket, nic)), "a socket of another namespace")?;
    check(elsewhere.stage.count(Counter::OpeningsSending)? == 0, "nothing was changed")?;
    drop(elsewhere);
    drop(stage);
    check(is_refused(&choose(&socket, nic)), "vipshield is gone")
}
