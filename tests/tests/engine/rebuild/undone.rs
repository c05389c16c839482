//! The manifest is lost after an operation whose undoing has failed as well: the rebuild leaves an archive that holds
//! every committed revision, also after a power cut, and in which the next backup works.

use std::collections::HashSet;

use backy_lib::progress::Silent;
use backy_lib::revision::seeded;
use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Published};
use backy_lib::{ImageUpdate, Result, RevisionId, ScrubOptions};
use backy_tests::world::{self, Expected, World};

use super::{lose, rebuild, states};

/// The disk is full from one call on.
const FULL: Fault = Fault::FromThenOn(Failure::NoSpace);

/// How a call of a rebuild fails.
const FAULTS: [Fault; 3] = [Fault::Once(Failure::Io), FULL, Fault::Crash];

/// Makes all further calls work.
fn repair(disk: &SimStorage) {
    disk.set_fault(0, Fault::Once(Failure::Io), 0);
}

fn recover(disk: &SimStorage) -> Result<()> {
    world::writer(disk).map(drop)
}

/// How many calls an operation makes on a working disk.
fn calls(world: &World, operation: impl Fn(&SimStorage) -> Result<()>) -> u64 {
    let trial = world.fork();
    // It may be refused.
    let _ = operation(&trial.disk);
    trial.disk.calls()
}

/// Loses the manifest and rebuilds it. Afterwards there are the revisions of `world`, but for those of `going`, and
/// perhaps one with the content `new`. All of them survive a power cut, and the next backup works.
fn check(place: &str, world: World, new: &[u8], going: &[RevisionId], later: &[u8]) {
    let (place, world) = check_rebuild(place, world, new, going);
    let number = world.disk.calls();
    let mut seen = HashSet::new();
    for unsynced in
        [Unsynced::Kept, Unsynced::Lost, Unsynced::Subset(number), Unsynced::Subset(!number)]
    {
        // Where little is unsynced, they leave the very same disk.
        if seen.insert(world.disk.crash(unsynced).fingerprint()) {
            check_cut(&place, &world, unsynced, later);
        }
    }
}

/// Loses the manifest and rebuilds it. Returns what there is then, with the notes of the rebuild.
fn check_rebuild(place: &str, world: World, new: &[u8], going: &[RevisionId]) -> (String, World) {
    lose(&world.disk, FileName::MANIFEST);
    let report = rebuild(&world.disk, false).unwrap_or_else(|error| panic!("{place}: {error}"));
    let place = format!("{place}: {:?}", report.unknown);
    let world = check_revisions(&place, world, &report.revisions, new, going);
    (place, world)
}

/// Checks that `found` are the revisions of `world`, but for those of `going`, and perhaps one with the content `new`,
/// and that they read right.
fn check_revisions(
    place: &str,
    mut world: World,
    found: &[RevisionId],
    new: &[u8],
    going: &[RevisionId],
) -> World {
    for Expected { uuid, .. } in &world.expected {
        assert!(found.contains(uuid) || going.contains(uuid), "{place}: {uuid} is lost");
    }
    let bytes_of = |uuid| {
        let known = world.expected.iter().find(|expected| expected.uuid == uuid);
        known.map_or(new, |expected| &expected.bytes).to_vec()
    };
    world.expected = found.iter().map(|&uuid| Expected { uuid, bytes: bytes_of(uuid) }).collect();
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}: {error}"));
    world
}

/// Checks that everything survives a power cut, and that the next backup works.
fn check_cut(place: &str, world: &World, unsynced: Unsynced, later: &[u8]) {
    let place = format!("{place}, then a power cut, {unsynced:?}");
    let disk = world.disk.crash(unsynced);
    check_next(&place, World { disk, expected: world.expected.clone() }, later);
}

/// Checks that everything is there, and that the next backup works.
fn check_next(place: &str, mut world: World, later: &[u8]) {
    world
        .check_committed(None)
        .and_then(|_| world.check_format())
        .unwrap_or_else(|error| panic!("{place}: {error}"));
    world.backup(later);
    remove_left_overs(place, &world.disk);
    world
        .check_committed(None)
        .and_then(|_| world.check_tidy())
        .unwrap_or_else(|error| panic!("{place}: next backup: {error}"));
}

/// Deletes what the rebuild has set aside, and files that came back because their deletion was not durable, as an
/// operator does.
fn remove_left_overs(place: &str, disk: &SimStorage) {
    let archive = world::open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
    let check = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
    let unknown = check.unwrap_or_else(|error| panic!("{place}: {error}")).unknown_files;
    for name in disk.files().into_keys().filter(|name| unknown.contains(&name.to_string())) {
        let may_come_back = matches!(
            name,
            FileName::Aside(Published::Manifest, _) | FileName::Digests(_, DigestsKind::Image)
        );
        assert!(may_come_back, "{place}: {name} is unknown");
        lose(disk, name);
    }
    archive.manifest().set_aside.iter().for_each(|&name| lose(disk, name));
}

/// The first backup of an archive finds the disk full at any call, and cannot be undone either.
#[test]
fn lost_after_a_first_backup_that_was_not_undone() {
    let states = states(2);
    let world = World::with_backups(false, &[]);
    let run = |disk: &SimStorage| world::backup_by(disk, &states[0], ImageUpdate::Auto);
    for at in 1..=calls(&world, run) {
        for fault in [FULL, Fault::FromThenOn(Failure::Io)] {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let _ = run(&broken.disk);
            repair(&broken.disk);
            check(&format!("{fault:?} at call {at}"), broken, &states[0], &[], &states[1]);
        }
    }
}

/// A backup in place is cut off anywhere, undoing it finds the disk full anywhere, and the first rebuild fails
/// anywhere.
#[test]
fn lost_after_a_backup_that_was_not_undone() {
    let states = states(5);
    for before in 1..4 {
        let world = World::with_backups(false, &states[..before]);
        let new = &states[before];
        let run = |disk: &SimStorage| world::backup_by(disk, new, ImageUpdate::InPlace);
        for at in (1..=calls(&world, run)).step_by(13) {
            let broken = world.fork();
            broken.disk.set_fault(at, Fault::Crash, at);
            let _ = run(&broken.disk);
            let disk = broken.disk.crash(Unsynced::Subset(at));
            let mut crashed = World { disk, ..world.clone() };
            crashed.check_committed(Some(new)).expect("a crash in a backup");
            for undoing in (1..=calls(&crashed, recover)).step_by(5) {
                let broken = crashed.fork();
                broken.disk.set_fault(undoing, FULL, undoing);
                let _ = recover(&broken.disk);
                repair(&broken.disk);
                lose(&broken.disk, FileName::MANIFEST);
                let first = |disk: &SimStorage| rebuild(disk, false).map(drop);
                let failing = (at + undoing) % calls(&broken, first) + 1;
                broken.disk.set_fault(failing, Fault::Once(Failure::Io), at);
                let _ = first(&broken.disk);
                repair(&broken.disk);
                let place =
                    format!("{before} before, crash at {at}, full at {undoing}, {failing} fails");
                check(&place, broken, new, &[], &states[0]);
            }
        }
    }
}

/// With clones: a backup is cut off, and maintenance afterwards finds the disk full anywhere.
#[test]
fn lost_after_maintenance_that_was_not_undone() {
    let states = states(5);
    let world = World::with_backups(true, &states[..4]);
    let run = |disk: &SimStorage| world::backup_by(disk, &states[4], ImageUpdate::Auto);
    let maintain = |disk: &SimStorage| world::maintain(disk, Some(2)).map(drop);
    for at in (1..=calls(&world, run)).step_by(13) {
        let broken = world.fork();
        broken.disk.set_fault(at, Fault::Crash, at);
        let _ = run(&broken.disk);
        let disk = broken.disk.crash(Unsynced::Subset(at));
        let mut crashed = World { disk, ..world.clone() };
        crashed.check_committed(Some(&states[4])).expect("a crash in a backup");
        for full in (1..=calls(&crashed, maintain)).step_by(7) {
            let broken = crashed.fork();
            broken.disk.set_fault(full, FULL, full);
            let _ = maintain(&broken.disk);
            repair(&broken.disk);
            let place = format!("crash at {at}, full at {full}");
            let going: Vec<RevisionId> = crashed.expected.iter().skip(2).map(|e| e.uuid).collect();
            check(&place, broken, &states[4], &going, &states[0]);
        }
    }
}

/// A rebuild of what a failed undo left fails at any call, or its power is cut: a manifest that it left has every
/// committed revision, and without one the next rebuild has them. The next backup works.
#[test]
fn a_rebuild_of_what_was_not_undone_may_fail_at_any_call() {
    let states = states(4);
    let run_again = |disk: &SimStorage| rebuild(disk, false).map(drop);
    let mut swept = 0;
    for (clones, update, before) in [
        (false, ImageUpdate::InPlace, 1),
        (false, ImageUpdate::InPlace, 3),
        (true, ImageUpdate::Auto, 3),
    ] {
        let world = World::with_backups(clones, &states[..before]);
        let new = &states[before];
        let run = |disk: &SimStorage| world::backup_by(disk, new, update);
        let all = calls(&world, run);
        for at in [all * 3 / 5, all * 4 / 5] {
            let Some(broken) = not_undone(&world, run, new, at) else { continue };
            swept += 1;
            let (seed, mut seen) = (seeded::seed(), HashSet::new());
            for call in 1..=calls(&broken, run_again) {
                for fault in FAULTS {
                    let failed = broken.fork();
                    failed.disk.set_fault(call, fault, call);
                    let result = seeded::names(seed, || run_again(&failed.disk));
                    let unsynced =
                        [Unsynced::Kept, Unsynced::Subset(call), Unsynced::Lost][call as usize % 3];
                    // After an error the power may stay on.
                    let disk = match fault == Fault::Crash || call % 2 == 0 {
                        true => failed.disk.crash(unsynced),
                        false => failed.disk.fork(),
                    };
                    let left = World { disk, ..broken.clone() };
                    let place = format!("{before} before, {update:?}, {at}: {fault:?} at {call}");
                    // Most calls only read: then this very disk was checked before.
                    if seen.insert((left.disk.fingerprint(), result.is_ok())) {
                        check_failed(&place, left, result, new, &states[0]);
                    }
                }
            }
        }
    }
    assert!(swept > 3, "only {swept} failed undos");
}

/// Cuts a backup off at call `at`, and lets undoing it find the disk full. Then loses the manifest. `None` if nothing
/// was to undo.
fn not_undone(
    world: &World,
    run: impl Fn(&SimStorage) -> Result<()>,
    new: &[u8],
    at: u64,
) -> Option<World> {
    let broken = world.fork();
    broken.disk.set_fault(at, Fault::Crash, at);
    let _ = run(&broken.disk);
    let disk = broken.disk.crash(Unsynced::Subset(at));
    let mut crashed = World { disk, ..world.clone() };
    crashed.check_committed(Some(new)).expect("a crash in a backup");
    let all = calls(&crashed, recover);
    // Preferably in the middle of it.
    let failed = (all / 2..=all).find_map(|full| {
        let broken = crashed.fork();
        broken.disk.set_fault(full, FULL, full);
        recover(&broken.disk).err().map(|_| broken)
    })?;
    repair(&failed.disk);
    lose(&failed.disk, FileName::MANIFEST);
    Some(failed)
}

/// Checks what a rebuild that failed, or was cut off, left.
fn check_failed(place: &str, world: World, result: Result<()>, new: &[u8], later: &[u8]) {
    match world::open(&world.disk) {
        Ok(archive) => {
            let place = format!("{place}: with its manifest");
            let there = check_revisions(&place, world.fork(), &world::all(&archive), new, &[]);
            check_next(&place, there, later);
        }
        Err(error) => assert!(result.is_err(), "{place}: said that it worked: {error}"),
    }
    let (place, world) = check_rebuild(place, world, new, &[]);
    check_cut(&place, &world, Unsynced::Subset(world.disk.calls()), later);
}
