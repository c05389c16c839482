#![no_main]

use backy_tests::fuzz::partitions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| partitions::run(data));
