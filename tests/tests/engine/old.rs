//! Archives of 2014 are read as they are: old blocks and whole images, right or an error, and nothing in the folder
//! changes.
#![expect(clippy::disallowed_methods, reason = "damages the files of another program")]

use std::fs;
use std::path::Path;

use backy_lib::import::{OldEntry, OldReader};
use backy_lib::progress::Silent;
use backy_lib::storage::sim::Random;
use backy_lib::{Error, ErrorKind};
use backy_tests::legacy::{OldArchive, md5_hex, uuid};
use backy_tests::memory::MemorySource;
use backy_tests::world::{self, changed_state, random_state};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Scene {
    folder: TempDir,
    old: OldArchive,
}

impl Scene {
    /// Revisions of blocks of 1000 bytes, of odd sizes, the later ones often longer or shorter.
    fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut states = vec![random_state(&mut random, 5000 + seed as usize * 321)];
        for _ in 0..4 {
            let bytes = random.below(12_000) as usize;
            let last = states.last().expect("a state").clone();
            states.push(changed_state(&mut random, &last, bytes));
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let old = OldArchive::write(&folder.path().join("old"), 1000, 0, &states);
        Scene { folder, old }
    }

    fn open(&self) -> OldReader {
        OldReader::open(&self.old.folder, &Silent).expect("an archive of 2014")
    }

    fn restore(&self, reader: &OldReader, number: usize, name: &str) -> Result<Vec<u8>, Error> {
        let target = self.folder.path().join(name);
        let bytes = reader.restore(reader.entries()[number].uuid, &target, true, &Silent)?;
        let content = fs::read(&target).expect("read the target");
        assert_eq!(content.len() as u64, bytes);
        Ok(content)
    }
}

fn read_all(reader: &OldReader, entry: &OldEntry) -> Result<Vec<u8>, Error> {
    let blocks: Result<Vec<_>, _> =
        (0..entry.blocks).map(|number| reader.read_block(entry.uuid, number)).collect();
    blocks.map(|blocks| blocks.concat())
}

/// Each revision of the sample of 2014 is what its files say, and reads as the originals beside it.
#[test]
fn the_sample_is_read() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("legacy/scrub-consistent");
    let reader = OldReader::open(&sample, &Silent).expect("the sample");
    assert_eq!((reader.source(), reader.block_bytes()), (Some("original"), 50));
    assert!(reader.skipped().is_empty());
    let own: Vec<_> = reader.entries().iter().map(|entry| entry.own_blocks.clone()).collect();
    assert_eq!(own, [vec![], vec![1], vec![0, 1, 2, 3]]);
    for (entry, original) in reader.entries().iter().zip(["original.2", "original.2", "original.1"])
    {
        let original = fs::read(sample.join(original)).expect("the original");
        assert_eq!(entry.checksum.expect("an MD5").to_string(), md5_hex(&original));
        assert_eq!((entry.blocks, entry.size_bytes), (4, 200));
        assert!(read_all(&reader, entry).expect("right blocks") == original);
    }
}

/// What a `.rev` says about the blocks in its data file is shown as it is written there, including the mark of a bad
/// one.
#[test]
fn records_are_shown_as_they_are_written() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("legacy/scrub-consistent");
    let folder = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(&sample).expect("the sample") {
        let file = file.expect("a file");
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("copy");
    }
    let rev = folder.path().join("528f6c52-d4a6-4237-806a-78207688f511.rev");
    let text = fs::read_to_string(&rev).expect("a .rev");
    let second = "6ff52182dd6928ffb59e26615e505213";
    for (there, shown) in [
        (second.to_owned(), second.to_owned()),
        (format!("bad:{second}"), format!("bad:{second}")),
        ("bad:nonsense".to_owned(), "bad:".to_owned()),
    ] {
        fs::write(&rev, text.replace(second, &there)).expect("a .rev");
        let reader = OldReader::open(folder.path(), &Silent).expect("the sample");
        let newest = reader.entries().last().expect("a revision").uuid;
        let records = reader.records(newest).expect("its records");
        let records: Vec<_> = records.iter().map(|(n, record)| (*n, record.to_string())).collect();
        let md5 = |text: &str| text.to_owned();
        assert_eq!(
            records,
            [
                (0, md5("e3b3dd4af7830bc49936c432757c0703")),
                (1, shown),
                (2, md5("f7e83d96381f32d558b532a3b22643ba")),
                (3, md5("02d5693204eb61a9f1c234eef3d3b880")),
            ]
        );
    }
}

/// Blocks and restores of any archive are the bytes that were backed up, whatever the sizes, also over existing
/// files.
#[test]
fn blocks_and_restores_are_right() {
    for seed in 0..20 {
        let scene = Scene::random(seed);
        let reader = scene.open();
        assert_eq!(reader.entries().len(), 5);
        for (number, (name, state)) in scene.old.revisions.iter().enumerate() {
            let entry = &reader.entries()[number];
            assert_eq!(entry.uuid.to_string(), *name, "seed {seed}");
            assert!(read_all(&reader, entry).expect("right blocks") == *state, "seed {seed}");
            for name in ["new".to_owned() + name, "again".to_owned()] {
                let restored = scene.restore(&reader, number, &name).expect("a restore");
                assert!(restored == *state, "seed {seed}");
            }
        }
    }
}

/// Any wrong byte of a data file is an error for each block and image that has it, and nothing is restored. All
/// others are right.
#[test]
fn damage_is_an_error() {
    let mut errors = 0;
    for seed in 0..20 {
        let scene = Scene::random(seed);
        let victim = seed as usize % 5;
        scene.old.change_data(victim, |data| {
            let at = (seed * 739) as usize % data.len().max(1);
            data.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
        });
        let reader = scene.open();
        for (number, (_, state)) in scene.old.revisions.iter().enumerate() {
            let name = number.to_string();
            match read_all(&reader, &reader.entries()[number]) {
                Ok(bytes) => {
                    assert!(bytes == *state);
                    assert!(scene.restore(&reader, number, &name).expect("a restore") == *state);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                    assert!(error.to_string().contains(&uuid(victim)), "{error}");
                    scene.restore(&reader, number, &name).expect_err("a damaged revision");
                    assert!(!scene.folder.path().join(&name).exists());
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 20, "{errors}");
}

/// Marked blocks, missing files, blocks and images without MD5, and an image with a different MD5: an error that says
/// so.
#[test]
fn unproven_blocks_are_an_error() {
    let said = |change: &dyn Fn(&OldArchive)| {
        let scene = Scene::random(1);
        change(&scene.old);
        let reader = scene.open();
        scene.restore(&reader, 4, "target").map(|_| ()).map_err(|error| error.to_string())
    };
    let no_sum = |old: &OldArchive| {
        old.change_rev(4, |rev| _ = rev["blocksums"].as_object_mut().expect("sums").remove("0"));
    };
    let no_checksum = |old: &OldArchive| old.change_rev(4, |rev| rev["checksum"] = Value::Null);
    assert_eq!(said(&|_| {}), Ok(()));
    assert_eq!(said(&no_sum), Ok(()));
    assert_eq!(said(&no_checksum), Ok(()));
    let neither = said(&|old| {
        no_sum(old);
        no_checksum(old);
    });
    assert!(neither.expect_err("no proof").contains("nor of block 0"));
    let scene = Scene::random(1);
    no_sum(&scene.old);
    let reader = scene.open();
    let error = reader.read_block(reader.entries()[4].uuid, 0).expect_err("no proof");
    assert!(error.to_string().contains("block 0: found no MD5"), "{error}");
    let other = said(&|old| old.change_rev(4, |rev| rev["checksum"] = json!(md5_hex(b""))));
    assert!(other.expect_err("another image").contains("image: found the MD5"));
    let marked = said(&|old| old.change_rev(4, |rev| rev["blocksums"]["0"] = json!("bad:")));
    assert!(marked.expect_err("a marked block").contains("block 0: found a mark"));
    let missing = said(&|old| fs::remove_file(old.data(4)).expect("remove a data file"));
    assert!(missing.expect_err("a missing file").contains("block 0: found none"));
    let short = said(&|old| old.change_data(4, |data| data.truncate(10)));
    assert!(short.expect_err("a short file").contains("block 0"));
}

/// A target in the archive is refused, and so is one that exists unless it is forced.
#[test]
fn targets_are_guarded() {
    let scene = Scene::random(2);
    let reader = scene.open();
    let uuid = reader.entries()[0].uuid;
    let inside = reader.restore(uuid, &scene.old.folder.join("x"), true, &Silent);
    assert_eq!(inside.expect_err("in the archive").kind(), ErrorKind::Target);
    let file = scene.folder.path().join("file");
    fs::write(&file, "mine").expect("a file");
    let present = reader.restore(uuid, &file, false, &Silent);
    assert_eq!(present.expect_err("it exists").kind(), ErrorKind::Target);
    assert_eq!(fs::read(&file).expect("the file"), b"mine");
}

/// In an archive of today, a revision's own file holds what has changed since, zero blocks included.
#[test]
fn own_blocks_are_the_changed_ones() {
    let disk = backy_lib::storage::sim::SimStorage::new(false);
    world::init(&disk).expect("init");
    let block = backy_lib::units::BlockSize::MIN.len();
    let mut state = vec![1; 2000 * block];
    state[block * 3..block * 5].fill(0);
    world::backup(&disk, &MemorySource::new(&state)).expect("a backup");
    state[block * 4..block * 6].fill(2);
    state[block * 1900] = 7;
    world::backup(&disk, &MemorySource::new(&state)).expect("a backup");
    let archive = world::open(&disk).expect("open");
    assert_eq!(archive.manifest().block_size.len(), block);
    let cache = backy_lib::image::reader::ReadCache::new(1 << 20);
    let own = |number: usize| {
        let reader = archive.open_reader(archive.id(number).unwrap(), &cache).expect("a reader");
        let mut found = Vec::new();
        let mut offset = 0;
        while let Some(next) = reader.next_own(offset).expect("a table") {
            found.push(next / block as u64);
            offset = (next / block as u64 + 1) * block as u64;
        }
        found
    };
    assert_eq!(own(1), [4, 5, 1900]);
    assert_eq!(own(0), (0..2000).collect::<Vec<u64>>());
}
