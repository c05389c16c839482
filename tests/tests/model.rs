//! Random operations on an archive, against a plain `Vec<u8>` per revision.

use backy_lib::archive::ArchiveWriter;
use backy_lib::progress::Silent;
use backy_lib::retention::Verdict;
use backy_lib::storage::FileName;
use backy_lib::storage::sim::{Failure, Fault, Random, Unsynced};
use backy_lib::{
    BackupOptions, ImageUpdate, MaintenanceOptions, MaintenanceReport, RestoreOptions, ScrubOptions,
};
use backy_tests::memory::{MemorySource, MemoryTarget};
use backy_tests::qemu;
use backy_tests::world::{self, BLOCK_SIZE, World, fill_block};
use proptest::prelude::*;

/// What can happen to a source and its archive.
#[derive(Debug, Clone)]
enum Operation {
    Write { offset: u16, len: u16, seed: u64 },
    Discard { offset: u16, len: u16 },
    Resize { bytes: u16 },
    Backup { in_place: bool, threads: usize },
    Restore { number: u8, onto_other: bool },
    Reopen { kept: bool },
    CrashInBackup { call: u16, seed: u64, in_place: bool },
    ErrorInBackup { call: u16, lasting: bool, full: bool, in_place: bool },
    Remove { which: u8 },
    Maintain { keep: u8, max_chain: u8 },
    CrashInRemoval { which: u8, call: u16, seed: u64 },
    CrashInMaintenance { keep: u8, max_chain: u8, call: u16, seed: u64 },
    Tag { number: u8 },
    Damage { file: u8, offset: u32, bit: u8 },
    Rot { block: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (any::<u16>(), 1..9000u16, any::<u64>())
            .prop_map(|(offset, len, seed)| Operation::Write { offset, len, seed }),
        2 => (any::<u16>(), any::<u16>()).prop_map(|(offset, len)| Operation::Discard { offset, len }),
        2 => any::<u16>().prop_map(|bytes| Operation::Resize { bytes }),
        6 => (any::<bool>(), 1..4usize)
            .prop_map(|(in_place, threads)| Operation::Backup { in_place, threads }),
        2 => (any::<u8>(), any::<bool>())
            .prop_map(|(number, onto_other)| Operation::Restore { number, onto_other }),
        1 => any::<bool>().prop_map(|kept| Operation::Reopen { kept }),
        2 => (1..400u16, any::<u64>(), any::<bool>())
            .prop_map(|(call, seed, in_place)| Operation::CrashInBackup { call, seed, in_place }),
        1 => (1..400u16, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(call, lasting, full, in_place)| Operation::ErrorInBackup { call, lasting, full, in_place }
        ),
        2 => any::<u8>().prop_map(|which| Operation::Remove { which }),
        2 => (0..6u8, 0..4u8).prop_map(|(keep, max_chain)| Operation::Maintain { keep, max_chain }),
        1 => (any::<u8>(), 1..200u16, any::<u64>())
            .prop_map(|(which, call, seed)| Operation::CrashInRemoval { which, call, seed }),
        1 => (0..6u8, 0..4u8, 1..300u16, any::<u64>()).prop_map(
            |(keep, max_chain, call, seed)| Operation::CrashInMaintenance { keep, max_chain, call, seed }
        ),
        1 => any::<u8>().prop_map(|number| Operation::Tag { number }),
        2 => (any::<u8>(), any::<u32>(), 0..8u8)
            .prop_map(|(file, offset, bit)| Operation::Damage { file, offset, bit }),
        1 => any::<u8>().prop_map(|block| Operation::Rot { block }),
    ]
}

struct Model {
    world: World,
    source: Vec<u8>,
}

impl Model {
    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Write { offset, len, seed } => {
                let mut random = Random(seed);
                for block in self.part(offset, len).chunks_mut(BLOCK_SIZE.len()) {
                    fill_block(&mut random, block);
                }
            }
            Operation::Discard { offset, len } => self.part(offset, len).fill(0),
            Operation::Resize { bytes } => self.source.resize(usize::from(bytes), 0),
            Operation::Backup { in_place, threads } => {
                self.backup(in_place, threads).expect("a backup that works");
            }
            Operation::Restore { number, onto_other } => self.restore(number, onto_other),
            Operation::Reopen { kept } => {
                let unsynced = if kept { Unsynced::Kept } else { Unsynced::Lost };
                self.world.disk = self.world.disk.crash(unsynced);
            }
            Operation::CrashInBackup { call, seed, in_place } => {
                self.world.disk.set_fault(u64::from(call), Fault::Crash, seed);
                let before = self.world.expected.clone();
                let _ = self.backup(in_place, 1);
                self.world.expected = before;
                self.world.disk = self.world.disk.crash(Unsynced::Subset(seed));
            }
            Operation::ErrorInBackup { call, lasting, full, in_place } => {
                let failure = if full { Failure::NoSpace } else { Failure::Io };
                let fault = if lasting { Fault::FromThenOn(failure) } else { Fault::Once(failure) };
                self.world.disk.set_fault(u64::from(call), fault, 1);
                let before = self.world.expected.clone();
                let _ = self.backup(in_place, 1);
                self.world.expected = before;
                self.world.disk = self.world.disk.fork();
            }
            Operation::Remove { which } => {
                let numbers = self.chosen(which);
                self.world.remove(&numbers);
            }
            Operation::Maintain { keep, max_chain } => {
                let report = self.maintain(keep, max_chain).expect("maintenance that works");
                let mut verdicts = report.plan.verdicts.iter();
                self.world.expected.retain(|_| verdicts.next().is_some_and(|verdict| verdict.keep));
                if keep > 0 {
                    assert!(self.world.expected.len() <= usize::from(keep).max(self.pins()) + 2);
                }
            }
            Operation::CrashInRemoval { which, call, seed } => {
                let numbers = self.chosen(which);
                self.world.disk.set_fault(u64::from(call), Fault::Crash, seed);
                let _ = world::remove(&self.world.disk, &numbers);
                self.world.disk = self.world.disk.crash(Unsynced::Subset(seed));
                self.world.check_removing(&numbers).expect("a crash in a removal");
            }
            Operation::CrashInMaintenance { keep, max_chain, call, seed } => {
                self.world.disk.set_fault(u64::from(call), Fault::Crash, seed);
                let _ = self.maintain(keep, max_chain);
                self.world.disk = self.world.disk.crash(Unsynced::Subset(seed));
                // Any but the newest may have gone; all that are left are right.
                let all: Vec<usize> = (1..self.world.expected.len()).collect();
                self.world.check_removing(&all).expect("a crash in maintenance");
            }
            Operation::Tag { number } => self.tag(number),
            Operation::Damage { file, offset, bit } => self.damage(file, offset, bit),
            Operation::Rot { block } => self.rot(block),
        }
        let source = self.source.clone();
        self.world
            .check_committed(Some(&source))
            .unwrap_or_else(|error| panic!("{operation:?}: {error}"));
    }

    /// Some revisions, never all.
    fn chosen(&self, which: u8) -> Vec<usize> {
        let count = self.world.expected.len().min(8);
        let chosen: Vec<usize> = (0..count).filter(|n| which >> n & 1 == 1).collect();
        if chosen.len() == self.world.expected.len() { Vec::new() } else { chosen }
    }

    fn maintain(&self, keep: u8, max_chain: u8) -> backy_lib::Result<MaintenanceReport> {
        let limit = match max_chain {
            0 => String::new(),
            limit => format!("max_chain = {limit}\n"),
        };
        world::configure(&self.world.disk, &format!("source = \"/memory\"\n{limit}"));
        let keep = (keep > 0).then_some(u32::from(keep));
        // What is not confirmed holds everything back.
        let options = MaintenanceOptions { keep, ..MaintenanceOptions::default() };
        let plan = world::open(&self.world.disk)?.plan_maintenance(&options);
        if let Ok(plan) = plan {
            let stays = |verdict: &Verdict| verdict.keep && verdict.expired_tags.is_empty();
            assert!(plan.frozen.is_empty() || plan.verdicts.iter().all(stays), "{plan:?}");
        }
        let done = world::maintain(&self.world.disk, keep);
        world::configure(&self.world.disk, "source = \"/memory\"\n");
        done
    }

    fn pins(&self) -> usize {
        let archive = world::open(&self.world.disk).expect("open");
        archive.revisions().iter().filter(|r| !r.pinned_tags.is_empty()).count() + 5
    }

    fn tag(&mut self, number: u8) {
        let Some(last) = self.world.expected.len().checked_sub(1) else { return };
        let archive = world::open(&self.world.disk).expect("open");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let tags = ["pinned".parse().expect("a tag")].into();
        let number = usize::from(number) % (last + 1);
        let all = writer.tag(number, &tags, &[].into(), &world::clock(), &Silent).expect("a tag");
        assert!(all.is_superset(&tags));
    }

    /// A flipped bit anywhere: what cannot be read right any more is found; with the bit put back, nothing is.
    fn damage(&mut self, file: u8, offset: u32, bit: u8) {
        let stored = self.world.disk.files().into_iter().filter(|(name, content)| {
            let stored = matches!(name, FileName::Delta(_) | FileName::Digests(..));
            (stored || *name == FileName::IMAGE) && !content.is_empty()
        });
        let stored: Vec<_> = stored.collect();
        let Some((name, content)) = stored.get(usize::from(file) % stored.len().max(1)) else {
            return;
        };
        let at = offset as usize % content.len();
        // Interrupted work is tidied up first: a scrub without the lock would have to look past it.
        drop(ArchiveWriter::open(world::open(&self.world.disk).expect("open"), "a test", &Silent));
        if !self.world.disk.files().contains_key(name) {
            return;
        }
        let damaged = self.world.fork();
        damaged.disk.tamper(*name, |content| {
            if let Some(byte) = content.get_mut(at) {
                *byte ^= 1 << bit;
            }
        });
        let archive = world::open(&damaged.disk).expect("open");
        let all_right = damaged.expected.iter().enumerate().all(|(number, expected)| {
            world::read_revision(&archive, number).is_ok_and(|bytes| bytes == expected.bytes)
        });
        let options = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
        let check = archive.check(&options, &world::clock(), &Silent).expect("a check that ends");
        assert!(all_right || !check.findings.is_empty(), "{name}, byte {at}: not found");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let report = writer.scrub(&options, &world::clock(), &Silent).expect("a scrub that ends");
        drop(writer);
        if report.is_clean() {
            let mut mended = damaged.fork();
            mended.check_committed(None).expect("what is clean reads right");
        } else {
            assert!(!all_right, "{name}, byte {at}: {report:?}");
        }
        let sound = world::open(&self.world.disk).expect("open");
        let check = sound.check(&options, &world::clock(), &Silent).expect("a check that ends");
        assert_eq!(check.findings, [], "a sound archive");
    }

    /// A block of the image rots, a scrub finds it, and a backup of the same content heals it.
    fn rot(&mut self, block: u8) {
        let Some(newest) = self.world.expected.first() else { return };
        let blocks = newest.bytes.len() / BLOCK_SIZE.len();
        if blocks == 0 {
            return;
        }
        let bytes = newest.bytes.clone();
        drop(ArchiveWriter::open(world::open(&self.world.disk).expect("open"), "a test", &Silent));
        let at = usize::from(block) % blocks * BLOCK_SIZE.len() + usize::from(block);
        self.world.disk.tamper(FileName::IMAGE, |image| image[at] ^= 0xff);
        let archive = world::open(&self.world.disk).expect("open");
        let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
        let options = ScrubOptions { threads: Some(2), ..ScrubOptions::default() };
        let report = writer.scrub(&options, &world::clock(), &Silent).expect("a scrub that ends");
        assert!(!report.findings.is_empty(), "rot at {at} was not found");
        drop(writer);
        self.source = bytes;
        self.backup(true, 1).expect("a backup that heals");
    }

    fn part(&mut self, offset: u16, len: u16) -> &mut [u8] {
        let start = usize::from(offset).min(self.source.len());
        let end = (start + usize::from(len)).min(self.source.len());
        &mut self.source[start..end]
    }

    fn backup(&mut self, in_place: bool, threads: usize) -> backy_lib::Result<()> {
        let update = if in_place { ImageUpdate::InPlace } else { ImageUpdate::Auto };
        let options = BackupOptions { update, threads: Some(threads), ..world::options() };
        let report =
            world::backup_with(&self.world.disk, &MemorySource::new(&self.source), &options)?;
        let bytes = self.source.clone();
        self.world.expected.insert(0, world::Expected { uuid: report.revision.uuid, bytes });
        Ok(())
    }

    /// Onto a target with other content, what comes out is the revision, and what was right is not written again.
    fn restore(&mut self, number: u8, onto_other: bool) {
        let Some(last) = self.world.expected.len().checked_sub(1) else { return };
        let number = usize::from(number) % (last + 1);
        let wanted = &self.world.expected[number].bytes;
        let other = if onto_other { self.source.clone() } else { wanted.clone() };
        let target = MemoryTarget::holding(&other);
        let archive = world::open(&self.world.disk).expect("open");
        let options = RestoreOptions { threads: Some(2), ..RestoreOptions::default() };
        archive.restore_to(number, &target, &options, &Silent).expect("a restore that works");
        assert!(target.content() == *wanted, "restore of revision {number}");
        if !onto_other {
            assert_eq!(target.written_bytes(), 0, "what was right was written again");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens, all committed revisions read right, and in the end the archive is tidy and QEMU agrees.
    #[test]
    fn any_history(
        clones in any::<bool>(),
        size in any::<u16>(),
        operations in prop::collection::vec(operation(), 1..24),
    ) {
        let world = World::with_backups(clones, &[]);
        let mut model = Model { world, source: vec![0; usize::from(size)] };
        operations.iter().for_each(|operation| model.apply(operation));
        model.apply(&Operation::Backup { in_place: false, threads: 2 });
        model.world.check_tidy().expect("a tidy archive");
        if size % 8 == 0 && qemu::available() {
            let folder = tempfile::tempdir().expect("a temporary folder");
            qemu::write_out(&model.world.disk, folder.path());
            qemu::check(folder.path(), &model.world.expected, 0, true).expect("QEMU agrees");
        }
    }
}
