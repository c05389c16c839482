#![no_main]

use backy_tests::fuzz::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| manifest::run(data));
