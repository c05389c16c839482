//! A source that others change during the backup. The revision has at each place what the source had there at some
//! time during the backup, is consistent with its digests, and does not harm older ones. A source whose size changes
//! is an error.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use backy_lib::storage::sim::Random;

use crate::processes::{Running, wait_for_lock};
use crate::readers::Done;
use crate::site::{Site, failed, noise, run, words, works};
use crate::ways::both_ways;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
const PAGES: u64 = 6 * MIB as u64 / PAGE as u64;

/// The content of a page at a time: each word says which page it is, and which version of it. Version 0 is all zero.
fn page(number: u64, version: u64) -> Vec<u8> {
    let word = if version == 0 { 0 } else { number << 32 | version };
    word.to_le_bytes().repeat(PAGE / 8)
}

fn image(versions: &[u64]) -> Vec<u8> {
    versions.iter().zip(0..).flat_map(|(&version, number)| page(number, version)).collect()
}

/// Writes pages of the source until `done`. Now and then a hole replaces one. Returns the last version of each.
fn write_on_and_on(
    source: &Path,
    mut versions: Vec<u64>,
    seed: u64,
    done: &AtomicBool,
) -> Vec<u64> {
    let file = File::options().write(true).open(source).expect("open the source");
    let mut random = Random(seed);
    while !done.load(Relaxed) {
        for _ in 0..40 {
            let number = random.below(PAGES);
            let version = &mut versions[number as usize];
            *version += 1;
            file.write_all_at(&page(number, *version), number * PAGE as u64).expect("write a page");
        }
        sleep(Duration::from_millis(1));
    }
    versions
}

/// A file may be written to during its backup: each block has its content of some moment, and older revisions keep
/// theirs.
fn source_may_be_written_to_during_a_backup(place: &Path) {
    let source = place.join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(place, &source);
    // Every fifth page is a hole at first.
    let mut versions: Vec<u64> = (0..PAGES).map(|number| u64::from(number % 5 > 0)).collect();
    site.backup(&image(&versions));
    for round in 0..3 {
        let before = versions.clone();
        let done = AtomicBool::new(false);
        versions = std::thread::scope(|scope| {
            let end = Done(&done);
            let writer = scope.spawn(|| write_on_and_on(&source, before.clone(), round, &done));
            works(&mut site.backy(&["backup", "--force", "--limit-rate", "8M"]));
            drop(end);
            writer.join().expect("the writer")
        });
        let uuid = site.committed()[0].clone();
        let found = works(&mut site.backy(&["restore", "-r", &uuid, "-"]));
        let mut mixed = 0;
        for (at, word) in found.chunks(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            let number = at * 8 / PAGE;
            let version = word & 0xffff_ffff;
            assert!(word == 0 || (word >> 32) as usize == number, "page {number}: {word:x}");
            let range = before[number]..=versions[number];
            assert!(range.contains(&version), "page {number}: {version} is not in {range:?}");
            mixed += usize::from(version > before[number]);
        }
        assert!(mixed > 0 && mixed < found.len() / 8, "{mixed} words are new: nothing was mixed");
        site.push(&uuid, &found);
        // It matches its digests, the older ones are unchanged, and a scrub finds nothing.
        site.check_at_rest();
        works(&mut site.backy(&["scrub", "-n"]));
    }
    // Once the source stands still, a revision matches it.
    site.backup_source(&image(&versions));
    site.check_at_rest();
}
both_ways!(source_may_be_written_to_during_a_backup(place));

/// Does something to the source in the middle of a backup. Returns the output, and whether the backup worked.
fn meanwhile(site: &Site, change: impl FnOnce(&Path)) -> (bool, String) {
    let mut backup = Running::start(&mut site.backy(&["backup", "--force", "--limit-rate", "4M"]));
    wait_for_lock(site, &mut backup);
    sleep(Duration::from_millis(400));
    change(&site.source);
    assert!(backup.is_running(), "too late to change anything");
    let status = backup.0.wait().expect("wait for the backup");
    let mut said = String::new();
    let mut stderr = backup.0.stderr.take().expect("a pipe");
    std::io::Read::read_to_string(&mut stderr, &mut said).expect("read what it said");
    (status.success(), said)
}

/// A source that becomes shorter or longer during the backup is an error that says so with both sizes. The archive is
/// as it was, and the next backup works.
#[test]
fn a_source_that_changes_its_size() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states: Vec<Vec<u8>> = (0..3).map(|seed| noise(920 + seed, 4 * MIB)).collect();
    let mut site = Site::with_backups(temp.path(), &states[..2]);
    let before = site.committed();
    for len in [0, MIB, 4 * MIB - 1, 4 * MIB + 1, 9 * MIB] {
        site.write_source(&states[2]);
        let (worked, said) = meanwhile(&site, |source| {
            let file = File::options().write(true).open(source).expect("open the source");
            file.set_len(len as u64).expect("change its size");
        });
        assert!(!worked, "{len}: it has worked");
        assert_eq!(said.lines().count(), 1, "{said}");
        let names = said.contains(&format!("source {}: ", site.source.display()));
        assert!(names && said.contains("its size changed while it was read"), "{said}");
        assert!(said.contains(&format!("expected {}", 4 * MIB)), "{said}");
        assert_eq!(site.committed(), before, "{len}");
        site.check_at_rest();
    }
    site.backup(&states[2]);
    site.check_at_rest();
}

/// A source that is replaced or deleted during the backup is backed up as it was when the backup began.
#[test]
fn a_source_that_is_replaced() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let states: Vec<Vec<u8>> = (0..4).map(|seed| noise(930 + seed, 4 * MIB)).collect();
    let mut site = Site::with_backups(temp.path(), &states[..1]);
    let other = temp.path().join("other");
    fs::write(&other, &states[3]).expect("write another file");
    site.write_source(&states[1]);
    let (worked, said) = meanwhile(&site, |source| fs::rename(&other, source).expect("rename"));
    assert!(worked, "{said}");
    site.check(Some(&states[1]));
    site.check_at_rest();
    site.write_source(&states[2]);
    let (worked, said) = meanwhile(&site, |source| fs::remove_file(source).expect("remove it"));
    assert!(worked, "{said}");
    site.check(Some(&states[2]));
    site.check_at_rest();
    let output = run(&mut site.backy(&["backup", "--force"]));
    failed(&output);
    assert!(words(&output).contains("No such file"), "{}", words(&output));
    site.check_at_rest();
}
