//! Manifests and files of different moments.

use std::sync::{Arc, Mutex};

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::progress::{Event, Observer, Silent};
use backy_lib::storage::sim::{Fault, SimStorage, Unsynced};
use backy_lib::storage::{Access, DigestsKind, FileName, Storage};
use backy_lib::{ErrorKind, ProblemKind, ScrubOptions};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, Expected, World};

use super::{Files, WRITERS, put, states, write};

/// An archive at one moment.
#[derive(Clone)]
struct Moment {
    what: String,
    files: Files,
    expected: Vec<Expected>,
}

/// A life of an archive: how it was after each operation.
fn life(clones: bool) -> Vec<Moment> {
    let states = states(8);
    let mut world = World::with_backups(clones, &states[..2]);
    let mut moments = Vec::new();
    let mut take = |what: &str, world: &World| {
        let (what, expected) = (what.to_owned(), world.expected.clone());
        moments.push(Moment { what, files: world.disk.files(), expected });
    };
    take("2 backups", &world);
    for (number, state) in states[2..5].iter().enumerate() {
        world.backup(state);
        take(&format!("{} backups", number + 3), &world);
    }
    world.remove(&[2]);
    take("one in the middle removed", &world);
    world.backup(&states[5]);
    take("another backup", &world);
    world.remove(&[0]);
    take("the newest removed", &world);
    world.backup(&states[6]);
    take("the last backup", &world);
    moments
}

fn disk_with(files: &Files) -> SimStorage {
    let disk = SimStorage::new(false);
    for (name, content) in files {
        put(&disk, *name, content);
    }
    disk
}

/// A manifest of another moment beside these files.
fn with_manifest(moment: &Moment, manifest: &[u8]) -> SimStorage {
    let disk = disk_with(&moment.files);
    put(&disk, FileName::MANIFEST, manifest);
    disk
}

fn rebuild(disk: &SimStorage, force: bool) -> backy_lib::Result<backy_lib::RebuildReport> {
    ArchiveWriter::rebuild_on(Arc::new(disk.clone()), "a test", force, &Silent)
}

/// Whether each of these revisions exists and reads right.
fn check_all(place: &str, disk: &SimStorage, expected: &[Expected]) {
    let archive = world::open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
    for Expected { uuid, bytes } in expected {
        let number = archive.revisions().iter().position(|revision| revision.uuid == *uuid);
        let number = number.unwrap_or_else(|| panic!("{place}: {uuid} is lost"));
        let found = world::read_revision(&archive, number);
        let found = found.unwrap_or_else(|error| panic!("{place}: {uuid}: {error}"));
        assert!(found == *bytes, "{place}: {uuid} has wrong bytes");
    }
}

/// Whatever moment a manifest belongs to, no verb destroys what the files hold: it refuses, with both sides in the
/// error, or a rebuild afterwards restores all of it. A manifest that lacks the newest revision of the files, or
/// names a newer one, is always refused. `status` is critical, and the rebuild that the error advises brings back
/// every revision that the files hold.
#[test]
fn a_manifest_of_another_moment_loses_nothing() {
    for clones in [false, true] {
        let moments = life(clones);
        for files in &moments {
            for other in moments.iter().filter(|other| other.what != files.what) {
                let place = format!(
                    "clones {clones}, files of '{}', manifest of '{}'",
                    files.what, other.what
                );
                let manifest = &other.files[&FileName::MANIFEST];
                let disk = with_manifest(files, manifest);
                let newest = |moment: &Moment| moment.expected[0].uuid;
                let refused = newest(files) != newest(other);
                for verb in WRITERS {
                    let trial = with_manifest(files, manifest);
                    let before = trial.files();
                    let done = write(&trial, verb, &states(8)[7]);
                    if refused {
                        let error = done.expect_err(&format!("{place}: {verb}"));
                        let text = error.to_string();
                        assert!(text.contains("different moments"), "{place}: {verb}: {text}");
                        assert!(text.contains("scrub --rebuild"), "{place}: {verb}: {text}");
                        assert_eq!(error.kind(), ErrorKind::Damaged, "{place}: {verb}");
                        assert!(trial.files() == before, "{place}: {verb} has changed something");
                        continue;
                    }
                    if done.is_err() || !matches!(verb, "rm 1" | "rm 0" | "maintenance") {
                        rebuild(&trial, true).unwrap_or_else(|e| panic!("{place}: {verb}: {e}"));
                        check_all(&format!("{place}: {verb}"), &trial, &files.expected);
                    }
                }
                if refused {
                    let archive = world::open(&disk).expect("open");
                    let report = backy_lib::status::status(&archive, &[], &world::clock());
                    let problems = report.expect("a status").health.problems;
                    let is_told = problems.iter().any(|p| p.kind == ProblemKind::Mismatch);
                    assert!(is_told, "{place}: {problems:?}");
                    let others = problems.iter().filter(|p| p.kind != ProblemKind::Mismatch);
                    let orders: Vec<_> = others.filter(|p| p.advice.contains("'backy ")).collect();
                    assert!(orders.is_empty(), "{place}: {orders:?}");
                    let check = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
                    assert!(!check.expect("a check").is_clean(), "{place}");
                    rebuild(&disk, false).unwrap_or_else(|e| panic!("{place}: {e}"));
                    check_all(&place, &disk, &files.expected);
                    write(&disk, "backup", &states(8)[7])
                        .unwrap_or_else(|e| panic!("{place}: {e}"));
                    check_all(&format!("{place}, next backup"), &disk, &files.expected);
                }
            }
        }
    }
}

/// The same for a manifest from the middle of an operation, which says that it is under way.
#[test]
fn a_manifest_from_the_middle_of_an_operation_loses_nothing() {
    let states = states(8);
    for clones in [false, true] {
        let mut world = World::with_backups(clones, &states[..4]);
        let mut manifests = Vec::new();
        for verb in ["backup", "rm 1", "rm 0"] {
            let trial = world.fork();
            write(&trial.disk, verb, &states[4]).expect(verb);
            for at in 1..trial.disk.calls() {
                let broken = world.fork();
                broken.disk.set_fault(at, Fault::Crash, at);
                let _ = write(&broken.disk, verb, &states[4]);
                let manifest =
                    broken.disk.crash(Unsynced::Kept).files()[&FileName::MANIFEST].clone();
                let is_new = manifests.iter().all(|(_, known)| *known != manifest);
                if is_new && manifest != world.disk.files()[&FileName::MANIFEST] {
                    // Each run makes new UUIDs: only those of this very run belong to the files.
                    let disk = broken.disk.crash(Unsynced::Kept);
                    manifests.push((format!("{verb}, call {at}"), manifest));
                    go_on(
                        &format!("clones {clones}, {verb}, call {at}"),
                        &disk,
                        &world,
                        &manifests,
                    );
                }
            }
        }
        world.backup(&states[5]);
    }
}

/// Finishes what was interrupted, makes more backups, then restores the manifest of the interruption.
fn go_on(place: &str, disk: &SimStorage, world: &World, manifests: &[(String, Vec<u8>)]) {
    let states = states(8);
    let interrupted = manifests.last().expect("one").1.clone();
    for (more, undone) in [(1, false), (2, false), (1, true), (2, true)] {
        let mut later = World { disk: disk.fork(), expected: Vec::new() };
        write(&later.disk, "open", &[]).expect(place);
        let manifest = match undone {
            true => later.disk.files()[&FileName::MANIFEST].clone(),
            false => interrupted.clone(),
        };
        let archive = world::open(&later.disk).expect(place);
        let known = |uuid| world.expected.iter().find(|e| e.uuid == uuid).cloned();
        later.expected = archive.revisions().iter().filter_map(|r| known(r.uuid)).collect();
        for state in &states[6 - more..6] {
            later.backup(state);
        }
        put(&later.disk, FileName::MANIFEST, &manifest);
        for verb in ["open", "backup", "rm 1", "scrub"] {
            let trial = later.fork();
            let _ = write(&trial.disk, verb, &states[7]);
            let place = format!("{place}, {more} more, undone {undone}, {verb}");
            rebuild(&trial.disk, true).unwrap_or_else(|error| panic!("{place}: {error}"));
            check_all(&place, &trial.disk, &later.expected);
        }
    }
}

/// A copy of the archive that broke off before the manifest, at any file and within the image, loses no revision that
/// was in the copy before.
#[test]
fn an_unfinished_copy_loses_nothing() {
    let moments = life(false);
    for pair in moments.windows(2) {
        let [old, new] = pair else { unreachable!() };
        let mut names: Vec<FileName> = new.files.keys().copied().collect();
        names.retain(|name| *name != FileName::MANIFEST && !world::UNNAMED.contains(name));
        names.sort_by_key(ToString::to_string);
        for cut in 1..=names.len() {
            for half in [false, true] {
                let mut files = old.files.clone();
                for name in &names[..cut] {
                    files.insert(*name, new.files[name].clone());
                }
                let last = names[cut - 1];
                if half {
                    let (Some(before), FileName::Published(_)) = (old.files.get(&last), last)
                    else {
                        continue;
                    };
                    let mut mixed = new.files[&last].clone();
                    let middle = mixed.len() / 2;
                    let rest = before.get(middle..).unwrap_or_default();
                    mixed.truncate(middle);
                    mixed.extend_from_slice(rest);
                    files.insert(last, mixed);
                }
                for verb in WRITERS {
                    let place =
                        format!("from '{}' to '{}', up to {last}, {verb}", old.what, new.what);
                    let disk = disk_with(&files);
                    let kept: Vec<Expected> = match verb {
                        "rm 1" | "rm 0" | "maintenance" => continue,
                        // What was deleted since, or rolled back, is gone with the new files.
                        _ => old.expected.iter().filter(|e| new.expected.contains(e)).cloned(),
                    }
                    .collect();
                    let _ = write(&disk, verb, &states(8)[7]);
                    rebuild(&disk, true).unwrap_or_else(|error| panic!("{place}: {error}"));
                    check_all(&place, &disk, &kept);
                }
            }
        }
    }
}

/// What an operation returns.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn event(&self, event: &Event) {
        if let Event::Note(text) | Event::Finding(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

fn backup_noting(disk: &SimStorage, state: &[u8]) -> (backy_lib::Result<()>, String) {
    let notes = Notes::default();
    let done = world::open(disk).and_then(|archive| {
        let mut writer = ArchiveWriter::open(archive, "a test", &notes)?;
        writer.backup(&MemorySource::new(state), &world::options(), &world::clock(), &notes)
    });
    let notes = notes.0.lock().unwrap().join("\n");
    (done.map(drop), notes)
}

/// Overwrites `last.raw` as a copy does, with a time of its own.
fn replace_image(disk: &SimStorage, content: &[u8]) {
    disk.open(FileName::IMAGE, Access::Write).unwrap().write_at(content, 0).unwrap();
}

/// An image of an older moment, of the same length, is noticed before any change. A scrub records what is lost, and
/// then backups continue.
#[test]
fn an_image_of_another_moment_is_detected() {
    let states = states(6);
    for clones in [false, true] {
        let world = World::with_backups(clones, &states[..4]);
        for (whose, image) in [(1, &states[2]), (2, &states[1])] {
            let what = format!("the image of revision {whose}");
            let trial = world.fork();
            replace_image(&trial.disk, image);
            for verb in ["backup", "in place", "rm 0"] {
                let before = trial.disk.files();
                let error = write(&trial.disk, verb, &states[4]).expect_err("another image");
                assert!(error.to_string().contains("different moments"), "{what}, {verb}: {error}");
                let mut after = trial.disk.files();
                after.retain(|name, content| before.get(name) != Some(content));
                let changed: Vec<_> =
                    after.keys().filter(|name| !world::UNNAMED.contains(name)).collect();
                assert!(changed.is_empty(), "{what}, {verb}: {changed:?}");
            }
            // What newer ones shared with the newest is lost.
            let older = &trial.expected[whose..];
            check_all(&what, &trial.disk, older);
            let rebuilt = trial.fork();
            rebuild(&rebuilt.disk, false).expect("a rebuild that the image asks for");
            check_all(&what, &rebuilt.disk, older);
            write(&rebuilt.disk, "backup", &states[4]).expect("a backup after the rebuild");
            write(&trial.disk, "scrub", &[]).expect("a scrub");
            write(&trial.disk, "backup", &states[4]).expect("a backup after the scrub");
            check_all(&what, &trial.disk, older);
            check_all(&what, &rebuilt.disk, older);
        }
    }
}

/// An image that somebody has touched or copied is read once, and not again. So is one without a record, of an older
/// program.
#[test]
fn an_image_that_was_copied_is_read_once() {
    let states = states(6);
    let mut world = World::with_backups(false, &states[..3]);
    let unchanged = |world: &mut World, state: &[u8]| {
        let (done, notes) = backup_noting(&world.disk, state);
        done.expect("a backup");
        let uuid = world::open(&world.disk).expect("open").revisions()[0].uuid;
        world.expected.insert(0, Expected { uuid, bytes: state.to_vec() });
        notes
    };
    assert_eq!(unchanged(&mut world, &states[3]), "", "nobody has touched it");
    replace_image(&world.disk, &states[3]);
    let notes = unchanged(&mut world, &states[4]);
    assert!(notes.contains("compared with its digests in full"), "{notes}");
    assert_eq!(unchanged(&mut world, &states[5]), "", "it is known again");
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("all is there");
    // It stays known through undoing, removing and scrubbing.
    for verb in ["rm 0", "scrub", "tag", "rm 1"] {
        write(&world.disk, verb, &states[0]).expect(verb);
        let trial = world.fork();
        assert_eq!(backup_noting(&trial.disk, &states[0]).1, "", "after {verb}");
    }
    let broken = world.fork();
    broken.disk.set_fault(60, Fault::Crash, 1);
    let _ = write(&broken.disk, "in place", &states[1]);
    let crashed = broken.disk.crash(Unsynced::Kept);
    let notes = backup_noting(&crashed, &states[2]).1;
    assert!(!notes.contains("compared with"), "after undoing: {notes}");
}

/// A wrong block of an image that was copied is rot: the backup marks it and continues.
#[test]
fn rot_in_a_copied_image_is_marked() {
    let states = states(4);
    let world = World::with_backups(false, &states[..2]);
    let mut image = states[1].clone();
    let block = BLOCK_SIZE.len();
    let at = (0..9).find(|n| states[1][n * block..][..block].iter().any(|&byte| byte != 0));
    let at = at.expect("a block with data");
    image[at * block + 7] ^= 0x55;
    replace_image(&world.disk, &image);
    let (done, notes) = backup_noting(&world.disk, &states[2]);
    done.expect("a backup");
    assert!(notes.contains("not what was backed up"), "{notes}");
    let archive = world::open(&world.disk).expect("open");
    assert!(world::read_revision(&archive, 0).expect("the new one") == states[2]);
    match world::read_revision(&archive, 1) {
        // The source still had it.
        Ok(found) => assert!(found == states[1], "wrong bytes"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
    }
    assert!(world::read_revision(&archive, 2).is_ok_and(|found| found == states[0]));
}

/// Digests of another moment are reported like any other damage, and rebuilt from the data.
#[test]
fn digests_of_another_moment_are_recreated() {
    let states = states(5);
    let world = World::with_backups(false, &states[..4]);
    let older = world.disk.files();
    let into = world.expected[2].uuid;
    let name = FileName::Digests(into, DigestsKind::Delta);
    let mut merged = world.fork();
    merged.remove(&[1]);
    if merged.disk.files()[&name] == older[&name] {
        return;
    }
    put(&merged.disk, name, &older[&name]);
    write(&merged.disk, "scrub", &[]).expect("a scrub");
    write(&merged.disk, "backup", &states[4]).expect("a backup");
    check_all("digests of before the merge", &merged.disk, &merged.expected);
    let _: Archive = world::open(&merged.disk).expect("open");
}
