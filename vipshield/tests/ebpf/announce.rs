//! Announcements, as they are on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::Failed;
use vipshield::net::Announcer;

use super::{
    carry::ip,
    check,
    frames::{ARP, IPV6},
    namespace::Stage,
    tap::Tap,
};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10));
/// Where a frame has the hardware address that it says the VIP is at: of ARP the sender's, of neighbour
/// discovery the option's.
const SAID: [(IpAddr, usize); 2] = [(VIP, 22), (VIP6, 80)];

/// The interface gets another hardware address, and nobody tells.
pub(crate) fn of_this_moment() -> Result<(), Failed> {
    let stage = Stage::new()?;
    let announcer = Announcer::open()?;
    let (nic, wire) = (stage.index("nic")?, Tap::at("peer")?);
    for last in [1, 2] {
        let mac = [2, 0, 0, 0, 9, last];
        ip(&format!("link set nic address 02:00:00:00:09:{last:02x}"))?;
        for (address, place) in SAID {
            announcer.announce(nic, address)?;
            let is_said = |frame: &[u8]| {
                frame.get(6..12) == Some(&mac) && frame.get(place..place + 6) == Some(&mac)
            };
            let kind = if address.is_ipv4() { ARP } else { IPV6 };
            let mut found = false;
            while let Some(frame) = wire.next()? {
                found |= frame.get(12..14) == Some(&kind) && is_said(&frame);
            }
            check(found, format!("{address} is announced at {mac:x?}"))?;
        }
    }
    Ok(())
}
