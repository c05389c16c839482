//! Files on XFS and btrfs that are backed up by clones: whatever happens to a file and its clones, revisions are what
//! the file held, and only what may have changed is read.

mod compressed;

use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use backy_lib::storage::sim::Random;
use serde_json::Value;

use crate::disks::Disk;
use crate::site::{BLOCK_BYTES, Site, backy, noise, run, text, words, works};
use crate::strace;

const BYTES: usize = 160 * BLOCK_BYTES;

/// An archive of a file on a file system of its own.
struct Scene {
    site: Site,
    disk: Disk,
}

impl Scene {
    fn new(kind: &str) -> Option<Self> {
        let disk = Disk::make(kind, 512 << 20)?;
        let source = disk.path().join("vm.img");
        fs::write(&source, noise(1, BYTES)).expect("write the source");
        let folder = disk.path().join("archive");
        works(&mut backy(&folder, &["init", &format!("reflink:{}", text(&source))]));
        Some(Scene { site: Site { folder, source, expected: Vec::new() }, disk })
    }

    fn source(&self) -> PathBuf {
        self.site.source.clone()
    }

    /// A backup of the file as it is; what it says about changes.
    fn backup(&mut self) -> (Value, u64) {
        let state = fs::read(self.source()).expect("read the source");
        let report = self.site.backup_source(&state);
        let image = fs::read(self.site.folder.join("last.raw")).expect("read last.raw");
        assert!(image == state, "last.raw is not the file");
        let revision = &report["revision"];
        let read = revision["statistics"]["read_bytes"].as_u64().expect("a number");
        (revision["hints"].clone(), read)
    }

    /// The clones beside the file.
    fn clones(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.disk.path()).expect("list the folder");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_clone = |path: &PathBuf| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("backy."))
        };
        paths.filter(is_clone).collect()
    }

    fn xfs_io(&self, commands: &[&str]) {
        let mut command = Command::new("xfs_io");
        for each in commands {
            command.args(["-c", each]);
        }
        works(command.arg(self.source()));
    }
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).expect("open");
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.write_all(bytes).expect("write");
}

fn is_since(hints: &Value) -> bool {
    hints["since"].is_string()
}

fn every_way_to_change_a_file(kind: &str) {
    let Some(mut scene) = Scene::new(kind) else { return };
    let (hints, read) = scene.backup();
    assert_eq!((hints["reason"].as_str(), read), (Some("this is the first backup"), BYTES as u64));
    let mut random = Random(3);
    let changes: [(&str, &[&str]); 13] = [
        ("nothing", &[]),
        ("a write", &["pwrite -S 0x11 1000000 5000"]),
        ("a direct write", &["open -d VM", "pwrite -S 0x12 -b 4096 2097152 65536"]),
        ("a write through a mapping", &["mmap -rw 0 4194304", "mwrite -S 0x13 3145729 9000"]),
        ("a hole", &["fpunch 1310720 200000"]),
        ("zeros", &["fzero 2621440 100000"]),
        ("less", &["fcollapse 1048576 65536"]),
        ("space ahead", &["falloc 0 12582912"]),
        ("shorter", &["truncate 5000001"]),
        ("longer", &["truncate 11000000"]),
        ("a part that it shares with itself", &["reflink VM 0 2097152 262144"]),
        ("the same bytes again", &["pwrite -S 0x11 4000000 4096", "pwrite -S 0x11 4000000 4096"]),
        ("a change that is undone", &["pwrite -S 0x77 65536 10", "pwrite -S 0x11 65536 10"]),
    ];
    for (what, commands) in changes {
        let path = text(&scene.source()).to_owned();
        if what == "less" && kind == "btrfs" {
            continue; // It cannot.
        }
        let commands: Vec<String> = commands.iter().map(|c| c.replace("VM", &path)).collect();
        scene.xfs_io(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        let (hints, read) = scene.backup();
        assert!(is_since(&hints), "{kind}: {what}: {hints}");
        let most = if what == "less" { BYTES as u64 } else { 4 << 20 };
        assert!(read <= most, "{kind}: {what}: {read} bytes were read");
        assert_eq!(scene.clones().len(), 1, "{kind}: {what}");
        // Also some at random, with nothing synced.
        for _ in 0..random.below(20) {
            let at = random.below(10_000_000);
            write_at(&scene.source(), at, &noise(random.number(), 1 + random.below(9000) as usize));
        }
        assert!(is_since(&scene.backup().0), "{kind}: after {what}");
    }
    scene.site.check_at_rest();
    let mode = fs::metadata(&scene.clones()[0]).expect("look up").permissions().mode();
    assert_eq!(mode & 0o7777, 0o400);
}

/// On XFS, every way to change a file is noticed, and what has not changed is not read.
#[test]
fn on_xfs_every_way_to_change_a_file_is_noticed() {
    every_way_to_change_a_file("xfs");
}

/// The same on btrfs.
#[test]
fn on_btrfs_every_way_to_change_a_file_is_noticed() {
    every_way_to_change_a_file("btrfs");
}

/// On btrfs a file may be compressed, moved, defragmented, and without copy on write: nothing that has changed is
/// missed.
#[test]
fn on_btrfs_files_may_be_compressed_and_moved() {
    for (what, before) in [("plain", None), ("compressed", Some("+c")), ("in place", Some("+C"))] {
        let Some(mut scene) = Scene::new("btrfs") else { return };
        let source = scene.source();
        if let Some(flag) = before {
            fs::remove_file(&source).expect("remove");
            fs::write(&source, b"").expect("write");
            works(Command::new("chattr").arg(flag).arg(&source));
            let line = b"a line that can be compressed well, again and again\n".repeat(80_000);
            fs::write(&source, line).expect("write");
        }
        scene.backup();
        let mount = scene.disk.path().to_owned();
        for round in 0..4 {
            for at in [0, 70_000, 1_000_000 + round * 8192, 3_000_000] {
                write_at(&source, at, &noise(round + at, 5000));
            }
            match round {
                1 => drop(works(
                    Command::new("btrfs").args(["filesystem", "defragment"]).arg(&source),
                )),
                2 => drop(works(
                    Command::new("btrfs").args(["balance", "start", "--full-balance"]).arg(&mount),
                )),
                // The second half of what is one extent over its first half.
                3 => scene.xfs_io(&[&format!("reflink {} 196608 131072 65536", text(&source))]),
                _ => {}
            }
            let (hints, _) = scene.backup();
            assert!(is_since(&hints), "{what}, round {round}: {hints}");
        }
        scene.site.check_at_rest();
    }
}

/// Another file under the name, a clone that is missing, that somebody has touched or replaced: everything is read, the
/// reason is given, and the backup after it relies on the clone again.
#[test]
fn doubts_about_a_file_or_its_clone() {
    type Doubt = fn(&Scene);
    let doubts: [(&str, Doubt); 4] = [
        ("is missing", |scene| fs::remove_file(&scene.clones()[0]).expect("remove")),
        ("has changed", |scene| {
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&scene.clones()[0], private).expect("chmod");
            write_at(&scene.clones()[0], 5, b"somebody");
            let back = fs::Permissions::from_mode(0o400);
            fs::set_permissions(&scene.clones()[0], back).expect("chmod");
        }),
        ("has changed", |scene| {
            let clone = scene.clones().remove(0);
            fs::remove_file(&clone).expect("remove");
            works(Command::new("cp").arg("--reflink=always").arg(scene.source()).arg(clone));
        }),
        ("it is another file", |scene| {
            let other = scene.disk.path().join("other");
            fs::write(&other, noise(9, BYTES)).expect("write");
            fs::rename(other, scene.source()).expect("rename");
        }),
    ];
    for (why, doubt) in doubts {
        let Some(mut scene) = Scene::new("xfs") else { return };
        scene.backup();
        assert!(is_since(&scene.backup().0));
        doubt(&scene);
        write_at(&scene.source(), 77, b"more");
        let looked = works(&mut scene.site.backy(&["source", "--json"]));
        let looked: Value = serde_json::from_slice(&looked).expect("a report");
        assert!(looked["reason"].as_str().expect("a reason").contains(why), "{looked}");
        let (hints, read) = scene.backup();
        let reason = hints["reason"].as_str().expect("a reason");
        assert!(reason.contains(why), "{hints}");
        let status = works(&mut scene.site.backy(&["status"]));
        let status = String::from_utf8(status).expect("text");
        assert!(
            status.contains(&format!("The newest backup read everything: {reason}.")),
            "{status}"
        );
        assert_eq!(read, BYTES as u64, "{why}");
        assert!(is_since(&scene.backup().0), "{why}");
        let is_private = |path: &&PathBuf| {
            fs::metadata(path).expect("look up").permissions().mode() & 0o7777 == 0o400
        };
        // What is in its place may be somebody's.
        assert_eq!(scene.clones().iter().filter(is_private).count(), 1, "{why}");
    }
}

/// Files of others with names like those of clones stay, and so does the clone of another archive.
#[test]
fn only_clones_of_the_archive_are_removed() {
    let Some(mut scene) = Scene::new("xfs") else { return };
    scene.backup();
    let other = scene.disk.path().join("other");
    works(&mut backy(&other, &["init", &format!("reflink:{}", text(&scene.source()))]));
    works(&mut backy(&other, &["backup", "--force"]));
    let own = scene.clones();
    let stranger = scene.disk.path().join("backy.0190a000-0000-7000-8000-000000000000.x");
    fs::write(&stranger, b"x").expect("write");
    // With the name of an older mark of this archive, but not made by backy.
    let id = own.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    let id = id.map(|name| name.split('.').nth(1).unwrap().to_owned()).next().unwrap();
    let like = scene.disk.path().join(format!("backy.{id}.0190a000-0000-7000-8000-000000000001"));
    fs::write(&like, b"mine").expect("write");
    for _ in 0..2 {
        scene.backup();
        works(&mut backy(&other, &["backup", "--force"]));
    }
    assert!(stranger.exists() && fs::read(&like).expect("read") == b"mine");
    assert_eq!(scene.clones().len(), 4, "{:?}", scene.clones());
}

/// `init` says that a file could be tracked, where it could, and `source` what the next backup reads.
#[test]
fn init_and_source_say_what_can_be_tracked() {
    for (kind, can) in [("xfs", true), ("ext4", false)] {
        let Some(disk) = Disk::make(kind, 320 << 20) else { return };
        let (source, folder) = (disk.path().join("vm.img"), disk.path().join("archive"));
        fs::write(&source, noise(1, BYTES)).expect("write the source");
        let said = works(&mut backy(&folder, &["init", text(&source)]));
        let said = String::from_utf8(said).expect("text");
        let advice = format!("source = \"reflink:{}\"", text(&source));
        assert_eq!(said.contains(&advice), can, "{kind}: {said}");
        let said = works(&mut backy(&folder, &["source"]));
        let said = String::from_utf8(said).expect("text");
        assert!(said.contains("Tracker:      none") && said.contains("reads everything"), "{said}");
    }
    let Some(mut scene) = Scene::new("xfs") else { return };
    scene.backup();
    let said = works(&mut scene.site.backy(&["source"]));
    let said = String::from_utf8(said).expect("text");
    let newest = scene.site.expected[0].uuid.to_string();
    let expected = format!("Next backup:  reads what has changed since revision {newest}");
    assert!(said.contains(&expected) && said.contains("Tracker:      reflink"), "{said}");
}

/// A file system that cannot clone: everything is read, and the report says why.
#[test]
fn without_clones_everything_is_read() {
    let Some(mut scene) = Scene::new("ext4") else { return };
    for _ in 0..2 {
        let (_, read) = scene.backup();
        assert_eq!(read, BYTES as u64);
    }
    let (hints, _) = scene.backup();
    assert!(hints["reason"].as_str().expect("a reason").contains("cannot clone"), "{hints}");
    let looked = works(&mut scene.site.backy(&["source", "--json"]));
    let looked: Value = serde_json::from_slice(&looked).expect("a report");
    assert!(looked["reason"].as_str().expect("a reason").contains("cannot clone"), "{looked}");
    scene.site.configure(|config| config + "[tracking]\nmode = \"require\"\n");
    let output = run(&mut scene.site.backy(&["backup", "--force"]));
    assert!(!output.status.success());
    assert!(words(&output).contains("mode = \"require\""), "{}", words(&output));
}

/// A backup that is killed at any of its steps at the source leaves at most one clone more, which the next one removes;
/// that one still reads only what has changed.
#[test]
fn a_killed_backup_leaves_no_clone_for_long() {
    if !strace::available() {
        return;
    }
    for (call, number) in
        [("linkat", "1"), ("pwrite64", "1"), ("renameat", "2"), ("unlinkat", "1"), ("fsync", "2")]
    {
        let Some(mut scene) = Scene::new("xfs") else { return };
        scene.backup();
        scene.backup();
        write_at(&scene.source(), 1 << 20, &noise(5, 100_000));
        let state = fs::read(scene.source()).expect("read");
        let what = format!("signal=SIGKILL:when={number}");
        let command = scene.site.backy(&["backup", "--force"]);
        let outcome = strace::inject(&command, call, &what, scene.disk.path());
        assert!(outcome.happened, "{call} {number}: {}", words(&outcome.output));
        scene.site.check(Some(&state));
        assert!(scene.clones().len() <= 2, "{call}: {:?}", scene.clones());
        let (hints, _) = scene.backup();
        assert!(is_since(&hints), "{call} {number}: {hints}");
        assert_eq!(scene.clones().len(), 1, "{call} {number}");
    }
}

/// A program that writes to the file all the time, in order: each revision has all that was written before some
/// moment, and nothing that was written after it.
#[test]
fn a_revision_is_the_file_at_one_moment() {
    for kind in ["xfs", "btrfs"] {
        let Some(scene) = Scene::new(kind) else { return };
        let (source, ends) = (scene.source(), AtomicBool::new(false));
        fs::write(&source, vec![0; BYTES]).expect("write");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Writes numbers from the end to the beginning, so that a reader that goes forward would see a later
                // one behind an earlier one.
                let mut file = OpenOptions::new().write(true).open(&source).expect("open");
                let slots = (BYTES / BLOCK_BYTES) as u64;
                for number in 1_u64.. {
                    if ends.load(Relaxed) {
                        break;
                    }
                    let slot = slots - 1 - number % slots;
                    file.seek(SeekFrom::Start(slot * BLOCK_BYTES as u64)).expect("seek");
                    file.write_all(&number.to_le_bytes()).expect("write");
                }
            });
            for _ in 0..6 {
                works(&mut scene.site.backy(&["backup", "--force"]));
                let image = fs::read(scene.site.folder.join("last.raw")).expect("read last.raw");
                let numbers: Vec<u64> = image
                    .chunks(BLOCK_BYTES)
                    .map(|block| u64::from_le_bytes(block[..8].try_into().expect("8 bytes")))
                    .collect();
                let slots = numbers.len() as u64;
                let last = numbers.iter().copied().max().expect("some");
                for (slot, number) in numbers.iter().enumerate() {
                    // The latest number of this slot that is not after the last one.
                    let behind = (last % slots + slots - (slots - 1 - slot as u64)) % slots;
                    let expected = last.saturating_sub(behind);
                    assert_eq!(*number, expected, "{kind}: slot {slot}, last {last}");
                }
            }
            ends.store(true, Relaxed);
        });
    }
}

/// After a restore onto the file, which changes only what differs, the next backup reads little and is right.
#[test]
fn a_restore_onto_the_file_is_noticed() {
    let Some(mut scene) = Scene::new("xfs") else { return };
    scene.backup();
    let first = fs::read(scene.source()).expect("read");
    write_at(&scene.source(), 1 << 20, &noise(5, 100_000));
    scene.backup();
    works(&mut scene.site.backy(&["restore", "-r", "1"]));
    assert!(fs::read(scene.source()).expect("read") == first);
    let (hints, read) = scene.backup();
    assert!(is_since(&hints) && read <= 4 * BLOCK_BYTES as u64, "{hints}, {read}");
    scene.site.check_at_rest();
}
