//! Archives of 2014 are imported: what is provably right comes over, the rest is named, and the old folder is
//! only read.
#![expect(clippy::disallowed_methods, reason = "damages the files of another program")]

mod anywhere;
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

/// The sample from 2014 comes over with its names, times and bytes, oldest first, pinned.
#[test]
fn the_sample_comes_over() {
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

/// What was imported just now has not been lying about unchecked for years, whenever it was backed up.
#[test]
fn what_was_just_imported_counts_as_written_now() {
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
/// the older one reads through to it. An import that is interrupted goes on in the same order.
#[test]
fn the_order_is_that_of_the_parents_whatever_the_times_say() {
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

/// Any archive of any old block size, with images of odd sizes that grow and shrink, comes over byte for byte;
/// only what differs from one revision to the next is read.
#[test]
fn any_archive_comes_over_byte_for_byte() {
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

/// A byte that is wrong in a delta costs that block in the revisions that read it there, and it is named; all
/// others come over.
#[test]
fn a_wrong_byte_in_a_delta_costs_its_block() {
    let scene = Scene::small();
    // Revision 2 holds its blocks 1 and 5; revisions 0 and 1 have others there but for block 5.
    scene.old.change_data(2, |data| data[1500] ^= 1);
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2]);
    let damaged: Vec<_> = report.imported[2].damaged.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(damaged, [(5000, 1000)]);
    said(&told, &[&uuid(2), "block 5", "another MD5"]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!report.is_complete());
}

/// A block that is marked as bad is lost though its bytes are there; a source that knows it heals it.
#[test]
fn a_block_that_is_marked_as_bad_is_lost() {
    let scene = Scene::small();
    scene.old.change_rev(4, |rev| {
        let sum = rev["blocksums"]["8"].as_str().expect("an MD5").to_owned();
        rev["blocksums"]["8"] = json!(format!("bad:{sum}"));
    });
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
    said(&told, &[&uuid(4), "block 8", "marked as bad"]);
    let newest = &scene.old.revisions[4].1;
    world::backup(&scene.disk, &MemorySource::new(newest)).expect("a backup");
    let archive = scene.archive();
    assert!(world::read_revision(&archive, 0).expect("the new revision") == *newest);
    assert_eq!(archive.revisions()[0].findings.bad_block_count(), 0);
    world::read_revision(&archive, 1).expect_err("a lost block that became right by itself");
}

/// Data files that are too short, too long, or missing: what is right of them comes over.
#[test]
fn data_files_of_wrong_length() {
    let scene = Scene::small();
    scene.old.change_data(4, |data| data.truncate(7_300));
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2, 3, 4]);
    let damaged: Vec<_> = report.imported[4].damaged.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(damaged, [(7000, 3000)]);
    said(&told, &[&uuid(4), "blocks 8 to 9", "not in the file"]);
    said(&report.notes, &[&uuid(4), "last block is not there"]);

    let scene = Scene::small();
    scene.old.change_data(4, |data| data.extend([7; 5000]));
    scene.old.change_data(1, |data| data.extend([7; 5000]));
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[]);
    assert!(told.is_empty(), "{told:?}");
    said(&report.notes, &[&uuid(4), "last block of the image has 700 bytes"]);
    said(&report.notes, &[&uuid(1), "found 7000 bytes, expected 2000"]);

    let scene = Scene::small();
    fs::remove_file(scene.old.data(2)).expect("remove a data file");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[0, 1, 2]);
    said(&report.notes, &[&uuid(2), "missing"]);

    let scene = Scene::small();
    fs::remove_file(scene.old.data(4)).expect("remove a data file");
    let (report, _) = scene.import();
    // The oldest holds half of its blocks itself, the others less.
    scene.check(&report, &[0], &[0]);
    assert!(reason(&report, &uuid(4)).contains("only 0 of its 10 blocks"), "{report:?}");
}

/// The last block of an older image that was padded with zeros when the source grew, is cut where its MD5 says.
#[test]
fn a_padded_last_block_is_cut_where_its_md5_says() {
    let mut state: Vec<u8> = (0..2_300u32).map(|at| (at % 13) as u8).collect();
    let mut states = vec![state.clone()];
    state.extend([9; 3000]);
    states.push(state);
    let scene = Scene::new(1000, &states);
    scene.old.change_data(0, |data| data.resize(1000, 0));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1], &[]);
    said(&report.notes, &[&uuid(0), "300 bytes"]);
}

/// Numbers of blocks that are not in the image do no harm to those that are.
#[test]
fn blocks_past_the_end_are_left_out() {
    let scene = Scene::small();
    scene.old.change_rev(1, |rev| rev["blocksums"]["77"] = json!(md5_hex(b"x")));
    scene.old.change_data(1, |data| data.push(b'x'));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3, 4], &[]);
    said(&report.notes, &[&uuid(1), "block 77", "10"]);
}

/// A number of blocks, or of one block, that is far past what is stored is named, and costs nothing but that.
#[test]
fn numbers_far_past_what_is_stored() {
    let scene = Scene::small();
    scene.old.change_rev(4, |rev| {
        rev["blocks"] = json!(1 << 24);
        rev["blocksums"]["16777215"] = json!(md5_hex(b"x"));
    });
    let (report, told) = scene.import();
    scene.check(&report, &[0, 1, 2, 3], &[]);
    assert!(reason(&report, &uuid(4)).contains("only 10 of its 16777216"), "{report:?}");
    said(&told, &[&uuid(4), "block 16777215", "not in the file"]);
}

/// An image whose blocks all seem right while it is not does not come over, nor does one of which most is not there.
#[test]
fn what_is_not_proven_does_not_come_over() {
    let scene = Scene::small();
    // As after a crash before the sums were written.
    scene.old.change_rev(1, |rev| rev["blocksums"] = json!({}));
    scene.old.change_rev(3, |rev| rev["blocks"] = json!(5_000_000));
    let (report, _) = scene.import();
    scene.check(&report, &[2, 4], &[]);
    assert!(reason(&report, &uuid(1)).contains("expected"), "{report:?}");
    assert!(reason(&report, &uuid(0)).contains("MD5"), "{report:?}");
    assert!(reason(&report, &uuid(3)).contains("only 10 of its 5000000"), "{report:?}");

    let scene = Scene::small();
    scene.old.change_rev(4, |rev| rev["checksum"] = Value::Null);
    scene.old.change_rev(3, |rev| rev["checksum"] = Value::Null);
    scene.old.change_rev(2, |rev| rev["checksum"] = json!(md5_hex(b"another")));
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 3, 4], &[]);
}

/// A delta whose parent has neither a `.rev` nor a data file does not come over, nor what hangs on it.
#[test]
fn a_delta_without_its_parent() {
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(2)).expect("remove");
    fs::remove_file(scene.old.data(2)).expect("remove");
    let (report, told) = scene.import();
    scene.check(&report, &[3, 4], &[]);
    assert!(reason(&report, &uuid(1)).contains(&uuid(2)), "{report:?}");
    assert!(reason(&report, &uuid(0)).contains(&uuid(2)), "{report:?}");
    said(&told, &[&uuid(1), "not imported"]);
}

/// The wedge of a backup that crashed in 2014: the parent is a data file without `.rev`. What it proves by MD5
/// comes over.
#[test]
fn a_parent_without_rev_proves_what_it_can() {
    // Before anything was written: the data file is the image of the newest delta.
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(4)).expect("remove");
    scene.old.change_rev(3, |rev| rev["blocksums"] = json!({}));
    fs::write(scene.old.data(4), &scene.old.revisions[3].1).expect("write");
    fs::write(scene.old.data(3), b"").expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2, 3], &[]);
    assert!(reason(&report, &uuid(4)).contains("no .rev"), "{report:?}");

    // After a part was written: revision 3 cannot be proven. Revisions 0 to 2 need nothing of what was
    // overwritten but block 6.
    let scene = Scene::small();
    fs::remove_file(scene.old.rev(4)).expect("remove");
    scene.old.change_rev(3, |rev| rev["blocksums"] = json!({}));
    let mut image = scene.old.revisions[3].1.clone();
    image[1000..2000].fill(1);
    fs::write(scene.old.data(4), &image).expect("write");
    let (report, _) = scene.import();
    scene.check(&report, &[0, 1, 2], &[]);
    let why = reason(&report, &uuid(3));
    assert!(why.contains("MD5") && why.contains(&uuid(4)), "{why}");
}

/// A full revision that nothing refers to comes over by itself; one whose bytes are not right does not.
/// Revisions of several chains come in the order of their times.
#[test]
fn several_chains_come_in_the_order_of_time() {
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

/// Parents that lead in a circle, deltas without parent, files that are no JSON or name another revision: each
/// is named, and the rest comes over.
#[test]
fn files_that_mean_nothing_are_named() {
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

/// `last` that leads to a delta or to nothing is noted; one that leads to the full revision is not.
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
    // The block size is not known now, and with another one nothing is right.
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

/// An import may be stopped anywhere: what it had made stays and is right, and another import goes on after it.
#[test]
fn an_interrupted_import_goes_on() {
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

/// An archive that has revisions of its own is refused, and so are folders that are no old archive or hold the new one.
#[test]
fn what_cannot_be_imported_is_refused() {
    let scene = Scene::small();
    world::backup(&scene.disk, &MemorySource::new(b"its own")).expect("a backup");
    let own = scene.archive().revisions()[0].uuid.to_string();
    let error = scene.try_import(&Silent).expect_err("an import beside other revisions");
    assert_eq!(error.kind(), ErrorKind::Specification);
    assert!(error.to_string().contains(&own), "{error}");
    assert_eq!(scene.archive().revisions().len(), 1);

    // All is there, and a newer one.
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

/// Changes a data file as soon as the first revision is being made.
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

/// An old archive that changes while it is imported is noticed before wrong bytes come over.
#[test]
fn an_old_archive_that_changes_meanwhile_is_noticed() {
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

/// Any damage to any file of an old archive: each revision that comes over has the right bytes, but where it is
/// said to be damaged and refuses to be read.
#[test]
fn any_damage_gives_right_bytes_or_says_so() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let scene = Scene::small();
        let files: Vec<PathBuf> = listing(&scene.old.folder).into_keys().collect();
        for _ in 0..=random.below(2) {
            let path = &files[random.below(files.len() as u64) as usize];
            let mut content = fs::read(path).expect("read");
            let at = random.below(content.len().max(1) as u64) as usize;
            match random.below(4) {
                _ if content.is_empty() => content.push(b'7'),
                0 => content.truncate(at),
                1 => content[at] ^= 1 << random.below(8),
                2 => content.extend(vec![b'7'; at]),
                _ => content[at] = b'0' + random.below(10) as u8,
            }
            fs::write(path, content).expect("write");
        }
        let Ok(report) = scene.try_import(&Silent) else { continue };
        let archive = scene.archive();
        assert_eq!(report.imported.len(), archive.revisions().len());
        for (at, revision) in report.imported.iter().rev().enumerate() {
            let name = revision.uuid.to_string();
            let expected = scene.old.revisions.iter().find(|(uuid, _)| *uuid == name);
            let (_, expected) = expected.expect("a revision that there was");
            match world::read_revision(&archive, at) {
                Ok(bytes) => {
                    assert!(revision.damaged.is_empty(), "seed {seed}: {name}");
                    assert!(bytes == *expected, "seed {seed}: {name} has wrong bytes");
                }
                Err(error) => assert!(!revision.damaged.is_empty(), "seed {seed}: {error}"),
            }
        }
    }
}
