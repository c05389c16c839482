//! Backups of sources that know what has changed, or that do not know what their right content is.

use std::sync::Mutex;

use backy_lib::archive::ArchiveWriter;
use backy_lib::extent::Extent;
use backy_lib::format::manifest::SourceIdentity;
use backy_lib::progress::Silent;
use backy_lib::source::Source;
use backy_lib::storage::sim::Random;
use backy_lib::{ErrorKind, Result};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, Expected, UPDATES, World, changed_state, random_state};

const BLOCK: usize = 4096;

/// Extents outside of which two states are equal. Some are longer than necessary.
fn differences(old: &[u8], new: &[u8], random: &mut Random) -> Vec<Extent> {
    let mut found: Vec<Extent> = Vec::new();
    for at in (0..new.len()).filter(|&at| old.get(at) != new.get(at)) {
        match found.last_mut() {
            Some(last) if (at as u64) < last.end() + 100 => {
                *last = Extent::between(last.offset, last.end().max(at as u64 + 1));
            }
            _ => found.push(Extent::new(at as u64, 1 + random.below(50))),
        }
    }
    found
}

/// A backup of a source that knows its changes makes the same revision as one that reads everything, for any changes
/// and sizes. It reads no block that no change touches.
#[test]
fn only_what_may_have_changed_is_read() {
    for seed in 0..150 {
        let (clones, update) = UPDATES[seed as usize % 2];
        let mut random = Random(seed);
        let sizes: Vec<usize> =
            (0..2).map(|_| 1 + random.below(12 * BLOCK as u64) as usize).collect();
        let first = random_state(&mut random, sizes[0]);
        let second_bytes = if seed % 3 == 0 { sizes[1] } else { sizes[0] };
        let mut second = changed_state(&mut random, &first, second_bytes);
        if seed % 5 == 0 {
            second = first.clone();
        }
        let changed = differences(&first, &second, &mut random);
        let mut world = World::with_backups(clones, std::slice::from_ref(&first));
        let full = world.fork();
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let source = MemorySource::new(&second).changed_at(&changed);
        let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
        let expected = world::backup_with(&full.disk, &MemorySource::new(&second), &options);
        let expected = expected.expect("a backup that reads everything").revision;
        assert_eq!(report.revision.digest, expected.digest, "seed {seed}");
        assert_eq!(report.revision.statistics.changed_bytes, expected.statistics.changed_bytes);
        world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: second.clone() });
        world.check_committed(None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        world.check_tidy().unwrap_or_else(|error| panic!("seed {seed}: {error}"));

        let same_end = match first.len() == second.len() {
            true => second.len(),
            false => first.len().min(second.len()) / BLOCK * BLOCK,
        };
        for read in source.read_extents() {
            for block in read.offset as usize / BLOCK..(read.end() as usize).div_ceil(BLOCK) {
                let (start, end) = ((block * BLOCK) as u64, ((block + 1) * BLOCK) as u64);
                let touched = changed.iter().any(|c| c.offset < end && start < c.end());
                assert!(touched || end as usize > same_end, "seed {seed}: block {block} was read");
            }
        }
    }
}

/// Where a source has a hole, the revision is zero, and what was there moves to the delta, even if the source says that
/// nothing has changed: QEMU's bitmaps miss what is lost when a disk shrinks and grows again.
#[test]
fn a_hole_is_a_change_whatever_the_source_says() {
    for seed in 0..100 {
        let (clones, update) = UPDATES[seed as usize % 2];
        let mut random = Random(seed);
        let size = 1 + random.below(14 * BLOCK as u64) as usize;
        let first = random_state(&mut random, size);
        let mut second = first.clone();
        let cut = random.below(size as u64) as usize;
        let grown = cut + random.below((size - cut) as u64 + 1) as usize;
        second[cut..grown].fill(0);
        let changed: Vec<Extent> = match seed % 3 {
            0 => vec![Extent::new(random.below(size as u64), 1)],
            _ => Vec::new(),
        };
        let mut expected = first.clone();
        for (number, block) in second.chunks(BLOCK).enumerate() {
            let start = number * BLOCK;
            let touches = |extent: &Extent| extent.offset as usize / BLOCK == number;
            if block.iter().all(|&byte| byte == 0) || changed.iter().any(touches) {
                expected[start..start + block.len()].copy_from_slice(block);
            }
        }
        let mut world = World::with_backups(clones, std::slice::from_ref(&first));
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let source = MemorySource::new(&second).changed_at(&changed);
        let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
        world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: expected });
        world.assert_tidy(format_args!("seed {seed}"));
    }
}

/// A source that reports a change only when it is asked again gets a right revision: with the change or without it, and
/// written in place where the image was not cloned because nothing seemed to have changed.
#[test]
fn a_change_that_is_reported_late_is_written_in_place() {
    for (clones, update) in UPDATES {
        let mut random = Random(5);
        let first = random_state(&mut random, 9 * BLOCK + 12);
        let mut second = first.clone();
        second[9 * BLOCK..].fill(0x5a);
        let changed = [Extent::new(9 * BLOCK as u64, 12)];
        let before = World::with_backups(clones, std::slice::from_ref(&first));
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let (mut late, mut calls) = (0, 1);
        for silent in 0.. {
            if silent > calls {
                break;
            }
            let mut world = before.fork();
            let source = MemorySource::new(&second).changed_at(&changed).silent_for(silent);
            let made = world::backup_with(&world.disk, &source, &options).expect("a backup");
            calls = source.calls();
            let is_there = made.revision.statistics.changed_bytes > 0;
            assert!(is_there || silent > 0, "clones {clones}");
            late += u32::from(is_there && silent > 0 && !made.cloned);
            let bytes = if is_there { second.clone() } else { first.clone() };
            world.expected.insert(0, Expected { uuid: made.revision.uuid, bytes });
            world.assert_tidy(format_args!("clones {clones}, silent for {silent}"));
        }
        assert!(late > 0, "clones {clones}: it never came late");
    }
}

/// Without a revision before it, everything counts as changed.
#[test]
fn the_first_backup_reads_everything() {
    let state = random_state(&mut Random(1), 5 * BLOCK + 7);
    let disk = backy_lib::storage::sim::SimStorage::new(false);
    world::init(&disk).expect("init");
    let source = MemorySource::new(&state).changed_at(&[]);
    let uuid = world::backup(&disk, &source).expect("a backup").revision.uuid;
    let mut world = World { disk, expected: vec![Expected { uuid, bytes: state }] };
    world.check_committed(None).expect("the only revision");
}

/// A block whose right content the source does not know is stored as it is found and marked. No reader gets it, it
/// stays with the revisions that lost it, and it is right again as soon as a source knows it. All other blocks stay
/// right.
#[test]
fn a_lost_block_is_marked_and_never_given_out() {
    for (clones, update) in UPDATES {
        for knows_changes in [false, true] {
            let options = backy_lib::BackupOptions { update, ..world::options() };
            let mut random = Random(7);
            let good = random_state(&mut random, 6 * BLOCK - 9);
            let mut torn = good.clone();
            torn[2 * BLOCK..3 * BLOCK].fill(b'?');
            torn[5 * BLOCK..].fill(0);
            let lost = [
                Extent::new(2 * BLOCK as u64 + 100, 50),
                Extent::between(5 * BLOCK as u64, good.len() as u64),
            ];
            let mut world = World::with_backups(clones, std::slice::from_ref(&good));
            let mut later = torn.clone();
            later[0] ^= 1;
            for (state, changed) in [(&torn, 2 * BLOCK..good.len()), (&later, 0..1)] {
                let changed = [Extent::between(changed.start as u64, changed.end as u64)];
                let source = MemorySource::new(state).lost_at(&lost);
                let source = if knows_changes { source.changed_at(&changed) } else { source };
                let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
                assert_eq!(report.bad_blocks, 0, "known damage is no news");
                let bad = &report.revision.findings;
                assert_eq!(bad.bad_block_count(), 2);
                assert!([2, 5].iter().all(|n| bad.is_bad(backy_lib::units::BlockIndex(*n))));
                world
                    .expected
                    .insert(0, Expected { uuid: report.revision.uuid, bytes: state.clone() });
            }
            assert_eq!(world.disk.files()[&backy_lib::storage::FileName::IMAGE], later);
            check_lost(&world, &[true, true, false], &[2, 0, 0]);

            // A lost block is read whatever the source says of changes.
            let source = MemorySource::new(&good).changed_at(&[Extent::new(0, 1)]);
            let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
            assert_eq!(report.revision.findings.bad_block_count(), 0);
            world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: good.clone() });
            check_lost(&world, &[false, true, true, false], &[0, 2, 0, 0]);
            assert!(world::read_revision(&world::open(&world.disk).unwrap(), 0).unwrap() == good);
        }
    }
}

/// Which revisions have a lost block, newest first, and how many bad blocks the file of each one holds.
fn check_lost(world: &World, lost: &[bool], own: &[u64]) {
    let archive = world::open(&world.disk).expect("open");
    for (number, expected) in world.expected.iter().enumerate() {
        let found = archive.revisions()[number].findings.bad_block_count();
        assert_eq!(found, own[number], "revision {number}");
        match world::read_revision(&archive, number) {
            Ok(bytes) => assert!(!lost[number] && bytes == expected.bytes, "revision {number}"),
            Err(error) => {
                assert!(lost[number], "revision {number}: {error}");
                assert_eq!(error.kind(), ErrorKind::Damaged);
                let said = error.to_string();
                assert!(said.contains("block 2 (bytes 8192-12287"), "{said}");
            }
        }
    }
}

/// A backup onto an archive with a lost block may be interrupted and undone: the block stays lost, and is counted once.
#[test]
fn undoing_a_backup_keeps_a_lost_block_lost() {
    let mut random = Random(3);
    let state = random_state(&mut random, 4 * BLOCK);
    let next = random_state(&mut random, 4 * BLOCK);
    for fail_at in 1..=4 {
        let disk = backy_lib::storage::sim::SimStorage::new(false);
        world::init(&disk).expect("init");
        let lost = [Extent::new(BLOCK as u64, 1)];
        let source = MemorySource::new(&state).lost_at(&lost);
        world::backup(&disk, &source).expect("a backup");
        let source = MemorySource::new(&next).failing_from(fail_at);
        let _ = world::backup(&disk, &source);
        let source = MemorySource::new(&next).resized_later(BLOCK as u64 * 9);
        world::backup(&disk, &source).expect_err("a backup of a source that changes its size");
        let archive = world::open(&disk).expect("open");
        let oldest = archive.revisions().last().expect("a revision");
        assert_eq!(oldest.findings.bad_block_count(), 1);
        let number = archive.revisions().len() - 1;
        world::read_revision(&archive, number).expect_err("a revision with a lost block");
    }
}

/// A source that differs each time it is read, in content, holes and all but its size. It keeps what it has returned.
struct Moving {
    states: Vec<Vec<u8>>,
    looks: Mutex<Random>,
    given: Mutex<Vec<u8>>,
}

impl Moving {
    fn new(seed: u64, states: &[Vec<u8>]) -> Self {
        let given = vec![0; states[0].len()];
        let looks = Mutex::new(Random(seed));
        Moving { states: states.to_vec(), looks, given: Mutex::new(given) }
    }

    /// The state that it has at this moment.
    fn state(&self) -> &[u8] {
        let mut random = self.looks.lock().expect("nobody panicked");
        &self.states[random.below(self.states.len() as u64) as usize]
    }
}

impl Source for Moving {
    fn identity(&self) -> SourceIdentity {
        MemorySource::default().identity()
    }

    fn size_bytes(&self) -> u64 {
        self.states[0].len() as u64
    }

    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut given = self.given.lock().expect("nobody panicked");
        // A read may be torn, too.
        for (piece, at) in buffer.chunks_mut(700).zip((offset as usize..).step_by(700)) {
            piece.copy_from_slice(&self.state()[at..at + piece.len()]);
            given[at..at + piece.len()].copy_from_slice(piece);
        }
        Ok(buffer.len())
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        MemorySource::new(self.state()).next_data(offset)
    }
}

/// The revision of a source that changes during the backup holds what was read, and zeros where a hole was found. It
/// is consistent with its digests, and so are the revisions before and after it.
#[test]
fn revision_of_a_changing_source_is_what_was_read() {
    for seed in 0..200 {
        let (clones, update) = UPDATES[seed as usize % 2];
        let mut random = Random(seed);
        let size = 1 + random.below(14 * BLOCK as u64) as usize;
        let mut states = vec![random_state(&mut random, size)];
        for _ in 0..3 {
            let last = states[states.len() - 1].clone();
            states.push(changed_state(&mut random, &last, size));
        }
        let mut world = World::with_backups(clones, &states[..2]);
        let source = Moving::new(seed, &states);
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let archive = world::open(&world.disk).expect("open");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let report = writer.backup(&source, &options, &world::clock(), &Silent);
        drop(writer);
        let uuid = report.expect("a backup").expect("a forced one").revision.uuid;
        let bytes = source.given.into_inner().expect("nobody panicked");
        world.expected.insert(0, Expected { uuid, bytes });
        world.assert_tidy(format_args!("seed {seed}"));
        world.backup(&states[3]);
        world.assert_tidy(format_args!("seed {seed}: the next backup"));
    }
}
