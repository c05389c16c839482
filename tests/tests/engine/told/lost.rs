//! Known loss and damage stay known although a scrub has not read everything.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use backy_lib::health::Level;
use backy_lib::progress::{Event, Observer, Phase, Silent};
use backy_lib::storage::sim::SimStorage;
use backy_lib::storage::{FileName, Storage};
use backy_lib::{Budget, Error, ProblemKind, ScrubOptions, StatusReport};
use backy_tests::world::{self, World, noise};

use super::{BLOCK, writer};

fn status(disk: &SimStorage) -> StatusReport {
    let archive = world::open(disk).expect("open");
    backy_lib::status::status(&archive, &world::all(&archive), &world::clock()).expect("a status")
}

fn bad_blocks(disk: &SimStorage) -> u64 {
    let archive = world::open(disk).expect("open");
    archive.revisions()[0].findings.bad_block_count()
}

/// A scrub without time to read anything.
fn hasty(disk: &SimStorage) {
    let budget = Some(Budget::Time(Duration::ZERO));
    let options = ScrubOptions { budget, threads: Some(1), ..ScrubOptions::default() };
    writer(disk).scrub(&options, &world::clock(), &Silent).expect("a scrub that ends");
}

/// Five blocks of data and three of zeros; the second revision differs in one.
fn archive() -> World {
    let mut state = [noise(1, 5 * BLOCK), vec![0; 3 * BLOCK]].concat();
    let before = state.clone();
    state[..BLOCK].copy_from_slice(&noise(2, BLOCK));
    World::with_backups(false, &[before, state])
}

/// A scrub rebuilds a lost image and extends a truncated one. What it lacks is recorded, also when the scrub reads
/// nothing of it, and stays critical until a backup finds it in the source again.
#[test]
fn blocks_of_a_lost_image_are_recorded_before_reading() {
    for (cut, lost) in [(None, 5), (Some(2 * BLOCK), 3)] {
        let mut world = archive();
        let state = world.expected[0].bytes.clone();
        match cut {
            None => Storage::remove(&world.disk, FileName::IMAGE).expect("remove"),
            Some(len) => world.disk.tamper(FileName::IMAGE, |image| image.truncate(len)),
        }
        for _ in 0..2 {
            hasty(&world.disk);
            assert_eq!(bad_blocks(&world.disk), lost, "{cut:?}");
            let status = status(&world.disk);
            let has = |kind| status.health.problems.iter().any(|problem| problem.kind == kind);
            assert!(has(ProblemKind::Damage), "{cut:?}: {:?}", status.health);
            assert_eq!(status.health.level, Level::Critical);
            assert_eq!(status.damaged_count, 2);
        }
        world.backup(&state);
        assert_eq!(bad_blocks(&world.disk), 0, "{cut:?}: the source had all of it");
    }
}

/// Stops a scrub when it begins to read the content.
#[derive(Default)]
struct Impatient(AtomicBool);

impl Observer for Impatient {
    fn event(&self, event: &Event) {
        if matches!(event, Event::Begin { phase: Phase::Scrub, .. }) {
            self.0.store(true, Relaxed);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// An interrupted scrub forgets nothing that an earlier one has found.
#[test]
fn an_interrupted_scrub_forgets_no_finding() {
    let world = archive();
    // Longer than it should be, and not provably right: so it is not cut.
    world.disk.tamper(FileName::IMAGE, |image| {
        image.extend([7; 100]);
        image[9] ^= 1;
    });
    let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    writer(&world.disk).scrub(&options, &world::clock(), &Silent).expect("a scrub that ends");
    let flaws =
        |disk: &SimStorage| world::open(disk).expect("open").revisions()[0].open_flaws().count();
    assert_eq!(flaws(&world.disk), 1);
    let stopped = writer(&world.disk).scrub(&options, &world::clock(), &Impatient::default());
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(flaws(&world.disk), 1);
}
