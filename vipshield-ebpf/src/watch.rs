//! TC programs on a guarded NIC and its bearer: frames that say who owns an address are reported,
//! and all are passed on untouched.
//!
//! Of what passes most are none of these, and cost two comparisons. IPv6 extension headers are not
//! followed: nobody sends adverts or neighbour discovery behind them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::TC_ACT_UNSPEC,
    helpers::generated::{bpf_ringbuf_output, bpf_skb_load_bytes},
    macros::classifier,
    programs::TcContext,
};
use vipshield_common::{
    counters::Counter,
    guard::AddressKey,
    watch::{
        CAPTURE_MAX, Direction, FrameKind, FrameReport, NEWCOMER_BURST, NEWCOMER_INTERVAL_NS,
        SOURCE_BURST, SOURCE_INTERVAL_NS, Source,
    },
};

use crate::{
    answer,
    frame::{
        ADVERTISEMENT, ARP_REPLY, ARP_REQUEST, Arp, ETH_P_8021AD, ETH_P_8021Q, ETH_P_ARP, ETH_P_IP,
        ETH_P_IPV6, ETHERNET, ETHERTYPE, IPPROTO_ICMPV6, IPPROTO_VRRP, IPV6, Ipv4, Ipv6, ND,
        NEXT_HEADER, Nd, SOLICITATION, bounded, byte, ipv4_key, ipv6_key, number,
    },
    maps::{CAPTURE_ROOM, FRAMES, NEWCOMERS, RECORD, SOURCES, WATCHED, alive, count, now_ns},
    shunt::is_shunted,
    skb::load,
};

/// Tags looked behind, besides an accelerated one.
const MAX_TAGS: u32 = 2;
const TAG: u32 = 4;
/// Where the protocol is in an IPv4 header.
const PROTOCOL: u32 = 9;
/// More fragments, or an offset (RFC 791).
const FRAGMENT: u16 = 0x3fff;
/// The shortest VRRP message: one that advertises nothing.
const VRRP: u32 = 8;
/// RFC 4861, 7.1.1 and 7.1.2: what has a lower one has come through a router.
pub(crate) const HOP_LIMIT: u8 = 255;

#[classifier]
fn watch_ingress(ctx: TcContext) -> i32 {
    watch(&ctx, Direction::Ingress).unwrap_or(TC_ACT_UNSPEC)
}

#[classifier]
fn watch_egress(ctx: TcContext) -> i32 {
    watch(&ctx, Direction::Egress).unwrap_or(TC_ACT_UNSPEC)
}

/// A verdict only where a neighbour was answered.
#[inline(always)]
fn watch(ctx: &TcContext, direction: Direction) -> Option<i32> {
    let mut ethertype = number(ctx, ETHERTYPE)?;
    let mut offset = ETHERNET;
    for _ in 0..MAX_TAGS {
        if !matches!(ethertype, ETH_P_8021Q | ETH_P_8021AD) {
            break;
        }
        ethertype = number(ctx, offset + TAG - 2)?;
        offset += TAG;
    }
    match ethertype {
        ETH_P_IP if byte(ctx, offset + PROTOCOL)? == IPPROTO_VRRP => {
            vrrp_over_ipv4(ctx, direction, offset);
        }
        ETH_P_IPV6 => match byte(ctx, offset + NEXT_HEADER)? {
            IPPROTO_ICMPV6 => match byte(ctx, offset + IPV6)? {
                SOLICITATION | ADVERTISEMENT => return discovery(ctx, direction, offset),
                _ => {}
            },
            IPPROTO_VRRP => vrrp_over_ipv6(ctx, direction, offset),
            _ => {}
        },
        ETH_P_ARP => return arp(ctx, direction, offset),
        _ => {}
    }
    None
}

#[inline(always)]
fn arp(ctx: &TcContext, direction: Direction, offset: u32) -> Option<i32> {
    let Some(arp) = load::<Arp>(ctx, offset).filter(|arp| arp.sorts == Arp::SORTS) else {
        count(Counter::WatchMalformedArp);
        return None;
    };
    let is_known = matches!(arp.operation, ARP_REQUEST | ARP_REPLY);
    if is_known && is_watched(&ipv4_key(arp.sender)) {
        report(ctx, direction, FrameKind::Arp, 0);
    } else {
        count(Counter::WatchUnrelated);
    }
    match direction {
        Direction::Ingress => answer::arp(ctx, offset, &arp),
        Direction::Egress => None,
    }
}

#[inline(always)]
fn discovery(ctx: &TcContext, direction: Direction, offset: u32) -> Option<i32> {
    let header = ipv6(ctx, offset)?;
    let length = u32::from(u16::from_be_bytes(header.payload_length));
    let message = load::<Nd>(ctx, offset + IPV6)
        .filter(|nd| header.hop_limit == HOP_LIMIT && nd.code == 0 && length >= ND);
    let Some(message) = message else {
        count(Counter::WatchMalformedNd);
        return None;
    };
    let (claimed, kind) = if message.icmp_type == SOLICITATION {
        (header.source, FrameKind::Solicitation)
    } else {
        (message.target, FrameKind::Advertisement)
    };
    if is_watched(&ipv6_key(claimed)) {
        report(ctx, direction, kind, 0);
    } else {
        count(Counter::WatchUnrelated);
    }
    match (direction, message.icmp_type) {
        (Direction::Ingress, SOLICITATION) => answer::solicitation(ctx, offset, &message.target),
        _ => None,
    }
}

#[inline(always)]
fn vrrp_over_ipv4(ctx: &TcContext, direction: Direction, offset: u32) {
    let Some(header) = load::<Ipv4>(ctx, offset) else { return count(Counter::WatchMalformedIpv4) };
    let header_length = u32::from(header.version_length & 0xf) * 4;
    let total = u32::from(u16::from_be_bytes(header.total_length));
    if header.version_length >> 4 != 4
        || header_length < size_of::<Ipv4>() as u32
        || total < header_length
        || total > ctx.len().saturating_sub(offset)
    {
        return count(Counter::WatchMalformedIpv4);
    }
    // What is left of an advert is not enough to judge it, and the first fragment is not the whole.
    if u16::from_be_bytes(header.fragment) & FRAGMENT != 0 {
        return count(Counter::WatchFragment);
    }
    vrrp(ctx, direction, FrameKind::Vrrp4, offset + header_length, total - header_length);
}

#[inline(always)]
fn vrrp_over_ipv6(ctx: &TcContext, direction: Direction, offset: u32) {
    let Some(header) = ipv6(ctx, offset) else { return };
    let length = u32::from(u16::from_be_bytes(header.payload_length));
    vrrp(ctx, direction, FrameKind::Vrrp6, offset + IPV6, length);
}

#[inline(always)]
fn vrrp(ctx: &TcContext, direction: Direction, kind: FrameKind, offset: u32, length: u32) {
    // Version and type, virtual router identifier.
    match load::<u8>(ctx, offset + 1).filter(|_| length >= VRRP) {
        Some(router) => report(ctx, direction, kind, router),
        None => count(Counter::WatchMalformedVrrp),
    }
}

/// The IPv6 header, if the frame has all that it says.
#[inline(always)]
fn ipv6(ctx: &TcContext, offset: u32) -> Option<Ipv6> {
    let header = load::<Ipv6>(ctx, offset).filter(|header| {
        let length = u32::from(u16::from_be_bytes(header.payload_length));
        header.version[0] >> 4 == 6 && length <= ctx.len().saturating_sub(offset + IPV6)
    });
    if header.is_none() {
        count(Counter::WatchMalformedIpv6);
    }
    header
}

#[inline(always)]
fn is_watched(address: &AddressKey) -> bool {
    // SAFETY: entries are plain integers.
    unsafe { WATCHED.get(address) }.is_some()
}

#[inline(always)]
fn report(ctx: &TcContext, direction: Direction, kind: FrameKind, router: u8) {
    if !alive() {
        return count(Counter::WatchStale);
    }
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let (ifindex, tagged, protocol, tci) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).ifindex, (*skb).vlan_present != 0, (*skb).vlan_proto, (*skb).vlan_tci)
    };
    let now = now_ns();
    let Some(mac) = load::<[u8; 6]>(ctx, 6) else { return };
    let source = Source { ifindex, direction: direction as u32, mac, kind: kind as u8, router };
    if !admit(&source, now) {
        return;
    }
    let length = ctx.len();
    let captured = if length < CAPTURE_MAX as u32 { length } else { CAPTURE_MAX as u32 };
    let report = FrameReport {
        time_ns: now,
        ifindex,
        direction: direction as u32,
        kind: kind as u16,
        shunted: u16::from(is_shunted(ctx)),
        vlan_protocol: if tagged { u16::from_be(protocol as u16) } else { 0 },
        vlan_tci: if tagged { tci as u16 } else { 0 },
        length,
        captured,
    };
    let Some(record) = RECORD.get_ptr_mut(0) else { return };
    let bound = bounded::<{ CAPTURE_ROOM as u32 }>(captured);
    // SAFETY: the pointer is to this CPU's slot, and no classifier interrupts another on its CPU
    // before the record is out; what is copied and put out is within the slot.
    let sent = unsafe {
        (*record).report = report;
        let bytes = (&raw mut (*record).bytes).cast();
        if bpf_skb_load_bytes(ctx.as_ptr(), 0, bytes, bound) != 0 {
            return;
        }
        let size = size_of::<FrameReport>() as u64 + u64::from(bound);
        bpf_ringbuf_output((&raw const FRAMES).cast_mut().cast(), record.cast(), size, 0)
    };
    count(match kind {
        _ if sent != 0 => Counter::FramesLost,
        FrameKind::Arp => Counter::WatchedArp,
        FrameKind::Solicitation | FrameKind::Advertisement => Counter::WatchedNd,
        FrameKind::Vrrp4 | FrameKind::Vrrp6 => Counter::WatchedVrrp,
    });
}

/// Whether a frame of this source is reported: each has its own ration, so that none is starved by
/// another's flood.
#[inline(always)]
fn admit(source: &Source, now: u64) -> bool {
    if let Some(spent_until) = SOURCES.get_ptr_mut(source) {
        // SAFETY: the pointer is to a value of the map; that another CPU may write it at the same
        // time, or that it was given to another source by now, costs a report at the most.
        let admitted = unsafe { ration(&mut *spent_until, now, SOURCE_INTERVAL_NS, SOURCE_BURST) };
        if !admitted {
            count(Counter::WatchLimited);
        }
        return admitted;
    }
    let Some(spent_until) = NEWCOMERS.get_ptr_mut(0) else { return false };
    // SAFETY: as above.
    if unsafe { ration(&mut *spent_until, now, NEWCOMER_INTERVAL_NS, NEWCOMER_BURST) } {
        let _ = SOURCES.insert(source, now + SOURCE_INTERVAL_NS, 0);
        true
    } else {
        count(Counter::WatchNewcomers);
        false
    }
}

/// One every `interval`, and `burst` at once: the generic cell rate algorithm (ITU-T I.371).
#[inline(always)]
fn ration(spent_until: &mut u64, now: u64, interval: u64, burst: u64) -> bool {
    let from = if *spent_until > now { *spent_until } else { now };
    if from - now > interval * (burst - 1) {
        return false;
    }
    *spent_until = from + interval;
    true
}
