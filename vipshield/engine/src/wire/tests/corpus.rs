//! keepalived's own frames, captured from its sockets, and every kind of damage to them.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use super::{
    super::{Advert, Checksum, Content, Frame, Malformed, Purpose, Version, decode},
    reference::{Built, compare},
};

/// Seeds of the fuzz target, too.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/frame");
    let frames: BTreeMap<String, Vec<u8>> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        })
        .collect();
    assert!(frames.len() >= 25, "a corpus of {} frames", frames.len());
    frames
}

fn advert(frames: &BTreeMap<String, Vec<u8>>, name: &str) -> Advert {
    match decode(&frames[name], frames[name].len()) {
        Ok(Frame { content: Content::Advert(advert), .. }) => advert,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn every_frame_is_what_its_name_says() {
    for (name, bytes) in corpus() {
        let Frame { content, .. } = decode(&bytes, bytes.len()).unwrap();
        let kind = match content {
            Content::Arp(arp) if arp.sender == arp.target => "arp-announcement",
            Content::Arp(_) => "arp",
            Content::Neighbour(neighbour) => match neighbour.purpose {
                Purpose::Solicitation => "neighbour-solicitation",
                Purpose::Advertisement { solicited: true, .. } => {
                    "neighbour-advertisement-solicited"
                }
                Purpose::Advertisement { .. } => "neighbour-advertisement-unsolicited",
            },
            Content::Advert(advert) => {
                let [router, priority] = ["router", "priority"].map(|word| {
                    let (_, rest) = name.split_once(word).unwrap();
                    rest.split('-').next().unwrap().parse::<u8>().unwrap()
                });
                assert_eq!((advert.router_id, advert.priority), (router, priority), "{name}");
                assert_eq!(advert.is_unicast(), name.contains("unicast"), "{name}");
                assert_eq!(advert.source.is_ipv6(), name.contains("ipv6"), "{name}");
                if advert.version == Version::V2 { "vrrp2" } else { "vrrp3" }
            }
            Content::Other => "i",
        };
        assert!(name.starts_with(kind), "{name} is taken for {kind}");
        compare(&bytes).unwrap();
    }
}

#[test]
fn keepalived_is_understood() {
    let frames = corpus();
    let plain = advert(&frames, "vrrp2-multicast-router51-priority150");
    assert_eq!(plain.addresses, ["192.0.2.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(plain.interval, Duration::from_secs(1));
    let quick = advert(&frames, "vrrp3-multicast-router53-priority150");
    assert_eq!(quick.interval, Duration::from_millis(100));
    assert_eq!(quick.checksum, Checksum::Standard);
    let password = advert(&frames, "vrrp2-multicast-router52-priority150");
    assert!(matches!(password.authentication, super::super::Authentication::Password(_)));
    assert_eq!(password.addresses.len(), 2);
    let six = advert(&frames, "vrrp3-ipv6-unicast-router57-priority150");
    assert_eq!(six.hops, 64, "keepalived leaves the hop limit to the kernel");
}

#[test]
fn every_part_and_every_changed_bit_is_understood_or_has_a_reason() {
    let mut reasons: BTreeMap<Malformed, u64> = BTreeMap::new();
    for (name, bytes) in corpus() {
        for length in 0..bytes.len() {
            let part = decode(&bytes[..length], length);
            if let Ok(Frame { content, .. }) = &part {
                assert_eq!(*content, Content::Other, "{name}: {length} bytes of it");
            }
            compare(&bytes[..length]).unwrap();
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                compare(&damaged).unwrap_or_else(|error| panic!("{name} at {at}: {error}"));
                if let Err(reason) = decode(&damaged, damaged.len()) {
                    *reasons.entry(reason).or_default() += 1;
                }
            }
        }
    }
    for reason in [Malformed::IpChecksum, Malformed::VrrpChecksum, Malformed::NeighbourChecksum] {
        assert!(reasons.contains_key(&reason), "{reason} is not among {reasons:?}");
    }
}

/// An advert with a mistake in it, whose checksums are right nevertheless.
fn mistaken(mistake: impl FnOnce(&mut Built)) -> Result<Frame, Malformed> {
    let mut built = Built {
        version: Version::V2,
        source: "192.0.2.11".parse().unwrap(),
        destination: "224.0.0.18".parse().unwrap(),
        hops: 255,
        router_id: 51,
        priority: 100,
        interval: 1,
        addresses: vec!["192.0.2.10".parse().unwrap()],
        authentication: 0,
        checksum: Checksum::Standard,
        vlan: None,
    };
    mistake(&mut built);
    let frame = built.frame();
    decode(&frame, frame.len())
}

#[test]
fn every_mistake_has_its_name() {
    assert!(mistaken(|_| {}).is_ok());
    assert_eq!(mistaken(|it| it.hops = 254), Err(Malformed::Hops));
    assert_eq!(mistaken(|it| it.router_id = 0), Err(Malformed::VrrpRouter));
    assert_eq!(mistaken(|it| it.authentication = 3), Err(Malformed::VrrpAuthentication));
    assert_eq!(mistaken(|it| it.interval = 0), Err(Malformed::VrrpInterval));
    assert_eq!(mistaken(|it| it.addresses.clear()), Err(Malformed::VrrpLength));
    let from_a_group = mistaken(|it| it.source = "224.0.0.1".parse().unwrap());
    assert_eq!(from_a_group, Err(Malformed::VrrpSource));
    let over_ipv6 = mistaken(|it| {
        it.source = "fe80::1".parse().unwrap();
        it.destination = "ff02::12".parse().unwrap();
    });
    assert_eq!(over_ipv6, Err(Malformed::VrrpVersion));
}

/// A frame of the corpus with some of its bytes replaced.
fn with(name: &str, at: usize, bytes: &[u8]) -> Result<Frame, Malformed> {
    let mut frame = corpus()[name].clone();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    decode(&frame, frame.len())
}

#[test]
fn headers_are_not_believed() {
    let advert = "vrrp2-multicast-router51-priority150";
    assert_eq!(with(advert, 14, &[0x65]), Err(Malformed::IpHeader));
    assert_eq!(with(advert, 14, &[0x44]), Err(Malformed::IpHeader));
    assert_eq!(with(advert, 16, &[0, 19]), Err(Malformed::IpLength));
    assert_eq!(with(advert, 34, &[0x41]), Err(Malformed::VrrpVersion));
    assert_eq!(with(advert, 34, &[0x22]), Err(Malformed::VrrpType));
    assert_eq!(with(advert, 37, &[200]), Err(Malformed::VrrpLength));
    let six = "vrrp3-ipv6-multicast-router56-priority150";
    assert_eq!(with(six, 14, &[0x45]), Err(Malformed::IpHeader));
    assert_eq!(with(six, 18, &[0xff, 0xff]), Err(Malformed::Truncated));
    assert_eq!(with("arp-reply", 18, &[8]), Err(Malformed::ArpForm));
    assert_eq!(with("arp-reply", 22, &[0; 6]), Err(Malformed::ArpSender));

    let mut frame = corpus()[advert].clone();
    frame[20] |= 0x20;
    // One's complement: what is added to one word is taken from another.
    let old = u16::from_be_bytes([frame[24], frame[25]]);
    let (new, borrowed) = old.overflowing_sub(0x2000);
    frame[24..26].copy_from_slice(&(new - u16::from(borrowed)).to_be_bytes());
    assert_eq!(decode(&frame, frame.len()), Err(Malformed::Fragment));
}

#[test]
fn tags_in_band_are_looked_behind() {
    let bytes = &corpus()["arp-announcement"];
    let tagged = |tags: &[[u8; 4]]| {
        let mut frame = bytes[..12].to_vec();
        frame.extend(tags.concat());
        frame.extend(&bytes[12..]);
        decode(&frame, frame.len())
    };
    let (service, customer) = ([0x88, 0xa8, 0x60, 7], [0x81, 0, 0, 100]);
    assert_eq!(tagged(&[customer]).unwrap().vlan, Some(100));
    assert_eq!(tagged(&[service, customer]).unwrap().vlan, Some(7));
    // Identifier 0 tells a priority, and no VLAN.
    let priority = [0x81, 0, 0xe0, 0];
    assert_eq!(tagged(&[priority]).unwrap().vlan, None);
    assert_eq!(tagged(&[priority, customer]).unwrap().vlan, Some(100));
    assert_eq!(tagged(&[service, customer, customer]), Err(Malformed::VlanTags));
    assert_eq!(tagged(&[service]).unwrap().content, decode(bytes, bytes.len()).unwrap().content);
}

#[test]
fn an_extension_header_hides_nothing() {
    // Hop-by-hop options, as in front of a report of multicast listeners.
    let options = |next: u8, count: usize, last: u8| {
        let advert = corpus()["vrrp3-ipv6-multicast-router56-priority150"].clone();
        let (mut frame, message) = (advert[..54].to_vec(), &advert[54..]);
        frame[20] = if count == 0 { last } else { next };
        for left in (0..count).rev() {
            frame.extend([if left == 0 { last } else { next }, 0, 5, 2, 0, 0, 1, 0]);
        }
        frame.extend(message);
        let length = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        decode(&frame, frame.len())
    };
    let plain = options(0, 0, 112).unwrap();
    assert!(matches!(plain.content, Content::Advert(_)));
    assert_eq!(options(60, 1, 112), Ok(plain.clone()));
    assert_eq!(options(60, 4, 112), Ok(plain));
    assert_eq!(options(60, 6, 112), Err(Malformed::Extension));
    assert_eq!(options(44, 1, 112), Err(Malformed::Fragment));
}
