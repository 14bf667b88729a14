//! What throws a shunt, in the context of whoever changes a link and long before userspace is
//! woken.
//!
//! `link_sentry` is a socket filter on vipshield's own rtnetlink monitor, which always passes: it
//! sees a NIC join any kind of bridge, and leave one. `port_sentries` see some of it earlier.

use aya_ebpf::{helpers::bpf_get_current_task, macros::socket_filter, programs::SkBuffContext};
use vipshield_common::{
    counters::Counter,
    shunt::{Thrown, trigger},
};

use crate::{
    maps::{ANNOUNCED, Announced, SHUNT_ENDS, SHUNTED, count, now_ns},
    netlink::{
        AF_BRIDGE, AddressMessage, Attribute, HEADER, Header, IFF_RUNNING, IFF_UP, LinkMessage,
        NLA_TYPE_MASK, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK, align, local_address,
    },
    shunt,
    skb::load,
};

/// `linux/if_link.h`.
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_STATE: u16 = 1;
/// `linux/if_bridge.h`.
const BR_STATE_DISABLED: u8 = 0;
/// `rtnl_fill_ifinfo` (`net/core/rtnetlink.c`) puts about twenty attributes before the master.
const ATTRIBUTES_LOOKED_AT: u32 = 32;

#[socket_filter]
fn link_sentry(skb: SkBuffContext) -> i64 {
    watch(&skb);
    i64::from(u32::MAX)
}

#[inline(always)]
fn watch(skb: &SkBuffContext) -> Option<()> {
    let header = load::<Header>(skb, 0)?;
    if matches!(header.message_type, RTM_NEWADDR | RTM_DELADDR) {
        return remember(skb, &header);
    }
    if !matches!(header.message_type, RTM_NEWLINK | RTM_DELLINK) {
        return None;
    }
    let link = load::<LinkMessage>(skb, HEADER)?;
    // SAFETY: entries are plain integers; a torn read of one being replaced costs one shunt.
    let end = unsafe { SHUNT_ENDS.get(link.index) }.copied()?;
    if end.nic != link.index {
        // Nothing gets anywhere through a bearer that was taken down.
        if link.flags & IFF_UP == 0 {
            let _ = SHUNTED.remove(end.nic);
        }
        return None;
    }
    let both = |until| Thrown { ingress: until, egress: until };
    match (link.family, header.message_type) {
        // A Linux bridge says so of a port that leaves, before the port is gone (`del_nbp`): first
        // that it is disabled. From then on it drops what the port receives.
        (AF_BRIDGE, RTM_NEWLINK) if !works(&link) || !is_disabled_port(skb) => {}
        (AF_BRIDGE, _) => throw(link.index, trigger::CUT, both),
        (_, RTM_DELLINK) => {}
        _ if payload(skb, IFLA_MASTER).is_some() => throw(link.index, trigger::JOIN, both),
        _ => {
            // SAFETY: as above.
            let thrown = unsafe { SHUNTED.get(link.index) }.copied().unwrap_or_default();
            throw(link.index, trigger::CUT, |until| thrown.let_go(now_ns(), until));
        }
    }
    Some(())
}

/// Remembers what this task had the kernel do to an address, for `netlink_intent`: the answer that
/// follows does not say.
#[inline(always)]
fn remember(skb: &SkBuffContext, header: &Header) -> Option<()> {
    let Header { message_type, sequence, .. } = *header;
    // SAFETY: a helper without preconditions.
    let task = unsafe { bpf_get_current_task() };
    // SAFETY: the entry is this task's own: nobody else writes it.
    let before = unsafe { ANNOUNCED.get(task) };
    let is_removal =
        |it: &Announced| it.message_type == RTM_DELADDR && it.sequence == sequence && sequence != 0;
    // What the kernel promotes in its place was not asked for (`__inet_del_ifa`).
    if message_type == RTM_NEWADDR && before.is_some_and(is_removal) {
        return None;
    }
    let message = load::<AddressMessage>(skb, HEADER)?;
    let announced = Announced {
        time_ns: now_ns(),
        address: local_address(skb, HEADER, message.family)?,
        ifindex: message.index,
        sequence,
        message_type,
        family: message.family,
        prefix_len: message.prefix_len,
    };
    ANNOUNCED.insert(task, announced, 0).ok()
}

/// Whether an interface has a carrier. A port that loses it, or is taken down, is disabled as well
/// (`br_port_carrier_check`, `br_device_event`), and leads nowhere.
#[inline(always)]
const fn works(link: &LinkMessage) -> bool {
    link.flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING
}

/// Throws the shunt of a NIC if it is laid for this event; `thrown` is told until when it may last.
#[inline(always)]
pub(crate) fn throw(nic: u32, event: u32, thrown: impl FnOnce(u64) -> Thrown) {
    // SAFETY: as in `watch`.
    let laid = unsafe { SHUNT_ENDS.get(nic) };
    if let Some(end) = laid
        && end.nic == nic
        && end.trigger == event
        && SHUNTED.insert(nic, thrown(end.until(now_ns())), 0).is_ok()
    {
        shunt::thrown();
        count(Counter::ShuntsThrown);
    }
}

/// Where the payload of an attribute of a link is.
#[inline(always)]
fn payload(skb: &SkBuffContext, wanted: u16) -> Option<u32> {
    let mut offset = HEADER + size_of::<LinkMessage>() as u32;
    for _ in 0..ATTRIBUTES_LOOKED_AT {
        let attribute = load::<Attribute>(skb, offset)?;
        if attribute.attribute_type & NLA_TYPE_MASK == wanted {
            return Some(offset + size_of::<Attribute>() as u32);
        }
        offset += align(attribute.length)?;
    }
    None
}

/// Whether a bridge says that a port does not forward any more. The state comes first in what it
/// says of a port (`br_port_fill_attrs`, `net/bridge/br_netlink.c`).
#[inline(always)]
fn is_disabled_port(skb: &SkBuffContext) -> bool {
    let Some(port) = payload(skb, IFLA_PROTINFO) else { return false };
    load::<Attribute>(skb, port).is_some_and(|first| first.attribute_type == IFLA_BRPORT_STATE)
        && load::<u8>(skb, port + size_of::<Attribute>() as u32) == Some(BR_STATE_DISABLED)
}
