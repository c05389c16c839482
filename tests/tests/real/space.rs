//! Space on the disk before and during a backup: backy does not begin a backup that is not expected to fit, and
//! begins one that may not fit. The message says how much is missing and what frees it.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::disks::Disk;
use crate::site::{BLOCK_BYTES, Site, fails, noise, run, text, words, works};

const MIB: usize = 1 << 20;

/// An archive on a small file system with the source elsewhere.
struct Small {
    disk: Disk,
    site: Site,
    state: Vec<u8>,
    _elsewhere: TempDir,
}

impl Small {
    /// Of the 10 MiB of the source every backup but the first changes 2 MiB.
    fn make(kind: &str, bytes: u64, revisions: u64) -> Option<Self> {
        let disk = Disk::make(kind, bytes)?;
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let source = elsewhere.path().join("source");
        fs::write(&source, []).expect("make the source");
        let site = Site::init(disk.path(), &source);
        let mut small = Small { disk, site, state: noise(70, 10 * MIB), _elsewhere: elsewhere };
        small.configure("");
        for number in 0..revisions {
            small.change(number);
            let state = small.state.clone();
            small.site.backup(&state);
        }
        Some(small)
    }

    fn change(&mut self, number: u64) {
        let at = (number as usize % 5) * 2 * MIB;
        self.state[at..at + 2 * MIB].copy_from_slice(&noise(71 + number, 2 * MIB));
        self.site.write_source(&self.state);
    }

    fn dry_run(&self) -> Value {
        let json = works(&mut self.site.backy(&["backup", "--force", "--dry-run", "--json"]));
        serde_json::from_slice(&json).expect("JSON")
    }

    /// Gives it another schedule. Without one nothing expires.
    fn configure(&self, schedule: &str) {
        let config = format!("source = {:?}\n{schedule}", self.site.source);
        fs::write(self.site.folder.join("backy.toml"), config).expect("write the config");
    }

    fn forget_oldest(&mut self, count: usize) {
        self.site.expected.truncate(self.site.expected.len() - count);
    }
}

/// The numbers in `'backy rm NUMBERS'` of a message.
fn advised(message: &str) -> String {
    let (_, rest) = message.split_once("'backy rm ").unwrap_or_else(|| panic!("{message}"));
    rest.split_once('\'').expect("its end").0.to_owned()
}

/// A backup that is not expected to fit is refused before anything is written: the message says how much is missing
/// and which revisions would free it. After that removal it works. With --no-space-check it begins all the same.
#[test]
fn a_backup_that_will_not_fit_is_not_started() {
    let Some(mut small) = Small::make("ext4", 48 << 20, 5) else { return };
    small.configure("[schedule.often]\ninterval = \"1s\"\nkeep = 1\n");
    let state = small.state.clone();
    for _ in 0..2 {
        small.site.backup(&state);
        std::thread::sleep(std::time::Duration::from_secs(2));
    }
    small.change(9);
    let ballast = small.disk.fill(MIB as u64);
    let files = small.site.contents();
    let message = fails(&mut small.site.backy(&["backup", "--force"]));
    for word in ["MiB more free space needed", "expected to take about 2.", "--no-space-check"] {
        assert!(message.contains(word), "{word}: {message}");
    }
    assert!(message.contains(text(&small.site.folder)), "{message}");
    assert!(small.site.contents() == files, "it has changed the archive");
    // Revisions that expire anyhow come first.
    assert!(message.contains("'backy maintenance' would free about"), "{message}");
    small.configure("");
    let text = works(&mut small.site.backy(&["backup", "--force", "--dry-run"]));
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("It would take about 2.") && text.contains("more needed."), "{text}");

    let message = fails(&mut small.site.backy(&["backup", "--force", "--no-space-check"]));
    assert!(message.contains("No space left on device; it needs about"), "{message}");
    assert!(message.contains("more; 'backy rm"), "{message}");
    small.site.check_at_rest();

    let numbers = advised(&message);
    assert!(numbers.ends_with('6'), "not the oldest: {message}");
    works(&mut small.site.backy(&["rm", &numbers]));
    let gone = small.site.expected.len() - small.site.committed().len();
    small.forget_oldest(gone);
    let state = small.state.clone();
    small.site.backup(&state);
    small.site.check_at_rest();
    drop(ballast);
}

/// Files in the archive's folder that take space and are no part of it are named: nobody else knows that they may be
/// moved.
#[test]
fn foreign_files_that_take_space_are_named() {
    let Some(mut small) = Small::make("ext4", 48 << 20, 4) else { return };
    let stranger = "01935470-2f5e-7cc0-9d1a-3f0c5a3be003.qcow2";
    fs::write(small.site.folder.join(stranger), noise(9, 2 * MIB)).expect("write a file");
    small.change(9);
    let _ballast = small.disk.fill(MIB as u64);
    let message = fails(&mut small.site.backy(&["backup", "--force"]));
    let words = format!("files that do not belong to the archive take space: {stranger} (2.0 MiB)");
    assert!(message.contains(&words) && message.contains("'backy rm"), "{message}");
    assert!(small.site.folder.join(stranger).exists());
}

/// backy does not suggest pinned revisions, and says so when nothing else could be deleted.
#[test]
fn pinned_revisions_are_not_proposed() {
    let Some(mut small) = Small::make("ext4", 48 << 20, 4) else { return };
    works(&mut small.site.backy(&["tag", "first", "+keep"]));
    small.change(9);
    let _ballast = small.disk.fill(MIB as u64);
    let message = fails(&mut small.site.backy(&["backup", "--force"]));
    assert!(!advised(&message).contains('3'), "{message}");
    for number in ["1", "2"] {
        works(&mut small.site.backy(&["tag", number, "+keep"]));
    }
    let message = fails(&mut small.site.backy(&["backup", "--force"]));
    assert!(message.contains("nothing can be deleted"), "{message}");
}

/// With as much space as the estimate says at most, a backup fits in which every block has changed to something that
/// does not compress: in place and on a clone, into holes, grown and shrunk.
#[test]
fn the_estimated_maximum_is_enough() {
    for (kind, bytes) in [("ext4", 96 << 20), ("xfs", 400 << 20)] {
        let Some(small) = Small::make(kind, bytes, 0) else { continue };
        let mut site = small.site;
        let mut sparse = noise(1, 12 * MIB);
        sparse[3 * MIB..6 * MIB].fill(0);
        site.backup(&sparse);
        for (seed, len) in [(2, 12 * MIB), (3, 12 * MIB), (4, 15 * MIB + 77), (5, 9 * MIB - 5)] {
            let state = noise(seed, len);
            site.write_source(&state);
            let json = works(&mut site.backy(&["backup", "--force", "--dry-run", "--json"]));
            let plan: Value = serde_json::from_slice(&json).expect("JSON");
            let most = plan["room"]["most_bytes"].as_u64().expect("a number");
            // The estimate includes everything that has changed, and is not simply twice everything.
            assert!(
                most as usize >= len && (most as usize) < 2 * len.max(12 * MIB) + 2 * MIB,
                "{plan}"
            );
            let ballast = small.disk.fill(most);
            let output = run(&mut site.backy(&["backup", "--force", "--no-space-check", "--json"]));
            assert!(output.status.success(), "{kind}, {len} in {most}: {}", words(&output));
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_eq!(report["cloned"], kind == "xfs");
            site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &state);
            ballast.remove();
        }
        site.check_at_rest();
    }
}

/// A first backup of a file that is larger than the disk does not begin. One of a file with holes does. When only the
/// largest possible later one does not fit, it is made, and -v says so.
#[test]
fn holes_and_unlikely_cases_need_no_space() {
    let Some(mut small) = Small::make("ext4", 24 << 20, 0) else { return };
    small.site.write_source(&noise(1, 40 * MIB));
    let message = fails(&mut small.site.backy(&["backup"]));
    assert!(message.contains("expected to take about 40."), "{message}");
    assert!(message.contains("nothing can be deleted"), "{message}");
    let source = fs::File::create(&small.site.source).expect("make the source");
    source.set_len(40 << 20).expect("a hole");
    drop(source);
    let mut state = vec![0; 40 * MIB];
    small.site.backup_source(&state);
    let mut write = |at: usize, site: &Site| {
        state[at..at + BLOCK_BYTES].copy_from_slice(&noise(9, BLOCK_BYTES));
        site.write_source(&state);
        state.clone()
    };
    let one = write(0, &small.site);
    small.site.backup(&one);
    let two = write(BLOCK_BYTES, &small.site);
    let output = run(&mut small.site.backy(&["-v", "backup", "--force", "--json"]));
    assert!(
        words(&output).contains("if everything changed, this backup needs 40."),
        "{}",
        words(&output)
    );
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    small.site.push(report["revision"]["uuid"].as_str().expect("a UUID"), &two);
    small.site.check_at_rest();
    let room = small.dry_run()["room"].clone();
    assert!(room["expected_bytes"].as_u64() < Some(MIB as u64), "{room}");
}
