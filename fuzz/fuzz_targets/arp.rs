//! Any ARP packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vipshield_engine::wire::{Content, decode};
use vipshield_fuzz::ethernet;

fuzz_target!(|packet: &[u8]| {
    let frame = ethernet(0x0806, packet);
    if let Ok(read) = decode(&frame, frame.len()) {
        let Content::Arp(arp) = read.content else { panic!("{read:?}") };
        assert_eq!(arp.sender_mac.0, packet[8..14]);
        assert_eq!(arp.sender.octets(), packet[14..18]);
    }
});
