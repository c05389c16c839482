//! Undoing a restore after something else has happened, and what an undo archive is not for.

use backy_lib::archive::ArchiveWriter;
use backy_lib::clock::FixedClock;
use backy_lib::drill;
use backy_lib::export::{ExportOptions, export};
use backy_lib::extent::Extent;
use backy_lib::health::{Level, ProblemKind};
use backy_lib::progress::Silent;
use backy_lib::restore::{Target, TargetKind};
use backy_lib::scrub::ScrubOptions;
use backy_lib::status::{StatusReport, status};
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::{ErrorKind, RestoreReport};
use backy_tests::fuzz::manifest::with_checksum;
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::world::{self, World};
use jiff::{SignedDuration, Timestamp};

use super::{BLOCK, Device, go_back, save};

/// Content of so many blocks, none of which is zero.
fn noise(seed: u64, blocks: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..blocks * BLOCK).map(|_| random.number() as u8 | 1).collect()
}

/// A device on which blocks 2 and 5 of 8 were overwritten by a restore, what it was before, and the undo archive.
fn restored() -> (Device, Vec<u8>, SimStorage) {
    let revision = noise(1, 8);
    let mut former = revision.clone();
    for block in [2, 5] {
        former[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&noise(block as u64 + 7, 1));
    }
    let world = World::with_backups(false, &[revision]);
    let device = Device::new(TargetKind::BlockDevice, &former);
    let undo = SimStorage::new(false);
    save(&world, 0, &device, &undo).expect("an undo archive");
    let archive = world::open(&world.disk).expect("open");
    archive
        .restore_to(archive.id(0).unwrap(), &device, &world::restore_options(), &Silent)
        .expect("a restore");
    (device, former, undo)
}

fn status_of(undo: &SimStorage, now: Timestamp) -> StatusReport {
    let archive = world::open(undo).expect("open");
    status(&archive, &[archive.id(0).unwrap()], &FixedClock(now)).expect("a status")
}

fn scrub(undo: &SimStorage) -> backy_lib::scrub::ScrubReport {
    let archive = world::open(undo).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    writer.scrub(&options, &world::clock(), &Silent).expect("a scrub")
}

/// Whoever mounts the disk to look at it writes to it. Then all that was saved is written back, and what was not
/// saved stays as it is now and is listed. A dry run says the same.
#[test]
fn undo_keeps_and_lists_what_changed_after_the_restore() {
    let (device, former, undo) = restored();
    // In a block that was saved, and in one that was not.
    device.write_at(&[9; 100], 5 * BLOCK as u64).expect("a write");
    device.write_at(&[9; 100], 7 * BLOCK as u64 + 8).expect("a write");
    let now = device.bytes.content();
    let options = backy_lib::RestoreOptions { dry_run: true, ..world::restore_options() };
    let archive = world::open(&undo).expect("open");
    let dry =
        archive.restore_to(archive.id(0).unwrap(), &device, &options, &Silent).expect("a dry run");
    let report: RestoreReport = go_back(&undo, &device).expect("a restore");
    let changed = [Extent::new(7 * BLOCK as u64, BLOCK as u64)];
    assert_eq!((&dry.changed_since[..], &report.changed_since[..]), (&changed[..], &changed[..]));
    assert_eq!((dry.written_bytes, report.written_bytes), (2 * BLOCK as u64, 2 * BLOCK as u64));
    assert!(report.is_complete() && !report.is_exact() && report.unreadable.is_empty());
    let mut expected = former;
    expected[7 * BLOCK..].copy_from_slice(&now[7 * BLOCK..]);
    assert!(device.bytes.content() == expected, "not what was saved beside what was there");
}

/// `--keep-going` fills a block that cannot be read, but not one that the undo archive left out on purpose.
#[test]
fn undo_with_keep_going_does_not_zero_skipped_blocks() {
    let (device, _, undo) = restored();
    device.write_at(&[9; 100], 7 * BLOCK as u64).expect("a write");
    let now = device.bytes.content();
    let options = backy_lib::RestoreOptions { keep_going: true, ..world::restore_options() };
    let archive = world::open(&undo).expect("open");
    let report =
        archive.restore_to(archive.id(0).unwrap(), &device, &options, &Silent).expect("a restore");
    assert_eq!((report.unreadable.len(), report.changed_since.len()), (0, 1));
    assert!(device.bytes.content()[7 * BLOCK..] == now[7 * BLOCK..]);
}

/// A saved block that has rotted is an error, as anywhere. It does not count as left out.
#[test]
fn a_saved_block_that_has_rotted_is_damage() {
    let (device, _, undo) = restored();
    undo.tamper(FileName::IMAGE, |image| image[5 * BLOCK + 77] ^= 1);
    assert_eq!(status_of(&undo, world::clock().0).health.level, Level::Ok, "nobody knows yet");
    let report = scrub(&undo);
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    let health = status_of(&undo, world::clock().0).health;
    assert_eq!(health.level, Level::Critical);
    let problem = &health.problems[0];
    assert_eq!(problem.kind, ProblemKind::Damage);
    assert!(!problem.advice.contains("backup"), "{}", problem.advice);
    assert_eq!(go_back(&undo, &device).expect_err("it has rotted").kind(), ErrorKind::Damaged);
}

/// However old it is, status gives no advice that would spoil an undo archive, and a scrub finds no problem in it.
#[test]
fn status_of_an_undo_archive_is_healthy() {
    let (device, former, undo) = restored();
    assert_eq!(scrub(&undo).findings, []);
    for days in [0, 20, 400] {
        let later = world::clock().0 + SignedDuration::from_hours(24 * days);
        let report = status_of(&undo, later);
        let kinds: Vec<_> = report.health.problems.iter().map(|problem| problem.kind).collect();
        let expected: &[ProblemKind] = if days > 100 { &[ProblemKind::Scrub] } else { &[] };
        assert_eq!(kinds, expected, "{:?}", report.health);
        assert_eq!((report.damaged_count, report.revisions[0].damaged.len()), (0, 0));
        if days < 100 {
            assert!(
                report.health.summary.contains("undo archive of /memory"),
                "{:?}",
                report.health
            );
        }
    }
    go_back(&undo, &device).expect("a restore");
    assert!(device.bytes.content() == former);
}

/// Nobody backs up to an undo archive: the saved state would no longer be the newest revision. A dry run says so,
/// too.
#[test]
fn nothing_is_backed_up_to_an_undo_archive() {
    let (device, former, undo) = restored();
    let archive = world::open(&undo).expect("open");
    let planned = archive.plan_backup(&world::options(), &world::clock());
    let made = world::backup(&undo, &MemorySource::new(&noise(4, 8)));
    for error in [planned.expect_err("a plan"), made.expect_err("a backup")] {
        assert_eq!(error.kind(), ErrorKind::Specification);
        assert!(error.to_string().contains("undo archive"), "{error}");
    }
    go_back(&undo, &device).expect("a restore");
    assert!(device.bytes.content() == former);
}

/// An undo archive makes no new image: a restore to a new file or a stream, an export and a drill all refuse to
/// begin.
#[test]
fn an_undo_archive_is_no_image() {
    let (_, _, undo) = restored();
    let archive = world::open(&undo).expect("open");
    let options = world::restore_options();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("new.qcow2");
    let errors = [
        archive
            .restore_to(archive.id(0).unwrap(), &MemoryTarget::absent(), &options, &Silent)
            .expect_err("new"),
        archive
            .restore_to_stream(archive.id(0).unwrap(), &mut Vec::new(), &options, &Silent)
            .expect_err("stream"),
        export(
            &archive,
            archive.id(0).unwrap(),
            &file,
            &ExportOptions { level: Some(1), threads: None },
            &Silent,
        )
        .expect_err("export"),
        drill::read(&archive, archive.id(0).unwrap(), Some(1), &world::clock(), &Silent)
            .expect_err("drill"),
    ];
    for error in errors {
        assert!(error.to_string().contains("undo archive"), "{error}");
    }
    assert!(!file.exists());
}

/// A sector of the target that cannot be read does not prevent a restore: it cannot be saved, which backy reports,
/// and it can be written. Undoing brings back the rest.
#[test]
fn undo_leaves_out_sectors_that_were_unreadable() {
    let revision = noise(1, 8);
    let mut former = revision.clone();
    for block in [2, 5] {
        former[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(&noise(block as u64 + 7, 1));
    }
    let world = World::with_backups(false, std::slice::from_ref(&revision));
    let device =
        Device::new(TargetKind::BlockDevice, &former).with_bad_sector(5 * BLOCK as u64 + 512);
    let undo = SimStorage::new(false);
    let report = save(&world, 0, &device, &undo).expect("an undo archive");
    assert_eq!(report.saved_bytes, BLOCK as u64);
    let archive = world::open(&world.disk).expect("open");
    archive
        .restore_to(archive.id(0).unwrap(), &device, &world::restore_options(), &Silent)
        .expect("a restore");
    assert!(device.bytes.content() == revision);
    let report = go_back(&undo, &device).expect("a restore");
    assert_eq!(report.changed_since, [Extent::new(5 * BLOCK as u64, BLOCK as u64)]);
    former[5 * BLOCK..6 * BLOCK].copy_from_slice(&revision[5 * BLOCK..6 * BLOCK]);
    assert!(device.bytes.content() == former);
}

/// An undo archive of an earlier version has no mark: its tag and what it lacks identify it.
#[test]
fn an_undo_archive_without_its_mark_is_recognised() {
    let (device, former, undo) = restored();
    let mut manifest = world::open(&undo).expect("open").manifest().clone();
    assert!(manifest.is_undo());
    manifest.revisions[0].tags =
        ["undo".parse().expect("a tag"), "x".parse().expect("a tag")].into();
    assert!(manifest.is_undo(), "it is marked");
    let text = |undo: &SimStorage| undo.files()[&FileName::MANIFEST].clone();
    let unmarked = String::from_utf8(text(&undo)).expect("UTF-8");
    let (before, rest) = unmarked.split_once("\"compatible\": [").expect("the field");
    let (marks, after) = rest.split_once(']').expect("its end");
    assert_eq!(marks.trim(), "\"undo\"");
    let unmarked = with_checksum(format!("{before}\"compatible\": []{after}").as_bytes());
    undo.tamper(FileName::MANIFEST, |file| *file = unmarked.expect("a manifest"));
    assert!(world::open(&undo).expect("open").manifest().is_undo());
    assert!(world::backup(&undo, &MemorySource::new(&noise(4, 8))).is_err());
    go_back(&undo, &device).expect("a restore");
    assert!(device.bytes.content() == former);
}
