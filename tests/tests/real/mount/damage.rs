//! Damaged data in the archive cannot be read, and everything else can.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use backy_lib::RevisionId;
use serde_json::Value;

use crate::mounted::{Front, Mount, fuse_available};
use crate::site::{BLOCK_BYTES, Site, noise, run, text};
use crate::ways::both_ways;

const PAGE: usize = 4096;
const SIZE: usize = 40 * BLOCK_BYTES + 5000;

/// Three revisions of noise; each backup changes every second block.
fn site(place: &Path) -> Site {
    let mut states = vec![noise(500, SIZE)];
    for seed in 501..503 {
        let mut next = states.last().expect("a state").clone();
        let new = noise(seed, SIZE);
        for (number, block) in next.chunks_mut(BLOCK_BYTES).enumerate() {
            if number % 2 == (seed % 2) as usize {
                let at = number * BLOCK_BYTES;
                block.copy_from_slice(&new[at..at + block.len()]);
            }
        }
        states.push(next);
    }
    Site::with_backups(place, &states)
}

/// Flips some bytes of a file of the archive.
fn flip(site: &Site, name: &str, offsets: &[u64]) {
    let path = site.folder.join(name);
    let file = File::options().read(true).write(true).open(path).expect("open a file");
    for &offset in offsets {
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("read a byte");
        file.write_all_at(&[!byte[0]], offset).expect("write a byte");
    }
}

/// The unreadable pages of a revision according to a scrub, which reads the same files in another way.
fn bad_pages(site: &Site, revision: RevisionId) -> Vec<usize> {
    let output = run(&mut site.backy(&["scrub", "-n", "--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let findings = report["findings"].as_array().expect("findings");
    let affected = findings.iter().flat_map(|f| f["affected"].as_array().expect("revisions"));
    let mut pages = Vec::new();
    for affected in affected.filter(|a| a["revision"] == revision.to_string()) {
        for extent in affected["extents"].as_array().expect("extents") {
            let offset = extent["offset"].as_u64().expect("an offset") as usize;
            let len = extent["len"].as_u64().expect("a length") as usize;
            pages.extend(offset / PAGE..(offset + len).div_ceil(PAGE));
        }
    }
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Reads each page by itself: it has the right bytes, or it is one of the bad ones and an I/O error.
fn check_pages(file: &Path, bytes: &[u8], bad: &[usize]) {
    let file = File::open(file).expect("open a revision");
    for (number, expected) in bytes.chunks(PAGE).enumerate() {
        let mut page = [0; PAGE];
        let read = file.read_at(&mut page, (number * PAGE) as u64);
        match (read, bad.contains(&number)) {
            (Ok(count), false) => {
                assert!(page[..count] == *expected, "wrong bytes in page {number}");
            }
            (Err(error), true) => assert_eq!(error.raw_os_error(), Some(5), "page {number}"),
            (read, is_bad) => panic!("page {number}: found {read:?}, bad is {is_bad}"),
        }
    }
}

/// Checks all revisions page by page. Returns how many pages are bad in each.
fn check(site: &Site, mount: &Mount) -> Vec<usize> {
    let check = |revision: &backy_tests::world::Expected| {
        let bad = bad_pages(site, revision.uuid);
        check_pages(&mount.file(revision.uuid), &revision.bytes, &bad);
        bad.len()
    };
    site.expected.iter().map(check).collect()
}

const PAGES: usize = BLOCK_BYTES / PAGE;

/// A changed block of the image cannot be read, in all revisions that have it, and all others can. The log names it
/// once. On clones, the kernel gets no file with such a block to read by itself.
fn rotten_block_of_the_image_is_an_io_error(place: &Path) {
    let site = site(place);
    // Blocks 4 and 7: one is in the image since the last backup, one since that before.
    flip(&site, "last.raw", &[4 * BLOCK_BYTES as u64 + 100, 8 * BLOCK_BYTES as u64 - 1]);
    let log = place.join("log");
    let Some(mount) = Mount::make(&site, &["--log", text(&log)]) else { return };
    let bad = check(&site, &mount);
    assert_eq!(bad[0], 2 * PAGES);
    assert!(bad[1] == PAGES && bad[2] == 0, "{bad:?}");
    // Again, now that it is known.
    check(&site, &mount);
    let said = fs::read_to_string(&log).expect("read the log");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("warning: ")).collect();
    let newest = site.expected[0].uuid.to_string();
    let of_newest = |block: &str| {
        lines.iter().filter(|line| line.contains(&newest) && line.contains(block)).count()
    };
    assert_eq!((of_newest("block 4 "), of_newest("block 7 ")), (1, 1), "{said}");
    mount.unmount();
}
both_ways!(rotten_block_of_the_image_is_an_io_error(place));

/// A delta that has changed in one place costs the block at that place.
#[test]
fn a_rotten_block_of_a_delta() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let delta = format!("{}.qcow2", site.expected[1].uuid);
    let len = fs::metadata(site.folder.join(&delta)).expect("look up the delta").len();
    flip(&site, &delta, &[len / 2 + 1234]);
    let log = temp.path().join("log");
    let Some(mount) = Mount::make(&site, &["--log", text(&log)]) else { return };
    let bad = check(&site, &mount);
    assert_eq!(bad[0], 0);
    assert!((1..=2 * PAGES).contains(&bad[1]), "{bad:?}");
    let said = fs::read_to_string(&log).expect("read the log");
    assert!(said.contains(&site.expected[1].uuid.to_string()), "{said}");
    mount.unmount();
}

/// If a digest has changed, its block of the newest revision cannot be read, and older revisions that use the digests
/// cannot be opened; the log says why. The others can be read, and all of them when a scrub has repaired it.
#[test]
fn a_rotten_digest() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let digests = format!("{}.image.digests", site.expected[0].uuid);
    // The entry of block 5, which the oldest has in a delta: see doc/format.md.
    flip(&site, &digests, &[4096 + 32 * 5 + 7]);
    let log = temp.path().join("log");
    let Some(mount) = Mount::make(&site, &["--log", text(&log)]) else { return };
    let file = File::open(mount.path("latest")).expect("open the newest");
    let mut wrong = Vec::new();
    for (number, expected) in site.expected[0].bytes.chunks(PAGE).enumerate() {
        let mut page = [0; PAGE];
        match file.read_at(&mut page, (number * PAGE) as u64) {
            Ok(count) => assert!(page[..count] == *expected, "wrong bytes in page {number}"),
            Err(_) => wrong.push(number),
        }
    }
    assert_eq!(wrong, (5 * PAGES..6 * PAGES).collect::<Vec<_>>(), "pages that cannot be read");
    drop(file);
    let opened = File::open(mount.file(site.expected[1].uuid)).expect_err("it was opened");
    assert_eq!(opened.raw_os_error(), Some(5));
    let said = fs::read_to_string(&log).expect("read the log");
    for revision in &site.expected[..2] {
        let of_it = format!("warning: revision {}: ", revision.uuid);
        let as_a_whole = |line: &&str| line.contains(&of_it) && line.contains("digest of revision");
        assert_eq!(said.lines().filter(as_a_whole).count(), 1, "{said}");
    }
    let oldest = &site.expected[2];
    assert!(fs::read(mount.file(oldest.uuid)).expect("read the oldest") == oldest.bytes);
    let output = site.backy(&["scrub"]).output().expect("scrub");
    assert_eq!(output.status.code(), Some(1), "a scrub with a finding");
    for revision in &site.expected {
        let found = fs::read(mount.file(revision.uuid)).expect("read it once it is repaired");
        assert!(found == revision.bytes, "wrong bytes of {}", revision.uuid);
    }
    mount.unmount();
}

/// With `-f` findings are printed on standard error.
#[test]
fn foreground_mount_reports_damage_on_standard_error() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    flip(&site, "last.raw", &[4 * BLOCK_BYTES as u64]);
    let front = Front::start(&site, &[]);
    let read = fs::read(front.on.path.join("latest"));
    front.on.unmount();
    let (status, said) = front.finish();
    assert_eq!(read.expect_err("it was read").raw_os_error(), Some(5));
    assert_eq!(status, Some(0), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 1 && lines[0].starts_with("backy: warning: "), "{said}");
    assert!(lines[0].contains("block 4 "), "{said}");
}
