//! A lost or damaged manifest is rebuilt, whatever was under way when it was lost.
#![expect(clippy::disallowed_methods, reason = "loses files of a real archive behind its back")]

mod undone;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::clock::FixedClock;
use backy_lib::progress::Silent;
use backy_lib::revision::seeded;
use backy_lib::storage::sim::{Failure, Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Storage, Trust};
use backy_lib::{BackupOptions, ErrorKind, RebuildReport, Result, RevisionId, ScrubOptions, Tag};
use backy_tests::golden;
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, Expected, World, changed_state, random_state};
use jiff::Timestamp;

fn rebuild(disk: &SimStorage, force: bool) -> Result<RebuildReport> {
    ArchiveWriter::rebuild_on(Arc::new(disk.clone()), "a test", force, &Silent)
}

fn lose(disk: &SimStorage, name: FileName) {
    disk.remove(name).expect("remove a file");
    disk.sync_folder().expect("sync the folder");
}

/// Source states, oldest first, growing and shrinking.
fn states(count: usize) -> Vec<Vec<u8>> {
    let block = BLOCK_SIZE.len();
    let mut random = Random(31);
    let mut states = vec![random_state(&mut random, 7 * block)];
    for size in [7 * block, 10 * block + 700, 4 * block + 77, 9 * block, 9 * block].iter().cycle() {
        if states.len() == count {
            return states;
        }
        let last = &states[states.len() - 1];
        states.push(changed_state(&mut random, last, *size));
    }
    states
}

/// An archive with a backup a day, with the tag of its number and every third with `full`.
fn history(states: &[Vec<u8>]) -> World {
    let mut world = World::with_backups(false, &[]);
    for (number, state) in states.iter().enumerate() {
        let mut tags: Vec<Tag> = vec![format!("n{number}").parse().expect("a tag")];
        if number % 3 == 1 {
            tags.push("full".parse().expect("a tag"));
        }
        let options = BackupOptions { tags: tags.into_iter().collect(), ..world::options() };
        let time = Timestamp::from_second(1_700_000_000 + 86_400 * number as i64).expect("a time");
        let archive = world::open(&world.disk).expect("open");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let report = writer
            .backup(&MemorySource::new(state), &options, &FixedClock(time), &Silent)
            .expect("a backup")
            .expect("one that is due");
        let uuid = report.revision.uuid;
        world.expected.insert(0, Expected { uuid, bytes: state.clone() });
    }
    world
}

fn scrub_findings(disk: &SimStorage) -> Vec<String> {
    let archive = world::open(disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    let report = writer.scrub(&ScrubOptions::default(), &world::clock(), &Silent).expect("a scrub");
    report
        .findings
        .into_iter()
        .map(|finding| format!("{}: {}", finding.file, finding.message))
        .collect()
}

const FULL: &str = "[schedule.full]\ninterval = \"1d\"\nkeep = 50\nfull = true\n";

/// A lost manifest of an archive at rest comes back with all revisions, their order and their tags. Backups, removals
/// and maintenance continue.
#[test]
fn all_revisions_and_their_tags_come_back() {
    for (count, standalone) in [(1, false), (2, false), (6, false), (6, true), (9, true)] {
        let states = states(count);
        let mut world = history(&states);
        if standalone {
            world::configure(&world.disk, FULL);
            world::maintain(&world.disk, None).expect("maintenance");
        }
        let before = world::open(&world.disk).expect("open").manifest().clone();
        let pieces = before.revisions.iter().filter(|r| r.is_standalone()).count();
        assert_eq!(pieces > 0, standalone, "standalone revisions of {count}");
        lose(&world.disk, FileName::MANIFEST);
        assert!(world::open(&world.disk).is_err());
        let report = rebuild(&world.disk, false).expect("a rebuild");
        assert_eq!(report.revisions, before.revisions.iter().map(|r| r.uuid).collect::<Vec<_>>());
        let place = format!("{count} revisions, standalone {standalone}: {:?}", report.unknown);
        world.check_committed(None).and_then(|_| world.check_tidy()).expect(&place);
        let after = world::open(&world.disk).expect("open").manifest().clone();
        assert!(after.in_progress.is_none() && after.set_aside.is_empty(), "{place}");
        for (before, after) in before.revisions.iter().zip(&after.revisions) {
            assert_eq!(before.tags, after.tags);
            assert_eq!(before.pinned_tags, after.pinned_tags);
            assert_eq!((before.started, before.base), (after.started, after.base));
        }
        assert_eq!(scrub_findings(&world.disk), Vec::<String>::new(), "{place}");
        world.backup(&states[0]);
        world.remove(&[1]);
        world::maintain(&world.disk, Some(2)).expect("maintenance");
        let left = world::open(&world.disk).expect("open").revisions().len();
        world.expected.truncate(left);
        world.check_committed(None).and_then(|_| world.check_tidy()).expect(&place);
    }
}

/// An intact manifest is not replaced unless somebody asks for that. A damaged one is.
#[test]
fn rebuild_replaces_a_good_manifest_only_by_force() {
    let mut world = history(&states(3));
    let files = world.disk.files();
    let error = rebuild(&world.disk, false).expect_err("a manifest that is there");
    assert_eq!(error.kind(), ErrorKind::Specification, "{error}");
    assert!(world.disk.files() == files);
    rebuild(&world.disk, true).expect("a rebuild");
    world.check_committed(None).expect("after force");
    world.disk.tamper(FileName::MANIFEST, |bytes| bytes[200] ^= 1);
    rebuild(&world.disk, false).expect("a rebuild");
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("after damage");
}

/// The golden archive, in a folder on a real file system, comes back as it was.
#[test]
fn the_golden_archive_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/format-1");
    for entry in std::fs::read_dir(golden).expect("the golden archive").flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copy a file");
    }
    let before = Archive::open(folder.path()).expect("the copy").manifest().clone();
    std::fs::remove_file(folder.path().join("manifest.json")).expect("remove the manifest");
    ArchiveWriter::rebuild(folder.path(), Trust::Checked, "a test", false, &Silent)
        .expect("a rebuild");
    let archive = Archive::open(folder.path()).expect("the archive");
    for (number, state) in golden::states().iter().rev().enumerate() {
        let (before, after) = (&before.revisions[number], &archive.revisions()[number]);
        assert_eq!((before.uuid, before.base), (after.uuid, after.base));
        assert_eq!((&before.tags, &before.pinned_tags), (&after.tags, &after.pinned_tags));
        assert!(world::read_revision(&archive, number).expect("a revision") == *state);
    }
    assert_eq!(archive.revisions().len(), before.revisions.len());
}

/// What a rebuild may find besides the revisions that have to be there.
struct Interrupted<'a> {
    /// Content of a revision that nobody knew of.
    new: Option<&'a [u8]>,
    /// Numbers of revisions whose deletion was under way.
    going: &'a [usize],
}

/// Rebuilds what a crash has left. Every committed revision reads right, before anything is undone and after the next
/// backup.
fn check_after_crash(place: &str, mut world: World, interrupted: &Interrupted<'_>, later: &[u8]) {
    let known: BTreeMap<RevisionId, Vec<u8>> =
        world.expected.iter().map(|e| (e.uuid, e.bytes.clone())).collect();
    let going: Vec<RevisionId> =
        interrupted.going.iter().map(|&number| world.expected[number].uuid).collect();
    let report = rebuild(&world.disk, false).unwrap_or_else(|error| panic!("{place}: {error}"));
    let place = format!("{place}: {:?}", report.unknown);
    for expected in &world.expected {
        let there = report.revisions.contains(&expected.uuid);
        assert!(there || going.contains(&expected.uuid), "{place}: {} is lost", expected.uuid);
    }
    world.expected = report
        .revisions
        .iter()
        .map(|uuid| {
            let bytes = known.get(uuid).map(Vec::as_slice).or(interrupted.new);
            let bytes = bytes.unwrap_or_else(|| panic!("{place}: {uuid} out of thin air"));
            Expected { uuid: *uuid, bytes: bytes.to_vec() }
        })
        .collect();
    let doubtful = |note: &String| note.contains("come out") || note.contains("are not those");
    assert!(!report.unknown.iter().any(doubtful), "{place}");
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}: {error}"));
    world.backup(later);
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}: next backup: {error}"));
    // Files of revisions whose deletion was under way, or of a first one that never existed.
    let aside = world::open(&world.disk).expect("open").manifest().set_aside.clone();
    let first = known.is_empty();
    assert!(aside.is_empty() || first || !going.is_empty(), "{place}: {aside:?} set aside");
    for name in aside {
        lose(&world.disk, name);
    }
    world.check_tidy().unwrap_or_else(|error| panic!("{place}: next backup: {error}"));
    let findings = scrub_findings(&world.disk);
    assert!(findings.is_empty(), "{place}: {findings:?}");
}

/// Stops the machine at every call of an operation, loses the manifest and passes on what is left, the very same disk
/// only once.
fn crash_everywhere(
    world: &World,
    operation: impl Fn(&SimStorage) -> Result<()>,
    check: impl Fn(&str, World),
) {
    // Without a seed each run would make other names, and leave another disk.
    let (seed, mut seen) = (seeded::seed(), HashSet::new());
    let operation = |disk: &SimStorage| seeded::names(seed, || operation(disk));
    let trial = world.fork();
    operation(&trial.disk).expect("the operation works on a working disk");
    let calls = trial.disk.calls();
    for at in 1..=calls {
        let broken = world.fork();
        broken.disk.set_fault(at, Fault::Crash, at);
        let _ = operation(&broken.disk);
        // Others at each call: all at each would take a minute.
        let aftermaths = [
            Unsynced::Subset(at),
            Unsynced::Kept,
            Unsynced::Subset(at ^ 0x5555),
            Unsynced::Lost,
            Unsynced::Subset(!at),
        ];
        let unsynced = aftermaths[at as usize % aftermaths.len()];
        let disk = broken.disk.crash(unsynced);
        lose(&disk, FileName::MANIFEST);
        let place = format!("crash at call {at} of {calls}, {unsynced:?}");
        if seen.insert(disk.fingerprint()) {
            check(&place, World { disk, expected: world.expected.clone() });
        }
    }
}

/// The manifest is lost after a crash at any call of a backup: every committed revision comes back.
#[test]
fn lost_in_a_backup() {
    let states = states(5);
    for (clones, update) in world::UPDATES {
        for before in 0..states.len() {
            for new in [(before + 1) % states.len(), before.saturating_sub(1)] {
                let world = World::with_backups(clones, &states[..before]);
                let options = BackupOptions { update, ..world::options() };
                let new = &states[new];
                crash_everywhere(
                    &world,
                    |disk| world::backup_with(disk, &MemorySource::new(new), &options).map(drop),
                    |place, world| {
                        let place = format!("backup {before}, clones {clones}: {place}");
                        let interrupted = Interrupted { new: Some(new), going: &[] };
                        check_after_crash(&place, world, &interrupted, &states[0]);
                    },
                );
            }
        }
    }
}

/// The same for removals: of the newest, of those in the middle, and of the oldest.
#[test]
fn lost_in_a_removal() {
    let states = states(5);
    let world = World::with_backups(false, &states);
    for going in [vec![0], vec![1], vec![2, 3], vec![4], vec![0, 2]] {
        crash_everywhere(
            &world,
            |disk| world::remove(disk, &going).map(drop),
            |place, world| {
                let place = format!("removing {going:?}: {place}");
                let interrupted = Interrupted { new: None, going: &going };
                check_after_crash(&place, world, &interrupted, &states[0]);
            },
        );
    }
}

/// The same while a revision becomes standalone.
#[test]
fn lost_while_a_revision_becomes_standalone() {
    let states = states(5);
    let world = history(&states);
    world::configure(&world.disk, FULL);
    crash_everywhere(
        &world,
        |disk| world::maintain(disk, None).map(drop),
        |place, world| {
            let interrupted = Interrupted { new: None, going: &[] };
            check_after_crash(place, world, &interrupted, &states[0]);
        },
    );
}

/// With any digest file or delta damaged or missing besides, what comes back reads right or fails, and no file with
/// data is deleted or lost, neither by the rebuild nor by the next backup.
#[test]
fn other_damage_costs_only_its_own_blocks() {
    let states = states(5);
    let world = history(&states);
    type Damage = fn(&SimStorage, FileName);
    let damages: [(&str, Damage); 4] = [
        ("missing", lose),
        ("header", |disk, name| disk.tamper(name, |bytes| bytes[70] ^= 1)),
        ("magic number", |disk, name| disk.tamper(name, |bytes| bytes[1] ^= 1)),
        ("tail", |disk, name| {
            disk.tamper(name, |bytes| {
                let at = bytes.len() - 9;
                bytes[at] ^= 1;
            });
        }),
    ];
    let is_data = |name: &FileName| matches!(*name, FileName::Delta(_) | FileName::IMAGE);
    for (name, _) in world.disk.files() {
        if !is_data(&name) && !matches!(name, FileName::Digests(..)) {
            continue;
        }
        for (what, damage) in damages {
            let broken = world.fork();
            let place = format!("{name}: {what}");
            lose(&broken.disk, FileName::MANIFEST);
            damage(&broken.disk, name);
            let files: Vec<FileName> = broken.disk.files().into_keys().filter(is_data).collect();
            let report =
                rebuild(&broken.disk, false).unwrap_or_else(|error| panic!("{place}: {error}"));
            let place = format!("{place}: {:?}", report.unknown);
            let right = count_right(&place, &broken, &report);
            let own = |e: &Expected| name.to_string().starts_with(&e.uuid.to_string());
            let number = world.expected.iter().position(own);
            // A newer one never depends on an older one.
            let at_least = number.unwrap_or(0);
            assert!(right >= at_least, "{place}: only {right} revisions read right");
            let next = world::backup(&broken.disk, &MemorySource::new(&states[1]));
            let after = broken.disk.files();
            let gone: Vec<&FileName> =
                files.iter().filter(|name| !after.contains_key(name)).collect();
            assert!(gone.is_empty(), "{place}: {gone:?} are gone");
            if next.is_ok() {
                let now = world::open(&broken.disk).expect("open");
                let new = world::read_revision(&now, 0);
                assert!(
                    new.is_ok_and(|new| new == states[1]) || name == FileName::IMAGE,
                    "{place}"
                );
                assert!(count_right(&place, &broken, &report) >= at_least, "{place}: next backup");
            }
        }
    }
}

/// How many of the revisions of a report read right. None reads wrong.
fn count_right(place: &str, world: &World, report: &RebuildReport) -> usize {
    let archive = world::open(&world.disk).unwrap_or_else(|error| panic!("{place}: {error}"));
    let mut right = 0;
    for (number, revision) in archive.revisions().iter().enumerate() {
        let Ok(found) = world::read_revision(&archive, number) else { continue };
        let expected = world.expected.iter().find(|e| e.uuid == revision.uuid);
        match expected {
            Some(expected) => assert!(found == expected.bytes, "{place}: revision {number}"),
            // An image whose digests are lost.
            None => assert!(
                !report.revisions.contains(&revision.uuid) || found == world.expected[0].bytes,
                "{place}: revision {number}"
            ),
        }
        right += 1;
    }
    right
}

/// The digests of the image are lost, too: the rebuild takes the image as it is, and all older revisions are there.
#[test]
fn an_image_without_digests_is_taken_as_it_is() {
    let states = states(4);
    let mut world = history(&states);
    lose(&world.disk, FileName::MANIFEST);
    lose(&world.disk, FileName::Digests(world.expected[0].uuid, DigestsKind::Image));
    let report = rebuild(&world.disk, false).expect("a rebuild");
    assert_ne!(report.revisions[0], world.expected[0].uuid);
    assert!(report.unknown.iter().any(|note| note.contains("takes it as it is")), "{report:?}");
    world.expected[0].uuid = report.revisions[0];
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("after the rebuild");
    world.backup(&states[0]);
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("after the next backup");
}

/// What was set aside stays through backups, removals and scrubs, and scrub reports it until somebody deletes it.
#[test]
fn set_aside_files_stay() {
    let states = states(4);
    let world = history(&states);
    let lost = world.expected[3].uuid;
    lose(&world.disk, FileName::MANIFEST);
    lose(&world.disk, FileName::Digests(lost, DigestsKind::Delta));
    let report = rebuild(&world.disk, false).expect("a rebuild");
    assert_eq!(report.revisions.len(), 3);
    assert!(report.unknown.iter().any(|note| note.contains(&lost.to_string())), "{report:?}");
    world::backup(&world.disk, &MemorySource::new(&states[2])).expect("a backup");
    world::remove(&world.disk, &[1]).expect("a removal");
    let findings = scrub_findings(&world.disk);
    assert!(
        findings.len() == 1 && findings[0].contains("set aside by a rebuild"),
        "found {findings:?}"
    );
    lose(&world.disk, FileName::Delta(lost));
    assert_eq!(scrub_findings(&world.disk), Vec::<String>::new());
}

/// A rebuild that fails or stops at any call changes nothing that counts: the next attempt works.
#[test]
fn a_rebuild_may_fail_at_any_call() {
    let states = states(5);
    let idle = World::with_backups(false, &states[..4]);
    // In the middle of a backup, and of a merge.
    let crashed = |operation: &dyn Fn(&SimStorage) -> Result<()>, share: u64| {
        let trial = idle.fork();
        operation(&trial.disk).expect("the operation works");
        let broken = idle.fork();
        broken.disk.set_fault(trial.disk.calls() * share / 100, Fault::Crash, 1);
        let _ = operation(&broken.disk);
        World { disk: broken.disk.crash(Unsynced::Kept), ..idle.clone() }
    };
    let backup = |disk: &SimStorage| world::backup(disk, &MemorySource::new(&states[4])).map(drop);
    let merge = |disk: &SimStorage| world::remove(disk, &[1]).map(drop);
    let worlds = [
        (idle.fork(), vec![]),
        (crashed(&backup, 70), vec![]),
        (crashed(&backup, 95), vec![]),
        (crashed(&merge, 80), vec![1]),
    ];
    for (number, (world, going)) in worlds.into_iter().enumerate() {
        lose(&world.disk, FileName::MANIFEST);
        let trial = world.fork();
        rebuild(&trial.disk, false).expect("a rebuild that works");
        let (seed, mut seen) = (seeded::seed(), HashSet::new());
        for at in 1..=trial.disk.calls() {
            for fault in
                [Fault::Once(Failure::Io), Fault::FromThenOn(Failure::NoSpace), Fault::Crash]
            {
                let broken = world.fork();
                broken.disk.set_fault(at, fault, at);
                let result = seeded::names(seed, || rebuild(&broken.disk, false));
                let place = format!("world {number}, {fault:?} at call {at}");
                let unsynced =
                    [Unsynced::Kept, Unsynced::Subset(at), Unsynced::Lost][at as usize % 3];
                let disk = broken.disk.crash(unsynced);
                let there = world::open(&disk).is_ok();
                assert!(there || result.is_err(), "{place}: told that it worked");
                lose(&disk, FileName::MANIFEST);
                // Most calls only read, and leave what the one before has left.
                if !seen.insert(disk.fingerprint()) {
                    continue;
                }
                let again = World { disk, expected: world.expected.clone() };
                let interrupted = Interrupted { new: Some(&states[4]), going: &going };
                check_after_crash(&place, again, &interrupted, &states[0]);
            }
        }
    }
}

/// An archive without revisions gets its manifest back with its block size. A folder without anything of an archive
/// is left as it is.
#[test]
fn nothing_to_rebuild_from() {
    let states = states(1);
    let mut world = World::with_backups(false, &[]);
    lose(&world.disk, FileName::MANIFEST);
    let report = rebuild(&world.disk, false).expect("a rebuild");
    assert!(report.revisions.is_empty());
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(archive.manifest().block_size, BLOCK_SIZE);
    world.backup(&states[0]);
    world.check_committed(None).and_then(|_| world.check_tidy()).expect("a backup");

    let empty = SimStorage::new(false);
    let error = rebuild(&empty, false).expect_err("no archive");
    assert_eq!(error.kind(), ErrorKind::NoArchive, "{error}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("letter.txt"), "Dear").expect("a file");
    let error = ArchiveWriter::rebuild(folder.path(), Trust::Checked, "a test", false, &Silent)
        .expect_err("none");
    assert_eq!(error.kind(), ErrorKind::NoArchive, "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1);
}
