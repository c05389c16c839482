//! Damaged digest tables, also together with damaged images: what can be proved stays, the rest is lost and marked,
//! and backups continue.

use backy_lib::progress::Silent;
use backy_lib::storage::sim::Random;
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_lib::{ErrorKind, ScrubOptions, archive::ArchiveWriter};
use backy_tests::damage::{Damaged, Verb};
use backy_tests::world::{self, World, changed_state, random_state};

const BLOCK: usize = 4096;

/// Three revisions of nine blocks, the last of them short, and the states that they are of, oldest first.
fn three() -> (World, Vec<Vec<u8>>) {
    let mut random = Random(21);
    let mut states = vec![random_state(&mut random, 9 * BLOCK - 100)];
    for _ in 0..2 {
        let last = states[states.len() - 1].clone();
        states.push(changed_state(&mut random, &last, last.len()));
    }
    (World::with_backups(false, &states), states)
}

fn table(world: &World) -> FileName {
    FileName::Digests(world.expected[0].uuid, DigestsKind::Image)
}

fn spoil_entry(world: &World, block: usize, with: u8) {
    world.disk.tamper(table(world), |bytes| bytes[4096 + 32 * block..][..32].fill(with));
}

/// Changes every byte of a block where it is not zero.
fn spoil_block(world: &World, block: usize) {
    world.disk.tamper(FileName::IMAGE, |image| image[block * BLOCK + 5] ^= 0x40);
}

/// A backup onto wrong digests repairs them, says so, and leaves the image alone. The next backup makes a revision.
fn backup(place: &str, damaged: &mut Damaged, in_place: bool, next: &[u8]) {
    let image = damaged.world.disk.files().remove(&FileName::IMAGE);
    let error = damaged.apply(Verb::Backup(in_place), next).expect_err(place);
    assert_eq!(error.kind(), ErrorKind::Damaged, "{place}: {error}");
    assert!(damaged.world.disk.files().remove(&FileName::IMAGE) == image, "{place}: the image");
    damaged.check(place);
    damaged.apply(Verb::Backup(in_place), next).unwrap_or_else(|e| panic!("{place}: {e}"));
}

fn is_zero(state: &[u8], block: usize) -> bool {
    state[block * BLOCK..].iter().take(BLOCK).all(|&byte| byte == 0)
}

/// One entry of the newest digests is wrong, whatever it is, or all of them: the next backup repairs that before it
/// writes anything, in place and on a clone, and no byte is lost.
#[test]
fn a_damaged_digest_table_is_repaired_before_the_next_backup() {
    let (world, states) = three();
    let blocks = states[2].len().div_ceil(BLOCK);
    let next = changed_state(&mut Random(1), &states[2], 12 * BLOCK);
    for with in [0, 0x5a, 0xff] {
        // Zeros do not damage an entry that is zero anyway.
        let is_damaged =
            |block: &usize| with != 0 || *block == blocks || !is_zero(&states[2], *block);
        for block in (0..=blocks).filter(is_damaged) {
            for in_place in [true, false] {
                let mut damaged = Damaged::new(world.fork());
                for spoilt in if block < blocks { block..block + 1 } else { 0..blocks } {
                    spoil_entry(&damaged.world, spoilt, with);
                }
                let place = format!("entry {block} filled with {with:#x}, in place {in_place}");
                backup(&place, &mut damaged, in_place, &next);
                damaged.world.check_committed(None).expect(&place);
                damaged.world.check_tidy().expect(&place);
            }
        }
    }
}

/// A rotten block and a wrong entry of another block: the digest of the revision proves which is which. The source
/// still has the rotten block, so the backup heals it.
#[test]
fn a_rotten_block_and_a_wrong_entry_of_another_are_told_apart() {
    let (world, states) = three();
    let blocks = states[2].len() / BLOCK;
    for rotten in (0..blocks).filter(|&block| !is_zero(&states[2], block)) {
        for wrong in (0..blocks).filter(|&block| block != rotten) {
            let mut damaged = Damaged::new(world.fork());
            spoil_block(&damaged.world, rotten);
            spoil_entry(&damaged.world, wrong, 0x33);
            let place = format!("block {rotten}, entry {wrong}");
            backup(&place, &mut damaged, true, &states[2]);
            damaged.world.check_committed(None).expect(&place);
        }
    }
}

/// Several extents of rot and of wrong entries are distinguished as well.
#[test]
fn stretches_of_rot_and_of_wrong_entries_are_told_apart() {
    let state: Vec<u8> = (0..40 * BLOCK).map(|at| (at / BLOCK + at % 251 + 1) as u8).collect();
    let world = World::with_backups(false, std::slice::from_ref(&state));
    let mut damaged = Damaged::new(world.fork());
    [3, 4, 5, 20, 21, 22].into_iter().for_each(|block| spoil_block(&damaged.world, block));
    [9, 10, 11, 12, 13, 30, 31].into_iter().for_each(|block| spoil_entry(&damaged.world, block, 7));
    backup("stretches", &mut damaged, true, &state);
    damaged.world.check_committed(None).expect("all is right");
}

/// An entry and the content of its block are both wrong: the block is lost to the revision and the one behind it that
/// reads it. It is marked, and no reader gets it. Everything near it that is not zero stays readable, and the next
/// revision is right.
#[test]
fn a_block_without_content_and_digest_is_lost_and_nothing_else() {
    let mut random = Random(4);
    let first: Vec<u8> = (0..9 * BLOCK).map(|_| random.number() as u8 | 1).collect();
    let mut second = first.clone();
    second[..2 * BLOCK].fill(0x77);
    let world = World::with_backups(false, &[first, second.clone()]);
    for lost in 2..9 {
        for with in [0, 0x5a] {
            for changes in [false, true] {
                let place = format!("block {lost}, entry filled with {with}, changes {changes}");
                let mut damaged = Damaged::new(world.fork());
                spoil_block(&damaged.world, lost);
                spoil_entry(&damaged.world, lost, with);
                let mut next = second.clone();
                if changes {
                    next[4 * BLOCK..].fill(0x11);
                }
                backup(&place, &mut damaged, true, &next);
                assert!(damaged.check(&place) == 1, "{place}: only the newest is whole");
                for number in [1, 2] {
                    let report = damaged.salvage(&place, number);
                    assert!(report.digests_checked, "{place}: revision {number}");
                    let found: Vec<_> =
                        report.unreadable.iter().map(|e| (e.offset, e.len)).collect();
                    assert_eq!(found, [((lost * BLOCK) as u64, BLOCK as u64)], "{place}");
                }
                let archive = world::open(&damaged.world.disk).expect("open");
                assert_eq!(archive.revisions()[1].findings.bad_block_count(), 1, "{place}");
                // The next backups work, whatever is deleted.
                damaged.apply(Verb::Scrub, &next).expect(&place);
                damaged.apply(Verb::Backup(false), &second).expect(&place);
                damaged.apply(Verb::Remove(2), &second).expect(&place);
                assert_eq!(damaged.check(&place), 2, "{place}");
                damaged.apply(Verb::Remove(2), &second).expect(&place);
                assert_eq!(damaged.check(&place), 2, "{place}: all are whole");
            }
        }
    }
}

/// What has become zero in the digests and in the image does not read as zeros, before or after a backup or a scrub.
#[test]
fn zeros_that_nothing_proves_are_lost() {
    let (world, states) = three();
    let blocks = states[2].len() / BLOCK;
    for lost in (0..blocks).filter(|&block| !is_zero(&states[2], block)) {
        for verb in [Verb::Backup(true), Verb::Scrub] {
            let place = format!("block {lost}, {verb:?}");
            let mut damaged = Damaged::new(world.fork());
            spoil_entry(&damaged.world, lost, 0);
            damaged.world.disk.tamper(FileName::IMAGE, |image| {
                image[lost * BLOCK..][..BLOCK].fill(0);
            });
            damaged.check(&place);
            assert_eq!(damaged.apply(verb, &states[1]).is_ok(), verb == Verb::Scrub, "{place}");
            damaged.check(&place);
            damaged.apply(Verb::Backup(false), &states[0]).expect(&place);
            assert!(damaged.check(&place) > 0, "{place}: the newest reads right");
        }
    }
}

/// A missing image is not the end: a scrub makes one without data, and the next backup has what the source still has.
#[test]
fn scrub_recreates_a_missing_image() {
    let (world, states) = three();
    let mut damaged = Damaged::new(world.fork());
    Storage::remove(&damaged.world.disk, FileName::IMAGE).expect("remove");
    let error = damaged.apply(Verb::Backup(true), &states[2]).expect_err("there is no image");
    assert!(error.to_string().contains("last.raw: damaged: file: found none"), "{error}");
    let archive = world::open(&damaged.world.disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    let report = writer.scrub(&options, &world::clock(), &Silent).expect("a scrub");
    assert!(!report.is_clean());
    drop(writer);
    damaged.apply(Verb::Backup(true), &states[2]).expect("a backup");
    damaged.world.check_committed(None).expect("the source had all of it");
}
