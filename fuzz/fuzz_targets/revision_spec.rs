#![no_main]

use backy_tests::fuzz::revision_spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| revision_spec::run(data));
