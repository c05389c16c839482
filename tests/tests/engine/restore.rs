//! Restoring what is left of a damaged archive, and undoing a restore.

mod faults;
mod undo;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use backy_lib::archive::ArchiveWriter;
use backy_lib::extent::Extent;
use backy_lib::progress::Silent;
use backy_lib::restore::{Saving, Target, TargetKind, UndoReport};
use backy_lib::storage::sim::{Failure, Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{FileName, Storage};
use backy_lib::{Error, ErrorKind, RestoreOptions, RestoreReport, Result};
use backy_tests::damage::Damaged;
use backy_tests::memory::MemoryTarget;
use backy_tests::world::{self, World, changed_state, random_state};

/// That of the archives in tests.
const BLOCK: usize = 4096;

fn states(seed: u64, blocks: &[usize]) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut states = vec![random_state(&mut random, blocks[0] * BLOCK)];
    for count in &blocks[1..] {
        let last = states[states.len() - 1].clone();
        states.push(changed_state(&mut random, &last, count * BLOCK - 3));
    }
    states
}

/// Restores what there is of a revision, and checks that it is right except where the restore reports loss.
fn salvage(place: &str, world: &World, number: usize) -> RestoreReport {
    Damaged::new(world.fork()).salvage(place, number)
}

/// A block of the image that has rotted is zero and named, and nothing else is lost.
#[test]
fn a_rotten_block_costs_only_itself() {
    let states = states(1, &[9, 9]);
    let world = World::with_backups(false, &states);
    for block in 0..9 {
        let damaged = world.fork();
        damaged.disk.tamper(FileName::IMAGE, |image| image[block * BLOCK + 5] ^= 1);
        let report = salvage(&format!("block {block}"), &damaged, 0);
        assert!(report.digests_checked);
        let len = if block == 8 { BLOCK - 3 } else { BLOCK };
        // A block that is zero is not read from the image.
        let expected = match states[1][block * BLOCK..][..len].iter().all(|&byte| byte == 0) {
            true => vec![],
            false => vec![Extent::new((block * BLOCK) as u64, len as u64)],
        };
        assert_eq!(report.unreadable, expected);
        assert_eq!(report.is_exact(), expected.is_empty());
        let strict = world::read_revision(&world::open(&damaged.disk).expect("open"), 0);
        assert_eq!(strict.is_err(), !expected.is_empty());
    }
}

/// One call reads blocks of the image that lie close together, with what is between them. An unreadable gap costs
/// nothing.
#[test]
fn what_is_between_the_wanted_blocks_of_the_image_may_be_unreadable() {
    let state = |middle: u8| [[1; BLOCK], [middle; BLOCK], [3; BLOCK]].concat();
    let world = World::with_backups(false, &[state(2), state(9)]);
    let disk = world.disk.fork();
    assert!(world::read_revision(&world::open(&disk).expect("open"), 1).is_ok());
    let all =
        format!(": read {} bytes at offset 0 {}", 3 * BLOCK, disk.path(FileName::IMAGE).display());
    let log = disk.log();
    let call = log.iter().rev().find_map(|line| line.strip_suffix(&all)?.parse().ok());
    let call: u64 = call.unwrap_or_else(|| panic!("not in one call: {log:?}"));
    disk.set_fault(call, Fault::Once(Failure::Io), 0);
    let read = world::read_revision(&world::open(&disk).expect("open"), 1);
    assert_eq!(read.ok(), Some(state(2)));
    assert!(disk.calls() > call, "nothing has failed");
}

/// Where nothing is damaged nothing is lost, also when revisions have been merged away.
#[test]
fn an_undamaged_archive_is_restored_exactly() {
    for gone in [&[][..], &[1], &[2, 3], &[0]] {
        let mut world = World::with_backups(false, &states(4, &[9, 7, 11, 8, 9]));
        if !gone.is_empty() {
            world.remove(gone);
        }
        for number in 0..world.expected.len() {
            let report = salvage(&format!("without {gone:?}"), &world, number);
            assert!(report.is_exact(), "without {gone:?}: {:?}", report.unreadable);
        }
    }
}

/// When a file is missing, what does not depend on it is restored right, and the rest is named.
#[test]
fn a_missing_file_costs_only_what_depends_on_it() {
    let world = World::with_backups(false, &states(11, &[9, 9, 6, 11]));
    let last = world.expected.len() - 1;
    for name in world.disk.files().into_keys() {
        if matches!(name, FileName::MANIFEST | FileName::README | FileName::CONFIG | FileName::Lock)
        {
            continue;
        }
        let broken = world.fork();
        broken.disk.remove(name).expect("remove");
        let mut right = 0;
        for number in 0..=last {
            let report = salvage(&format!("{name} gone"), &broken, number);
            let lost: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
            right += report.size_bytes - lost;
        }
        assert!(right > 0, "{name}: all is lost");
    }
}

/// Any file, changed in any way: the restore never ends early, and what it does not name is right or reported as
/// possibly wrong.
#[test]
fn any_damage_is_survived() {
    let world = World::with_backups(false, &states(12, &[9, 9, 6, 11]));
    for (name, content) in world.disk.files() {
        if content.is_empty() || matches!(name, FileName::MANIFEST) {
            continue;
        }
        for seed in 0..60 {
            let damaged = world.fork();
            damaged.disk.tamper(name, |bytes| {
                let mut random = Random(seed);
                let at = random.below(bytes.len() as u64) as usize;
                match seed % 4 {
                    0 => bytes.truncate(at),
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => {
                        let end = (at / 512 * 512 + 512).min(bytes.len());
                        bytes[at / 512 * 512..end].fill(0);
                    }
                    _ => {
                        let end = (at + 3 * BLOCK).min(bytes.len());
                        bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8);
                    }
                }
            });
            for number in 0..world.expected.len() {
                salvage(&format!("{name}, seed {seed}"), &damaged, number);
            }
        }
    }
}

/// A target in memory that is a device: it keeps its size. Writes fail from a given one on, and so does one call of
/// any kind.
struct Device {
    bytes: MemoryTarget,
    kind: TargetKind,
    writes_left: AtomicU64,
    calls: AtomicU64,
    /// The number of the call that fails, counted from 1, and the system's error code.
    fails: Option<(u64, i32)>,
    /// Where a sector is that cannot be read before it is written. Past the end for none.
    bad_sector: AtomicU64,
}

impl Device {
    fn new(kind: TargetKind, bytes: &[u8]) -> Self {
        let bytes = MemoryTarget::holding(bytes);
        let (writes_left, calls) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let bad_sector = AtomicU64::new(u64::MAX);
        Device { bytes, kind, writes_left, calls, fails: None, bad_sector }
    }

    fn with_bad_sector(self, offset: u64) -> Self {
        self.bad_sector.store(offset, Relaxed);
        self
    }

    fn call(&self, action: &str) -> Result<()> {
        let number = self.calls.fetch_add(1, Relaxed) + 1;
        match self.fails {
            Some((at, code)) if at == number => {
                Err(Error::io("/memory", action)(std::io::Error::from_raw_os_error(code)))
            }
            _ => Ok(()),
        }
    }

    fn count(&self) -> Result<()> {
        let left = self.writes_left.fetch_sub(1, Relaxed);
        if left == 0 {
            self.writes_left.store(0, Relaxed);
            return Err(Error::io("/memory", "write")(std::io::Error::from_raw_os_error(5)));
        }
        Ok(())
    }
}

impl Target for Device {
    fn path(&self) -> PathBuf {
        self.bytes.path()
    }

    fn kind(&self) -> TargetKind {
        self.kind
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.size_bytes()
    }

    fn prepare(&self, size_bytes: u64) -> Result<()> {
        self.call("set its length")?;
        match self.kind {
            TargetKind::BlockDevice => Ok(()),
            _ => self.bytes.prepare(size_bytes),
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.call("read")?;
        let bad = self.bad_sector.load(Relaxed);
        if (offset..offset + buffer.len() as u64).contains(&bad) {
            return Err(Error::io("/memory", "read")(std::io::Error::from_raw_os_error(5)));
        }
        let size = self.size_bytes() as usize;
        let len = size.saturating_sub(offset as usize).min(buffer.len());
        buffer[len..].fill(0);
        self.bytes.read_at(&mut buffer[..len], offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.count()?;
        self.call("write")?;
        if (offset..offset + data.len() as u64).contains(&self.bad_sector.load(Relaxed)) {
            self.bad_sector.store(u64::MAX, Relaxed);
        }
        self.bytes.write_at(data, offset)
    }

    fn clear(&self, extent: Extent) -> Result<()> {
        self.count()?;
        self.call("clear")?;
        self.bytes.clear(extent)
    }

    fn next_data(&self, offset: u64) -> Result<Option<Extent>> {
        self.call("seek data")?;
        self.bytes.next_data(offset)
    }

    fn finish(&self, size_bytes: u64) -> Result<()> {
        self.call("sync")?;
        match self.kind {
            TargetKind::BlockDevice => Ok(()),
            _ => self.bytes.finish(size_bytes),
        }
    }
}

fn save(
    world: &World,
    number: usize,
    target: &dyn Target,
    undo: &SimStorage,
) -> Result<UndoReport> {
    let archive = world::open(&world.disk)?;
    let saving = Saving {
        chain: &archive.open_revision(archive.id(number)?)?,
        target,
        path: Path::new("/memory"),
        clock: &world::clock(),
        threads: Some(1),
        observer: &Silent,
    };
    saving.save(undo)
}

/// Restores the undo archive's revision to the target.
fn go_back(undo: &SimStorage, target: &dyn Target) -> Result<RestoreReport> {
    let undo = world::open(undo)?;
    undo.restore_to(undo.id(0)?, target, &world::restore_options(), &Silent)
}

/// What targets held before, beside a revision of this content: nearly the same, something else, longer,
/// shorter, nothing.
fn former_contents(revision: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let mut random = Random(seed);
    let mut longer = revision.to_vec();
    longer.extend(random_state(&mut random, 3 * BLOCK + 512));
    let mut padded = revision.to_vec();
    padded.resize(revision.len() + 1, 0);
    let other = random_state(&mut random, revision.len());
    vec![
        revision.to_vec(),
        changed_state(&mut random, revision, revision.len()),
        changed_state(&mut random, revision, revision.len() / 2 + 9),
        changed_state(&mut random, &longer, longer.len()),
        other,
        longer,
        padded,
        vec![0; revision.len() + BLOCK],
        vec![],
    ]
}

/// After a restore with an undo archive, a restore from that brings back the former target byte for byte, whatever it
/// held. The archive holds no more of it than what was overwritten or cut off.
#[test]
fn undoing_a_restore_gives_the_former_target() {
    for seed in 0..12 {
        let world = World::with_backups(false, &states(seed, &[9, 7, 11]));
        for number in 0..3 {
            let revision = world.expected[number].bytes.clone();
            for (case, former) in former_contents(&revision, seed).into_iter().enumerate() {
                for kind in [TargetKind::File, TargetKind::BlockDevice] {
                    if kind == TargetKind::BlockDevice && former.len() < revision.len() {
                        continue;
                    }
                    let place = format!("seed {seed}, revision {number}, case {case}, {kind:?}");
                    let target = Device::new(kind, &former);
                    let undo = SimStorage::new(false);
                    let report = save(&world, number, &target, &undo).expect(&place);
                    assert!(target.bytes.content() == former, "{place}: saving changed it");
                    let archive = world::open(&world.disk).expect(&place);
                    let options = world::restore_options();
                    archive
                        .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
                        .expect(&place);
                    let restored = target.bytes.content();
                    assert!(restored[..revision.len()] == revision, "{place}: not restored");
                    check_saved(&place, &report, &former, &restored, &undo);
                    go_back(&undo, &target).expect(&place);
                    assert!(target.bytes.content() == former, "{place}: not undone");
                }
            }
        }
    }
}

/// The undo archive holds the blocks that the restore has changed, and records that it lacks every other one.
fn check_saved(place: &str, report: &UndoReport, former: &[u8], after: &[u8], undo: &SimStorage) {
    let block = |bytes: &[u8], at: usize| {
        bytes.get(at..).map(|rest| rest[..rest.len().min(BLOCK)].to_vec()).unwrap_or_default()
    };
    let image = undo.files()[&FileName::IMAGE].clone();
    assert_eq!(image.len(), former.len(), "{place}");
    let manifest = world::open(undo).expect(place).manifest().clone();
    let bad = &manifest.revisions[0].findings.bad_blocks;
    let mut saved = 0;
    for at in (0..former.len()).step_by(BLOCK) {
        let before = block(former, at);
        let named = |at: u64| bad.iter().any(|b| (b.first.0..b.first.0 + b.count).contains(&at));
        let held = block(&image, at) == before;
        assert_eq!(held, !named((at / BLOCK) as u64), "{place}: block {}", at / BLOCK);
        let changed = before != block(after, at) && before.iter().any(|&byte| byte != 0);
        assert!(held || !changed, "{place}: block {} is not saved", at / BLOCK);
        saved += u64::from(changed) * before.len() as u64;
    }
    // One block more where the revision's last, short block lies within one.
    assert!((saved..=saved + BLOCK as u64).contains(&report.saved_bytes), "{place}");
}

/// A removal that failed at any call costs a restore with `--keep-going` nothing, before its undoing and after.
#[test]
fn a_removal_that_fails_anywhere_loses_nothing() {
    let world = World::with_backups(false, &states(8, &[9, 9, 12]));
    let trial = world.fork();
    trial.disk.set_fault(u64::MAX, Fault::Crash, 0);
    world::remove(&trial.disk, &[1]).expect("a removal");
    for at in 1..=trial.disk.calls() {
        for fault in [Fault::Once(Failure::Io), Fault::Crash] {
            let failed = world.fork();
            failed.disk.set_fault(at, fault, at);
            let _ = world::remove(&failed.disk, &[1]);
            let disk = failed.disk.crash(Unsynced::Kept);
            check_going_on(&format!("{fault:?} at call {at}"), &disk, &world);
            drop(ArchiveWriter::open(world::open(&disk).expect("open"), "a test", &Silent));
            check_going_on(&format!("{fault:?} at call {at}, undone"), &disk, &world);
        }
    }
}

/// A restore with `--keep-going` restores every existing revision in full.
fn check_going_on(place: &str, disk: &SimStorage, world: &World) {
    let archive = world::open(disk).expect(place);
    let options = RestoreOptions { keep_going: true, ..world::restore_options() };
    for (number, revision) in archive.revisions().iter().enumerate() {
        let expected = world.expected.iter().find(|each| each.uuid == revision.uuid);
        let target = MemoryTarget::absent();
        let report = archive
            .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
            .expect(place);
        assert!(report.unreadable.is_empty(), "{place}: {number}: {:?}", report.unreadable);
        assert!(target.content() == expected.expect(place).bytes, "{place}: {number} is wrong");
    }
}

/// A dry run reads all that a restore would, reports what that would write, and writes nothing.
#[test]
fn a_dry_run_writes_nothing() {
    let world = World::with_backups(false, &states(3, &[9, 12]));
    let archive = world::open(&world.disk).expect("open");
    let dry = RestoreOptions { dry_run: true, ..world::restore_options() };
    for number in 0..2 {
        for former in former_contents(&world.expected[number].bytes, 3) {
            let target = Device::new(TargetKind::File, &former);
            let planned = archive
                .restore_to(archive.id(number).unwrap(), &target, &dry, &Silent)
                .expect("a dry run");
            assert!(planned.dry_run && target.bytes.content() == former);
            let options = world::restore_options();
            let done = archive
                .restore_to(archive.id(number).unwrap(), &target, &options, &Silent)
                .expect("a restore");
            assert!(!done.dry_run);
            assert_eq!(planned.written_bytes, done.written_bytes);
            assert_eq!(planned.written_extents, done.written_extents);
        }
        let mut stream = Vec::new();
        archive
            .restore_to_stream(archive.id(number).unwrap(), &mut stream, &dry, &Silent)
            .expect("a dry run");
        assert!(stream.is_empty());
    }
}

/// A restore that fails at any write can be undone.
#[test]
fn a_restore_that_failed_anywhere_can_be_undone() {
    let world = World::with_backups(false, &states(5, &[9, 12]));
    for (case, former) in former_contents(&world.expected[1].bytes, 5).into_iter().enumerate() {
        for writes in 0.. {
            let place = format!("case {case}, write {writes}");
            let target = Device::new(TargetKind::File, &former);
            let undo = SimStorage::new(false);
            save(&world, 1, &target, &undo).expect(&place);
            // As if power had failed: only what is durable is there.
            let undo = undo.crash(Unsynced::Lost);
            target.writes_left.store(writes, Relaxed);
            let archive = world::open(&world.disk).expect(&place);
            let worked = archive
                .restore_to(archive.id(1).unwrap(), &target, &world::restore_options(), &Silent)
                .is_ok();
            target.writes_left.store(u64::MAX, Relaxed);
            go_back(&undo, &target).expect(&place);
            assert!(target.bytes.content() == former, "{place}: not undone");
            if worked {
                break;
            }
        }
    }
}

/// Files that only have the names of an archive's, such as images of another program, prevent an undo archive beside
/// them, and stay as they are.
#[test]
fn no_undo_archive_is_created_beside_foreign_files() {
    let world = World::with_backups(false, &states(6, &[9, 12]));
    let former = former_contents(&world.expected[1].bytes, 6).remove(3);
    let target = Device::new(TargetKind::File, &former);
    for name in [FileName::Delta(world.expected[0].uuid), FileName::IMAGE, FileName::STAGED_IMAGE] {
        let undo = SimStorage::new(false);
        undo.create(name).and_then(|file| file.write_at(b"mine", 0)).expect("a file of another");
        let before = undo.files();
        let error = save(&world, 1, &target, &undo).expect_err("there is a file");
        assert_eq!(error.kind(), ErrorKind::ArchiveExists, "{name}");
        assert!(undo.files() == before, "{name}");
    }
}
