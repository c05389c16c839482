#![no_main]

use backy_tests::fuzz::legacy_archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| legacy_archive::run(data));
