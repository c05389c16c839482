//! The tree without a kernel, on archives in temporary folders.

mod idle;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;

use super::nodes::ROOT;
use super::tree::{Attributes, Kind, Reply, Tree};
use super::watch;
use crate::archive::{Archive, ArchiveWriter};
use crate::base::clock::FixedClock;
use crate::base::extent::Extent;
use crate::base::progress::{Event, Observer, Silent};
use crate::base::units::BlockSize;
use crate::format::manifest::Revision;
use crate::source::DeviceSource;
use crate::verb::backup::BackupOptions;

const BLOCK: usize = 4096;

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn event(&self, event: &Event) {
        if let Event::Finding(text) = event {
            self.0.lock().unwrap().push(text.clone());
        }
    }
}

/// An archive and its source.
struct Fixture {
    folder: TempDir,
    log: Arc<Log>,
}

impl Fixture {
    fn new() -> Self {
        let fixture =
            Fixture { folder: tempfile::tempdir().unwrap(), log: Arc::new(Log::default()) };
        let source = fixture.folder.path().join("source");
        Archive::init(&fixture.archive_folder(), Some(&source), BlockSize::MIN).unwrap();
        fixture
    }

    fn archive_folder(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn archive(&self) -> Archive {
        Archive::open(&self.archive_folder()).unwrap()
    }

    fn writer(&self) -> ArchiveWriter {
        ArchiveWriter::open(self.archive(), "a test", &Silent).unwrap()
    }

    fn backup(&self, content: &[u8], time: &str, tags: &[&str]) -> Revision {
        let path = self.folder.path().join("source");
        File::create_new(&path).or_else(|_| File::options().write(true).open(&path)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(content.len() as u64).unwrap();
        file.write_all_at(content, 0).unwrap();
        let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let options = BackupOptions { force: true, tags, ..BackupOptions::default() };
        let source = DeviceSource::open(&path).unwrap();
        let clock = FixedClock(time.parse().unwrap());
        let report = self.writer().backup(&source, &options, &clock, &Silent).unwrap();
        report.unwrap().revision
    }

    fn remove(&self, number: usize) {
        let clock = FixedClock("2026-11-30T00:00:00Z".parse().unwrap());
        let mut writer = self.writer();
        let id = writer.archive().id(number).unwrap();
        writer.remove(&[id], &clock, &Silent).unwrap();
    }

    fn tree(&self, writable: bool) -> Tree {
        let log: Arc<dyn Observer + Send + Sync> = self.log.clone();
        let folder = writable.then_some(self.folder.path());
        Tree::new(&self.archive(), folder, 1 << 20, log)
    }

    fn findings(&self) -> Vec<String> {
        self.log.0.lock().unwrap().clone()
    }
}

/// Bytes that differ between blocks and between seeds.
fn bytes(seed: u8, blocks: usize) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| seed ^ (at / BLOCK * 7) as u8 ^ (at % 251) as u8).collect()
}

/// Follows a path from the root, including links.
fn walk(tree: &Tree, path: &str) -> Reply<Attributes> {
    let mut folders = vec![ROOT];
    let mut found = tree.attributes(ROOT)?;
    let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    while let Some(name) = rest.pop() {
        if name == ".." {
            folders.pop();
            found = tree.attributes(*folders.last().unwrap())?;
            continue;
        }
        found = tree.lookup(*folders.last().unwrap(), OsStr::new(&name))?;
        match found.kind {
            Kind::Folder => folders.push(found.number),
            Kind::Link => {
                rest.extend(tree.link_target(found.number)?.split('/').rev().map(str::to_owned));
            }
            Kind::File => {}
        }
    }
    Ok(found)
}

fn names(tree: &Tree, path: &str) -> Vec<String> {
    let number = if path.is_empty() { ROOT } else { walk(tree, path).unwrap().number };
    let handle = tree.open_folder(number).unwrap();
    let entries = tree.entries(number, handle, false).unwrap();
    tree.close_folder(handle);
    entries.iter().map(|entry| entry.name.clone()).collect()
}

fn content(tree: &Tree, path: &str) -> Reply<Vec<u8>> {
    let found = walk(tree, path)?;
    let handle = tree.open(found.number, false)?;
    let mut content = vec![0; found.size_bytes as usize + 100];
    let read = tree.read(handle, 0, &mut content);
    tree.release(handle);
    content.truncate(read?);
    Ok(content)
}

/// Each path to a revision leads to its bytes, and each listed name can be looked up.
#[test]
fn every_name_leads_to_its_revision() {
    let fixture = Fixture::new();
    let (old, new) = (bytes(1, 9), bytes(2, 7));
    let first = fixture.backup(&old, "2026-11-22T19:13:05Z", &["daily"]);
    let second = fixture.backup(&new, "2026-11-22T20:13:05.9Z", &["daily", "hand"]);
    let tree = fixture.tree(false);
    for (path, expected) in [
        ("latest", &new),
        ("by-number/0", &new),
        ("by-number/1", &old),
        ("by-date/2026-11-22T19:13:05Z", &old),
        ("by-date/2026-11-22T20:13:05Z", &new),
        ("by-tag/daily/2026-11-22T19:13:05Z", &old),
        ("by-tag/hand/2026-11-22T20:13:05Z", &new),
        (&first.uuid.to_string(), &old),
        (&second.uuid.to_string(), &new),
    ] {
        assert!(content(&tree, path).unwrap() == *expected, "{path}");
    }
    for path in ["by-number/2", "by-number/00", "by-tag/hand/2026-11-22T19:13:05Z", "x", "latest/x"]
    {
        let missing = walk(&tree, path).unwrap_err();
        assert!([Errno::NOENT, Errno::NOTDIR].contains(&missing), "{path}: {missing}");
    }
    let mut listed = 0;
    for folder in ["", "by-number", "by-date", "by-tag", "by-tag/daily", "by-tag/hand"] {
        let names = names(&tree, folder);
        for name in &names {
            let path = format!("{folder}/{name}");
            walk(&tree, path.trim_start_matches('/')).unwrap();
        }
        listed += names.len();
    }
    // The schedule has its tags as well: four in all.
    assert_eq!(listed, 9 + 4 + 4 + 4 + 4 + 2);
    let found = walk(&tree, "latest").unwrap();
    assert_eq!((found.size_bytes, found.time), (new.len() as u64, second.started));
}

/// Revisions of the same second have different names, and a new one does not change the names of the others.
#[test]
fn a_new_revision_of_the_same_second_changes_no_name() {
    let fixture = Fixture::new();
    let first = fixture.backup(&bytes(1, 1), "2026-11-22T19:13:05.1Z", &[]);
    let second = fixture.backup(&bytes(2, 1), "2026-11-22T19:13:05.2Z", &[]);
    let tree = fixture.tree(false);
    let before = names(&tree, "by-date");
    let third = fixture.backup(&bytes(3, 1), "2026-11-22T19:13:05.3Z", &[]);
    assert_eq!(before.len(), 4);
    for (suffix, seed, revision) in [("", 1, first), (".1", 2, second), (".2", 3, third)] {
        let path = format!("by-date/2026-11-22T19:13:05Z{suffix}");
        assert_eq!(content(&tree, &path).unwrap(), bytes(seed, 1));
        assert_eq!(walk(&tree, &path).unwrap().time, revision.started);
    }
}

/// An archive without revisions is a tree without files, in which the first revision appears.
#[test]
fn an_archive_without_revisions_can_be_mounted() {
    let fixture = Fixture::new();
    let tree = fixture.tree(false);
    assert_eq!(names(&tree, ""), ["by-number", "by-date", "by-tag"]);
    assert_eq!(walk(&tree, "latest").unwrap_err(), Errno::NOENT);
    assert_eq!(tree.attributes(ROOT).unwrap().links, 5);
    fixture.backup(&bytes(1, 2), "2026-11-22T19:13:05Z", &[]);
    assert_eq!(content(&tree, "latest").unwrap(), bytes(1, 2));
    assert_eq!(tree.attributes(ROOT).unwrap().links, 6);
}

/// A deleted revision has no name any more, but a program that has it open reads it as before, whatever
/// happens to the archive.
#[test]
fn an_open_file_stays_readable_after_its_revision_is_deleted() {
    let fixture = Fixture::new();
    let contents: Vec<Vec<u8>> = (1..=4).map(|seed| bytes(seed, 16)).collect();
    let backup = |(content, day): (&Vec<u8>, i32)| {
        fixture.backup(content, &format!("2026-11-{day}T00:00:00Z"), &[]).uuid.to_string()
    };
    let ids: Vec<String> = contents.iter().zip(10..).map(backup).collect();
    let tree = fixture.tree(false);
    let second = walk(&tree, "by-number/2").unwrap();
    let handle = tree.open(second.number, false).unwrap();
    let newest = walk(&tree, "latest").unwrap();
    let handle_of_newest = tree.open(newest.number, false).unwrap();
    for round in 0..3 {
        fixture.remove(2);
        tree.refresh().unwrap();
        fixture.backup(&bytes(50 + round, 16), &format!("2026-11-2{round}T00:00:00Z"), &[]);
        tree.refresh().unwrap();
        assert_eq!(content(&tree, "latest").unwrap(), bytes(50 + round, 16));
        for (handle, expected) in [(handle, &contents[1]), (handle_of_newest, &contents[3])] {
            let mut buffer = vec![0; expected.len()];
            assert_eq!(tree.read(handle, 0, &mut buffer), Ok(buffer.len()));
            assert!(buffer == *expected, "round {round}");
        }
    }
    assert_eq!(tree.attributes(second.number).unwrap(), second);
    tree.release(handle);
    assert_eq!(tree.open(second.number, false), Err(Errno::NOENT));
    assert_eq!(walk(&tree, &ids[1]), Err(Errno::NOENT));
    assert!(!names(&tree, "").contains(&ids[1]));
}

/// Data written to a deleted revision stays while it is open, and is dropped then.
#[test]
fn written_data_outlives_its_revision_while_open() {
    let fixture = Fixture::new();
    for day in 1..=3 {
        fixture.backup(&bytes(day, 4), &format!("2026-11-0{day}T00:00:00Z"), &[]);
    }
    let tree = fixture.tree(true);
    let number = walk(&tree, "by-number/1").unwrap().number;
    let handle = tree.open(number, true).unwrap();
    tree.write(handle, 4000, b"changed").unwrap();
    fixture.remove(1);
    tree.refresh().unwrap();
    let again = tree.open(number, false).unwrap();
    tree.release(handle);
    let mut expected = bytes(2, 4);
    expected[4000..4007].copy_from_slice(b"changed");
    let mut buffer = vec![0; expected.len()];
    assert_eq!(tree.read(again, 0, &mut buffer), Ok(expected.len()));
    assert!(buffer == expected);
    tree.release(again);
    assert_eq!(tree.open(number, false), Err(Errno::NOENT));
}

/// A bad block is an error only for readers of its bytes, and is reported once, with its name.
#[test]
fn a_bad_block_is_an_error_for_its_own_bytes_only() {
    let fixture = Fixture::new();
    let good = bytes(1, 8);
    let revision = fixture.backup(&good, "2026-11-22T19:13:05Z", &[]);
    let image =
        File::options().write(true).open(fixture.archive_folder().join("last.raw")).unwrap();
    image.write_all_at(b"rot", 3 * BLOCK as u64 + 17).unwrap();
    let tree = fixture.tree(false);
    assert_eq!(content(&tree, "latest"), Err(Errno::IO));
    let handle = tree.open(walk(&tree, "latest").unwrap().number, false).unwrap();
    for (number, expected) in good.chunks(BLOCK).enumerate() {
        let mut page = vec![0; BLOCK];
        let read = tree.read(handle, (number * BLOCK) as u64, &mut page);
        match number {
            3 => assert_eq!(read, Err(Errno::IO)),
            _ => assert!(read == Ok(BLOCK) && page == expected, "block {number}"),
        }
    }
    let findings = fixture.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    for word in [&revision.uuid.to_string(), "block 3", "bytes 12288-16383"] {
        assert!(findings[0].contains(word), "{word} in {}", findings[0]);
    }
}

/// Forgotten numbers take no memory, and are not reused for another node.
#[test]
fn forgotten_numbers_are_not_reused() {
    let fixture = Fixture::new();
    fixture.backup(&bytes(1, 1), "2026-11-22T19:13:05Z", &["daily"]);
    let tree = fixture.tree(false);
    let known = tree.known();
    let mut seen = Vec::new();
    for round in 0..3 {
        for name in ["latest", "by-tag", "by-number"] {
            let found = tree.lookup(ROOT, OsStr::new(name)).unwrap();
            let again = tree.lookup(ROOT, OsStr::new(name)).unwrap();
            assert_eq!(found, again);
            tree.forget(found.number, 1);
            assert!(tree.attributes(found.number).is_ok());
            tree.forget(found.number, 1);
            assert_eq!(tree.attributes(found.number), Err(Errno::NOENT));
            assert!(!seen.contains(&found.number), "round {round}");
            seen.push(found.number);
        }
    }
    assert_eq!(tree.known(), known);
    tree.forget(ROOT, 1);
    assert!(tree.attributes(ROOT).is_ok());
}

/// A listing has the names from when the folder was opened, and the current ones after a rewind.
#[test]
fn a_listing_is_of_one_moment() {
    let fixture = Fixture::new();
    fixture.backup(&bytes(1, 1), "2026-11-22T19:13:05Z", &[]);
    let tree = fixture.tree(false);
    let handle = tree.open_folder(ROOT).unwrap();
    let before = tree.entries(ROOT, handle, false).unwrap();
    fixture.backup(&bytes(2, 1), "2026-11-23T19:13:05Z", &[]);
    assert_eq!(tree.entries(ROOT, handle, false).unwrap(), before);
    assert_eq!(tree.entries(ROOT, handle, true).unwrap().len(), before.len() + 2);
    tree.close_folder(handle);
    assert_eq!(tree.entries(ROOT, handle, false), Err(Errno::BADF));
}

/// A read-only mount accepts no write.
#[test]
fn a_read_only_mount_accepts_no_write() {
    let fixture = Fixture::new();
    fixture.backup(&bytes(1, 1), "2026-11-22T19:13:05Z", &[]);
    let tree = fixture.tree(false);
    let number = walk(&tree, "latest").unwrap().number;
    assert_eq!(tree.open(number, true), Err(Errno::ROFS));
    assert_eq!(tree.resize(number, BLOCK as u64), Err(Errno::ROFS));
    let handle = tree.open(number, false).unwrap();
    assert_eq!(tree.write(handle, 0, b"x"), Err(Errno::BADF));
    assert_eq!(tree.open(ROOT, false), Err(Errno::ISDIR));
}

/// Data written to a revision is there when it is opened again, also in its partitions, and nowhere else.
#[test]
fn written_data_stays_with_its_revision_until_the_mount_ends() {
    let fixture = Fixture::new();
    let (old, new) = (bytes(1, 5), bytes(2, 5));
    fixture.backup(&old, "2026-11-22T19:13:05Z", &[]);
    fixture.backup(&new, "2026-11-23T19:13:05Z", &[]);
    let tree = fixture.tree(true);
    let number = walk(&tree, "by-number/1").unwrap().number;
    let handle = tree.open(number, true).unwrap();
    tree.write(handle, 5000, b"changed").unwrap();
    tree.zero(handle, Extent::new(9000, 8000)).unwrap();
    assert_eq!(tree.write(handle, old.len() as u64 - 3, b"four"), Err(Errno::FBIG));
    tree.release(handle);
    let mut expected = old.clone();
    expected[5000..5007].copy_from_slice(b"changed");
    expected[9000..17000].fill(0);
    assert_eq!(content(&tree, "by-number/1").unwrap(), expected);
    assert_eq!(content(&tree, "latest").unwrap(), new);
    for (size, expected) in
        [(old.len(), Ok(())), (old.len() + 1, Err(Errno::FBIG)), (0, Err(Errno::PERM))]
    {
        assert_eq!(tree.resize(number, size as u64), expected);
    }
    assert_eq!(content(&fixture.tree(true), "by-number/1").unwrap(), old);
    // Its files have no names.
    assert_eq!(fs::read_dir(fixture.folder.path()).unwrap().count(), 2);
}

/// Reported holes are zeros, all other bytes are in reported data, and alternating between the two ends.
#[test]
fn holes_are_found() {
    let fixture = Fixture::new();
    let mut old = vec![0; 1000 * BLOCK + 100];
    for block in [0, 3, 4, 600, 601, 999] {
        old[block * BLOCK..][..BLOCK].fill(1);
    }
    let mut new = old.clone();
    new[3 * BLOCK..][..BLOCK].fill(0);
    new[10 * BLOCK..][..BLOCK].fill(2);
    fixture.backup(&old, "2026-11-22T19:13:05Z", &[]);
    fixture.backup(&new, "2026-11-23T19:13:05Z", &[]);
    let tree = fixture.tree(false);
    for (path, content, extents) in [("by-number/0", &new, 5), ("by-number/1", &old, 4)] {
        let handle = tree.open(walk(&tree, path).unwrap().number, false).unwrap();
        let (mut position, mut found) = (0, 0);
        while let Ok(data) = tree.seek(handle, position, false) {
            let hole = tree.seek(handle, data, true).unwrap();
            assert!(data < hole, "{path}: data at {data}, hole at {hole}");
            assert!(content[position as usize..data as usize].iter().all(|byte| *byte == 0));
            (position, found) = (hole, found + 1);
        }
        assert!(content[position as usize..].iter().all(|byte| *byte == 0));
        assert_eq!(found, extents, "{path}");
        let size = content.len() as u64;
        assert_eq!(tree.seek(handle, 601 * BLOCK as u64 + 5, false), Ok(601 * BLOCK as u64 + 5));
        assert_eq!(tree.seek(handle, size - 1, true), Ok(size - 1));
        assert_eq!(tree.seek(handle, size, true), Err(Errno::NXIO));
        assert_eq!(tree.seek(handle, size, false), Err(Errno::NXIO));
    }
}

/// A partition is a file with the part of the image that the table says, also for writes.
#[test]
fn partitions_are_windows_into_the_image() {
    let fixture = Fixture::new();
    let mut image = bytes(3, 16);
    image[446..512].fill(0);
    for (number, start, len) in [(0, 9_u8, 20_u8), (2, 40, 200)] {
        image[446 + 16 * number..][..16]
            .copy_from_slice(&[0, 0, 0, 0, 0x83, 0, 0, 0, start, 0, 0, 0, len, 0, 0, 0]);
    }
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    fixture.backup(&image, "2026-11-22T19:13:05Z", &[]);
    let tree = fixture.tree(true);
    assert_eq!(names(&tree, "latest.partitions"), ["1", "3"]);
    assert_eq!(walk(&tree, "latest.partitions/2"), Err(Errno::NOENT));
    assert_eq!(content(&tree, "latest.partitions/1").unwrap(), image[9 * 512..29 * 512]);
    assert_eq!(content(&tree, "by-number/0.partitions/3").unwrap(), image[40 * 512..]);
    let handle = tree.open(walk(&tree, "latest.partitions/1").unwrap().number, true).unwrap();
    tree.write(handle, 10, b"new").unwrap();
    assert_eq!(tree.write(handle, 20 * 512 - 2, b"new"), Err(Errno::FBIG));
    tree.zero(handle, Extent::new(20 * 512 - 2, 100)).unwrap();
    image[9 * 512 + 10..][..3].copy_from_slice(b"new");
    image[29 * 512 - 2..29 * 512].fill(0);
    assert_eq!(content(&tree, "latest").unwrap(), image);
    assert_eq!(content(&tree, "latest.partitions/1").unwrap(), image[9 * 512..29 * 512]);
    assert_eq!(names(&fixture.tree(false), "latest.partitions"), ["1", "3"]);
}

/// If the table cannot be read, the answer is an error and not that there are no partitions.
#[test]
fn a_table_in_a_bad_block_is_an_error() {
    let fixture = Fixture::new();
    fixture.backup(&bytes(1, 4), "2026-11-22T19:13:05Z", &[]);
    let image =
        File::options().write(true).open(fixture.archive_folder().join("last.raw")).unwrap();
    image.write_all_at(b"rot", 17).unwrap();
    let tree = fixture.tree(false);
    let number = walk(&tree, "latest.partitions").unwrap().number;
    assert_eq!(tree.open_folder(number), Err(Errno::IO));
    assert_eq!(walk(&tree, "latest.partitions/1"), Err(Errno::IO));
    assert_eq!(fixture.findings().len(), 1);
}

/// A replaced manifest is noticed without a lookup, and the watching thread ends when it is no longer needed.
#[test]
fn a_change_of_the_archive_is_noticed() {
    let fixture = Fixture::new();
    let tree = Arc::new(fixture.tree(false));
    let watch = watch::start(Arc::clone(&tree)).unwrap();
    assert_eq!(tree.attributes(ROOT).unwrap().links, 5);
    fixture.backup(&bytes(1, 1), "2026-11-22T19:13:05Z", &[]);
    let start = Instant::now();
    while tree.attributes(ROOT).unwrap().links == 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "the backup is not noticed");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(watch);
    assert_eq!(Arc::strong_count(&tree), 1);
}
