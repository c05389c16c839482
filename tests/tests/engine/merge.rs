//! Merging revisions of different sizes: a backing file that is shorter than its overlay reads as zeros past its end,
//! so a merge has to store what it hid. And merging into deltas whose tables are damaged.

use backy_lib::ScrubOptions;
use backy_lib::format::qcow2::Layout;
use backy_lib::progress::Silent;
use backy_lib::storage::FileName;
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

/// Any revisions between the newest and the oldest may be deleted, whatever their sizes, and whether or not one of
/// them is standalone: what stays reads right, by QEMU as well, and the deltas are clean.
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
                        merged.assert_tidy(&place);
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

/// Three revisions, each block of which differs from the next.
fn three() -> (World, FileName, Layout) {
    let states = [1, 2, 3].map(|seed| state(seed, 6 * 4096, 9));
    let world = World::with_backups(false, &states);
    let oldest = FileName::Delta(world.expected[2].uuid);
    (world, oldest, Layout::new(BLOCK_SIZE, 6 * 4096))
}

/// Writes a number into a file behind everybody's back. Returns what was there.
fn set(world: &World, name: FileName, offset: u64, value: u64) -> u64 {
    let mut before = [0; 8];
    world.disk.tamper(name, |file| {
        let place = &mut file[offset as usize..][..8];
        before.copy_from_slice(place);
        place.copy_from_slice(&value.to_be_bytes());
    });
    u64::from_be_bytes(before)
}

/// A merge does not follow a reference count table that leads elsewhere, for example into the data: it overwrites
/// nothing, and the counts are right afterwards.
#[test]
fn wrong_reference_counts_do_no_harm() {
    let (world, oldest, layout) = three();
    let file_bytes = world.disk.files()[&oldest].len() as u64;
    let inside = (0..file_bytes + 8192).step_by(4096);
    for value in inside.chain([layout.data_offset + 512, 1 << 40, 1 << 60, u64::MAX]) {
        let mut merged = world.fork();
        set(&merged, oldest, layout.refcount_table_offset, value);
        merged.remove(&[1]);
        merged.check_committed(None).unwrap_or_else(|error| panic!("{value:#x}: {error}"));
        let archive = world::open(&merged.disk).expect("open");
        let report = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
        assert_eq!(report.expect("a check").findings, [], "{value:#x}");
    }
}

/// A merge does not write to a delta whose header or L1 table says that its tables are somewhere else. Once that is
/// corrected, everything is there.
#[test]
fn merge_does_not_write_to_deltas_of_other_layout() {
    let (world, oldest, layout) = three();
    let copied = 1 << 63;
    for (offset, value) in [
        (40, layout.l2_offset),
        (48, layout.data_offset),
        (layout.l1_offset, copied | layout.data_offset),
        (layout.l1_offset, copied | layout.refcount_table_offset),
        (layout.l1_offset, 0),
    ] {
        let place = format!("{value:#x} at {offset:#x}");
        let mut damaged = world.fork();
        let before = set(&damaged, oldest, offset, value);
        world::remove(&damaged.disk, &[1]).expect_err(&place);
        set(&damaged, oldest, offset, before);
        damaged.check_committed(None).unwrap_or_else(|error| panic!("{place}: {error}"));
        damaged.remove(&[1]);
        damaged.check_committed(None).unwrap_or_else(|error| panic!("{place}, then: {error}"));
    }
}
