//! Feeds one target with the inputs of libFuzzer; `FUZZ_TARGET` says which.
#![no_main]

use std::sync::OnceLock;

use thalweg_fuzz::Target;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        TARGET.set(thalweg_fuzz::find_target(&name).expect("a target of that name")).expect("set once");
    },
    |bytes: &[u8]| TARGET.get().expect("set above").check(bytes)
);
