//! Socket filter on a guarded daemon's rtnetlink command socket: which addresses it asks for, and
//! which it gives up, where nothing else says so.
//!
//! The kernel's answer to a request passes the socket's filter (`netlink_unicast` in
//! `net/netlink/af_netlink.c` calls `sk_filter`). An answer to a request that failed carries the
//! whole request; one to a request that succeeded only its header (`netlink_ack`). What succeeded
//! is announced to everybody with the port of the one who asked, but for IPv6. So told here are
//! failures: after Kube-OVN has moved an address, the daemon's own request to remove it fails, and
//! nothing else says that it gave the address up; and successes that are about IPv6. A removal is
//! announced in the context of who asks, right before the answer: `link_sentry` remembers it by the
//! task. An addition is announced by a kernel thread, some time later: `address_sentry` remembers what was asked
//! for. Where the kernel lets no probe in, the report of an addition names no address.
//!
//! What is told goes to a ring buffer, in order. The last word on each address is kept beside it, also of
//! what the kernel granted for IPv4: there it is found when the ring buffer was full, or when what the
//! kernel announced was lost.
//!
//! What a process without `CAP_NET_ADMIN` asks for is no intent. The kernel asks for that before it looks at a
//! request (`rtnetlink_rcv_msg` in `net/core/rtnetlink.c`): so EPERM tells who may not, and any other answer
//! who may, but for an answer without an error to what is no request, or has nothing in it: that is
//! acknowledged to anybody (`netlink_rcv_skb` in `net/netlink/af_netlink.c`).
//!
//! It always passes everything.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_task, generated::bpf_get_socket_cookie},
    macros::socket_filter,
    programs::SkBuffContext,
};
use aya_log_ebpf::warn;
use vipshield_common::{
    counters::Counter,
    intent::{IntentReport, WordKey},
};

use crate::{
    maps::{ANNOUNCED, Announced, INTENTS, LAST_WORDS, count, now_ns},
    netlink::{
        AF_INET, AF_INET6, AddressMessage, EPERM, HEADER, Header, NLM_F_REQUEST, NLMSG_ERROR,
        RTM_DELADDR, RTM_NEWADDR, local_address,
    },
    skb::load,
};

/// `struct nlmsgerr`: an errno, then the request.
const REQUEST: u32 = HEADER + size_of::<i32>() as u32;
/// An announcement this old is not this request's, but one's that was answered where nobody listens.
/// Longer than the kernel keeps a task with a quota from its processor (CFS: 100 ms).
const ANNOUNCED_FOR_NS: u64 = 500_000_000;

#[socket_filter]
fn netlink_intent(skb: SkBuffContext) -> i64 {
    let report = match said(&skb) {
        Ok(report) => report,
        Err(counter) => {
            count(counter);
            return i64::from(u32::MAX);
        }
    };
    let named = report.family != 0;
    let kept = named && keep(&report);
    let counter = if report.error != 0 {
        Counter::IntentRefused
    } else if report.family == AF_INET {
        // The monitor tells it as well.
        count(Counter::IntentKept);
        return i64::from(u32::MAX);
    } else {
        Counter::IntentGranted
    };
    count(counter);
    if INTENTS.output::<IntentReport>(&report, 0).is_err() {
        count(if kept || (!named && keep(&report)) {
            Counter::IntentsLate
        } else {
            warn!(&skb, "intent lost: type {}", report.message_type);
            Counter::IntentsLost
        });
    }
    i64::from(u32::MAX)
}

/// Keeps this as the last word on its address; false if there is no room for it.
#[inline(always)]
fn keep(report: &IntentReport) -> bool {
    let mut address = report.address;
    if report.family == 0 {
        let [a, b, c, d] = report.sequence.to_ne_bytes();
        (address[0], address[1], address[2], address[3]) = (a, b, c, d);
    }
    let family = u32::from(report.family);
    let key = WordKey { cookie: report.cookie, address, family, padding: 0 };
    LAST_WORDS.insert(key, *report, 0).is_ok()
}

/// What an answer says of an address that nothing else says; or what it counts as.
#[inline(always)]
fn said(skb: &SkBuffContext) -> Result<IntentReport, Counter> {
    let unrelated = Counter::IntentUnrelated;
    let header = load::<Header>(skb, 0).ok_or(unrelated)?;
    if header.message_type != NLMSG_ERROR {
        return Err(unrelated);
    }
    // SAFETY: the context of a socket filter is a `__sk_buff`.
    let cookie = unsafe { bpf_get_socket_cookie(skb.as_ptr()) };
    let error = load::<i32>(skb, HEADER).ok_or(unrelated)?;
    let request = load::<Header>(skb, REQUEST).ok_or(unrelated)?;
    let message_type = request.message_type;
    if !matches!(message_type, RTM_NEWADDR | RTM_DELADDR) {
        return Err(unrelated);
    }
    let looked_at = request.flags & NLM_F_REQUEST != 0 && request.length > HEADER;
    if error == -EPERM || !looked_at {
        return Err(Counter::IntentDenied);
    }
    let about = if error == 0 {
        granted(message_type, request.sequence)
    } else {
        refused(skb, message_type, request.sequence)
    };
    let about = about.ok_or(unrelated)?;
    Ok(IntentReport {
        time_ns: now_ns(),
        cookie,
        port: header.port,
        sequence: header.sequence,
        ifindex: about.ifindex,
        error,
        message_type,
        family: about.family,
        prefix_len: about.prefix_len,
        padding: [0; 4],
        address: about.address,
    })
}

/// What the daemon asked of an address and did not get.
#[inline(always)]
fn refused(skb: &SkBuffContext, message_type: u16, sequence: u32) -> Option<Announced> {
    let message = load::<AddressMessage>(skb, REQUEST + HEADER)?;
    let address = local_address(skb, REQUEST + HEADER, message.family)?;
    let AddressMessage { family, prefix_len, index: ifindex, .. } = message;
    let time_ns = now_ns();
    Some(Announced { time_ns, address, ifindex, sequence, message_type, family, prefix_len })
}

/// The address that the daemon added or removed; of no family if it cannot be told, and may be of IPv6.
#[inline(always)]
fn granted(message_type: u16, sequence: u32) -> Option<Announced> {
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    // SAFETY: the entry is this task's own: nobody else writes it.
    let announced = unsafe { ANNOUNCED.get(task) }.copied();
    let _ = ANNOUNCED.remove(task);
    let now = now_ns();
    let is_its_own = |announced: &Announced| {
        announced.message_type == message_type
            && now.saturating_sub(announced.time_ns) < ANNOUNCED_FOR_NS
    };
    if let Some(announced) = announced.filter(is_its_own) {
        // What the kernel announces of IPv6 does not say for which request it was.
        let nameless = announced.family == AF_INET6 && announced.sequence == 0;
        return (nameless || announced.sequence == sequence).then_some(announced);
    }
    let (time_ns, address, ifindex, family, prefix_len) = (now, [0; 16], 0, 0, 0);
    let nameless =
        Announced { time_ns, address, ifindex, sequence, message_type, family, prefix_len };
    (message_type == RTM_NEWADDR).then_some(nameless)
}
