//! Where the file system can clone, a backup works on a clone of `last.raw`, which stays as it is until the end.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use crate::disks::Disk;
use crate::site::{BLOCK_BYTES, Site, run, states, words};
use crate::strace;

/// Grown, odd, shrunk below the first, and whole blocks.
const SIZES: [usize; 4] =
    [20 * BLOCK_BYTES, 33 * BLOCK_BYTES + 4099, 12 * BLOCK_BYTES - 1, 30 * BLOCK_BYTES];

fn disk(kind: &str) -> Option<Disk> {
    Disk::make(kind, 320 << 20)
}

fn backups_use_clones(kind: &str) {
    let Some(disk) = disk(kind) else { return };
    let states = states(11, &SIZES);
    let mut site = Site::with_backups(disk.path(), &[]);
    let image = site.folder.join("last.raw");
    for (number, state) in states.iter().enumerate() {
        let before = fs::metadata(&image).map(|found| found.ino()).ok();
        let report = site.backup(state);
        assert_eq!(report["cloned"], number > 0, "{kind}: backup {number}");
        let after = fs::metadata(&image).expect("look up last.raw").ino();
        assert_ne!(before, Some(after), "{kind}: last.raw is the same file as before");
        site.check_at_rest();
    }
}

/// On XFS, backups of a source that grows and shrinks are made on clones, and every revision reads right.
#[test]
fn on_xfs_backups_are_made_on_clones() {
    backups_use_clones("xfs");
}

/// The same on btrfs.
#[test]
fn on_btrfs_backups_are_made_on_clones() {
    backups_use_clones("btrfs");
}

/// A program that holds `last.raw` open, such as `dd` or a virtual machine, reads the old revision to its end,
/// however many backups are made meanwhile.
#[test]
fn whoever_has_last_raw_open_reads_the_old_bytes() {
    for kind in ["xfs", "btrfs"] {
        let Some(disk) = disk(kind) else { continue };
        let states = states(12, &SIZES);
        let mut site = Site::with_backups(disk.path(), &states[..1]);
        let mut held = File::open(site.folder.join("last.raw")).expect("open last.raw");
        let mut bytes = vec![0; 5000];
        held.read_exact(&mut bytes).expect("read the beginning");
        site.backup(&states[1]);
        site.backup(&states[2]);
        held.read_to_end(&mut bytes).expect("read the rest");
        assert!(bytes == states[0], "{kind}: last.raw changed while it was open");
        site.check_at_rest();
    }
}

/// A backup on btrfs that is killed when half of the clone is written, or just before or after the clone replaces the
/// image, loses nothing, and the next one works.
#[test]
fn a_backup_on_btrfs_killed_in_the_middle() {
    let Some(disk) = disk("btrfs") else { return };
    if !strace::available() {
        return;
    }
    let states = states(13, &SIZES);
    for (number, call) in
        [("2", "pwrite64"), ("5", "pwrite64"), ("2", "renameat"), ("3", "renameat")]
    {
        let place = disk.path().join(format!("{call}-{number}"));
        fs::create_dir(&place).expect("make a folder");
        let mut site = Site::with_backups(&place, &states[..2]);
        site.write_source(&states[2]);
        let command = site.backy(&["backup", "--force"]);
        let what = format!("signal=SIGKILL:when={number}");
        let outcome = strace::inject(&command, call, &what, &place);
        assert!(outcome.happened, "{call} {number}: {}", words(&outcome.output));
        site.check(Some(&states[2]));
        site.backup(&states[3]);
        site.check_at_rest();
    }
}

/// A file system with clones that becomes full during a backup: an error, nothing lost, no clone left behind.
#[test]
fn a_full_disk_with_clones() {
    let Some(disk) = disk("xfs") else { return };
    let source = tempfile::tempdir().expect("a temporary folder");
    let old = crate::site::noise(14, 6 << 20);
    let new = crate::site::noise(15, 6 << 20);
    let path = source.path().join("source");
    fs::write(&path, &old).expect("write the source");
    let mut site = Site::init(disk.path(), &path);
    site.backup(&old);
    let ballast = disk.fill(3 << 20);
    let free = disk.free_bytes();
    site.write_source(&new);
    let output = run(&mut site.backy(&["backup", "--force"]));
    crate::site::failed(&output);
    assert!(words(&output).contains("No space left on device"), "{}", words(&output));
    site.check_at_rest();
    assert!(disk.free_bytes() + (256 << 10) >= free, "the room has not been given back");
    ballast.remove();
    site.backup(&new);
    site.check_at_rest();
}
