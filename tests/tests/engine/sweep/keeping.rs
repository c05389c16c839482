//! What deletes, marks, repairs and heals revisions.

use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName};
use backy_lib::{Result, ScrubOptions};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

use super::damages::{self, Damage};
use super::{scenarios, sweep, sweep_with};

/// Numbers of the revisions to delete, among those that a scenario leaves.
fn removals(revisions: usize) -> Vec<Vec<usize>> {
    let all = [vec![0], vec![1], vec![2], vec![0, 1], vec![1, 2], vec![0, 2], vec![3], vec![1, 3]];
    all.into_iter().filter(|numbers| numbers.iter().all(|&n| n < revisions)).collect()
}

/// A removal of any revisions that fails at any call, in any way, costs no other revision, and the next one works.
/// QEMU agrees.
#[test]
fn removal() {
    let qemu = qemu::available().then(|| tempfile::tempdir().expect("a temporary folder"));
    for (at, (name, mut states, new, later)) in scenarios().into_iter().skip(2).enumerate() {
        states.extend([new, later.clone()]);
        let world = World::with_backups(false, &states);
        if at % 2 == 1 {
            make_standalone(&world.disk).expect("a standalone revision");
        }
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        // Each set of numbers is swept with one scenario, since all with all would take minutes. All of them have to
        // work.
        let all = removals(states.len());
        let swept = &all[at % all.len()];
        let calls = sweep_with(
            &world,
            2,
            |disk| world::remove(disk, swept).map(drop),
            |place, world, result| {
                let place = format!("{name}, removing {swept:?}: {place}");
                check_removal(&place, world, result, swept, &later);
            },
        );
        assert!(calls > 8, "{name}: only {calls} calls were seen");
        for numbers in all {
            let mut removed = world.fork();
            removed.remove(&numbers);
            removed.assert_tidy(format_args!("{name}, removing {numbers:?}"));
            if let Some(folder) = &qemu {
                qemu::write_out(&removed.disk, folder.path());
                qemu::check(folder.path(), &removed.expected, 0, true)
                    .unwrap_or_else(|error| panic!("{name}, removing {numbers:?}: {error}"));
            }
        }
    }
}

/// Makes the newest delta standalone.
fn make_standalone(disk: &SimStorage) -> Result<()> {
    world::configure(disk, "max_chain = 2");
    world::maintain(disk, None).map(drop)
}

/// Making a revision standalone may fail at any call, in any way. It does not change the content of any revision.
/// QEMU agrees.
#[test]
fn standalone() {
    let qemu = qemu::available().then(|| tempfile::tempdir().expect("a temporary folder"));
    for (name, mut states, new, later) in scenarios().into_iter().skip(3).step_by(2) {
        states.extend([new, later.clone()]);
        let world = World::with_backups(false, &states);
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        sweep_with(&world, 2, make_standalone, |place, mut world, result| {
            let standalone = |world: &World| {
                world::open(&world.disk).is_ok_and(|a| a.revisions()[1].is_standalone())
            };
            world
                .check_committed(None)
                .unwrap_or_else(|error| panic!("{name}: {place}: before recovery: {error}"));
            assert!(result.is_err() || standalone(&world), "{name}: {place}");
            make_standalone(&world.disk).unwrap_or_else(|error| panic!("{name}: {place}: {error}"));
            assert!(standalone(&world), "{name}: {place}: again");
            world.assert_tidy(format_args!("{name}: {place}: after recovery"));
            // Now the image may be lost without costing that revision and those behind it.
            let storage: &dyn backy_lib::storage::Storage = &world.disk;
            storage.remove(FileName::IMAGE).expect("remove");
            let archive = world::open(&world.disk).expect("open");
            for number in 1..world.expected.len() {
                let bytes = world::read_revision(&archive, number);
                assert!(
                    bytes.is_ok_and(|bytes| bytes == world.expected[number].bytes),
                    "{name}: {place}: revision {number} needs the image"
                );
            }
        });
        let made = world.fork();
        make_standalone(&made.disk).expect("a standalone revision");
        if let Some(folder) = &qemu {
            qemu::write_out(&made.disk, folder.path());
            qemu::check(folder.path(), &made.expected, 0, true)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// A repairing scrub may fail at any call, in any way: no revision reads wrong, what was right stays so, and the next
/// scrub repairs it.
#[test]
fn scrub() {
    let block = BLOCK_SIZE.len();
    let part = |seed: u8| vec![seed; block];
    let (first, second) = (
        [part(1), part(2), part(3), part(2), part(5)].concat(),
        [part(1), part(2), part(3), part(2), part(6)].concat(),
    );
    let third = [part(1), part(2), part(4), part(2), part(6)].concat();
    let all: [Damage; 6] = [
        damages::IMAGE,
        damages::HEADER,
        damages::DIGESTS,
        ("reference counts", |world| {
            let name = FileName::Delta(world.expected[2].uuid);
            world.disk.tamper(name, |delta| delta[4096..4104].fill(0));
        }),
        // The L2 table is the fourth cluster. Block 2 is packed, in the last cluster with data.
        ("an L2 entry", |world| {
            let name = FileName::Delta(world.expected[1].uuid);
            world.disk.tamper(name, |delta| delta[3 * 4096 + 2 * 8..][..8].fill(0));
        }),
        ("an L2 entry and the digests", |world| {
            let name = FileName::Delta(world.expected[1].uuid);
            world.disk.tamper(name, |delta| delta[3 * 4096 + 2 * 8..][..8].fill(0));
            let name = FileName::Digests(world.expected[2].uuid, DigestsKind::Delta);
            world.disk.tamper(name, |digests| digests[..4200].fill(0));
        }),
    ];
    for (what, damage) in all {
        let world = World::with_backups(false, &[first.clone(), second.clone(), third.clone()]);
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        damage(&world);
        let scrub = |disk: &SimStorage| {
            let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
            let mut writer = world::writer(disk)?;
            let report = writer.scrub(&options, &world::clock(), &Silent)?;
            // What could not be read counts as bad. The next scrub will find it right.
            if report.is_clean() { Ok(()) } else { Err(backy_lib::Error::Interrupted) }
        };
        sweep_with(&world, 2, scrub, |place, mut world, result| {
            let archive = world::open(&world.disk).expect(place);
            for (number, expected) in world.expected.iter().enumerate() {
                if let Ok(bytes) = world::read_revision(&archive, number) {
                    assert!(bytes == expected.bytes, "{what}: {place}: revision {number} is wrong");
                } else {
                    assert!(result.is_err(), "{what}: {place}: reports that all is repaired");
                }
            }
            scrub(&world.disk).unwrap_or_else(|error| panic!("{what}: {place}: again: {error}"));
            world.assert_tidy(format_args!("{what}: {place}: repaired"));
            world.backup(&first);
            world
                .check_committed(None)
                .unwrap_or_else(|error| panic!("{what}: {place}: the next backup: {error}"));
        });
    }
}

/// Pins a revision.
fn tag(disk: &SimStorage, number: usize) -> Result<()> {
    let mut writer = world::writer(disk)?;
    let tags = ["pinned".parse().expect("a tag")].into();
    writer.tag(writer.archive().id(number)?, &tags, &[].into(), &world::clock(), &Silent).map(drop)
}

/// A tag is there or not, and nothing else changes.
#[test]
fn tags() {
    let (_, states, _, later) = scenarios().remove(2);
    let world = World::with_backups(false, &states);
    let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
    sweep(
        &world,
        |disk| tag(disk, 1),
        |place, mut world, result| {
            world.check_committed(None).unwrap_or_else(|error| panic!("{place}: {error}"));
            let pinned = |world: &World| {
                let archive = world::open(&world.disk).expect("open");
                archive.revisions()[1].pinned_tags.len() == 1
            };
            assert!(result.is_err() || pinned(&world), "{place}: told that it worked");
            tag(&world.disk, 1).unwrap_or_else(|error| panic!("{place}: again: {error}"));
            assert!(pinned(&world), "{place}: again");
            world.backup(&later);
            world.assert_tidy(format_args!("{place}: the next backup"));
        },
    );
}

/// Maintenance of several steps may fail at any call: what is kept stays and reads right, and the next run does the
/// rest.
#[test]
fn maintenance() {
    let block = BLOCK_SIZE.len();
    let mut random = Random(99);
    let mut states = vec![random_state(&mut random, 6 * block)];
    for size in [7, 5, 6, 8, 6] {
        let last = states[states.len() - 1].clone();
        states.push(changed_state(&mut random, &last, size * block - 5));
    }
    let world = World::with_backups(false, &states);
    // 1, 2 and 4 expire: a merge of two into 3, and the oldest but for 5, which is pinned: another merge.
    tag(&world.disk, 3).expect("a tag");
    tag(&world.disk, 5).expect("a tag");
    let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
    let maintain = |disk: &SimStorage| world::maintain(disk, Some(1)).map(drop);
    sweep_with(&world, 2, maintain, |place, mut world, result| {
        let gone = world
            .check_removing(&[1, 2, 4])
            .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
        assert!(gone || result.is_err(), "{place}: told that it worked");
        maintain(&world.disk).unwrap_or_else(|error| panic!("{place}: again: {error}"));
        let keep = [0, 3, 5].map(|n: usize| states[states.len() - 1 - n].clone());
        world.expected.retain(|expected| keep.contains(&expected.bytes));
        world.assert_tidy(format_args!("{place}: after recovery"));
    });
}

/// A backup that heals a block of the image may fail at any call: nothing reads wrong, and the next one heals it.
#[test]
fn healing() {
    let (_, states, _, later) = scenarios().remove(2);
    for (clones, update) in world::UPDATES {
        let world = World::with_backups(clones, &states);
        let newest = states[states.len() - 1].clone();
        let world = world.fork();
        // A block with data: the scrub repairs one that is zero.
        let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
        let at = newest.chunks(BLOCK_SIZE.len()).position(|block| !is_zero(block));
        let at = at.expect("a block with data") * BLOCK_SIZE.len();
        world.disk.tamper(FileName::IMAGE, |image| image[at + 3] ^= 0x40);
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        let mut writer = world::writer(&world.disk).expect("the lock");
        let report = writer.scrub(&options, &world::clock(), &Silent).expect("a scrub");
        assert_eq!(report.findings.len(), 1);
        drop(writer);
        let world = World { disk: world.disk.crash(Unsynced::Kept), ..world };
        let options = backy_lib::BackupOptions { update, ..world::options() };
        let heal = |disk: &SimStorage| {
            world::backup_with(disk, &MemorySource::new(&newest), &options).map(drop)
        };
        sweep_with(&world, 2, heal, |place, mut world, result| {
            let archive = world::open(&world.disk).expect(place);
            if archive.revisions().len() > world.expected.len() {
                let uuid = archive.revisions()[0].uuid;
                world.expected.insert(0, world::Expected { uuid, bytes: newest.clone() });
            }
            for (number, expected) in world.expected.iter().enumerate() {
                match world::read_revision(&archive, number) {
                    Ok(bytes) => assert!(bytes == expected.bytes, "{place}: {number} is wrong"),
                    Err(error) => assert!(result.is_err(), "{place}: {number}: {error}"),
                }
            }
            heal(&world.disk).unwrap_or_else(|error| panic!("{place}: again: {error}"));
            let uuid = world::open(&world.disk).expect(place).revisions()[0].uuid;
            world.expected.insert(0, world::Expected { uuid, bytes: newest.clone() });
            world.backup(&later);
            world.assert_tidy(format_args!("{place}: healed"));
        });
    }
}

/// Before recovery, only what was to be deleted is gone. Then all of it can be deleted and a backup works.
fn check_removal(
    place: &str,
    mut world: World,
    result: Result<()>,
    numbers: &[usize],
    later: &[u8],
) {
    let before = world.expected.clone();
    let gone = world
        .check_removing(numbers)
        .unwrap_or_else(|error| panic!("{place}: before recovery: {error}"));
    assert!(gone || result.is_err(), "{place}: told that it worked, but it is still there");
    let left: Vec<usize> = (0..world.expected.len())
        .filter(|&n| numbers.iter().any(|&gone| before[gone] == world.expected[n]))
        .collect();
    world.remove(&left);
    world.assert_tidy(format_args!("{place}: after recovery"));
    // What a failed sync has lost must not count as durable later.
    let mut crashed = World { disk: world.disk.crash(Unsynced::Lost), ..world.clone() };
    crashed
        .check_committed(None)
        .unwrap_or_else(|error| panic!("{place}: a crash after recovery: {error}"));
    world.backup(later);
    world.assert_tidy(format_args!("{place}: after the next backup"));
}
