//! Merging revisions of different sizes: a backing file that is shorter than its overlay reads as zeros past its end, so what
//! it hid has to be stored when it goes.

use backy_tests::qemu;
use backy_tests::world::{self, BLOCK_SIZE, World};

/// So many bytes, of which every second block from `first` on is zero.
fn state(seed: u8, size_bytes: usize, first: usize) -> Vec<u8> {
    let mut state = vec![seed; size_bytes];
    for block in state.chunks_mut(BLOCK_SIZE.len()).skip(first).step_by(2) {
        block.fill(0);
    }
    state
}

/// Any revisions between the newest and the oldest may go, whatever their sizes, and whether one of them is standalone: what stays
/// reads right, by QEMU as well, and the deltas are clean.
#[test]
fn any_sizes() {
    let sizes = [3 * 4096, 4 * 4096 - 3, 6 * 4096, 7 * 4096 + 512];
    let folder = qemu::available().then(|| tempfile::tempdir().expect("a temporary folder"));
    for oldest in sizes {
        for second in sizes {
            for third in sizes {
                let states = [
                    state(1, oldest, 1),
                    state(2, second, 0),
                    state(3, third, 1),
                    state(4, 7 * 4096 + 512, 9),
                ];
                for standalone in [false, true] {
                    let world = World::with_backups(false, &states);
                    if standalone {
                        world::configure(&world.disk, "max_chain = 2");
                        world::maintain(&world.disk, None).expect("maintenance");
                    }
                    for numbers in [&[1][..], &[2], &[1, 2]] {
                        let place = format!("{oldest} {second} {third} {standalone} {numbers:?}");
                        let mut merged = world.fork();
                        merged.remove(numbers);
                        merged
                            .check_committed(None)
                            .and_then(|_| merged.check_tidy())
                            .unwrap_or_else(|error| panic!("{place}: {error}"));
                        if let Some(folder) = &folder
                            && oldest > second.min(third)
                        {
                            qemu::write_out(&merged.disk, folder.path());
                            qemu::check(folder.path(), &merged.expected, 0, true)
                                .unwrap_or_else(|error| panic!("{place}: {error}"));
                        }
                    }
                }
            }
        }
    }
}
