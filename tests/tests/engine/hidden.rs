//! Archives on file systems that report neither holes nor sizes on disk, as CephFS and NFS do: the digest tables know
//! where the zeros are.

use backy_lib::archive::ArchiveWriter;
use backy_lib::maintenance::MaintenanceReport;
use backy_lib::progress::Silent;
use backy_lib::scrub::{Budget, ScrubOptions, ScrubReport};
use backy_lib::storage::sim::Random;
use backy_lib::storage::{Access, FileName, Storage};
use backy_lib::{BackupOptions, ImageUpdate};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, Expected, World, noise};

const BLOCK: usize = 4096;
/// Blocks of the images here, nearly all of them zero.
const BLOCKS: usize = 700;

/// An image in which these blocks hold noise.
fn sparse(seed: u64, data: &[usize]) -> Vec<u8> {
    let mut state = vec![0; BLOCKS * BLOCK - 100];
    for &block in data {
        let end = ((block + 1) * BLOCK).min(state.len());
        let len = end - block * BLOCK;
        state[block * BLOCK..end].copy_from_slice(&noise(seed + block as u64, len));
    }
    state
}

/// An archive with these states, on a disk that hides its holes or on one that does not.
fn archive(hides_holes: bool, clones: bool, states: &[Vec<u8>]) -> World {
    let mut world = World::with_backups(clones, &[]);
    if hides_holes {
        world.disk.hide_holes();
    }
    states.iter().for_each(|state| world.backup(state));
    world
}

/// Three states: block 200 changes, block 500 gets data, block 350 loses it.
fn states() -> Vec<Vec<u8>> {
    let mut states = vec![sparse(1, &[3, 200, 350, BLOCKS - 1])];
    let last = states[0].clone();
    states.push(last);
    states[1][200 * BLOCK..201 * BLOCK].copy_from_slice(&noise(50, BLOCK));
    let mut last = states[1].clone();
    last[500 * BLOCK..501 * BLOCK].copy_from_slice(&noise(51, BLOCK));
    last[350 * BLOCK..351 * BLOCK].fill(0);
    states.push(last);
    states
}

fn scrub_with(world: &World, budget: Option<Budget>) -> ScrubReport {
    let options = ScrubOptions { threads: Some(1), budget, ..ScrubOptions::default() };
    let archive = world::open(&world.disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    writer.scrub(&options, &world::clock(), &Silent).expect("a scrub that ends")
}

fn scrub(world: &World) -> ScrubReport {
    scrub_with(world, None)
}

/// The blocks of `last.raw` in the findings of a scrub.
fn found_in_image(world: &World) -> Vec<u64> {
    let findings = scrub(world).findings;
    assert!(findings.iter().all(|finding| finding.file == "last.raw"), "{findings:?}");
    let ranges = findings.iter().filter_map(|finding| finding.blocks);
    ranges.flat_map(|range| range.first.0..range.end().0).collect()
}

/// Changes a byte of the image without anybody noticing.
fn rot(world: &World, block: usize) {
    world.disk.tamper(FileName::IMAGE, |image| image[block * BLOCK + 5] ^= 0x40);
}

/// A scrub, a check, and a restore of any revision read the blocks of the image that hold data, and perhaps their
/// neighbours, whatever its size; and the digest of every block is verified.
#[test]
fn scrubs_and_restores_read_data_not_size() {
    for clones in [false, true] {
        let world = archive(true, clones, &states());
        let image_bytes = |act: &dyn Fn()| {
            let before = world.disk.read_bytes(FileName::IMAGE);
            act();
            world.disk.read_bytes(FileName::IMAGE) - before
        };
        // Blocks 3, 200, 500, the emptied one and the last one, each with the rest of its piece or chunk.
        let most = 5 * 3 * BLOCK as u64;
        let check = image_bytes(&|| {
            let archive = world::open(&world.disk).expect("open");
            let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
            let report = archive.check(&options, &world::clock(), &Silent).expect("a check");
            assert_eq!(report.findings, []);
        });
        assert!(check > 4 * BLOCK as u64 && check <= most, "a check read {check} bytes");
        let scrubbed = image_bytes(&|| {
            let report = scrub(&world);
            assert!(report.findings.is_empty() && report.read_bytes < 3 * most, "{report:?}");
            assert!((report.coverage.verified_share - 1.0).abs() < 1e-9, "{report:?}");
        });
        assert!(scrubbed <= most, "a scrub read {scrubbed} bytes");
        let archive = world::open(&world.disk).expect("open");
        for (number, expected) in world.expected.iter().enumerate() {
            let restored = image_bytes(&|| {
                let bytes = world::read_revision(&archive, number).expect("a restore");
                assert!(bytes == expected.bytes, "revision {number}");
            });
            assert!(restored <= most, "a restore of revision {number} read {restored} bytes");
        }
    }
}

/// A budget counts what is read.
#[test]
fn a_budget_counts_data_not_size() {
    let world = archive(true, false, &states()[..1]);
    let report = scrub_with(&world, Some(Budget::Share(1.0)));
    assert_eq!(report.budget_bytes, Some(4 * BLOCK as u64 - 100));
    assert!((report.coverage.verified_share - 1.0).abs() < 1e-9, "{report:?}");
}

/// What a scrub finds where the file system reports holes it also finds here, if it is in a block with data or in one
/// that backy has emptied: because an older revision had something there, or because a backup was undone.
#[test]
fn rot_is_found_in_every_block_that_backy_has_written() {
    for (clones, update) in world::UPDATES {
        for block in [3, 200, 500, 350, BLOCKS - 1] {
            let world = archive(true, clones, &states());
            rot(&world, block);
            assert_eq!(found_in_image(&world), [block as u64], "{update:?}");
        }
        let world = archive(true, clones, &states());
        assert!(scrub(&world).is_clean());
        // Its source is shorter at the end than at the beginning, so it undoes everything.
        let other = sparse(9, &[3, 200, 600]);
        let source = MemorySource::new(&other).resized_later(other.len() as u64 - 1);
        let options = BackupOptions { update, ..world::options() };
        world::backup_with(&world.disk, &source, &options).expect_err("a source that shrinks");
        assert!(found_in_image(&world).is_empty(), "{update:?}");
        if update == ImageUpdate::InPlace {
            let world = archive(true, clones, &states());
            assert!(scrub(&world).is_clean());
            world::backup_with(&world.disk, &source, &options).expect_err("a source that shrinks");
            rot(&world, 600);
            assert_eq!(found_in_image(&world), [600]);
        }
    }
}

/// Whatever somebody else writes to the image changes its time, and then all of it is read. What was found stays known
/// although the time is recorded afterwards.
#[test]
fn what_others_write_is_found_wherever_it_is() {
    for block in [0, 4, 444, BLOCKS - 2] {
        let world = archive(true, false, &states());
        assert!(scrub(&world).is_clean());
        let image = world.disk.open(FileName::IMAGE, Access::Write).expect("open the image");
        image.write_at(b"not zero", (block * BLOCK) as u64).expect("write to it");
        drop(image);
        let report = scrub(&world);
        assert_eq!(report.findings.len(), 1, "{report:?}");
        let is_repaired = report.findings[0].repaired;
        let expected: &[u64] = if is_repaired { &[] } else { &[block as u64] };
        assert_eq!(found_in_image(&world), expected);
        assert_eq!(found_in_image(&world), expected);
    }
}

/// Digests that do not match prove no zeros: then all of the image is read.
#[test]
fn without_right_digests_all_of_the_image_is_read() {
    let world = archive(true, false, &states());
    let digests = world.expected[0].uuid;
    let digests = FileName::Digests(digests, backy_lib::storage::DigestsKind::Image);
    // The entry of block 200 now says that it is zero.
    world.disk.tamper(digests, |table| table[4096 + 200 * 32..][..32].fill(0));
    let before = world.disk.read_bytes(FileName::IMAGE);
    let report = scrub(&world);
    assert!(report.is_clean() && report.findings.len() == 1, "{report:?}");
    assert!(world.disk.read_bytes(FileName::IMAGE) - before >= (BLOCKS * BLOCK) as u64 - 100);
    assert_eq!(scrub(&world).findings, []);
}

/// What backups stored and removals freed is about the same as where the file system reports it.
#[test]
fn sizes_are_about_those_of_a_file_system_that_reports_them() {
    let sizes = |hides_holes, clones| {
        let mut world = archive(hides_holes, clones, &states());
        let archive = world::open(&world.disk).expect("open");
        let stored = archive.revisions().iter().map(|r| r.statistics.stored_bytes);
        let mut sizes: Vec<i64> = stored.collect();
        let report: MaintenanceReport = world::remove(&world.disk, &[2]).expect("a removal");
        sizes.extend([report.plan.frees_bytes, report.freed_bytes]);
        world.expected.pop();
        let report: MaintenanceReport = world::remove(&world.disk, &[0]).expect("a removal");
        sizes.push(report.freed_bytes);
        sizes
    };
    for clones in [false, true] {
        let (shown, hidden) = (sizes(false, clones), sizes(true, clones));
        assert_eq!(shown.len(), 6);
        for (shown, hidden) in shown.iter().zip(&hidden) {
            // Digests and tables take whole pages where sizes are reported.
            assert!((shown - hidden).abs() <= 8 * BLOCK as i64, "{shown} and {hidden}: {clones}");
        }
    }
}

/// Backups, removals and scrubs in any order keep every revision right and tidy, however large its zeros are.
#[test]
fn every_verb_works_without_reported_holes() {
    let mut random = Random(77);
    let mut world = archive(true, false, &states());
    for round in 0..8_u64 {
        let data = [0; 4].map(|_| random.below(BLOCKS as u64) as usize);
        let state = sparse(100 + round, &data);
        let report = world::backup(&world.disk, &MemorySource::new(&state)).expect("a backup");
        world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: state });
        if world.expected.len() > 4 {
            let number = random.below(world.expected.len() as u64) as usize;
            world.remove(&[number]);
        }
        assert_eq!(scrub(&world).findings, [], "round {round}");
        world.assert_tidy(round);
    }
}
