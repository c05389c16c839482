//! Every storage call of every operation fails in turn: once, from then on, or because the machine stops.
//!
//! After each, all committed revisions read right before anything is repaired, the next run works, and nothing
//! is left over.

mod alarm;
mod asking;
mod damages;
mod hooks;
mod keeping;
mod limit;
mod reading;
#[expect(clippy::disallowed_methods, reason = "exports and drills make real files")]
mod stop;
mod tracked;

use std::collections::HashSet;

use backy_lib::progress::Silent;
use backy_lib::revision::seeded;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Failure, Fault, Random, SimStorage, Unsynced};
use backy_lib::{ErrorKind, ImageUpdate, RestoreOptions, Result};
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::qemu;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

const FAULTS: [Fault; 5] = [
    Fault::Once(Failure::Io),
    Fault::FromThenOn(Failure::Io),
    Fault::Once(Failure::NoSpace),
    Fault::FromThenOn(Failure::NoSpace),
    Fault::Crash,
];

/// What may be left of unsynced changes after a crash.
fn aftermaths(seed: u64) -> [Unsynced; 6] {
    [
        Unsynced::Kept,
        Unsynced::Subset(seed ^ 0x5555),
        Unsynced::Subset(seed ^ 0xaaaa_0000),
        Unsynced::Subset(!seed),
        Unsynced::Lost,
        Unsynced::Subset(seed),
    ]
}

/// Source states over time: a name, those backed up before, the one being backed up, the one after.
pub(crate) type Scenario = (&'static str, Vec<Vec<u8>>, Vec<u8>, Vec<u8>);

pub(crate) fn scenarios() -> Vec<Scenario> {
    let block = BLOCK_SIZE.len();
    let mut random = Random(7);
    let first = random_state(&mut random, 9 * block);
    let mut to = |from: &[u8], size| changed_state(&mut random, from, size);
    let second = to(&first, 9 * block);
    let third = to(&second, 9 * block);
    let grown = to(&second, 13 * block + 700);
    let shrunk = to(&second, 4 * block + 77);
    let regrown = to(&shrunk, 8 * block + 1);
    let mut emptied = second.clone();
    emptied[block..8 * block].fill(0);
    vec![
        ("first", vec![], first.clone(), second.clone()),
        ("second", vec![first.clone()], second.clone(), third.clone()),
        ("third", vec![first.clone(), second.clone()], third.clone(), first.clone()),
        ("unchanged", vec![first.clone(), second.clone()], second.clone(), third.clone()),
        ("grown", vec![first.clone(), second.clone()], grown.clone(), third.clone()),
        ("shrunk", vec![second.clone(), grown.clone()], shrunk.clone(), regrown.clone()),
        ("regrown", vec![second.clone(), shrunk.clone()], regrown, grown),
        ("emptied", vec![first, second], emptied, third),
        ("to nothing", vec![shrunk.clone()], vec![], shrunk),
    ]
}

/// Runs `operation` on copies of `world` with every fault at every call, and passes each outcome to `check`.
pub(crate) fn sweep(
    world: &World,
    operation: impl Fn(&SimStorage) -> Result<()>,
    check: impl Fn(&str, World, Result<()>),
) -> u64 {
    sweep_with(world, 6, operation, check)
}

/// The same with so many of the six aftermaths of each crash, others at each call.
///
/// `check` goes by nothing but the disk and whether the operation succeeded: where several faults leave the very same
/// disk, it gets it once.
pub(crate) fn sweep_with(
    world: &World,
    aftermaths_of_a_crash: usize,
    operation: impl Fn(&SimStorage) -> Result<()>,
    check: impl Fn(&str, World, Result<()>),
) -> u64 {
    sweep_all(world, aftermaths_of_a_crash, true, operation, check)
}

/// The same for a `check` that also goes by what the run has left elsewhere.
pub(crate) fn sweep_beside(
    world: &World,
    aftermaths_of_a_crash: usize,
    operation: impl Fn(&SimStorage) -> Result<()>,
    check: impl Fn(&str, World, Result<()>),
) -> u64 {
    sweep_all(world, aftermaths_of_a_crash, false, operation, check)
}

fn sweep_all(
    world: &World,
    aftermaths_of_a_crash: usize,
    all_is_on_the_disk: bool,
    operation: impl Fn(&SimStorage) -> Result<()>,
    check: impl Fn(&str, World, Result<()>),
) -> u64 {
    // All runs make the same names, others in each sweep. Otherwise no two would leave the same disk.
    let seed = seeded::seed();
    let operation = |disk: &SimStorage| seeded::names(seed, || operation(disk));
    let trial = world.fork();
    operation(&trial.disk).expect("the operation works on a working disk");
    let calls = trial.disk.calls();
    let mut seen = HashSet::new();
    for at in 1..=calls {
        for fault in FAULTS {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let result = operation(&broken.disk);
            let place =
                format!("{fault:?} at call {at} of {calls} ({:?})", broken.disk.last_call());
            if !all_is_on_the_disk {
                seen.clear();
            }
            let mut check_once = |place: &str, disk: SimStorage| {
                if seen.insert((disk.fingerprint(), result.is_ok())) {
                    let expected = world.expected.clone();
                    check(place, World { disk, expected }, copy(&result));
                }
            };
            if fault != Fault::Crash {
                check_once(&place, broken.disk.fork());
            }
            // A crash some time after an error is no excuse either. Two of its aftermaths suffice.
            let mut aftermaths = aftermaths(at);
            aftermaths.rotate_left(at as usize % 6);
            let all = aftermaths_of_a_crash;
            let taken = if fault == Fault::Crash { all } else { all.div_ceil(3) };
            for &unsynced in aftermaths.iter().take(taken) {
                check_once(&format!("{place}, then {unsynced:?}"), broken.disk.crash(unsynced));
            }
        }
    }
    calls
}

fn copy(result: &Result<()>) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(_) => Err(backy_lib::Error::Interrupted),
    }
}

/// All is well before recovery. The next backup works and leaves nothing behind.
fn check_backup(place: &str, mut world: World, result: Result<()>, new: &[u8], later: &[u8]) {
    let committed = world
        .check_committed(Some(new))
        .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
    assert!(committed || result.is_err(), "{place}: told that it worked, but it is not there");
    world.check_format().unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
    world.backup(later);
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}: after recovery: {error}"));
    world.check_tidy().unwrap_or_else(|error| panic!("{place}: after recovery: {error}"));
}

/// A backup that fails at any call, in any way, loses nothing, and the next one works.
#[test]
fn backup() {
    for (clones, update) in world::UPDATES {
        for (name, before, new, later) in scenarios() {
            let world = World::with_backups(clones, &before);
            let calls = sweep(
                &world,
                |disk| world::backup_by(disk, &new, update),
                |place, world, result| {
                    let place = format!("{name}, clones {clones}: {place}");
                    check_backup(&place, world, result, &new, &later);
                },
            );
            assert!(calls > 20, "{name}: only {calls} calls were seen");
        }
    }
}

/// Undoing an interrupted backup in place may itself be interrupted anywhere, in any way, and started again.
#[test]
fn recovery() {
    recovery_of(world::UPDATES[0]);
}

/// The same of a backup on a clone.
#[test]
fn recovery_of_a_clone() {
    recovery_of(world::UPDATES[1]);
}

fn recovery_of((clones, update): (bool, ImageUpdate)) {
    for (name, before, new, later) in scenarios() {
        let world = World::with_backups(clones, &before);
        let run = |disk: &SimStorage| world::backup_by(disk, &new, update);
        let trial = world.fork();
        run(&trial.disk).expect("the backup works");
        let calls = trial.disk.calls();
        for at in (1..=calls).step_by(13) {
            let broken = world.fork();
            broken.disk.set_fault(at, Fault::Crash, at);
            if run(&broken.disk).is_ok() {
                // Committed; only files that nobody needs were left.
                continue;
            }
            let mut crashed =
                World { disk: broken.disk.crash(Unsynced::Subset(at)), ..world.clone() };
            let place = format!("{name}, clones {clones}, crash at call {at}");
            crashed
                .check_committed(Some(&new))
                .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
            let recover = |disk: &SimStorage| world::writer(disk).map(|_| ());
            // Half of the aftermaths: each crash of the backup already has one of its own.
            sweep_with(&crashed, 3, recover, |inner, mut world, _| {
                let place = format!("{place}, recovery: {inner}");
                world
                    .check_committed(None)
                    .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
                world.backup(&later);
                world.assert_tidy(format_args!("{place}: after recovery"));
            });
        }
    }
}

/// `init` that fails at any call leaves nothing that prevents the next `init` and the first backup.
#[test]
fn init() {
    let world = World { disk: SimStorage::new(false), expected: Vec::new() };
    let state = random_state(&mut Random(3), 3 * BLOCK_SIZE.len());
    let init = |disk: &SimStorage| world::init(disk).map(|_| ());
    sweep(&world, init, |place, mut world, result| {
        let again = init(&world.disk);
        match again {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::ArchiveExists => {}
            Err(error) => panic!("{place}: init again: {error}"),
        }
        if result.is_ok() {
            let exists = init(&world.disk).expect_err("an archive is there");
            assert_eq!(exists.kind(), ErrorKind::ArchiveExists, "{place}");
        }
        world.backup(&state);
        world.assert_tidy(place);
    });
}

/// A restore during which reading the archive fails returns an error or the right bytes, and leaves the archive
/// alone. One that keeps going writes the right bytes, and zeros where it says so.
#[test]
fn restore() {
    for (name, before, new, _) in scenarios() {
        let mut states = before;
        states.push(new);
        let world = World::with_backups(false, &states);
        // The removal of what the last backup left behind need not be durable.
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        let files = world.disk.files();
        for number in 0..states.len() {
            let expected = &world.expected[number].bytes;
            let ways = [(None, false), (Some(&states[0]), false), (Some(&states[0]), true)];
            for (old, keep_going) in ways {
                let restore = |disk: &SimStorage| {
                    let target =
                        old.map_or_else(MemoryTarget::absent, |b| MemoryTarget::holding(b));
                    let options = RestoreOptions { keep_going, ..world::restore_options() };
                    let archive = world::open(disk)?;
                    let id = archive.id(number)?;
                    let report = archive.restore_to(id, &target, &options, &Silent)?;
                    let mut expected = expected.clone();
                    for lost in report.unreadable {
                        expected[lost.offset as usize..lost.end() as usize].fill(0);
                    }
                    assert!(target.content() == expected, "{name}, revision {number}: wrong bytes");
                    Ok(())
                };
                sweep(&world, restore, |place, world, _| {
                    assert!(
                        world.disk.files() == files,
                        "{name}: {place}: the archive has changed"
                    );
                });
            }
        }
    }
}

/// A source that fails at any call, once or from then on, or changes its size during the backup, leaves the archive
/// as it was. The error says what backy tried to do with it.
#[test]
fn source_errors() {
    for (clones, update) in world::UPDATES {
        for (name, before, new, later) in scenarios() {
            let world = World::with_backups(clones, &before);
            let options = backy_lib::BackupOptions { update, ..world::options() };
            let is_compared =
                |name: &FileName| !world::UNNAMED.contains(name) && *name != FileName::MANIFEST;
            let mut files = world.disk.files();
            files.retain(|name, _| is_compared(name));
            let revisions = world::open(&world.disk).expect("open").revisions().to_vec();
            let whole = MemorySource::new(&new);
            world::backup_with(&world.fork().disk, &whole, &options).expect("the backup works");
            let failing = (1..=whole.calls()).flat_map(|at| {
                let source = || MemorySource::new(&new);
                [source().failing_at(at), source().failing_from(at)]
            });
            let len = new.len() as u64;
            let resized = [len + 1, len.saturating_sub(1), 0]
                .into_iter()
                .filter(|size| *size != len)
                .map(|size| MemorySource::new(&new).resized_later(size));
            for (case, source) in failing.chain(resized).enumerate() {
                let mut broken = world.fork();
                let error = world::backup_with(&broken.disk, &source, &options)
                    .expect_err("a source that fails");
                assert!(
                    matches!(error.kind(), ErrorKind::Source | ErrorKind::Io),
                    "{name} {case}: {error}"
                );
                assert!(error.to_string().contains("/memory: "), "{name} {case}: {error}");
                let mut after = broken.disk.files();
                after.retain(|name, _| is_compared(name));
                // The manifest was written twice, and says which revision was about to be made. Nothing else may
                // differ.
                let now = world::open(&broken.disk).expect("open");
                assert!(now.revisions() == revisions && now.manifest().in_progress.is_none());
                let differs: Vec<_> = files
                    .iter()
                    .filter(|(file, content)| after.remove(file).as_ref() != Some(content))
                    .map(|(file, _)| file.to_string())
                    .collect();
                assert!(differs.is_empty() && after.is_empty(), "{name} {case}: {differs:?}");
                broken.backup(&later);
                broken.check_committed(None).unwrap_or_else(|e| panic!("{name} {case}: {e}"));
            }
        }
    }
}

/// At every crash point, before anything is repaired, QEMU reads every older revision right; after recovery and
/// the next backup `qemu-img check` is clean and all revisions compare equal.
#[test]
fn qemu_at_every_crash_point() {
    if !qemu::available() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (clones, update) in world::UPDATES {
        for (name, before, new, later) in scenarios().into_iter().skip(2) {
            let world = World::with_backups(clones, &before);
            let run = |disk: &SimStorage| world::backup_by(disk, &new, update);
            let trial = world.fork();
            run(&trial.disk).expect("the backup works");
            for at in 1..=trial.disk.calls() {
                let broken = world.fork();
                broken.disk.set_fault(at, Fault::Crash, at);
                let _ = run(&broken.disk);
                let unsynced = aftermaths(at)[at as usize % 6];
                let place = format!("{name}, clones {clones}, crash at call {at}, {unsynced:?}");
                let mut crashed = World { disk: broken.disk.crash(unsynced), ..world.clone() };
                let committed = crashed.check_committed(Some(&new)).expect(&place);
                qemu::write_out(&crashed.disk, folder.path());
                // An update in place leaves the newest one half written: only its overlay, if any, is right. Once
                // committed, it may be longer than it will be.
                let archive = world::open(&crashed.disk).expect(&place);
                let skip = usize::from(!committed || archive.manifest().in_progress.is_some());
                qemu::check(folder.path(), &crashed.expected, skip, false)
                    .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
                if at % 9 == 0 {
                    world::writer(&crashed.disk)
                        .map(drop)
                        .unwrap_or_else(|error| panic!("{place}: recovery: {error}"));
                    crashed.check_tidy().unwrap_or_else(|error| panic!("{place}: {error}"));
                    qemu::write_out(&crashed.disk, folder.path());
                    qemu::check(folder.path(), &crashed.expected, 0, true)
                        .unwrap_or_else(|error| panic!("{place}: after recovery: {error}"));
                    crashed.backup(&later);
                    qemu::write_out(&crashed.disk, folder.path());
                    qemu::check(folder.path(), &crashed.expected, 0, true)
                        .unwrap_or_else(|error| panic!("{place}: after the next backup: {error}"));
                }
            }
        }
    }
}
