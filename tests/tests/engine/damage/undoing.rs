//! A backup in place was killed, and its overlay, or something else, is damaged: undoing writes back what can be read
//! and records the rest, and the next backup works.

use backy_lib::Result;
use backy_lib::archive::ArchiveWriter;
use backy_lib::format::manifest::Operation;
use backy_lib::format::qcow2::Layout;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{DigestsKind, FileName, Storage};
use backy_lib::{BackupOptions, ImageUpdate};
use backy_tests::damage::{Damaged, Verb};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, BLOCK_SIZE, World};

const BLOCK: usize = 4096;

/// So many blocks of noise.
fn noise(seed: u64, blocks: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..blocks * BLOCK).map(|_| random.number() as u8 | 1).collect()
}

/// An archive with revisions of noise, and the states in which a killed backup of something else, in place, leaves
/// it.
fn killed(revisions: u64) -> Vec<(World, Vec<u8>)> {
    let states: Vec<_> = (0..revisions).map(|seed| noise(seed, 10)).collect();
    let world = World::with_backups(false, &states);
    let next = noise(77, 11);
    let backup = |disk: &SimStorage| -> Result<()> {
        let options = BackupOptions { update: ImageUpdate::InPlace, ..world::options() };
        world::backup_with(disk, &MemorySource::new(&next), &options).map(drop)
    };
    let trial = world.fork();
    backup(&trial.disk).expect("a backup");
    let mut killed = Vec::new();
    for at in (1..=trial.disk.calls()).step_by(5) {
        let broken = world.fork();
        broken.disk.set_fault(at, Fault::Crash, at);
        let _ = backup(&broken.disk);
        let disk = broken.disk.crash(Unsynced::Subset(at));
        let archive = world::open(&disk).expect("open");
        let under_way = archive.manifest().in_progress.as_ref();
        if under_way.is_some_and(|under_way| under_way.operation == Operation::Backup) {
            killed.push((World { disk, expected: world.expected.clone() }, next.clone()));
        }
    }
    assert!(killed.len() > 4, "{} moments", killed.len());
    killed
}

fn recover(world: &World) -> Result<()> {
    let mut writer = ArchiveWriter::open(world::open(&world.disk)?, "a test", &Silent)?;
    let id = writer.archive().id(0)?;
    writer.tag(id, &[].into(), &[].into(), &world::clock(), &Silent).map(drop)
}

/// Where the used entries of the overlay's L2 table are.
fn entries(world: &World) -> Vec<usize> {
    let overlay = FileName::Delta(world.expected[0].uuid);
    let layout = Layout::new(BLOCK_SIZE, world.expected[0].bytes.len() as u64);
    let Some(content) = world.disk.files().remove(&overlay) else { return Vec::new() };
    let at = layout.l2_offset as usize;
    let said = (at..at + 8 * 10).step_by(8);
    said.filter(|&at| content.get(at..at + 8).is_some_and(|raw| raw != [0; 8])).collect()
}

/// Undoing needs the overlay alone: it restores every byte without the digests of the image, and with its own header
/// and L1 table gone.
#[test]
fn undoing_needs_the_overlay_alone() {
    for (world, _) in killed(3) {
        let newest = world.expected[0].uuid;
        Storage::remove(&world.disk, FileName::Digests(newest, DigestsKind::Image))
            .expect("remove");
        world.disk.tamper(FileName::Delta(newest), |delta| {
            let end = delta.len().min(3 * BLOCK);
            delta[..end].fill(0);
        });
        recover(&world).expect("undoing");
        let files = world.disk.files();
        assert!(files[&FileName::IMAGE] == world.expected[0].bytes, "the image is as it was");
        assert!(!files.contains_key(&FileName::Delta(newest)), "the overlay has gone");
    }
}

/// An invalid entry of the overlay costs at most its block, which is recorded. The next backup works.
#[test]
fn a_bad_entry_costs_its_block() {
    let (mut lost, mut kept) = (0, 0);
    for (world, next) in killed(3) {
        for at in entries(&world) {
            for bit in [1, 6] {
                let mut damaged = Damaged::new(world.fork());
                damaged.strangers.push(next.clone());
                let overlay = FileName::Delta(world.expected[0].uuid);
                // Reserved bits, or another place.
                damaged
                    .world
                    .disk
                    .tamper(overlay, |delta| delta[at + usize::from(bit == 6) * 5] ^= 1 << bit);
                let place = format!("entry at {at}, bit {bit}");
                recover(&damaged.world).expect(&place);
                let report = damaged.salvage(&place, 0);
                assert!(report.digests_checked, "{place}");
                let bytes: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
                assert!(bytes <= BLOCK as u64, "{place}: {report:?}");
                let archive = world::open(&damaged.world.disk).expect("open");
                let noted = archive.revisions()[0].findings.bad_block_count();
                assert_eq!(noted * BLOCK as u64, bytes, "{place}: what is lost is noted");
                *(if noted == 0 { &mut kept } else { &mut lost }) += 1;
                damaged.apply(Verb::Backup(true), &next).expect(&place);
                assert!(damaged.check(&place) > 0, "{place}: the next revision");
            }
        }
    }
    assert!(lost > 5 && kept > 5, "{lost} lost, {kept} kept");
}

/// A missing or truncated overlay costs what only it held, which is recorded. The next backup works.
#[test]
fn a_missing_overlay_costs_only_its_blocks() {
    for revisions in [1, 3] {
        for (world, next) in killed(revisions) {
            for cut in [0, 1, 2] {
                let mut damaged = Damaged::new(world.fork());
                damaged.strangers.push(next.clone());
                let overlay = FileName::Delta(world.expected[0].uuid);
                match cut {
                    0 => Storage::remove(&damaged.world.disk, overlay).expect("remove"),
                    1 => damaged.world.disk.tamper(overlay, |delta| delta.truncate(3 * BLOCK + 16)),
                    _ => damaged.world.disk.tamper(overlay, |delta| delta.truncate(6 * BLOCK)),
                }
                let place = format!("{revisions} revisions, cut {cut}");
                recover(&damaged.world).expect(&place);
                damaged.check(&place);
                let archive = world::open(&damaged.world.disk).expect("open");
                let report = damaged.salvage(&place, 0);
                let bytes: u64 = report.unreadable.iter().map(|extent| extent.len).sum();
                let noted = archive.revisions()[0].findings.bad_block_count();
                assert_eq!(noted * BLOCK as u64, bytes, "{place}: what is lost is noted");
                damaged.apply(Verb::Backup(true), &next).expect(&place);
                assert!(damaged.check(&place) > 0, "{place}: the next revision");
            }
        }
    }
}

/// A failed sync may have dropped what programs still see. Undoing writes all of it again, also where the image looks
/// right.
#[test]
fn undoing_an_undamaged_overlay_is_exact() {
    for (mut world, _) in killed(2) {
        recover(&world).expect("undoing");
        world.disk = world.disk.crash(Unsynced::Lost);
        world.check_committed(None).and_then(|_| world.check_tidy()).expect("as it was");
    }
}
