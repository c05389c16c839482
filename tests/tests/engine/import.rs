//! Archives of 2014 are imported: what is provably right is imported, the rest is named, and the old folder is only
//! read.
#![expect(clippy::disallowed_methods, reason = "damages the files of another program")]

mod anywhere;
mod damage;
mod scene;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use backy_lib::archive::ArchiveWriter;
use backy_lib::clock::FixedClock;
use backy_lib::health::ProblemKind;
use backy_lib::progress::{Event, Observer, Phase, Silent};
use backy_lib::status::status;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::{Error, ErrorKind};
use backy_tests::legacy::{OldArchive, md5_hex, uuid};
use backy_tests::memory::MemorySource;
use backy_tests::stop::StopAt;
use backy_tests::world::{self, changed_state, random_state};
use serde_json::{Value, json};

use scene::{Scene, listing, reason, said};

/// The sample from 2014 is imported with its names, times and bytes, oldest first, pinned.
#[test]
fn the_sample_is_imported() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("legacy/scrub-consistent");
    let disk = SimStorage::new(false);
    world::init(&disk).expect("init");
    let archive = world::open(&disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let report = writer.import(&sample, None, &world::clock(), &Silent).expect("an import");
    assert!(report.is_complete() && report.present.is_empty(), "{report:?}");
    let archive = world::open(&disk).expect("open");
    let expected = [
        ("528f6c52-d4a6-4237-806a-78207688f511", "2014-03-31T13:28:03.524233Z", "original.1"),
        ("de8285c3-af53-4967-a257-e66ea24f1020", "2014-03-31T13:27:34.468589Z", "original.2"),
        ("b5200b2a-ef3a-45ec-a5d6-45b28c41fcca", "2014-03-31T12:45:33.74584Z", "original.2"),
    ];
    assert_eq!(archive.revisions().len(), expected.len());
    for (number, (uuid, time, file)) in expected.into_iter().enumerate() {
        let revision = &archive.revisions()[number];
        assert_eq!(revision.uuid.to_string(), uuid);
        assert_eq!(revision.started.to_string(), time);
        // It was stored just now.
        assert_eq!(revision.finished, world::clock().0);
        assert!(revision.pinned_tags.iter().map(|tag| tag.as_str()).eq(["imported"]));
        assert_eq!(revision.tags, revision.pinned_tags);
        let bytes = world::read_revision(&archive, number).expect("a revision");
        assert!(bytes == fs::read(sample.join(file)).expect("the original"));
    }
    let source = archive.manifest().source.clone().expect("a source");
    assert_eq!(source.kind, "archive of 2014");
    said(&report.notes, &["'imported'", "they never expire"]);
}

/// A freshly imported revision does not count as unverified for years, however old its backup is.
#[test]
fn imported_revisions_count_as_written_now() {
    let disk = SimStorage::new(false);
    world::init(&disk).expect("init");
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("legacy/scrub-consistent");
    let archive = world::open(&disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    writer.import(&sample, None, &world::clock(), &Silent).expect("an import");
    let unchecked = |days: i64| {
        let now = world::clock().0 + jiff::SignedDuration::from_hours(24 * days);
        let report = status(writer.archive(), &[], &FixedClock(now)).expect("a status");
        assert_eq!(report.unchecked_since, Some(world::clock().0));
        report.health.problems.iter().any(|problem| problem.kind == ProblemKind::Scrub)
    };
    assert_eq!((unchecked(0), unchecked(400)), (false, true));
}

/// The clock of the old machine had gone back a year before the newest revision: it is the newest here, too, since
/// the older one reads through to it. An interrupted import continues in the same order.
#[test]
fn parents_decide_the_order_not_times() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut random = Random(9);
    let first = random_state(&mut random, 3 * 4096);
    let second = changed_state(&mut random, &first, 3 * 4096);
    let third = changed_state(&mut random, &second, 3 * 4096);
    let states = [first, second, third];
    let old = OldArchive::write(&folder.path().join("old"), 4096, 1, &states);
    for (number, days) in [(0, 3.0), (1, 5.0), (2, -365.0)] {
        old.change_rev(number, |rev| rev["timestamp"] = (1_396_269_933.0 + days * 86400.0).into());
    }
    let disk = SimStorage::new(false);
    world::init(&disk).expect("init");
    let archive = world::open(&disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let report = writer.import(&old.folder, None, &world::clock(), &Silent).expect("an import");
    assert!(report.is_complete(), "{report:?}");
    for (number, state) in states.iter().rev().enumerate() {
        let found = world::read_revision(writer.archive(), number).expect("a revision");
        assert!(found == *state, "revision {number}");
    }
    let again = writer.import(&old.folder, None, &world::clock(), &Silent).expect("once more");
    assert_eq!((again.present.len(), again.imported.len()), (3, 0));
}

/// Any archive of any old block size, with images of odd sizes that grow and shrink, is imported byte for byte. The
/// import reads only what differs from one revision to the next.
#[test]
fn any_archive_is_imported_byte_for_byte() {
    for (seed, block_bytes) in
        [50, 4096, 65_536, 100_000, 1 << 20, 4 << 20].into_iter().cycle().take(30).enumerate()
    {
        let mut random = Random(seed as u64);
        let limit = if block_bytes == 50 { 20_000 } else { 2 * block_bytes + 300_000 } as u64;
        let mut bytes = 1 + random.below(limit) as usize;
        let mut states = vec![random_state(&mut random, bytes)];
        for _ in 0..random.below(5) {
            if random.below(3) == 0 {
                bytes = random.below(limit) as usize;
            }
            let last = states.last().expect("a state").clone();
            states.push(changed_state(&mut random, &last, bytes));
        }
        let scene = Scene::new(block_bytes, &states);
        let (report, told) = scene.import();
        assert!(report.is_complete() && told.is_empty(), "seed {seed}: {report:?} {told:?}");
        let all: Vec<usize> = (0..states.len()).collect();
        scene.check(&report, &all, &[]);
    }
    let scene = Scene::small();
    scene.import();
    let read: Vec<u64> =
        scene.archive().revisions().iter().rev().map(|r| r.statistics.read_bytes).collect();
    assert_eq!(read[0], 9700);
    assert!(read[1..].iter().all(|bytes| *bytes < 9700), "{read:?}");
}

/// A full revision that nothing refers to is imported by itself, unless its bytes are wrong. Revisions of several
/// chains come in the order of their times.
#[test]
fn several_chains_are_imported_in_order_of_time() {
    let scene = Scene::small();
    let mut random = Random(8);
    let orphan = vec![random_state(&mut random, 3_500)];
    for number in [7, 9] {
        OldArchive::write(&scene.old.folder, 1000, number, &orphan);
    }
    let wrong = OldArchive::write(&scene.old.folder, 1000, 8, &orphan);
    wrong.change_data(0, |data| data.fill(b'w'));
    // Older than the newest of the other chain.
    let early = OldArchive::write(&scene.old.folder, 1000, 9, &orphan);
    early.change_rev(0, |rev| rev["timestamp"] = json!(scene.old.seconds(2) + 5.0));
    let (report, _) = scene.import();
    let found: Vec<String> = report.imported.iter().map(|r| r.uuid.to_string()).collect();
    assert_eq!(found, [uuid(0), uuid(1), uuid(2), uuid(9), uuid(3), uuid(4), uuid(7)]);
    assert!(reason(&report, &uuid(8)).contains("none of its 4 blocks"), "{report:?}");
    said(&report.notes, &["4 full revisions"]);
    let archive = scene.archive();
    for (number, at) in [(0, 6), (1, 5), (2, 4), (3, 2), (4, 1)] {
        let read = world::read_revision(&archive, at).expect("a revision");
        assert!(read == scene.old.revisions[number].1, "revision {number}");
    }
    assert!(world::read_revision(&archive, 0).expect("the orphan") == orphan[0]);
}

/// Parents that form a circle, deltas without a parent, files that are no JSON or name another revision: each is
/// named, and the rest is imported.
#[test]
fn unknown_files_are_named() {
    let scene = Scene::small();
    scene.old.change_rev(1, |rev| rev["parent"] = json!(uuid(0)));
    let (report, _) = scene.import();
    scene.check(&report, &[2, 3, 4], &[]);
    for number in [0, 1] {
        assert!(reason(&report, &uuid(number)).contains("circle"), "{report:?}");
    }

    let scene = Scene::small();
    scene.old.change_rev(0, |rev| rev["parent"] = Value::Null);
    scene.old.change_rev(1, |rev| rev["uuid"] = json!(uuid(3)));
    fs::write(scene.old.folder.join("notes.rev"), "not JSON").expect("write");
    fs::write(scene.old.folder.join(uuid(99)), "no .rev").expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[2, 3, 4], &[]);
    assert!(reason(&report, &uuid(0)).contains("without a parent"), "{report:?}");
    assert!(reason(&report, &format!("{}.rev", uuid(1))).contains(&uuid(3)), "{report:?}");
    assert!(reason(&report, "notes.rev").contains("JSON"), "{report:?}");
    assert!(reason(&report, &uuid(99)).contains("no .rev"), "{report:?}");
}

/// `last` that leads to a delta or to nothing is reported. One that leads to the full revision is not.
#[test]
fn last_is_looked_at() {
    for (target, word) in
        [(uuid(4), None), (uuid(2), Some("a delta")), (uuid(66), Some("no revision"))]
    {
        let scene = Scene::small();
        symlink(scene.old.folder.join(&target), scene.old.folder.join("last")).expect("a link");
        symlink(format!("{target}.rev"), scene.old.folder.join("last.rev")).expect("a link");
        let (report, _) = scene.import();
        scene.check(&report, &[0, 1, 2, 3, 4], &[]);
        match word {
            Some(word) => said(&report.notes, &["last", word, &target]),
            None => assert_eq!(report.notes.len(), 1, "{:?}", report.notes),
        }
    }
}

/// Links, FIFOs and folders in the place of files are neither followed nor waited for.
#[test]
fn links_and_fifos_are_refused() {
    let scene = Scene::small();
    let outside = scene.folder.path().join("outside");
    fs::copy(scene.old.data(4), &outside).expect("copy");
    fs::remove_file(scene.old.data(4)).expect("remove");
    symlink(&outside, scene.old.data(4)).expect("a link");
    let (report, _) = scene.import();
    scene.check(&report, &[0], &[0]);
    assert!(reason(&report, &uuid(4)).contains("only 0 of its 10 blocks"), "{report:?}");
    said(&report.notes, &[&uuid(4), "symbolic link"]);

    let scene = Scene::small();
    for path in [scene.old.data(1), scene.old.rev(0)] {
        fs::remove_file(&path).expect("remove");
        let made = Command::new("mkfifo").arg(&path).status().expect("run mkfifo");
        assert!(made.success());
    }
    fs::remove_file(scene.old.folder.join("config")).expect("remove");
    fs::create_dir(scene.old.folder.join("config")).expect("a folder");
    scene.old.change_rev(4, |_| {});
    let (report, _) = scene.import();
    // The block size is unknown now, and with another one nothing is right.
    scene.check(&report, &[], &[]);
    said(&report.notes, &["config", "regular file", "4194304"]);
    said(&report.notes, &[&uuid(1), "regular file"]);
    assert!(reason(&report, &format!("{}.rev", uuid(0))).contains("regular file"), "{report:?}");
}

/// A config without a block size, or none at all, costs nothing where the usual size is right.
#[test]
fn the_usual_block_size_is_tried() {
    let mut random = Random(4);
    let first = random_state(&mut random, 5 << 20);
    let states = [first.clone(), changed_state(&mut random, &first, 5 << 20)];
    let scene = Scene::new(4 << 20, &states);
    fs::write(scene.old.folder.join("config"), "{\"source\": \"x\", ").expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1], &[]);
    said(&report.notes, &["config", "JSON"]);
    let scene = Scene::new(4 << 20, &states);
    fs::write(scene.old.folder.join("config"), "{\"blocksize\": 4194304}").expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1], &[]);
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
}

/// An import may be stopped anywhere: what it had made stays and is right, and another import continues after it.
#[test]
fn an_interrupted_import_continues() {
    let mut stopped_at = Vec::new();
    for asked in 0.. {
        let scene = Scene::small();
        scene.old.change_data(2, |data| data[1500] ^= 1);
        let stop = StopAt::after(asked);
        match scene.try_import(&stop) {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
        let archive = scene.archive();
        let done = archive.revisions().len();
        stopped_at.push(done);
        let (report, _) = scene.import();
        let there: Vec<String> = report.present.iter().map(|r| r.uuid.to_string()).collect();
        assert_eq!(there, (0..done).map(uuid).collect::<Vec<_>>());
        assert_eq!(report.imported.len(), 5 - done);
        let archive = scene.archive();
        for number in 0..5 {
            let read = world::read_revision(&archive, 4 - number);
            match number {
                0..=2 => drop(read.expect_err("a damaged revision")),
                _ => assert!(read.expect("a revision") == scene.old.revisions[number].1),
            }
        }
        let (again, _) = scene.import();
        assert_eq!((again.present.len(), again.imported.len()), (5, 0));
    }
    assert!((0..5).all(|done| stopped_at.contains(&done)), "{stopped_at:?}");
}

/// An archive that has revisions of its own is refused, and so are folders that are no old archive or hold the new
/// one.
#[test]
fn import_refuses_archives_with_revisions_and_other_folders() {
    let scene = Scene::small();
    world::backup(&scene.disk, &MemorySource::new(b"its own")).expect("a backup");
    let own = scene.archive().revisions()[0].uuid.to_string();
    let error = scene.try_import(&Silent).expect_err("an import beside other revisions");
    assert_eq!(error.kind(), ErrorKind::Specification);
    assert!(error.to_string().contains(&own), "{error}");
    assert_eq!(scene.archive().revisions().len(), 1);

    // All revisions are there, and a newer one.
    let scene = Scene::small();
    scene.import();
    world::backup(&scene.disk, &MemorySource::new(b"its own")).expect("a backup");
    assert!(scene.try_import(&Silent).is_err());

    let folder = tempfile::tempdir().expect("a temporary folder");
    let inspect = |old: &Path, new: &Path| backy_lib::import::inspect(old, new);
    let error = inspect(folder.path(), Path::new("/nowhere")).expect_err("an empty folder");
    assert!(error.to_string().contains("expected an archive of 2014"), "{error}");
    assert!(inspect(&folder.path().join("none"), Path::new("/nowhere")).is_err());
    let old = &scene.old.folder;
    for inside in
        [old.clone(), old.join("new"), old.join("../old/x/y"), scene.folder.path().to_owned()]
    {
        let error = inspect(old, &inside).expect_err("folders within each other");
        assert_eq!(error.kind(), ErrorKind::Source, "{error}");
    }
    let source = inspect(old, &folder.path().join("new")).expect("an old archive");
    assert_eq!(source, Some(PathBuf::from("/dev/vg0/old")));
}

/// Changes a data file as soon as the import makes the first revision.
struct ChangeLater<'a> {
    old: &'a OldArchive,
}

impl Observer for ChangeLater<'_> {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Begin { phase: Phase::Backup, .. }) {
            self.old.change_data(2, |data| data.fill(b'!'));
        }
    }

    fn cancelled(&self) -> bool {
        false
    }
}

/// An old archive that changes during the import is noticed before any wrong bytes are imported.
#[test]
fn an_old_archive_that_changes_during_the_import_is_detected() {
    let scene = Scene::small();
    let mut writer = ArchiveWriter::open(scene.archive(), "a test", &Silent).expect("the lock");
    let observer = ChangeLater { old: &scene.old };
    let error = writer
        .import(&scene.old.folder, Some(1), &world::clock(), &observer)
        .expect_err("an import of what changes");
    assert!(matches!(error, Error::Source { .. }), "{error}");
    assert!(error.to_string().contains("changed while it was read"), "{error}");
    drop(writer);
    for number in 0..scene.archive().revisions().len() {
        world::read_revision(&scene.archive(), number).expect("a revision");
    }
}
