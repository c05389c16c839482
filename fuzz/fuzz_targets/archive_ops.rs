#![no_main]

use backy_tests::fuzz::archive_ops;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| archive_ops::run(data));
