//! Any frame, captured in whole or in part.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vipshield_engine::wire::decode;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes, bytes.len());
    let part = decode(bytes, bytes.len() + 1);
    assert!(whole == part || whole.is_err(), "{whole:?} {part:?}");
});
