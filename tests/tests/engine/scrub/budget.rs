//! `scrub --budget`: nothing waits forever, whatever is backed up in between.

use std::collections::BTreeMap;

use backy_lib::RevisionId;
use backy_lib::archive::ArchiveWriter;
use backy_lib::clock::FixedClock;
use backy_lib::progress::Silent;
use backy_lib::scrub::{Budget, ScrubOptions, ScrubReport};
use backy_lib::storage::FileName;
use backy_lib::storage::sim::Random;
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, Expected, World, fill_block};
use jiff::Timestamp;
use proptest::prelude::*;

use super::BLOCK;

/// What happens to an archive.
#[derive(Debug, Clone)]
enum Step {
    /// A backup: blocks that change, and by how many blocks the source grows or shrinks.
    Backup { changed: Vec<u8>, grows: i8 },
    /// A scrub with the budget.
    Scrub,
    /// A revision other than the newest is deleted, and merged where others need it.
    Remove(u8),
}

/// An archive whose clock advances by an hour with every step.
struct Scene {
    world: World,
    random: Random,
    state: Vec<u8>,
    now: Timestamp,
    /// When each block of the image was last written.
    written: Vec<Timestamp>,
    /// Since when the image has had each block, without interruption.
    born: Vec<Timestamp>,
    runs: Vec<Run>,
}

/// A scrub that was made.
struct Run {
    at: Timestamp,
    budget_bytes: u64,
    stored_bytes: f64,
    image_bytes: u64,
    /// The blocks of each file when it began; the image has no name.
    blocks: BTreeMap<Option<RevisionId>, u64>,
}

impl Scene {
    fn new(seed: u64, blocks: usize) -> Self {
        let mut random = Random(seed);
        let state = (0..blocks * BLOCK).map(|_| random.number() as u8 | 1).collect();
        let now = Timestamp::from_second(1_800_000_000).expect("a time in range");
        let world = World::with_backups(false, &[]);
        let (written, born, runs) = (Vec::new(), Vec::new(), Vec::new());
        let mut scene = Scene { world, random, state, now, written, born, runs };
        scene.backup();
        scene
    }

    fn writer(&self) -> ArchiveWriter {
        let archive = world::open(&self.world.disk).expect("open");
        ArchiveWriter::open(archive, "a test", &Silent).expect("the lock")
    }

    fn clock(&mut self) -> FixedClock {
        self.now = Timestamp::from_second(self.now.as_second() + 3600).expect("a time in range");
        FixedClock(self.now)
    }

    fn change(&mut self, block: usize, noise_only: bool) {
        let count = self.state.len().div_ceil(BLOCK);
        let Some(bytes) = self.state.chunks_mut(BLOCK).nth(block % count) else { return };
        match noise_only {
            true => bytes.iter_mut().for_each(|byte| *byte = self.random.number() as u8 | 1),
            false => fill_block(&mut self.random, bytes),
        }
    }

    fn backup(&mut self) {
        let before = self.world.expected.first().map_or(Vec::new(), |newest| newest.bytes.clone());
        let clock = self.clock();
        let report = self
            .writer()
            .backup(&MemorySource::new(&self.state), &world::options(), &clock, &Silent)
            .expect("a backup that works")
            .expect("a forced one");
        let bytes = self.state.clone();
        self.written.resize(bytes.len().div_ceil(BLOCK), self.now);
        self.born.resize(bytes.len().div_ceil(BLOCK), self.now);
        for (number, block) in bytes.chunks(BLOCK).enumerate() {
            if before.chunks(BLOCK).nth(number) != Some(block) {
                self.written[number] = self.now;
            }
        }
        self.world.expected.insert(0, Expected { uuid: report.revision.uuid, bytes });
    }

    fn scrub(&mut self, share: f64) -> ScrubReport {
        let archive = world::open(&self.world.disk).expect("open");
        let blocks = archive.revisions().iter().map(|revision| {
            let name = Some(revision.uuid).filter(|_| !revision.is_image());
            (name, revision.size_bytes.div_ceil(BLOCK as u64))
        });
        let blocks = blocks.collect();
        let clock = self.clock();
        let budget = Some(Budget::Share(share));
        let options = ScrubOptions { budget, threads: Some(1), ..ScrubOptions::default() };
        let report = self.writer().scrub(&options, &clock, &Silent).expect("a scrub that ends");
        let budget_bytes = report.budget_bytes.expect("a share comes to so many bytes");
        self.runs.push(Run {
            at: self.now,
            budget_bytes,
            stored_bytes: budget_bytes as f64 / share,
            image_bytes: self.state.len() as u64,
            blocks,
        });
        report
    }

    fn remove(&mut self, number: usize) {
        let older = self.world.expected.len() - 1;
        if older > 0 {
            let number = 1 + number % older;
            let clock = self.clock();
            let id = self.world.expected[number].uuid;
            self.writer().remove(&[id], &clock, &Silent).expect("a removal that works");
            self.world.expected.remove(number);
        }
    }

    /// Checks that everything that was there when run `first` began has been read since.
    fn check_read_since(&self, first: usize) {
        let archive = world::open(&self.world.disk).expect("open");
        let since = self.runs[first].at;
        for (number, revision) in archive.revisions().iter().enumerate() {
            let name = Some(revision.uuid).filter(|_| !revision.is_image());
            let Some(&blocks) = self.runs[first].blocks.get(&name) else { continue };
            let blocks = blocks.min(revision.size_bytes.div_ceil(BLOCK as u64));
            // Where the image was shorter meanwhile, its end is new.
            let is_new = |block: u64| name.is_none() && self.born[block as usize] > since;
            let read = |block: u64| {
                revision.read_at().any(|range| {
                    let place = range.blocks.first.0..range.blocks.end().0;
                    place.contains(&block) && range.at >= since
                })
            };
            let unread: Vec<u64> =
                (0..blocks).filter(|&block| !read(block) && !is_new(block)).collect();
            let last = self.runs.len() - 1;
            assert!(
                unread.is_empty(),
                "revision {number}, blocks {unread:?}: not read from run {first} to run {last}"
            );
        }
    }

    /// Checks that no block counts as verified that was written after it was read.
    fn check_verified(&self) {
        let archive = world::open(&self.world.disk).expect("open");
        let newest = archive.revisions().first().expect("a revision");
        for range in &newest.verified {
            for block in range.blocks.first.0..range.blocks.end().0 {
                let written = self.written[block as usize];
                assert!(range.at > written, "block {block}: written after it was verified");
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changed = prop::collection::vec(any::<u8>(), 0..6);
    let step = prop_oneof![
        4 => (changed, -2..4_i8).prop_map(|(changed, grows)| Step::Backup { changed, grows }),
        5 => Just(Step::Scrub),
        1 => any::<u8>().prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 20..70)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is backed up, removed and merged in between: once budgets add up to what had to be read, everything
    /// from the beginning has been read.
    #[test]
    fn budgeted_scrubs_read_everything(
        seed in any::<u64>(),
        percent in prop::sample::select(vec![10_u32, 25, 40, 70]),
        steps in steps(),
    ) {
        let mut scene = Scene::new(seed, 20);
        for step in steps {
            match step {
                Step::Backup { changed, grows } => {
                    let blocks = scene.state.len() / BLOCK;
                    let blocks = blocks.saturating_add_signed(isize::from(grows)).clamp(8, 40);
                    scene.state.resize(blocks * BLOCK, 7);
                    changed.iter().for_each(|block| scene.change(usize::from(*block), false));
                    scene.backup();
                }
                Step::Scrub => drop(scene.scrub(f64::from(percent) / 100.0)),
                Step::Remove(number) => scene.remove(usize::from(number)),
            }
            scene.check_verified();
            for first in 0..scene.runs.len() {
                let runs = &scene.runs[first..];
                let most = runs.iter().fold(0.0_f64, |most, run| most.max(run.stored_bytes));
                // A group may have grown when its turn comes, and one delta may be read before what was read after
                // its revision was made.
                let image = runs.iter().map(|run| run.image_bytes).max().unwrap_or(0);
                let needed = most + 2.0 * image as f64;
                if runs.iter().map(|run| run.budget_bytes as f64).sum::<f64>() >= needed {
                    scene.check_read_since(first);
                }
            }
        }
    }

    /// With a backup before each scrub, a share of P % reads everything within 100 / P runs, rounded up, and one more.
    #[test]
    fn a_share_is_through_after_as_many_runs_as_it_promises(
        seed in any::<u64>(),
        percent in prop::sample::select(vec![5_u32, 10, 15, 34, 50]),
        changed in 1..3_usize,
    ) {
        let promised = 100_usize.div_ceil(percent as usize) + 1;
        let mut scene = Scene::new(seed, 60);
        for run in 0..2 * promised {
            for _ in 0..changed {
                let block = scene.random.below(60) as usize;
                scene.change(block, true);
            }
            scene.backup();
            scene.scrub(f64::from(percent) / 100.0);
            if let Some(first) = (run + 1).checked_sub(promised) {
                scene.check_read_since(first);
            }
        }
    }
}

/// A budget counts what is really stored: a delta that holds little costs little, and the image gets the rest.
#[test]
fn a_sparse_delta_costs_only_what_it_holds() {
    let mut scene = Scene::new(3, 64);
    scene.scrub(1.0);
    for block in [0, 20, 40, 60] {
        scene.change(block, true);
    }
    scene.backup();
    let report = scene.scrub(0.5);
    let stored = 64 * BLOCK as u64 + 4 * BLOCK as u64;
    assert_eq!(report.budget_bytes, Some(stored / 2));
    assert!(report.read_bytes >= stored / 2, "{report:?}");
    assert!(report.read_bytes <= stored / 2 + 3 * BLOCK as u64, "{report:?}");
}

/// Holes of the image are free: a scrub reads a nearly empty image in correspondingly few runs.
#[test]
fn holes_of_the_image_cost_nothing() {
    let mut scene = Scene::new(4, 64);
    scene.state.fill(0);
    for block in [1, 30, 62] {
        scene.change(block, true);
    }
    scene.world = World::with_backups(false, &[]);
    scene.backup();
    let report = scene.scrub(1.0);
    assert_eq!(report.budget_bytes, Some(3 * BLOCK as u64));
    assert!((report.coverage.verified_share - 1.0).abs() < 1e-9, "{report:?}");
}

/// A scrub finds rot in the image although every day brings a new delta that was never read.
#[test]
fn rot_in_the_image_is_found_beside_new_deltas() {
    let mut scene = Scene::new(5, 60);
    scene.scrub(1.0);
    scene.world.disk.tamper(FileName::IMAGE, |image| image[33 * BLOCK + 5] ^= 1);
    let found = (0..11).any(|day| {
        scene.change(day, true);
        scene.change(40 + day, true);
        scene.backup();
        !scene.scrub(0.1).findings.is_empty()
    });
    assert!(found, "not found within the promised runs");
}
