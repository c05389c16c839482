//! What is stored is damaged: the right bytes or an error, never wrong bytes, never a panic; and what is sound stays readable.

use backy_lib::archive::{Archive, ArchiveWriter};
use backy_lib::format::qcow2::Decompressor;
use backy_lib::image::reader::ReadCache;
use backy_lib::progress::Silent;
use backy_lib::status::status;
use backy_lib::storage::FileName;
use backy_lib::storage::Storage;
use backy_lib::storage::sim::Random;
use backy_lib::units::BlockIndex;
use backy_lib::{BackupOptions, ErrorKind, ScrubOptions};
use backy_tests::memory::{MemorySource, MemoryTarget};
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

fn world() -> (World, Vec<Vec<u8>>) {
    let mut random = Random(11);
    let mut states = vec![random_state(&mut random, 9 * BLOCK_SIZE.len())];
    for size in [9, 6, 11] {
        let last = states[states.len() - 1].clone();
        states.push(changed_state(&mut random, &last, size * BLOCK_SIZE.len() - 3));
    }
    (World::with_backups(false, &states), states)
}

/// Every revision reads right or gives an error; says how many were right.
fn check_never_wrong(place: &str, world: &World) -> usize {
    let Ok(archive) = world::open(&world.disk) else { return 0 };
    let mut right = 0;
    for number in 0..archive.revisions().len() {
        let uuid = archive.revisions()[number].uuid;
        let expected = world.expected.iter().find(|expected| expected.uuid == uuid);
        let expected = expected.unwrap_or_else(|| panic!("{place}: a revision out of thin air"));
        if let Ok(found) = world::read_revision(&archive, number) {
            assert!(found == expected.bytes, "{place}: revision {number} has wrong bytes");
            right += 1;
        }
        check_reader(place, &archive, number, &expected.bytes);
        let target = MemoryTarget::holding(&world.expected[0].bytes);
        if archive.restore_to(number, &target, &world::restore_options(), &Silent).is_ok() {
            assert!(
                target.content() == expected.bytes,
                "{place}: revision {number} restored wrong"
            );
        }
    }
    right
}

/// Reads a revision as a mount does, twice and in pieces, and looks for its holes.
fn check_reader(place: &str, archive: &Archive, number: usize, expected: &[u8]) {
    let Ok(reader) = archive.open_reader(number, &ReadCache::new(1 << 16)) else { return };
    let mut buffer = vec![0xee; 3000];
    for offset in (0..expected.len()).step_by(buffer.len()).chain([0, 5000]) {
        if let Ok(count) = reader.read_at(&mut buffer, offset as u64) {
            let right = &expected[offset..expected.len().min(offset + buffer.len())];
            assert!(buffer[..count] == *right, "{place}: {number} has wrong bytes at {offset}");
        }
    }
    let mut offset = 0;
    while let Ok(data) = reader.next_data(offset) {
        let data = data.unwrap_or(expected.len() as u64);
        let hole = &expected[offset as usize..data as usize];
        assert!(hole.iter().all(|&byte| byte == 0), "{place}: {number} has data before {data}");
        match reader.next_hole(data) {
            Ok(next) if next > offset && next < expected.len() as u64 => offset = next,
            _ => break,
        }
    }
}

/// Any file, changed in any of six ways at hundreds of places: no wrong byte, no panic, neither before nor after the
/// next backup.
#[test]
fn any_damage_to_any_file_gives_right_bytes_or_an_error() {
    let (world, states) = world();
    let next = changed_state(&mut Random(5), &states[3], states[3].len());
    for (name, content) in world.disk.files() {
        for (what, change) in CHANGES {
            for seed in 0..60 {
                let place = format!("{what} {name}, seed {seed}");
                let mut damaged = world.fork();
                let mut touched = content.clone();
                if touched.is_empty() {
                    continue;
                }
                change(&mut touched, &mut Random(seed));
                damaged.disk.tamper(name, |bytes| *bytes = touched.clone());
                check_never_wrong(&place, &damaged);
                let source = MemorySource::new(&next);
                if let Ok(report) = world::backup(&damaged.disk, &source) {
                    let uuid = report.revision.uuid;
                    damaged.expected.insert(0, world::Expected { uuid, bytes: next.clone() });
                }
                check_never_wrong(&format!("{place}, after a backup"), &damaged);
            }
        }
    }
}

/// What is done to a damaged archive.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Status,
    RandomReads,
    Remove(usize),
    Maintain,
    Check,
    Scrub,
    Tag,
}

const VERBS: [Verb; 9] = [
    Verb::Status,
    Verb::RandomReads,
    Verb::Remove(0),
    Verb::Remove(1),
    Verb::Remove(3),
    Verb::Maintain,
    Verb::Check,
    Verb::Scrub,
    Verb::Tag,
];

/// Does it; an error is as good as a success.
fn apply(verb: Verb, world: &World, random: &mut Random) -> backy_lib::Result<()> {
    let archive = world::open(&world.disk)?;
    let scrub = ScrubOptions { threads: Some(1), ..ScrubOptions::default() };
    let clock = world::clock();
    let write = || ArchiveWriter::open(world::open(&world.disk)?, "a test", &Silent);
    match verb {
        Verb::Status => {
            let numbers: Vec<usize> = (0..archive.revisions().len()).collect();
            let report = status(&archive, &numbers, &clock)?;
            serde_json::to_string(&report).expect("JSON");
        }
        Verb::RandomReads => random_reads(&archive, world, random)?,
        Verb::Remove(number) => _ = write()?.remove(&[number], &clock, &Silent)?,
        Verb::Maintain => _ = world::maintain(&world.disk, Some(2))?,
        Verb::Check => _ = archive.check(&scrub, &clock, &Silent)?,
        Verb::Scrub => {
            if write()?.scrub(&scrub, &clock, &Silent)?.is_clean() {
                let right = check_never_wrong("after a clean scrub", world);
                assert_eq!(right, world.expected.len(), "a scrub said that all is well");
            }
        }
        Verb::Tag => {
            _ = write()?.tag(
                1,
                &["x".parse().expect("a tag")].into(),
                &[].into(),
                &clock,
                &Silent,
            )?
        }
    }
    Ok(())
}

/// Reads of single blocks here and there, as a mounted revision gets them.
fn random_reads(archive: &Archive, world: &World, random: &mut Random) -> backy_lib::Result<()> {
    for number in 0..archive.revisions().len() {
        let uuid = archive.revisions()[number].uuid;
        let expected = world.expected.iter().find(|expected| expected.uuid == uuid);
        let bytes = &expected.expect("a revision that was made").bytes;
        let Ok(chain) = archive.open_revision(number) else { continue };
        if chain.verify_digests().is_err() {
            continue;
        }
        let mut decompressor = Decompressor::new()?;
        for _ in 0..4 {
            let block = BlockIndex(random.below(chain.blocks().max(1)));
            let extent = BLOCK_SIZE.extent(block, bytes.len() as u64);
            let Ok(located) = chain.locate(block, 1) else { continue };
            let mut found = vec![0; extent.len as usize];
            if chain.read(block, &located, &mut decompressor, &mut found).is_ok() {
                let wanted = &bytes[extent.offset as usize..extent.end() as usize];
                assert!(found == wanted, "revision {number}, block {block}: wrong bytes");
            }
        }
    }
    Ok(())
}

/// Every change to every file, also its loss and another file in its place, and then every verb: right bytes or an error,
/// and when the file is back, all that has not been removed reads right and the next backup works.
#[test]
fn every_verb_on_every_damage() {
    let (world, states) = world();
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
        for (number, (what, damage)) in damages.iter().enumerate() {
            for verb in VERBS {
                let place = format!("{what} {name}, then {verb:?}");
                let damaged = world.fork();
                match damage {
                    Some(damage) => damaged.disk.tamper(*name, |bytes| bytes.clone_from(damage)),
                    None => Storage::remove(&damaged.disk, *name).expect("remove"),
                }
                let _ = apply(verb, &damaged, &mut Random(number as u64));
                check_never_wrong(&place, &damaged);
                put_back(&place, damaged, verb, (*name, content), &states[0]);
            }
        }
    }
}

/// An operator gets the file back from a copy, if the verb has left the archive needing it.
fn put_back(place: &str, world: World, verb: Verb, file: (FileName, &Vec<u8>), next: &[u8]) {
    let changes = matches!(verb, Verb::Remove(_) | Verb::Maintain | Verb::Scrub | Verb::Tag);
    if changes {
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

/// A file that is gone costs the revisions that need it, with an error that names it, and no others.
#[test]
fn a_missing_file_is_named_and_costs_only_those_who_need_it() {
    let (world, _) = world();
    for (name, readable) in [
        (FileName::Delta(world.expected[2].uuid), 2),
        (FileName::Delta(world.expected[3].uuid), 3),
        (FileName::IMAGE, 0),
    ] {
        let broken = world.fork();
        backy_lib::storage::Storage::remove(&broken.disk, name).expect("remove");
        assert_eq!(check_never_wrong(&name.to_string(), &broken), readable, "{name}");
        let archive = world::open(&broken.disk).expect("open");
        let error = world::read_revision(&archive, 3).expect_err("a revision without a file");
        assert!(error.to_string().contains(&name.to_string()), "{error}");
    }
}

/// Rot in the image is found when the block moves to a delta: it is marked, told, never given out as right, not even by
/// QEMU; the new revision and all blocks but that one stay good.
#[test]
fn rot_in_the_image_is_marked_and_not_made_history() {
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

/// A digest file that is damaged where nobody looks at single blocks is noticed before the next revision is committed.
#[test]
fn a_damaged_digest_table_stops_the_next_backup() {
    let (world, states) = world();
    let (name, content) = world
        .disk
        .files()
        .into_iter()
        .find(|(name, _)| name.to_string().ends_with(".image.digests"))
        .expect("a digest file");
    let blocks = (content.len() - 4096) / 32;
    for block in 0..blocks {
        let damaged = world.fork();
        damaged.disk.tamper(name, |bytes| bytes[4096 + 32 * block..][..32].fill(0x5a));
        let error = world::backup(&damaged.disk, &MemorySource::new(&states[3]))
            .expect_err("a backup onto a damaged digest table");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains(&name.to_string()), "{error}");
    }
}
