#![no_main]

use backy_tests::fuzz::digest_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| digest_file::run(data));
