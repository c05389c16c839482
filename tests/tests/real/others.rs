//! Other programs that have an image open: QEMU's locks, and the file that `find` names for them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use backy_tests::qemu;

use crate::disks::Disk;
use crate::mounted::until;
use crate::processes::{Running, wait_for_lock};
use crate::site::{Site, compare, failed, fails, noise, run, text, words, works};

const MIB: usize = 1 << 20;

/// Whether `qemu-nbd` is here. Prints `SKIPPED` when not.
fn available() -> bool {
    let found = Command::new("qemu-nbd").arg("--version").stdout(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        qemu::skipped("qemu-nbd is not installed");
    }
    found
}

/// Whether somebody has locks of its open file description on a file.
fn is_locked(path: &Path) -> bool {
    let inode = format!(":{} ", fs::metadata(path).expect("look it up").ino());
    let table = fs::read_to_string("/proc/locks").expect("the table of locks");
    table.lines().any(|line| line.contains("OFDLCK") && line.contains(&inode))
}

/// A program of QEMU that has an image open until this is dropped, and with it `below`.
fn serve(place: &Path, format: &str, image: &Path, below: &Path, options: &[&str]) -> Running {
    let socket = place.join("socket");
    let _ = fs::remove_file(&socket);
    let mut command = Command::new("qemu-nbd");
    command.args(["--persistent", "--shared=0", "-f", format, "-k"]).arg(&socket);
    let running = Running::start(command.args(options).arg(image));
    until("qemu-nbd has it open", || is_locked(below));
    running
}

fn delta(site: &Site, number: usize) -> PathBuf {
    site.folder.join(format!("{}.qcow2", site.expected[number].uuid))
}

/// A target that a program of QEMU writes to is refused, with the program's name and without a write. Afterwards it
/// is a target again.
#[test]
fn a_restore_to_what_qemu_has_open_is_refused() {
    if !available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, MIB)]);
    let other = place.path().join("other");
    let bytes = noise(2, MIB);
    for (target, options) in [(&site.source, &[][..]), (&other, &[]), (&other, &["--read-only"])] {
        fs::write(target, &bytes).expect("write the target");
        let machine = serve(place.path(), "raw", target, target, options);
        for more in [&[][..], &["--dry-run"]] {
            let mut restore = site.backy(&["restore", "--force", text(target)]);
            let message = fails(restore.args(more));
            assert!(message.contains("qemu-nbd (process "), "{message}");
        }
        assert!(fs::read(target).expect("read the target") == bytes, "it was written to");
        drop(machine);
    }
    works(&mut site.backy(&["restore", "--force", text(&other)]));
}

/// A running machine's disk can be backed up. Only overwriting it is refused.
#[test]
fn a_disk_that_qemu_has_open_can_be_backed_up() {
    if !available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, MIB)]);
    let _machine = serve(place.path(), "raw", &site.source, &site.source, &[]);
    works(&mut site.backy(&["backup", "--force"]));
}

/// While QEMU reads an older revision, no backup overwrites in place what it reads: the backup fails before it
/// begins, and names the reader. On a clone neither waits for the other.
#[test]
fn a_backup_does_not_overwrite_what_qemu_reads() {
    if !available() {
        return;
    }
    let in_place = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let clones = Disk::make("xfs", 320 << 20);
    let folders = [(false, in_place.path())].into_iter();
    for (on_clone, place) in folders.chain(clones.iter().map(|disk| (true, disk.path()))) {
        let mut site = Site::with_backups(place, &[noise(1, MIB), noise(2, MIB)]);
        let elsewhere = tempfile::tempdir().expect("a temporary folder");
        let image = site.folder.join("last.raw");
        let reader = serve(elsewhere.path(), "qcow2", &delta(&site, 1), &image, &["--read-only"]);
        site.write_source(&noise(3, MIB));
        if on_clone {
            site.backup_source(&noise(3, MIB));
        } else {
            let before = site.contents();
            let message = fails(&mut site.backy(&["backup", "--force"]));
            let right = message.contains("last.raw") && message.contains("qemu-nbd (process ");
            assert!(right, "{message}");
            assert!(site.contents() == before, "a refused backup changed the archive");
        }
        drop(reader);
        site.backup(&noise(4, MIB));
        site.check_at_rest();
    }
}

/// While a backup updates the image in place, QEMU refuses to read an older revision instead of returning a mixture.
/// Afterwards it reads it.
#[test]
fn qemu_does_not_read_what_a_backup_overwrites() {
    if !available() {
        return;
    }
    let place = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let mut site = Site::with_backups(place.path(), &[noise(1, 8 * MIB), noise(2, 8 * MIB)]);
    let next = noise(3, 8 * MIB);
    site.write_source(&next);
    let mut backup =
        Running::start(&mut site.backy(&["backup", "--force", "--json", "--limit-rate", "4M"]));
    wait_for_lock(&site, &mut backup);
    std::thread::sleep(Duration::from_millis(300));
    let target = place.path().join("converted");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "qcow2", "-O", "raw"]).arg(delta(&site, 1)).arg(&target);
    let refused = run(&mut convert);
    assert!(backup.is_running(), "it was too fast");
    assert!(!refused.status.success() && words(&refused).contains("lock"), "{}", words(&refused));
    backup.finish();
    let uuid = site.committed().remove(0);
    site.push(&uuid, &next);
    compare(&delta(&site, 2), "qcow2", &site.expected[2].bytes);
    site.check_at_rest();
}

/// `find` names a file that holds the revision, also while a backup in place works on `last.raw`, and after it was
/// killed.
#[test]
fn find_never_names_a_file_that_is_being_changed() {
    let place = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let mut site = Site::with_backups(place.path(), &[noise(1, 16 * MIB)]);
    let image = site.folder.join("last.raw");
    let found = |site: &Site| {
        let output = run(&mut site.backy(&["find"]));
        assert!(output.status.success(), "{}", words(&output));
        (
            String::from_utf8(output.stdout.clone()).expect("a path").trim_end().to_owned(),
            words(&output),
        )
    };
    assert_eq!(found(&site), (text(&image).to_owned(), String::new()));
    let next = noise(2, 16 * MIB);
    site.write_source(&next);
    let overlay = delta(&site, 0);
    let mut command = site.backy(&["backup", "--force", "--limit-rate", "8M"]);
    let mut backup = command.spawn().expect("start a backup");
    until("it has begun", || overlay.exists());
    for _ in 0..5 {
        let (path, said) = found(&site);
        assert_eq!(path, text(&overlay));
        assert!(said.contains("flock"), "{said}");
        std::thread::sleep(Duration::from_millis(100));
    }
    backup.kill().expect("kill it");
    backup.wait().expect("wait for it");
    assert_eq!(found(&site).0, text(&overlay));
    if qemu::available() {
        compare(&overlay, "qcow2", &site.expected[0].bytes);
    }
    let output = run(&mut site.backy(&["backup", "--force", "--json"]));
    assert!(output.status.success(), "{}", words(&output));
    let uuid = site.committed().remove(0);
    site.push(&uuid, &next);
    site.check_at_rest();
    assert_eq!(found(&site), (text(&image).to_owned(), String::new()));
}

/// A writer that finds QEMU using the image undoes nothing until QEMU has ended, and then does.
#[test]
fn undoing_waits_for_qemu() {
    if !available() {
        return;
    }
    let place = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, 48 * MIB)]);
    site.write_source(&noise(2, 48 * MIB));
    let image = site.folder.join("last.raw");
    let changed = || fs::metadata(&image).and_then(|found| found.modified()).expect("its time");
    let before = changed();
    let mut command = site.backy(&["backup", "--force", "--limit-rate", "16M"]);
    let mut backup = command.spawn().expect("start a backup");
    until("it writes to the image", || changed() != before);
    backup.kill().expect("kill it");
    backup.wait().expect("wait for it");
    let reader = serve(place.path(), "qcow2", &delta(&site, 0), &image, &["--read-only"]);
    let output = run(&mut site.backy(&["maintenance"]));
    failed(&output);
    assert!(words(&output).contains("qemu-nbd (process "), "{}", words(&output));
    drop(reader);
    works(&mut site.backy(&["tag", "0", "+kept"]));
    site.check_at_rest_here();
}

/// A killed backup that has not written to the image is undone although QEMU relies on the image.
#[test]
fn undoing_what_has_written_nothing_does_not_wait() {
    if !available() {
        return;
    }
    let place = tempfile::tempdir_in("/dev/shm").expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, 16 * MIB)]);
    let mut command = site.backy(&["backup", "--force", "--limit-rate", "8M"]);
    let mut backup = command.spawn().expect("start a backup");
    until("it has begun", || delta(&site, 0).exists());
    std::thread::sleep(Duration::from_millis(700));
    backup.kill().expect("kill it");
    backup.wait().expect("wait for it");
    let image = site.folder.join("last.raw");
    let reader = serve(place.path(), "raw", &image, &image, &["--read-only"]);
    works(&mut site.backy(&["maintenance"]));
    assert!(!delta(&site, 0).exists(), "it was not undone");
    drop(reader);
    site.check_at_rest_here();
}
