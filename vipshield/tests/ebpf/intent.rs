//! What a daemon asks of addresses: what the kernel's answers carry, and what is reported of them.

use libtest_mimic::Failed;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use vipshield::{
    bpf,
    daemons::{self, AttachedFilter, attached_filter},
    engine::{Address, Event, Intent},
};
use vipshield_common::counters::Counter;

use super::{
    check,
    namespace::{PATIENCE, Stage, monotonic_ns, receive},
};

/// `linux/rtnetlink.h`.
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
/// Length of an answer without the request: its own header, an errno, the request's header.
const SHORT_ANSWER: usize = 16 + 4 + 16;

/// Stands for the daemon's command socket.
struct Command {
    socket: Socket,
    sequence: u32,
}

impl Command {
    fn open() -> Result<Self, Failed> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 100 })
    }

    /// Asks for an address, or for its removal, as keepalived does. Returns the errno and the
    /// length of the answer.
    fn ask(&mut self, ifindex: u32, address: Address, add: bool) -> Result<(i32, usize), Failed> {
        self.ask_for(ifindex, address, add, AddressHeaderFlags::empty())
    }

    /// The same with these flags.
    fn ask_for(
        &mut self,
        ifindex: u32,
        address: Address,
        add: bool,
        address_flags: AddressHeaderFlags,
    ) -> Result<(i32, usize), Failed> {
        self.sequence += 1;
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        message.header.flags = address_flags;
        message.header.prefix_len = address.prefix_len;
        message.header.family =
            if address.ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.attributes.push(AddressAttribute::Local(address.ip));
        let (request, flags) = if add {
            (RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
        } else {
            (RouteNetlinkMessage::DelAddress(message), 0)
        };
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let answer = receive(&self.socket)?;
        let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
        match parsed.payload {
            NetlinkPayload::Error(error) => {
                Ok((error.code.map_or(0, std::num::NonZero::get), answer.len()))
            }
            other => Err(format!("no answer: {other:?}").into()),
        }
    }
}

/// The reports that are there.
fn reports(stage: &mut Stage) -> Result<Vec<Event>, Failed> {
    let mut intents = Vec::new();
    let (runtime, programs) = stage.parts();
    runtime.block_on(async {
        let read = programs.intents.read(|record| intents.extend(bpf::intent(record)));
        tokio::time::timeout(PATIENCE, read).await
    })??;
    Ok(intents)
}

/// A monitor of addresses with the sentry that remembers who changed them.
fn sentry(stage: &mut Stage) -> Result<Socket, Failed> {
    let mut monitor = Socket::new(NETLINK_ROUTE)?;
    monitor.bind_auto()?;
    for group in [RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR] {
        monitor.add_membership(group)?;
    }
    let (_, programs) = stage.parts();
    programs.post_sentry(&monitor)?;
    Ok(monitor)
}

/// A request that fails is reported with everything it asked for. One that succeeds is not, unless it
/// is about IPv6: with its address, if the kernel announced it before it answered. The daemon gets
/// each of its answers.
pub(crate) fn refused_requests() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let _monitor = sentry(&mut stage)?;
    check(attached_filter(&command.socket)? == AttachedFilter::Ebpf, "it carries the filter")?;
    let port = daemons::port(&command.socket)?;
    let vip = Address { ip: "192.0.2.10".parse()?, prefix_len: 32 };
    let vip6 = Address { ip: "2001:db8::10".parse()?, prefix_len: 128 };
    // Without a check for duplicates the kernel announces an address later, as keepalived asks for it.
    for (address, flags) in [
        (vip, AddressHeaderFlags::empty()),
        (vip6, AddressHeaderFlags::empty()),
        (vip6, AddressHeaderFlags::Nodad),
    ] {
        let mut expected = Vec::new();
        let intent = |sequence, wanted, refused| Event::Intent {
            intent: Intent { port, sequence, address, wanted, refused },
        };
        let is_ipv6 = address.ip.is_ipv6();
        let (error, length) = command.ask(nic, address, false)?;
        check(error == -libc::EADDRNOTAVAIL, format!("the removal of what is gone: {error}"))?;
        check(length > SHORT_ANSWER, "the answer carries the request")?;
        expected.push(intent(command.sequence, false, true));
        let (error, length) = command.ask_for(nic, address, true, flags)?;
        check(error == 0, format!("the address is added: {error}"))?;
        check(length == SHORT_ANSWER, "the answer carries no more than the request's header")?;
        let granted = if flags.is_empty() {
            intent(command.sequence, true, false)
        } else {
            Event::Granted { port }
        };
        expected.extend(is_ipv6.then_some(granted));
        let (error, _) = command.ask(nic, address, true)?;
        check(error == -libc::EEXIST, format!("it is there already: {error}"))?;
        expected.push(intent(command.sequence, true, true));
        let (error, _) = command.ask(nic, address, false)?;
        check(error == 0, format!("the address is removed: {error}"))?;
        expected.extend(is_ipv6.then(|| intent(command.sequence, false, false)));
        let seen = reports(&mut stage)?;
        check(seen == expected, format!("{seen:?} instead of {expected:?}"))?;
    }
    stage.counted(Counter::IntentRefused, 6)?;
    stage.counted(Counter::IntentGranted, 4)?;
    stage.counted(Counter::IntentUnrelated, 2)?;
    stage.counted(Counter::IntentsLost, 0)
}

/// What the daemon did through a socket that is not listened to has no answer that would use up what
/// was remembered: it is not taken for what is asked for later, of which nothing is said in time.
pub(crate) fn answered_elsewhere() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let (mut command, mut unlistened) = (Command::open()?, Command::open()?);
    stage.listen(&command.socket)?;
    let _monitor = sentry(&mut stage)?;
    let port = daemons::port(&command.socket)?;
    let vip6 = Address { ip: "2001:db8::10".parse()?, prefix_len: 128 };
    for ip in ["192.0.2.11", "2001:db8::11"] {
        let early = Address { ip: ip.parse()?, prefix_len: 32 };
        let (error, _) = unlistened.ask(nic, early, true)?;
        check(error == 0, format!("{early:?} is added: {error}"))?;
        // Half a second is what a system call may take.
        let old = monotonic_ns()? + 600_000_000;
        while monotonic_ns()? < old {
            std::thread::yield_now();
        }
        let (error, _) = command.ask_for(nic, vip6, true, AddressHeaderFlags::Nodad)?;
        check(error == 0, format!("the VIP is added: {error}"))?;
        let seen = reports(&mut stage)?;
        check(seen == [Event::Granted { port }], format!("after {early:?}: {seen:?}"))?;
        let (error, _) = unlistened.ask(nic, vip6, false)?;
        check(error == 0, format!("the VIP is removed: {error}"))?;
    }
    Ok(())
}

/// Where nobody reads the reports they are lost and counted, and the daemon gets its answers.
pub(crate) fn reports_nobody_reads() -> Result<(), Failed> {
    let stage = &mut Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let vip = Address { ip: "192.0.2.10".parse()?, prefix_len: 32 };
    for _ in 0..1000 {
        let (error, _) = command.ask(nic, vip, false)?;
        check(error == -libc::EADDRNOTAVAIL, format!("every answer arrives: {error}"))?;
    }
    let (kept, lost) = (stage.count(Counter::IntentRefused)?, stage.count(Counter::IntentsLost)?);
    check(kept + lost == 1000 && lost > 0, format!("{kept} kept and {lost} lost"))?;
    check(reports(stage)?.len() as u64 == kept, "what was kept is there")
}
