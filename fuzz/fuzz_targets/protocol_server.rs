#![no_main]

use backy_tests::fuzz::protocol_server;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| protocol_server::run(data));
