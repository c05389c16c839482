//! What is on the medium, and not what memory has of it: block devices as sources and targets while file systems,
//! partitions and other programs write past their page caches; scrubs of files whose disk has rotted under the cache.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backy_tests::qemu;
use tempfile::TempDir;

use crate::disks::{LoopDevice, loops_available};
use crate::site::{Site, fails, noise, run, text, unmounts, words, works};

const MIB: usize = 1 << 20;

/// A file system on a loop device over `place/disk`, mounted at `place/mnt`.
struct Mounted {
    place: TempDir,
    device: LoopDevice,
    mountpoint: PathBuf,
}

impl Mounted {
    /// Prints `SKIPPED` and returns nothing where that is impossible.
    fn make(kind: &str, options: &[&str], mib: u64) -> Option<Self> {
        let place = tempfile::tempdir().expect("a temporary folder");
        let disk = place.path().join("disk");
        let file = File::create(&disk).expect("make the disk");
        file.set_len(mib << 20).expect("make it long enough");
        let mut mkfs = Command::new(format!("mkfs.{kind}"));
        mkfs.arg("-q").args(options).arg(&disk).stdout(Stdio::null()).stderr(Stdio::null());
        if !mkfs.status().is_ok_and(|status| status.success()) {
            qemu::skipped(&format!("mkfs.{kind} is not installed"));
            return None;
        }
        let device = LoopDevice::attach(&disk, &[]);
        let mountpoint = place.path().join("mnt");
        fs::create_dir(&mountpoint).expect("make a folder");
        let mounted = Mounted { place, device, mountpoint };
        match mounted.mount(&mounted.device.path) {
            true => Some(mounted),
            false => {
                qemu::skipped(&format!("{kind} cannot be mounted here"));
                None
            }
        }
    }

    fn mount(&self, device: &Path) -> bool {
        let mut mount = Command::new("mount");
        mount.arg(device).arg(&self.mountpoint).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success())
    }

    fn disk(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.mountpoint.join(name);
        let file = File::options().create(true).truncate(false).write(true).open(path);
        file.and_then(|file| file.write_all_at(bytes, 0)).expect("write to the file system");
        works(Command::new("sync").arg("-f").arg(&self.mountpoint));
    }

    /// A backup while the file system is frozen. It has to match the disk.
    fn backup_frozen(&self, site: &Site, what: &str) {
        works(Command::new("fsfreeze").arg("--freeze").arg(&self.mountpoint));
        let made = run(&mut site.backy(&["backup", "--force"]));
        let disk = fs::read(self.disk());
        works(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mountpoint));
        assert!(made.status.success(), "{what}: {}", words(&made));
        let image = fs::read(site.folder.join("last.raw")).expect("read the image");
        assert!(image == disk.expect("read the disk"), "{what}: it is not what is on the disk");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mountpoint).stderr(Stdio::null()).status();
    }
}

/// Every backup of a mounted, frozen device is what the file system has written, not an older state of the device.
#[test]
fn each_backup_of_a_mounted_device_has_what_its_file_system_has_written() {
    if !loops_available() {
        return;
    }
    let kinds: [(&str, &[&str], u64); 4] = [
        ("ext4", &["-b", "1024"], 48),
        ("ext4", &["-b", "4096"], 48),
        ("xfs", &[], 320),
        ("btrfs", &[], 128),
    ];
    for (kind, options, mib) in kinds {
        let Some(mounted) = Mounted::make(kind, options, mib) else { continue };
        let what = format!("{kind} {options:?}");
        let site = Site::init(mounted.place.path(), &mounted.device.path);
        for state in 0..3 {
            mounted.write("file", &noise(state, 3 * MIB));
            mounted.write(&format!("new-{state}"), &noise(state + 10, 100_000));
            mounted.backup_frozen(&site, &format!("{what}, state {state}"));
        }
        let restored = mounted.place.path().join("restored");
        works(&mut site.backy(&["restore", text(&restored)]));
        let (found, state) = (fs::read(&restored).expect("read it"), noise(2, 64 << 10));
        assert!(found.windows(512).step_by(512).any(|sector| sector == &state[..512]), "{what}");
    }
}

/// A whole disk with one partition.
fn partitioned(place: &Path) -> Option<(LoopDevice, PathBuf, PathBuf)> {
    let disk = place.join("disk");
    let file = File::create(&disk).expect("make the disk");
    file.set_len(64 << 20).expect("make it long enough");
    let table = "printf 'label: gpt\\nstart=2048\\n' | sfdisk -q \"$0\"";
    works(Command::new("sh").args(["-c", table]).arg(&disk));
    let device = LoopDevice::attach(&disk, &["--partscan"]);
    let partition = PathBuf::from(format!("{}p1", text(&device.path)));
    if !partition.exists() {
        // Not every kernel reads partition tables.
        let _ = Command::new("partx").arg("--add").arg(&device.path).stderr(Stdio::null()).status();
    }
    let number =
        format!("/sys/class/block/{}p1/dev", text(&device.path).trim_start_matches("/dev/"));
    if !partition.exists()
        && let Ok(number) = fs::read_to_string(number)
    {
        // Nothing here makes device nodes of what the kernel finds.
        let (major, minor) = number.trim().split_once(':').expect("a device number");
        let _ = Command::new("mknod").arg(&partition).args(["b", major, minor]).status();
    }
    if !partition.exists() {
        qemu::skipped("loop devices have no partitions here");
        return None;
    }
    Some((device, partition, disk))
}

/// The page cache of a disk is separate from that of its partition: a backup of the disk has what is on the
/// partition.
#[test]
fn a_backup_of_a_whole_disk_has_what_a_mounted_partition_has_written() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let Some((device, partition, _)) = partitioned(place.path()) else { return };
    let mkfs = Command::new("mkfs.ext4").arg("-q").arg(&partition).status();
    assert!(mkfs.is_ok_and(|status| status.success()), "mkfs.ext4");
    let mountpoint = place.path().join("mnt");
    fs::create_dir(&mountpoint).expect("make a folder");
    let mounted = Mounted { place, device, mountpoint };
    assert!(mounted.mount(&partition), "mount the partition");
    let site = Site::init(mounted.place.path(), &mounted.device.path);
    for state in 0..3 {
        mounted.write("file", &noise(state, 3 * MIB));
        mounted.backup_frozen(&site, &format!("state {state}"));
    }
}

/// What a program has written to a partition and not synced is in a backup of the disk.
#[test]
fn a_backup_of_a_whole_disk_has_what_was_written_to_a_partition_unsynced() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let Some((device, partition, _)) = partitioned(place.path()) else { return };
    let site = Site::init(place.path(), &device.path);
    let open = File::options().write(true).open(&partition).expect("open the partition");
    for seed in [1, 2] {
        let written = noise(seed, MIB);
        open.write_all_at(&written, 0).expect("write to the partition");
        works(&mut site.backy(&["backup", "--force"]));
        let image = fs::read(site.folder.join("last.raw")).expect("read the image");
        assert!(image[2048 * 512..][..MIB] == written, "seed {seed}");
    }
}

/// A restore compares with what is on the device, and what it writes arrives there, whatever the cache of a program
/// holds that has the device or its partition open, synced or not. Anybody who reads the partition afterwards sees
/// it.
#[test]
fn a_restore_to_an_open_device_reaches_its_readers() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let Some((device, partition, disk)) = partitioned(place.path()) else { return };
    let start = 2048 * 512;
    device.write(&noise(1, 8 * MIB), start);
    let site = Site::init(place.path(), &device.path);
    let somebody = File::options().read(true).write(true).open(&device.path).expect("open it");
    works(&mut site.backy(&["backup", "--force"]));
    let state = fs::read(&disk).expect("read the disk");
    // The whole disk is in its cache now. Writes to the partition bypass that.
    let mut bytes = vec![0; state.len()];
    somebody.read_exact_at(&mut bytes, 0).expect("read all of it");
    let other = File::options().read(true).write(true).open(&partition).expect("open it");
    other.write_all_at(&noise(2, 4 * MIB), 0).expect("write to the partition");
    other.sync_all().expect("sync it");
    other.write_all_at(&noise(3, MIB), 5 * MIB as u64).expect("write and do not sync");
    let said = fails(&mut site.backy(&["restore", text(&device.path)]));
    assert!(said.contains("has it open for writing; use --force"), "{said}");
    works(&mut site.backy(&["restore", "--force", text(&device.path)]));
    other.sync_all().expect("sync what is left");
    assert!(fs::read(&disk).expect("read the disk") == state, "the disk is not the revision");
    let mut seen = vec![0; 8 * MIB];
    other.read_exact_at(&mut seen, 0).expect("read the partition");
    assert!(
        seen == state[start as usize..][..8 * MIB],
        "the partition shows what was there before"
    );
    drop((somebody, other));
}

/// With sectors of 512 and of 4096 bytes all of a device is backed up, and an image of any length is restored.
#[test]
fn any_sectors_and_odd_images() {
    if !loops_available() {
        return;
    }
    for (sector, bytes) in [("512", 3 * MIB + 512), ("4096", 3 * MIB), ("4096", 3 * MIB + 4096)] {
        let place = tempfile::tempdir().expect("a temporary folder");
        let below = place.path().join("disk");
        let states = [noise(1, bytes), noise(2, bytes)];
        fs::write(&below, &states[0]).expect("make the disk");
        let device = LoopDevice::attach(&below, &["--sector-size", sector]);
        let size = device.read().len();
        let mut site = Site::init(place.path(), &device.path);
        for state in &states {
            let file = File::options().write(true).open(&below).expect("open the disk");
            // Below the device, as another machine would do it.
            file.write_all_at(state, 0).expect("write below it");
            site.backup_source(&state[..size]);
        }
        site.check_at_rest();
        works(&mut site.backy(&["restore", "-r", "1"]));
        let found = fs::read(&below).expect("read the disk");
        assert!(found[..size] == states[0][..size], "sectors of {sector}, {bytes} bytes");

        fs::create_dir(place.path().join("other")).expect("make a folder");
        let odd = Site::with_backups(&place.path().join("other"), &[noise(3, MIB + 777)]);
        works(&mut odd.backy(&["restore", "--force", text(&device.path)]));
        let found = fs::read(&below).expect("read the disk");
        assert!(found[..MIB + 777] == odd.expected[0].bytes[..], "sectors of {sector}: an odd end");
        assert!(found[MIB + 777..size] == states[0][MIB + 777..size], "what is past it");
    }
}

/// A scrub reads what is on the disk: right bytes in memory do not make it right.
#[test]
fn a_scrub_finds_what_has_rotted_under_the_page_cache() {
    if !loops_available() {
        return;
    }
    let Some(mounted) = Mounted::make("ext4", &[], 48) else { return };
    let (old, new) = (noise(1, MIB), noise(2, MIB));
    fs::create_dir(mounted.mountpoint.join("place")).expect("make a folder");
    let site = Site::with_backups(&mounted.mountpoint.join("place"), &[old.clone(), new.clone()]);
    fs::remove_file(&site.source).expect("remove the source, which has the same bytes");
    works(Command::new("sync").arg("-f").arg(&mounted.mountpoint));
    works(&mut site.backy(&["scrub"]));
    site.contents();
    for state in [new, old] {
        let disk = fs::read(mounted.disk()).expect("read the disk");
        let sector = &state[300_032..300_544];
        let places = disk.windows(512).enumerate().step_by(8).filter(|(_, found)| *found == sector);
        let places: Vec<usize> = places.map(|(at, _)| at).collect();
        let file = File::options().write(true).open(mounted.disk()).expect("open the disk");
        for place in &places {
            file.write_all_at(&[sector[0] ^ 1], *place as u64).expect("let it rot");
        }
        if !places.is_empty() {
            let found = run(&mut site.backy(&["scrub", "-n"]));
            assert_eq!(found.status.code(), Some(1), "{}", words(&found));
            return;
        }
    }
    panic!("the blocks were not found on the disk");
}

/// A loop device over another name of its file is the same file: a hard link, a bind mount, a deleted name.
#[test]
fn restore_refuses_a_target_in_use_under_another_name() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, MIB)]);
    let (link, gone) = (place.path().join("link"), place.path().join("gone"));
    fs::hard_link(&site.source, &link).expect("a hard link");
    fs::hard_link(&site.source, &gone).expect("a hard link");
    let folder = place.path().join("bound");
    fs::create_dir(&folder).expect("make a folder");
    let mut bind = Command::new("mount");
    works(bind.arg("--bind").arg(place.path()).arg(&folder));
    for path in [&link, &folder.join("source"), &gone] {
        let device = LoopDevice::attach(path, &[]);
        if path == &gone {
            fs::remove_file(path).expect("remove the name");
        }
        let message = fails(&mut site.backy(&["restore", "--force"]));
        assert!(message.contains(text(&device.path)), "{}: {message}", path.display());
    }
    unmounts(Command::new("umount").arg(&folder));
    works(&mut site.backy(&["restore"]));
}

/// A loop device over a file of the archive is no target. Neither is a partition of a mounted disk, nor a disk with a
/// mounted partition.
#[test]
fn restore_refuses_a_device_that_has_another_use() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, MIB)]);
    let device = LoopDevice::attach(&site.folder.join("last.raw"), &[]);
    let message = fails(&mut site.backy(&["restore", "--force", text(&device.path)]));
    assert!(message.contains("a file of the archive"), "{message}");
    drop(device);
    let Some((device, partition, _)) = partitioned(place.path()) else { return };
    works(Command::new("mkfs.ext4").arg("-q").arg(&partition));
    let mountpoint = place.path().join("mnt");
    fs::create_dir(&mountpoint).expect("make a folder");
    let mounted = Mounted { place: tempfile::tempdir().expect("a folder"), device, mountpoint };
    assert!(mounted.mount(&partition), "mount the partition");
    for target in [&mounted.device.path, &partition] {
        let message = fails(&mut site.backy(&["restore", "--force", text(target)]));
        let expected = format!("mounted at {}", mounted.mountpoint.display());
        assert!(message.contains(&expected), "{message}");
    }
}

/// Restoring a revision whose GPT uses another sector size than the target prints a warning, with a dry run as well.
/// With its own sector size there is none.
#[test]
fn a_restore_to_other_sectors_says_so() {
    if !loops_available() {
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let mut state = vec![0; 8 * MIB];
    state[4096..4104].copy_from_slice(b"EFI PART");
    let site = Site::with_backups(place.path(), &[state]);
    for (sector, told) in [("512", true), ("4096", false)] {
        let below = place.path().join(format!("disk-{sector}"));
        fs::write(&below, vec![0; 8 * MIB]).expect("make the disk");
        let device = LoopDevice::attach(&below, &["--sector-size", sector]);
        for args in [&["restore", "--dry-run"][..], &["restore"]] {
            let output = run(site.backy(args).arg(&device.path));
            assert!(output.status.success(), "{sector}: {}", words(&output));
            let said = words(&output).contains("is for sectors of 4096");
            assert_eq!(said, told, "{args:?}, sectors of {sector}: {}", words(&output));
        }
    }
}
