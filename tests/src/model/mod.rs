//! Histories of an archive, against a plain `Vec<u8>` for each revision.
//!
//! [`Operation`] is what can happen. [`Model`] does it to an archive on a simulated disk, and panics when the archive
//! is not what it has to be:
//!
//! - After a command that worked there are exactly the revisions that there should be, each with its bytes,
//!   also when the power fails a moment later.
//! - After one that failed, or was cut, there is what there was before or what it was to bring about, nothing in
//!   between, and it reads right before anything is undone.
//! - A reader that is open gives its own bytes, or an error once its revision has gone.
//! - A scrub finds a damage, and nothing where there is none.
//!
//! `tests/tests/engine/model.rs` makes histories with proptest, `fuzz::archive_ops` from the bytes that a fuzzer
//! tries.

mod after;
mod damage;
mod operation;
mod reader;
mod verb;

use std::collections::{BTreeMap, BTreeSet};

use backy_lib::RestoreOptions;
use backy_lib::archive::ArchiveWriter;
use backy_lib::clock::FixedClock;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Failure, Fault, Random, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Published, Storage};
use backy_lib::{Error, Result, RevisionId, ScrubOptions};
use jiff::{SignedDuration, Timestamp};

use crate::memory::MemoryTarget;
use crate::world::{self, BLOCK_SIZE, Expected, World, fill_block};

use after::Effects;
use reader::Held;

pub use operation::{History, Interruption, Operation, Verb};

/// Sources are smaller.
const MAX_BYTES: usize = 12 * 4096;

/// A source, its archive, and the expected content of the archive.
pub struct Model {
    world: World,
    source: Vec<u8>,
    now: Timestamp,
    readers: Vec<Held>,
    /// All revisions that ever existed: a rebuilt manifest may bring one back whose removal was interrupted.
    known: BTreeMap<RevisionId, Vec<u8>>,
    /// What was being backed up at the failure: the same may happen to it.
    unfinished: Vec<Vec<u8>>,
    /// What was being removed at the failure, until the next command of that kind has worked.
    going: BTreeSet<RevisionId>,
    /// What the medium may hold instead of what programs see, from a failed call until a manifest is durable again.
    otherwise: Vec<(Vec<Expected>, Effects)>,
    /// Whether a scrub may have recorded a block as bad that was unreadable once.
    suspected: bool,
    /// Whether a manifest was rebuilt while a deletion may not have been durable: no list has the file that comes
    /// back, and it is kept.
    unlisted: bool,
}

impl Model {
    /// An archive without revisions, of a source that is all zero. In a quarter of all cases its file system reports no
    /// holes.
    pub fn new(clones: bool, bytes: u16) -> Self {
        let world = World::with_backups(clones, &[]);
        if usize::from(bytes) >= MAX_BYTES {
            world.disk.hide_holes();
        }
        Model {
            world,
            source: vec![0; usize::from(bytes) % MAX_BYTES],
            now: world::clock().0,
            readers: Vec::new(),
            known: BTreeMap::new(),
            unfinished: Vec::new(),
            going: BTreeSet::new(),
            otherwise: Vec::new(),
            suspected: false,
            unlisted: false,
        }
    }

    /// The archive, and what it holds.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Carries out a whole history on a new archive.
    ///
    /// # Panics
    /// When the archive is not what it has to be.
    pub fn run(history: &History) -> Self {
        let mut model = Model::new(history.clones, history.bytes);
        history.operations.iter().for_each(|operation| model.apply(operation));
        model.finish();
        model
    }

    /// Makes it happen, and checks the archive.
    ///
    /// # Panics
    /// When the archive is not what it has to be.
    pub fn apply(&mut self, operation: &Operation) {
        // Never the same time twice, so that the names of revisions sort as they were made.
        self.now += SignedDuration::from_secs(1);
        match *operation {
            Operation::Write { offset, len, seed } => {
                let mut random = Random(seed.into());
                for block in self.part(offset, len).chunks_mut(BLOCK_SIZE.len()) {
                    fill_block(&mut random, block);
                }
            }
            Operation::Discard { offset, len } => self.part(offset, len).fill(0),
            Operation::Resize { bytes } => self.source.resize(usize::from(bytes) % MAX_BYTES, 0),
            Operation::Do(verb) => self.succeed(verb),
            Operation::Fail { verb, call, interruption, seed } => {
                self.fail(verb, call.into(), interruption, seed.into());
            }
            Operation::PowerCut { kept } => {
                self.cut(if kept { Unsynced::Kept } else { Unsynced::Lost }, &Effects::default());
            }
            Operation::Restore { number, onto_other, threads } => {
                self.restore(number, onto_other, threads);
            }
            Operation::Hold { number } => self.hold(number),
            Operation::Damage { file, offset, bit } => self.damage(file, offset, bit),
            Operation::Rot { block } => self.rot(block),
            Operation::Configure { schedule, max_chain } => self.configure(schedule, max_chain),
            Operation::Wait { days } => {
                self.now += SignedDuration::from_hours(i64::from(days) * 24)
            }
        }
        self.look();
    }

    /// A last backup, after which nothing is left over of all that went wrong.
    ///
    /// # Panics
    /// When the archive is not what it has to be.
    pub fn finish(&mut self) {
        self.clear_suspicion();
        self.apply(&Operation::Do(Verb::Backup { in_place: false, if_due: false, threads: 1 }));
        let archive = world::open(&self.world.disk).expect("open");
        for name in &archive.manifest().set_aside {
            // As an operator would who does not need them.
            self.world.disk.remove(*name).expect("remove");
        }
        self.remove_unlisted();
        self.world.check_tidy().expect("a tidy archive");
    }

    /// Deletes unknown files, as an operator does to whom a scrub reports them: a deletion that was not durable, and
    /// that the lost manifest knew of, has been undone. No revision needs them, and none of them is the digests of a
    /// complete image that nobody ever had.
    fn remove_unlisted(&self) {
        if !self.unlisted {
            return;
        }
        let archive = world::open(&self.world.disk).expect("open");
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        let check = archive.check(&options, &self.clock(), &Silent).expect("a check that ends");
        for (name, content) in self.world.disk.files() {
            let is_left_over = match name {
                FileName::Aside(Published::Manifest, _) => true,
                FileName::Digests(uuid, DigestsKind::Image) => {
                    self.known.contains_key(&uuid)
                        || content.iter().take(4096).all(|&byte| byte == 0)
                }
                _ => false,
            };
            if is_left_over && check.unknown_files.contains(&name.to_string()) {
                self.world.disk.remove(name).expect("remove");
            }
        }
    }

    /// Reads again what was unreadable once.
    fn clear_suspicion(&mut self) {
        if self.suspected {
            self.apply(&Operation::Do(Verb::Scrub { which: 0, threads: 1 }));
        }
    }

    fn part(&mut self, offset: u16, len: u16) -> &mut [u8] {
        let start = usize::from(offset).min(self.source.len());
        let end = (start + usize::from(len)).min(self.source.len());
        &mut self.source[start..end]
    }

    /// A command that has to work.
    fn succeed(&mut self, verb: Verb) {
        self.lose_manifest(verb);
        match self.attempt(verb) {
            Ok(done) => {
                let partly =
                    matches!(verb, Verb::Scrub { which, .. } if !self.chosen(which).is_empty());
                let good = done.is_good() || (partly && self.suspected);
                assert!(good, "{verb:?} on a sound archive: {done:?}");
                self.suspected &= partly || !matches!(verb, Verb::Scrub { .. });
                self.done(verb, done);
            }
            Err(error) if self.came_back(&error) => {
                // As the error says.
                let done = self.attempt(Verb::Rebuild { lost: false }).expect("a rebuild");
                self.done(Verb::Rebuild { lost: false }, done);
                self.succeed(verb);
            }
            Err(error) => {
                assert!(self.may_refuse(verb, &error), "{verb:?}: {error}");
                self.check(&format!("{verb:?} was refused"));
            }
        }
    }

    /// Whether a power cut has brought back the image of a first backup that was undone, after the manifest that
    /// listed it was lost. A writer refuses the archive then: the image might be all that somebody has.
    fn came_back(&self, error: &Error) -> bool {
        matches!(error, Error::OtherMoment { .. })
            && self.unlisted
            && self.world.expected.is_empty()
    }

    /// A command with a failure during it.
    fn fail(&mut self, verb: Verb, call: u64, interruption: Interruption, seed: u64) {
        let calls = self.calls(verb);
        let effects = self.effects(verb);
        self.lose_manifest(verb);
        self.world.disk.set_fault(call % (calls + 1) + 1, interruption.fault(), seed);
        let outcome = self.attempt(verb);
        self.suspected |= matches!(verb, Verb::Scrub { .. });
        let cut = interruption == Interruption::PowerCut;
        if cut {
            // No operation that was under way can continue, so what it holds open does not matter.
            self.readers.clear();
        } else {
            // The fault has passed, and readers with open files continue.
            self.world.disk.set_fault(0, Fault::Once(Failure::Io), seed);
        }
        match (outcome, cut) {
            (Ok(done), false) => self.done(verb, done),
            // What failed to become durable before may still be lost with the power.
            (Ok(done), true) if !done.is_durable() => {
                self.cut(Unsynced::Subset(seed), &Effects::default());
            }
            (Ok(done), true) => {
                self.world.disk = self.world.disk.crash(Unsynced::Subset(seed));
                self.done(verb, done);
            }
            (Err(_), true) => self.interrupted(verb, effects, Some(seed)),
            (Err(_), false) => self.interrupted(verb, effects, None),
        }
    }

    /// How many calls a command makes.
    fn calls(&self, verb: Verb) -> u64 {
        let trial = Model {
            world: World { disk: self.world.disk.fork(), expected: self.world.expected.clone() },
            source: self.source.clone(),
            ..Model::new(false, 0)
        };
        let trial = Model { now: self.now, ..trial };
        trial.lose_manifest(verb);
        trial.world.disk.set_fault(0, Fault::Once(Failure::Io), 0);
        // It may be refused.
        let _ = trial.attempt(verb);
        trial.world.disk.calls()
    }

    fn configure(&self, schedule: u8, max_chain: u8) {
        let mut text = "source = \"/memory\"\n".to_owned();
        if !max_chain.is_multiple_of(4) {
            text += &format!("max_chain = {}\n", max_chain % 4);
        }
        if schedule & 1 != 0 {
            text += "[schedule.daily]\ninterval = \"1d\"\nkeep = 2\n";
        }
        if schedule & 2 != 0 {
            text += "[schedule.full]\ninterval = \"7d\"\nkeep = 2\nfull = true\n";
        }
        world::configure(&self.world.disk, &text);
    }

    /// On a target with other content, the result is the revision, and nothing that was right is written again.
    fn restore(&mut self, number: u8, onto_other: bool, threads: usize) {
        let Some(number) = self.number(number) else { return };
        let wanted = &self.world.expected[number].bytes;
        let other = if onto_other { self.source.clone() } else { wanted.clone() };
        let target = MemoryTarget::holding(&other);
        let archive = world::open(&self.world.disk).expect("open");
        let options = RestoreOptions { threads: Some(threads), ..RestoreOptions::default() };
        archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect("a restore that works");
        assert!(target.content() == *wanted, "restore of revision {number}");
        if !onto_other {
            assert_eq!(target.written_bytes(), 0, "what was right was written again");
        }
    }

    /// One of the revisions, if there is any.
    fn number(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.world.expected.len())
    }

    /// Some revisions, never all.
    fn chosen(&self, which: u8) -> Vec<usize> {
        let count = self.world.expected.len().min(8);
        let chosen: Vec<usize> = (0..count).filter(|n| which >> n & 1 == 1).collect();
        if chosen.len() == self.world.expected.len() { Vec::new() } else { chosen }
    }

    fn clock(&self) -> FixedClock {
        FixedClock(self.now)
    }

    /// Takes the lock and undoes what was interrupted.
    fn writer(&self) -> Result<ArchiveWriter> {
        ArchiveWriter::open(world::open(&self.world.disk)?, "a test", &Silent)
    }

    /// Checks that exactly the expected revisions exist.
    fn check(&mut self, place: &str) {
        self.world
            .check_committed(None)
            .and_then(|_| self.world.check_format())
            .unwrap_or_else(|error| panic!("{place}: {error}"));
    }
}
