//! What counts as verified: only what a scrub has read after it was written.

use super::*;

/// Blocks of the file of a revision that count as verified.
fn verified(world: &World, number: usize) -> Vec<u64> {
    let archive = world::open(&world.disk).expect("open");
    let ranges = archive.revisions()[number].verified.clone();
    ranges.iter().flat_map(|range| range.blocks.first.0..range.blocks.end().0).collect()
}

/// A block that a backup replaces is not verified until a scrub has read it: not if it differs, was emptied, or was
/// repaired. When its place was last read stays known.
#[test]
fn only_what_was_read_after_it_was_written_is_verified() {
    for (clones, update) in world::UPDATES {
        let first = [block(1), block(2), block(3), block(4), block(5)].concat();
        let mut world = World::with_backups(clones, std::slice::from_ref(&first));
        assert!(scrub(&world.disk).is_clean());
        assert_eq!(verified(&world, 0), [0, 1, 2, 3, 4]);
        let mut second = first;
        second[BLOCK..2 * BLOCK].copy_from_slice(&block(22));
        second[3 * BLOCK..4 * BLOCK].fill(0);
        second.extend(block(6));
        let source = MemorySource::new(&second);
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
        world.expected.insert(0, world::Expected { uuid: report.revision.uuid, bytes: second });
        assert_eq!(verified(&world, 0), [0, 2, 4], "{update:?}");
        let archive = world::open(&world.disk).expect("open");
        let status = backy_lib::status::status(&archive, &[], &world::clock()).expect("a status");
        assert!(status.last_scrub.is_some() && status.coverage.verified_share < 0.99);
        assert!(scrub(&world.disk).is_clean());
        assert_eq!(verified(&world, 0), [0, 1, 2, 3, 4, 5]);
    }
}

/// A block that a merge moves into a delta is not verified there before a scrub has read it.
#[test]
fn merged_blocks_are_not_yet_verified() {
    let mut world = three();
    assert!(scrub(&world.disk).is_clean());
    let before = verified(&world, 2);
    world.remove(&[1]);
    let after = verified(&world, 1);
    assert!(after.len() < before.len(), "{before:?} {after:?}");
    assert!(scrub(&world.disk).is_clean());
    assert_eq!(verified(&world, 1), before);
}

/// A scrub has written what it repaired and not read it back: the next one verifies it.
#[test]
fn the_next_scrub_verifies_repaired_blocks() {
    let state = [block(1), block(2), block(1)].concat();
    let world = World::with_backups(false, &[state]);
    world.disk.tamper(FileName::IMAGE, |image| image[7] ^= 1);
    let report = scrub(&world.disk);
    assert!(only(&report).repaired, "{report:?}");
    assert_eq!(verified(&world, 0), [1, 2]);
    assert!(scrub(&world.disk).findings.is_empty());
    assert_eq!(verified(&world, 0), [0, 1, 2]);
}

/// What the undoing of a backup has written back is not verified. The rest still is.
#[test]
fn blocks_written_back_are_not_yet_verified() {
    let first = [block(1), block(2), block(3)].concat();
    let world = World::with_backups(false, std::slice::from_ref(&first));
    assert!(scrub(&world.disk).is_clean());
    let mut second = first.clone();
    second[BLOCK..2 * BLOCK].copy_from_slice(&block(22));
    let options = backy_lib::BackupOptions {
        update: backy_lib::backup::ImageUpdate::InPlace,
        ..world::options()
    };
    let calls = {
        let trial = world.fork();
        trial.disk.set_fault(u64::MAX, Fault::Crash, 1);
        let source = MemorySource::new(&second);
        world::backup_with(&trial.disk, &source, &options).expect("a backup");
        trial.disk.calls()
    };
    let mut undone = 0;
    for at in 1..calls {
        let trial = world.fork();
        trial.disk.set_fault(at, Fault::Crash, 1);
        let source = MemorySource::new(&second);
        let _ = world::backup_with(&trial.disk, &source, &options);
        let mut after = trial.fork();
        after.disk = trial.disk.crash(Unsynced::Kept);
        let written = after.disk.files()[&FileName::IMAGE] != first;
        let archive = world::open(&after.disk).expect("open");
        drop(ArchiveWriter::open(archive, "a test", &Silent).expect("undo"));
        let left = verified(&after, 0);
        // All, as long as the overlay holds nothing. None where it could not be read.
        let right = [&[0, 2][..], &[0, 1, 2], &[]].contains(&left.as_slice());
        assert!(right && !(written && left.contains(&1)), "call {at}: {left:?}");
        undone += u64::from(written && left == [0, 2]);
    }
    assert!(undone > 0, "nothing was written back: this proves nothing");
}
