//! Answers to neighbours, on the running kernel: what is asked on a wire, and what comes back.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libtest_mimic::Failed;
use vipshield::{engine::Answers, net::Groups};
use vipshield_common::counters::Counter;

use super::{
    carry::said,
    check,
    frames::{
        ADVERTISEMENT, ARP, BROADCAST, IPV6, SOLICITATION, arp, discovery, ethernet, link_address,
        solicited_node, tag,
    },
    namespace::{PATIENCE, Stage, monotonic_ns},
    tap::Tap,
};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3411);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const STATION: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x64];
const SOMEBODY: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x77];
/// The nonce of a probe (RFC 7527).
const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];

/// A NIC without addresses that answers for some.
struct Post {
    stage: Stage,
    nic: u32,
    wire: Tap,
    mac: [u8; 6],
}

impl Post {
    fn new() -> Result<Self, Failed> {
        let mut stage = Stage::new()?;
        let nic = stage.index("nic")?;
        stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
        stage.set_watch(nic, true)?;
        let mac = Tap::at("nic")?.mac;
        let mut post = Self { stage, nic, wire: Tap::at("peer")?, mac };
        post.answer(&[NODE.into(), VIP.into(), NODE6.into()])?;
        Ok(post)
    }

    fn answer(&mut self, addresses: &[IpAddr]) -> Result<(), Failed> {
        let answers = Answers { addresses: addresses.iter().copied().collect(), mac: self.mac };
        Ok(self.stage.programs.set_answers(self.nic, &answers)?)
    }

    /// What comes back to a question: ARP or advertisements from the NIC.
    fn ask(&self, question: &[u8]) -> Result<Vec<Vec<u8>>, Failed> {
        self.wire.put(question)?;
        let mut answers = Vec::new();
        while let Some(frame) = self.wire.next()? {
            let is_answer = frame.get(12..14) == Some(&ARP)
                || (frame.get(12..14) == Some(&IPV6) && frame.get(54) == Some(&ADVERTISEMENT));
            if is_answer && frame.get(6..12) == Some(&self.mac) {
                answers.push(frame);
            }
        }
        Ok(answers)
    }
}

/// A request that is to be answered: who is told what.
pub(crate) fn requests() -> Result<(), Failed> {
    let mut post = Post::new()?;
    let request = |from, sender, target| arp(1, from, sender, [0; 6], target);
    let cases = [
        ("a request", BROADCAST, CLIENT, NODE),
        ("one to this station alone", post.mac, CLIENT, NODE),
        ("the VIP", BROADCAST, CLIENT, VIP),
        // RFC 5227, 2.1.1.
        ("a probe", BROADCAST, Ipv4Addr::UNSPECIFIED, NODE),
    ];
    for (what, to, sender, target) in cases {
        let asked = ethernet(to, STATION, &[], ARP, &request(STATION, sender, target));
        let answers = post.ask(&asked)?;
        let reply = arp(2, post.mac, target, STATION, sender);
        let expected = ethernet(STATION, post.mac, &[], ARP, &reply);
        check(answers == [expected.as_slice()], format!("{what}: {answers:02x?}"))?;
    }
    post.stage.counted(Counter::AnsweredArp, 4)?;

    // A tag that only tells a priority.
    let tags = [tag(0x8100, 0xe000)];
    let asked = ethernet(BROADCAST, STATION, &tags, ARP, &request(STATION, CLIENT, NODE));
    post.wire.put(&asked)?;
    let reply = arp(2, post.mac, NODE, STATION, CLIENT);
    check(post.wire.hears(&reply)?, "a priority is no VLAN")?;

    // A VIP that was given up is nobody's at once.
    post.answer(&[NODE.into()])?;
    let asked = ethernet(BROADCAST, STATION, &[], ARP, &request(STATION, CLIENT, VIP));
    check(post.ask(&asked)?.is_empty(), "it is not answered for any more")?;
    let asked = ethernet(BROADCAST, STATION, &[], ARP, &request(STATION, CLIENT, NODE));
    check(post.ask(&asked)?.len() == 1, "the other one still is")?;
    post.stage.programs.still()?;
    check(post.ask(&asked)?.is_empty(), "nothing is answered without a heartbeat")?;
    post.stage.programs.beat(monotonic_ns()? + u64::try_from(PATIENCE.as_nanos())?)?;
    check(post.ask(&asked)?.len() == 1, "and it is with one")?;
    post.answer(&[])?;
    check(post.ask(&asked)?.is_empty(), "nothing is answered at last")
}

/// What is no question about a carried address, or not a proper one, is not answered.
pub(crate) fn no_requests() -> Result<(), Failed> {
    let post = Post::new()?;
    let other = Ipv4Addr::new(192, 0, 2, 12);
    let frame =
        |to, from, tags: &[[u8; 4]], payload: Vec<u8>| ethernet(to, from, tags, ARP, &payload);
    let ask = |target| arp(1, STATION, CLIENT, [0; 6], target);
    let silent = [
        ("another address", frame(BROADCAST, STATION, &[], ask(other))),
        ("a reply", frame(post.mac, STATION, &[], arp(2, STATION, CLIENT, post.mac, NODE))),
    ];
    let refused = [
        ("one in a VLAN", frame(BROADCAST, STATION, &[tag(0x8100, 7)], ask(NODE))),
        ("one in two", frame(BROADCAST, STATION, &[tag(0x88a8, 7), tag(0x8100, 7)], ask(NODE))),
        ("one to another station", frame(SOMEBODY, STATION, &[], ask(NODE))),
        ("one for another station", frame(BROADCAST, SOMEBODY, &[], ask(NODE))),
        ("the node's own", frame(BROADCAST, post.mac, &[], arp(1, post.mac, CLIENT, [0; 6], NODE))),
        ("a claim", frame(BROADCAST, STATION, &[], arp(1, STATION, NODE, [0; 6], NODE))),
        (
            "one in the node's name",
            frame(BROADCAST, STATION, &[], arp(1, STATION, VIP, [0; 6], NODE)),
        ),
        (
            "one from a group",
            frame(
                BROADCAST,
                STATION,
                &[],
                arp(1, STATION, Ipv4Addr::new(224, 0, 0, 1), [0; 6], NODE),
            ),
        ),
    ];
    let count = refused.len() as u64;
    for (what, question) in silent.into_iter().chain(refused) {
        let answers = post.ask(&question)?;
        check(answers.is_empty(), format!("{what}: {answers:02x?}"))?;
    }
    post.stage.counted(Counter::AnswersRefused, count)?;
    post.stage.counted(Counter::AnsweredArp, 0)
}

fn forwarding(on: bool) -> Result<(), Failed> {
    Ok(fs::write("/proc/sys/net/ipv6/conf/nic/forwarding", if on { "1" } else { "0" })?)
}

/// What it is, from whom, to whom and which station, and its options.
type Asked<'a> = (&'a str, Ipv6Addr, Ipv6Addr, [u8; 6], &'a [u8]);

/// Solicitations are answered as RFC 4861, 7.2.4 has it.
pub(crate) fn solicitations() -> Result<(), Failed> {
    let mut post = Post::new()?;
    let (group, group_mac) = solicited_node(NODE6);
    let own = link_address(1, STATION);
    let any = Ipv6Addr::UNSPECIFIED;
    let with_nonce = [own.as_slice(), &NONCE].concat();
    let cases: [Asked<'_>; 6] = [
        ("to the group", CLIENT6, group, group_mac, &own),
        ("with another option", CLIENT6, group, group_mac, &with_nonce),
        ("to the node alone", CLIENT6, NODE6, post.mac, &own),
        ("to the node alone, without an option", CLIENT6, NODE6, post.mac, &[]),
        ("a probe", any, group, group_mac, &[]),
        ("a probe with a nonce", any, group, group_mac, &NONCE),
    ];
    for router in [false, true] {
        forwarding(router)?;
        post.answer(&[])?;
        post.answer(&[NODE6.into()])?;
        for (what, from, to, mac, options) in cases {
            let packet = discovery(SOLICITATION, 0, from, to, NODE6, options);
            let answers = post.ask(&ethernet(mac, STATION, &[], IPV6, &packet))?;
            let (back, back_mac, solicited) =
                if from == any { (ALL_NODES, ALL_NODES_MAC, 0) } else { (from, STATION, 0x40) };
            let flags = 0x20 | solicited | if router { 0x80 } else { 0 };
            let target = link_address(2, post.mac);
            let told = discovery(ADVERTISEMENT, flags, NODE6, back, NODE6, &target);
            let expected = ethernet(back_mac, post.mac, &[], IPV6, &told);
            check(answers == [expected.as_slice()], format!("{what}: {answers:02x?}"))?;
        }
    }
    post.stage.counted(Counter::AnsweredNd, 12)
}

/// What is no solicitation for a carried address, or not a proper one, is not answered.
pub(crate) fn no_solicitations() -> Result<(), Failed> {
    let post = Post::new()?;
    let (group, group_mac) = solicited_node(NODE6);
    let own = link_address(1, STATION);
    let any = Ipv6Addr::UNSPECIFIED;
    let ask = |from, to, options: &[u8]| discovery(SOLICITATION, 0, from, to, NODE6, options);
    let proper = ask(CLIENT6, group, &own);
    let altered = |at: usize, byte: u8| {
        let mut packet = proper.clone();
        packet.iter_mut().skip(at).take(1).for_each(|it| *it ^= byte);
        packet
    };
    let frame = |packet: &[u8]| ethernet(group_mac, STATION, &[], IPV6, packet);
    let longer = [own.as_slice(), &NONCE, &NONCE].concat();
    let refused = [
        ("a wrong checksum", frame(&altered(43, 1))),
        ("another source than said", frame(&ask(CLIENT6, group, &link_address(1, SOMEBODY)))),
        ("an option without a length", frame(&ask(CLIENT6, group, &[1, 0, 0, 0, 0, 0, 0, 0]))),
        ("three options", frame(&ask(CLIENT6, group, &longer))),
        ("bytes behind the packet", frame(&[proper.as_slice(), &[0; 8]].concat())),
        ("a probe with a source", frame(&ask(any, group, &own))),
        ("a probe to the node alone", frame(&ask(any, NODE6, &[]))),
        ("one to everybody", frame(&ask(CLIENT6, ALL_NODES, &own))),
        ("one in the node's name", frame(&ask(NODE6, group, &own))),
        ("one from a group", frame(&ask(ALL_NODES, group, &own))),
        ("one in a VLAN", ethernet(group_mac, STATION, &[tag(0x8100, 7)], IPV6, &proper)),
        ("one to another station", ethernet(SOMEBODY, STATION, &[], IPV6, &proper)),
        ("the node's own", ethernet(group_mac, post.mac, &[], IPV6, &proper)),
    ];
    for (what, question) in &refused {
        let before = post.stage.count(Counter::AnswersRefused)?;
        let answers = post.ask(question)?;
        check(answers.is_empty(), format!("{what}: {answers:02x?}"))?;
        check(
            post.stage.count(Counter::AnswersRefused)? == before + 1,
            format!("{what}: counted"),
        )?;
    }
    // From afar, or of another kind: no solicitation at all.
    for question in [frame(&altered(7, 1)), frame(&altered(40, 2)), frame(&altered(41, 1))] {
        let answers = post.ask(&question)?;
        check(answers.is_empty(), format!("{answers:02x?}"))?;
    }
    check(post.ask(&frame(&proper))?.len() == 1, "a proper one is answered")?;
    post.stage.counted(Counter::AnsweredNd, 1)
}

/// While neighbours are answered the NIC still lets through what they ask, though the kernel has
/// left the group with the address.
pub(crate) fn groups() -> Result<(), Failed> {
    let stage = Stage::new()?;
    let nic = stage.index("nic")?;
    let (_, group) = solicited_node(NODE6);
    let group = group.map(|byte| format!("{byte:02x}")).join(":");
    let is_member = || Ok::<_, Failed>(said("ip", "maddr show dev nic")?.contains(&group));
    stage.add_address("nic", &format!("{NODE6}/64"))?;
    // From a kernel worker, some time after it was added.
    stage.wait_for(|_| is_member())?;
    let mut groups = Groups::open()?;
    let addresses = BTreeSet::from([IpAddr::from(NODE6), NODE.into()]);
    for _ in 0..2 {
        groups.hold(nic, &addresses)?;
    }
    stage.delete_address("nic", &format!("{NODE6}/64"))?;
    check(is_member()?, "it is held")?;
    groups.hold(nic, &BTreeSet::from([NODE.into()]))?;
    check(!is_member()?, "and not for ever")?;
    groups.hold(nic, &addresses)?;
    check(is_member()?, "it is joined again")?;
    drop(groups);
    check(!is_member()?, "and left at the end")
}

/// A question that was answered goes its way as it came: the kernel, which has the addresses this
/// time, understands it, and says the same.
pub(crate) fn goes_on() -> Result<(), Failed> {
    let post = Post::new()?;
    post.stage.add_address("nic", &format!("{NODE}/24"))?;
    post.stage.add_address("nic", &format!("{NODE6}/64"))?;
    let (group, group_mac) = solicited_node(NODE6);
    let with_nonce = [link_address(1, STATION).as_slice(), &NONCE].concat();
    let solicitation = |options: &[u8]| {
        let packet = discovery(SOLICITATION, 0, CLIENT6, group, NODE6, options);
        ethernet(group_mac, STATION, &[], IPV6, &packet)
    };
    let request = arp(1, STATION, CLIENT, [0; 6], NODE);
    let questions = [
        ethernet(BROADCAST, STATION, &[], ARP, &request),
        solicitation(&link_address(1, STATION)),
        solicitation(&with_nonce),
    ];
    for question in questions {
        let answers = post.ask(&question)?;
        check(answers.len() == 2, format!("{} answers: {answers:02x?}", answers.len()))?;
        let distinct: BTreeSet<&[u8]> =
            answers.iter().filter_map(|answer| answer.get(..42)).collect();
        check(distinct.len() == 1, format!("they differ: {answers:02x?}"))?;
    }
    Ok(())
}
