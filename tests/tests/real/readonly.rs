//! An archive that cannot be written to: all that only reads works, all that changes something says why it cannot.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use backy_tests::qemu::skipped;

use crate::disks::Disk;
use crate::mounted::{Mount, Mountpoint, fuse_available, until};
use crate::site::{BLOCK_BYTES, Site, compare, fails, noise, run, states, text, words, works};

/// None shrinks, which would be an alarm.
const SIZES: [usize; 3] = [6 * BLOCK_BYTES, 7 * BLOCK_BYTES - 9, 9 * BLOCK_BYTES + 5];

/// Runs backy as a given user, on the archive of a site.
type As<'a> = &'a dyn Fn(&Site, &[&str]) -> Command;

/// Everything that only reads, with no output on standard error except for the drill, which cannot be recorded.
fn readers_work(site: &Site, elsewhere: &Path, backy: As<'_>) {
    let quiet = |args: &[&str]| {
        let output = run(&mut backy(site, args));
        assert!(output.status.success(), "{args:?}: {}", words(&output));
        assert_eq!(words(&output), "", "{args:?}");
        output.stdout
    };
    for (number, revision) in site.expected.iter().enumerate() {
        let number = number.to_string();
        assert!(quiet(&["restore", "-r", &number, "-"]) == revision.bytes, "revision {number}");
        let path = elsewhere.join(format!("restored-{number}"));
        quiet(&["restore", "-r", &number, text(&path)]);
        assert!(fs::read(&path).expect("read what was restored") == revision.bytes);
        quiet(&["find", "-r", &number]);
    }
    let status = String::from_utf8(quiet(&["status"])).expect("text");
    let is_known = status.contains("WARNING: the archive is not writable");
    assert!(status.contains("OK") || is_known, "{status}");
    for args in [
        &["status", "--json"][..],
        &["scrub", "-n"],
        &["tag", "0"],
        &["maintenance", "-n", "-k", "1"],
        &["rm", "-n", "1"],
        &["backup", "--force", "--dry-run"],
    ] {
        quiet(args);
    }
    let exported = elsewhere.join("exported.qcow2");
    quiet(&["export", "-r", "1", text(&exported)]);
    if backy_tests::qemu::available() {
        compare(&exported, "qcow2", &site.expected[1].bytes);
    }
    let drill = run(&mut backy(site, &["drill", "-r", "2"]));
    let said = words(&drill);
    assert!(drill.status.success(), "{said}");
    assert!(said.contains("warning: cannot record this drill for 'status': "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Everything that writes: one line that names the archive and the system's error, and nothing has changed.
fn writers_say_why(site: &Site, why: &str, backy: As<'_>) {
    let before = site.contents();
    for args in [
        &["backup", "--force"][..],
        &["maintenance"],
        &["maintenance", "-k", "1"],
        &["rm", "1"],
        &["rm", "0"],
        &["tag", "0", "+x"],
        &["scrub"],
        &["scrub", "--rebuild", "--force"],
    ] {
        let message = fails(&mut backy(site, args));
        assert!(message.contains(text(&site.folder)), "{args:?}: {message}");
        assert!(message.contains(why), "{args:?}: {message}");
    }
    assert!(site.contents() == before, "something was changed");
}

/// On a file system that is mounted read-only. Afterwards the archive works again.
#[test]
fn on_a_read_only_file_system() {
    let Some(disk) = Disk::make("ext4", 48 << 20) else { return };
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let states = states(910, &SIZES);
    let source = elsewhere.path().join("source");
    fs::write(&source, []).expect("make the source");
    let mut site = Site::init(disk.path(), &source);
    states.iter().for_each(|state| drop(site.backup(state)));
    let remount = |how: &str| {
        works(Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(disk.path()));
    };
    remount("ro");
    let backy = |site: &Site, args: &[&str]| site.backy(args);
    readers_work(&site, elsewhere.path(), &backy);
    writers_say_why(&site, "Read-only file system", &backy);
    if let Some(mount) = Mount::make(&site, &[]) {
        for revision in &site.expected {
            let bytes = fs::read(mount.file(revision.uuid)).expect("read a revision");
            assert!(bytes == revision.bytes, "{}", revision.uuid);
        }
        mount.unmount();
    }
    let new = backy_lib::storage::dir::DirStorage::create(&disk.path().join("another"));
    assert!(new.is_err_and(|error| error.to_string().contains("Read-only file system")));
    remount("rw");
    site.backup(&states[0]);
    site.check_at_rest();
}

/// For a user who may only read the archive, such as one for monitoring.
#[test]
fn for_a_user_who_may_only_read() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can be another user");
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(temp.path(), &states(911, &SIZES));
    let open = |path: &Path, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("set permissions");
    };
    open(temp.path(), 0o755);
    open(&site.folder, 0o755);
    for entry in site.folder.read_dir().expect("list the archive") {
        open(&entry.expect("list the archive").path(), 0o644);
    }
    open(&site.source, 0o644);
    // The binary has to be where everybody can reach it.
    let program = temp.path().join("backy");
    fs::copy(site.backy(&[]).get_program(), &program).expect("copy the command");
    let elsewhere = temp.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("make a folder");
    open(&elsewhere, 0o777);
    let nobody = |site: &Site, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.arg("-b").arg(&site.folder).args(args);
        command
    };
    readers_work(&site, &elsewhere, &nobody);
    writers_say_why(&site, "Permission denied", &nobody);
    if fuse_available() {
        let on = Mountpoint::new();
        open(on.path.parent().expect("a folder"), 0o755);
        works(Command::new("chown").arg("65534").arg(&on.path));
        let output = run(&mut nobody(&site, &["mount", text(&on.path)]));
        // The machine decides whether users other than root may use /dev/fuse.
        if output.status.success() {
            let mut cat = Command::new("setpriv");
            cat.args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"]);
            let bytes = works(cat.arg(on.path.join("latest")));
            assert!(bytes == site.expected[0].bytes);
            on.unmount();
            until("it has ended", || on.processes().is_empty());
        } else {
            assert!(words(&output).contains("fuse"), "{}", words(&output));
        }
    }
}

/// What root makes in the archive of another user, whom he trusts, belongs to that user, whose next backup works.
#[test]
fn files_made_by_root_belong_to_the_owner_of_the_archive() {
    if !rustix::process::geteuid().is_root() {
        skipped("only root can make files for another user");
        return;
    }
    let place = tempfile::tempdir().expect("a temporary folder");
    let site = Site::with_backups(place.path(), &[noise(1, 3 * BLOCK_BYTES)]);
    let owned = |path: &Path| {
        std::os::unix::fs::lchown(path, Some(4711), Some(4712)).expect("give it away");
    };
    for name in site.files() {
        owned(&site.folder.join(name));
    }
    owned(&site.folder);
    fs::remove_file(site.folder.join("lock")).expect("remove the lock");
    for (number, args) in
        [&["tag", "0", "+kept"][..], &["rm", "1"], &["scrub"], &["maintenance", "-k", "1"]]
            .into_iter()
            .enumerate()
    {
        site.write_source(&noise(2 + number as u64, 3 * BLOCK_BYTES));
        works(&mut site.backy(&["--trust", "backup", "--force"]));
        run(site.backy(&["--trust"]).args(args));
        for name in site.files() {
            let found = fs::metadata(site.folder.join(&name)).expect("look it up");
            assert_eq!((found.uid(), found.gid()), (4711, 4712), "{name} after {args:?}");
        }
    }
}
