//! Archives to be damaged: each intact, and the same in every process, except for what was interrupted.

use std::sync::OnceLock;

use backy_lib::archive::ArchiveWriter;
use backy_lib::format::manifest::Manifest;
use backy_lib::progress::Silent;
use backy_lib::storage::sim::{Fault, Random, SimStorage, Unsynced};
use backy_lib::storage::{FileName, Storage};
use backy_lib::{Result, RevisionId};

use super::edit::forge;
use crate::legacy;
use crate::memory::MemorySource;
use crate::world::{self, BLOCK_SIZE, Expected, World, changed_state, random_state};

/// An intact archive, and what may happen to it next.
pub struct Base {
    /// The archive.
    pub world: World,
    /// What was being backed up when it was interrupted.
    pub unfinished: Vec<Vec<u8>>,
    /// The source as it is now.
    pub next: Vec<u8>,
}

/// Four revisions of sizes that grow and shrink, and the states that they are of, oldest first.
pub fn four_revisions(clones: bool) -> (World, Vec<Vec<u8>>) {
    let mut random = Random(11);
    let mut states = vec![random_state(&mut random, 9 * BLOCK_SIZE.len())];
    for size in [9, 6, 11] {
        let last = states[states.len() - 1].clone();
        states.push(changed_state(&mut random, &last, size * BLOCK_SIZE.len() - 3));
    }
    (World::with_backups(clones, &states), states)
}

/// How many there are.
pub const BASES: usize = 10;

/// One of them, `number` modulo how many there are, made once in a process.
pub fn base(number: usize) -> &'static Base {
    static MADE: [OnceLock<Base>; BASES] = [const { OnceLock::new() }; BASES];
    MADE[number % BASES].get_or_init(|| {
        let (in_place, states) = four_revisions(number % BASES == 1);
        let next = changed_state(&mut Random(5), &states[3], states[3].len());
        let mut unfinished = Vec::new();
        let world = match number % BASES {
            0 | 1 => in_place,
            2 => {
                world::configure(&in_place.disk, "max_chain = 1\n");
                world::maintain(&in_place.disk, None).expect("a standalone revision");
                in_place
            }
            3 => interrupted(&in_place, |disk| world::remove(disk, &[1, 2]).map(drop)),
            4 => interrupted(&in_place, |disk| world::remove(disk, &[0]).map(drop)),
            5 => World::with_backups(false, &[b"a block that is short".to_vec()]),
            6 => World::with_backups(false, &[Vec::new()]),
            7 => imported(),
            8 => World::with_backups(false, &[]),
            _ => {
                unfinished.push(next.clone());
                let source = MemorySource::new(&next);
                interrupted(&in_place, |disk| world::backup(disk, &source).map(drop))
            }
        };
        Base { world: named_alike(&world), unfinished, next }
    })
}

/// The archive as a power cut leaves it in the middle of an operation.
fn interrupted(world: &World, operation: impl Fn(&SimStorage) -> Result<()>) -> World {
    let trial = world.fork();
    operation(&trial.disk).expect("the operation works on a working disk");
    let calls = trial.disk.calls();
    let middle = calls * 2 / 3;
    let cut = |at: u64| {
        let broken = world.fork();
        broken.disk.set_fault(at, Fault::Crash, at);
        let _ = operation(&broken.disk);
        broken.disk.crash(Unsynced::Subset(at))
    };
    let under_way = |disk: &SimStorage| {
        world::open(disk).is_ok_and(|archive| archive.manifest().in_progress.is_some())
    };
    let disk = (1..=middle)
        .rev()
        .chain(middle + 1..=calls)
        .map(cut)
        .find(under_way)
        .expect("a call in the middle");
    World { disk, expected: world.expected.clone() }
}

/// An archive of 2014 with another backup on top.
fn imported() -> World {
    let mut random = Random(14);
    let mut states = vec![random_state(&mut random, 9_700)];
    states.push(changed_state(&mut random, &states[0], 12_100));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let old = legacy::OldArchive::write(folder.path(), 1000, 0, &states);
    let mut world = World::with_backups(false, &[]);
    let archive = world::open(&world.disk).expect("open");
    let mut writer = ArchiveWriter::open(archive, "a test", &Silent).expect("the lock");
    writer.import(&old.folder, Some(1), &world::clock(), &Silent).expect("an import");
    drop(writer);
    for (uuid, bytes) in old.revisions {
        let uuid = uuid.parse().expect("a UUID");
        world.expected.insert(0, Expected { uuid, bytes });
    }
    world.backup(&changed_state(&mut random, &states[1], 8_000));
    world
}

/// The same archive with names that are the same each time, and without durations, so that an input of a fuzzer means
/// the same in every process.
fn named_alike(world: &World) -> World {
    let disk = world.disk.fork();
    let manifest = world::open(&disk).expect("open").manifest().clone();
    let mut uuids: Vec<RevisionId> = manifest.revisions.iter().rev().map(|r| r.uuid).collect();
    uuids.extend(manifest.in_progress.iter().map(|under_way| under_way.revision));
    let mut expected = world.expected.clone();
    uuids.extend(expected.iter().map(|expected| expected.uuid));
    let mut seen = Vec::new();
    uuids.retain(|uuid| !seen.contains(uuid) && (seen.push(*uuid), true).1);
    disk.tamper(FileName::MANIFEST, |bytes| {
        let mut manifest = Manifest::parse(bytes).expect("a manifest");
        manifest.revisions.iter_mut().for_each(|revision| revision.statistics.seconds = 0.5);
        *bytes = manifest.encode().expect("a manifest");
    });
    for name in [FileName::History, FileName::OldHistory] {
        Storage::remove(&disk, name).expect("remove the history");
    }
    for (number, uuid) in uuids.iter().enumerate() {
        let (old, new) = (uuid.to_string(), format!("0193f000-0000-7000-8000-{number:012}"));
        for (name, _) in disk.files() {
            disk.tamper(name, |bytes| replace(bytes, old.as_bytes(), new.as_bytes()));
            if name.to_string().starts_with(&old) {
                let renamed = FileName::parse(&name.to_string().replace(&old, &new));
                disk.rename(name, renamed.expect("a name")).expect("rename");
            }
        }
        let new: RevisionId = new.parse().expect("a UUID");
        expected.iter_mut().filter(|e| e.uuid == *uuid).for_each(|e| e.uuid = new);
    }
    disk.sync_folder().expect("sync the folder");
    forge(&disk);
    World { disk: disk.crash(Unsynced::Kept), expected }
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    for at in 0..bytes.len().saturating_sub(old.len() - 1) {
        if bytes[at..].starts_with(old) {
            bytes[at..at + old.len()].copy_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before any damage, every revision reads right, and an interrupted archive says so.
    #[test]
    fn every_base_is_sound() {
        let mut under_way = 0;
        for number in 0..BASES {
            let base = base(number);
            let mut world = base.world.fork();
            let there: Vec<_> = world::open(&world.disk).expect("open").revisions().to_vec();
            // Revisions that are being deleted are no longer listed.
            world.expected.retain(|expected| there.iter().any(|r| r.uuid == expected.uuid));
            world.check_committed(None).unwrap_or_else(|error| panic!("base {number}: {error}"));
            let archive = world::open(&world.disk).expect("open");
            under_way += usize::from(archive.manifest().in_progress.is_some());
        }
        assert_eq!(under_way, 3);
    }
}
