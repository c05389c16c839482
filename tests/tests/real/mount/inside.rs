//! What is in an image: file systems and partitions, by loop devices on the mounted files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backy_tests::qemu::skipped;

use super::partitions::partitioned;
use crate::disks::{LoopDevice, loops_available};
use crate::mounted::{Mount, Mountpoint, digests, fuse_available};
use crate::site::{Site, noise, run, text, words, works};

const MIB: u64 = 1 << 20;

fn place() -> Option<tempfile::TempDir> {
    let can = fuse_available() && loops_available();
    can.then(|| tempfile::tempdir().expect("a temporary folder"))
}

pub(crate) fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// A folder with some files.
fn files(place: &Path, seed: u64) -> PathBuf {
    let folder = place.join(format!("files-{seed}"));
    fs::create_dir_all(folder.join("sub")).expect("make a folder");
    for number in 0..20 {
        let bytes = noise(seed * 100 + number, (number * number * 997) as usize);
        fs::write(folder.join(format!("sub/{number}")), bytes).expect("write a file");
    }
    fs::write(folder.join("who"), seed.to_string()).expect("write a file");
    folder
}

/// A file with an ext4 that has the files of a folder.
fn ext4(place: &Path, name: &str, size_bytes: u64, content: &Path) -> PathBuf {
    let image = place.join(name);
    let file = fs::File::create(&image).expect("make an image");
    file.set_len(size_bytes).expect("make it long enough");
    let mut mkfs = Command::new("mkfs.ext4");
    works(mkfs.args(["-q", "-F", "-d"]).arg(content).arg(&image));
    // It is not in the content.
    works(Command::new("debugfs").args(["-w", "-R", "rmdir lost+found"]).arg(&image));
    image
}

/// An ext4 on a mounted revision, checked over and over past the caches, has its files while ten backups of a
/// changing source and their maintenance run. So has one mounted with `-o loop`.
#[test]
fn an_ext4_beside_ten_backups() {
    let Some(place) = place() else { return };
    let content = files(place.path(), 1);
    let expected = digests(&content);
    let image = ext4(place.path(), "image", 24 * MIB, &content);
    let mut site = Site::with_backups(place.path(), &[fs::read(&image).expect("read the image")]);
    let revision = site.expected[0].uuid;
    let Some(mount) = Mount::make(&site, &[]) else { return };
    // Past the page cache of the file. That of the device is dropped when it is unmounted.
    let device = LoopDevice::attach(&mount.file(revision), &["--read-only", "--direct-io=on"]);
    let looped = Mountpoint::new();
    looped.mount("ro,loop,noload", &mount.file(revision));
    for number in 2..12 {
        let next = ext4(place.path(), "next", 24 * MIB, &files(place.path(), number));
        let state = fs::read(&next).expect("read the image");
        std::thread::scope(|scope| {
            let checks = scope.spawn(|| {
                let on = Mountpoint::new();
                on.mount("ro,noload", &device.path);
                let found = digests(&on.path);
                on.unmount();
                found
            });
            site.backup(&state);
            works(&mut site.backy(&["maintenance", "-k", "1", "--confirm"]));
            assert_eq!(checks.join().expect("digests"), expected);
        });
        site.expected.truncate(1);
    }
    assert_eq!(digests(&looped.path), expected);
    site.check_at_rest();
    looped.unmount();
    drop((looped, device));
    mount.unmount();
}

/// `fsck -n` finds no problem in an ext4 in a mounted revision.
#[test]
fn a_file_system_check_of_a_revision() {
    let Some(place) = place() else { return };
    let image = ext4(place.path(), "image", 8 * MIB, &files(place.path(), 1));
    let site = Site::with_backups(place.path(), &[fs::read(&image).expect("read the image")]);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    works(Command::new("fsck.ext4").arg("-fn").arg(mount.path("latest")));
    mount.unmount();
}

/// A disk with an XFS that was in use when it was turned off: files are there, but only after the journal was
/// replayed.
fn dirty_xfs(place: &Path) -> Option<(PathBuf, String)> {
    let image = place.join("image");
    fs::File::create(&image).and_then(|file| file.set_len(320 * MIB)).expect("make an image");
    if !installed("xfs_io") {
        return None;
    }
    works(Command::new("mkfs.xfs").arg("-q").arg(&image));
    let on = Mountpoint::new();
    on.mount("loop", &image);
    let content = files(place, 7);
    works(Command::new("cp").arg("-r").arg(content.join("sub")).arg(&on.path));
    works(Command::new("sync").arg("-f").arg(&on.path));
    works(Command::new("cp").arg(content.join("who")).arg(&on.path));
    works(Command::new("xfs_io").args(["-c", "fsync"]).arg(on.path.join("who")));
    // The log is on the disk, what it describes is not.
    works(Command::new("xfs_io").args(["-x", "-c", "shutdown -f"]).arg(&on.path));
    on.unmount();
    Some((image, digests(&content)))
}

/// `backy mount --writable` allows replaying the journal of an XFS, and writing files. The archive stays as it was,
/// to the last bit, and the next mount has the revision as it was.
#[test]
fn a_dirty_xfs_is_replayed() {
    let Some(place) = place() else { return };
    let Some((image, expected)) = dirty_xfs(place.path()) else { return };
    let site = Site::init(place.path(), &image);
    works(&mut site.backy(&["backup"]));
    let before = digests(&site.folder);
    let inner = Mountpoint::new();
    let read_only = Mount::make(&site, &[]).expect("it was possible before");
    let mut mount = Command::new("mount");
    mount.args(["-o", "ro,loop"]).arg(read_only.path("latest")).arg(&inner.path);
    assert!(!run(&mut mount).status.success(), "there was no journal to be replayed");
    read_only.unmount();

    let folder = place.path().join("layers");
    fs::create_dir(&folder).expect("make a folder");
    let writable = Mount::make(&site, &["--writable", "--dir", text(&folder)]).expect("as before");
    inner.mount("loop", &writable.path("latest"));
    assert_eq!(digests(&inner.path), expected);
    fs::write(inner.path.join("new"), noise(3, 3 << 20)).expect("write to it");
    inner.unmount();
    // Written data exists for as long as it is mounted.
    inner.mount("loop", &writable.path("latest"));
    assert!(fs::read(inner.path.join("new")).expect("read it") == noise(3, 3 << 20));
    inner.unmount();
    assert_eq!(fs::read_dir(&folder).expect("list it").count(), 0, "it has no name");
    writable.unmount();

    assert_eq!(digests(&site.folder), before, "the archive has changed");
    let again = Mount::make(&site, &["--writable"]).expect("as before");
    works(Command::new("cmp").arg(&image).arg(again.path("latest")));
    again.unmount();
}

/// `fsck -y` repairs an ext4 in a writable mount, which is intact there afterwards, and as broken as before in the
/// archive.
#[test]
fn fsck_repairs_an_overlay_of_a_revision() {
    let Some(place) = place() else { return };
    let image = ext4(place.path(), "image", 8 * MIB, &files(place.path(), 1));
    works(Command::new("debugfs").args(["-w", "-R", "clri /sub/5"]).arg(&image));
    let state = fs::read(&image).expect("read the image");
    let mut site = Site::with_backups(place.path(), std::slice::from_ref(&state));
    let check = |options: &str, file: &Path| {
        let mut fsck = Command::new("fsck.ext4");
        run(fsck.arg(options).arg(file)).status.code()
    };
    let Some(mount) = Mount::make(&site, &["--writable"]) else { return };
    let file = mount.path("latest");
    assert_eq!(check("-fn", &file), Some(4), "there was nothing to mend");
    assert_eq!(check("-fy", &file), Some(1));
    assert_eq!(check("-fn", &file), Some(0));
    assert!(fs::read(&file).expect("read it") != state);
    let inner = Mountpoint::new();
    inner.mount("loop", &file);
    assert_eq!(fs::read_to_string(inner.path.join("who")).expect("read a file"), "1");
    inner.unmount();
    mount.unmount();
    site.check_at_rest();
}

/// Each partition of a table is a file with its bytes, by the number that it has in the table.
fn partitions_are_files(name: &str, script: &str) {
    let Some(place) = place() else { return };
    if !installed("sfdisk") {
        return;
    }
    let image = place.path().join("disk");
    let table = partitioned(&image, 64 * MIB, script);
    let content = files(place.path(), 1);
    let (_, start, len) = table[0];
    let file_system = fs::read(ext4(place.path(), "first", len, &content)).expect("read it");
    let disk = fs::File::options().write(true).open(&image).expect("open the disk");
    disk.write_all_at(&file_system, start).expect("write the first partition");
    let (_, start, len) = *table.last().expect("a partition");
    disk.write_all_at(&noise(5, len as usize), start).expect("write the last partition");
    let state = fs::read(&image).expect("read the disk");
    let mut site = Site::with_backups(place.path(), std::slice::from_ref(&state));
    // It is an older one then.
    site.backup(&noise(6, 5_000_000));
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let folder = mount.path(&format!("{}.partitions", site.expected[1].uuid));
    let mut there: Vec<u64> = fs::read_dir(&folder)
        .expect("list the partitions")
        .map(|entry| entry.expect("an entry").file_name().to_str().expect("UTF-8").to_owned())
        .map(|name| name.parse().expect("a number"))
        .collect();
    there.sort_unstable();
    // An extended one has no bytes of its own.
    let own = table.iter().filter(|(number, ..)| !(name == "dos" && *number == 3));
    assert_eq!(there, own.clone().map(|(number, ..)| *number).collect::<Vec<_>>(), "{name}");
    for (number, start, len) in own {
        let bytes = fs::read(folder.join(number.to_string())).expect("read a partition");
        let expected = &state[*start as usize..(start + len) as usize];
        assert!(bytes == expected, "{name} {number}");
    }
    let inner = Mountpoint::new();
    inner.mount("loop,ro", &folder.join("1"));
    assert_eq!(digests(&inner.path), digests(&content));
    inner.unmount();
    assert!(fs::read_dir(mount.path("latest.partitions")).expect("list it").next().is_none());
    mount.unmount();
}

/// Partitions of a GPT.
#[test]
fn partitions_of_a_gpt_are_files() {
    let script = "label: gpt\n1: size=16M\n2: size=1M\n7: size=20M\n";
    partitions_are_files("gpt", script);
}

/// Partitions of an MBR, with logical ones.
#[test]
fn partitions_of_an_mbr_are_files() {
    let script = "label: dos\n1: size=16M\n2: size=1M\n3: type=5\n5: size=4M\n6: size=8M\n";
    partitions_are_files("dos", script);
}

/// Through a writable mount, a partition's file and the whole disk show each other's writes.
#[test]
fn a_partition_and_its_disk_are_one() {
    let Some(place) = place() else { return };
    if !installed("sfdisk") {
        return;
    }
    let image = place.path().join("disk");
    let table = partitioned(&image, 8 * MIB, "label: gpt\nstart=2048,size=4M\n");
    let (_, start, _) = table[0];
    let state = fs::read(&image).expect("read the disk");
    let mut site = Site::with_backups(place.path(), &[state]);
    let Some(mount) = Mount::make(&site, &["--writable"]) else { return };
    let open = |name: &str| {
        fs::File::options().read(true).write(true).open(mount.path(name)).expect("open it")
    };
    let (disk, partition) = (open("latest"), open("latest.partitions/1"));
    partition.write_all_at(b"from the partition", 12345).expect("write");
    partition.sync_all().expect("sync");
    let mut found = [0; 18];
    crate::mounted::forget_pages(&disk);
    disk.read_exact_at(&mut found, start + 12345).expect("read");
    assert_eq!(&found, b"from the partition");
    disk.write_all_at(b"from the disk itself", start + 700_000).expect("write");
    disk.sync_all().expect("sync");
    let mut found = [0; 20];
    partition.read_exact_at(&mut found, 700_000).expect("read");
    assert_eq!(&found, b"from the disk itself");
    drop((disk, partition));
    mount.unmount();
    site.check_at_rest();
}

/// Data of one of them that the kernel has cached is not returned when it is opened after a write to the other.
#[test]
fn no_stale_pages_of_a_partition_or_its_disk() {
    let Some(place) = place() else { return };
    if !installed("sfdisk") {
        return;
    }
    let image = place.path().join("disk");
    let table = partitioned(&image, 8 * MIB, "label: gpt\nstart=2048,size=4M\n");
    let (_, start, _) = table[0];
    let disk = fs::File::options().write(true).open(&image).expect("open the disk");
    disk.write_all_at(&noise(6, 4 << 20), start).expect("write the partition");
    let state = fs::read(&image).expect("read the disk");
    let site = Site::with_backups(place.path(), &[state]);
    let Some(mount) = Mount::make(&site, &["--writable"]) else { return };
    let names = ["latest", "latest.partitions/1"];
    let place_in = |name: &str| if name == "latest" { start + 70_000 } else { 70_000 };
    // By whole reads, which fill the cache, and by a program of its own.
    let read = |name: &str| {
        let bytes = works(Command::new("cat").arg(mount.path(name)));
        bytes[place_in(name) as usize..][..9000].to_vec()
    };
    let mut expected = noise(6, 4 << 20)[70_000..79_000].to_vec();
    for round in 0..6 {
        for name in names {
            assert!(read(name) == expected, "round {round}: {name}");
        }
        expected = noise(60 + round, 9000);
        let name = names[round as usize % 2];
        let file = fs::File::options().write(true).open(mount.path(name)).expect("open it");
        file.write_all_at(&expected, place_in(name)).expect("write");
        file.sync_all().expect("sync");
    }
    mount.unmount();
}

/// The commands in the README mount a disk and its first partition, with other places.
#[test]
fn the_readmes_commands_mount() {
    let Some(place) = place() else { return };
    if !installed("sfdisk") {
        return;
    }
    let image = place.path().join("disk");
    let (_, start, len) = partitioned(&image, 24 * MIB, "label: gpt\n1: size=16M\n")[0];
    let content = files(place.path(), 1);
    let file_system = fs::read(ext4(place.path(), "first", len, &content)).expect("read it");
    let disk = fs::File::options().write(true).open(&image).expect("open the disk");
    disk.write_all_at(&file_system, start).expect("write the partition");
    let site = Site::init(place.path(), &image);
    works(&mut site.backy(&["backup"]));
    let bin = place.path().join("bin");
    fs::create_dir(&bin).expect("make a folder");
    std::os::unix::fs::symlink(site.backy(&[]).get_program(), bin.join("backy")).expect("a link");

    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("read the README");
    let (_, section) = readme.split_once("## Mount\n").expect("its section");
    let (_, commands) = section.split_once("```sh\n").expect("commands");
    let (commands, _) = commands.split_once("```").expect("their end");
    let (outer, inner) = (Mountpoint::new(), Mountpoint::new());
    let commands = commands
        .replace("/srv/backup/mynode", text(&site.folder))
        .replace("/mnt/mynode", text(&outer.path))
        .replace("/mnt2", text(&inner.path));
    let script = format!("PATH={}:$PATH\n{commands}", bin.display());
    let said = works(Command::new("sh").args(["-e", "-c", &script]));
    assert_eq!(String::from_utf8_lossy(&said).lines().count(), 2, "a date, and its partitions");
    assert_eq!(digests(&inner.path), digests(&content));
    inner.unmount();
    outer.unmount();
}

/// A virtual machine's disk program reads a revision through the mount: `qemu-img convert` returns its bytes.
#[test]
fn qemu_reads_a_mounted_revision() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    if !backy_tests::qemu::available() {
        return;
    }
    let states = [noise(8, MIB as usize), noise(9, MIB as usize)];
    let site = Site::with_backups(temp.path(), &states);
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let copy = temp.path().join("copy.qcow2");
    let mut convert = Command::new("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]).stderr(Stdio::null());
    let output = run(convert.arg(mount.path("by-number/1")).arg(&copy));
    assert!(output.status.success(), "{}", words(&output));
    crate::site::compare(&copy, "qcow2", &states[0]);
    mount.unmount();
}
