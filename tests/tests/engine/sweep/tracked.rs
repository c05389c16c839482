//! Marks at every fault: the one that the newest revision names is at the source, with the content of the revision, and
//! the next backup relies on it.

use std::cell::RefCell;

use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Failure, Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_tests::tracked::TrackedDisk;
use backy_tests::world::{self, Expected, World, random_state};

use super::stop::image_time;
use super::{BLOCK_SIZE, Scenario, scenarios, sweep_beside};
use crate::tracked::backup_on;

/// Whatever call of a backup fails, in whatever way, and wherever the machine stops: the mark of the newest revision is
/// at the source, and holds what the revision holds. The next backup reads only what has changed since, and leaves one
/// mark.
#[test]
fn the_mark_of_the_newest_revision_is_there_at_every_fault() {
    for (clones, _) in world::UPDATES {
        let chosen = ["first", "third", "unchanged", "grown"];
        let chosen = |scenario: &Scenario| chosen.contains(&scenario.0);
        for (name, before, new, later) in scenarios().into_iter().filter(chosen) {
            let source = TrackedDisk::new(&[]);
            let mut world = World::with_backups(clones, &[]);
            let back_up = |disk: &SimStorage, source: &TrackedDisk| {
                backup_on(disk, source, &world::clock(), &world::options(), &Silent)
            };
            for state in &before {
                source.set(state);
                let made = back_up(&world.disk, &source).expect("a backup");
                world
                    .expected
                    .insert(0, Expected { uuid: made.revision.uuid, bytes: state.clone() });
            }
            source.set(&new);
            let left = RefCell::new(source.fork());
            let operation = |disk: &SimStorage| {
                let source = source.fork();
                *left.borrow_mut() = source.clone();
                back_up(disk, &source).map(drop)
            };
            sweep_beside(&world, 3, operation, |place, mut world, result| {
                let place = format!("{name}, clones {clones}: {place}");
                let source = left.borrow().fork();
                let committed = world.check_committed(Some(&new)).expect(&place);
                assert!(committed || result.is_err(), "{place}: it is not there");
                let archive = world::open(&world.disk).expect(&place);
                let newest = archive.revisions().first();
                if let Some(newest) = newest.filter(|newest| newest.bookmark.is_some()) {
                    let id = archive.manifest().archive.expect(&place);
                    let wanted = format!("backy.{id}.{}", newest.uuid);
                    let mark = source.marks().into_iter().find(|(name, _)| *name == wanted);
                    let (_, content) = mark.unwrap_or_else(|| panic!("{place}: no mark {wanted}"));
                    assert!(content == world.expected[0].bytes, "{place}: another content");
                }
                source.set(&later);
                let made = back_up(&world.disk, &source).expect(&place);
                let is_known = made.revision.hints.as_ref().is_some_and(|h| h.since.is_some());
                assert_eq!(is_known, !world.expected.is_empty(), "{place}");
                let (uuid, bytes) = (made.revision.uuid, later.clone());
                world.expected.insert(0, Expected { uuid, bytes });
                world.assert_tidy(&place);
                assert_eq!(source.marks().len(), 1, "{place}: {:?}", source.marks().len());
            });
        }
    }
}

/// A backup of which the source reports no change writes nothing to the image, and when it is killed or fails, neither
/// does undoing it: a program that relies on the image does not matter.
#[test]
fn a_backup_that_changes_nothing_leaves_the_image_alone() {
    for (clones, _) in world::UPDATES {
        let state = random_state(&mut Random(12), 9 * BLOCK_SIZE.len() + 12);
        let source = TrackedDisk::new(&state);
        let mut world = World::with_backups(clones, &[]);
        let back_up = |disk: &SimStorage, source: &TrackedDisk| {
            backup_on(disk, source, &world::clock(), &world::options(), &Silent)
        };
        for _ in 0..2 {
            let made = back_up(&world.disk, &source).expect("a backup");
            world.expected.insert(0, Expected { uuid: made.revision.uuid, bytes: state.clone() });
        }
        // The digests of the overlay are made when it is whole.
        let has_begun = |disk: &SimStorage| {
            let is_delta =
                |name: &&FileName| matches!(name, FileName::Digests(_, DigestsKind::Delta));
            disk.list().expect("list").iter().filter(is_delta).count() == 2
        };
        let (before, mut begun) = (image_time(&world.disk), 0);
        for at in 1.. {
            let broken = |fault| {
                let broken = world.fork();
                broken.disk.set_fault(at, fault, at);
                let result = back_up(&broken.disk, &source.fork());
                (broken, result)
            };
            let (killed, result) = broken(Fault::Crash);
            if result.is_ok() {
                break;
            }
            let killed = World { disk: killed.disk.crash(Unsynced::Kept), ..killed };
            begun += u32::from(has_begun(&killed.disk));
            if begun == 0 {
                continue;
            }
            let (failed, _) = broken(Fault::Once(Failure::Io));
            for (what, mut world) in [("killed", killed), ("failed", failed)] {
                let place = format!("clones {clones}, {what} at call {at}");
                world::writer(&world.disk).expect(&place);
                assert_eq!(image_time(&world.disk), before, "{place}");
                world.check_committed(Some(&state)).expect(&place);
                world.assert_tidy(place);
            }
        }
        assert!(begun > 20, "clones {clones}: {begun}");
    }
}
