#![no_main]

use backy_tests::fuzz::nbd_server_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| nbd_server_bytes::run(data));
