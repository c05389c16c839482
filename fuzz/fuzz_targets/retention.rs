#![no_main]

use backy_tests::fuzz::retention;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| retention::run(data));
