//! Socket filter on a guarded daemon's rtnetlink monitor socket.
//!
//! The kernel runs it for every message before delivery (`do_one_broadcast` and `netlink_unicast`
//! in `net/netlink/af_netlink.c` call `sk_filter`), in the context of whoever made the change.
//! The message starts at offset 0. A filter returns how many bytes to keep: all, or none.
//!
//! It answers one question, in this order, and anything it does not understand passes:
//! is somebody alive who will tell the daemon the truth later, is it about a guarded NIC, did the
//! daemons ask for it themselves, and does the NIC's policy withhold it?

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::socket_filter,
    programs::SkBuffContext,
};
use aya_log_ebpf::warn;
use vipshield_common::{
    counters::Counter,
    guard::{
        AddressKey, GuardReport, GuardedSocket, IFNAMSIZ, IfName, NicPolicy, Reason, withhold,
    },
};

use crate::{
    maps::{
        COMMAND_PORTS, LINK_HELD, NAMES, NICS, OWN_ADDRESSES, REPLAYED, REPORTS, SOCKETS, alive,
        count, now_ns,
    },
    netlink::{
        AF_BRIDGE, AF_INET6, ATTRIBUTE, AddressMessage, Attribute, HEADER, Header, IFF_RUNNING,
        IFF_UP, LinkMessage, NLA_TYPE_MASK, NLM_F_MULTI, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR,
        RTM_NEWLINK, align, local_address,
    },
    skb::load,
};

/// `linux/if_link.h`.
const IFLA_IFNAME: u16 = 3;

/// The interface name is first or second in every link message (`rtnl_fill_ifinfo` may put
/// `IFLA_TARGET_NETNSID` before it, `br_fill_ifinfo` puts it first).
const ATTRIBUTES_LOOKED_AT: u32 = 4;

enum Verdict {
    Pass(Counter),
    Withhold(Counter, Reason, GuardReport),
}

#[socket_filter]
fn netlink_guard(skb: SkBuffContext) -> i64 {
    // SAFETY: the context of a socket filter is a `__sk_buff`.
    let cookie = unsafe { bpf_get_socket_cookie(skb.as_ptr()) };
    match judge(&skb, cookie) {
        Verdict::Pass(counter) => {
            count(counter);
            i64::from(u32::MAX)
        }
        Verdict::Withhold(counter, reason, mut report) => {
            count(counter);
            report.time_ns = now_ns();
            report.cookie = cookie;
            report.reason = reason as u8;
            if REPORTS.output::<GuardReport>(&report, 0).is_err() {
                count(Counter::ReportsLost);
                warn!(
                    &skb,
                    "report lost: type {} about interface {}", report.message_type, report.ifindex
                );
            }
            0
        }
    }
}

#[inline(always)]
fn judge(skb: &SkBuffContext, cookie: u64) -> Verdict {
    let Some(header) = load::<Header>(skb, 0) else {
        return Verdict::Pass(Counter::PassedMalformed);
    };
    if !matches!(header.message_type, RTM_NEWLINK | RTM_DELLINK | RTM_NEWADDR | RTM_DELADDR) {
        return Verdict::Pass(Counter::PassedUnrelated);
    }
    if header.flags & NLM_F_MULTI != 0 {
        return Verdict::Pass(Counter::PassedDump);
    }
    if !alive() {
        return Verdict::Pass(Counter::PassedStale);
    }
    // SAFETY: entries are plain integers; a torn read of one being replaced costs one verdict.
    let Some(socket) = (unsafe { SOCKETS.get(cookie) }).copied() else {
        return Verdict::Pass(Counter::PassedUnknownSocket);
    };
    if header.port != 0 && header.port == socket.port {
        return Verdict::Pass(Counter::PassedAnswer);
    }
    if matches!(header.message_type, RTM_NEWLINK | RTM_DELLINK) {
        judge_link(skb, &header)
    } else {
        judge_address(skb, &header, &socket)
    }
}

#[inline(always)]
fn judge_link(skb: &SkBuffContext, header: &Header) -> Verdict {
    let Some(link) = load::<LinkMessage>(skb, HEADER) else {
        return Verdict::Pass(Counter::PassedMalformed);
    };
    let Some(name) = interface_name(skb) else {
        return Verdict::Pass(Counter::PassedMalformed);
    };
    let mut report = report(header, link.index, link.family);
    report.link_flags = link.flags;
    report.name = name;

    // SAFETY: as for SOCKETS.
    let Some(policy) = (unsafe { NICS.get(link.index) }) else {
        return if bears_guarded_name(&name) {
            Verdict::Withhold(Counter::WithheldImpostor, Reason::Impostor, report)
        } else {
            Verdict::Pass(Counter::PassedOther)
        };
    };
    // A bridge reports a port that joins or leaves as RTM_NEWLINK or RTM_DELLINK of family
    // AF_BRIDGE (`br_ifinfo_notify`). keepalived 2.2.7 does not look at the family, and would
    // take the latter for the NIC's removal.
    if link.family == AF_BRIDGE {
        return Verdict::Withhold(Counter::WithheldBridgePort, Reason::BridgePort, report);
    }
    if header.message_type == RTM_DELLINK {
        return Verdict::Pass(Counter::PassedTrue);
    }
    let (fault, counter, reason) = if name != policy.name {
        (withhold::RENAME, Counter::WithheldRename, Reason::Rename)
    } else if link.flags & IFF_UP == 0 {
        (withhold::ADMIN_DOWN, Counter::WithheldAdminDown, Reason::AdminDown)
    } else if link.flags & IFF_RUNNING == 0 {
        (withhold::CARRIER_LOSS, Counter::WithheldCarrier, Reason::CarrierLoss)
    } else {
        // All is well again: what was held back about the link is untrue now.
        let _ = LINK_HELD.remove(link.index);
        return Verdict::Pass(Counter::PassedTrue);
    };
    // A NIC that was just taken down has no carrier for a moment after it comes up, sooner than
    // userspace can widen the policy: what began withheld stays so.
    // SAFETY: as for SOCKETS.
    let held = policy.withhold != 0 && unsafe { LINK_HELD.get(link.index) }.is_some();
    if policy.withhold & fault == 0 && !held {
        return Verdict::Pass(Counter::PassedTrue);
    }
    let _ = LINK_HELD.insert(link.index, 1, 0);
    Verdict::Withhold(counter, reason, report)
}

#[inline(always)]
fn judge_address(skb: &SkBuffContext, header: &Header, socket: &GuardedSocket) -> Verdict {
    let Some(message) = load::<AddressMessage>(skb, HEADER) else {
        return Verdict::Pass(Counter::PassedMalformed);
    };
    // SAFETY: as for SOCKETS.
    let Some(policy) = (unsafe { NICS.get(message.index) }) else {
        return Verdict::Pass(Counter::PassedOther);
    };
    // SAFETY: as for SOCKETS.
    if header.port != 0 && unsafe { COMMAND_PORTS.get(header.port) }.is_some() {
        return Verdict::Pass(Counter::PassedOwnRequest);
    }
    if header.port != 0 && header.port == socket.replay_port {
        return Verdict::Pass(Counter::PassedReplay);
    }
    let Some(address) = local_address(skb, HEADER, message.family) else {
        return Verdict::Pass(Counter::PassedMalformed);
    };
    let mut report = report(header, message.index, message.family);
    report.prefix_len = message.prefix_len;
    report.address = address;

    let key = AddressKey { address, family: u32::from(message.family) };
    // Of IPv6 the kernel does not say who asked (`inet6_ifa_notify` in `net/ipv6/addrconf.c`): what
    // is replayed is known by its address.
    // SAFETY: as for SOCKETS.
    if message.family == AF_INET6 && unsafe { REPLAYED.get(key) }.is_some() {
        return Verdict::Pass(Counter::PassedReplay);
    }
    // SAFETY: as for SOCKETS.
    if unsafe { OWN_ADDRESSES.get(key) }.is_some() {
        return Verdict::Withhold(Counter::WithheldOwnAddress, Reason::OwnAddress, report);
    }
    if header.message_type == RTM_DELADDR && policy.withhold & withhold::ADDRESS_REMOVAL != 0 {
        return Verdict::Withhold(Counter::WithheldAddress, Reason::AddressRemoval, report);
    }
    Verdict::Pass(Counter::PassedTrue)
}

/// Whether a NIC whose policy withholds renames is known under `name`.
#[inline(always)]
fn bears_guarded_name(name: &IfName) -> bool {
    // SAFETY: as for SOCKETS.
    let Some(index) = (unsafe { NAMES.get(name) }) else { return false };
    // SAFETY: as for SOCKETS.
    let policy: Option<&NicPolicy> = unsafe { NICS.get(*index) };
    policy.is_some_and(|policy| policy.withhold & withhold::RENAME != 0)
}

#[inline(always)]
fn report(header: &Header, ifindex: u32, family: u8) -> GuardReport {
    GuardReport {
        time_ns: 0,
        cookie: 0,
        ifindex,
        requester: header.port,
        link_flags: 0,
        message_type: header.message_type,
        reason: 0,
        family,
        prefix_len: 0,
        padding: [0; 7],
        address: [0; 16],
        name: [0; IFNAMSIZ],
    }
}

/// `IFLA_IFNAME` of a link message, padded with NUL bytes whatever stood behind it.
#[inline(always)]
fn interface_name(skb: &SkBuffContext) -> Option<IfName> {
    let mut offset = HEADER + size_of::<LinkMessage>() as u32;
    for _ in 0..ATTRIBUTES_LOOKED_AT {
        let attribute = load::<Attribute>(skb, offset)?;
        if attribute.attribute_type & NLA_TYPE_MASK == IFLA_IFNAME {
            // Names are short and attributes padded to four bytes: load word by word up to the
            // attribute's end, so that a name at the very end of a message is read as well.
            let mut words = [0_u32; IFNAMSIZ / 4];
            let mut at = offset + ATTRIBUTE;
            let end = offset + u32::from(attribute.length);
            for word in &mut words {
                if at >= end {
                    break;
                }
                *word = load::<u32>(skb, at)?;
                at += 4;
            }
            // SAFETY: the same size, both plain bytes.
            let mut name: IfName = unsafe { core::mem::transmute(words) };
            let mut ended = false;
            for byte in &mut name {
                ended |= *byte == 0;
                if ended {
                    *byte = 0;
                }
            }
            return Some(name);
        }
        offset += align(attribute.length)?;
    }
    None
}
