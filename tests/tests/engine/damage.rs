//! Stored data is damaged: a reader gets the right bytes or an error, never wrong bytes, never a panic. What is
//! intact stays readable.

mod pairs;
mod proof;
mod undoing;

use backy_lib::image::reader::ReadCache;
use backy_lib::storage::Storage;
use backy_lib::storage::sim::Random;
use backy_lib::storage::{DigestsKind, FileName};
use backy_lib::{BackupOptions, ErrorKind};
use backy_tests::damage::{Damaged, Verb, four_revisions};
use backy_tests::memory::MemorySource;
use backy_tests::qemu;
use backy_tests::world::{self, BLOCK_SIZE, World, changed_state, random_state};

type Change = fn(&mut Vec<u8>, &mut Random);

const CHANGES: [(&str, Change); 6] = [
    ("truncate", |bytes, random| {
        let len = random.below(bytes.len() as u64) as usize;
        bytes.truncate(len);
    }),
    ("empty", |bytes, _| bytes.clear()),
    ("flip", |bytes, random| {
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
    }),
    ("zero", |bytes, random| {
        let at = random.below(bytes.len() as u64) as usize / 512 * 512;
        let end = (at + 512).min(bytes.len());
        bytes[at..end].fill(0);
    }),
    ("swap", |bytes, random| {
        let sectors = (bytes.len() / 512).max(1) as u64;
        let (a, b) = (random.below(sectors) as usize * 512, random.below(sectors) as usize * 512);
        for at in 0..512.min(bytes.len() - a.max(b)) {
            bytes.swap(a + at, b + at);
        }
    }),
    ("grow", |bytes, random| bytes.extend((0..700).map(|_| random.number() as u8))),
];

/// Any file, changed in any of six ways at hundreds of places: no wrong byte and no panic, before and after the next
/// backup.
#[test]
fn any_damage_to_any_file_gives_right_bytes_or_an_error() {
    let (world, states) = four_revisions(false);
    let next = changed_state(&mut Random(5), &states[3], states[3].len());
    for (name, content) in world.disk.files() {
        for (what, change) in CHANGES {
            for seed in 0..60 {
                let place = format!("{what} {name}, seed {seed}");
                let mut damaged = Damaged::new(world.fork());
                let mut touched = content.clone();
                if touched.is_empty() {
                    continue;
                }
                change(&mut touched, &mut Random(seed));
                damaged.world.disk.tamper(name, |bytes| *bytes = touched.clone());
                damaged.check(&place);
                // An error is as good as a success.
                let _ = damaged.apply(Verb::Backup(false), &next);
                damaged.check(&format!("{place}, after a backup"));
            }
        }
    }
}

const VERBS: [Verb; 12] = [
    Verb::Status,
    Verb::Reads(7),
    Verb::Salvage(1),
    Verb::Drill(2),
    Verb::Remove(0),
    Verb::Remove(1),
    Verb::Remove(3),
    Verb::Maintain(2),
    Verb::Check,
    Verb::Scrub,
    Verb::Rebuild(false),
    Verb::Tag(1),
];

/// Every change to every file, also its loss and another file in its place, followed by every verb: right bytes or an
/// error. When the file is back, all that was not deleted reads right and the next backup works.
#[test]
fn every_verb_on_every_damage() {
    let (world, states) = four_revisions(false);
    let files = world.disk.files();
    let others: Vec<FileName> = files.keys().copied().collect();
    for (at, (name, content)) in files.iter().enumerate().filter(|(_, (_, c))| !c.is_empty()) {
        let mut damages: Vec<(String, Option<Vec<u8>>)> = vec![("delete".to_owned(), None)];
        let other = others[(at + 1) % others.len()];
        damages.push((format!("{other} in place of"), Some(files[&other].clone())));
        for (what, change) in CHANGES {
            for seed in 100..106 {
                let mut touched = content.clone();
                change(&mut touched, &mut Random(seed + at as u64));
                damages.push((format!("{what} (seed {seed})"), Some(touched)));
            }
        }
        for (what, damage) in &damages {
            for verb in VERBS {
                let place = format!("{what} {name}, then {verb:?}");
                let mut damaged = Damaged::new(world.fork());
                let disk = &damaged.world.disk;
                match damage {
                    Some(damage) => disk.tamper(*name, |bytes| bytes.clone_from(damage)),
                    None => Storage::remove(disk, *name).expect("remove"),
                }
                let _ = damaged.apply(verb, &states[0]);
                damaged.check(&place);
                put_back(&place, damaged.world, verb, (*name, content), &states[0]);
            }
        }
    }
}

/// An operator gets the file back from a copy, if the verb has left the archive needing it.
fn put_back(place: &str, world: World, verb: Verb, file: (FileName, &Vec<u8>), next: &[u8]) {
    let reads = matches!(verb, Verb::Status | Verb::Reads(_) | Verb::Salvage(_) | Verb::Check);
    if !reads {
        // The file on the copy is no longer that of this archive.
        return;
    }
    let (name, content) = file;
    Storage::remove(&world.disk, name).expect("remove");
    let file = Storage::create(&world.disk, name).expect("create");
    file.write_at(content, 0).expect("write");
    let mut world = world;
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}, put back: {error}"));
    world.backup(next);
    world.check_committed(None).unwrap_or_else(|error| panic!("{place}, next backup: {error}"));
}

/// A missing file costs the revisions that need it, with an error that names it, and no others.
#[test]
fn a_missing_file_costs_only_the_revisions_that_need_it() {
    let (world, _) = four_revisions(false);
    for (name, readable) in [
        (FileName::Delta(world.expected[2].uuid), 2),
        (FileName::Delta(world.expected[3].uuid), 3),
        (FileName::IMAGE, 0),
    ] {
        let broken = world.fork();
        backy_lib::storage::Storage::remove(&broken.disk, name).expect("remove");
        let broken = Damaged::new(broken);
        assert_eq!(broken.check(&name.to_string()), readable, "{name}");
        let archive = world::open(&broken.world.disk).expect("open");
        let error = world::read_revision(&archive, 3).expect_err("a revision without a file");
        assert!(error.to_string().contains(&name.to_string()), "{error}");
    }
}

/// A backup finds rot in the image when the block moves to a delta. It marks and reports the block, and no reader
/// gets it as right, not even QEMU. The new revision and all other blocks stay good.
#[test]
fn rot_in_the_image_does_not_become_history() {
    for (clones, update) in world::UPDATES {
        let mut random = Random(2);
        let mut first = random_state(&mut random, 6 * BLOCK_SIZE.len());
        first[3 * BLOCK_SIZE.len()..4 * BLOCK_SIZE.len()].fill(b'a');
        let mut second = first.clone();
        second[3 * BLOCK_SIZE.len()..4 * BLOCK_SIZE.len()].fill(b'b');
        let mut world = World::with_backups(clones, &[first]);
        world.disk.tamper(FileName::IMAGE, |image| image[3 * BLOCK_SIZE.len() + 7] ^= 1);
        let options = BackupOptions { update, ..world::options() };
        let source = MemorySource::new(&second);
        let report = world::backup_with(&world.disk, &source, &options).expect("a backup");
        assert_eq!(report.bad_blocks, 1);
        let archive = world::open(&world.disk).expect("open");
        assert_eq!(archive.revisions()[1].findings.bad_block_count(), 1);
        assert!(world::read_revision(&archive, 0).expect("the new revision") == second);
        let error = world::read_revision(&archive, 1).expect_err("the rotten revision");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        if qemu::available() {
            world.expected[0].bytes.truncate(0);
            let folder = tempfile::tempdir().expect("a temporary folder");
            qemu::write_out(&world.disk, folder.path());
            let file = FileName::Delta(world.expected[0].uuid).to_string();
            let output = std::process::Command::new("qemu-img")
                .args(["convert", "-f", "qcow2", "-O", "raw", &file, "out"])
                .current_dir(folder.path())
                .output()
                .expect("run qemu-img");
            assert!(!output.status.success(), "QEMU gave out a rotten block");
        }
    }
}

/// What is lost of the digests and of the image as well does not read as zeros at random offsets. What is not zero
/// can still be read.
#[test]
fn zeros_that_nothing_proves_are_an_error() {
    let block = BLOCK_SIZE.len();
    let state = [vec![b'a'; block], vec![b'b'; block]].concat();
    let world = World::with_backups(false, std::slice::from_ref(&state));
    let digests = FileName::Digests(world.expected[0].uuid, DigestsKind::Image);
    world.disk.tamper(digests, |bytes| bytes[4096..4096 + 32].fill(0));
    world.disk.tamper(FileName::IMAGE, |image| image[..block].fill(0));
    let archive = world::open(&world.disk).expect("open");
    let reader =
        archive.open_reader(archive.id(0).unwrap(), &ReadCache::new(1 << 16)).expect("a reader");
    let mut found = vec![0xee; block];
    for part in [block, 100] {
        let error = reader.read_at(&mut found[..part], 0).expect_err("zeros that nothing proves");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    }
    assert_eq!(reader.read_at(&mut found, block as u64).expect("what is proven"), block);
    assert!(found == state[block..]);
}
