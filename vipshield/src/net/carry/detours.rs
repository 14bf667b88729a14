//! The rules by which the tables of what is carried are the way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use super::{PROTOCOL, SPARE_TABLE};
use crate::{
    engine::{Detour, Detours, Family},
    net::{route::RT_TABLE_MAIN, rule::RT_TABLE_LOCAL},
};

/// Priority of a rule that is reached when nothing else is left.
const LAST: u32 = u32::MAX;

/// All of them, in the order in which they are to be asked.
///
/// Those of one family have one priority, which leaves room for everybody else's, so they are put in force
/// and replaced as a whole. What is to be deleted has to differ from the others by what it names: to the
/// kernel a rule without a prefix to delete is any rule of its priority and table (`fib4_rule_compare` in
/// `net/ipv4/fib_rules.c`).
pub(super) fn rules(detours: &Detours) -> Vec<RuleMessage> {
    detours.iter().flat_map(|(family, detour)| family_rules(*family, detour)).collect()
}

fn family_rules(family: Family, detour: &Detour) -> Vec<RuleMessage> {
    let Detour { place, lengths } = detour;
    if lengths.is_empty() {
        return Vec::new();
    }
    let priority = place.priority;
    // Somebody may be about to put the local table behind this place: until that is heard, what is delivered
    // to this node comes first all the same.
    let mut rules = vec![rule(family, priority, RT_TABLE_LOCAL.into())];
    // A longer prefix wins.
    for length in lengths.iter().rev() {
        rules.push(suppressing(*length, rule(family, priority, RT_TABLE_MAIN.into())));
        rules.extend(way(family, priority, *length));
    }
    rules
}

/// The spare table, for what has a route of this length in it. The default route is one of two halves, so that
/// each of the rules names what no other does.
fn way(family: Family, priority: u32, length: u8) -> Vec<RuleMessage> {
    if let Some(shorter) = length.checked_sub(1) {
        return vec![suppressing(shorter, rule(family, priority, SPARE_TABLE))];
    }
    let halves: [IpAddr; 2] = match family {
        Family::Ipv4 => [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(128, 0, 0, 0).into()],
        Family::Ipv6 => {
            [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into()]
        }
    };
    let half = |to| {
        let mut rule = rule(family, priority, SPARE_TABLE);
        rule.header.dst_len = 1;
        rule.attributes.push(RuleAttribute::Destination(to));
        rule
    };
    halves.map(half).to_vec()
}

/// What a table has of this length, and shorter, does not count.
fn suppressing(length: u8, mut rule: RuleMessage) -> RuleMessage {
    rule.attributes.push(RuleAttribute::SuppressPrefixLen(length.into()));
    rule
}

/// A rule that changes nothing as long as nothing is carried.
pub(super) fn idle_rule() -> RuleMessage {
    rule(Family::Ipv4, LAST, SPARE_TABLE)
}

fn rule(family: Family, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)),
    ];
    message
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::engine::Place;

    /// Table, length that is suppressed, and priority.
    fn shown(rule: &RuleMessage) -> (u32, Option<u32>, u32) {
        let mut shown = (0, None, 0);
        for attribute in &rule.attributes {
            match attribute {
                RuleAttribute::Table(table) => shown.0 = *table,
                RuleAttribute::SuppressPrefixLen(length) => shown.1 = Some(*length),
                RuleAttribute::Priority(priority) => shown.2 = *priority,
                _ => {}
            }
        }
        shown
    }

    fn rules_for(lengths: &[u8]) -> Vec<RuleMessage> {
        let place = Place { priority: 7, turn: 0 };
        let lengths = lengths.iter().copied().collect::<BTreeSet<u8>>();
        rules(&Detours::from([(Family::Ipv4, Detour { place, lengths })]))
    }

    #[test]
    fn the_local_table_comes_first_then_prefixes_from_the_longest_on() {
        let found: Vec<_> = rules_for(&[0, 24]).iter().map(shown).collect();
        let expected = [
            (255, None, 7),
            (254, Some(24), 7),
            (SPARE_TABLE, Some(23), 7),
            (254, Some(0), 7),
            // Half of all addresses, and the other half.
            (SPARE_TABLE, None, 7),
            (SPARE_TABLE, None, 7),
        ];
        assert_eq!(found, expected);
    }

    /// The kernel takes what a request to delete does not name for anything.
    #[test]
    fn no_rule_names_less_than_another_that_is_like_it() {
        let all = rules_for(&[0, 8, 16, 24, 32]);
        let names = |one: &RuleMessage, other: &RuleMessage| {
            let free = one.header.dst_len == 0 || one.header.dst_len == other.header.dst_len;
            free && one.attributes.iter().all(|attribute| other.attributes.contains(attribute))
        };
        for (at, one) in all.iter().enumerate() {
            let found = all.iter().position(|other| names(one, other));
            assert_eq!(found, Some(at), "{one:?}");
        }
    }
}
