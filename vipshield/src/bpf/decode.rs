//! Records of the ring buffers, decoded: pure and total.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Pod;
use vipshield_common::{
    guard::{GuardReport, IfName, Reason},
    intent::IntentReport,
    watch::{Direction, FrameReport},
};

use crate::{
    engine::{About, Address, Event, Heard, Intent, Withheld, rules::GuardRule},
    wire,
};

/// The VLAN's part of a tag's control information (IEEE 802.1Q).
const VLAN_MASK: u16 = 0x0fff;
/// `linux/rtnetlink.h`.
const RTM_NEWADDR: u16 = 20;

/// A record as the plain type it is; none if it is too short.
pub(super) fn plain<T: Pod>(record: &[u8]) -> Option<T> {
    if record.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough by the check above; `Pod` says every bit pattern is a value; read
    // unaligned because a record is aligned to 8 bytes only.
    Some(unsafe { record.as_ptr().cast::<T>().read_unaligned() })
}

pub(super) fn withheld(report: &GuardReport) -> Option<Withheld> {
    let name = || interface_name(&report.name);
    let ip = |report: &GuardReport| ip(report.family, report.address);
    let about = match Reason::from_u8(report.reason)? {
        Reason::AddressRemoval => {
            let address = Address { ip: ip(report)?, prefix_len: report.prefix_len };
            About::AddressRemoval { address }
        }
        Reason::RouteRemoval => {
            let destination = Address { ip: ip(report)?, prefix_len: report.prefix_len };
            About::RouteRemoval { destination }
        }
        Reason::OwnAddress => About::OwnAddress { ip: ip(report)? },
        Reason::KnownAddress => About::KnownAddress { ip: ip(report)? },
        Reason::AdminDown => About::AdminDown,
        Reason::CarrierLoss => About::CarrierLoss,
        Reason::Rename => About::Rename { name: name() },
        Reason::NameConflict => About::NameConflict { name: name() },
        Reason::BridgePort => About::BridgePort,
    };
    let rule = GuardRule::numbered(report.rule)?;
    Some(Withheld { ifindex: report.ifindex, requester: report.requester, rule, about })
}

pub(super) fn intent(report: &IntentReport) -> Option<Event> {
    if report.error == 0 && report.family == 0 {
        return Some(Event::Granted { port: report.port, sequence: report.sequence });
    }
    said(report).map(|intent| Event::Intent { intent })
}

fn said(report: &IntentReport) -> Option<Intent> {
    Some(Intent {
        port: report.port,
        sequence: report.sequence,
        ifindex: report.ifindex,
        address: Address { ip: ip(report.family, report.address)?, prefix_len: report.prefix_len },
        wanted: report.message_type == RTM_NEWADDR,
        refused: report.error != 0,
    })
}

/// The last words on addresses, and what names none.
pub(super) fn last_words(reports: &[IntentReport]) -> Vec<Event> {
    let (named, nameless): (Vec<_>, Vec<_>) = reports.iter().partition(|it| it.family != 0);
    let intents = named.into_iter().filter_map(said).collect();
    let nameless = nameless.into_iter().filter_map(intent);
    std::iter::once(Event::LastWords { intents }).chain(nameless).collect()
}

pub(super) fn heard(report: &FrameReport, bytes: &[u8]) -> Option<Heard> {
    let sent = match Direction::from_u32(report.direction)? {
        Direction::Ingress => false,
        Direction::Egress => true,
    };
    let mut frame = wire::decode(bytes, usize::try_from(report.length).ok()?);
    // A tag that the hardware took off is the outermost. One with identifier 0 only tells a priority.
    let vlan = report.vlan_tci & VLAN_MASK;
    if let Ok(frame) = &mut frame
        && report.vlan_protocol != 0
        && vlan != 0
    {
        frame.vlan = Some(vlan);
    }
    let shunted = report.shunted != 0;
    Some(Heard { ifindex: report.ifindex, sent, shunted, frame })
}

pub(super) fn ip(family: u8, address: [u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = address;
            Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
        }
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(address))),
        _ => None,
    }
}

pub(super) fn interface_name(name: &IfName) -> String {
    String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(reason: Reason) -> GuardReport {
        GuardReport { ifindex: 5, requester: 77, reason: reason as u8, ..GuardReport::default() }
    }

    #[test]
    fn addresses_of_both_families_are_read() {
        let mut v4 = report(Reason::AddressRemoval);
        v4.family = 2;
        v4.prefix_len = 24;
        let rule = vipshield_common::guard::rules::RULES
            .iter()
            .position(|it| it.name == "address-removal");
        v4.rule = u8::try_from(rule.unwrap()).unwrap();
        v4.address[..4].copy_from_slice(&[192, 0, 2, 10]);
        assert_eq!(
            withheld(&v4),
            Some(Withheld {
                ifindex: 5,
                requester: 77,
                rule: GuardRule::named("address-removal").unwrap(),
                about: About::AddressRemoval {
                    address: Address { ip: "192.0.2.10".parse().unwrap(), prefix_len: 24 },
                },
            })
        );
        let mut v6 = report(Reason::OwnAddress);
        v6.family = 10;
        v6.address = "2001:db8::10".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(
            withheld(&v6).map(|withheld| withheld.about),
            Some(About::OwnAddress { ip: "2001:db8::10".parse().unwrap() })
        );
    }

    #[test]
    fn names_end_at_the_padding() {
        let mut renamed = report(Reason::Rename);
        renamed.name[..6].copy_from_slice(b"ens192");
        assert_eq!(
            withheld(&renamed).map(|withheld| withheld.about),
            Some(About::Rename { name: "ens192".to_owned() })
        );
    }

    #[test]
    fn a_refused_removal_is_an_address_given_up() {
        let mut report = IntentReport {
            port: 77,
            sequence: 9,
            ifindex: 3,
            error: -99,
            message_type: 21,
            family: 2,
            prefix_len: 32,
            ..IntentReport::default()
        };
        report.address[..4].copy_from_slice(&[192, 0, 2, 10]);
        let address = Address { ip: "192.0.2.10".parse().unwrap(), prefix_len: 32 };
        let given_up =
            Intent { port: 77, sequence: 9, ifindex: 3, address, wanted: false, refused: true };
        let event = |intent| Some(Event::Intent { intent });
        assert_eq!(intent(&report), event(given_up.clone()));
        report.message_type = 20;
        assert_eq!(intent(&report), event(Intent { wanted: true, ..given_up.clone() }));
        report.error = 0;
        assert_eq!(intent(&report), event(Intent { wanted: true, refused: false, ..given_up }));
        report.family = 0;
        assert_eq!(intent(&report), Some(Event::Granted { port: 77, sequence: 9 }));
        report.family = 7;
        assert_eq!(intent(&report), None);
    }

    #[test]
    fn a_tag_that_was_taken_off_is_the_frames() {
        let arp = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0,
            1, 0x52, 0x54, 0, 0, 0, 1, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10,
        ];
        let report = FrameReport {
            ifindex: 7,
            direction: 2,
            length: 42,
            captured: 42,
            vlan_protocol: 0x8100,
            vlan_tci: 0x6064,
            ..FrameReport::default()
        };
        let heard = heard(&report, &arp).unwrap();
        assert_eq!((heard.ifindex, heard.sent), (7, true));
        assert_eq!(heard.frame.unwrap().vlan, Some(0x064));
        let priority = super::heard(&FrameReport { vlan_tci: 0x6000, ..report }, &arp).unwrap();
        assert_eq!(priority.frame.unwrap().vlan, None);
        let longer = super::heard(&FrameReport { length: 60, ..report }, &arp[..30]).unwrap();
        assert_eq!(longer.frame, Err(wire::Malformed::NotCaptured));
        assert_eq!(super::heard(&FrameReport { direction: 9, ..report }, &arp), None);
    }

    proptest! {
        #[test]
        fn any_record_is_either_understood_or_refused(record: Vec<u8>) {
            let report: Option<GuardReport> = plain(&record);
            prop_assert_eq!(report.is_some(), record.len() >= size_of::<GuardReport>());
            if let Some(report) = report {
                let _ = withheld(&report);
            }
        }
    }
}
