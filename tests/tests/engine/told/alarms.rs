//! Alarms, damage and drills: backy reports each problem as what it is, for as long as it exists.

use std::collections::BTreeSet;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::progress::Silent;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::SimStorage;
use backy_lib::{
    Error, ErrorKind, MaintenanceOptions, ProblemKind, RestoreOptions, ScrubOptions, drill,
};
use backy_tests::memory::MemoryTarget;
use backy_tests::world::{self, World, noise};

use super::{BLOCK, writer};

/// Damages what the delta of a revision holds of a block that does not compress.
fn spoil(world: &World, number: usize, block: usize) {
    let expected = &world.expected[number];
    let content = &expected.bytes[block * BLOCK..(block + 1) * BLOCK];
    world.disk.tamper(FileName::Delta(expected.uuid), |delta| {
        let place = delta.chunks(BLOCK).position(|cluster| cluster == content);
        delta[place.expect("a cluster of that block") * BLOCK + 99] ^= 1;
    });
}

/// Seven usual states, and as many unusual ones as requested.
fn with_alarms(unusual: u64) -> World {
    let mut state = noise(1, 12 * BLOCK);
    let mut states = vec![state.clone()];
    for number in 1..7 {
        state[number * BLOCK..(number + 1) * BLOCK]
            .copy_from_slice(&noise(50 + number as u64, BLOCK));
        states.push(state.clone());
    }
    states.extend((0..unusual).map(|number| noise(100 + number, 12 * BLOCK)));
    World::with_backups(false, &states)
}

fn confirm(disk: &SimStorage) -> Vec<(ProblemKind, usize)> {
    let archive = world::open(disk).expect("open");
    let number = |id| archive.revisions().iter().position(|revision| revision.uuid == id);
    let options = MaintenanceOptions { keep: Some(99), confirm: true, threads: Some(1) };
    let report = writer(disk).maintain(&options, &world::clock(), &Silent).expect("maintenance");
    let confirmed = report.confirmed.iter();
    confirmed.map(|freeze| (freeze.kind, number(freeze.revision).expect("a revision"))).collect()
}

fn frozen(disk: &SimStorage) -> Vec<(ProblemKind, usize)> {
    let archive = world::open(disk).expect("open");
    let number = |id| archive.revisions().iter().position(|revision| revision.uuid == id);
    let report = backy_lib::status::status(&archive, &[], &world::clock()).expect("a status");
    let frozen = report.frozen.iter();
    frozen.map(|freeze| (freeze.kind, number(freeze.revision).expect("a revision"))).collect()
}

/// Two alarms and damage at once: each is reported by itself. A confirmation confirms all current alarms and no later
/// one, and nothing is confirmed twice.
#[test]
fn each_alarm_is_reported_and_can_be_confirmed() {
    use ProblemKind::{Damage, UnusualChange};
    let mut world = with_alarms(2);
    let sorted = |mut found: Vec<(ProblemKind, usize)>| {
        found.sort();
        found
    };
    let alarms = [(UnusualChange, 0), (UnusualChange, 1)];
    assert_eq!(sorted(frozen(&world.disk)), sorted(alarms.to_vec()));
    spoil(&world, 2, 9);
    let report = writer(&world.disk).scrub(&ScrubOptions::default(), &world::clock(), &Silent);
    let damaged: BTreeSet<usize> = report
        .expect("a scrub")
        .findings
        .iter()
        .flat_map(|f| &f.affected)
        .map(|a| a.number)
        .collect();
    assert!(!damaged.is_empty());
    let all: Vec<_> =
        alarms.into_iter().chain(damaged.iter().map(|number| (Damage, *number))).collect();
    assert_eq!(sorted(frozen(&world.disk)), sorted(all.clone()));
    let before = world::open(&world.disk).expect("open").revisions().len();
    let options = MaintenanceOptions { keep: Some(1), ..MaintenanceOptions::default() };
    let report = writer(&world.disk).maintain(&options, &world::clock(), &Silent);
    assert_eq!(report.expect("maintenance").plan.frozen.len(), all.len());
    assert_eq!(world::open(&world.disk).expect("open").revisions().len(), before);

    assert_eq!(sorted(confirm(&world.disk)), sorted(all));
    assert_eq!(frozen(&world.disk), []);
    let archive = world::open(&world.disk).expect("open");
    let times: Vec<_> = archive.manifest().alarms.iter().map(|alarm| alarm.confirmed).collect();
    assert!(times.len() == 2 && times.iter().all(Option::is_some), "{times:?}");
    assert_eq!(confirm(&world.disk), [], "confirmed twice");
    world.backup(&noise(300, 12 * BLOCK));
    assert_eq!(frozen(&world.disk), [(UnusualChange, 0)], "a later one is an alarm of its own");
}

/// A drill whose command fails has not passed and does not say that all is right. Nor does one of a damaged revision.
#[test]
fn what_failed_is_not_called_right() {
    let world = World::with_backups(false, &[noise(1, 9 * BLOCK)]);
    let archive = world::open(&world.disk).expect("open");
    let passed = drill::read(&archive, archive.id(0).unwrap(), None, &world::clock(), &Silent)
        .expect("a drill");
    let right = passed.message.clone();
    assert!(passed.passed && right.contains("all blocks"), "{right}");
    let judged = passed.clone().judged("look".to_owned(), Err("it is empty".to_owned()));
    assert!(!judged.passed && judged.message == "it is empty", "{}", judged.message);
    assert_eq!(judged.command.as_deref(), Some("look"));
    let content = passed.judged("look".to_owned(), Ok(()));
    assert!(content.passed && content.message == right);
    world.disk.tamper(FileName::IMAGE, |image| image[5000] ^= 1);
    let failed = drill::read(&archive, archive.id(0).unwrap(), None, &world::clock(), &Silent)
        .expect("a drill");
    assert!(!failed.passed && !failed.message.contains("every block"), "{}", failed.message);
    assert!(failed.message.contains("block 1"), "{}", failed.message);
    let judged = failed.judged("look".to_owned(), Ok(()));
    assert!(!judged.passed, "a command that is content makes nothing right");
}

/// Known damage stays known wherever it moves: into the delta that takes over a block, into the image when the newest
/// revision is deleted, and into a revision that becomes standalone.
#[test]
fn bad_blocks_stay_marked() {
    let states: Vec<Vec<u8>> = (0..4)
        .map(|number| {
            let mut state = noise(1, 8 * BLOCK);
            state[..BLOCK].copy_from_slice(&noise(10 + number, BLOCK));
            // Only the two newest differ here: the older ones read it through from the second.
            let seed = if number == 3 { 20 } else { 21 };
            state[3 * BLOCK..4 * BLOCK].copy_from_slice(&noise(seed, BLOCK));
            state
        })
        .collect();
    let world = World::with_backups(false, &states);
    spoil(&world, 1, 3);
    let report = writer(&world.disk).scrub(&ScrubOptions::default(), &world::clock(), &Silent);
    assert!(!report.expect("a scrub").findings.is_empty());
    let bad = |disk: &SimStorage| -> Vec<Vec<u64>> {
        let archive = world::open(disk).expect("open");
        let unreadable = |number: usize| {
            let target = MemoryTarget::absent();
            let options = RestoreOptions { keep_going: true, ..world::restore_options() };
            let report = archive
                .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
                .expect("a restore");
            let blocks = report.unreadable.iter();
            let blocks: Vec<u64> = blocks.map(|extent| extent.offset / BLOCK as u64).collect();
            let said = backy_lib::status::status(
                &archive,
                &[archive.id(number).unwrap()],
                &world::clock(),
            );
            let said = said.expect("a status").revisions[0].damaged.clone();
            assert_eq!(said, report.unreadable, "revision {number}: what the manifest says");
            blocks
        };
        (0..archive.revisions().len()).map(unreadable).collect()
    };
    assert_eq!(bad(&world.disk), [vec![], vec![3], vec![3], vec![3]]);
    let merged = world.disk.fork();
    world::remove(&merged, &[1]).expect("a removal");
    assert_eq!(bad(&merged), [vec![], vec![3], vec![3]]);
    world::remove(&merged, &[1]).expect("a removal");
    assert_eq!(bad(&merged), [vec![], vec![3]]);
    let rolled_back = world.disk.fork();
    world::remove(&rolled_back, &[0]).expect("a removal");
    assert_eq!(bad(&rolled_back), [vec![3], vec![3], vec![3]]);
    let standalone = world.disk.fork();
    world::configure(&standalone, "max_chain = 1\n");
    let done = world::maintain(&standalone, Some(9));
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(bad(&standalone), [vec![], vec![3], vec![3], vec![3]]);
    // The next scrub finds nothing that was not known.
    for disk in [&merged, &rolled_back, &standalone] {
        let archive = world::open(disk).expect("open");
        let report = archive.check(&ScrubOptions::default(), &world::clock(), &Silent);
        let report = report.expect("a check");
        assert!(report.findings.iter().all(|finding| finding.blocks.is_some()), "{report:?}");
    }
}

/// Somebody else's lock prevents every writer from starting. Readers do not ask for it.
#[test]
fn nobody_writes_without_the_lock() {
    let world = World::with_backups(false, &[noise(1, 3 * BLOCK), noise(2, 3 * BLOCK)]);
    let held = writer(&world.disk);
    let archive = world::open(&world.disk).expect("open");
    let second = ArchiveWriter::open(archive, "another test", &Silent).map(|_| ());
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    let archive: Archive = world::open(&world.disk).expect("open");
    assert!(world::read_revision(&archive, 1).is_ok());
    drop(held);
    let archive = world::open(&world.disk).expect("open");
    assert_eq!(
        ArchiveWriter::open(archive, "a test", &Silent).map(|_| ()).map_err(|e| e.kind()),
        Ok::<(), ErrorKind>(())
    );
}
