//! Any history of an origin, its copy, and a copy of that.

use std::collections::BTreeMap;

use backy_lib::origin::LocalOrigin;
use backy_lib::progress::Silent;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Failure, Fault, Random, SimStorage, Unsynced};
use backy_lib::{ErrorKind, PullOptions, RevisionId, ScrubOptions};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, World, changed_state, random_state};

use super::scene::{Between, in_place, options, pull_with};

/// Three archives, each a copy of the one before it, and what was backed up.
struct History {
    random: Random,
    disks: Vec<SimStorage>,
    known: BTreeMap<RevisionId, Vec<u8>>,
    state: Vec<u8>,
    options: PullOptions,
    is_damaged: bool,
}

impl History {
    fn new(seed: u64) -> Self {
        let clones = seed % 2 == 0;
        let disks: Vec<SimStorage> = (0..3).map(|_| SimStorage::new(clones)).collect();
        disks.iter().for_each(|disk| drop(world::init(disk).expect("init")));
        let mut random = Random(seed);
        let state = random_state(&mut random, 30_000);
        let options = if clones { options() } else { in_place() };
        History { random, disks, known: BTreeMap::new(), state, options, is_damaged: false }
    }

    fn step(&mut self, may_damage: bool) {
        let disk = self.random.below(3) as usize;
        match self.random.below(10) {
            0..=2 => self.back_up(),
            3 => self.remove(disk),
            4 if may_damage => self.damage(disk),
            5 => self.scrub(disk),
            _ => self.pull(1 + disk % 2),
        }
    }

    fn back_up(&mut self) {
        let size = match self.random.below(3) {
            0 => self.random.below(50_000) as usize,
            _ => self.state.len(),
        };
        self.state = changed_state(&mut self.random, &self.state, size);
        match world::backup(&self.disks[0], &MemorySource::new(&self.state)) {
            Ok(made) => drop(self.known.insert(made.revision.uuid, self.state.clone())),
            Err(error) => assert!(self.is_damaged, "{error}"),
        }
    }

    fn remove(&mut self, disk: usize) {
        let count = world::open(&self.disks[disk]).expect("open").revisions().len() as u64;
        if count > 1 {
            let number = self.random.below(count) as usize;
            let removed = world::remove(&self.disks[disk], &[number]);
            assert!(removed.is_ok() || self.is_damaged, "{removed:?}");
        }
    }

    /// Rot in the image.
    fn damage(&mut self, disk: usize) {
        let place = self.random.number() as usize;
        self.disks[disk].tamper(FileName::IMAGE, |image| {
            if let Some(byte) = (!image.is_empty()).then(|| place % image.len()) {
                image[byte] ^= 1;
            }
        });
        self.is_damaged = true;
    }

    fn scrub(&mut self, disk: usize) {
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        let mut writer = world::writer(&self.disks[disk]).expect("a writer");
        let report = writer.scrub(&options, &world::clock(), &Silent).expect("a scrub");
        assert!(report.findings.is_empty() || self.is_damaged, "{report:?}");
    }

    /// Pulls, and perhaps the connection ends, or the disk fails.
    fn pull(&mut self, to: usize) {
        let inner = LocalOrigin::new(world::open(&self.disks[to - 1]).expect("open"));
        let mut origin = Between::over(inner);
        origin.piece_blocks = Some(1 + self.random.below(12));
        let disk = self.disks[to].fork();
        let fault = match self.random.below(6) {
            0 => Some(Fault::Crash),
            1 => Some(Fault::Once(Failure::Io)),
            2 => Some(Fault::FromThenOn(Failure::NoSpace)),
            3 => {
                origin.breaks_at = Some(1 + self.random.below(20));
                None
            }
            _ => None,
        };
        let is_broken = fault.is_some() || origin.breaks_at.is_some();
        if let Some(fault) = fault {
            disk.set_fault(1 + self.random.below(250), fault, self.random.number());
        }
        let pulled = pull_with(&disk, &mut origin, &self.options);
        assert!(pulled.is_ok() || is_broken || self.is_damaged, "{pulled:?}");
        let seed = self.random.number();
        let unsynced = [Unsynced::Kept, Unsynced::Subset(seed), Unsynced::Lost][seed as usize % 3];
        let is_cut = fault == Some(Fault::Crash) && pulled.is_err();
        self.disks[to] = if is_cut { disk.crash(unsynced) } else { disk.fork() };
    }

    /// Whatever happened: only revisions that were backed up, with the right bytes or an error of damage.
    fn check(&self, place: &str) {
        for (number, disk) in self.disks.iter().enumerate() {
            let archive = world::open(disk).expect(place);
            for (at, revision) in archive.revisions().iter().enumerate() {
                let expected = self.known.get(&revision.uuid).expect("a revision that was made");
                match world::read_revision(&archive, at) {
                    Ok(found) => assert!(found == *expected, "{place}: revision {at} of {number}"),
                    Err(error) => {
                        let is_expected = self.is_damaged && error.kind() == ErrorKind::Damaged;
                        assert!(is_expected, "{place}: revision {at} of {number}: {error}");
                    }
                }
            }
        }
    }

    /// Without damage, a pull into each of the copies gives both the newest revision.
    fn finish(&mut self, place: &str) {
        for to in [1, 2] {
            let mut origin = LocalOrigin::new(world::open(&self.disks[to - 1]).expect("open"));
            let pulled = pull_with(&self.disks[to], &mut origin, &self.options);
            let report = pulled.unwrap_or_else(|error| panic!("{place}: {error}"));
            assert!(report.is_complete(), "{place}: {report:?}");
            let ids = |disk: &SimStorage| world::all(&world::open(disk).expect("open"));
            let (theirs, own) = (ids(&self.disks[to - 1]), ids(&self.disks[to]));
            assert!(theirs.first().is_none_or(|newest| own.contains(newest)), "{place}");
            let files = World { disk: self.disks[to].clone(), expected: Vec::new() };
            files.check_format().unwrap_or_else(|error| panic!("{place}: {error}"));
        }
        self.check(place);
    }
}

/// Backups, removals, scrubs, and pulls that break off or meet a failing disk, on three archives: no revision is ever
/// wrong, and pulls complete the copies in the end.
#[test]
fn any_history_of_copies() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        for step in 0..24 {
            history.step(false);
            history.check(&format!("seed {seed}, step {step}"));
        }
        history.finish(&format!("seed {seed}"));
    }
}

/// The same with rot: a revision is right, or reading it is an error.
#[test]
fn any_history_of_copies_with_damage() {
    for seed in 100..160 {
        let mut history = History::new(seed);
        for step in 0..24 {
            history.step(true);
            history.check(&format!("seed {seed}, step {step}"));
        }
    }
}
