//! Answering neighbours for addresses that are carried: they are on no interface, or on a bridge
//! without a way out, and the kernel answers for none of them at the NIC.
//!
//! The frame is rewritten, a clone of it sent back through the NIC, and put as it was: it goes its
//! way, so that the kernel learns from it what it can. Should the kernel answer as well, it says
//! the same.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT},
    helpers::generated::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use vipshield_common::{
    counters::Counter,
    guard::AddressKey,
    watch::{Answer, AnsweredKey},
};

use crate::{
    frame::{
        ADVERTISEMENT, ARP_REPLY, ARP_REQUEST, Arp, ETHERNET, Ethernet, IPPROTO_ICMPV6, IPV6, Ipv6,
        ND, Nd, bounded, ipv4_key, ipv6_key, is_tagged,
    },
    maps::{ANSWERED, EXCHANGE, alive, count},
    skb::load,
    watch::HOP_LIMIT,
};

/// `linux/if_packet.h`: for this host, for all, for some.
const PACKET_MULTICAST: u32 = 2;
/// Options of neighbour discovery: kinds, and a length of eight bytes (RFC 4861, 4.6.1).
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const ONE: u8 = 1;
const OPTION: u32 = size_of::<LinkAddress>() as u32;
/// Lengths of a solicitation without, with one, and with two options.
const QUESTION: u32 = ETHERNET + IPV6 + ND;
const QUESTION_1: u32 = QUESTION + OPTION;
const QUESTION_2: u32 = QUESTION_1 + OPTION;
/// Flags of an advertisement (RFC 4861, 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// All nodes, and the Ethernet address of the group (RFC 2464, 7).
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const UNSPECIFIED: [u8; 16] = [0; 16];

/// An option of eight bytes; with a link-layer address, if it is of that kind.
#[repr(C)]
#[derive(Clone, Copy)]
struct LinkAddress {
    kind: u8,
    length: u8,
    mac: [u8; 6],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ArpFrame {
    ethernet: Ethernet,
    arp: Arp,
}

/// A solicitation with as many options as are looked at.
#[repr(C)]
#[derive(Clone, Copy)]
struct Question {
    ethernet: Ethernet,
    ipv6: Ipv6,
    nd: Nd,
    options: [LinkAddress; 2],
}

/// An advertisement with the one option that it has.
#[repr(C)]
#[derive(Clone, Copy)]
struct Reply {
    ethernet: Ethernet,
    ipv6: Ipv6,
    nd: Nd,
    options: [LinkAddress; 1],
}

/// Where both are put together: they are too large for a program's stack.
#[repr(C)]
pub(crate) struct Exchange {
    question: Question,
    reply: Reply,
}

/// As much of an [`Exchange`] as a question may take for all that the verifier knows.
const QUESTION_ROOM: u32 = QUESTION_2.next_power_of_two();
const _: () = assert!(QUESTION_ROOM as usize <= size_of::<Exchange>());

/// Answers an ARP request for a carried address. A verdict only if the frame could not be put as
/// it was.
#[inline(always)]
pub(crate) fn arp(ctx: &TcContext, offset: u32, arp: &Arp) -> Option<i32> {
    if arp.operation != ARP_REQUEST {
        return None;
    }
    let answer = answered(ctx, ipv4_key(arp.target))?;
    let ethernet = load::<Ethernet>(ctx, 0)?;
    if !is_for_us(ctx, offset, &ethernet, answer)
        || ethernet.source != arp.sender_mac
        // Whoever asks in the name of an address that is this node's has a claim, not a question.
        || answered(ctx, ipv4_key(arp.sender)).is_some()
        || arp.sender[0] >= 224
    {
        count(Counter::AnswersRefused);
        return None;
    }
    let question = ArpFrame { ethernet, arp: *arp };
    // A probe is asked in nobody's name, and answered to nobody (RFC 5227, 2.1.1).
    let reply = ArpFrame {
        ethernet: Ethernet {
            destination: ethernet.source,
            source: answer.mac,
            ethertype: ethernet.ethertype,
        },
        arp: Arp {
            sorts: Arp::SORTS,
            operation: ARP_REPLY,
            sender_mac: answer.mac,
            sender: arp.target,
            target_mac: arp.sender_mac,
            target: arp.sender,
        },
    };
    let sent = store(ctx, &reply) && send_clone(ctx);
    count(if sent { Counter::AnsweredArp } else { Counter::AnswersFailed });
    if store(ctx, &question) { None } else { Some(TC_ACT_SHOT) }
}

/// The same for a neighbour solicitation that asks for `target` (RFC 4861, 7.2.3 and 7.2.4).
#[inline(always)]
pub(crate) fn solicitation(ctx: &TcContext, offset: u32, target: &[u8; 16]) -> Option<i32> {
    let answer = answered(ctx, ipv6_key(*target))?;
    // SAFETY: the pointer is to this CPU's slot, and no classifier on a NIC's ingress interrupts
    // another on its CPU.
    let Exchange { question, reply } = unsafe { &mut *EXCHANGE.get_ptr_mut(0)? };
    let length = ctx.len();
    // One that has more options is from nobody known.
    let options = match length {
        QUESTION => 0,
        QUESTION_1 => 1,
        QUESTION_2 => 2,
        _ => {
            count(Counter::AnswersRefused);
            return None;
        }
    };
    let whole = bounded::<QUESTION_ROOM>(length);
    if !load_into(ctx, question, whole)
        || !is_for_us(ctx, offset, &question.ethernet, answer)
        || !is_proper(ctx, question, options)
    {
        count(Counter::AnswersRefused);
        return None;
    }
    advertise(question, reply, answer);
    let sent = resize(ctx, size_of::<Reply>() as u32) && store(ctx, reply) && send_clone(ctx);
    count(if sent { Counter::AnsweredNd } else { Counter::AnswersFailed });
    let restored = resize(ctx, length) && store_part(ctx, question, whole);
    if restored { None } else { Some(TC_ACT_SHOT) }
}

/// Whether a solicitation is one that can be answered; that it has a hop limit of 255 and the
/// length that it says is known.
#[inline(always)]
fn is_proper(ctx: &TcContext, question: &Question, options: usize) -> bool {
    let Question { ethernet, ipv6, nd, options: all } = question;
    let [first, second] = all;
    let probe = ipv6.source == UNSPECIFIED;
    let to_group = ipv6.destination == solicited_node(&nd.target);
    let mut sum = checksum(ipv6, nd);
    if options > 0 {
        sum += first.sum();
    }
    if options > 1 {
        sum += second.sum();
    }
    u32::from(u16::from_be_bytes(ipv6.payload_length)) == ctx.len() - ETHERNET - IPV6
        && ipv6.source[0] != 0xff
        && answered(ctx, ipv6_key(ipv6.source)).is_none()
        && (to_group || !probe && ipv6.destination == nd.target)
        && (options < 1 || first.is_plausible(probe, ethernet.source))
        && (options < 2 || second.is_plausible(probe, ethernet.source))
        && fold(sum) == 0
}

#[inline(always)]
fn advertise(question: &Question, reply: &mut Reply, answer: Answer) {
    let probe = question.ipv6.source == UNSPECIFIED;
    let (destination, to, solicited) = if probe {
        (ALL_NODES, ALL_NODES_MAC, 0)
    } else {
        (question.ipv6.source, question.ethernet.source, SOLICITED)
    };
    let router = if answer.router == 0 { 0 } else { ROUTER };
    reply.ethernet =
        Ethernet { destination: to, source: answer.mac, ethertype: question.ethernet.ethertype };
    reply.ipv6 = Ipv6 {
        version: [0x60, 0, 0, 0],
        payload_length: [0, (ND + OPTION) as u8],
        next_header: IPPROTO_ICMPV6,
        hop_limit: HOP_LIMIT,
        source: question.nd.target,
        destination,
    };
    reply.nd = Nd {
        icmp_type: ADVERTISEMENT,
        code: 0,
        checksum: [0; 2],
        flags: [router | solicited | OVERRIDE, 0, 0, 0],
        target: question.nd.target,
    };
    reply.options = [LinkAddress { kind: TARGET_ADDRESS, length: ONE, mac: answer.mac }];
    let sum = checksum(&reply.ipv6, &reply.nd) + reply.options[0].sum();
    reply.nd.checksum = fold(sum).to_be_bytes();
}

/// What is answered for this address here, as long as vipshield lives.
#[inline(always)]
fn answered(ctx: &TcContext, address: AddressKey) -> Option<Answer> {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    // SAFETY: entries are plain integers; one being replaced has the same hardware address.
    let answer = unsafe { ANSWERED.get(AnsweredKey { ifindex, address }) }.copied()?;
    alive().then_some(answer)
}

/// Whether a frame is in no VLAN, meant for this NIC, and from a station that is not this one. A tag
/// that only tells a priority is the answer's as well.
#[inline(always)]
fn is_for_us(ctx: &TcContext, offset: u32, ethernet: &Ethernet, answer: Answer) -> bool {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let packet_type = unsafe { (*ctx.skb.skb).pkt_type };
    offset == ETHERNET
        && !is_tagged(ctx)
        && packet_type <= PACKET_MULTICAST
        && ethernet.source[0] & 1 == 0
        && ethernet.source != answer.mac
}

/// RFC 4291, 2.7.1.
#[inline(always)]
const fn solicited_node(target: &[u8; 16]) -> [u8; 16] {
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13] = target[13];
    group[14] = target[14];
    group[15] = target[15];
    group
}

impl LinkAddress {
    /// Whether it is one that can be answered: of eight bytes, and if it has the asker's hardware
    /// address, then that of the frame; a probe has none (RFC 4861, 7.1.1).
    #[inline(always)]
    fn is_plausible(self, probe: bool, source: [u8; 6]) -> bool {
        self.length == ONE && (self.kind != SOURCE_ADDRESS || (!probe && self.mac == source))
    }

    #[inline(always)]
    fn sum(self) -> u32 {
        u32::from(u16::from_be_bytes([self.kind, self.length])) + words(&self.mac)
    }
}

/// The sum of a message without its options, with its pseudo-header (RFC 4443, 2.3).
#[inline(always)]
fn checksum(header: &Ipv6, message: &Nd) -> u32 {
    u32::from(u16::from_be_bytes(header.payload_length))
        + u32::from(IPPROTO_ICMPV6)
        + words(&header.source)
        + words(&header.destination)
        + u32::from(u16::from_be_bytes([message.icmp_type, message.code]))
        + u32::from(u16::from_be_bytes(message.checksum))
        + words(&message.flags)
        + words(&message.target)
}

/// The checksum; 0 if the message has the right one. Two folds are enough for fewer than 65,536
/// words.
#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[inline(always)]
fn words<const N: usize>(bytes: &[u8; N]) -> u32 {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum()
}

/// Sends what the frame now is back through its interface.
#[inline(always)]
fn send_clone(ctx: &TcContext) -> bool {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    ctx.clone_redirect(ifindex, 0).is_ok()
}

#[inline(always)]
fn resize(ctx: &TcContext, length: u32) -> bool {
    // SAFETY: the context of a classifier is a `__sk_buff`.
    length == ctx.len() || unsafe { bpf_skb_change_tail(ctx.as_ptr().cast(), length, 0) == 0 }
}

#[inline(always)]
fn load_into(ctx: &TcContext, question: &mut Question, length: u32) -> bool {
    // SAFETY: no length that this is called with is greater than a question, which is plain bytes.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), 0, (&raw mut *question).cast(), length) == 0 }
}

#[inline(always)]
fn store<T: Copy>(ctx: &TcContext, value: &T) -> bool {
    store_part(ctx, value, size_of::<T>() as u32)
}

/// Puts the first `length` bytes of a value at the frame's beginning.
#[inline(always)]
fn store_part<T: Copy>(ctx: &TcContext, value: &T, length: u32) -> bool {
    // SAFETY: no length that this is called with is greater than the value, which is plain bytes.
    unsafe {
        bpf_skb_store_bytes(
            ctx.as_ptr().cast(),
            0,
            (&raw const *value).cast(),
            length,
            u64::from(BPF_F_RECOMPUTE_CSUM),
        ) == 0
    }
}
