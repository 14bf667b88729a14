//! What an independent implementation (`etherparse`) makes of the same frames, and frames that it
//! built.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use etherparse::{
    ArpOperation, Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket,
    checksum::Sum16BitWords, icmpv6::Icmpv6PayloadSlice, icmpv6::NdpOptionSlice,
};
use proptest::prelude::*;

use super::super::{
    Advert, Arp, Authentication, Checksum, Content, Fingerprint, Frame, Mac, Malformed, Neighbour,
    Operation, Purpose, Version, decode,
};

pub(super) const SOURCE: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
pub(super) const DESTINATION: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// An error if the other implementation reads a frame differently that was understood here.
pub(super) fn compare(bytes: &[u8]) -> Result<(), String> {
    let Ok(frame) = decode(bytes, bytes.len()) else { return Ok(()) };
    if frame.content == Content::Other {
        return Ok(());
    }
    let other = SlicedPacket::from_ethernet(bytes).map_err(|error| format!("{error:?}"))?;
    let vlan = other.vlan_ids().iter().map(|vlan| vlan.value()).find(|vlan| *vlan != 0);
    check(&vlan, &frame.vlan)?;
    check(&bytes[..6], &frame.destination.0)?;
    check(&bytes[6..12], &frame.source.0)?;
    match &frame.content {
        Content::Arp(arp) => {
            let Some(NetSlice::Arp(packet)) = &other.net else { return Err("no ARP".into()) };
            let theirs = packet.to_packet().try_eth_ipv4().map_err(|error| format!("{error:?}"))?;
            let operation = match theirs.operation {
                ArpOperation::REQUEST => Operation::Request,
                ArpOperation::REPLY => Operation::Reply,
                ArpOperation(other) => Operation::Other(other),
            };
            check(&operation, &arp.operation)?;
            check(&theirs.sender_ipv4_addr(), &arp.sender)?;
            check(&theirs.sender_mac, &arp.sender_mac.0)?;
            check(&theirs.target_ipv4_addr(), &arp.target)?;
            check(&theirs.target_mac, &arp.target_mac.0)
        }
        Content::Neighbour(neighbour) => {
            let Some(NetSlice::Ipv6(ip)) = &other.net else { return Err("no IPv6".into()) };
            check(&255, &ip.header().hop_limit())?;
            check(&ip.header().source_addr(), &neighbour.source)?;
            let icmp = Icmpv6Slice::from_slice(ip.payload().payload);
            let icmp = icmp.map_err(|error| format!("{error:?}"))?;
            let (from, to) = (ip.header().source(), ip.header().destination());
            check(&true, &icmp.is_checksum_valid(from, to))?;
            check_neighbour(&icmp, neighbour)
        }
        Content::Advert(advert) => {
            let (source, destination, hops, message) = match &other.net {
                Some(NetSlice::Ipv4(ip)) => {
                    let header = ip.header();
                    let (from, to) = (header.source_addr(), header.destination_addr());
                    (IpAddr::V4(from), IpAddr::V4(to), header.ttl(), ip.payload())
                }
                Some(NetSlice::Ipv6(ip)) => {
                    let header = ip.header();
                    let (from, to) = (header.source_addr(), header.destination_addr());
                    (IpAddr::V6(from), IpAddr::V6(to), header.hop_limit(), ip.payload())
                }
                _ => return Err("no IP".into()),
            };
            check(&112, &message.ip_number.0)?;
            check(&(source, destination, hops), &(advert.source, advert.destination, advert.hops))?;
            check(&message.payload[1], &advert.router_id)?;
            check(&message.payload[2], &advert.priority)?;
            check(&usize::from(message.payload[3]), &advert.addresses.len())
        }
        Content::Other => Ok(()),
    }
}

fn check_neighbour(icmp: &Icmpv6Slice<'_>, neighbour: &Neighbour) -> Result<(), String> {
    let mac = |bytes: &[u8]| bytes.try_into().ok().map(Mac).filter(|mac| mac.is_host());
    let payload = icmp.payload_slice().map_err(|error| format!("{error:?}"))?;
    let (target, found) = match payload {
        Icmpv6PayloadSlice::NeighborSolicitation(said) => {
            check(&Purpose::Solicitation, &neighbour.purpose)?;
            let macs = said.options_iterator().filter_map(|option| match option {
                Ok(NdpOptionSlice::SourceLinkLayerAddress(it)) => Some(it.link_layer_address()),
                _ => None,
            });
            (said.target_address(), macs.map(mac).next().flatten())
        }
        Icmpv6PayloadSlice::NeighborAdvertisement(said) => {
            let Icmpv6Type::NeighborAdvertisement(flags) = icmp.icmp_type() else {
                return Err("no advertisement".into());
            };
            let purpose = Purpose::Advertisement {
                router: flags.router,
                solicited: flags.solicited,
                replaces: flags.r#override,
            };
            check(&purpose, &neighbour.purpose)?;
            let macs = said.options_iterator().filter_map(|option| match option {
                Ok(NdpOptionSlice::TargetLinkLayerAddress(it)) => Some(it.link_layer_address()),
                _ => None,
            });
            (said.target_address(), macs.map(mac).next().flatten())
        }
        _ => return Err("no neighbour discovery".into()),
    };
    check(&target, &neighbour.target)?;
    // A longer option, as for other hardware, gives no address here.
    if neighbour.mac.is_some() { check(&found, &neighbour.mac) } else { Ok(()) }
}

fn check<T: PartialEq + std::fmt::Debug + ?Sized>(theirs: &T, ours: &T) -> Result<(), String> {
    if theirs == ours { Ok(()) } else { Err(format!("{theirs:?} is read as {ours:?}")) }
}

/// An advert as it is to be built.
#[derive(Clone, Debug)]
pub(super) struct Built {
    pub(super) version: Version,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) hops: u8,
    pub(super) router_id: u8,
    pub(super) priority: u8,
    /// Seconds in version 2, hundredths of a second in version 3.
    pub(super) interval: u16,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) authentication: u8,
    pub(super) checksum: Checksum,
    pub(super) vlan: Option<u16>,
}

impl Built {
    /// The message behind the IP header.
    pub(super) fn message(&self) -> Vec<u8> {
        let count = self.addresses.len() as u8;
        let [high, low] = self.interval.to_be_bytes();
        let mut message = match self.version {
            Version::V2 => {
                vec![0x21, self.router_id, self.priority, count, self.authentication, low]
            }
            Version::V3 => vec![0x31, self.router_id, self.priority, count, high, low],
        };
        message.extend([0, 0]);
        for address in &self.addresses {
            match address {
                IpAddr::V4(ip) => message.extend(ip.octets()),
                IpAddr::V6(ip) => message.extend(ip.octets()),
            }
        }
        if self.version == Version::V2 {
            message.extend(*b"password");
        }
        let mut sum = Sum16BitWords::new();
        let group = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18));
        let destination = match (self.version, self.checksum) {
            (Version::V2, _) | (_, Checksum::NoPseudoHeader) => None,
            (_, Checksum::Standard) => Some(self.destination),
            (_, Checksum::GroupPseudoHeader) => Some(group),
        };
        if let Some(destination) = destination {
            for ip in [self.source, destination] {
                sum = match ip {
                    IpAddr::V4(ip) => sum.add_4bytes(ip.octets()),
                    IpAddr::V6(ip) => sum.add_16bytes(ip.octets()),
                };
            }
            sum = sum.add_2bytes([0, 112]).add_4bytes((message.len() as u32).to_be_bytes());
        }
        let checksum = sum.add_slice(&message).ones_complement();
        message[6..8].copy_from_slice(&checksum.to_ne_bytes());
        message
    }

    pub(super) fn frame(&self) -> Vec<u8> {
        frame(self.source, self.destination, self.hops, 112, self.vlan, &self.message())
    }
}

/// An IP packet of any protocol in a frame.
pub(super) fn frame(
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    protocol: u8,
    vlan: Option<u16>,
    payload: &[u8],
) -> Vec<u8> {
    let ip = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let protocol = etherparse::IpNumber(protocol);
            let length = payload.len() as u16;
            let header =
                etherparse::Ipv4Header::new(length, hops, protocol, from.octets(), to.octets());
            etherparse::IpHeaders::Ipv4(header.unwrap(), etherparse::Ipv4Extensions::default())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let header = etherparse::Ipv6Header {
                payload_length: payload.len() as u16,
                next_header: etherparse::IpNumber(protocol),
                hop_limit: hops,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            };
            etherparse::IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
        }
        mixed => panic!("{mixed:?}"),
    };
    let mut bytes = Vec::new();
    let ethernet = PacketBuilder::ethernet2(SOURCE, DESTINATION);
    let protocol = etherparse::IpNumber(protocol);
    match vlan {
        Some(vlan) => ethernet
            .single_vlan(vlan.try_into().unwrap())
            .ip(ip)
            .write(&mut bytes, protocol, payload)
            .unwrap(),
        None => ethernet.ip(ip).write(&mut bytes, protocol, payload).unwrap(),
    }
    bytes
}

fn v4() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 4]>().prop_map(|mut octets| {
        octets[0] = octets[0] % 223 + 1;
        IpAddr::from(octets)
    })
}

fn v6() -> impl Strategy<Value = IpAddr> {
    any::<[u8; 14]>().prop_map(|rest| {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0x20, 0x01]);
        octets[2..].copy_from_slice(&rest);
        IpAddr::from(octets)
    })
}

pub(super) fn built() -> impl Strategy<Value = Built> {
    (0..3_u8).prop_flat_map(|form| {
        let version = if form == 0 { Version::V2 } else { Version::V3 };
        let ip = if form == 2 { v6().boxed() } else { v4().boxed() };
        let group: IpAddr =
            if form == 2 { "ff02::12".parse().unwrap() } else { "224.0.0.18".parse().unwrap() };
        let addresses = proptest::collection::vec(ip.clone(), 1..=60);
        let checksum = if form == 1 {
            let forms = [Checksum::Standard, Checksum::NoPseudoHeader, Checksum::GroupPseudoHeader];
            proptest::sample::select(forms.to_vec()).boxed()
        } else {
            Just(Checksum::Standard).boxed()
        };
        let interval = if form == 0 { 1..=255_u16 } else { 1..=4095 };
        (
            (ip.clone(), ip, any::<bool>(), any::<u8>()),
            (1..=255_u8, any::<u8>(), interval, addresses),
            (0..3_u8, checksum, proptest::option::of(0..4095_u16)),
        )
            .prop_map(
                move |(
                    (source, peer, unicast, hops),
                    (router_id, priority, interval, addresses),
                    (authentication, checksum, vlan),
                )| {
                    Built {
                        version,
                        source,
                        destination: if unicast { peer } else { group },
                        hops: if unicast { hops } else { 255 },
                        router_id,
                        priority,
                        interval,
                        addresses,
                        authentication,
                        checksum,
                        vlan,
                    }
                },
            )
    })
}

proptest! {
    #[test]
    fn what_was_built_is_read(built in built()) {
        let bytes = built.frame();
        let frame = decode(&bytes, bytes.len()).unwrap();
        prop_assert_eq!(frame.vlan, built.vlan.filter(|vlan| *vlan != 0));
        let Content::Advert(advert) = frame.content else { panic!("{frame:?}") };
        // To the group, one of two forms is the other.
        let to_group = built.destination.is_multicast();
        let form = match built.checksum {
            Checksum::GroupPseudoHeader if to_group => Checksum::Standard,
            form => form,
        };
        let kind = [
            Authentication::None,
            Authentication::Password(Fingerprint::of(*b"password")),
            Authentication::Header,
        ];
        let authentication = match built.version {
            Version::V2 => kind[usize::from(built.authentication)],
            Version::V3 => Authentication::None,
        };
        let unit = if built.version == Version::V2 { 1000 } else { 10 };
        let expected = Advert {
            version: built.version,
            source: built.source,
            destination: built.destination,
            hops: built.hops,
            router_id: built.router_id,
            priority: built.priority,
            interval: Duration::from_millis(unit * u64::from(built.interval)),
            addresses: built.addresses.clone(),
            authentication,
            checksum: form,
            trailer: false,
        };
        prop_assert_eq!(advert, expected);
        compare(&bytes).unwrap();
    }

    #[test]
    fn a_damaged_advert_is_never_read_as_another(built in built(), at: proptest::sample::Index, bit in 0..8_u32) {
        let mut bytes = built.frame();
        let header = if built.vlan.is_some() { 18 } else { 14 };
        let at = header + at.index(bytes.len() - header);
        bytes[at] ^= 1 << bit;
        // Of an IPv6 header nothing is protected but what the pseudo-header has.
        let unprotected = built.source.is_ipv6() && at < header + 8;
        if let Ok(Frame { content: Content::Advert(read), .. }) = decode(&bytes, bytes.len()) {
            // Version 3 over IPv4 has three forms of checksum, and what is wrong in one of them is
            // right in another once in some ten thousand adverts.
            let before = built.frame();
            let Ok(Frame { content: Content::Advert(built), .. }) = decode(&before, before.len())
            else { panic!("{built:?}") };
            prop_assert!(unprotected || read.checksum != built.checksum);
        }
        compare(&bytes).unwrap();
    }

    #[test]
    fn a_part_is_never_read_as_the_whole(built in built(), length: proptest::sample::Index) {
        let bytes = built.frame();
        let length = length.index(bytes.len());
        let truncated = decode(&bytes[..length], length);
        let captured = decode(&bytes[..length], bytes.len());
        prop_assert_eq!(truncated, Err(Malformed::Truncated));
        prop_assert_eq!(captured, Err(Malformed::NotCaptured));
    }

    #[test]
    fn anything_is_understood_or_has_a_reason(bytes: Vec<u8>, length: usize) {
        let _ = decode(&bytes, length);
        compare(&bytes).unwrap();
    }

    #[test]
    fn arp_is_read(operation: u16, mac: [u8; 6], sender: [u8; 4], target_mac: [u8; 6], target: [u8; 4], padding in 0..40_usize) {
        let packet = etherparse::ArpPacket::new(
            etherparse::ArpHardwareId::ETHERNET,
            etherparse::EtherType::IPV4,
            ArpOperation(operation),
            &mac, &sender, &target_mac, &target,
        ).unwrap();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(SOURCE, DESTINATION).arp(packet).write(&mut bytes).unwrap();
        bytes.extend(vec![0; padding]);
        let expected = Arp {
            operation: match operation {
                1 => Operation::Request,
                2 => Operation::Reply,
                other => Operation::Other(other),
            },
            sender_mac: Mac(mac),
            sender: sender.into(),
            target_mac: Mac(target_mac),
            target: target.into(),
        };
        match decode(&bytes, bytes.len()) {
            Ok(frame) => prop_assert_eq!(frame.content, Content::Arp(expected)),
            Err(reason) => {
                prop_assert_eq!(reason, Malformed::ArpSender);
                prop_assert!(!Mac(mac).is_host());
            }
        }
        compare(&bytes).unwrap();
    }

    #[test]
    fn neighbours_are_read(
        solicitation: bool,
        flags in 0..8_u8,
        target: [u8; 16],
        mac in proptest::option::of(any::<[u8; 6]>()),
        before in proptest::collection::vec(14..90_u8, 0..3),
    ) {
        let mut body = vec![if solicitation { 135 } else { 136 }, 0, 0, 0, flags << 5, 0, 0, 0];
        body.extend(target);
        for kind in before {
            body.extend([kind, 2]);
            body.extend([0; 14]);
        }
        if let Some(mac) = mac {
            body.extend([if solicitation { 1 } else { 2 }, 1]);
            body.extend(mac);
        }
        let (from, to): (Ipv6Addr, Ipv6Addr) =
            ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
        let sum = Sum16BitWords::new().add_16bytes(from.octets()).add_16bytes(to.octets());
        let sum = sum.add_2bytes([0, 58]).add_4bytes((body.len() as u32).to_be_bytes());
        let checksum = sum.add_slice(&body).ones_complement();
        body[2..4].copy_from_slice(&checksum.to_ne_bytes());
        let bytes = frame(from.into(), to.into(), 255, 58, None, &body);
        let target = Ipv6Addr::from(target);
        match decode(&bytes, bytes.len()) {
            Ok(Frame { content: Content::Neighbour(read), .. }) => {
                prop_assert_eq!(read.target, target);
                prop_assert_eq!(read.mac, mac.map(Mac).filter(|mac| mac.is_host()));
                prop_assert_eq!(read.purpose == Purpose::Solicitation, solicitation);
            }
            other => {
                prop_assert_eq!(other, Err(Malformed::NeighbourTarget));
                prop_assert!(target.is_multicast() || target.is_unspecified());
            }
        }
        compare(&bytes).unwrap();
        let mut afar = bytes.clone();
        afar[14 + 7] = 254;
        prop_assert_eq!(decode(&afar, afar.len()), Err(Malformed::Hops));
        let mut damaged = bytes;
        damaged[14 + 40 + 8] ^= 1;
        prop_assert_eq!(decode(&damaged, damaged.len()), Err(Malformed::NeighbourChecksum));
    }
}
