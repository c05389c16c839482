//! `scrub`: finds damage, reports it exactly, and repairs it where the right bytes are known.

mod budget;
mod entries;
mod repair;
mod verified;

use backy_lib::archive::ArchiveWriter;
use backy_lib::extent::Extent;
use backy_lib::progress::Silent;
use backy_lib::scrub::{Budget, Finding, ScrubOptions, ScrubReport};
use backy_lib::storage::sim::{Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName};
use backy_lib::{ErrorKind, Result};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;
use backy_tests::world::{self, World, changed_state, clock, noise, random_state};

const BLOCK: usize = 4096;

fn scrub_with(disk: &SimStorage, options: &ScrubOptions) -> Result<ScrubReport> {
    let options = ScrubOptions { threads: Some(1), ..options.clone() };
    ArchiveWriter::open(world::open(disk)?, "a test", &Silent)?.scrub(&options, &clock(), &Silent)
}

fn scrub(disk: &SimStorage) -> ScrubReport {
    scrub_with(disk, &ScrubOptions::default()).expect("a scrub that ends")
}

fn check(disk: &SimStorage) -> ScrubReport {
    let options = ScrubOptions { threads: Some(2), ..ScrubOptions::default() };
    let archive = world::open(disk).expect("open");
    archive.check(&options, &clock(), &Silent).expect("a check that ends")
}

/// A block with content that no other one has.
fn block(seed: u8) -> Vec<u8> {
    (0..BLOCK).map(|at| seed ^ (at / 7) as u8 ^ (at % 251) as u8).collect()
}

/// Three revisions of six blocks: block 1 differs in all, block 3 between the newest two, block 5 in none.
fn three() -> World {
    let state = |one: u8, three: u8| {
        let blocks = [block(10), block(one), block(12), block(three), vec![0; BLOCK], block(15)];
        blocks.concat()
    };
    World::with_backups(false, &[state(1, 103), state(2, 103), state(3, 203)])
}

fn only(report: &ScrubReport) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    &report.findings[0]
}

/// A healthy archive has no findings, and all of it is verified afterwards.
#[test]
fn scrub_of_a_healthy_archive_finds_nothing() {
    let world = three();
    assert_eq!(check(&world.disk).findings, []);
    let report = scrub(&world.disk);
    assert!(report.findings.is_empty() && report.is_clean());
    assert!(
        (report.coverage.verified_share - 1.0).abs() < 1e-9 && report.coverage.oldest.is_some()
    );
    world.check_tidy().expect("tidy");
}

/// A finding names the block and exactly the revisions and bytes that it costs. A delta with its own copy shields the
/// older ones.
#[test]
fn findings_name_the_revisions_and_blocks_they_cost() {
    for (number, affected) in [(5usize, vec![0, 1, 2]), (3, vec![0]), (1, vec![0])] {
        let world = three();
        world.disk.tamper(FileName::IMAGE, |image| image[number * BLOCK + 9] ^= 1);
        for report in [check(&world.disk), scrub(&world.disk)] {
            let finding = only(&report);
            assert_eq!(finding.file, "last.raw");
            let range = finding.blocks.expect("blocks");
            assert_eq!((range.first.0, range.count), (number as u64, 1));
            let found: Vec<usize> = finding.affected.iter().map(|a| a.number).collect();
            assert_eq!(found, affected, "block {number}");
            let extent = Extent::new((number * BLOCK) as u64, BLOCK as u64);
            assert!(finding.affected.iter().all(|a| a.extents == [extent]));
        }
        let archive = world::open(&world.disk).expect("open");
        assert_eq!(archive.revisions()[0].findings.bad_block_count(), 1);
    }
    // Block 3 in the delta of revision 1 is read by revision 2, too; block 1 is not.
    for (number, affected) in [(3u64, vec![1usize, 2]), (1, vec![1])] {
        let world = three();
        let name = FileName::Delta(world.expected[1].uuid);
        // The two blocks are packed in ascending order after the tables.
        let data = 4 * BLOCK + if number == 1 { 40 } else { compressed_len(&world, name) };
        world.disk.tamper(name, |delta| delta[data] ^= 0x40);
        let report = check(&world.disk);
        let finding = only(&report);
        assert_eq!(finding.blocks.map(|range| range.first.0), Some(number));
        assert_eq!(finding.affected.iter().map(|a| a.number).collect::<Vec<_>>(), affected);
    }
}

/// Where in its file the second of two packed blocks is, past its first bytes.
fn compressed_len(world: &World, name: FileName) -> usize {
    let delta = &world.disk.files()[&name];
    let entry = &delta[3 * BLOCK + 3 * 8..][..8];
    let raw = u64::from_be_bytes(entry.try_into().expect("eight bytes"));
    assert!(raw & 1 << 62 != 0, "block 3 is not compressed");
    (raw & 0xffff_ffff) as usize + 40 - 4 * BLOCK
}

/// A finding stays known until the data is right again, and status reports it.
#[test]
fn a_finding_is_recorded_until_it_is_right_again() {
    let world = three();
    world.disk.tamper(FileName::IMAGE, |image| image[5 * BLOCK] ^= 1);
    assert_eq!(check(&world.disk).findings.len(), 1);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions()[0].findings.bad_block_count(), 0, "a check records nothing");
    scrub(&world.disk);
    let archive = world::open(&world.disk).expect("open");
    let status =
        backy_lib::status::status(&archive, &world::all(&archive), &clock()).expect("status");
    assert_eq!(status.health.level, backy_lib::health::Level::Critical);
    assert!(status.revisions.iter().all(|r| r.damaged.len() == 1), "all three read block 5");
    world.disk.tamper(FileName::IMAGE, |image| image[5 * BLOCK] ^= 1);
    assert!(scrub(&world.disk).findings.is_empty());
    world.check_tidy().expect("nothing is marked any more");
}

/// A truncated image costs the blocks behind its end, and not those that are zero anyway.
#[test]
fn a_truncated_image_costs_only_its_blocks() {
    let world = three();
    world.disk.tamper(FileName::IMAGE, |image| image.truncate(2 * BLOCK));
    let extents = |blocks: &[usize]| -> Vec<(u64, u64)> {
        blocks.chunk_by(|a, b| a + 1 == *b).map(|run| (run[0] as u64, run.len() as u64)).collect()
    };
    for report in [check(&world.disk), scrub(&world.disk)] {
        let finding = &report.findings[0];
        assert!(finding.message.starts_with("length: ") && !finding.repaired, "{finding:?}");
        for (number, lost) in [(0, &[2, 3, 5][..]), (1, &[2, 5]), (2, &[2, 5])] {
            let found = finding.affected[number].extents.iter();
            let found: Vec<_> = found.map(|e| (e.offset / 4096, e.len / 4096)).collect();
            assert_eq!(found, extents(lost), "revision {number}");
        }
    }
    // Where only zeros were, nothing is lost.
    let mut world = World::with_backups(false, &[[block(1), vec![0; 3 * BLOCK]].concat()]);
    world.disk.tamper(FileName::IMAGE, |image| image.truncate(BLOCK));
    let report = scrub(&world.disk);
    assert!(only(&report).repaired && only(&report).affected.is_empty(), "{report:?}");
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("repaired");
}

/// A missing delta is one finding: intact files are not blamed, and an older revision does not lose what it holds
/// itself.
#[test]
fn a_missing_delta_is_one_finding() {
    let world = three();
    let delta = FileName::Delta(world.expected[1].uuid);
    backy_lib::storage::Storage::remove(&world.disk, delta).expect("remove");
    for report in [check(&world.disk), scrub(&world.disk)] {
        let finding = only(&report);
        assert_eq!(finding.file, delta.to_string());
        let found: Vec<usize> = finding.affected.iter().map(|a| a.number).collect();
        assert_eq!(found, [1, 2]);
        let oldest = &finding.affected[1].extents;
        assert!(oldest.iter().all(|e| e.offset >= 2 * BLOCK as u64 || e.end() <= BLOCK as u64));
    }
}

/// A missing delta costs its revision and those that read through to it, and is reported. The others stay clean.
#[test]
fn a_missing_file_is_a_finding() {
    let world = three();
    let name = FileName::Delta(world.expected[1].uuid);
    backy_lib::storage::Storage::remove(&world.disk, name).expect("remove");
    let report = check(&world.disk);
    let finding = report.findings.iter().find(|f| f.message == "missing").expect("a finding");
    assert_eq!(finding.file, name.to_string());
    assert_eq!(finding.affected.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2]);
}

/// With a budget, each run reads what was verified longest ago, and in the end all has been read.
#[test]
fn scrubs_with_a_budget_cover_everything_in_the_end() {
    let mut random = Random(4);
    let state = random_state(&mut random, 40 * BLOCK);
    let states = [state.clone(), changed_state(&mut random, &state, 40 * BLOCK)];
    let world = World::with_backups(false, &states);
    let options = ScrubOptions { budget: Some(Budget::Share(0.5)), ..ScrubOptions::default() };
    let first = scrub_with(&world.disk, &options).expect("half");
    assert!(first.coverage.oldest.is_none() && first.coverage.verified_share < 1.0);
    let second = scrub_with(&world.disk, &options).expect("the other half");
    assert!(second.coverage.oldest.is_some(), "{:?}", second.coverage);
    let none = ScrubOptions {
        budget: Some(Budget::Time(std::time::Duration::ZERO)),
        ..ScrubOptions::default()
    };
    assert_eq!(scrub_with(&world.disk, &none).expect("nothing").read_bytes, 0);
}

/// Reading stops at what the named revisions need.
#[test]
fn only_the_files_of_the_named_revisions_are_read() {
    let world = three();
    let name = FileName::Delta(world.expected[2].uuid);
    world.disk.tamper(name, |delta| delta[4 * BLOCK + 40] ^= 1);
    let scrub = |numbers: &[usize]| {
        let revisions = numbers.iter().map(|&number| world.expected[number].uuid).collect();
        let options = ScrubOptions { revisions: Some(revisions), ..ScrubOptions::default() };
        scrub_with(&world.disk.fork(), &options).expect("a scrub").findings.len()
    };
    assert_eq!((scrub(&[0, 1]), scrub(&[2])), (0, 1));
}

/// The next backup heals a block that is marked bad: from the source if that has it, which heals older revisions as
/// well. Otherwise they are marked, and never get the new content.
#[test]
fn the_next_backup_heals_the_image() {
    for (clones, update) in world::UPDATES {
        for changed in [false, true] {
            let first = [block(1), block(2), block(3)].concat();
            let second = [block(1), block(22), block(3)].concat();
            let mut world = World::with_backups(clones, &[first, second.clone()]);
            world.disk.tamper(FileName::IMAGE, |image| image[2 * BLOCK + 1] ^= 1);
            assert_eq!(scrub(&world.disk).findings.len(), 1);
            let mut third = second.clone();
            if changed {
                third[2 * BLOCK..].copy_from_slice(&block(33));
            }
            let source = MemorySource::new(&third);
            let options = backy_lib::BackupOptions { update, ..world::options() };
            let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
            let expected = world::Expected { uuid: report.revision.uuid, bytes: third };
            world.expected.insert(0, expected);
            assert_eq!(report.bad_blocks, 0, "it was known");
            if !changed {
                world.check_committed(None).and_then(|_| world.check_tidy()).expect("all healed");
                assert!(scrub(&world.disk).findings.is_empty());
                continue;
            }
            let archive = world::open(&world.disk).expect("open");
            let newest = world::read_revision(&archive, 0).expect("the newest");
            assert!(newest == world.expected[0].bytes);
            for number in [1, 2] {
                let error = world::read_revision(&archive, number).expect_err("damaged");
                assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            }
            assert_eq!(scrub(&world.disk).findings.len(), 1, "only in the delta");
        }
    }
}

/// While another operation is under way, a scrub without the lock checks its findings again. It still finds lost
/// digests.
#[test]
fn lost_digests_are_found_in_an_interrupted_archive() {
    let mut world = three();
    let source = MemorySource::new(&block(99));
    let mut at = 40;
    let broken = loop {
        let broken = world.fork();
        broken.disk.set_fault(at, Fault::Crash, at);
        world::backup(&broken.disk, &source).expect_err("a backup that was cut");
        let disk = broken.disk.crash(Unsynced::Lost);
        if world::open(&disk).expect("open").manifest().in_progress.is_some() {
            break disk;
        }
        at += 1;
    };
    world.disk = broken;
    world.check_committed(None).expect("all is well");
    assert_eq!(check(&world.disk).findings, []);
    let digests = FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    world.disk.tamper(digests, |bytes| bytes[4096..].fill(0));
    assert!(!check(&world.disk).is_clean(), "digests that are lost");
}

/// Where the L2 entry of a block of a small delta is.
fn entry(number: usize) -> std::ops::Range<usize> {
    3 * BLOCK + 8 * number..3 * BLOCK + 8 * number + 8
}

/// Content that no compressor makes smaller.
/// Three revisions of seven blocks, the last one short; the two deltas hold packed blocks, plain ones and zero ones.
fn all_kinds() -> World {
    let state = |n: u8| {
        let mut state = [
            block(n),
            block(50),
            noise(u64::from(n), BLOCK),
            noise(99, BLOCK),
            if n == 2 { block(61) } else { vec![0; BLOCK] },
            noise(u64::from(n) + 10, BLOCK),
        ]
        .concat();
        state.extend(&block(n + 70)[..900]);
        state
    };
    World::with_backups(false, &[state(1), state(2), state(3)])
}

fn delta_of(world: &World, number: usize) -> FileName {
    FileName::Delta(world.expected[number].uuid)
}

/// Every finding is remembered, makes the status critical and prevents all expiry, until the data is right again or
/// somebody confirms it. This includes a finding that is not about blocks.
#[test]
fn a_finding_without_blocks_is_remembered() {
    use backy_lib::health::Level;
    type Damage = fn(&World);
    let damages: [(&str, Damage); 4] = [
        ("an entry and its digest", |world| {
            world.disk.tamper(delta_of(world, 1), |delta| delta[entry(2)].fill(0));
            let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
            world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
        }),
        ("a header of another image", |world| {
            // Version 2, and nothing of our tables: backy must not write to it.
            world.disk.tamper(delta_of(world, 1), |delta| delta[..3 * BLOCK].fill(0x11));
        }),
        ("a missing delta", |world| {
            backy_lib::storage::Storage::remove(&world.disk, delta_of(world, 1)).expect("remove");
        }),
        ("a delta of another revision", |world| {
            let other = world.disk.files()[&delta_of(world, 2)].clone();
            world.disk.tamper(delta_of(world, 1), |delta| *delta = other);
        }),
    ];
    for (what, damage) in damages {
        let world = all_kinds();
        let before = world.disk.files();
        scrub(&world.disk);
        damage(&world);
        assert!(!scrub(&world.disk).is_clean(), "{what}");
        let level = || {
            let archive = world::open(&world.disk).expect("open");
            let all = world::all(&archive);
            backy_lib::status::status(&archive, &all, &clock()).expect("status").health.level
        };
        assert_eq!(level(), Level::Critical, "{what}");
        let flaws = |number: usize| {
            let archive = world::open(&world.disk).expect("open");
            let revision = &archive.revisions()[number];
            revision.open_flaws().count() as u64 + revision.findings.bad_block_count()
        };
        assert!(flaws(1) > 0, "{what}");
        let plan = |confirm| {
            let options =
                backy_lib::MaintenanceOptions { keep: Some(1), confirm, ..Default::default() };
            world::open(&world.disk).expect("open").plan_maintenance(&options).expect("a plan")
        };
        assert!(!plan(false).frozen.is_empty() && plan(false).steps.is_empty(), "{what}");
        scrub(&world.disk);
        // By now it may be known block by block.
        assert!(!plan(false).frozen.is_empty(), "{what}: a second scrub");
        assert_eq!(level(), Level::Critical, "{what}: a second scrub");
        // Right again: forgotten.
        for (name, content) in &before {
            let is_data = matches!(name, FileName::Delta(_) | FileName::Digests(..));
            if is_data && !world.disk.files().contains_key(name) {
                let file = backy_lib::storage::Storage::create(&world.disk, *name);
                file.expect("create").write_at(content, 0).expect("write");
            } else if is_data {
                world.disk.tamper(*name, |found| *found = content.clone());
            }
        }
        let report = scrub(&world.disk);
        assert!(report.is_clean(), "{what}: {report:?}");
        assert_eq!((flaws(1), plan(false).frozen.len()), (0, 0), "{what}");
    }
}

/// Once somebody has confirmed it, a finding without blocks no longer prevents expiry.
#[test]
fn a_confirmed_finding_lets_revisions_expire() {
    let world = all_kinds();
    world.disk.tamper(delta_of(&world, 1), |delta| delta[entry(2)].fill(0));
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    scrub(&world.disk);
    world::maintain(&world.disk, Some(3)).expect("confirmed");
    let archive = world::open(&world.disk).expect("open");
    let status =
        backy_lib::status::status(&archive, &world::all(&archive), &clock()).expect("status");
    assert!(status.frozen.is_empty(), "{:?}", status.frozen);
    assert_eq!(archive.revisions()[1].open_flaws().count(), 0);
    scrub(&world.disk);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions()[1].open_flaws().count(), 0, "the same flaw stays confirmed");
    world::maintain(&world.disk, Some(1)).expect("what was confirmed may go");
}

/// What is behind the end of an intact image is cut off. It stays when anything before it is damaged.
#[test]
fn bytes_behind_a_wrong_image_are_kept() {
    let world = all_kinds();
    world.disk.tamper(FileName::IMAGE, |image| {
        image.extend([7; 5000]);
        image[9] ^= 1;
    });
    let len = |world: &World| world.disk.files()[&FileName::IMAGE].len();
    let before = len(&world);
    assert!(!scrub(&world.disk).is_clean());
    assert_eq!(len(&world), before);
    world.disk.tamper(FileName::IMAGE, |image| image[9] ^= 1);
    assert!(scrub(&world.disk).is_clean());
    assert_eq!(len(&world), before - 5000);
}
