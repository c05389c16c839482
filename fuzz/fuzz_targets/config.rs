#![no_main]

use backy_tests::fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| config::run(data));
