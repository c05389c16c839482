//! Readers without a lock during backups: every order of their calls that a seed can produce.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

use backy_lib::image::reader::{ReadCache, RevisionReader};
use backy_lib::status::status;
use backy_lib::storage::sim::{Random, Schedule, SimStorage, Unsynced};
use backy_lib::storage::{Access, FileName, Storage};
use backy_lib::{ImageUpdate, ProblemKind, RevisionId};
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

const WRITER: usize = 0;
const READER: usize = 1;
const SEEDS: u64 = 1500;

/// Leaves the schedule when dropped, also by a panic, so that the other thread does not wait forever.
struct Turn<'a>(&'a Schedule, usize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.leave(self.1);
    }
}

/// Runs `write` and `read` on one disk, each call of either in the order that the seed determines.
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

/// One order of calls: an archive, the states of its source before and after, and how backups are made.
struct Case {
    seed: u64,
    states: Vec<Vec<u8>>,
    world: World,
    update: ImageUpdate,
}

impl Case {
    /// An archive with the first `count` of `states`. Every other seed has a disk that can clone.
    fn new(seed: u64, states: Vec<Vec<u8>>, count: usize) -> Self {
        let (clones, update) = world::UPDATES[seed as usize % 2];
        let world = World::with_backups(clones, &states[..count]);
        Case { seed, states, world, update }
    }

    /// What the writer does, which has to work.
    fn step<T>(&self, what: &str, done: backy_lib::Result<T>) {
        done.unwrap_or_else(|error| panic!("seed {}: {what}: {error}", self.seed));
    }

    fn backup(&self, disk: &SimStorage, state: &[u8]) {
        self.step("backup", world::backup_by(disk, state, self.update));
    }
}

/// A revision that is read during backups has its own bytes: opened before, between or during them, the newest or an
/// older one.
#[test]
fn a_revision_read_while_backups_run_gives_its_own_bytes() {
    for seed in 0..SEEDS {
        let case = Case::new(seed, states(seed, 5), 3);
        let Case { states, world, .. } = &case;
        interleave(
            seed,
            &world.disk,
            |disk| {
                for state in &states[3..] {
                    case.backup(disk, state);
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
        let case = Case::new(seed, states(seed + 9999, 7), 2);
        let Case { states, world, .. } = &case;
        interleave(
            seed,
            &world.disk,
            |disk| {
                for state in &states[2..] {
                    case.backup(disk, state);
                }
            },
            |disk| {
                let archive = world::open(disk).expect("open");
                let count = archive.revisions().len();
                let chains: Vec<_> = (0..count)
                    .map(|number| {
                        archive.open_revision(archive.id(number).unwrap()).expect("open a revision")
                    })
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

/// A reader keeps its bytes while revisions around its own are merged away, made standalone and deleted, with backups
/// in between. It holds no revision that is deleted.
#[test]
fn a_revision_read_during_maintenance_gives_its_own_bytes() {
    for seed in 0..SEEDS / 3 {
        let case = Case::new(seed, states(seed + 4242, 8), 6);
        let Case { states, world, .. } = &case;
        // Numbers from the newest: 1 and 4 are read, 2 and 3 are merged into 4, 5 is the oldest.
        interleave(
            seed,
            &world.disk,
            |disk| {
                case.step("merge", world::remove(disk, &[2, 3]));
                case.step("remove", world::remove(disk, &[3]));
                case.backup(disk, &states[6]);
                if seed % 2 == 0 {
                    case.step("roll back", world::remove(disk, &[0]));
                }
                world::configure(disk, "max_chain = 1");
                case.step("standalone", world::maintain(disk, None));
                case.backup(disk, &states[7]);
            },
            |disk| {
                let archive = world::open(disk).expect("open");
                let count = archive.revisions().len();
                // Opened when some may be deleted already: found by their names.
                let wanted = [1usize, 4].map(|number| &world.expected[number]);
                let chains = wanted
                    .map(|expected| archive.open_revision(expected.uuid).expect("open a revision"));
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

/// A status while everything changes reports no damage, no missing file and no interruption, for there are none.
#[test]
fn status_during_a_backup_reports_no_false_problem() {
    for seed in 0..SEEDS / 3 {
        let case = Case::new(seed, states(seed + 2121, 8), 6);
        let Case { states, world, .. } = &case;
        interleave(
            seed,
            &world.disk,
            |disk| {
                case.step("merge", world::remove(disk, &[2, 3]));
                case.backup(disk, &states[6]);
                case.step("roll back", world::remove(disk, &[0]));
                case.backup(disk, &states[7]);
                case.step("remove", world::remove(disk, &[2, 3]));
            },
            |disk| {
                for _ in 0..6 {
                    let archive = world::open(disk).expect("open");
                    let report = status(&archive, &world::all(&archive), &world::clock())
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                    let false_alarms = report.health.problems.iter().filter(|problem| {
                        use ProblemKind::{Damage, Interrupted, MissingFile, ReplacedImage};
                        [Damage, Interrupted, MissingFile, ReplacedImage].contains(&problem.kind)
                    });
                    let told: Vec<_> = false_alarms.map(|problem| &problem.message).collect();
                    assert!(told.is_empty(), "seed {seed}: {told:?}");
                }
            },
        );
    }
}

/// Reads at random offsets, whole blocks and parts of them, over and over.
fn read_about(
    reader: &RevisionReader,
    expected: &[u8],
    random: &mut Random,
    reads: usize,
) -> backy_lib::Result<()> {
    assert_eq!(reader.size_bytes(), expected.len() as u64);
    for _ in 0..reads {
        let offset = random.below(expected.len() as u64 + 2) as usize;
        let mut buffer = vec![0xee; random.below(3 * BLOCK_SIZE.len() as u64) as usize];
        let count = reader.read_at(&mut buffer, offset as u64)?;
        let rest = expected.get(offset..).unwrap_or_default();
        assert_eq!(count, rest.len().min(buffer.len()), "bytes read at {offset}");
        assert!(buffer[..count] == rest[..count], "{count} bytes at {offset}");
    }
    Ok(())
}

/// Opens readers of all revisions. Some may be deleted meanwhile.
fn open_readers(disk: &SimStorage) -> Vec<(RevisionId, RevisionReader)> {
    let archive = world::open(disk).expect("open");
    let cache = ReadCache::new(1 << 16);
    let open = |id| Some((id, archive.open_reader(id, &cache).ok()?));
    world::all(&archive).into_iter().filter_map(open).collect()
}

/// On a disk that is mounted from another machine, where nothing shows that a file has been replaced, a reader that
/// has read all of a revision returns its bytes or an error, and never those of the backups that another machine has
/// made since.
#[test]
fn a_reader_from_afar_gives_right_bytes_or_an_error() {
    for seed in 0..40 {
        let states = states(seed + 4242, 6);
        let mut world = World::with_backups(false, &states[..2]);
        let before = world.expected.clone();
        let readers = open_readers(&world.disk.from_afar());
        let mut random = Random(seed);
        let mut read_all = |is_changed: bool| {
            for ((uuid, reader), expected) in readers.iter().zip(&before) {
                assert_eq!(*uuid, expected.uuid);
                let read = read_about(reader, &expected.bytes, &mut random, 60);
                assert!(read.is_ok() || is_changed, "seed {seed}: {read:?}");
            }
        };
        read_all(false);
        for state in &states[2..] {
            world.backup(state);
            read_all(true);
        }
    }
}

/// A program that writes to the image without notice, such as one that copies a newer archive over it in place, turns
/// later reads into errors, not into wrong bytes.
#[test]
fn bytes_that_others_write_to_the_image_are_an_error() {
    let states = states(99, 1);
    let world = World::with_backups(false, &states);
    let readers = open_readers(&world.disk);
    let (_, reader) = &readers[0];
    let mut random = Random(7);
    read_about(reader, &states[0], &mut random, 200).expect("a reader");
    let image = world.disk.open(FileName::IMAGE, Access::Write).expect("the image");
    let others: Vec<u8> = states[0].iter().map(|byte| !byte).collect();
    image.write_at(&others, 0).expect("write to it");
    let mut wrong = 0;
    for block in states[0].chunks(BLOCK_SIZE.len()).zip(0..) {
        let (bytes, number) = block;
        for part in [bytes.len(), bytes.len() / 2] {
            let mut buffer = vec![0; part];
            match reader.read_at(&mut buffer, number * BLOCK_SIZE.bytes()) {
                // A zero block is in no file.
                Ok(_) => assert!(buffer == bytes[..part], "block {number}"),
                Err(_) => wrong += 1,
            }
        }
    }
    assert!(wrong > 4, "{wrong} errors");
}

/// An open reader stays readable when its own revision is deleted, as long as one of those that it reads through to
/// stays, in any order of the calls. It never returns wrong bytes.
#[test]
fn an_open_reader_outlives_its_revision() {
    for seed in 0..SEEDS / 3 {
        let case = Case::new(seed, states(seed + 777, 8), 5);
        let Case { states, world, .. } = &case;
        interleave(
            seed,
            &world.disk,
            |disk| {
                case.backup(disk, &states[5]);
                // All but the revision that was newest, and then one that nobody has open.
                case.step("remove", world::remove(disk, &[2, 4]));
                case.step("remove", world::remove(disk, &[2, 3]));
                case.backup(disk, &states[6]);
                case.step("remove", world::remove(disk, &[1]));
                world::configure(disk, "max_chain = 1");
                case.step("standalone", world::maintain(disk, None));
                case.backup(disk, &states[7]);
            },
            |disk| {
                let readers = open_readers(disk);
                let mut random = Random(seed);
                for _ in 0..6 {
                    for (uuid, reader) in &readers {
                        let Some(expected) = world.expected.iter().find(|e| e.uuid == *uuid) else {
                            continue;
                        };
                        read_about(reader, &expected.bytes, &mut random, 3)
                            .unwrap_or_else(|error| panic!("seed {seed}: {uuid}: {error}"));
                    }
                }
            },
        );
    }
}

/// An open reader stays readable when everything that it was made of is deleted, if it checks between two operations.
#[test]
fn an_open_reader_that_looks_in_time_stays_readable() {
    for seed in 0..60 {
        let case = Case::new(seed, states(seed + 31, 14), 4);
        let Case { states, world, .. } = &case;
        let readers = open_readers(&world.disk);
        let mut random = Random(seed);
        for (round, state) in states[4..].iter().enumerate() {
            case.backup(&world.disk, state);
            let refresh = || readers.iter().try_for_each(|(_, reader)| reader.refresh());
            // Half of them only check when they read.
            if seed % 4 < 2 {
                refresh().expect("nobody is changing the archive");
            } else {
                for (_, reader) in &readers {
                    reader.read_at(&mut [0], 0).expect("read a byte");
                }
            }
            let count = world::open(&world.disk).expect("open").revisions().len();
            let gone: Vec<usize> = (1..count).filter(|_| random.below(3) > 0).collect();
            if !gone.is_empty() {
                world::remove(&world.disk, &gone).expect("a removal that works");
            }
            for ((uuid, reader), expected) in readers.iter().zip(&world.expected) {
                read_about(reader, &expected.bytes, &mut random, 6)
                    .unwrap_or_else(|error| panic!("seed {seed}, round {round}: {uuid}: {error}"));
            }
        }
    }
}

/// A reader whose whole archive is deleted at once before it checks returns its own bytes or an error.
#[test]
fn a_reader_that_looks_too_late_gives_right_bytes_or_an_error() {
    let mut errors = 0;
    for seed in 0..SEEDS / 3 {
        let case = Case::new(seed, states(seed + 99, 6), 3);
        let Case { states, world, .. } = &case;
        interleave(
            seed,
            &world.disk,
            |disk| {
                for state in &states[3..] {
                    case.backup(disk, state);
                    let count = world::open(disk).expect("open").revisions().len();
                    let older: Vec<usize> = (1..count).collect();
                    case.step("remove", world::remove(disk, &older));
                }
            },
            |disk| {
                let readers = open_readers(disk);
                let mut random = Random(seed);
                for (uuid, reader) in &readers {
                    let expected = world.expected.iter().find(|e| e.uuid == *uuid);
                    let Some(expected) = expected else { continue };
                    errors +=
                        usize::from(read_about(reader, &expected.bytes, &mut random, 12).is_err());
                }
            },
        );
    }
    assert!(errors > 0, "no order of the calls was bad enough for this test to mean anything");
}

/// A reader keeps its bytes also while what a crash left behind is undone.
#[test]
fn a_revision_read_during_recovery_gives_its_own_bytes() {
    use backy_lib::storage::sim::Fault;
    for seed in 0..SEEDS / 3 {
        let case = Case::new(seed, states(seed + 555, 4), 2);
        let Case { states, world, .. } = &case;
        let interrupted = world.fork();
        interrupted.disk.set_fault(40 + seed % 60, Fault::Crash, seed);
        if world::backup_by(&interrupted.disk, &states[2], case.update).is_ok() {
            continue;
        }
        let crashed = interrupted.disk.crash(Unsynced::Subset(seed));
        let committed = world::open(&crashed).expect("open").revisions().len();
        interleave(
            seed,
            &crashed,
            |disk| {
                case.backup(disk, &states[3]);
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
