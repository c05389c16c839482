//! The golden archives: one for each format and each addition to it, committed, never edited, always read.

use std::fs;
use std::path::{Path, PathBuf};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::extent::Extent;
use backy_lib::format::manifest::{FORMAT, Revision};
use backy_lib::hooks::NoHooks;
use backy_lib::origin::LocalOrigin;
use backy_lib::progress::Silent;
use backy_lib::schedule::{self, Past};
use backy_lib::{MaintenanceOptions, PullOptions, RestoreOptions, ScrubOptions};
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::tracked::TrackedDisk;
use backy_tests::{golden, qemu, world};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

/// The existing archives.
const GOLDEN: [&str; 9] = [
    "format-1",
    "format-1-alarms",
    "format-1-flawed",
    "format-1-kept",
    "format-1-pinned",
    "format-1-pulled",
    "format-1-series",
    "format-1-tracked",
    "format-1-undo",
];

fn golden_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// Every format that ever existed has a golden archive, and these tests read each one.
#[test]
fn every_format_has_a_golden_archive() {
    let folder = golden_folder(GOLDEN[0]).parent().expect("a parent").to_owned();
    let entries = fs::read_dir(folder).expect("tests/golden").flatten();
    let mut found: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    assert_eq!(found, GOLDEN);
    for format in 1..=FORMAT {
        let has_format = |name: &str| name == format!("format-{format}");
        assert!(GOLDEN.into_iter().any(has_format), "format {format}");
    }
}

/// One whose revisions were removed, merged and made standalone, and which was scrubbed: all that is left reads
/// right, by QEMU as well, and is clean.
#[test]
fn a_kept_archive_of_format_1_reads_right() {
    let folder = golden_folder("format-1-kept");
    let archive = Archive::open(&folder).expect("the golden archive");
    let states = golden::states();
    let expected = [0, 2, 1, 0, 1, 0].map(|number| &states[number]);
    assert_eq!(archive.revisions().len(), expected.len());
    let mut revisions = Vec::new();
    for (number, state) in expected.into_iter().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
        let uuid = archive.revisions()[number].uuid;
        revisions.push(world::Expected { uuid, bytes: state.clone() });
    }
    assert!(archive.revisions().iter().any(Revision::is_standalone));
    assert!(archive.manifest().drill.is_some());
    assert!(archive.revisions().iter().all(|revision| !revision.verified.is_empty()));
    let check = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
    assert_eq!(check.expect("a check").findings, []);
    if qemu::available() {
        let copy = copy_of(&folder);
        qemu::check(copy.path(), &revisions, 0, true).expect("QEMU agrees");
    }
}

/// A copy whose third revision has arrived in part: what has arrived is used, and nothing is left of it afterwards.
#[test]
fn a_copy_of_format_1_continues() {
    let folder = copy_of(&golden_folder("format-1-pulled"));
    let spool = folder.path().join("pull.spool");
    let archive = Archive::open(folder.path()).expect("the golden archive");
    assert_eq!(archive.revisions().len(), 2);
    assert!(archive.manifest().has_spool() && spool.exists());
    let theirs = Archive::open(&golden_folder("format-1")).expect("the golden archive");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let mut origin = LocalOrigin::new(theirs);
    let options = PullOptions { threads: Some(1), ..PullOptions::default() };
    let report = writer.pull(&mut origin, &options, &world::clock(), &Silent).expect("a pull");
    assert_eq!(report.pulled.len(), 2);
    assert_eq!(report.pulled[0].reused_bytes, 2 * world::BLOCK_SIZE.bytes());
    assert!(!spool.exists() && writer.archive().manifest().spool.is_none());
    for (number, state) in golden::states().iter().rev().enumerate() {
        let found = world::read_revision(writer.archive(), number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
}

/// One of a source that keeps marks: it reads right, and says what was marked, read, compared and not reported. Without
/// the marks, the next backup reads everything, and works.
#[test]
fn a_tracked_archive_of_format_1_reads_right() {
    let folder = copy_of(&golden_folder("format-1-tracked"));
    let archive = Archive::open(folder.path()).expect("the golden archive");
    let states = golden::unusual_states();
    for (number, state) in states.iter().take(7).rev().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let manifest = archive.manifest();
    assert!(manifest.archive.is_some());
    let [newest, before, ..] = archive.revisions() else { panic!("two revisions") };
    let bookmark = newest.bookmark.as_ref().expect("a bookmark");
    assert_eq!((&*bookmark.tracker, bookmark.granularity), ("simulated", 1));
    let hints = newest.hints.as_ref().expect("hints");
    assert_eq!((hints.since, hints.reason.as_deref()), (Some(before.uuid), None));
    assert!(hints.skipped_bytes > 0 && hints.compared_bytes > 0 && newest.compared.len() > 1);
    assert!(before.compared.is_empty());
    let third = &archive.revisions()[4];
    assert!(third.bookmark.is_none());
    assert_eq!(third.hints.as_ref().expect("hints").since, None);
    let alarm = manifest.alarms.iter().find(|alarm| alarm.revision == third.uuid);
    let unreported = alarm.and_then(|alarm| alarm.unreported.as_ref()).expect("an alarm");
    assert_eq!((unreported.blocks.len(), unreported.blocks[0].first.0), (1, 2));
    let source = TrackedDisk::new(&states[0]);
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let (open, options) = (|_: &Archive| Ok(source.open()), world::options());
    let made = writer.backup_from(open, &mut NoHooks, &options, &world::clock(), &Silent);
    let made = made.expect("a backup").expect("one that was asked for");
    assert!(made.revision.hints.expect("hints").reason.expect("why").contains("missing"));
    assert!(world::read_revision(writer.archive(), 0).expect("a revision") == states[0]);
}

/// One with the beginnings of its series: they are what the first backup made them, and an archive from before
/// continues with its oldest revisions.
#[test]
fn an_archive_of_format_1_with_series_keeps_its_hour() {
    let archive = Archive::open(&golden_folder("format-1-series")).expect("the golden archive");
    let states = golden::states();
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let before = Archive::open(&golden_folder("format-1")).expect("the golden archive");
    assert!(before.manifest().series.is_empty());
    for archive in [archive, before] {
        let config = archive.config().expect("its config");
        let now = archive.revisions()[0].started + SignedDuration::from_hours(9);
        let past = Past::of_manifest(archive.manifest(), TimeZone::UTC);
        let next = schedule::next(&past, &config, now).expect("a schedule").0;
        let began = archive.revisions().last().expect("the first").started;
        assert_eq!(next.duration_since(began).as_hours() % 24, 0, "{next} after {began}");
        for series in &archive.manifest().series {
            assert_eq!(series.began, began, "{}", series.tag);
        }
    }
}

/// One with a confirmed alarm, an open one, and a known lost block: the manifest says so, what is not lost reads
/// right, and nothing expires in a copy until the open alarm is confirmed.
#[test]
fn an_archive_of_format_1_with_alarms_reads_right() {
    let folder = golden_folder("format-1-alarms");
    let archive = Archive::open(&folder).expect("the golden archive");
    let states = golden::unusual_states();
    assert_eq!(archive.revisions().len(), states.len());
    for (number, state) in states.iter().rev().enumerate() {
        match world::read_revision(&archive, number) {
            Ok(found) => assert!(found == *state, "revision {number}"),
            // The block was lost when this was the newest.
            Err(error) => assert!(number == 1, "revision {number}: {error}"),
        }
    }
    let manifest = archive.manifest();
    let uuid = |number: usize| archive.revisions()[number].uuid;
    let alarms: Vec<_> =
        manifest.alarms.iter().map(|a| (a.revision, a.confirmed.is_some())).collect();
    assert_eq!(alarms, [(uuid(1), true), (uuid(0), false)]);
    assert_eq!(manifest.alarms[0].changed_bytes, 12 * 4096);
    assert_eq!(manifest.alarms[0].usual_bytes, 4096);
    assert_eq!(manifest.known_damage.len(), 1);
    assert_eq!(manifest.confirmed_damage().get(&uuid(1)), Some(&1));

    let copy = copy_of(&folder);
    let archive = Archive::open(copy.path()).expect("the copy");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let mut maintain = |confirm: bool| {
        let options = MaintenanceOptions { keep: Some(2), confirm, threads: Some(1) };
        writer.maintain(&options, &world::clock(), &Silent).expect("maintenance");
        writer.archive().revisions().len()
    };
    assert_eq!((maintain(false), maintain(true)), (states.len(), 2));
}

/// One with what this program records of its source, of lost blocks, of flaws and of what was written since it was
/// read: the newest revision reads right, the others but for what is lost, and nothing in a copy expires or is merged
/// before somebody confirms it.
#[test]
fn a_flawed_archive_of_format_1_reads_right() {
    let folder = golden_folder("format-1-flawed");
    let archive = Archive::open(&folder).expect("the golden archive");
    let states = golden::partitioned_states();
    assert_eq!(archive.revisions().len(), states.len());
    let lost: [&[u64]; 5] = [&[], &[9], &[9], &[2, 9], &[2, 9]];
    for ((number, state), lost) in states.iter().rev().enumerate().zip(lost) {
        let target = MemoryTarget::absent();
        let options = RestoreOptions { keep_going: true, ..world::restore_options() };
        let report = archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect("a restore");
        let mut expected = state.clone();
        let mut unreadable = Vec::new();
        for &block in lost {
            let extent = Extent::new(block * 4096, 4096);
            expected[extent.offset as usize..extent.end() as usize].fill(0);
            unreadable.push(extent);
        }
        assert!(target.content() == expected, "revision {number}");
        assert_eq!(report.unreadable, unreadable, "revision {number}");
    }
    let manifest = archive.manifest();
    let revisions = archive.revisions();
    assert!(manifest.image_file.is_some() && !manifest.removable.is_empty());
    let source = manifest.source.as_ref().expect("a source");
    assert_eq!(source.partition_table_uuid.as_deref(), Some("02281126"));
    assert!(!revisions[0].rewritten.is_empty());
    let has_table = |revision: &Revision| revision.table_digest.is_some();
    assert_eq!(
        revisions.iter().map(has_table).collect::<Vec<_>>(),
        [false, true, true, false, false]
    );
    assert_eq!(revisions[3].open_flaws().count(), 1);

    let copy = copy_of(&folder);
    let archive = Archive::open(copy.path()).expect("the copy");
    let options = MaintenanceOptions { keep: Some(1), confirm: false, threads: Some(1) };
    let plan = archive.plan_maintenance(&options).expect("a plan");
    assert!(plan.steps.is_empty() && !plan.frozen.is_empty());
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let source = MemorySource::new(&states[0]);
    let made = writer.backup(&source, &world::options(), &world::clock(), &Silent);
    assert!(made.expect("a backup").is_some());
    let found = world::read_revision(writer.archive(), 1).expect("a revision");
    assert!(found == states[4]);
}

/// One with a pinned tag of the schedule, and one that was only pinned: all revisions read right, and unpinned each
/// is what it was.
#[test]
fn a_pinned_archive_of_format_1_reads_right() {
    let folder = copy_of(&golden_folder("format-1-pinned"));
    let archive = Archive::open(folder.path()).expect("the copy");
    let states = golden::states();
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let tags = ["weekly", "mine"].map(|tag| tag.parse().expect("a tag")).into();
    let oldest = archive.revisions().last().expect("a revision");
    let id = oldest.uuid;
    assert_eq!((&oldest.pinned_tags, oldest.scheduled_tags.len()), (&tags, 1));
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let left = writer.tag(id, &Default::default(), &tags, &world::clock(), &Silent);
    let left: Vec<String> = left.expect("a tag").iter().map(ToString::to_string).collect();
    assert_eq!(left, ["daily", "monthly", "weekly"]);
}

/// An undo archive: backy recognizes it and finds no problem, and it restores what a restore has overwritten.
#[test]
fn an_undo_archive_of_format_1_is_restored() {
    let folder = golden_folder("format-1-undo");
    let archive = Archive::open(&folder).expect("the golden archive");
    assert!(archive.manifest().is_undo() && !archive.revisions()[0].findings.bad_blocks.is_empty());
    let check = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
    assert_eq!(check.expect("a check").findings, []);
    let states = golden::states();
    let target = MemoryTarget::holding(&states[3]);
    let report =
        archive.restore_to(archive.id(0).unwrap(), &target, &world::restore_options(), &Silent);
    assert!(report.expect("a restore").is_exact());
    assert!(target.content() == golden::overwritten_state());
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(folder).expect("the golden archive").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copy a file");
    }
    copy
}

/// All its revisions read as the states they were made of, with the tags they were given.
#[test]
fn all_revisions_of_format_1_read_right() {
    let archive = Archive::open(&golden_folder("format-1")).expect("the golden archive");
    let states = golden::states();
    assert_eq!(archive.revisions().len(), states.len());
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(&archive, number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let pinned: Vec<String> =
        archive.revisions()[1].pinned_tags.iter().map(ToString::to_string).collect();
    assert_eq!(pinned, ["before-upgrade"]);
}

/// A copy of it can be backed up to, and all its revisions stay right.
#[test]
fn format_1_can_be_continued() {
    let folder = copy_of(&golden_folder("format-1"));
    let mut states = golden::states();
    states.push(states[0].clone());
    let archive = Archive::open(folder.path()).expect("the copy");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let source = MemorySource::new(&states[0]);
    let made = writer.backup(&source, &world::options(), &world::clock(), &Silent);
    assert!(made.expect("a backup").is_some());
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(writer.archive(), number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
}
