//! A file system that becomes full: an error that says so, an archive that is as it was, and a next backup that works.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::disks::Disk;
use crate::site::{Site, backy, fails, noise, text, works};

const MIB: usize = 1 << 20;

/// A small file system for the archive, and a source elsewhere.
fn small_disk() -> Option<(Disk, TempDir, PathBuf)> {
    let disk = Disk::make("ext4", 24 << 20)?;
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, noise(1, 4 * MIB)).expect("write the source");
    Some((disk, elsewhere, source))
}

/// The message names a file of the archive, and says what is wrong and what to do.
fn check_message(message: &str, disk: &Disk) {
    assert!(message.contains("No space left on device"), "{message}");
    assert!(message.contains(text(disk.path())), "{message}");
    assert!(message.contains("make room"), "{message}");
}

/// However much or little room there is for the next backup: if it does not suffice that is said, with the file, and the
/// archive is as it was, without a file that keeps the disk full; once there is room the next backup works.
#[test]
fn the_disk_becomes_full_during_a_backup() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut site = Site::init(disk.path(), &source);
    // The second half of the source is a hole, which costs the image room when it is written to.
    let mut state = noise(2, 4 * MIB);
    state[2 * MIB..].fill(0);
    site.backup(&state);
    state[..MIB].copy_from_slice(&noise(3, MIB));
    site.backup(&state);
    let next = noise(4, 5 * MIB - 77);
    site.write_source(&next);
    // The old blocks take 2 MiB, the image grows by 3 MiB.
    for left_kib in [0, 4, 12, 32, 100, 500, 1200, 1900, 2100, 2600, 3300, 4100, 4800, 5000] {
        let ballast = disk.fill(left_kib << 10);
        let free = disk.free_bytes();
        let message = fails(&mut site.backy(&["backup", "--force", "--no-space-check"]));
        check_message(&message, &disk);
        site.check(None);
        let now = disk.free_bytes();
        assert!(now + (64 << 10) >= free, "{left_kib} KiB: {free} bytes were free, {now} are now");
        ballast.remove();
    }
    site.backup(&next);
    site.check_at_rest();
}

/// The room that a failed backup took is given back at once, also when the disk is full to the last byte: everything
/// reads, the state is told, and a backup into the room that was made works.
#[test]
fn after_making_room_the_next_backup_works() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut site = Site::init(disk.path(), &source);
    let states: Vec<Vec<u8>> = (0..3).map(|n| noise(20 + n, 3 * MIB)).collect();
    site.backup(&states[0]);
    let ballast = disk.fill(1 << 20);
    site.write_source(&states[1]);
    check_message(&fails(&mut site.backy(&["backup", "--force", "--no-space-check"])), &disk);
    site.check_at_rest();
    works(&mut site.backy(&["status"]));
    // And once more: the failed one must not have made it worse.
    check_message(&fails(&mut site.backy(&["backup", "--force", "--no-space-check"])), &disk);
    site.check_at_rest();
    ballast.remove();
    site.backup(&states[1]);
    site.backup(&states[2]);
    site.check_at_rest();
}

/// `init` on a full disk fails, and says so; with room again it works in the same folder.
#[test]
fn the_disk_is_full_at_init() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let folder = disk.path().join("archive");
    let mut failures = 0;
    for left_kib in [0, 4, 8, 12] {
        let ballast = disk.fill(left_kib << 10);
        let output = crate::site::run(&mut backy(&folder, &["init", text(&source)]));
        ballast.remove();
        if output.status.success() {
            break;
        }
        failures += 1;
        crate::site::failed(&output);
        check_message(&crate::site::words(&output), &disk);
    }
    assert!(failures > 0, "the disk was not full");
    if !folder.join("manifest.json").exists() {
        works(&mut backy(&folder, &["init", text(&source)]));
    }
    let state = fs::read(&source).expect("read the source");
    let mut site = Site { folder, source, expected: Vec::new() };
    site.backup(&state);
    site.check_at_rest();
}

/// A first backup that does not fit fails, leaves no half image behind, and works once there is room.
#[test]
fn the_disk_becomes_full_during_the_first_backup() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut site = Site::init(disk.path(), &source);
    let state = fs::read(&source).expect("read the source");
    for left_kib in [0, 64, 2000] {
        let ballast = disk.fill(left_kib << 10);
        check_message(&fails(&mut site.backy(&["backup", "--force", "--no-space-check"])), &disk);
        assert!(!site.folder.join("last.raw").exists(), "half an image is left");
        assert!(!site.folder.join("last.raw.new").exists(), "half an image is left");
        ballast.remove();
    }
    site.backup(&state);
    site.check_at_rest();
}

/// A restore to a file on a full disk fails, says so, and leaves no half file.
#[test]
fn the_disk_becomes_full_during_a_restore() {
    let Some((disk, elsewhere, _source)) = small_disk() else { return };
    let state = noise(30, 3 * MIB);
    let site = Site::with_backups(elsewhere.path(), std::slice::from_ref(&state));
    let ballast = disk.fill(MIB as u64);
    let target = disk.path().join("restored");
    let message = fails(&mut site.backy(&["restore", text(&target)]));
    assert!(message.contains("No space left on device"), "{message}");
    let left: Vec<_> = fs::read_dir(disk.path())
        .expect("list the folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter(|name| name != "lost+found" && name != "ballast")
        .collect();
    assert!(left.is_empty(), "left over: {left:?}");
    ballast.remove();
    works(&mut site.backy(&["restore", text(&target)]));
    assert!(fs::read(&target).expect("read the target") == state);
}
