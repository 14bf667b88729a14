//! The watch, on the running kernel: frames on a wire, and what is reported of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libtest_mimic::Failed;
use vipshield::{bpf, engine::Trigger, net::Carrier};
use vipshield_common::{
    counters::Counter,
    watch::{
        CAPTURE_MAX, Direction, FrameKind, FrameReport, NEWCOMER_BURST, NEWCOMER_INTERVAL_NS,
        SOURCE_BURST, SOURCE_INTERVAL_NS,
    },
};

use super::{
    check,
    frames::{
        ADVERTISEMENT, ARP, BROADCAST, ICMPV6, IPV4, IPV6, SOLICITATION, TCP, VRRP, VRRP_GROUP,
        advert, arp, discovery, ethernet, ipv4, ipv6, link_address, solicited_node, tag,
    },
    namespace::{PATIENCE, Stage, monotonic_ns},
    shunt,
    tap::Tap,
};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x12);
const STATION: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x12];
const FENCER: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xfe];

/// A NIC that is watched for the VIP, and both ends of its wire.
struct Post {
    stage: Stage,
    nic: u32,
    /// The other end.
    wire: Tap,
    /// The NIC.
    inside: Tap,
    fence: u32,
}

impl Post {
    fn new() -> Result<Self, Failed> {
        Self::on(Stage::new()?)
    }

    fn on(mut stage: Stage) -> Result<Self, Failed> {
        let nic = stage.index("nic")?;
        stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
        stage.set_watch(nic, true)?;
        stage.programs.set_watched(&BTreeSet::from([IpAddr::from(VIP), VIP6.into()]))?;
        let (wire, inside) = (Tap::at("peer")?, Tap::at("nic")?);
        Ok(Self { stage, nic, wire, inside, fence: 0 })
    }

    /// What was reported so far; an advert put behind all else marks the end.
    fn reported(&mut self) -> Result<Vec<(FrameReport, Vec<u8>)>, Failed> {
        self.fence += 1;
        let word = [&[0xfe, 0xce][..], &self.fence.to_be_bytes()].concat();
        let advert = ipv4(&[], 0, VRRP, &advert(2, 255, &word));
        self.wire.put(&ethernet(VRRP_GROUP, FENCER, &[], IPV4, &advert))?;
        let is_fence = |frame: &[u8]| frame.windows(word.len()).any(|part| part == word);
        let mut reported = Vec::new();
        let mut over = false;
        let (runtime, programs) = self.stage.parts();
        runtime.block_on(async {
            let all = async {
                while !over {
                    let take = |record: &[u8]| {
                        if let Some((report, bytes)) = bpf::frame(record) {
                            over |= is_fence(bytes);
                            if !over {
                                reported.push((report, bytes.to_vec()));
                            }
                        }
                    };
                    programs.frames.read(take).await?;
                }
                Ok::<(), Failed>(())
            };
            tokio::time::timeout(PATIENCE, all).await?
        })?;
        Ok(reported)
    }
}

/// One frame of each kind, without tags, and what it is.
fn kinds() -> Vec<(&'static str, FrameKind, [u8; 2], Vec<u8>)> {
    let group = solicited_node(OTHER6).0;
    let own = link_address(1, STATION);
    let target = link_address(2, STATION);
    let solicitation = discovery(SOLICITATION, 0, VIP6, group, OTHER6, &own);
    let advertisement = discovery(ADVERTISEMENT, 0x20, LINK_LOCAL, ALL_NODES, VIP6, &target);
    // keepalived's in version 2 ends with eight bytes of authentication; version 3 has none.
    let v2 = advert(2, 51, &[192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
    let v3 = advert(3, 51, &[192, 0, 2, 10]);
    let v3_for_ipv6 = advert(3, 52, &VIP6.octets());
    vec![
        ("a request", FrameKind::Arp, ARP, arp(1, STATION, VIP, [0; 6], OTHER)),
        ("a gratuitous request", FrameKind::Arp, ARP, arp(1, STATION, VIP, [0; 6], VIP)),
        ("a reply", FrameKind::Arp, ARP, arp(2, STATION, VIP, BROADCAST, VIP)),
        ("a solicitation", FrameKind::Solicitation, IPV6, solicitation),
        ("an advertisement", FrameKind::Advertisement, IPV6, advertisement),
        ("version 2", FrameKind::Vrrp4, IPV4, ipv4(&[], 0, VRRP, &v2)),
        ("version 3", FrameKind::Vrrp4, IPV4, ipv4(&[], 0, VRRP, &v3)),
        ("IPv4 options", FrameKind::Vrrp4, IPV4, ipv4(&[1; 40], 0x4000, VRRP, &v3)),
        ("IPv6", FrameKind::Vrrp6, IPV6, ipv6(VRRP, 255, LINK_LOCAL, GROUP6, &v3_for_ipv6)),
    ]
}

/// Frames of every kind are reported as they are, in both directions and with up to two tags.
pub(crate) fn every_kind() -> Result<(), Failed> {
    let mut post = Post::new()?;
    let (outer, inner) = (tag(0x88a8, 9), tag(0x8100, 0x6007));
    let taggings: [&[[u8; 4]]; 4] = [&[], &[inner], &[outer], &[outer, inner]];
    for tags in taggings {
        for (what, kind, ethertype, payload) in kinds() {
            for direction in [Direction::Ingress, Direction::Egress] {
                let what = format!("{what}, {direction:?}, {} tags", tags.len());
                let sent = ethernet(BROADCAST, STATION, tags, ethertype, &payload);
                match direction {
                    Direction::Ingress => post.wire.put(&sent)?,
                    Direction::Egress => post.inside.put(&sent)?,
                }
                let reported = post.reported()?;
                let [(report, bytes)] = reported.as_slice() else {
                    return Err(format!("{what}: {} reports", reported.len()).into());
                };
                // Of what arrives the kernel takes the outermost tag off.
                let (mut rest, mut vlan) = (sent.clone(), (0, 0));
                if let (Direction::Ingress, Some([a, b, c, d])) = (direction, tags.first()) {
                    rest.drain(12..16);
                    vlan = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                }
                check(*bytes == rest, format!("{what}: {bytes:02x?} instead of {rest:02x?}"))?;
                let expected = FrameReport {
                    time_ns: report.time_ns,
                    ifindex: post.nic,
                    direction: direction as u32,
                    kind: kind as u16,
                    shunted: 0,
                    vlan_protocol: vlan.0,
                    vlan_tci: vlan.1,
                    length: rest.len() as u32,
                    captured: rest.len() as u32,
                };
                check(*report == expected, format!("{what}: {report:?}"))?;
                check(report.time_ns <= monotonic_ns()?, format!("{what}: in the future"))?;
            }
        }
    }
    let taggings = taggings.len() as u64;
    post.stage.counted(Counter::WatchedArp, 2 * 3 * taggings)?;
    post.stage.counted(Counter::WatchedNd, 2 * 2 * taggings)?;
    post.stage.counted(Counter::WatchedVrrp, 2 * 4 * taggings + u64::from(post.fence))
}

/// An advert as long as an MTU of 1,500 bytes allows is captured whole, a longer one in part.
pub(crate) fn long_adverts() -> Result<(), Failed> {
    let mut post = Post::new()?;
    for link in ["nic", "peer"] {
        super::carry::ip(&format!("link set {link} mtu 4000"))?;
    }
    let tags = [tag(0x88a8, 9), tag(0x8100, 7), tag(0x8100, 8)];
    for addresses in [90, 200] {
        let advert = advert(3, 51, &VIP6.octets().repeat(addresses));
        let packet = ipv6(VRRP, 255, LINK_LOCAL, GROUP6, &advert);
        let sent = ethernet(BROADCAST, STATION, &tags[1..2], IPV6, &packet);
        post.inside.put(&sent)?;
        let reported = post.reported()?;
        let (report, bytes) = reported.first().ok_or("it is not reported")?;
        let captured = sent.len().min(CAPTURE_MAX);
        check(report.length as usize == sent.len(), format!("{report:?}"))?;
        check(report.captured as usize == captured, format!("{report:?}"))?;
        check(sent.get(..captured) == Some(bytes), "the frame's beginning")?;
    }
    // Three tags in the frame are one more than is looked behind.
    let packet = ipv4(&[], 0, VRRP, &advert(2, 51, &[]));
    post.inside.put(&ethernet(BROADCAST, STATION, &tags, IPV4, &packet))?;
    check(post.reported()?.is_empty(), "a frame with three tags")
}

/// What says nothing of who owns a watched address costs nobody anything.
pub(crate) fn of_no_interest() -> Result<(), Failed> {
    let mut post = Post::new()?;
    let segment = ipv4(&[], 0, TCP, &[0; 40]);
    let segment6 = ipv6(TCP, 64, VIP6, OTHER6, &[0; 40]);
    let ping = ipv6(ICMPV6, 255, VIP6, OTHER6, &[128, 0, 0, 0, 0, 0, 0, 0]);
    let group = solicited_node(VIP6).0;
    let asked = discovery(SOLICITATION, 0, OTHER6, group, VIP6, &link_address(1, STATION));
    let told = discovery(ADVERTISEMENT, 0, VIP6, ALL_NODES, OTHER6, &[]);
    let frames = [
        (IPV4, segment, false),
        (IPV6, segment6, false),
        (IPV6, ping, false),
        (IPV6, asked, true),
        (IPV6, told, true),
        (ARP, arp(1, STATION, OTHER, [0; 6], VIP), true),
        (ARP, arp(2, STATION, OTHER, STATION, VIP), true),
        (ARP, arp(8, STATION, VIP, STATION, VIP), true),
        ([0x88, 0xb5], vec![0; 46], false),
    ];
    let mut looked_at = 0;
    for (ethertype, payload, looks) in frames {
        let before = post.stage.count(Counter::WatchUnrelated)?;
        post.wire.put(&ethernet(BROADCAST, STATION, &[], ethertype, &payload))?;
        let reported = post.reported()?;
        check(reported.is_empty(), format!("{reported:02x?}"))?;
        let count = post.stage.count(Counter::WatchUnrelated)? - before;
        looked_at += u64::from(looks);
        check(count == u64::from(looks), format!("{ethertype:02x?}: {count}"))?;
    }
    check(looked_at == 5, "all were put on the wire")?;
    // What is watched changes.
    post.stage.programs.set_watched(&BTreeSet::from([IpAddr::from(OTHER)]))?;
    for sender in [OTHER, VIP] {
        let request = arp(1, STATION, sender, [0; 6], sender);
        post.wire.put(&ethernet(BROADCAST, STATION, &[], ARP, &request))?;
        let reported = post.reported()?;
        check((reported.len() == 1) == (sender == OTHER), format!("{reported:02x?}"))?;
    }
    Ok(())
}

/// Malformed frames are counted by what is wrong with them, and go their way.
pub(crate) fn malformed() -> Result<(), Failed> {
    let mut post = Post::new()?;
    let v2 = advert(2, 51, &[192, 0, 2, 10]);
    let whole = ipv4(&[], 0, VRRP, &v2);
    let whole6 = ipv6(VRRP, 255, LINK_LOCAL, GROUP6, &v2);
    let nd = discovery(ADVERTISEMENT, 0x20, LINK_LOCAL, ALL_NODES, VIP6, &[]);
    let altered = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet.iter_mut().skip(at).take(1).for_each(|it| *it = byte);
        packet
    };
    // Too short to be padded: the rest of an Ethernet frame is no part of it.
    let cut =
        |packet: &[u8], length: usize| packet.iter().take(length).copied().collect::<Vec<u8>>();
    let padded =
        ethernet(BROADCAST, STATION, &[], ARP, &altered(&arp(1, STATION, VIP, [0; 6], VIP), 4, 8));
    let frame =
        |ethertype: [u8; 2], packet: &[u8]| [&BROADCAST[..], &STATION, &ethertype, packet].concat();
    let cases: Vec<(&str, Counter, Vec<u8>)> = vec![
        (
            "ARP cut off",
            Counter::WatchMalformedArp,
            frame(ARP, &cut(&arp(1, STATION, VIP, [0; 6], VIP), 27)),
        ),
        ("ARP of other lengths", Counter::WatchMalformedArp, padded),
        (
            "ARP of another sort",
            Counter::WatchMalformedArp,
            frame(ARP, &altered(&arp(1, STATION, VIP, [0; 6], VIP), 1, 6)),
        ),
        ("IPv4 of version 6", Counter::WatchMalformedIpv4, frame(IPV4, &altered(&whole, 0, 0x65))),
        (
            "a header of 16 bytes",
            Counter::WatchMalformedIpv4,
            frame(IPV4, &altered(&whole, 0, 0x44)),
        ),
        (
            "a header longer than the packet",
            Counter::WatchMalformedIpv4,
            frame(IPV4, &altered(&whole, 0, 0x4f)),
        ),
        (
            "a packet longer than the frame",
            Counter::WatchMalformedIpv4,
            frame(IPV4, &altered(&whole, 3, 33)),
        ),
        ("a header cut off", Counter::WatchMalformedIpv4, frame(IPV4, &cut(&whole, 19))),
        (
            "an advert of seven bytes",
            Counter::WatchMalformedVrrp,
            frame(IPV4, &ipv4(&[], 0, VRRP, &cut(&v2, 7))),
        ),
        ("no advert at all", Counter::WatchMalformedVrrp, frame(IPV4, &ipv4(&[], 0, VRRP, &[]))),
        ("the first fragment", Counter::WatchFragment, frame(IPV4, &ipv4(&[], 0x2000, VRRP, &v2))),
        ("another fragment", Counter::WatchFragment, frame(IPV4, &ipv4(&[], 1, VRRP, &v2))),
        ("IPv6 of version 4", Counter::WatchMalformedIpv6, frame(IPV6, &altered(&whole6, 0, 0x45))),
        (
            "an IPv6 packet longer than the frame",
            Counter::WatchMalformedIpv6,
            frame(IPV6, &altered(&whole6, 5, 13)),
        ),
        ("an IPv6 header cut off", Counter::WatchMalformedIpv6, frame(IPV6, &cut(&whole6, 39))),
        (
            "an IPv6 advert of seven bytes",
            Counter::WatchMalformedVrrp,
            frame(IPV6, &ipv6(VRRP, 255, LINK_LOCAL, GROUP6, &cut(&v2, 7))),
        ),
        ("discovery from afar", Counter::WatchMalformedNd, frame(IPV6, &altered(&nd, 7, 254))),
        ("discovery of another code", Counter::WatchMalformedNd, frame(IPV6, &altered(&nd, 41, 1))),
        (
            "discovery without a target",
            Counter::WatchMalformedNd,
            frame(IPV6, &ipv6(ICMPV6, 255, LINK_LOCAL, ALL_NODES, &[ADVERTISEMENT; 23])),
        ),
    ];
    for (what, counter, frame) in cases {
        let before = post.stage.count(counter)?;
        post.wire.put(&frame)?;
        let reported = post.reported()?;
        check(reported.is_empty(), format!("{what}: {reported:02x?}"))?;
        let count = post.stage.count(counter)? - before;
        check(count == 1, format!("{what}: {} is {count}", counter.name()))?;
        check(post.inside.hears(&frame)?, format!("{what}: it went its way"))?;
    }
    Ok(())
}

/// Ten thousand adverts of one station: another one's are all reported meanwhile, the kernel gets
/// each of them, and what is left out is counted. The same of as many stations.
pub(crate) fn flood() -> Result<(), Failed> {
    const FRAMES: u64 = 10_000;
    /// Fewer than what newcomers may have at once.
    const QUIET: u64 = 100;
    for stations in [1, 5_000_u64] {
        let mut post = Post::new()?;
        let began = monotonic_ns()?;
        let received = ipv4_received()?;
        let advert = ipv4(&[], 0, VRRP, &advert(2, 51, &[192, 0, 2, 10]));
        let quiet = ethernet(VRRP_GROUP, STATION, &[], IPV4, &advert);
        // Known before, as the fencer is by this.
        post.wire.put(&quiet)?;
        check(post.reported()?.len() == 1, "it is heard")?;
        let mut heard = 0;
        let mut flooded = 0;
        for number in 0..FRAMES {
            let [.., a, b] = (number % stations).to_be_bytes();
            let from = [2, 0, 0, 1, a, b];
            if number % (FRAMES / QUIET) == 0 {
                post.wire.put(&quiet)?;
            }
            post.wire.put(&ethernet(VRRP_GROUP, from, &[], IPV4, &advert))?;
            // As vipshield does.
            if number % 500 == 499 {
                for (_, frame) in post.reported()? {
                    if frame == quiet { heard += 1 } else { flooded += 1 }
                }
            }
        }
        check(heard == QUIET, format!("{heard} of {QUIET} heard beside {stations}"))?;
        let sent = 1 + FRAMES + QUIET + u64::from(post.fence);
        check(ipv4_received()? - received >= sent, "the kernel got all of them")?;
        let nanoseconds = monotonic_ns()? - began;
        let limit = if stations == 1 {
            SOURCE_BURST + nanoseconds / SOURCE_INTERVAL_NS + 1
        } else {
            // A station that was let in is known when it sends the next time.
            let each = FRAMES / stations;
            each * (NEWCOMER_BURST + nanoseconds / NEWCOMER_INTERVAL_NS + 1)
        };
        check(flooded <= limit, format!("{flooded} reports of {stations} that flood"))?;
        let refused =
            post.stage.count(Counter::WatchLimited)? + post.stage.count(Counter::WatchNewcomers)?;
        check(flooded + refused == FRAMES, format!("{flooded} reported, {refused} not"))?;
        let counter = if stations == 1 { Counter::WatchLimited } else { Counter::WatchNewcomers };
        check(post.stage.count(counter)? > 0, counter.name())?;
        post.stage.counted(Counter::FramesLost, 0)?;
    }
    Ok(())
}

/// IPv4 packets that the kernel received in this namespace.
fn ipv4_received() -> Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = lines.next().zip(lines.next()).ok_or("no counters of IPv4")?;
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, value) = both.find(|(name, _)| *name == "InReceives").ok_or("no InReceives")?;
    Ok(value.parse()?)
}

/// Reports that nobody reads are lost and counted, and nothing else happens.
pub(crate) fn nobody_reads() -> Result<(), Failed> {
    let post = Post::new()?;
    let long = ipv4(&[], 0, VRRP, &advert(2, 51, &[7; 1400]));
    for station in 0..4 {
        for _ in 0..100 {
            let from = [2, 0, 0, 0, 0, station];
            post.wire.put(&ethernet(VRRP_GROUP, from, &[], IPV4, &long))?;
        }
    }
    let (kept, lost) =
        (post.stage.count(Counter::WatchedVrrp)?, post.stage.count(Counter::FramesLost)?);
    check(kept + lost == 400, format!("{kept} kept and {lost} lost"))?;
    check(kept > 100 && lost > 100, format!("{kept} kept and {lost} lost"))
}

/// Without a heartbeat nothing is reported.
pub(crate) fn stale() -> Result<(), Failed> {
    let mut post = Post::new()?;
    post.stage.programs.still()?;
    let advert = ipv4(&[], 0, VRRP, &advert(2, 51, &[]));
    post.wire.put(&ethernet(VRRP_GROUP, STATION, &[], IPV4, &advert))?;
    post.stage.counted(Counter::WatchStale, 1)?;
    post.stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    check(post.reported()?.is_empty(), "it was not reported")
}

/// Of a watch that ends, and of one that cannot begin, nothing stays; that of the shunt does.
pub(crate) fn nothing_stays() -> Result<(), Failed> {
    let shunt::Wires { mut stage, nic, bridge, .. } = shunt::lay(false)?;
    let carrier = Carrier::new(stage.handle());
    let qdiscs = super::carry::said("tc", "qdisc show")?;
    for _ in 0..2 {
        stage.set_watch(nic, true)?;
    }
    check(shunt::attached()? == 1, "it is there once")?;
    let laid = shunt::shunt(bridge, Trigger::Cut);
    stage.set_shunt(nic, Some(laid))?;
    for wanted in [false, true, false] {
        stage.set_watch(nic, wanted)?;
        check(shunt::attached()? == 2, "it stays until nothing is under way, and is used again")?;
    }
    stage.tidy()?;
    check(stage.programs.unused_clsacts(true)?.is_empty(), "the shunt's is in use")?;
    check(shunt::attached()? == 1, "the shunt stays")?;
    stage.set_watch(nic, true)?;
    stage.set_shunt(nic, None)?;
    stage.tidy()?;
    let unused = stage.programs.unused_clsacts(true)?;
    check(!unused.contains(&nic), "the watch's is in use")?;
    stage.block_on(carrier.release_clsact(&unused))?;
    check(shunt::attached()? == 1, "the watch stays")?;
    stage.set_watch(nic, false)?;
    stage.tidy()?;
    check(stage.programs.unused_clsacts(false)?.is_empty(), "what is up keeps it until the end")?;
    let unused = stage.programs.unused_clsacts(true)?;
    stage.block_on(carrier.release_clsact(&unused))?;
    check(shunt::attached()? == 0, "no program is on the NIC")?;
    check(super::carry::said("tc", "qdisc show")? == qdiscs, "nor anything that held it")?;

    stage.delete_link("br0")?;
    check(stage.set_watch(bridge, true).is_err(), "there is no such interface")?;
    stage.set_watch(bridge, false)?;
    stage.tidy()?;
    check(stage.programs.unused_clsacts(true)?.is_empty(), "nothing is to be released")
}

/// While the shunt is thrown, an advert comes out past the bridge and, where that forwards, through it: it is
/// said which is which, in both directions.
pub(crate) fn past_and_through() -> Result<(), Failed> {
    for out in [false, true] {
        let shunt::Wires { mut stage, _monitor: monitor, nic, bridge } = shunt::lay(false)?;
        stage.set_shunt(nic, Some(shunt::shunt(bridge, Trigger::Join)))?;
        stage.set_watch(bridge, true)?;
        let mut post = Post::on(stage)?;
        let inside = Tap::at("br0")?;
        post.stage.set_master("nic", Some("br0"))?;
        // Until it is known to run it drops what is sent through it, behind the programs (`noop_qdisc`).
        post.stage.wait_for(|_| {
            let link = super::carry::said("ip", "link show br0")?;
            Ok(link.contains("qdisc noqueue") && link.contains("state UP"))
        })?;
        let (from, (near, far), direction) = if out {
            (&inside, (bridge, nic), Direction::Egress as u32)
        } else {
            (&post.wire, (nic, bridge), Direction::Ingress as u32)
        };
        let advert = ipv4(&[], 0, VRRP, &advert(2, 51, &[192, 0, 2, 10]));
        from.put(&ethernet(VRRP_GROUP, STATION, &[], IPV4, &advert))?;
        post.stage.counted(Counter::WatchedVrrp, 3)?;
        let mut seen: Vec<_> = post
            .reported()?
            .into_iter()
            .map(|(report, _)| (report.direction, report.ifindex == near, report.shunted))
            .filter(|seen| seen.0 == direction)
            .collect();
        seen.sort_unstable();
        let expected = [(direction, false, 0), (direction, false, 1), (direction, true, 0)];
        check(seen == expected, format!("out: {out}, from {near} to {far}: {seen:?}"))?;
        drop(monitor);
    }
    Ok(())
}

/// The watch sees a frame before the shunt takes it past the bridge, and IPv6 goes through the
/// shunt as IPv4 does: unicast, and the groups of neighbour discovery.
pub(crate) fn before_the_shunt() -> Result<(), Failed> {
    let shunt::Wires { mut stage, _monitor: monitor, nic, bridge } = shunt::lay(true)?;
    // First, so that the order they are in is not the one they came in.
    let laid = shunt::shunt(bridge, Trigger::Join);
    stage.set_shunt(nic, Some(laid))?;
    let mut post = Post::on(stage)?;
    let bridge = Tap::at("br0")?;
    post.stage.set_master("nic", Some("br0"))?;

    let unicast = ipv4(&[], 0, VRRP, &advert(2, 51, &[192, 0, 2, 10]));
    post.wire.put(&ethernet(bridge.mac, STATION, &[], IPV4, &unicast))?;
    check(bridge.hears(&unicast)?, "an advert for this node reaches the bridge")?;
    check(post.reported()?.len() == 1, "and is reported")?;

    let (group, group_mac) = solicited_node(VIP6);
    let question = discovery(SOLICITATION, 0, OTHER6, group, VIP6, &link_address(1, STATION));
    let answer = discovery(ADVERTISEMENT, 0x60, VIP6, OTHER6, VIP6, &link_address(2, bridge.mac));
    let segment = ipv6(TCP, 64, OTHER6, VIP6, b"a segment of twenty bytes and more");
    post.wire.put(&ethernet(group_mac, STATION, &[], IPV6, &question))?;
    check(bridge.hears(&question)?, "a solicitation reaches the bridge")?;
    post.wire.put(&ethernet(bridge.mac, STATION, &[], IPV6, &segment))?;
    check(bridge.hears(&segment)?, "and so does IPv6 for this node")?;
    bridge.put(&ethernet(STATION, bridge.mac, &[], IPV6, &answer))?;
    check(post.wire.hears(&answer)?, "the answer goes out")?;
    bridge.put(&ethernet(group_mac, bridge.mac, &[], IPV6, &question))?;
    check(post.wire.hears(&question)?, "and so does a question")?;
    let egress = |(report, _): &(FrameReport, Vec<u8>)| {
        report.direction == Direction::Egress as u32 && report.ifindex == nic
    };
    let reported = post.reported()?;
    check(reported.iter().any(egress), "the VIP that goes out past the bridge is seen")?;
    let is_told = |report: &(FrameReport, Vec<u8>)| egress(report) == (report.0.shunted == 1);
    check(
        reported.iter().all(is_told),
        "it is said that it went past the bridge, and of nothing else",
    )?;
    drop(monitor);
    Ok(())
}
