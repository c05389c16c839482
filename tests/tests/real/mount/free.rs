//! What a mount releases: the disk of the archive once it is unmounted, and the mountpoint for the next one. And it
//! raises no alarm of whoever watches how full disks are.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use backy_tests::qemu::skipped;

use super::namespace::Namespace;
use crate::mounted::{Mount, Mountpoint, fuse_available, signal, until};
use crate::site::{BLOCK_BYTES, Site, noise, run, text, unmounts, words, works};

/// A file system of its own for an archive. Prints a message and returns nothing where that is impossible.
struct Disk {
    image: std::path::PathBuf,
    on: Mountpoint,
}

impl Disk {
    fn new(place: &Path) -> Option<Self> {
        if !fuse_available() {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            skipped("only root can mount a disk");
            return None;
        }
        let image = place.join("disk.img");
        File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("make a disk");
        works(Command::new("mkfs.ext4").arg("-q").arg(&image));
        let disk = Disk { image, on: Mountpoint::new() };
        disk.plug_in();
        Some(disk)
    }

    fn plug_in(&self) {
        self.on.mount("loop", &self.image);
    }
}

/// When `umount` of the mount has returned, that of the archive's disk works at once, whatever was read.
#[test]
fn the_disk_of_the_archive_is_free_when_umount_returns() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = Disk::new(temp.path()) else { return };
    let contents = [noise(900, 3 * BLOCK_BYTES), noise(901, 3 * BLOCK_BYTES)];
    let site = Site::with_backups(&disk.on.path, &contents);
    let on = Mountpoint::new();
    for round in 0..24 {
        works(site.backy(&["mount"]).arg(&on.path));
        let read = match round % 3 {
            0 => "true",
            1 => "cat latest by-number/1 >/dev/null",
            _ => "find . -type f -exec head -c 100 {} + >/dev/null",
        };
        let script = format!("cd \"$1\" && {read}");
        works(Command::new("sh").args(["-e", "-c", &script, "sh"]).arg(&on.path));
        on.unmount();
        let freed = run(Command::new("umount").arg(&disk.on.path));
        assert!(freed.status.success(), "round {round}, {read}: {}", words(&freed));
        disk.plug_in();
    }
    disk.on.unmount();
}

/// With the helper of the package `umount` of a relative path waits for files that are being closed, and unmounts.
#[test]
fn the_helper_of_umount_unmounts() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = Disk::new(temp.path()) else { return };
    let Some(view) = Namespace::new() else { return };
    let site = Site::with_backups(&disk.on.path, &[noise(905, 3 * BLOCK_BYTES)]);
    // Seen by the helper, and by nobody else.
    let sbin = temp.path().join("sbin");
    fs::create_dir(&sbin).expect("make a folder");
    let dist = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/mount/umount.fuse.backy");
    let mark = temp.path().join("was-run");
    let script = format!("#!/bin/sh\necho \"$*\" >>{}\nexec {dist} \"$@\"\n", text(&mark));
    let helper = sbin.join("umount.fuse.backy");
    fs::write(&helper, script).expect("write the helper");
    fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).expect("make it a program");
    let lower = format!("lowerdir={}:/usr/sbin", text(&sbin));
    works(view.command("mount").args(["-t", "overlay", "-o", &lower, "none", "/usr/sbin"]));
    // The namespace has the disk, too, and would keep it.
    unmounts(view.command("umount").arg(&disk.on.path));
    disk.on.unmount();
    works(view.command("mount").args(["-o", "loop"]).arg(&disk.image).arg(&disk.on.path));
    let on = Mountpoint::new();
    let script = "cd \"$1/..\" && for n in 1 2 3 4 5 6 7 8; do
        \"$2\" -b \"$3\" mount mnt && cat mnt/latest >/dev/null && umount mnt &&
            umount \"$4\" && mount -o loop \"$5\" \"$4\" || exit 1
        done; umount \"$4\"";
    let mut sh = view.command("sh");
    sh.args(["-c", script, "sh"]).arg(&on.path).arg(site.backy(&[]).get_program());
    works(sh.arg(&site.folder).arg(&disk.on.path).arg(&disk.image));
    let calls = fs::read_to_string(&mark).expect("the helper was run");
    assert_eq!(calls.lines().count(), 8, "{calls}");
}

/// As long as a file is open, its archive's disk is in use and cannot be unmounted under the reader.
#[test]
fn the_disk_is_in_use_while_a_file_is_open() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = Disk::new(temp.path()) else { return };
    let site = Site::with_backups(&disk.on.path, &[noise(902, 3 * BLOCK_BYTES)]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let file = File::open(mount.path("latest")).expect("open the newest");
    let refused = run(Command::new("umount").arg(&disk.on.path));
    assert!(words(&refused).contains("busy"), "{}", words(&refused));
    drop(file);
    disk.on.unmount();
    // Without its disk nothing can be read, and no wrong bytes are returned. With the disk, reads work.
    File::open(mount.path("latest")).expect_err("its disk is not there");
    disk.plug_in();
    let found = fs::read(mount.path("latest"));
    // A disk that is mounted again may have another number: then the mount belongs to what no longer exists.
    assert!(found.is_err() || found.is_ok_and(|bytes| bytes == site.expected[0].bytes));
    mount.unmount();
    disk.on.unmount();
}

/// Stops a process until dropped.
struct Stopped(u32);

impl Stopped {
    fn new(process: u32) -> Self {
        signal(process, "STOP");
        Stopped(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = run(Command::new("kill").args(["-s", "CONT", &self.0.to_string()]));
    }
}

/// The process of a mount that has ended spares another one that has taken its place meanwhile: it sends it no
/// request, which would keep that one in use.
#[test]
fn a_mount_that_has_ended_leaves_the_next_one_alone() {
    if !fuse_available() {
        return;
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6_u32), Some(8)) {
        skipped("before Linux 6.8 a mount has no number of its own");
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(903, BLOCK_BYTES)]);
    let on = Mountpoint::new();
    works(site.backy(&["mount"]).arg(&on.path));
    let [first] = on.processes()[..] else { panic!("there is no process, or several") };
    let late = Stopped::new(first);
    unmounts(Command::new("fusermount3").arg("-u").arg(&on.path));
    works(site.backy(&["mount"]).arg(&on.path));
    let second = on.processes().into_iter().find(|process| *process != first).expect("its process");
    {
        // Whoever sends it a request waits.
        let _silent = Stopped::new(second);
        drop(late);
        until("the first has ended", || !on.processes().contains(&first));
    }
    assert!(fs::read(on.path.join("latest")).expect("read") == site.expected[0].bytes);
    on.unmount();
    until("both have ended", || on.processes().is_empty());
}

/// `df` prints no percentage for a mount, of bytes or of files, so that it triggers no alarm.
#[test]
fn df_prints_no_share() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &[noise(904, 3 * BLOCK_BYTES)]);
    for args in [&[][..], &["--writable"]] {
        let Some(mount) = Mount::make(&site, args) else { return };
        let mut df = Command::new("df");
        let said = works(df.args(["--output=pcent,ipcent", text(&mount.on.path)]));
        let said = String::from_utf8(said).expect("text");
        let shares: Vec<&str> = said.lines().last().expect("a line").split_whitespace().collect();
        assert_eq!(shares, ["-", "-"], "{args:?}: {said}");
        mount.unmount();
    }
}
