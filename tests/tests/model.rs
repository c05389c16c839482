//! Random operations on an archive, against a plain `Vec<u8>` per revision.

use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Failure, Fault, Random, Unsynced};
use backy_lib::{BackupOptions, ImageUpdate};
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
        }
        let source = self.source.clone();
        self.world
            .check_committed(Some(&source))
            .unwrap_or_else(|error| panic!("{operation:?}: {error}"));
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
        archive.restore_to(number, &target, Some(2), &Silent).expect("a restore that works");
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
