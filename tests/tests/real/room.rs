//! Removals and maintenance on a disk that is full to the last byte: they free space, and need none for that.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use crate::disks::Disk;
use crate::kill::{KILL, was_killed};
use crate::site::{Site, compare, fails, noise, run, text, words, works};
use crate::strace;

const MIB: usize = 1 << 20;
/// What the file `reserve` takes.
const RESERVE_BYTES: u64 = 4 << 20;

/// An archive on a small file system with the source elsewhere. Every backup but the first changes 2 MiB of its 10
/// MiB, and only the fifth changes the same again.
struct Small {
    disk: Disk,
    site: Site,
    _elsewhere: TempDir,
}

impl Small {
    fn make(revisions: u64) -> Option<Self> {
        let disk = Disk::make("ext4", 48 << 20)?;
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let source = elsewhere.path().join("source");
        fs::write(&source, []).expect("make the source");
        let mut site = Site::init(disk.path(), &source);
        let mut state = noise(70, 10 * MIB);
        for number in 0..revisions {
            let at = (number as usize % 5) * 2 * MIB;
            state[at..at + 2 * MIB].copy_from_slice(&noise(71 + number, 2 * MIB));
            site.backup(&state);
        }
        Some(Small { disk, site, _elsewhere: elsewhere })
    }

    /// Runs a command that has to work silently on the full disk. `goes` are the numbers of the revisions that it
    /// deletes.
    fn works(&mut self, args: &[&str], goes: &[usize]) {
        let output = run(&mut self.site.backy(args));
        let said = words(&output);
        assert!(output.status.success() && said.is_empty(), "{args:?}: {said}");
        self.forget(goes);
        self.site.check_at_rest();
    }

    fn forget(&mut self, goes: &[usize]) {
        let mut numbers = 0..;
        self.site.expected.retain(|_| numbers.next().is_some_and(|n| !goes.contains(&n)));
    }

    fn reserve_bytes(&self) -> u64 {
        reserve_bytes(&self.site.folder)
    }
}

fn reserve_bytes(folder: &Path) -> u64 {
    fs::metadata(folder.join("reserve")).map_or(0, |found| found.blocks() * 512)
}

/// With 0 bytes free the oldest revision is deleted at once, and its space fills the reserve again.
#[test]
fn the_oldest_revision_can_be_deleted_on_a_full_disk() {
    let Some(mut small) = Small::make(4) else { return };
    assert!(small.reserve_bytes() >= RESERVE_BYTES, "no reserve to begin with");
    let _ballast = small.disk.fill(0);
    small.works(&["rm", "first"], &[3]);
    assert!(small.reserve_bytes() >= RESERVE_BYTES, "no reserve again");
    assert!(small.disk.free_bytes() > MIB as u64, "it has made no room");
}

/// With 0 bytes free maintenance deletes what expires; without the reserve, too, as soon as there is space for a
/// manifest.
#[test]
fn maintenance_on_a_full_disk() {
    let Some(mut small) = Small::make(5) else { return };
    let ballast = small.disk.fill(0);
    small.works(&["maintenance", "-k", "4"], &[4]);
    drop(ballast);
    fs::remove_file(small.site.folder.join("reserve")).expect("remove the reserve");
    let _ballast = small.disk.fill(64 << 10);
    small.works(&["maintenance", "-k", "2"], &[2, 3]);
    assert!(small.reserve_bytes() > 0, "no reserve again");
}

/// With 0 bytes free a merge that fits into the reserve is made there.
#[test]
fn a_merge_that_fits_into_the_reserve() {
    let Some(mut small) = Small::make(4) else { return };
    let _ballast = small.disk.fill(0);
    small.works(&["rm", "1"], &[1]);
    assert!(small.reserve_bytes() > 0, "no reserve again");
}

/// A merge that fits nowhere is refused with what it needs, and changes nothing. The steps before it stay done. With
/// free space it works.
#[test]
fn a_merge_that_does_not_fit() {
    let Some(mut small) = Small::make(6) else { return };
    let ballast = small.disk.fill(0);
    let refused = |small: &Small, numbers: &str, into: usize| {
        let message = fails(&mut small.site.backy(&["rm", numbers]));
        let into = format!("{}.qcow2: cannot append about 6.0 MiB", small.site.expected[into].uuid);
        assert!(message.contains(&into), "{message}");
        assert!(message.contains("No space left on device; free some space"), "{message}");
    };
    refused(&small, "1,2,3", 4);
    small.site.check_at_rest();
    works(&mut small.site.backy(&["status"]));
    let kept = small.reserve_bytes();
    assert!(kept >= RESERVE_BYTES - (64 << 10), "only {kept} bytes of reserve are left");
    // What the oldest frees is not enough either.
    let oldest = small.site.expected[4].uuid;
    refused(&small, "1,2,3,first", 4);
    small.forget(&[5]);
    assert_eq!(small.site.expected.last().map(|revision| revision.uuid), Some(oldest));
    small.site.check_at_rest();
    ballast.remove();
    small.works(&["rm", "1,2,3"], &[1, 2, 3]);
    assert!(small.reserve_bytes() >= RESERVE_BYTES, "no reserve again");
}

/// With 0 bytes free the newest revision is deleted, and the image becomes that of the one before.
#[test]
fn the_newest_revision_can_be_deleted_on_a_full_disk() {
    let Some(mut small) = Small::make(3) else { return };
    let _ballast = small.disk.fill(0);
    small.works(&["rm", "latest"], &[0]);
    assert!(small.reserve_bytes() > 0, "no reserve again");
}

/// With 0 bytes free the newest stays when the one before has data for which the image has no space. The command says
/// so before it begins. The oldest is deleted all the same, and with free space so is the newest.
#[test]
fn the_newest_revision_stays_without_space_for_the_previous_one() {
    let Some(disk) = Disk::make("ext4", 64 << 20) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    let mut oldest = vec![0; 20 * MIB];
    oldest[..4 * MIB].copy_from_slice(&noise(95, 4 * MIB));
    site.backup(&oldest);
    site.backup(&noise(96, 20 * MIB));
    site.backup(&vec![0; 20 * MIB]);
    let ballast = disk.fill(0);
    let message = fails(&mut site.backy(&["rm", "latest"]));
    assert!(message.contains("cannot allocate about 20.0 MiB"), "{message}");
    site.check_at_rest();
    works(&mut site.backy(&["rm", "first"]));
    site.expected.pop();
    site.check_at_rest();
    ballast.remove();
    works(&mut site.backy(&["rm", "latest"]));
    site.expected.remove(0);
    site.check_at_rest();
}

/// The leftovers of an interrupted merge are cleaned up on a disk that is full by then, so that a removal can free
/// space.
#[test]
fn a_removal_on_a_full_disk_after_a_crash() {
    let Some(mut small) = Small::make(4) else { return };
    if !strace::available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let command = small.site.backy(&["rm", "1"]);
    let what = format!("{KILL}:when=4");
    let outcome = strace::inject(&command, "fdatasync", &what, place.path());
    was_killed(&outcome);
    small.site.check(None);
    let _ballast = small.disk.fill(0);
    small.works(&["rm", "first"], &[3]);
}

/// An export and a drill into a full disk fail, say so, and leave nothing there.
#[test]
fn an_export_and_a_drill_to_a_full_disk() {
    let Some(disk) = Disk::make("ext4", 24 << 20) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(elsewhere.path(), &[noise(90, 3 * MIB), noise(91, 3 * MIB)]);
    let target = disk.path().join("exported.qcow2");
    for left in [0, MIB as u64] {
        let ballast = disk.fill(left);
        let message = fails(&mut site.backy(&["export", "-r", "1", text(&target)]));
        assert!(message.contains("No space left on device; free some space"), "{message}");
        let folder = text(disk.path());
        let message = fails(&mut site.backy(&["drill", "-r", "1", "--dir", folder, "--", "true"]));
        assert!(message.contains("free some space"), "{message}");
        ballast.remove();
        let entries = fs::read_dir(disk.path()).expect("list the folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names: Vec<_> = names.filter(|name| name != "lost+found").collect();
        assert!(names.is_empty(), "left over: {names:?}");
    }
    works(&mut site.backy(&["export", "-r", "1", text(&target)]));
    compare(&target, "qcow2", &site.expected[1].bytes);
}

/// A restore that does not fit is refused before anything is written, by a dry run as well. What the target has
/// already and what becomes free in it count. With `--no-space-check` it begins anyway.
#[test]
fn a_restore_that_does_not_fit_is_not_started() {
    let Some(disk) = Disk::make("ext4", 32 << 20) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(elsewhere.path(), &[noise(74, 20 * MIB), noise(75, 40 * MIB)]);
    let target = disk.path().join("vm");
    let before = noise(76, 18 * MIB);
    fs::write(&target, &before).expect("make the target");
    for args in [&["restore", "--force", "--dry-run"][..], &["restore", "--force"]] {
        let said = fails(site.backy(args).arg(&target));
        assert!(said.contains("40.0 MiB") || said.contains("22.0 MiB"), "{args:?}: {said}");
        assert!(said.contains("free space"), "{args:?}: {said}");
        assert!(fs::read(&target).expect("read the target") == before, "{args:?}: written to");
    }
    let new = disk.path().join("new");
    fails(site.backy(&["restore"]).arg(&new));
    fails(site.backy(&["restore", "--no-space-check"]).arg(&new));
    assert!(!new.exists(), "half of a revision");
    // Of its 20 MiB the target has 18 already.
    works(site.backy(&["restore", "--force", "-r", "1"]).arg(&target));
    assert!(fs::read(&target).expect("read the target") == site.expected[1].bytes);
}
