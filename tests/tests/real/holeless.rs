//! An archive on a file system without holes, on which zeros take space as well, and which cannot punch, clone,
//! allocate in advance or set permissions. That costs space, and nothing else.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::kill::{KILL, Told, was_killed};
use crate::mounted::{Mount, Mountpoint, fuse_available, until};
use crate::site::{BLOCK_BYTES, Site, compare, fails, noise, run, states, text, words, works};
use crate::strace;

/// Grown, shrunk, odd, less than a block.
const SIZES: [usize; 6] = [
    9 * BLOCK_BYTES - 100,
    14 * BLOCK_BYTES + 5,
    8 * BLOCK_BYTES - 512,
    100,
    11 * BLOCK_BYTES,
    10 * BLOCK_BYTES + 1,
];

/// The file system, which is unmounted with its value.
pub(crate) struct HoleLess {
    on: Mountpoint,
    serving: Child,
}

impl HoleLess {
    /// Prints `SKIPPED` and returns nothing where there is no FUSE.
    pub(crate) fn make(max_file_bytes: u64) -> Option<Self> {
        Self::make_with(max_file_bytes, &[])
    }

    /// One that reads and writes less than each request.
    pub(crate) fn make_short() -> Option<Self> {
        Self::make_with(1 << 30, &["short"])
    }

    /// One that interrupts every third call.
    pub(crate) fn make_interrupted() -> Option<Self> {
        Self::make_with(1 << 30, &["interrupted"])
    }

    fn make_with(max_file_bytes: u64, options: &[&str]) -> Option<Self> {
        if !fuse_available() {
            return None;
        }
        let on = Mountpoint::new();
        let mut command = Command::new(backy_tests::command::built("hole-less"));
        command.arg(max_file_bytes.to_string()).arg(&on.path).args(options);
        let serving = command.stdin(Stdio::null()).spawn().expect("start the file system");
        until("it is mounted", || on.is_mounted());
        Some(HoleLess { on, serving })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.on.path
    }
}

impl Drop for HoleLess {
    fn drop(&mut self) {
        // A test that already panics must not abort. Whoever still uses it loses it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.on.path).status();
        let _ = self.serving.kill();
        let _ = self.serving.wait();
    }
}

/// Every command does what it does elsewhere, and every revision reads right, by backy and by QEMU.
#[test]
fn everything_works_without_holes() {
    let Some(disk) = HoleLess::make(1 << 30) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    let states = states(940, &SIZES);
    for state in &states {
        site.backup(state);
        site.check_at_rest();
    }
    // From data to zeros: what would be a hole.
    site.backup(&vec![0; 12 * BLOCK_BYTES]);
    site.check_at_rest();
    let image = fs::metadata(site.folder.join("last.raw")).expect("look up the image");
    assert_eq!(image.blocks() * 512, 12 * BLOCK_BYTES as u64, "there are holes after all");
    site.backup(&states[1]);
    let target = elsewhere.path().join("target");
    for (number, revision) in site.expected.iter().enumerate() {
        works(&mut site.backy(&["restore", "--force", "-r", &number.to_string(), text(&target)]));
        assert!(fs::read(&target).expect("read the target") == revision.bytes, "{number}");
    }
    works(&mut site.backy(&["scrub"]));
    works(&mut site.backy(&["drill", "-r", "3"]));
    let exported = elsewhere.path().join("exported.qcow2");
    works(&mut site.backy(&["export", "-r", "2", text(&exported)]));
    if backy_tests::qemu::available() {
        compare(&exported, "qcow2", &site.expected[2].bytes);
    }
    if let Some(mount) = Mount::make(&site, &[]) {
        for revision in &site.expected {
            let mut bytes = Vec::new();
            let mut file = fs::File::open(mount.file(revision.uuid)).expect("open a revision");
            file.read_to_end(&mut bytes).expect("read a revision");
            assert!(bytes == revision.bytes, "the mount has wrong bytes of {}", revision.uuid);
        }
        mount.unmount();
    }
    works(&mut site.backy(&["rm", "2,3"]));
    site.expected.drain(2..4);
    site.check_at_rest();
    works(&mut site.backy(&["rm", "0"]));
    site.expected.remove(0);
    site.check_at_rest();
    works(&mut site.backy(&["maintenance", "-k", "2", "--confirm"]));
    site.expected.truncate(2);
    site.check_at_rest();
    fs::remove_file(site.folder.join("manifest.json")).expect("lose the manifest");
    let rebuilt = run(&mut site.backy(&["scrub", "--rebuild"]));
    assert!(rebuilt.status.success(), "{}", words(&rebuilt));
    site.backup(&states[4]);
    site.check_at_rest();
    works(&mut site.backy(&["scrub", "-n"]));
}

/// What a backup stores, what the archive uses and what a scrub and a restore read follows from the data, although the
/// file system reports everything as data and its length as its size on disk.
#[test]
fn sizes_and_scrubs_follow_the_data_without_holes() {
    const SIZE: usize = 64 << 20;
    let Some(disk) = HoleLess::make(1 << 30) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    let mut state = vec![0; SIZE];
    for block in [0, 300, 700] {
        state[block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES]
            .copy_from_slice(&noise(block as u64, BLOCK_BYTES));
    }
    let near = |found: &Value, blocks: usize, what: &str| {
        let off = found.as_i64().expect("a number") - (blocks * BLOCK_BYTES) as i64;
        assert!((0..2 * BLOCK_BYTES as i64).contains(&off), "{what}: {found} for {blocks} blocks");
    };
    let first = site.backup(&state);
    near(&first["revision"]["statistics"]["stored_bytes"], 3, "the first backup");
    state[300 * BLOCK_BYTES..301 * BLOCK_BYTES].copy_from_slice(&noise(5, BLOCK_BYTES));
    let second = site.backup(&state);
    near(&second["revision"]["statistics"]["stored_bytes"], 1, "the second backup");
    let json = |args: &[&str]| -> Value {
        serde_json::from_slice(&works(&mut site.backy(args))).expect("a report in JSON")
    };
    near(&json(&["status", "--json"])["space"]["used_bytes"], 4, "the archive");
    // With the rest of each piece that is read together.
    let read = json(&["scrub", "--json"])["read_bytes"].as_u64().expect("a number");
    assert!(read <= 4 << 20, "a scrub read {read} bytes");
    site.check_at_rest();
}

/// A restore to a file on it, and an export to one, are right.
#[test]
fn restores_and_exports_to_it() {
    let Some(disk) = HoleLess::make(1 << 30) else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &states(941, &SIZES));
    let target = disk.path().join("target");
    for (number, revision) in site.expected.iter().enumerate() {
        works(&mut site.backy(&["restore", "--force", "-r", &number.to_string(), text(&target)]));
        assert!(fs::read(&target).expect("read the target") == revision.bytes, "{number}");
        let exported = disk.path().join(format!("{number}.qcow2"));
        works(&mut site.backy(&["export", "-r", &number.to_string(), text(&exported)]));
        if backy_tests::qemu::available() {
            compare(&exported, "qcow2", &revision.bytes);
        }
    }
    // The command runs on a temporary file there.
    works(&mut site.backy(&["drill", "--dir", text(disk.path()), "--", "test", "-s"]));
}

/// A backup, a removal in the middle and one of the newest that are killed at each sync lose nothing there either.
#[test]
fn killed_without_holes() {
    if !strace::available() {
        return;
    }
    let Some(disk) = HoleLess::make(1 << 30) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    let states = states(942, &SIZES);
    states[..3].iter().for_each(|state| drop(site.backup(state)));
    for number in 1..=10 {
        for (args, may_go) in
            [(&["backup", "--force"][..], &[][..]), (&["rm", "1"], &[1]), (&["rm", "0"], &[0])]
        {
            let state = &states[number % states.len()];
            site.write_source(state);
            let what = format!("{KILL}:when={number}");
            let outcome = strace::inject(&site.backy(args), "fdatasync", &what, elsewhere.path());
            let told = Told(format!("{args:?} killed at sync {number}"));
            if outcome.happened {
                was_killed(&outcome);
            }
            site.reconcile(may_go, Some(state));
            site.check_here();
            drop(told);
        }
        site.backup(&states[(number + 1) % states.len()]);
        site.backup(&states[(number + 2) % states.len()]);
        site.check_at_rest_here();
    }
    site.check_at_rest();
}

/// Where a file may not become as long as the image, the error says so and names the file, and nothing is left of it.
#[test]
fn a_file_that_becomes_too_long() {
    let limit = 12 * BLOCK_BYTES;
    let Some(disk) = HoleLess::make(limit as u64) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    let small = crate::site::noise(943, 5 * BLOCK_BYTES);
    site.backup(&small);
    site.write_source(&crate::site::noise(944, 20 * BLOCK_BYTES));
    let message = fails(&mut site.backy(&["backup", "--force"]));
    assert!(message.contains(text(&site.folder)), "{message}");
    assert!(message.contains("File too large; the file system or a limit"), "{message}");
    site.check_at_rest();
    site.backup(&crate::site::noise(945, 5 * BLOCK_BYTES));
    site.check_at_rest();
}
