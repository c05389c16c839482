//! A file system that becomes full: an error that says so, an archive that is as it was, and a next backup that
//! works.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use backy_tests::legacy::OldArchive;
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

/// The message names a file of the archive, the problem and the remedy.
fn check_message(message: &str, disk: &Disk) {
    assert!(message.contains("No space left on device"), "{message}");
    assert!(message.contains(text(disk.path())), "{message}");
    assert!(message.contains("free some space"), "{message}");
}

/// However much or little space there is for the next backup: if it is not enough, the error says so and names the
/// file. The archive is as it was, without a file that keeps the disk full. Once there is space the next backup
/// works.
#[test]
fn the_disk_becomes_full_during_a_backup() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut site = Site::init(disk.path(), &source);
    // The second half of the source is a hole, and writing to it costs the image space.
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

/// A failed backup frees its space at once, also when the disk is full to the last byte: everything reads, the status
/// works, and a backup into the freed space works.
#[test]
fn the_next_backup_works_after_space_was_freed() {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut site = Site::init(disk.path(), &source);
    let states: Vec<Vec<u8>> = (0..3).map(|n| noise(20 + n, 3 * MIB)).collect();
    site.backup(&states[0]);
    let ballast = disk.fill(1 << 20);
    site.write_source(&states[1]);
    check_message(&fails(&mut site.backy(&["backup", "--force", "--no-space-check"])), &disk);
    site.check_at_rest();
    works(&mut site.backy(&["status"]));
    // Once more: the failed one must not have made it worse.
    check_message(&fails(&mut site.backy(&["backup", "--force", "--no-space-check"])), &disk);
    site.check_at_rest();
    ballast.remove();
    site.backup(&states[1]);
    site.backup(&states[2]);
    site.check_at_rest();
}

/// `init` on a full disk fails, and says so. With free space it works in the same folder.
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

/// A first backup that does not fit fails, leaves no half image behind, and works once there is space.
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
    assert!(message.contains("it needs 3.0 MiB of free space"), "{message}");
    let message = fails(&mut site.backy(&["restore", "--no-space-check", text(&target)]));
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

/// A command on a disk with free space from 0 bytes up to what it takes: an error that says so, or success. In both
/// cases everything reads right, and with more space the rest is done.
fn with_ever_more_room(args: &[&str], prepare: impl Fn(&Site), may_go: &[usize]) {
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut base = Site::init(disk.path(), &source);
    let mut state = noise(40, 2 * MIB);
    for number in 0..4 {
        let at = number * MIB / 4;
        state[at..at + MIB / 2].copy_from_slice(&noise(41 + number as u64, MIB / 2));
        base.backup(&state);
    }
    // The reserve for a full disk would let most of it work.
    fs::remove_file(base.folder.join("reserve")).expect("remove the reserve");
    let place = disk.path().join("trial");
    let (mut failures, mut successes) = (0, 0);
    for left_kib in [0, 4, 8, 12, 16, 24, 40, 80, 200, 420, 700, 2000] {
        fs::create_dir(&place).expect("make a folder");
        let mut site = base.copy(&place);
        prepare(&site);
        let ballast = disk.fill(left_kib << 10);
        let output = crate::site::run(&mut site.backy(args));
        let told = crate::kill::Told(format!("{args:?} with {left_kib} KiB"));
        match output.status.success() {
            true => successes += 1,
            false => {
                failures += 1;
                crate::site::failed(&output);
                check_message(&crate::site::words(&output), &disk);
            }
        }
        let before = site.expected.len();
        site.reconcile(may_go, None);
        site.check_here();
        let has_gone = before - site.expected.len();
        assert!(has_gone == may_go.len() || !output.status.success(), "told that it worked");
        ballast.remove();
        site.backup(&state);
        site.check_at_rest_here();
        drop(told);
        fs::remove_dir_all(&place).expect("remove the trial");
    }
    assert!(successes > 0, "{args:?} has never worked");
    assert!(failures > 0 || args[0] == "scrub", "{args:?} has never failed");
}

/// Maintenance, whose merge and manifests need space.
#[test]
fn the_disk_becomes_full_during_maintenance() {
    with_ever_more_room(&["maintenance", "-k", "1"], |_| {}, &[1, 2, 3]);
    with_ever_more_room(&["rm", "1"], |_| {}, &[1]);
}

/// A tag, which writes a manifest.
#[test]
fn the_disk_becomes_full_during_a_tag() {
    with_ever_more_room(&["tag", "1", "+x"], |_| {}, &[]);
}

/// A scrub that repairs a header, and records what it has read.
#[test]
fn the_disk_becomes_full_during_a_scrub() {
    let damage = |site: &Site| {
        let delta = site.folder.join(format!("{}.qcow2", site.expected[2].uuid));
        let delta = fs::File::options().write(true).open(delta).expect("open a delta");
        std::os::unix::fs::FileExt::write_all_at(&delta, &[0; 512], 0).expect("zero its header");
    };
    let Some((disk, _elsewhere, source)) = small_disk() else { return };
    let mut base = Site::init(disk.path(), &source);
    for number in 0..4 {
        base.backup(&noise(50 + number, MIB));
    }
    fs::remove_file(base.folder.join("reserve")).expect("remove the reserve");
    let place = disk.path().join("trial");
    let mut failures = 0;
    for left_kib in [0, 4, 8, 12, 16, 24, 40, 2000] {
        fs::create_dir(&place).expect("make a folder");
        let mut site = base.copy(&place);
        damage(&site);
        let ballast = disk.fill(left_kib << 10);
        let first = crate::site::run(&mut site.backy(&["scrub"]));
        let said = crate::site::words(&first);
        failures += usize::from(said.contains("No space left on device"));
        assert_eq!(first.status.code(), Some(1), "it finds something: {said}");
        ballast.remove();
        // If it was not repaired then, it is now, which is a finding as well. Then all is well.
        crate::site::run(&mut site.backy(&["scrub"]));
        works(&mut site.backy(&["scrub"]));
        site.check_at_rest_here();
        site.backup(&noise(54, MIB));
        site.check_at_rest_here();
        fs::remove_dir_all(&place).expect("remove the trial");
    }
    assert!(failures > 0, "it has never failed");
}

/// An import, which makes revision after revision: complete ones stay, and it continues when there is space.
#[test]
fn the_disk_becomes_full_during_an_import() {
    let Some((disk, elsewhere, _source)) = small_disk() else { return };
    let states: Vec<Vec<u8>> = (0..3).map(|number| noise(60 + number, MIB)).collect();
    let old = OldArchive::write(&elsewhere.path().join("old"), 65_536, 1, &states);
    let folder = disk.path().join("archive");
    let mut made = [false; 4];
    for left_kib in [0, 4, 12, 16, 40, 700, 1100, 1500, 2300, 2700, 3400, 5000, 12_000] {
        let ballast = disk.fill(left_kib << 10);
        let mut site =
            Site { folder: folder.clone(), source: elsewhere.path().into(), expected: vec![] };
        let output = crate::site::run(&mut site.backy(&["import", text(&old.folder)]));
        if !output.status.success() {
            crate::site::failed(&output);
            check_message(&crate::site::words(&output), &disk);
        }
        let committed = match folder.join("manifest.json").exists() {
            true => site.committed(),
            false => vec![],
        };
        made[committed.len()] = true;
        assert!(committed.len() == 3 || !output.status.success(), "told that it worked");
        old.revisions[..committed.len()].iter().for_each(|(uuid, bytes)| site.push(uuid, bytes));
        if !committed.is_empty() {
            site.check_here();
        }
        ballast.remove();
        works(&mut site.backy(&["import", text(&old.folder)]));
        site.expected.clear();
        old.revisions.iter().for_each(|(uuid, bytes)| site.push(uuid, bytes));
        site.check_at_rest_here();
        fs::remove_dir_all(&folder).expect("remove the archive");
    }
    assert!(made[0] && made[3] && (made[1] || made[2]), "{made:?}");
}

/// A run in which the disk of one archive is full makes the revisions of all others. It names that archive and the
/// reason in one line, and the next run with free space makes its revision as well.
#[test]
fn the_disk_of_one_archive_of_a_run_becomes_full() {
    let Some((disk, elsewhere, source)) = small_disk() else { return };
    let others = [1, 2].map(|number| elsewhere.path().join(number.to_string()));
    for place in &others {
        fs::create_dir(place).expect("a folder");
    }
    let sites: Vec<Site> = others
        .iter()
        .map(|place| Site::init(place, &source))
        .chain([Site::init(disk.path(), &source)])
        .collect();
    let folders: Vec<&str> = sites.iter().map(|site| text(&site.folder)).collect();
    let run_all = || {
        let mut command = Command::new(backy_tests::command::program());
        command.arg("run").args(&folders);
        command
    };
    let ballast = disk.fill(1 << 20);
    let message = fails(&mut run_all());
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains(folders[2]) && message.contains("backup failed"), "{message}");
    assert!(message.contains("space"), "{message}");
    let made = || sites.iter().map(|site| site.committed().len()).collect::<Vec<_>>();
    assert_eq!(made(), [1, 1, 0]);
    ballast.remove();
    works(&mut run_all());
    assert_eq!(made(), [1, 1, 1]);
}
