//! Socket filter on a guarded daemon's rtnetlink monitor socket.
//!
//! The kernel runs it for every message before delivery (`do_one_broadcast` and `netlink_unicast`
//! in `net/netlink/af_netlink.c` call `sk_filter`), in the context of whoever made the change.
//! The message starts at offset 0. A filter returns how many bytes to keep: all, or none.
//!
//! It looks at the facts (`look`), in the order in which the rules ask for them, and does what the first
//! rule says that fits (`vipshield_common::guard::rules`). Anything it does not understand passes.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _, helpers::generated::bpf_get_socket_cookie, macros::socket_filter,
    programs::SkBuffContext,
};
use aya_log_ebpf::warn;
use vipshield_common::{
    counters::Counter,
    guard::{
        AddressKey, GuardReport, GuardedSocket, Held, HeldAddress, IFNAMSIZ, IfName, NicPolicy,
        rules::{
            ADDRESS, ANSWER, DUMP, Entry, KNOWN, LINK, LinkSaid, MALFORMED, OF_DAEMON, OWN_RULE,
            REMOVAL, REPLAYED, ROUTE, RULES, STALE, TABLE, Then, UNKNOWN_SOCKET, Verdict,
            facts_of_address, facts_of_link, facts_of_policy, facts_of_route, judge, own_rule,
        },
    },
    rule::When,
};

use crate::{
    maps::{
        ADDRESSES_HELD, COMMAND_PORTS, EPOCHS, LINK_HELD, NAMES, NICS, OWN_ADDRESSES,
        REPLAYED as REPLAYED_NOW, REPORTS, SOCKETS, alive, count, count_own_rule, count_rule,
        now_ns,
    },
    netlink::{
        AF_BRIDGE, AF_INET6, ATTRIBUTE, AddressMessage, Attribute, HEADER, Header, IFF_RUNNING,
        IFF_UP, LinkMessage, NLA_TYPE_MASK, NLM_F_MULTI, RT_TABLE_MAIN, RTM_DELADDR, RTM_DELLINK,
        RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTPROT_KEEPALIVED, RTPROT_KEEPALIVED_2_0,
        RouteMessage, align, leads, local_address,
    },
    skb::load,
};

/// `linux/if_link.h`.
const IFLA_IFNAME: u16 = 3;

/// The interface name is first or second in every link message (`rtnl_fill_ifinfo` may put
/// `IFLA_TARGET_NETNSID` before it, `br_fill_ifinfo` puts it first).
const ATTRIBUTES_LOOKED_AT: u32 = 4;

/// The rules, as the loader has them.
#[unsafe(no_mangle)]
static GUARD_RULES: [Entry; RULES.len()] = TABLE;

#[socket_filter]
fn netlink_guard(skb: SkBuffContext) -> i64 {
    // SAFETY: the context of a socket filter is a `__sk_buff`.
    let cookie = unsafe { bpf_get_socket_cookie(skb.as_ptr()) };
    let mut report = nothing_yet();
    let facts = look(&skb, cookie, &mut report);
    let verdict = judge(when, then, facts);
    count_rule(verdict.rule);
    if facts & OWN_RULE != 0 {
        note_own_rule(facts, &report);
    }
    if facts & ADDRESS != 0 {
        note_address(cookie, &report, verdict);
    } else if verdict.then.settles() {
        let _ = LINK_HELD.remove(report.ifindex);
    } else if verdict.then.holds() {
        let _ = LINK_HELD.insert(report.ifindex, 1, 0);
    }
    if verdict.then.reason() == 0 {
        return i64::from(u32::MAX);
    }
    report.time_ns = now_ns();
    report.cookie = cookie;
    report.reason = verdict.then.reason();
    report.rule = verdict.rule;
    if REPORTS.output::<GuardReport>(&report, 0).is_err() {
        count(Counter::ReportsLost);
        warn!(&skb, "report lost: type {} about interface {}", report.message_type, report.ifindex);
    }
    0
}

/// An entry of the table.
#[inline(always)]
const fn entry(number: usize) -> *const Entry {
    // SAFETY: the caller asks for one of RULES.len(), and that many there are.
    unsafe { (&raw const GUARD_RULES).cast::<Entry>().add(number) }
}

/// When it decides. The compiler must not know what is there: the loader may replace it.
#[inline(always)]
fn when(number: usize) -> When {
    // SAFETY: it is a constant of this program's.
    unsafe { (&raw const (*entry(number)).when).read_volatile() }
}

/// What follows.
#[inline(always)]
fn then(number: usize) -> Then {
    // SAFETY: as above.
    unsafe { (&raw const (*entry(number)).then).read_volatile() }
}

/// Every byte of it is written: before Linux 6.3 the verifier refuses a program that may read something on its
/// stack that it has not written (`check_stack_read_fixed_off` in `kernel/bpf/verifier.c`). Word by word: what the
/// compiler makes of a constant is a loop over bytes, which takes longer than all that a message is asked for.
#[inline(always)]
fn nothing_yet() -> GuardReport {
    const WORDS: usize = size_of::<GuardReport>() / size_of::<u64>();
    let mut report = MaybeUninit::<GuardReport>::uninit();
    let words = report.as_mut_ptr().cast::<u64>();
    for word in 0..WORDS {
        // SAFETY: so many words it is long, and aligned as one.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: all of it is integers, and written.
    unsafe { report.assume_init() }
}

/// The facts of a message, as far as they matter, and what would be reported of it.
#[inline(always)]
fn look(skb: &SkBuffContext, cookie: u64, report: &mut GuardReport) -> u32 {
    let Some(header) = load::<Header>(skb, 0) else { return MALFORMED };
    let facts = match header.message_type {
        RTM_NEWLINK => LINK,
        RTM_DELLINK => LINK | REMOVAL,
        RTM_NEWADDR => ADDRESS,
        RTM_DELADDR => ADDRESS | REMOVAL,
        // Whoever deletes a route means it.
        RTM_DELROUTE if header.port == 0 && is_keepalived_s(skb) => ROUTE,
        _ => return 0,
    };
    if header.flags & NLM_F_MULTI != 0 {
        return facts | DUMP;
    }
    let facts = if alive() { facts } else { facts | STALE };
    // What becomes known of an address without vipshield is noted all the same.
    if facts & STALE != 0 && facts & ADDRESS == 0 {
        return facts;
    }
    // SAFETY: entries are plain integers; a torn read of one being replaced costs one verdict.
    let Some(socket) = (unsafe { SOCKETS.get(cookie) }).copied() else {
        return facts | UNKNOWN_SOCKET;
    };
    if header.port != 0 && header.port == socket.port {
        return facts | ANSWER;
    }
    report.requester = header.port;
    report.message_type = header.message_type;
    if facts & LINK != 0 {
        facts | look_at_link(skb, report)
    } else if facts & ROUTE != 0 {
        facts | look_at_route(skb, report)
    } else {
        facts | look_at_address(skb, cookie, &socket, facts, report)
    }
}

#[inline(always)]
fn look_at_link(skb: &SkBuffContext, report: &mut GuardReport) -> u32 {
    let Some(link) = load::<LinkMessage>(skb, HEADER) else { return MALFORMED };
    let Some(name) = interface_name(skb) else { return MALFORMED };
    report.ifindex = link.index;
    report.family = link.family;
    report.link_flags = link.flags;
    report.name = name;
    let said = LinkSaid {
        name,
        is_down: link.flags & IFF_UP == 0,
        lacks_carrier: link.flags & IFF_RUNNING == 0,
        of_bridge: link.family == AF_BRIDGE,
    };
    // SAFETY: as for SOCKETS.
    let policy = unsafe { NICS.get(link.index) };
    // SAFETY: as for SOCKETS.
    let is_held = || unsafe { LINK_HELD.get(link.index) }.is_some();
    facts_of_link(&said, policy, is_held, || namesake(&name))
}

/// Of others keepalived knows nothing, and of those in other tables nobody makes them anew.
#[inline(always)]
fn is_keepalived_s(skb: &SkBuffContext) -> bool {
    load::<RouteMessage>(skb, HEADER).is_some_and(|route| {
        (route.protocol == RTPROT_KEEPALIVED || route.protocol == RTPROT_KEEPALIVED_2_0)
            && route.table == RT_TABLE_MAIN
    })
}

#[inline(always)]
fn look_at_route(skb: &SkBuffContext, report: &mut GuardReport) -> u32 {
    let Some(route) = load::<RouteMessage>(skb, HEADER) else { return MALFORMED };
    let Some((destination, ifindex)) = leads(skb, HEADER, route.family) else { return 0 };
    report.ifindex = ifindex;
    report.family = route.family;
    report.prefix_len = route.prefix_len;
    report.address = destination;
    // SAFETY: as for SOCKETS.
    facts_of_route(unsafe { NICS.get(ifindex) })
}

#[inline(always)]
fn look_at_address(
    skb: &SkBuffContext,
    cookie: u64,
    socket: &GuardedSocket,
    said: u32,
    report: &mut GuardReport,
) -> u32 {
    let Some(message) = load::<AddressMessage>(skb, HEADER) else { return MALFORMED };
    // SAFETY: as for SOCKETS.
    let Some(policy) = (unsafe { NICS.get(message.index) }) else { return 0 };
    let facts = facts_of_policy(policy);
    let Some(address) = local_address(skb, HEADER, message.family) else {
        return facts | MALFORMED;
    };
    report.ifindex = message.index;
    report.family = message.family;
    report.prefix_len = message.prefix_len;
    report.address = address;

    let requester = report.requester;
    // SAFETY: as for SOCKETS.
    if requester != 0 && unsafe { COMMAND_PORTS.get(requester) }.is_some() {
        return facts | OF_DAEMON;
    }
    if requester != 0 && requester == socket.replay_port {
        return facts | REPLAYED;
    }
    let key = AddressKey { address, family: u32::from(message.family) };
    // Of IPv6 the kernel does not say who asked (`inet6_ifa_notify` in `net/ipv6/addrconf.c`): what
    // is replayed is known by its address.
    // SAFETY: as for SOCKETS.
    if message.family == AF_INET6 && unsafe { REPLAYED_NOW.get(key) }.is_some() {
        return facts | REPLAYED;
    }
    // SAFETY: as for SOCKETS.
    let is_own = unsafe { OWN_ADDRESSES.get(key) }.is_some();
    let is_removal = said & REMOVAL != 0;
    let facts = facts_of_address(policy, is_own, is_removal);
    if is_own || is_removal {
        return facts;
    }
    // SAFETY: as for SOCKETS.
    let held = unsafe { ADDRESSES_HELD.get(held_address(cookie, report)) };
    if held.is_some_and(|held| held.epoch == epoch(report.ifindex)) { facts | KNOWN } else { facts }
}

/// Counts for the rule of the operator's own that has passed a message.
#[inline(always)]
fn note_own_rule(facts: u32, report: &GuardReport) {
    // SAFETY: as for SOCKETS.
    let policy = unsafe { NICS.get(report.ifindex) }.or_else(|| namesake(&report.name));
    if let Some(policy) = policy {
        count_own_rule(own_rule(policy, facts));
    }
}

/// Notes whether the daemon believes an address there that is not.
#[inline(always)]
fn note_address(cookie: u64, report: &GuardReport, verdict: Verdict) {
    // No address of a guarded NIC.
    if report.family == 0 {
        return;
    }
    let held = held_address(cookie, report);
    if verdict.then.holds() {
        let prefix_len = u32::from(report.prefix_len);
        let _ = ADDRESSES_HELD.insert(held, Held { epoch: epoch(report.ifindex), prefix_len }, 0);
    } else {
        let _ = ADDRESSES_HELD.remove(held);
    }
}

#[inline(always)]
fn epoch(ifindex: u32) -> u32 {
    // SAFETY: as for SOCKETS.
    unsafe { EPOCHS.get(ifindex) }.copied().unwrap_or(0)
}

#[inline(always)]
const fn held_address(cookie: u64, report: &GuardReport) -> HeldAddress {
    let key = AddressKey { address: report.address, family: report.family as u32 };
    HeldAddress { cookie, key, ifindex: report.ifindex }
}

/// The policy of the NIC that is known under `name`.
#[inline(always)]
fn namesake<'a>(name: &IfName) -> Option<&'a NicPolicy> {
    // SAFETY: as for SOCKETS.
    let index = (unsafe { NAMES.get(name) })?;
    // SAFETY: as for SOCKETS.
    unsafe { NICS.get(*index) }
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
