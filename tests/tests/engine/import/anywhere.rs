//! An import with each call of the new archive failing in turn.

use backy_lib::archive::ArchiveWriter;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Failure, Fault, SimStorage, Unsynced};
use backy_tests::world;

use super::scene::Scene;

/// An import may fail at any call of the new archive, in any way: what it has imported is right, and another import
/// does the rest.
#[test]
fn an_import_that_fails_anywhere_continues() {
    let scene = Scene::small();
    let import = |disk: &SimStorage| {
        let mut writer = ArchiveWriter::open(world::open(disk)?, "a test", &Silent)?;
        writer.import(&scene.old.folder, Some(1), &world::clock(), &Silent)
    };
    let trial = scene.disk.fork();
    import(&trial).expect("an import");
    let faults = [
        Fault::Once(Failure::Io),
        Fault::FromThenOn(Failure::Io),
        Fault::Once(Failure::NoSpace),
        Fault::FromThenOn(Failure::NoSpace),
        Fault::Crash,
    ];
    let mut done = [false; 6];
    for at in 1..=trial.calls() {
        // All of them at some calls, each at most calls.
        let chosen =
            faults.into_iter().cycle().skip(at as usize).take(if at % 7 == 0 { 5 } else { 2 });
        for fault in chosen {
            let broken = scene.disk.fork();
            broken.set_fault(at, fault, at);
            let result = import(&broken);
            let place = format!("{fault:?} at call {at}");
            let unsynced = [Unsynced::Kept, Unsynced::Subset(at), Unsynced::Lost][at as usize % 3];
            let after = if fault == Fault::Crash { broken.crash(unsynced) } else { broken.fork() };
            let right = |disk: &SimStorage| {
                let archive = world::open(disk).expect(&place);
                let count = archive.revisions().len();
                for number in 0..count {
                    let (uuid, bytes) = &scene.old.revisions[count - 1 - number];
                    assert_eq!(archive.revisions()[number].uuid.to_string(), *uuid, "{place}");
                    let found = world::read_revision(&archive, number);
                    assert!(found.is_ok_and(|found| found == *bytes), "{place}: {number}");
                }
                count
            };
            let count = right(&after);
            done[count] = true;
            assert!(count == 5 || result.is_err(), "{place}: told that it worked");
            import(&after).unwrap_or_else(|error| panic!("{place}: again: {error}"));
            assert_eq!(right(&after), 5, "{place}");
        }
    }
    assert_eq!(done, [true; 6]);
}
