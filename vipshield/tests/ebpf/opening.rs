//! How VRRP sockets are opened while names are exchanged, on the running kernel: this process's own control group
//! has the program for as long as a case runs.

use std::{
    collections::BTreeSet,
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
};

use libtest_mimic::Failed;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use vipshield::{
    daemons::{cgroup, is_member, rebind, usual_groups},
    engine::{Family, Opening},
};
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
    let (nic, bridge) = (stage.index("nic")?, stage.index("br0")?);
    let other = stage.index("peer")?;
    let own = [cgroup(std::process::id())?];
    stage.programs.set_opening(nic, Some(&opening(nic, bridge)), &own)?;
    stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    Ok(Wire { stage, nic, bridge, other })
}

/// Daemons know the NIC as `ens192`, which nothing is called.
fn opening(nic: u32, bridge: u32) -> Opening {
    let bearers = BTreeSet::from([nic, bridge]);
    let daemons = BTreeSet::from([std::process::id()]);
    Opening { name: KNOWN.to_owned(), bound_to: Some(bridge), bearers, daemons }
}

fn bound(domain: Domain, protocol: i32, name: &str) -> Result<Socket, Failed> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.bind_device(Some(name.as_bytes()))?;
    Ok(socket)
}

/// `IP_MULTICAST_IF` with a `struct ip_mreqn`, as keepalived asks.
fn choose(socket: &Socket, ifindex: u32) -> io::Result<()> {
    choose_with(socket, ifindex, size_of::<libc::ip_mreqn>())
}

/// The same with so many bytes, of which the kernel reads no more than that structure.
fn choose_with(socket: &Socket, ifindex: u32, length: usize) -> io::Result<()> {
    let index_at = offset_of!(libc::ip_mreqn, imr_ifindex);
    let mut wanted = vec![0_u8; index_at];
    wanted.extend(ifindex.to_ne_bytes());
    wanted.resize(length, 0);
    // SAFETY: the kernel reads as many bytes as there are.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MULTICAST_IF,
            wanted.as_ptr().cast(),
            length as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn is_refused(result: &io::Result<()>) -> bool {
    matches!(result, Err(error) if error.raw_os_error() == Some(libc::EINVAL))
}

/// One that asks for the other end of its own wire is given its own end.
pub(crate) fn sends() -> Result<(), Failed> {
    let Wire { stage, nic, bridge, other } = wire()?;
    let socket = bound(Domain::IPV4, VRRP, "br0")?;
    choose(&socket, nic)?;
    check(stage.count(Counter::OpeningsSending)? == 1, "it was counted")?;
    choose(&socket, bridge)?;
    // It bears the NIC's traffic, and what a daemon takes for its NIC may not be known here yet.
    choose(&socket, other)?;
    let socket = bound(Domain::IPV6, VRRP, "br0")?;
    socket.set_multicast_if_v6(nic)?;
    check(socket.multicast_if_v6()? == bridge, "it sends through what it is bound to")?;
    check(stage.count(Counter::OpeningsSending)? == 3, "they were counted")?;
    // Two names, and a choice.
    check(stage.count(Counter::OpeningsPassed)? == 3, "what is right is let pass")
}

/// A socket that is bound where the traffic is and joined VRRP's group elsewhere is a member there, too, and
/// one that only sends is none anywhere.
pub(crate) fn joined_elsewhere() -> Result<(), Failed> {
    let Wire { stage, nic, bridge, .. } = wire()?;
    stage.set_up("br0", true)?;
    for (domain, family) in [(Domain::IPV4, Family::Ipv4), (Domain::IPV6, Family::Ipv6)] {
        let (receives, sends) = (bound(domain, VRRP, "nic")?, bound(domain, VRRP, "nic")?);
        match family {
            Family::Ipv4 => receives.join_multicast_v4_n(
                &"224.0.0.18".parse()?,
                &InterfaceIndexOrAddress::Index(bridge),
            )?,
            Family::Ipv6 => receives.join_multicast_v6(&"ff02::12".parse()?, bridge)?,
        }
        let groups = usual_groups();
        let group = groups.iter().copied().find(|group| Family::of(*group) == family);
        let group = group.ok_or("VRRP has a group")?;
        let member = |socket: &Socket| [nic, bridge].map(|on| is_member(socket, on, group));
        check(member(&receives) == [false, true], "joined on the bridge")?;
        for socket in [&receives, &sends] {
            // Repeated, it changes nothing.
            for from in [&[nic, bridge][..], &[nic]] {
                rebind(socket, family, from, nic, nic, &groups)?;
                check(socket.device_index_v4()?.map(u32::from) == Some(nic), "bound as before")?;
            }
        }
        check(member(&receives) == [true, false], format!("{family:?}: heard where it is"))?;
        check(member(&sends) == [false; 2], format!("{family:?}: one that sends"))?;
    }
    Ok(())
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

    // The longest name there is, and whoever has it.
    let long = "fifteen-letters";
    let renamed = Opening { name: long.to_owned(), bound_to: Some(nic), ..opening(nic, bridge) };
    stage.programs.set_opening(nic, Some(&renamed), &[])?;
    let is_on_nic = || {
        let socket = bound(Domain::IPV4, VRRP, long)?;
        Ok::<_, Failed>(socket.device_index_v4()?.map(u32::from) == Some(nic))
    };
    check(is_on_nic()?, "nobody")?;
    // Before Linux 6.2 only what is down can be renamed.
    for name in ["nic", "br0"] {
        stage.set_up(name, false)?;
    }
    super::carry::ip(&format!("link set br0 name {long}"))?;
    check(is_on_nic()?, "the bridge")?;
    super::carry::ip(&format!("link set {long} name br0"))?;
    super::carry::ip(&format!("link set nic name {long}"))?;
    check(is_on_nic()?, "the NIC itself")?;
    super::carry::ip(&format!("link set {long} name nic"))?;
    check(bound(Domain::IPV4, VRRP, KNOWN).is_err(), "another name is not known any more")?;
    stage.programs.set_opening(nic, Some(&Opening { bound_to: None, ..renamed }), &[])?;
    check(bound(Domain::IPV4, VRRP, long).is_err(), "where that cannot be told")?;
    stage.programs.set_opening(nic, None, &[])?;
    check(bound(Domain::IPV4, VRRP, long).is_err(), "in the end")
}

/// Nobody else's choice is touched: what the kernel refuses it refuses.
pub(crate) fn left_alone() -> Result<(), Failed> {
    let Wire { mut stage, nic, .. } = wire()?;
    let socket = bound(Domain::IPV4, VRRP, "br0")?;
    let stray = bound(Domain::IPV4, VRRP, "peer")?;
    check(is_refused(&choose(&stray, nic)), "a socket on another wire")?;
    let foreign = bound(Domain::IPV4, OTHER, "br0")?;
    check(is_refused(&choose(&foreign, nic)), "a socket of another protocol")?;
    // As short as the kernel takes it.
    socket.set_multicast_if_v4(&"127.0.0.1".parse()?).ok();
    let unbound = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(VRRP)))?;
    choose(&unbound, nic)?;
    choose_with(&unbound, nic, 8192)?;
    check(stage.count(Counter::OpeningsSending)? == 0, "nothing was changed")?;

    stage.programs.set_opening(nic, None, &[])?;
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
