//! A process that may not open another file, or gets no memory, in the middle of anything. That is an error that
//! names the limit, never a result: no finding, no failed drill, no lost block, no revision that is left out.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use backy_lib::archive::ArchiveWriter;
use backy_lib::image::reader::ReadCache;
use backy_lib::progress::Silent;
use backy_lib::status::status;
use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_lib::storage::{FileName, Storage};
use backy_lib::{Digest, Result, RevisionId, ScrubOptions, drill};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, World};

use super::damages::{self, Damage};
use super::scenarios;

const FAULTS: [Fault; 3] = [
    Fault::Once(Failure::TooManyFiles),
    Fault::Once(Failure::NoMemory),
    Fault::FromThenOn(Failure::NoMemory),
];

const DAMAGES: [Damage; 6] = [
    ("sound", |_| {}),
    damages::IMAGE,
    damages::HEADER,
    damages::DIGESTS,
    ("tables and counts", |world| {
        let name = FileName::Delta(world.expected[2].uuid);
        world.disk.tamper(name, |delta| delta[4096..4 * 4096].fill(0));
    }),
    ("content", |world| {
        let name = FileName::Delta(world.expected[1].uuid);
        world.disk.tamper(name, |delta| {
            let start = delta.len() - 600;
            delta[start..].iter_mut().for_each(|byte| *byte ^= 0x55);
        });
    }),
];

fn worlds() -> impl Iterator<Item = (&'static str, World)> {
    DAMAGES.into_iter().map(|(what, damage)| {
        let (_, mut states, new, later) = scenarios().remove(2);
        states.extend([new, later]);
        let world = World::with_backups(false, &states);
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        damage(&world);
        (what, world)
    })
}

/// All that the archive's manifest says of damage.
fn recorded(disk: &SimStorage) -> Option<String> {
    let archive = world::open(disk).ok()?;
    let of_each = archive.revisions().iter();
    let of_each = of_each.map(|r| format!("{}: {:?} {:?}\n", r.uuid, r.findings, r.flaws));
    Some(of_each.collect())
}

/// Makes each call of `verb` fail for lack of files and memory. It returns what it returns on a working disk, or such
/// an error. It records nothing else than on a working disk, and works afterwards. `settle` makes the remaining files
/// comparable.
fn sweep_limits<T: PartialEq + Debug>(
    what: &str,
    world: &World,
    verb: impl Fn(&SimStorage) -> Result<T>,
    settle: impl Fn(&SimStorage) -> String,
) {
    let trial = world.fork();
    let sound = verb(&trial.disk).map_err(|error| error.to_string());
    let calls = trial.disk.calls();
    let (before, after) = (recorded(&world.disk), recorded(&trial.disk));
    let settled = settle(&trial.disk.fork());
    let mut errors = 0;
    let mut seen = HashSet::new();
    for at in 1..=calls {
        for fault in FAULTS {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let result = verb(&broken.disk);
            let log = broken.disk.log();
            let place = format!("{what}: {fault:?} at call {at} of {calls}");
            match result {
                Err(error) if error.is_of_process() => errors += 1,
                result => {
                    let result = result.map_err(|error| error.to_string());
                    assert!(result == sound, "{place}: {result:?}, not {sound:?}\n{log:#?}");
                }
            }
            let left = broken.disk.fork();
            let found = recorded(&left);
            assert!(found == before || found == after, "{place}: recorded: {found:?}");
            let again = verb(&left).map_err(|error| error.to_string());
            assert_eq!(again.is_ok(), sound.is_ok(), "{place}: not even afterwards: {again:?}");
            // Goes by the disk alone: the very same one needs no second look.
            if seen.insert(left.fingerprint()) {
                assert!(settle(&left.fork()) == settled, "{place}: what is left differs");
            }
        }
    }
    assert!(errors > 0, "{what}: there was no error");
}

/// For verbs that change nothing.
fn files(disk: &SimStorage) -> String {
    let files = disk.files().into_iter();
    files.map(|(name, content)| format!("{name}: {}\n", Digest::of(&content))).collect()
}

/// The revisions that can be read, and what a check reports about the rest.
fn readable(disk: &SimStorage) -> String {
    let archive = world::open(disk).expect("open");
    let read = |number| world::read_revision(&archive, number).map(|bytes| Digest::of(&bytes));
    let all: Vec<_> = (0..archive.revisions().len()).map(|number| read(number).ok()).collect();
    format!("{all:?} {}", recorded(disk).expect("a manifest"))
}

fn check_options() -> ScrubOptions {
    ScrubOptions { threads: Some(1), ..ScrubOptions::default() }
}

fn comparable(report: serde_json::Result<serde_json::Value>) -> serde_json::Value {
    let mut report = report.expect("JSON");
    // Measured values are never the same.
    for measured in ["seconds", "bytes_per_second", "read_bytes"] {
        report.as_object_mut().map(|report| report.remove(measured));
    }
    report
}

/// A check, a status and a drill return their results or an error.
#[test]
fn a_lack_of_resources_is_an_error_not_an_answer() {
    for (what, world) in worlds() {
        let check = |disk: &SimStorage| {
            let report = world::open(disk)?.check(&check_options(), &world::clock(), &Silent)?;
            Ok(comparable(serde_json::to_value(report)))
        };
        sweep_limits(&format!("{what}: check"), &world, check, files);
        let all: Vec<RevisionId> = world.expected.iter().map(|one| one.uuid).collect();
        let look = |disk: &SimStorage| {
            let report = status(&world::open(disk)?, &all, &world::clock())?;
            Ok(comparable(serde_json::to_value(report)))
        };
        sweep_limits(&format!("{what}: status"), &world, look, files);
        for number in (0..all.len()).step_by(2) {
            let read = |disk: &SimStorage| {
                let archive = world::open(disk)?;
                let report =
                    drill::read(&archive, archive.id(number)?, Some(1), &world::clock(), &Silent)?;
                Ok(comparable(serde_json::to_value(report)))
            };
            sweep_limits(&format!("{what}: drill of {number}"), &world, read, files);
        }
    }
}

/// Readers, restores and restores that keep going return the same bytes and name the same blocks as lost, or return
/// an error.
#[test]
fn a_lack_of_resources_loses_no_block() {
    for (what, world) in worlds() {
        for number in (0..world.expected.len()).step_by(2) {
            let keep_going = |disk: &SimStorage| {
                let mut stream = Vec::new();
                let options = world::restore_options();
                let options = backy_lib::RestoreOptions { keep_going: true, ..options };
                let archive = world::open(disk)?;
                let report = archive.restore_to_stream(
                    archive.id(number)?,
                    &mut stream,
                    &options,
                    &Silent,
                )?;
                Ok((stream, report.unreadable))
            };
            sweep_limits(&format!("{what}: restore of {number}"), &world, keep_going, files);
            let here_and_there = |disk: &SimStorage| {
                let archive = world::open(disk)?;
                let reader = archive.open_reader(archive.id(number)?, &ReadCache::new(1 << 14))?;
                let mut read = Vec::new();
                for offset in (0..reader.size_bytes()).step_by(3000) {
                    let mut buffer = vec![0; 3000];
                    let found = match reader.read_at(&mut buffer, offset) {
                        Err(error) if error.is_of_process() => return Err(error),
                        found => found.ok(),
                    };
                    read.push((found, found.map(|_| buffer)));
                }
                Ok(read)
            };
            let name = format!("{what}: reader of {number}");
            if here_and_there(&world.fork().disk).is_ok() {
                sweep_limits(&name, &world, here_and_there, files);
            }
        }
    }
}

/// A scrub records and repairs the same, or nothing.
#[test]
fn a_lack_of_resources_is_no_finding() {
    for (what, world) in worlds() {
        let scrub = |disk: &SimStorage| {
            let mut writer = world::writer(disk)?;
            let report = writer.scrub(&check_options(), &world::clock(), &Silent)?;
            let findings = report.findings.iter();
            Ok(findings.map(|f| format!("{}: {}", f.file, f.message)).collect::<Vec<_>>())
        };
        sweep_limits(&format!("{what}: scrub"), &world, scrub, readable);
    }
}

/// Backups, removals and maintenance leave the same revisions, in the same state.
#[test]
fn a_lack_of_resources_costs_no_revision() {
    for (what, world) in worlds() {
        let next = scenarios().remove(1).2;
        let backup = |disk: &SimStorage| {
            if world::open(disk)?.revisions().len() > world.expected.len() {
                return Ok(());
            }
            world::backup(disk, &MemorySource::new(&next)).map(drop)
        };
        let contents = |disk: &SimStorage| {
            let archive = world::open(disk).expect("open");
            let read = |number| world::read_revision(&archive, number).ok();
            let all = (0..archive.revisions().len()).map(read);
            // The identity of a new revision is never the same.
            let all = all.map(|bytes| bytes.map(|bytes| Digest::of(&bytes)));
            format!("{:?}", all.collect::<Vec<_>>())
        };
        // How a known bad block ends up depends on how many backups have run.
        if what == "sound" {
            sweep_limits_of_backup(&format!("{what}: backup"), &world, backup, contents);
        }
        let maintain = |disk: &SimStorage| world::maintain(disk, Some(2)).map(drop);
        sweep_limits(&format!("{what}: maintenance"), &world, maintain, readable);
    }
}

/// The same where the records concern revisions that are new each time.
fn sweep_limits_of_backup(
    what: &str,
    world: &World,
    verb: impl Fn(&SimStorage) -> Result<()>,
    settle: impl Fn(&SimStorage) -> String,
) {
    let trial = world.fork();
    let sound = verb(&trial.disk).map_err(|error| error.to_string());
    let settled = settle(&trial.disk.fork());
    for at in 1..=trial.disk.calls() {
        for fault in FAULTS {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let result = verb(&broken.disk);
            let place = format!("{what}: {fault:?} at call {at}");
            if let Err(error) = &result {
                let is_expected = sound.as_ref().err() == Some(&error.to_string());
                assert!(error.is_of_process() || is_expected, "{place}: {error}");
            }
            let left = broken.disk.fork();
            let again = verb(&left).map_err(|error| error.to_string());
            assert_eq!(again.is_ok(), sound.is_ok(), "{place}: not even afterwards: {again:?}");
            assert!(settle(&left.fork()) == settled, "{place}: what is left differs");
        }
    }
}

/// An interrupted backup is undone, and a lost manifest rebuilt, with nothing lost for lack of a file.
#[test]
fn a_lack_of_resources_stops_recovery_and_rebuild_cleanly() {
    for (what, world) in worlds() {
        let next = scenarios().remove(1).2;
        let trial = world.fork();
        let backup = |disk: &SimStorage| world::backup(disk, &MemorySource::new(&next)).map(drop);
        let _ = backup(&trial.disk);
        for at in (1..=trial.disk.calls()).step_by(17) {
            let broken = world.fork();
            broken.disk.set_fault(at, Fault::Crash, at);
            if backup(&broken.disk).is_ok() {
                continue;
            }
            let disk = broken.disk.crash(Unsynced::Kept);
            let crashed = World { disk, ..world.clone() };
            let recover = |disk: &SimStorage| world::writer(disk).map(|_| ());
            if recover(&crashed.fork().disk).is_ok() {
                sweep_recovery(&format!("{what}: recovery from {at}"), &crashed, recover);
            }
        }
        Storage::remove(&world.disk, FileName::MANIFEST).expect("remove the manifest");
        let rebuild = |disk: &SimStorage| {
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            let made = ArchiveWriter::rebuild_on(storage, "a test", true, &Silent)?;
            Ok(made.revisions)
        };
        if rebuild(&world.fork().disk).is_ok() {
            sweep_recovery(&format!("{what}: rebuild"), &world, rebuild);
        }
    }
}

/// The same for what repairs an archive: afterwards it is as if nothing had failed.
fn sweep_recovery<T: PartialEq + Debug>(
    what: &str,
    world: &World,
    verb: impl Fn(&SimStorage) -> Result<T>,
) {
    let trial = world.fork();
    let sound = verb(&trial.disk).expect("it works on a working disk");
    let settled = readable(&trial.disk.fork());
    for at in 1..=trial.disk.calls() {
        for fault in FAULTS {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let place = format!("{what}: {fault:?} at call {at}");
            match verb(&broken.disk) {
                Ok(result) => assert_eq!(result, sound, "{place}"),
                Err(error) => assert!(error.is_of_process(), "{place}: {error}"),
            }
            let left = broken.disk.fork();
            let again = verb(&left).unwrap_or_else(|error| panic!("{place}: afterwards: {error}"));
            assert_eq!(again, sound, "{place}: afterwards");
            assert!(readable(&left.fork()) == settled, "{place}: what is left differs");
        }
    }
}
