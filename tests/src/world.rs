//! An archive on a simulated disk, and its expected content.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::clock::FixedClock;
use backy_lib::format::qcow2::Decompressor;
use backy_lib::image::chain::Chain;
use backy_lib::limits;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Random, SimStorage};
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_lib::units::BlockIndex;
use backy_lib::{
    BackupOptions, BackupReport, BlockSize, ImageUpdate, MaintenanceOptions, MaintenanceReport,
    RestoreOptions, Result, RevisionId,
};
use jiff::Timestamp;

use crate::canary;
use crate::checker;
use crate::memory::{MemorySource, MemoryTarget};

/// Block size of the archives in tests: the smallest, so that small images have many blocks.
pub const BLOCK_SIZE: BlockSize = BlockSize::MIN;

/// An expected revision.
#[derive(Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub uuid: RevisionId,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// An archive on a simulated disk with what it has to hold, newest first.
#[derive(Clone)]
pub struct World {
    /// The disk.
    pub disk: SimStorage,
    /// The committed revisions.
    pub expected: Vec<Expected>,
}

/// The clock of all tests.
pub fn clock() -> FixedClock {
    FixedClock(Timestamp::from_second(1_800_000_000).expect("a time in range"))
}

/// A backup whatever the schedule says, in one thread so that calls come in a fixed order.
pub fn options() -> BackupOptions {
    BackupOptions { force: true, threads: Some(1), ..BackupOptions::default() }
}

/// A restore in one thread, so that calls come in a fixed order.
pub fn restore_options() -> RestoreOptions {
    RestoreOptions { threads: Some(1), ..RestoreOptions::default() }
}

/// Makes the archive, without a source in its config.
pub fn init(disk: &SimStorage) -> Result<Archive> {
    Archive::init_on(shared(disk), Some(Path::new("/memory")), BLOCK_SIZE)
}

/// Opens the archive on a disk.
pub fn open(disk: &SimStorage) -> Result<Archive> {
    Archive::open_on(shared(disk))
}

/// Opens the archive on a disk and takes the lock, which undoes what was interrupted.
pub fn writer(disk: &SimStorage) -> Result<ArchiveWriter> {
    ArchiveWriter::open(open(disk)?, "a test", &Silent)
}

/// Takes the lock and makes a backup of `source`.
pub fn backup(disk: &SimStorage, source: &MemorySource) -> Result<BackupReport> {
    backup_with(disk, source, &options())
}

/// The same with options.
pub fn backup_with(
    disk: &SimStorage,
    source: &MemorySource,
    options: &BackupOptions,
) -> Result<BackupReport> {
    let made = writer(disk)?.backup(source, options, &clock(), &Silent)?;
    Ok(made.expect("a forced backup is made"))
}

/// Takes the lock and makes a backup of these bytes, in place or in whatever way the disk allows.
pub fn backup_by(disk: &SimStorage, state: &[u8], update: ImageUpdate) -> Result<()> {
    let options = BackupOptions { update, ..options() };
    backup_with(disk, &MemorySource::new(state), &options).map(drop)
}

/// The names of the revisions with these numbers.
pub fn ids(archive: &Archive, numbers: &[usize]) -> Result<Vec<RevisionId>> {
    numbers.iter().map(|&number| archive.id(number)).collect()
}

/// The names of all revisions, newest first.
pub fn all(archive: &Archive) -> Vec<RevisionId> {
    archive.revisions().iter().map(|revision| revision.uuid).collect()
}

/// Takes the lock and removes revisions by their numbers.
pub fn remove(disk: &SimStorage, numbers: &[usize]) -> Result<MaintenanceReport> {
    remove_by(&mut writer(disk)?, numbers)
}

/// The same with the lock.
pub fn remove_by(writer: &mut ArchiveWriter, numbers: &[usize]) -> Result<MaintenanceReport> {
    let ids = ids(writer.archive(), numbers)?;
    writer.remove(&ids, &clock(), &Silent)
}

/// Takes the lock and runs maintenance, after confirming all alarms and damage. With one thread, so that calls come
/// in a fixed order.
pub fn maintain(disk: &SimStorage, keep: Option<u32>) -> Result<MaintenanceReport> {
    let options = MaintenanceOptions { keep, confirm: true, threads: Some(1) };
    writer(disk)?.maintain(&options, &clock(), &Silent)
}

/// Replaces the config.
pub fn configure(disk: &SimStorage, text: &str) {
    disk.tamper(FileName::CONFIG, |config| *config = text.as_bytes().to_vec());
}

/// The content of a revision, read as a restore reads it.
pub fn read_revision(archive: &Archive, number: usize) -> Result<Vec<u8>> {
    let target = MemoryTarget::absent();
    archive.restore_to(archive.id(number)?, &target, &restore_options(), &Silent)?;
    Ok(target.content())
}

/// The content of an open revision, with its blocks located again.
pub fn read_chain(chain: &Chain) -> Result<Vec<u8>> {
    let mut bytes = vec![0; chain.revision().size_bytes as usize];
    let located = chain.locate(BlockIndex(0), chain.blocks())?;
    chain.read(BlockIndex(0), &located, &mut Decompressor::new()?, &mut bytes)?;
    Ok(bytes)
}

fn shared(disk: &SimStorage) -> Arc<dyn Storage> {
    canary::plant();
    limits::use_small();
    Arc::new(disk.clone())
}

impl World {
    /// An archive with a backup of each of `states`, oldest first.
    pub fn with_backups(clones: bool, states: &[Vec<u8>]) -> Self {
        let disk = SimStorage::new(clones);
        init(&disk).expect("init on a working disk");
        let mut world = World { disk, expected: Vec::new() };
        for state in states {
            world.backup(state);
        }
        world
    }

    /// The same on an independent copy of the disk.
    pub fn fork(&self) -> Self {
        World { disk: self.disk.fork(), expected: self.expected.clone() }
    }

    /// A backup that has to work.
    pub fn backup(&mut self, state: &[u8]) {
        let report = backup(&self.disk, &MemorySource::new(state)).expect("a backup that works");
        self.expected.insert(0, Expected { uuid: report.revision.uuid, bytes: state.to_vec() });
    }

    /// Removes revisions by their numbers; has to work.
    pub fn remove(&mut self, numbers: &[usize]) {
        remove(&self.disk, numbers).expect("a removal that works");
        let mut number = 0;
        self.expected.retain(|_| {
            number += 1;
            !numbers.contains(&(number - 1))
        });
    }

    /// Checks the archive when the revisions with these numbers may be deleted, some or all of them. Returns whether
    /// all are.
    pub fn check_removing(&mut self, numbers: &[usize]) -> std::result::Result<bool, String> {
        let archive = open(&self.disk).map_err(|error| format!("open: {error}"))?;
        let there: Vec<RevisionId> = archive.revisions().iter().map(|r| r.uuid).collect();
        let going: Vec<RevisionId> = numbers.iter().map(|&n| self.expected[n].uuid).collect();
        self.expected.retain(|e| there.contains(&e.uuid) || !going.contains(&e.uuid));
        self.check_committed(None)?;
        Ok(!going.iter().any(|uuid| there.contains(uuid)))
    }

    /// Checks that the archive holds what is expected, or that and one more revision with the content `maybe`.
    /// Returns which. Takes no lock and changes nothing.
    pub fn check_committed(&mut self, maybe: Option<&[u8]>) -> std::result::Result<bool, String> {
        let archive = open(&self.disk).map_err(|error| format!("open: {error}"))?;
        let extra = archive.revisions().len() == self.expected.len() + 1;
        if extra {
            let uuid = archive.revisions()[0].uuid;
            let bytes = maybe.ok_or("found a revision that nobody made")?.to_vec();
            self.expected.insert(0, Expected { uuid, bytes });
        }
        let found: Vec<RevisionId> = archive.revisions().iter().map(|r| r.uuid).collect();
        let expected: Vec<RevisionId> = self.expected.iter().map(|e| e.uuid).collect();
        if found != expected {
            return Err(format!("found revisions {found:?}, expected {expected:?}"));
        }
        for (number, expected) in self.expected.iter().enumerate() {
            let bytes = read_revision(&archive, number)
                .map_err(|error| format!("revision {number}: {error}"))?;
            if bytes != expected.bytes {
                return Err(format!("revision {number} has wrong bytes"));
            }
        }
        Ok(extra)
    }

    /// Panics unless the archive holds what is expected and nothing else: [`Self::check_committed`] and
    /// [`Self::check_tidy`].
    #[track_caller]
    pub fn assert_tidy(&mut self, place: impl Display) {
        let checked = self.check_committed(None).and_then(|_| self.check_tidy());
        checked.unwrap_or_else(|error| panic!("{place}: {error}"));
    }

    /// Checks that the files match the format document, also while something is under way.
    pub fn check_format(&self) -> std::result::Result<(), String> {
        let files = self.disk.files().into_iter();
        let files = files.map(|(name, content)| (name.to_string(), content)).collect();
        match checker::check(&files).as_slice() {
            [] => Ok(()),
            problems => Err(format!("against the format: {}", problems.join("; "))),
        }
    }

    /// Checks that there are only the files that the revisions need, that nothing is marked as bad, that the image is
    /// plain and complete, and that the files match the format document.
    pub fn check_tidy(&self) -> std::result::Result<(), String> {
        self.check_format()?;
        let files = self.disk.files();
        let mut needed = vec![FileName::README, FileName::CONFIG, FileName::MANIFEST];
        for (number, revision) in self.expected.iter().enumerate() {
            if number == 0 {
                needed.push(FileName::IMAGE);
                needed.push(FileName::Digests(revision.uuid, DigestsKind::Image));
            } else {
                needed.push(FileName::Delta(revision.uuid));
                needed.push(FileName::Digests(revision.uuid, DigestsKind::Delta));
            }
        }
        needed.sort();
        let found = files.keys().copied();
        let found: Vec<FileName> = found.filter(|name| !UNNAMED.contains(name)).collect();
        if found != needed {
            return Err(format!("found files {found:?}, expected {needed:?}"));
        }
        let archive = open(&self.disk).map_err(|error| format!("open: {error}"))?;
        if archive.revisions().iter().any(|revision| revision.findings.bad_block_count() > 0) {
            return Err("blocks are marked as bad that are not".to_owned());
        }
        match self.expected.first() {
            Some(newest) if files[&FileName::IMAGE] != newest.bytes => {
                Err("last.raw is not the newest revision".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Optional files.
pub const UNNAMED: [FileName; 3] = [FileName::Reserve, FileName::History, FileName::OldHistory];

/// How image updates are to be tested.
pub const UPDATES: [(bool, ImageUpdate); 2] =
    [(false, ImageUpdate::InPlace), (true, ImageUpdate::Auto)];

/// Bytes that no compression makes smaller.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let words = (0..len.div_ceil(8)).flat_map(|_| random.number().to_le_bytes());
    words.take(len).collect()
}

/// A state of a source: some blocks zero, some compressible, some not, with a length that need not be whole blocks.
pub fn random_state(random: &mut Random, size_bytes: usize) -> Vec<u8> {
    let mut state = vec![0; size_bytes];
    for block in state.chunks_mut(BLOCK_SIZE.len()) {
        fill_block(random, block);
    }
    state
}

/// Gives a block new content: nothing, text-like, or noise.
pub fn fill_block(random: &mut Random, block: &mut [u8]) {
    match random.below(4) {
        0 => block.fill(0),
        1 => block.iter_mut().for_each(|byte| *byte = random.number() as u8),
        _ => {
            let word = random.number().to_le_bytes();
            block.iter_mut().enumerate().for_each(|(at, byte)| *byte = word[at / 97 % 8]);
        }
    }
}

/// The state after some time: some blocks changed, perhaps another size.
pub fn changed_state(random: &mut Random, state: &[u8], size_bytes: usize) -> Vec<u8> {
    let mut next = state.to_vec();
    next.resize(size_bytes, 0);
    for block in next.chunks_mut(BLOCK_SIZE.len()) {
        if random.below(3) == 0 {
            fill_block(random, block);
        }
    }
    next
}
