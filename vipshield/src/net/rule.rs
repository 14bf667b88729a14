//! Routing rules as rtnetlink says them, and what of others' the engine has to know.

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use rtnetlink::{Error, Handle, IpVersion};

use super::{carry::PROTOCOL, route::RT_TABLE_MAIN};
use crate::engine::{Family, Rule, RuleKind};

/// `linux/rtnetlink.h`.
pub(super) const RT_TABLE_LOCAL: u8 = 255;
/// What the kernel says of a rule that suppresses nothing.
const NONE_SUPPRESSED: u32 = u32::MAX;

/// Every rule of IPv4, then of IPv6, in the order in which the kernel asks them. A family that the kernel
/// has no rules of, because it does not have it or has one table only, has none.
pub(super) async fn all_rules(handle: &Handle) -> Result<Vec<RuleMessage>, Error> {
    let mut rules = Vec::new();
    for (version, family) in
        [(IpVersion::V4, AddressFamily::Inet), (IpVersion::V6, AddressFamily::Inet6)]
    {
        let listed = handle.rule().get(version).execute().try_collect().await;
        let listed: Vec<RuleMessage> = match listed {
            Err(Error::NetlinkError(error))
                if [libc::EOPNOTSUPP, libc::EAFNOSUPPORT].contains(&-error.raw_code()) =>
            {
                Vec::new()
            }
            listed => listed?,
        };
        rules.extend(listed.into_iter().filter(|rule| rule.header.family == family));
    }
    Ok(rules)
}

/// Whether it bears vipshield's mark.
pub(super) fn is_own(rule: &RuleMessage) -> bool {
    let own = RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL));
    rule.attributes.contains(&own)
}

/// A rule of somebody else's as the engine knows it; none if it is vipshield's, or not about IP.
pub(super) fn decode(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    if is_own(message) {
        return None;
    }
    let mut priority = 0;
    let mut table = u32::from(header.table);
    let mut target = None;
    let mut for_all = header.dst_len == 0
        && header.src_len == 0
        && header.tos == 0
        && !header.flags.contains(RuleFlags::Invert);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::Goto(value) => target = Some(*value),
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(NONE_SUPPRESSED) => {}
            // A condition, or one of a newer kernel.
            _ => for_all = false,
        }
    }
    let kind = match (header.action, target) {
        (RuleAction::Goto, Some(target)) => RuleKind::Goto(target),
        (RuleAction::ToTable, _) if for_all && table == u32::from(RT_TABLE_LOCAL) => {
            RuleKind::Local
        }
        (RuleAction::ToTable, _) if for_all && table == u32::from(RT_TABLE_MAIN) => RuleKind::Main,
        _ => RuleKind::Other,
    };
    Some(Rule { family, priority, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: &[RuleAttribute]) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = RuleAction::ToTable;
        message.header.table = RT_TABLE_MAIN;
        message.attributes = attributes.to_vec();
        message
    }

    fn kind(message: &RuleMessage) -> Option<RuleKind> {
        decode(message).map(|rule| rule.kind)
    }

    #[test]
    fn a_rule_for_every_packet_is_told_from_one_with_conditions() {
        let usual = [
            RuleAttribute::Table(254),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Priority(32_766),
            RuleAttribute::Protocol(RouteProtocol::Kernel),
        ];
        let main = message(&usual);
        let expected = Rule { family: Family::Ipv4, priority: 32_766, kind: RuleKind::Main };
        assert_eq!(decode(&main), Some(expected));
        let with = |attribute| kind(&message(&[usual.as_slice(), &[attribute]].concat()));
        for condition in [
            RuleAttribute::FwMark(1),
            RuleAttribute::Iifname("eth0".to_owned()),
            RuleAttribute::SuppressPrefixLen(0),
            RuleAttribute::SuppressIfGroup(1),
            RuleAttribute::L3MDev(true),
        ] {
            assert_eq!(with(condition.clone()), Some(RuleKind::Other), "{condition:?}");
        }
        assert_eq!(with(RuleAttribute::Table(255)), Some(RuleKind::Local));
        assert_eq!(with(RuleAttribute::Table(77)), Some(RuleKind::Other));
        let changed = |change: fn(&mut RuleMessage)| {
            let mut rule = main.clone();
            change(&mut rule);
            kind(&rule)
        };
        assert_eq!(changed(|it| it.header.src_len = 24), Some(RuleKind::Other));
        assert_eq!(changed(|it| it.header.flags = RuleFlags::Invert), Some(RuleKind::Other));
        assert_eq!(changed(|it| it.header.action = RuleAction::Blackhole), Some(RuleKind::Other));
        assert_eq!(changed(|it| it.header.family = AddressFamily::from(128)), None);
        let mut goto = message(&[RuleAttribute::Goto(7)]);
        goto.header.action = RuleAction::Goto;
        assert_eq!(kind(&goto), Some(RuleKind::Goto(7)));
        assert_eq!(with(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL))), None);
    }
}
