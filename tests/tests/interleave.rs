//! Readers without a lock, while backups run: every order of their calls that a seed can give.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use backy_lib::BackupOptions;
use backy_lib::storage::sim::{Random, Schedule, SimStorage, Unsynced};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

const WRITER: usize = 0;
const READER: usize = 1;
const SEEDS: u64 = 1500;

/// Leaves the schedule when dropped, also by a panic, so that the other thread does not wait for ever.
struct Turn<'a>(&'a Schedule, usize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// Runs `write` and `read` on one disk, each call of either in the order that the seed gives.
fn interleave(
    seed: u64,
    disk: &SimStorage,
    write: impl FnOnce(&SimStorage) + Send,
    read: impl FnOnce(&SimStorage) + Send,
) {
    let schedule = Schedule::new(seed, 2);
    let disk = disk.scheduled(schedule.clone());
    let run = |thread: usize, work: Box<dyn FnOnce(&SimStorage) + Send + '_>| {
        let _turn = Turn(&schedule, thread);
        catch_unwind(AssertUnwindSafe(|| work(&disk.for_thread(thread))))
    };
    let (written, read) = thread::scope(|scope| {
        let writer = scope.spawn(|| run(WRITER, Box::new(write)));
        let reader = scope.spawn(|| run(READER, Box::new(read)));
        (writer.join(), reader.join())
    });
    for result in [written, read] {
        if let Err(panic) = result.unwrap_or_else(Err) {
            resume_unwind(panic);
        }
    }
}

/// States of a source over time, of different sizes.
fn states(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut states = vec![random_state(&mut random, 6 * BLOCK_SIZE.len())];
    while states.len() < count {
        let size = (3 + random.below(6) as usize) * BLOCK_SIZE.len() - random.below(2) as usize;
        let next = changed_state(&mut random, &states[states.len() - 1], size);
        states.push(next);
    }
    states
}

/// A revision that is read while backups are made gives its own bytes: opened before, between or while they run, the
/// newest or an older one.
#[test]
fn a_revision_read_while_backups_run_gives_its_own_bytes() {
    for seed in 0..SEEDS {
        let (clones, update) = world::UPDATES[seed as usize % 2];
        let states = states(seed, 5);
        let world = World::with_backups(clones, &states[..3]);
        let options = BackupOptions { update, ..world::options() };
        interleave(
            seed,
            &world.disk,
            |disk| {
                for state in &states[3..] {
                    world::backup_with(disk, &MemorySource::new(state), &options)
                        .unwrap_or_else(|error| panic!("seed {seed}: backup: {error}"));
                }
            },
            |disk| {
                let mut random = Random(seed);
                for _ in 0..3 {
                    let archive = world::open(disk)
                        .unwrap_or_else(|error| panic!("seed {seed}: open: {error}"));
                    let count = archive.revisions().len();
                    let number = random.below(count as u64) as usize;
                    let expected = &states[count - 1 - number];
                    let found = world::read_revision(&archive, number).unwrap_or_else(|error| {
                        panic!("seed {seed}: revision {number} of {count}: {error}")
                    });
                    assert!(found == *expected, "seed {seed}: revision {number} of {count}");
                }
            },
        );
    }
}

/// A revision that was opened once stays readable, block by block, through many backups.
#[test]
fn an_open_revision_stays_readable() {
    for seed in 0..SEEDS / 3 {
        let (clones, update) = world::UPDATES[seed as usize % 2];
        let states = states(seed + 9999, 7);
        let world = World::with_backups(clones, &states[..2]);
        let options = BackupOptions { update, ..world::options() };
        interleave(
            seed,
            &world.disk,
            |disk| {
                for state in &states[2..] {
                    world::backup_with(disk, &MemorySource::new(state), &options)
                        .unwrap_or_else(|error| panic!("seed {seed}: backup: {error}"));
                }
            },
            |disk| {
                let archive = world::open(disk).expect("open");
                let count = archive.revisions().len();
                let chains: Vec<_> = (0..count)
                    .map(|number| archive.open_revision(number).expect("open a revision"))
                    .collect();
                for _ in 0..6 {
                    for (number, chain) in chains.iter().enumerate() {
                        let found = world::read_chain(chain).unwrap_or_else(|error| {
                            panic!("seed {seed}: revision {number}: {error}")
                        });
                        assert!(found == states[count - 1 - number], "seed {seed}: {number}");
                    }
                }
            },
        );
    }
}

/// A reader keeps its bytes while revisions around its own are merged away, made standalone and removed, and backups are
/// made in between. It holds no revision that goes.
#[test]
fn a_revision_read_during_maintenance_gives_its_own_bytes() {
    for seed in 0..SEEDS / 3 {
        let (clones, update) = world::UPDATES[seed as usize % 2];
        let states = states(seed + 4242, 8);
        let world = World::with_backups(clones, &states[..6]);
        let options = BackupOptions { update, ..world::options() };
        // Numbers from the newest: 1 and 4 are read, 2 and 3 are merged into 4, 5 is the oldest.
        interleave(
            seed,
            &world.disk,
            |disk| {
                let step = |what: &str, done: backy_lib::Result<()>| {
                    done.unwrap_or_else(|error| panic!("seed {seed}: {what}: {error}"));
                };
                step("merge", world::remove(disk, &[2, 3]).map(drop));
                step("remove", world::remove(disk, &[3]).map(drop));
                let source = MemorySource::new(&states[6]);
                step("backup", world::backup_with(disk, &source, &options).map(drop));
                if seed % 2 == 0 {
                    step("roll back", world::remove(disk, &[0]).map(drop));
                }
                world::configure(disk, "max_chain = 1");
                step("standalone", world::maintain(disk, None).map(drop));
                let source = MemorySource::new(&states[7]);
                step("backup", world::backup_with(disk, &source, &options).map(drop));
            },
            |disk| {
                let archive = world::open(disk).expect("open");
                let count = archive.revisions().len();
                // Opened when some may have gone already: found by their names.
                let wanted = [1usize, 4].map(|number| &world.expected[number]);
                let numbers = wanted.map(|expected| {
                    archive.revisions().iter().position(|r| r.uuid == expected.uuid)
                });
                let chains = numbers.map(|number| {
                    archive.open_revision(number.expect("it stays")).expect("open a revision")
                });
                for _ in 0..8 {
                    for (chain, expected) in chains.iter().zip(wanted) {
                        let found = world::read_chain(chain).unwrap_or_else(|error| {
                            panic!("seed {seed}: of {count}, {}: {error}", expected.uuid)
                        });
                        assert!(found == expected.bytes, "seed {seed}: {}", expected.uuid);
                    }
                }
            },
        );
    }
}

/// A reader keeps its bytes also while what a crash left behind is undone.
#[test]
fn a_revision_read_during_recovery_gives_its_own_bytes() {
    use backy_lib::storage::sim::Fault;
    for seed in 0..SEEDS / 3 {
        let (clones, update) = world::UPDATES[seed as usize % 2];
        let states = states(seed + 555, 4);
        let world = World::with_backups(clones, &states[..2]);
        let options = BackupOptions { update, ..world::options() };
        let interrupted = world.fork();
        interrupted.disk.set_fault(40 + seed % 60, Fault::Crash, seed);
        if world::backup_with(&interrupted.disk, &MemorySource::new(&states[2]), &options).is_ok() {
            continue;
        }
        let crashed = interrupted.disk.crash(Unsynced::Subset(seed));
        let committed = world::open(&crashed).expect("open").revisions().len();
        interleave(
            seed,
            &crashed,
            |disk| {
                world::backup_with(disk, &MemorySource::new(&states[3]), &options)
                    .unwrap_or_else(|error| panic!("seed {seed}: backup: {error}"));
            },
            |disk| {
                for number in 0..2 {
                    let archive = world::open(disk).expect("open");
                    let count = archive.revisions().len();
                    let number = number + (count - committed);
                    let found = world::read_revision(&archive, number).unwrap_or_else(|error| {
                        panic!("seed {seed}: revision {number} of {count}: {error}")
                    });
                    let expected = &states[committed - 1 - (number + committed - count)];
                    assert!(found == *expected, "seed {seed}: revision {number} of {count}");
                }
            },
        );
    }
}
