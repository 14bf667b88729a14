//! Any VRRP message over IPv4 and IPv6, with its checksum put right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vipshield_engine::wire::{Content, decode};
use vipshield_fuzz::{ipv4, ipv6, right};

fuzz_target!(|message: &[u8]| {
    for frame in [
        ipv4(112, message),
        ipv4(112, &right(message, 6, None)),
        ipv6(112, &right(message, 6, Some(112))),
    ] {
        if let Ok(read) = decode(&frame, frame.len()) {
            let Content::Advert(advert) = read.content else { panic!("{read:?}") };
            assert_eq!(usize::from(message[3]), advert.addresses.len());
            assert_eq!((message[1], message[2]), (advert.router_id, advert.priority));
            assert!(!advert.interval.is_zero() && advert.router_id != 0);
        }
    }
});
