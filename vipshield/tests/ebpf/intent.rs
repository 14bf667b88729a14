//! What a daemon asks of addresses: what the kernel's answers carry, and what is reported of them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

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
/// `linux/capability.h`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAP_NET_ADMIN: u32 = 12;
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
        self.send(request, NLM_F_REQUEST | flags)
    }

    /// Sends this, to be acknowledged.
    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(i32, usize), Failed> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_ACK | flags;
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
            intent: Intent { port, sequence, ifindex: nic, address, wanted, refused },
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
            Event::Granted { port, sequence: command.sequence }
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
    stage.counted(Counter::IntentKept, 2)?;
    stage.counted(Counter::IntentUnrelated, 0)?;
    stage.counted(Counter::IntentsLate, 0)?;
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
        let granted = Event::Granted { port, sequence: command.sequence };
        check(seen == [granted], format!("after {early:?}: {seen:?}"))?;
        let (error, _) = unlistened.ask(nic, vip6, false)?;
        check(error == 0, format!("the VIP is removed: {error}"))?;
    }
    Ok(())
}

/// Which IPv6 address was granted is told, whoever asked for others in the meantime, and whatever the request
/// looks like; a request on a socket that is not listened to is no other's.
pub(crate) fn asked_for() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let (mut command, mut unlistened) = (Command::open()?, Command::open()?);
    unlistened.sequence = 5000;
    stage.listen(&command.socket)?;
    let _monitor = sentry(&mut stage)?;
    stage.programs.see_requests();
    let port = daemons::port(&command.socket)?;
    for number in 0..3 {
        let vip = |host| Address {
            ip: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, host, number).into(),
            prefix_len: 128,
        };
        let (error, _) = unlistened.ask_for(nic, vip(1), true, AddressHeaderFlags::Nodad)?;
        check(error == 0, format!("another one is added: {error}"))?;
        let (error, _) = command.ask_for(nic, vip(2), true, AddressHeaderFlags::Nodad)?;
        check(error == 0, format!("the VIP is added: {error}"))?;
        let (sequence, address) = (command.sequence, vip(2));
        let intent = Intent { port, sequence, ifindex: nic, address, wanted: true, refused: false };
        let seen = reports(&mut stage)?;
        check(seen == [Event::Intent { intent }], format!("{seen:?}"))?;
    }
    // A request without an address is nobody's word, whatever was asked for before it.
    unlistened.ask_for(
        nic,
        Address { ip: "2001:db8::11".parse()?, prefix_len: 128 },
        true,
        AddressHeaderFlags::Nodad,
    )?;
    let mut message = AddressMessage::default();
    message.header.index = nic;
    message.header.prefix_len = 128;
    message.header.family = AddressFamily::Inet6;
    let (error, _) = command.send(RouteNetlinkMessage::NewAddress(message), NLM_F_REQUEST)?;
    check(error == -libc::EINVAL, format!("a request without an address: {error}"))?;
    stage.counted(Counter::IntentUnrelated, 1)?;
    stage.counted(Counter::IntentGranted, 3)
}

/// Effective, permitted and inheritable capabilities, the lower 32 of each first (`__user_cap_data_struct`).
type Capabilities = [[u32; 3]; 2];

/// What this thread has, or is to have from now on.
fn capabilities(set: Option<Capabilities>) -> io::Result<Capabilities> {
    // `__user_cap_header_struct`: the version, and 0 for this thread.
    let mut header = [CAPABILITY_VERSION_3, 0];
    let mut data = set.unwrap_or_default();
    let call = if set.is_some() { libc::SYS_capset } else { libc::SYS_capget };
    // SAFETY: both pointers are to locals that outlive the call, of the layout that this version has.
    match unsafe { libc::syscall(call, &raw mut header, &raw mut data) } {
        0 => Ok(data),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Asks without `CAP_NET_ADMIN`, as anybody may, and for what is no request: the one is refused, and the other
/// acknowledged. Neither is an intent.
pub(crate) fn unprivileged() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let _monitor = sentry(&mut stage)?;
    let port = daemons::port(&command.socket)?;
    let vip = Address { ip: "192.0.2.10".parse()?, prefix_len: 32 };
    let vip6 = Address { ip: "2001:db8::10".parse()?, prefix_len: 128 };
    let all = capabilities(None)?;
    let [[effective, permitted, inheritable], high] = all;
    capabilities(Some([[effective & !(1 << CAP_NET_ADMIN), permitted, inheritable], high]))?;
    for address in [vip, vip6] {
        for add in [true, false] {
            let (error, length) = command.ask(nic, address, add)?;
            check(error == -libc::EPERM, format!("who may not: {error}"))?;
            check(length > SHORT_ANSWER, "the answer carries the request")?;
        }
        let mut message = AddressMessage::default();
        message.header.index = nic;
        message.header.family = AddressFamily::Inet6;
        let (error, _) = command.send(RouteNetlinkMessage::NewAddress(message), 0)?;
        check(error == 0, format!("what is no request is acknowledged: {error}"))?;
    }
    capabilities(Some(all))?;
    let (error, _) = command.ask(nic, vip, false)?;
    check(error == -libc::EADDRNOTAVAIL, format!("who may: {error}"))?;
    let (sequence, address) = (command.sequence, vip);
    let intent = Intent { port, sequence, ifindex: nic, address, wanted: false, refused: true };
    let seen = reports(&mut stage)?;
    check(seen == [Event::Intent { intent }], format!("{seen:?}"))?;
    stage.counted(Counter::IntentDenied, 6)?;
    stage.counted(Counter::IntentRefused, 1)?;
    stage.counted(Counter::IntentGranted, 0)
}

/// The last words that are kept, by their addresses, and what names none.
fn last_words(found: Vec<Event>) -> (BTreeMap<IpAddr, Intent>, Vec<Event>) {
    let mut words = BTreeMap::new();
    let mut nameless = Vec::new();
    for event in found {
        match event {
            Event::LastWords { intents } => {
                words.extend(intents.into_iter().map(|intent| (intent.address.ip, intent)));
            }
            other => nameless.push(other),
        }
    }
    (words, nameless)
}

/// Where nobody reads what is said, the last word on each address is there all the same, and the daemon
/// gets its answers.
pub(crate) fn reports_nobody_reads() -> Result<(), Failed> {
    const MANY: u32 = 2000;
    let stage = &mut Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let vip =
        |number: u32| Address { ip: Ipv4Addr::from(0x0a37_0000 + number).into(), prefix_len: 32 };
    for number in 0..MANY {
        let (error, _) = command.ask(nic, vip(number), false)?;
        check(error == -libc::EADDRNOTAVAIL, format!("every answer arrives: {error}"))?;
    }
    let (all, late) = (stage.count(Counter::IntentRefused)?, stage.count(Counter::IntentsLate)?);
    check(all == u64::from(MANY) && late > 0, format!("of {all} {late} were late"))?;
    let read = reports(stage)?.len() as u64;
    check(read == all - late, format!("what was kept is there: {read}"))?;
    let (words, _) = last_words(stage.programs.late_intents()?);
    check(words.len() == MANY as usize, format!("{} last words", words.len()))?;
    check(words.values().all(|word| !word.wanted && word.refused), "each was given up")?;
    check(stage.programs.late_intents()?.is_empty(), "nothing is news twice")?;
    stage.counted(Counter::IntentsLost, 0)?;
    // A socket that is gone has no words.
    stage.programs.forget_socket(daemons::cookie(&command.socket)?)?;
    let (words, _) = last_words(stage.programs.last_words()?);
    check(words.is_empty(), format!("{} are left", words.len()))
}

/// The last word on an address is the last, whatever the kernel answered; what a removal brings along is
/// nobody's word.
pub(crate) fn the_last_counts() -> Result<(), Failed> {
    let mut stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let _monitor = sentry(&mut stage)?;
    fs::write("/proc/sys/net/ipv4/conf/all/promote_secondaries", "1")?;
    let said = |stage: &mut Stage| Ok::<_, Failed>(last_words(stage.programs.last_words()?).0);
    for ip in ["192.0.2.10", "2001:db8::10"] {
        let vip =
            Address { ip: ip.parse()?, prefix_len: 64 / if ip.contains(':') { 1 } else { 2 } };
        for add in [false, true, true, false, true] {
            command.ask(nic, vip, add)?;
            let words = said(&mut stage)?;
            let word = words.get(&vip.ip).ok_or("no word on it")?;
            check(
                (word.wanted, word.sequence) == (add, command.sequence),
                format!("{word:?} of request {}", command.sequence),
            )?;
        }
    }
    let (first, second) = ("198.51.100.1", "198.51.100.2");
    let of = |ip: &str| Ok::<_, Failed>(Address { ip: ip.parse()?, prefix_len: 24 });
    command.ask(nic, of(first)?, true)?;
    stage.add_address("nic", &format!("{second}/24"))?;
    command.ask(nic, of(first)?, false)?;
    let words = said(&mut stage)?;
    let gone = words.get(&of(first)?.ip).ok_or("no word on it")?;
    check((gone.wanted, gone.sequence) == (false, command.sequence), format!("{gone:?}"))?;
    check(!words.contains_key(&of(second)?.ip), "what was promoted was asked for by nobody")
}

/// What names no address finds its way too where nobody reads.
pub(crate) fn grants_nobody_reads() -> Result<(), Failed> {
    const MANY: u16 = 400;
    let stage = &mut Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    let _monitor = sentry(stage)?;
    let first = command.sequence + 1;
    for number in 0..MANY {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, number).into();
        let vip = Address { ip, prefix_len: 128 };
        let (error, _) = command.ask_for(nic, vip, true, AddressHeaderFlags::Nodad)?;
        check(error == 0, format!("the VIP is added: {error}"))?;
    }
    let mut granted = reports(stage)?;
    let (_, late) = last_words(stage.programs.late_intents()?);
    check(!late.is_empty(), "none was late")?;
    granted.extend(late);
    let mut sequences: Vec<u32> = granted
        .iter()
        .filter_map(|event| match event {
            Event::Granted { sequence, .. } => Some(*sequence),
            _ => None,
        })
        .collect();
    sequences.sort_unstable();
    check(sequences.iter().copied().eq(first..=command.sequence), format!("{sequences:?}"))?;
    check(last_words(stage.programs.last_words()?).1.is_empty(), "each is told once")
}

/// There is room for the words on some thousands of addresses; more are lost, and counted.
pub(crate) fn more_addresses_than_room() -> Result<(), Failed> {
    const TOO_MANY: u32 = 9000;
    let stage = &mut Stage::new()?;
    let nic = stage.index("nic")?;
    let mut command = Command::open()?;
    stage.listen(&command.socket)?;
    for number in 0..TOO_MANY {
        let ip = Ipv4Addr::from(0x0a37_0000 + number).into();
        command.ask(nic, Address { ip, prefix_len: 32 }, false)?;
    }
    let (words, _) = last_words(stage.programs.late_intents()?);
    let lost = stage.programs.intents_lost()?;
    check(words.len() >= 8000, format!("room for {}", words.len()))?;
    check(lost == u64::from(TOO_MANY) - words.len() as u64, format!("{lost} are lost"))
}
