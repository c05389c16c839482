#![no_main]

use backy_tests::fuzz::source_answers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| source_answers::run(data));
