//! One connection's bytes through framing and parsing. The properties are those of the protocol's own test
//! (`cargo test -p fastpersist-protocol --test fuzz`), which runs them without libFuzzer.
//!
//! `cargo +nightly fuzz run lines -- -dict=fuzz/lines.dict -max_len=4096 -runs=10000000`

#![no_main]

#[path = "../../protocol/tests/fuzz/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(found) = properties::check(bytes) {
        panic!("{found}");
    }
});
