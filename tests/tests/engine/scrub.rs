//! `scrub`: what is wrong is found, told exactly, and mended where the right bytes are known.

mod budget;

use backy_lib::archive::ArchiveWriter;
use backy_lib::extent::Extent;
use backy_lib::progress::Silent;
use backy_lib::scrub::{Budget, Finding, ScrubOptions, ScrubReport};
use backy_lib::storage::sim::{Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName};
use backy_lib::{ErrorKind, Result};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;
use backy_tests::world::{self, World, changed_state, clock, random_state};

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

/// A sound archive has no findings, and all of it is verified afterwards.
#[test]
fn a_sound_archive_is_clean() {
    let world = three();
    assert_eq!(check(&world.disk).findings, []);
    let report = scrub(&world.disk);
    assert!(report.findings.is_empty() && report.is_clean());
    assert!(
        (report.coverage.verified_share - 1.0).abs() < 1e-9 && report.coverage.oldest.is_some()
    );
    world.check_tidy().expect("tidy");
}

/// A finding names the block and exactly the revisions and bytes that it costs; a delta with its own copy shields
/// the older ones.
#[test]
fn a_finding_says_whom_it_costs_what() {
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

/// What was found stays known until it is right again, and status tells of it.
#[test]
fn a_finding_is_recorded_until_it_is_right_again() {
    let world = three();
    world.disk.tamper(FileName::IMAGE, |image| image[5 * BLOCK] ^= 1);
    assert_eq!(check(&world.disk).findings.len(), 1);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions()[0].findings.bad_block_count(), 0, "a check records nothing");
    scrub(&world.disk);
    let archive = world::open(&world.disk).expect("open");
    let numbers: Vec<usize> = (0..archive.revisions().len()).collect();
    let status = backy_lib::status::status(&archive, &numbers, &clock()).expect("status");
    assert_eq!(status.health.level, backy_lib::health::Level::Critical);
    assert!(status.revisions.iter().all(|r| r.damaged.len() == 1), "all three read block 5");
    world.disk.tamper(FileName::IMAGE, |image| image[5 * BLOCK] ^= 1);
    assert!(scrub(&world.disk).findings.is_empty());
    world.check_tidy().expect("nothing is marked any more");
}

/// Whatever follows from the manifest is made anew: headers, L1 tables, reference counts, lengths, digest files.
#[test]
fn what_follows_from_the_manifest_is_mended() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, bool, Damage); 9] = [
        ("header", true, |delta| delta[..512].fill(0)),
        ("backing name", true, |delta| delta[137] ^= 1),
        ("dirty bit", true, |delta| delta[79] |= 1),
        ("L1 table", true, |delta| delta[2 * BLOCK + 5] ^= 0x10),
        ("reference count table", true, |delta| delta[BLOCK..BLOCK + 8].fill(0x11)),
        ("a reference count", true, |delta| {
            let len = delta.len();
            delta[len - BLOCK + 3] ^= 1;
        }),
        ("digest header", false, |digests| digests[70] ^= 1),
        ("a digest", false, |digests| digests[4096 + 32 + 3] ^= 1),
        ("digests cut off", false, |digests| digests.truncate(4096 + 40)),
    ];
    for older in [1, 2] {
        for (what, in_delta, damage) in damages {
            let mut world = three();
            let uuid = world.expected[older].uuid;
            let name = match in_delta {
                true => FileName::Delta(uuid),
                false => FileName::Digests(uuid, DigestsKind::Delta),
            };
            let before = world.disk.files()[&name].clone();
            world.disk.tamper(name, damage);
            assert_ne!(before, world.disk.files()[&name], "{what}");
            assert!(!check(&world.disk).is_clean(), "{what} of revision {older}: not found");
            let report = scrub(&world.disk);
            assert!(report.is_clean() && !report.findings.is_empty(), "{what}: {report:?}");
            assert!(scrub(&world.disk).findings.is_empty(), "{what}: not mended");
            world.check_committed(None).and_then(|_| world.check_tidy()).expect(what);
            if qemu::available() {
                let folder = tempfile::tempdir().expect("a temporary folder");
                qemu::write_out(&world.disk, folder.path());
                qemu::check(folder.path(), &world.expected, 0, true).expect(what);
            }
        }
    }
}

/// The image's own length and digests, too.
#[test]
fn the_images_length_and_digests_are_mended() {
    let newest = |world: &World| FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    for damage in 0..5 {
        let mut world = three();
        match damage {
            0 => world.disk.tamper(FileName::IMAGE, |image| image.extend([1, 2, 3])),
            1 => world.disk.tamper(newest(&world), |digests| digests[4096 + 5] ^= 1),
            2 => world.disk.tamper(newest(&world), |digests| digests[4096 + 4 * 32] ^= 1),
            3 => world.disk.tamper(newest(&world), |digests| digests.clear()),
            _ => backy_lib::storage::Storage::remove(&world.disk, newest(&world)).expect("remove"),
        }
        assert!(!check(&world.disk).is_clean(), "{damage}: not found");
        let report = scrub(&world.disk);
        assert!(report.is_clean() && !report.findings.is_empty(), "{damage}: {report:?}");
        world.check_committed(None).and_then(|_| world.check_tidy()).expect("mended");
    }
}

/// An image that was cut off costs the blocks that were behind its end, and not those that are zero anyway.
#[test]
fn an_image_that_was_cut_off_costs_what_was_in_it() {
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
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("mended");
}

/// A delta that is missing is one finding: files that are as they were are not blamed, and what an older revision holds
/// itself is not lost to it.
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

/// A bad block of which the archive has another copy is mended from that; one of which it has none is not.
#[test]
fn a_bad_block_is_mended_from_a_copy() {
    let twice = [block(1), block(2), block(1), vec![0; BLOCK]].concat();
    let once = [block(3), block(2), block(3), block(4)].concat();
    let make = || World::with_backups(false, &[once.clone(), twice.clone()]);
    // In the image, a zero block in the image, and in the delta.
    for (name, offset, mended) in [
        (None, 7, true),
        (None, 2 * BLOCK, true),
        (None, 3 * BLOCK + 5, true),
        (None, BLOCK, false),
        (Some(1usize), 40, true),
    ] {
        let mut world = make();
        let file = name.map_or(FileName::IMAGE, |n| FileName::Delta(world.expected[n].uuid));
        let start = if name.is_some() { 4 * BLOCK } else { 0 };
        world.disk.tamper(file, |content| content[start + offset] ^= 0x11);
        assert_eq!(check(&world.disk).findings.len(), 1);
        let report = scrub(&world.disk);
        assert_eq!(report.is_clean(), mended, "{file} {offset}: {report:?}");
        let read = world.check_committed(None);
        assert_eq!(read.is_ok(), mended, "{file} {offset}");
        if mended {
            world.check_tidy().expect("tidy");
            if qemu::available() {
                let folder = tempfile::tempdir().expect("a temporary folder");
                qemu::write_out(&world.disk, folder.path());
                qemu::check(folder.path(), &world.expected, 0, true).expect("QEMU agrees");
            }
        }
    }
}

/// A missing delta costs its revision and those that read through to it, and is told; the others stay clean.
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

/// With a budget, runs read what was verified longest ago, and in the end all has been read.
#[test]
fn budgets_get_around_in_the_end() {
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
    let scrub = |revisions| {
        let options = ScrubOptions { revisions: Some(revisions), ..ScrubOptions::default() };
        scrub_with(&world.disk.fork(), &options).expect("a scrub").findings.len()
    };
    assert_eq!((scrub(vec![0, 1]), scrub(vec![2])), (0, 1));
}

/// The next backup heals a block that is marked bad: from the source if that has it, and then older revisions
/// are healed with it; otherwise they are marked, and never given the new content.
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

/// What digests that are not right as a whole say of a block is no reason to change it: neither that it is zero
/// nor that it is another one that there is.
#[test]
fn digests_in_doubt_mend_nothing() {
    let world = three();
    let digests = FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    let entry = |number: usize| 4096 + 32 * number..4096 + 32 * (number + 1);
    // Block 4 is zero, and so is its entry.
    for other in [0, 4] {
        let damaged = world.fork();
        // So that the digests cannot be made anew from the image.
        damaged.disk.tamper(FileName::IMAGE, |image| image[2 * BLOCK + 9] ^= 1);
        damaged.disk.tamper(digests, |bytes| bytes.copy_within(entry(other), entry(5).start));
        let image = damaged.disk.files().remove(&FileName::IMAGE);
        assert!(!scrub(&damaged.disk).is_clean());
        let after = damaged.disk.files().remove(&FileName::IMAGE);
        assert!(after == image, "a good block was taken for block {other}");
    }
}

/// While something is under way, a scrub without the lock looks again at what it has found; digests that are
/// lost are still found.
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

fn delta_of(world: &World, number: usize) -> FileName {
    FileName::Delta(world.expected[number].uuid)
}

/// Content that no compressor makes smaller.
fn noise(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| random.number() as u8).take(BLOCK).collect()
}

/// Three revisions of seven blocks, the last one short; the two deltas hold packed blocks, plain ones and zero ones.
fn all_kinds() -> World {
    let state = |n: u8| {
        let mut state = [
            block(n),
            block(50),
            noise(u64::from(n)),
            noise(99),
            if n == 2 { block(61) } else { vec![0; BLOCK] },
            noise(u64::from(n) + 10),
        ]
        .concat();
        state.extend(&block(n + 70)[..900]);
        state
    };
    World::with_backups(false, &[state(1), state(2), state(3)])
}

fn is_whole(world: &mut World, what: &str) {
    world
        .check_committed(None)
        .and_then(|_| world.check_tidy())
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(check(&world.disk).findings, [], "{what}");
    if qemu::available() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&world.disk, folder.path());
        qemu::check(folder.path(), &world.expected, 0, true)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
    }
}

/// An L2 entry that became zero, or something that is none, is entered again, whatever kind of cluster it led
/// to: the content is still in the file, and the digests prove it. So are all entries of a table at once.
#[test]
fn a_lost_entry_is_entered_again() {
    for older in [1, 2] {
        let held: Vec<usize> = {
            let world = all_kinds();
            let delta = &world.disk.files()[&delta_of(&world, older)];
            (0..7).filter(|&n| delta[entry(n)] != [0; 8]).collect()
        };
        assert_eq!(held, [0, 2, 4, 5, 6], "revision {older}");
        for lost in held.iter().map(|n| vec![*n]).chain([vec![0, 2, 5, 6]]) {
            for wrong in [[0; 8], [0xff; 8], [0x3f, 0, 0, 0, 0, 0, 0, 0]] {
                let mut world = all_kinds();
                let name = delta_of(&world, older);
                world.disk.tamper(name, |delta| {
                    lost.iter().for_each(|n| delta[entry(*n)].copy_from_slice(&wrong));
                });
                let what = format!("entries {lost:?} of revision {older} are {wrong:x?}");
                assert!(!check(&world.disk).is_clean(), "{what}: not found");
                let report = scrub(&world.disk);
                assert!(report.is_clean() && !report.findings.is_empty(), "{what}: {report:?}");
                is_whole(&mut world, &what);
            }
        }
    }
}

/// An entry that leads to another block's content is put right, too.
#[test]
fn an_entry_that_leads_elsewhere_is_put_right() {
    let mut world = all_kinds();
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| {
        let other: Vec<u8> = delta[entry(5)].to_vec();
        delta[entry(2)].copy_from_slice(&other);
    });
    assert!(!check(&world.disk).is_clean());
    scrub(&world.disk);
    assert!(scrub(&world.disk).findings.iter().all(|finding| finding.repaired));
    is_whole(&mut world, "two entries lead to one cluster");
}

/// A lost entry is found again although a digest of the same delta is damaged as well: what the data says counts then.
#[test]
fn a_lost_entry_is_entered_although_a_digest_is_damaged() {
    let mut world = all_kinds();
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| delta[entry(2)].fill(0));
    world.disk.tamper(digests, |digests| digests[4096 + 5 * 32] ^= 1);
    assert!(!check(&world.disk).is_clean());
    assert!(scrub(&world.disk).is_clean());
    is_whole(&mut world, "an entry and a digest");
}

/// A block whose entry is lost and whose content is nowhere costs this block alone, and only what can be proved
/// is said.
#[test]
fn a_lost_entry_without_content_costs_one_block() {
    let world = all_kinds();
    let name = delta_of(&world, 1);
    world.disk.tamper(name, |delta| {
        let raw: [u8; 8] = delta[entry(2)].try_into().expect("eight bytes");
        let offset = (u64::from_be_bytes(raw) & 0x00ff_ffff_ffff_fe00) as usize;
        delta[offset + 7] ^= 1;
        delta[entry(2)].fill(0);
        delta[entry(6)].fill(0);
    });
    let report = scrub(&world.disk);
    let open: Vec<_> = report.findings.iter().filter(|finding| !finding.repaired).collect();
    assert_eq!(open.len(), 1, "{report:?}");
    assert_eq!(open[0].blocks.map(|range| (range.first.0, range.count)), Some((2, 1)));
    let archive = world::open(&world.disk).expect("open");
    let report = archive.restore_to(
        1,
        &backy_tests::memory::MemoryTarget::absent(),
        &backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() },
        &Silent,
    );
    assert_eq!(
        report.expect("a restore").unreadable,
        [Extent::new(2 * BLOCK as u64, BLOCK as u64)]
    );
    assert!(world::read_revision(&archive, 0).expect("the newest") == world.expected[0].bytes);
}

/// A block whose entry makes no sense and whose content is gone is no reason to keep its revision for ever:
/// once somebody has confirmed the finding, the revision can be removed, and of those behind it only what they
/// had there is lost.
#[test]
fn what_nothing_gives_back_can_be_removed() {
    let mut world = all_kinds();
    world.disk.tamper(delta_of(&world, 1), |delta| {
        let raw: [u8; 8] = delta[entry(2)].try_into().expect("eight bytes");
        let offset = (u64::from_be_bytes(raw) & 0x00ff_ffff_ffff_fe00) as usize;
        delta[offset + 7] ^= 1;
        delta[entry(2)].copy_from_slice(&((1u64 << 62) | (1 << 50)).to_be_bytes());
    });
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    assert!(!scrub(&world.disk).is_clean());
    let error = world::remove(&world.disk, &[1]).expect_err("somebody has to confirm that");
    assert!(error.to_string().contains("'backy maintenance --confirm' allows it"), "{error}");
    world::maintain(&world.disk, Some(3)).expect("confirmed");
    world::remove(&world.disk, &[1]).expect("it goes");
    world.expected.remove(1);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions().len(), world.expected.len());
    for (number, expected) in world.expected.iter().enumerate() {
        let target = backy_tests::memory::MemoryTarget::absent();
        let options = backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() };
        let report = archive.restore_to(number, &target, &options, &Silent).expect("a restore");
        let lost: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
        assert!(lost <= BLOCK as u64, "revision {number}: {lost} bytes are lost");
        for (at, (found, was)) in
            target.content().chunks(BLOCK).zip(expected.bytes.chunks(BLOCK)).enumerate()
        {
            assert!(at == 2 || found == was, "revision {number}, block {at}");
        }
    }
}

/// What cannot be put right is left as it is: nothing that may still be recovered is given back, at the end of
/// the file or in it, by this scrub, by the next one or by the tidying up after a merge that was interrupted.
#[test]
fn what_may_still_be_recovered_stays() {
    let mut world = all_kinds();
    let (name, digests) =
        (delta_of(&world, 1), FileName::Digests(world.expected[1].uuid, DigestsKind::Delta));
    let before = world.disk.files();
    world.disk.tamper(name, |delta| {
        delta[entry(2)].fill(0);
        delta[entry(5)].fill(0);
    });
    // Nothing proves which blocks these are as long as the digests are damaged.
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    for _ in 0..2 {
        assert!(!scrub(&world.disk).is_clean());
        let options = backy_lib::MaintenanceOptions { keep: Some(1), ..Default::default() };
        let mut writer =
            ArchiveWriter::open(world::open(&world.disk).expect("open"), "a test", &Silent)
                .expect("open");
        let done = writer.maintain(&options, &clock(), &Silent).expect("maintenance");
        assert_eq!(done.plan.steps, [], "{:?}", done.plan.frozen);
        drop(writer);
        assert_eq!(
            world::remove(&world.disk, &[1]).expect_err("a merge").kind(),
            ErrorKind::Damaged
        );
    }
    if qemu::available() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        qemu::write_out(&world.disk, folder.path());
        let delta = folder.path().join(name.to_string());
        let out = std::process::Command::new("qemu-img").arg("check").arg(&delta).output();
        let text = String::from_utf8_lossy(&out.expect("qemu-img").stdout).into_owned();
        assert!(text.contains("leaked cluster"), "{text}");
    }
    // With the digests from a copy all of it is there again.
    world.disk.tamper(digests, |content| *content = before[&digests].clone());
    assert!(scrub(&world.disk).is_clean());
    is_whole(&mut world, "the digests from a copy");
}

/// Every finding is remembered, makes the status critical and keeps everything from expiring, until it is right
/// again or confirmed; also one that is not about blocks.
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
            // Version 2, and nothing of our tables: not ours to write to.
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
            backy_lib::status::status(&archive, &[0, 1, 2], &clock()).expect("status").health.level
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

/// Confirmed by somebody, a finding without blocks keeps nothing from expiring any more.
#[test]
fn a_confirmed_finding_lets_revisions_expire() {
    let world = all_kinds();
    world.disk.tamper(delta_of(&world, 1), |delta| delta[entry(2)].fill(0));
    let digests = FileName::Digests(world.expected[1].uuid, DigestsKind::Delta);
    world.disk.tamper(digests, |digests| digests[4096 + 2 * 32] ^= 1);
    scrub(&world.disk);
    world::maintain(&world.disk, Some(3)).expect("confirmed");
    let archive = world::open(&world.disk).expect("open");
    let status = backy_lib::status::status(&archive, &[0, 1, 2], &clock()).expect("status");
    assert!(status.frozen.is_empty(), "{:?}", status.frozen);
    assert_eq!(archive.revisions()[1].open_flaws().count(), 0);
    scrub(&world.disk);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.revisions()[1].open_flaws().count(), 0, "the same flaw stays confirmed");
    world::maintain(&world.disk, Some(1)).expect("what was confirmed may go");
}

/// What is behind the end of an image that is right is cut off, and stays when anything before it is not.
#[test]
fn what_is_behind_a_wrong_image_stays() {
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

/// Blocks of the file of a revision that count as verified.
fn verified(world: &World, number: usize) -> Vec<u64> {
    let archive = world::open(&world.disk).expect("open");
    let ranges = archive.revisions()[number].verified.clone();
    ranges.iter().flat_map(|range| range.blocks.first.0..range.blocks.end().0).collect()
}

/// What a backup replaces is not verified until a scrub has read it: not what differs, not what was emptied,
/// not what was repaired. When its place was last read stays known.
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

/// What a merge brings into a delta is not verified there before a scrub has read it.
#[test]
fn what_a_merge_has_written_is_not_verified() {
    let mut world = three();
    assert!(scrub(&world.disk).is_clean());
    let before = verified(&world, 2);
    world.remove(&[1]);
    let after = verified(&world, 1);
    assert!(after.len() < before.len(), "{before:?} {after:?}");
    assert!(scrub(&world.disk).is_clean());
    assert_eq!(verified(&world, 1), before);
}

/// What a scrub has repaired it has written and not read back: the next one verifies it.
#[test]
fn what_a_scrub_has_repaired_is_verified_by_the_next() {
    let state = [block(1), block(2), block(1)].concat();
    let world = World::with_backups(false, &[state]);
    world.disk.tamper(FileName::IMAGE, |image| image[7] ^= 1);
    let report = scrub(&world.disk);
    assert!(only(&report).repaired, "{report:?}");
    assert_eq!(verified(&world, 0), [1, 2]);
    assert!(scrub(&world.disk).findings.is_empty());
    assert_eq!(verified(&world, 0), [0, 1, 2]);
}

/// What the undoing of a backup has written back is not verified, and the rest still is.
#[test]
fn what_was_written_back_is_not_verified() {
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
        // All, as long as the overlay holds nothing; none, where it could not be read.
        let right = [&[0, 2][..], &[0, 1, 2], &[]].contains(&left.as_slice());
        assert!(right && !(written && left.contains(&1)), "call {at}: {left:?}");
        undone += u64::from(written && left == [0, 2]);
    }
    assert!(undone > 0, "nothing was written back: this proves nothing");
}
