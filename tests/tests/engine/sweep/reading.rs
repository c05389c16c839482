//! Everything that only reads, with each of its calls failing in turn: the right result or an error that names the
//! file, and the archive stays as it is. Exports, which need a real folder, are in `real/calls.rs`.

use backy_lib::archive::Archive;
use backy_lib::health::Level;
use backy_lib::image::reader::ReadCache;
use backy_lib::progress::Silent;
use backy_lib::status::status;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_lib::{Error, MaintenanceOptions, Result, RevisionId, ScrubOptions, drill};
use backy_tests::world::{self, World};

use super::{scenarios, sweep_with};

/// Archives of several revisions, one of them standalone, one shorter, one longer.
fn worlds() -> Vec<World> {
    let of_interest =
        |(name, ..): &super::Scenario| matches!(*name, "third" | "shrunk" | "emptied");
    let worlds =
        scenarios().into_iter().filter(of_interest).map(|(name, mut states, new, later)| {
            states.extend([new, later]);
            let world = World::with_backups(false, &states);
            if name == "third" {
                world::configure(&world.disk, "source = \"/memory\"\nmax_chain = 2");
                world::maintain(&world.disk, None).expect("a standalone revision");
            }
            World { disk: world.disk.crash(Unsynced::Kept), ..world }
        });
    worlds.collect()
}

/// What a reader returns when one of its calls fails, beside an error.
enum Said {
    /// The right result.
    Right,
    /// A report of a problem.
    Wrong,
}

/// Makes each call of `read` fail, once and from then on. Errors have to name the file that could not be read. After
/// a failed call no result may say that all is well unless it is right. Returns the numbers of errors and of calls.
fn sweep_reader(
    what: &str,
    world: &World,
    read: impl Fn(&SimStorage) -> Result<Said>,
) -> (u64, u64) {
    let files = world.disk.files();
    let trial = world.fork();
    assert!(matches!(read(&trial.disk), Ok(Said::Right)), "{what}: it does not work");
    let calls = trial.disk.calls();
    let mut errors = 0;
    for at in 1..=calls {
        for fault in [Fault::Once(Failure::Io), Fault::FromThenOn(Failure::Io)] {
            let broken = world.fork();
            broken.disk.set_fault(at, fault, at);
            let result = read(&broken.disk);
            let log = broken.disk.log();
            // The calls that have failed, of which the error names one.
            let number = |line: &String| line.split(':').next().and_then(|n| n.parse().ok());
            let all = fault != Fault::Once(Failure::Io);
            let has_failed = |n: u64| n == at || all && n > at;
            let failed: Vec<&String> =
                log.iter().filter(|line| number(line).is_some_and(has_failed)).collect();
            let place = format!("{what}: {fault:?} at call {at} of {calls} ({:?})", failed.first());
            if let Err(error) = &result {
                errors += 1;
                check_message(&place, error, &failed);
            }
            assert!(broken.disk.files() == files, "{place}: the archive has changed");
            // What came before has left no trace.
            let again = broken.disk.fork();
            assert!(matches!(read(&again), Ok(Said::Right)), "{place}: not even afterwards");
        }
    }
    (errors, calls)
}

/// The error names the file and, of a read, the place.
fn check_message(place: &str, error: &Error, failed: &[&String]) {
    let message = error.to_string();
    let named = failed.iter().any(|line| {
        let (action, path) = line.rsplit_once(' ').expect("an action and a path");
        message.contains(path) && (!action.contains(": read ") || message.contains(" at offset "))
    });
    assert!(named || failed.is_empty(), "{place}: {message}");
}

/// A revision as a mount reads it, in pieces, with its holes.
fn read_as_a_mount(world: &World, archive: &Archive, number: usize) -> Result<Said> {
    let expected = &world.expected[number].bytes;
    let reader = archive.open_reader(archive.id(number)?, &ReadCache::new(1 << 14))?;
    let mut buffer = vec![0; 3000];
    let mut offset = 0;
    while offset < expected.len() {
        let found = reader.read_at(&mut buffer, offset as u64)?;
        let right = &expected[offset..expected.len().min(offset + buffer.len())];
        assert!(buffer[..found] == *right, "wrong bytes at {offset}");
        offset += buffer.len();
    }
    let mut offset = 0;
    while let Some(data) = reader.next_data(offset)? {
        let hole = &expected[offset as usize..data as usize];
        assert!(hole.iter().all(|&byte| byte == 0), "data in a hole before {data}");
        let next = reader.next_hole(data)?;
        if next >= expected.len() as u64 {
            break;
        }
        offset = next;
    }
    reader.refresh()?;
    Ok(Said::Right)
}

/// The reader that mounts and Python use: its own bytes or an error.
#[test]
fn a_mounted_revision() {
    for world in worlds() {
        for number in 0..world.expected.len() {
            let (errors, calls) = sweep_reader(&format!("reader of {number}"), &world, |disk| {
                read_as_a_mount(&world, &world::open(disk)?, number)
            });
            assert!(calls > 10 && errors > calls, "{errors} errors at {calls} calls");
        }
    }
}

/// A restore to a stream writes its own bytes up to an error.
#[test]
fn a_stream() {
    for world in worlds() {
        for (number, expected) in world.expected.iter().enumerate() {
            sweep_reader(&format!("stream of {number}"), &world, |disk| {
                let mut stream = Vec::new();
                let options = world::restore_options();
                let archive = world::open(disk)?;
                let done = archive.restore_to_stream(
                    archive.id(number).unwrap(),
                    &mut stream,
                    &options,
                    &Silent,
                );
                assert!(expected.bytes.starts_with(&stream), "wrong bytes");
                done?;
                assert_eq!(stream.len(), expected.bytes.len());
                Ok(Said::Right)
            });
        }
    }
}

/// A check never says that all is well when it could not read something.
#[test]
fn a_check() {
    for world in worlds() {
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        let sound = world::open(&world.disk).expect("open");
        let whole = sound.check(&options, &world::clock(), &Silent).expect("a check").read_bytes;
        sweep_reader("check", &world, |disk| {
            let report = world::open(disk)?.check(&options, &world::clock(), &Silent)?;
            if !report.is_clean() {
                return Ok(Said::Wrong);
            }
            // More where the holes could not be determined.
            assert!(report.read_bytes >= whole, "it is clean, and not all was read");
            Ok(Said::Right)
        });
    }
}

/// The status is the right one, or reports a problem.
#[test]
fn the_status() {
    for world in worlds() {
        let all: Vec<RevisionId> = world.expected.iter().map(|one| one.uuid).collect();
        world::configure(&world.disk, "source = \"/memory\"");
        // That the source has shrunk.
        world::maintain(&world.disk, None).expect("a confirmation");
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        let look = |disk: &SimStorage| status(&world::open(disk)?, &all, &world::clock());
        let sound = serde_json::to_value(look(&world.disk).expect("the status")).expect("JSON");
        sweep_reader("status", &world, |disk| {
            let report = look(disk)?;
            if report.health.level != Level::Ok {
                return Ok(Said::Wrong);
            }
            assert_eq!(serde_json::to_value(&report).expect("JSON"), sound);
            Ok(Said::Right)
        });
    }
}

/// A drill that could not read everything has not passed.
#[test]
fn a_drill() {
    for world in worlds() {
        for number in 0..world.expected.len() {
            sweep_reader(&format!("drill of {number}"), &world, |disk| {
                let archive = world::open(disk)?;
                let report =
                    drill::read(&archive, archive.id(number)?, Some(1), &world::clock(), &Silent)?;
                Ok(if report.passed { Said::Right } else { Said::Wrong })
            });
        }
    }
}

/// Plans are those of the archive as it is, or there are none.
#[test]
fn plans() {
    for world in worlds() {
        let options = MaintenanceOptions { keep: Some(1), confirm: true, threads: Some(1) };
        let plans = |disk: &SimStorage| {
            let archive = world::open(disk)?;
            let backup = archive.plan_backup(&world::options(), &world::clock())?;
            let removal = archive.plan_removal(&world::ids(&archive, &[1])?)?;
            Ok((backup, archive.plan_maintenance(&options)?, removal))
        };
        let sound = format!("{:?}", plans(&world.disk).expect("plans"));
        sweep_reader("plans", &world, |disk| {
            assert_eq!(format!("{:?}", plans(disk)?), sound);
            Ok(Said::Right)
        });
    }
}

/// The result of a drill is recorded or not, and nothing else changes.
#[test]
fn noting_a_drill() {
    let (_, states, _, later) = scenarios().remove(2);
    let world = World::with_backups(false, &states);
    let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
    let archive = world::open(&world.disk).expect("open");
    let report = drill::read(&archive, archive.id(1).unwrap(), Some(1), &world::clock(), &Silent)
        .expect("a drill");
    let note = |disk: &SimStorage| {
        let mut writer = world::writer(disk)?;
        writer.record_drill(report.clone(), &world::clock(), &Silent)
    };
    sweep_with(&world, 3, note, |place, mut world, result| {
        world.check_committed(None).unwrap_or_else(|error| panic!("{place}: {error}"));
        let archive = world::open(&world.disk).expect("open");
        let noted = archive.manifest().drill.is_some();
        assert!(noted || result.is_err(), "{place}: told that it worked");
        world.backup(&later);
        world.assert_tidy(place);
    });
}

/// A config that cannot be read is an error for the verbs that need it, and prevents nobody from restoring.
#[test]
fn without_a_config() {
    let world = worlds().remove(0);
    let storage: &dyn backy_lib::storage::Storage = &world.disk;
    storage.remove(FileName::CONFIG).expect("remove the config");
    for (number, expected) in world.expected.iter().enumerate() {
        let archive = world::open(&world.disk).expect("open");
        assert!(world::read_revision(&archive, number).expect("a revision") == expected.bytes);
    }
    let archive = world::open(&world.disk).expect("open");
    let error = archive.plan_backup(&world::options(), &world::clock()).expect_err("no config");
    assert!(error.to_string().contains("backy.toml"), "{error}");
}
