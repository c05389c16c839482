//! An origin that is damaged, or that changes while it is pulled from.

use backy_lib::digest::TableEntry;
use backy_lib::format::manifest::BlockRange;
use backy_lib::progress::Silent;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::units::BlockIndex;
use backy_lib::{ImageUpdate, ScrubOptions};
use backy_tests::world::{self, changed_state};

use super::scene::{Between, Scene, pull, states};

fn blocks(first: u64, count: u64) -> BlockRange {
    BlockRange { first: BlockIndex(first), count }
}

/// Blocks that the origin has lost are lost in the copy, too: the report names them, no reader gets them as data, and
/// everything else is right. The digest stays that of the origin.
#[test]
fn lost_blocks_are_lost_here_too() {
    let mut scene = Scene::new(false, &states(31, &[80_000]));
    let bad = vec![blocks(3, 2), blocks(19, 1)];
    let full = vec![7; 80_000];
    scene.origin.backup(&full);
    let mut origin = Between { bad: bad.clone(), ..Between::new(&scene) };
    let report = pull(&scene.copy, &mut origin).expect("a pull");
    assert!(!report.is_complete(), "{report:?}");
    let damaged: Vec<(u64, u64)> =
        report.pulled[1].damaged.iter().map(|extent| (extent.offset, extent.len)).collect();
    assert_eq!(damaged, [(3 * 4096, 2 * 4096), (19 * 4096, 80_000 - 19 * 4096)]);
    let archive = world::open(&scene.copy).expect("open");
    let newest = &archive.revisions()[0];
    let theirs = world::open(&scene.origin.disk).expect("open");
    assert_eq!(newest.digest, theirs.revisions()[0].digest);
    assert!(newest.table_digest.is_some_and(|table| table != newest.digest));
    let chain = archive.open_revision(newest.uuid).expect("open");
    chain.verify_digests(&Silent).expect("right as a whole");
    let located = chain.locate(BlockIndex(0), 20).expect("located");
    for (at, located) in located.iter().enumerate() {
        let is_lost = bad.iter().any(|range| range.contains(BlockIndex(at as u64)));
        assert_eq!(located.entry == TableEntry::LOST, is_lost, "block {at}");
    }
    assert!(world::read_revision(&archive, 0).is_err());
    // The next pull does not begin anew, and a backup that has the blocks again heals them.
    let mut next = full.clone();
    next[0] = 1;
    scene.origin.backup(&next);
    let mut origin = Between::new(&scene);
    let report = pull(&scene.copy, &mut origin).expect("a pull");
    assert!(report.is_complete(), "{report:?}");
    let mut asked_for: Vec<u64> = origin.asked_for.iter().map(|(_, block)| block.0).collect();
    asked_for.dedup();
    assert_eq!(asked_for, [0, 3, 4, 19]);
    let archive = world::open(&scene.copy).expect("open");
    assert!(world::read_revision(&archive, 0).expect("read") == next);
}

/// Blocks that the origin knows as lost, so that it has no digest of them, are lost in the copy, too, and in a copy of
/// that.
#[test]
fn lost_entries_are_pulled() {
    let scene = Scene::new(false, &states(32, &[80_000, 80_000]));
    let bad = vec![blocks(5, 1)];
    let mut origin = Between { bad, ..Between::new(&scene) };
    pull(&scene.copy, &mut origin).expect("a pull");
    let second = Scene {
        origin: world::World { disk: scene.copy.clone(), expected: Vec::new() },
        copy: SimStorage::new(false),
    };
    world::init(&second.copy).expect("init");
    let report = second.pull().expect("a pull");
    let own = world::open(&second.copy).expect("open");
    for (own, theirs) in
        own.revisions().iter().zip(world::open(&scene.copy).expect("open").revisions())
    {
        assert_eq!((own.digest, own.table_digest), (theirs.digest, theirs.table_digest));
    }
    assert_eq!(report.pulled.len(), 2);
    assert!(second.pull().expect("another pull").pulled.is_empty());
}

/// What is damaged in the copy comes right with the next pull, if the origin still has it.
#[test]
fn a_pull_heals_the_copy() {
    let mut scene = Scene::new(false, &[world::noise(7, 80_000)]);
    scene.pull().expect("a pull");
    scene.copy.tamper(FileName::IMAGE, |image| image[9 * 4096 + 5] ^= 1);
    let mut writer = world::writer(&scene.copy).expect("a writer");
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    writer.scrub(&options, &world::clock(), &Silent).expect("a scrub");
    drop(writer);
    let mut next = world::noise(7, 80_000);
    next[0] ^= 1;
    scene.origin.backup(&next);
    let mut origin = Between::new(&scene);
    let report = pull(&scene.copy, &mut origin).expect("a pull");
    assert!(report.is_complete(), "{report:?}");
    let asked_for: Vec<u64> = origin.asked_for.iter().map(|(_, block)| block.0).collect();
    assert_eq!(asked_for, [0, 9]);
    scene.copied().assert_tidy("afterwards");
}

/// Backups, removals and merges at the origin between any two answers: the copy has only right revisions, the pull
/// does not fail, and the next one completes it.
#[test]
fn an_origin_may_change_between_any_two_answers() {
    for (clones, update) in world::UPDATES {
        let scene = Scene::small(clones);
        let mut whole = Between::new(&scene);
        pull(&scene.copy.fork(), &mut whole).expect("a pull");
        for at in 1..=whole.calls {
            let mut theirs = Scene { origin: scene.origin.fork(), copy: scene.copy.fork() };
            let disk = theirs.origin.disk.clone();
            let mut random = Random(at);
            let state = changed_state(&mut random, &scene.origin.expected[0].bytes, 50_000);
            let removed = [random.below(5) as usize, random.below(5) as usize];
            let made = state.clone();
            let change = move || match at % 3 {
                0 => drop(world::backup_by(&disk, &made, update)),
                1 => drop(world::remove(&disk, &removed[..1 + (at / 3 % 2) as usize])),
                _ => {
                    drop(world::backup_by(&disk, &made, ImageUpdate::InPlace));
                    drop(world::remove(&disk, &[1, 2]));
                }
            };
            let mut origin =
                Between { changes_at: Some((at, Box::new(change))), ..Between::new(&theirs) };
            let place = format!("{clones} call {at}");
            pull(&theirs.copy, &mut origin).unwrap_or_else(|error| panic!("{place}: {error}"));
            pull(&theirs.copy, &mut theirs.local()).unwrap_or_else(|e| panic!("{place}: {e}"));
            // The origin as it is now, and the copy, agree on all revisions that both have.
            let there = world::open(&theirs.origin.disk).expect("open");
            let here = world::open(&theirs.copy).expect("open");
            let newest = there.revisions()[0].uuid;
            assert!(here.revisions().iter().any(|own| own.uuid == newest), "{place}");
            for (number, own) in here.revisions().iter().enumerate() {
                let found = world::read_revision(&here, number).expect("read");
                let known = theirs.origin.expected.iter().find(|known| known.uuid == own.uuid);
                let expected = known.map_or(&state, |known| &known.bytes);
                assert!(found == *expected, "{place}: {number}");
            }
            theirs.origin.expected.clear();
        }
    }
}

/// A pull from an archive in which a backup is under way, or was interrupted, takes what is committed.
#[test]
fn an_interrupted_backup_of_the_origin_does_not_matter() {
    use backy_lib::storage::sim::{Fault, Unsynced};
    use backy_tests::memory::MemorySource;
    let scene = Scene::small(false);
    let mut random = Random(5);
    let state = changed_state(&mut random, &scene.origin.expected[0].bytes, 45_000);
    let trial = scene.origin.disk.fork();
    world::backup(&trial, &MemorySource::new(&state)).expect("a backup");
    for at in (1..=trial.calls()).step_by(3) {
        let disk = scene.origin.disk.fork();
        disk.set_fault(at, Fault::Crash, at);
        let _ = world::backup(&disk, &MemorySource::new(&state));
        let disk = disk.crash(Unsynced::Kept);
        let origin = world::World { disk, expected: scene.origin.expected.clone() };
        let theirs = Scene { origin, copy: scene.copy.fork() };
        let report = theirs.pull().unwrap_or_else(|error| panic!("call {at}: {error}"));
        assert!(report.pulled.len() >= 5);
        let here = world::open(&theirs.copy).expect("open");
        let newer = here.revisions().len() - 5;
        for (number, expected) in scene.origin.expected.iter().enumerate() {
            let found = world::read_revision(&here, number + newer).expect("read");
            assert!(found == expected.bytes, "call {at}: {number}");
        }
    }
}

/// A copy expires revisions by its own schedule, whatever the origin does, and does not pull what it would expire at
/// once.
#[test]
fn a_copy_has_its_own_retention() {
    let scene = Scene::small(false);
    world::configure(&scene.copy, "[schedule.daily]\ninterval = \"1d\"\nkeep = 1\n");
    let report = scene.pull().expect("a pull");
    assert!(!report.pulled.is_empty(), "{report:?}");
    let archive = world::open(&scene.copy).expect("open");
    assert_eq!(archive.revisions()[0].uuid, scene.origin.expected[0].uuid);
    // The origin deletes revisions: the copy keeps them.
    let before = archive.revisions().len();
    world::remove(&scene.origin.disk, &[1, 2, 3]).expect("a removal");
    let again = scene.pull().expect("another pull");
    assert!(again.pulled.is_empty() && again.is_complete(), "{again:?}");
    assert_eq!(world::open(&scene.copy).expect("open").revisions().len(), before);
}
