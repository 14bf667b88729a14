//! Any ICMPv6 message, with its checksum put right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vipshield_engine::wire::{Content, decode};
use vipshield_fuzz::{ipv6, right};

fuzz_target!(|message: &[u8]| {
    let frame = ipv6(58, &right(message, 2, Some(58)));
    if let Ok(read) = decode(&frame, frame.len())
        && let Content::Neighbour(said) = read.content
    {
        assert_eq!(said.target.octets(), message[8..24]);
        assert!(said.mac.is_none_or(|mac| mac.is_host()));
    }
});
