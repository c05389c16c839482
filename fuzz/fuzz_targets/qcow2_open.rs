#![no_main]

use backy_tests::fuzz::qcow2_open;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|data: &[u8]| qcow2_open::run(data));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match qcow2_open::interesting_part(&data[..size], seed) {
        Some(part) => {
            let bytes = part.len();
            fuzzer_mutate(&mut data[part], bytes, bytes);
            size
        }
        None => fuzzer_mutate(data, size, max_size),
    }
});
