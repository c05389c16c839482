#![no_main]

use backy_tests::fuzz::qcow2_roundtrip;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| qcow2_roundtrip::run(data));
