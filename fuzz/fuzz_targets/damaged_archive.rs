#![no_main]

use backy_tests::fuzz::damaged_archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| damaged_archive::run(data));
