//! How a mount begins and ends, and how others see it.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use backy_tests::qemu::skipped;
use rustix::mount::MountFlags;

use super::namespace::Namespace;
use crate::mounted::{Front, Mount, Mountpoint, fuse_available, signal, until};
use crate::site::{BLOCK_BYTES, Site, fails, noise, run, text, unmounts, words, works};

fn site(place: &Path) -> Site {
    Site::with_backups(place, &[noise(700, 3 * BLOCK_BYTES), noise(701, 2 * BLOCK_BYTES + 1)])
}

/// A failed mount is one line and exit status 1, with -f and without, and leaves nothing mounted or running.
#[test]
fn mount_refuses_what_cannot_be_mounted() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let file = temp.path().join("file");
    fs::write(&file, "").expect("make a file");
    let missing = temp.path().join("missing");
    let inside = site.folder.join("inside");
    fs::create_dir(&inside).expect("make a folder");
    let on = Mountpoint::new();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").expect("list what is mounted");
    for front in [&[][..], &["-f"]] {
        for (mountpoint, named) in
            [(&missing, "missing"), (&file, "file"), (&inside, "inside"), (&site.folder, "archive")]
        {
            let message = fails(site.backy(&["mount"]).args(front).arg(mountpoint));
            assert!(message.starts_with("backy: error: "), "{message}");
            assert!(message.contains(text(mountpoint)), "{named}: {message}");
            assert!(!mounts().contains(&format!(" {} ", text(mountpoint))), "{named}");
        }
        let mut command = crate::site::backy(&missing, &["mount"]);
        let message = fails(command.args(front).arg(&on.path));
        assert!(message.contains(text(&missing)), "{message}");
        let mut command = site.backy(&["mount", "--writable", "--dir", text(&missing)]);
        let message = fails(command.args(front).arg(&on.path));
        assert!(message.contains(text(&missing)), "{message}");
        assert!(!on.is_mounted() && on.processes().is_empty());
    }
    fs::remove_dir(inside).expect("remove it");
}

/// Mounting twice on the same place is refused; the first stays.
#[test]
fn mount_refuses_a_mounted_folder() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let message = fails(&mut site.backy(&["mount", text(&mount.on.path)]));
    assert!(message.contains(text(&mount.on.path)), "{message}");
    assert!(fs::read(mount.path("latest")).expect("read") == site.expected[0].bytes);
    mount.unmount();
}

/// Two mounts of one archive, and a backup, maintenance and a status beside them, do not disturb each other.
#[test]
fn mount_takes_no_lock() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let mut site = site(temp.path());
    let Some(first) = Mount::make(&site, &[]) else { return };
    let second = Mount::make(&site, &["--writable"]).expect("it was possible before");
    let open = File::open(first.path("by-number/1")).expect("open it");
    site.backup(&noise(702, 3 * BLOCK_BYTES));
    works(&mut site.backy(&["maintenance"]));
    works(&mut site.backy(&["status"]));
    works(&mut site.backy(&["scrub", "-n"]));
    for mount in [&first, &second] {
        until("there is the new one", || {
            fs::read(mount.path("latest")).is_ok_and(|bytes| bytes == site.expected[0].bytes)
        });
    }
    drop(open);
    first.unmount();
    assert!(fs::read(second.path("by-number/2")).expect("read") == site.expected[2].bytes);
    second.unmount();
}

/// `umount` ends the foreground command, with exit status 0 and silently. One that finds it in use fails, and does
/// not affect its users.
#[test]
fn umount_ends_the_process() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let front = Front::start(&site, &[]);
    let file = File::open(front.on.path.join("latest")).expect("open the newest");
    let refused = run(Command::new("umount").arg(&front.on.path));
    assert!(!refused.status.success() && words(&refused).contains("busy"), "{}", words(&refused));
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).expect("read it");
    drop(file);
    front.on.unmount();
    assert_eq!(front.finish(), (Some(0), String::new()));
}

/// Ctrl-C unmounts and exits with 130, SIGTERM and SIGHUP unmount and exit with 0.
#[test]
fn signals_unmount() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    for (name, expected) in [("INT", 130), ("TERM", 0), ("HUP", 0)] {
        let front = Front::start(&site, &[]);
        front.signal(name);
        let (status, said) = front.finish();
        assert_eq!(status, Some(expected), "{name}: {said}");
        assert_eq!(said.lines().count(), usize::from(name == "INT"), "{said}");
    }
}

/// Ctrl-C while something is open says so and waits for it.
#[test]
fn ctrl_c_waits_for_users() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let front = Front::start(&site, &[]);
    let file = File::open(front.on.path.join("latest")).expect("open the newest");
    front.signal("INT");
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(front.on.is_mounted());
    let mut byte = [0];
    file.read_exact_at(&mut byte, 9000).expect("read it");
    drop(file);
    let (status, said) = front.finish();
    assert_eq!(status, Some(130), "{said}");
    let first = said.lines().next().unwrap_or_default();
    assert!(first.contains("in use") && first.contains("Ctrl-C again"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

/// A second Ctrl-C takes it away from its users at once.
#[test]
fn two_ctrl_cs_detach_the_mount() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let front = Front::start(&site, &[]);
    let file = File::open(front.on.path.join("latest")).expect("open the newest");
    front.signal("INT");
    std::thread::sleep(std::time::Duration::from_millis(500));
    front.signal("INT");
    let (status, said) = front.finish();
    assert_eq!(status, Some(130), "{said}");
    // Whoever had it open gets an error and no wrong bytes.
    let mut byte = [0];
    file.read_exact_at(&mut byte, 9000).expect_err("nobody is there to read it");
}

/// When its process is killed, `fusermount3 -u` removes the rest. The next mount also works without that.
#[test]
fn a_killed_mount_can_be_mounted_again() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    for by_hand in [true, false] {
        let Some(mount) = Mount::make(&site, &[]) else { return };
        let file = File::open(mount.path("latest")).expect("open the newest");
        signal(mount.on.processes()[0], "KILL");
        until("it has gone", || mount.on.processes().is_empty());
        fs::read_dir(&mount.on.path).expect_err("there is nobody to list it");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 9000).expect_err("nobody is there to read it");
        if by_hand {
            drop(file);
            unmounts(Command::new("fusermount3").arg("-u").arg(&mount.on.path));
            assert!(!mount.on.is_mounted());
        }
        works(&mut site.backy(&["mount", text(&mount.on.path)]));
        assert!(fs::read(mount.path("latest")).expect("read") == site.expected[0].bytes);
        mount.unmount();
    }
    let mut site = site;
    site.backup(&noise(703, BLOCK_BYTES));
    site.check_at_rest();
}

/// A dead mount of another program, or of another user, stays in its place, and the message says what to do.
#[test]
fn a_foreign_dead_mount_is_left_alone() {
    if !fuse_available() || !is_root() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    for (kind, user, said) in [
        ("fuse.other", 0, "a file system of type fuse.other is here"),
        ("fuse.backy", 65534, "an archive that user 65534 has mounted is here"),
    ] {
        let on = Mountpoint::new();
        let device = File::options().read(true).write(true).open("/dev/fuse").expect("open it");
        let options = format!(
            "fd={},rootmode=40000,user_id={user},group_id=0,allow_other",
            device.as_raw_fd()
        );
        let options = CString::new(options).expect("no zeros");
        rustix::mount::mount("who", &on.path, kind, MountFlags::empty(), &*options).expect("mount");
        drop(device);
        let message = fails(&mut site.backy(&["mount", text(&on.path)]));
        assert!(message.contains(said) && message.contains("'umount -l'"), "{message}");
        assert!(on.is_mounted());
        works(Command::new("umount").arg("-l").arg(&on.path));
    }
}

/// Runs a command as the user nobody.
fn as_nobody(command: &Command) -> Command {
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    other.arg(command.get_program()).args(command.get_args());
    other
}

/// Whether this is root, who can become other users.
fn is_root() -> bool {
    let found = rustix::process::geteuid().is_root();
    if !found {
        skipped("only root can be another user");
    }
    found
}

/// Only the members of the group that `--gid` names can read or write what root has mounted, whatever other options
/// are given.
#[test]
fn allow_other_respects_permissions() {
    if !fuse_available() || !is_root() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    for (options, may_read, may_write) in [
        (&[][..], false, false),
        (&["--allow-other"], false, false),
        (&["--allow-other", "--writable"], false, false),
        (&["--gid", "0", "--writable"], false, false),
        (&["--gid", "65534"], true, false),
        (&["--gid", "65534", "--writable"], true, true),
    ] {
        let Some(mount) = Mount::make(&site, options) else { return };
        open_to_all(mount.on.path.parent().expect("a folder"));
        let mut read = Command::new("cat");
        let output = run(&mut as_nobody(read.arg(mount.path("latest"))));
        assert_eq!(output.status.success(), may_read, "{options:?}: {}", words(&output));
        assert!(!may_read || output.stdout == site.expected[0].bytes);
        let mut list = Command::new("ls");
        let output = run(&mut as_nobody(list.arg(&mount.on.path)));
        assert_eq!(output.status.success(), may_read, "{options:?}: {}", words(&output));
        let mut write = Command::new("dd");
        write.args(["if=/dev/zero", "bs=4096", "count=1", "conv=notrunc", "status=none"]);
        write.arg(format!("of={}", text(&mount.path("latest"))));
        let output = run(&mut as_nobody(&write));
        assert_eq!(output.status.success(), may_write, "{options:?}: {}", words(&output));
        mount.unmount();
    }
    let mut command = site.backy(&["mount", "--gid", "no-such-group"]);
    let said = fails(command.arg(temp.path()));
    assert!(said.contains("no-such-group"), "{said}");
}

fn open_to_all(folder: &Path) {
    let all = PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder, all).expect("open a folder to all");
}

/// Users other than root mount with the help of fusermount3, and unmount with it. A place that is not theirs is
/// refused.
#[test]
fn without_root() {
    if !fuse_available() {
        return;
    }
    let Some(view) = Namespace::new() else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    open_to_all(temp.path());
    // The device as udev makes it, for all.
    let device = temp.path().join("fuse");
    works(Command::new("mknod").args(["--mode=666", text(&device), "c", "10", "229"]));
    view.bind(&device, "/dev/fuse");
    let site = site(temp.path());
    works(Command::new("chown").args(["-R", "65534:65534"]).arg(&site.folder));
    // The binary has to be where everybody can reach it.
    let backy = temp.path().join("backy");
    fs::copy(site.backy(&[]).get_program(), &backy).expect("copy the command");
    let nobody = |program: &Path, arguments: &[&str]| {
        let mut command = view.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(program).args(arguments);
        command
    };
    let on = Mountpoint::new();
    open_to_all(on.path.parent().expect("a folder"));
    let mount = ["-b", text(&site.folder), "mount", text(&on.path)];
    let is_mounted = || view.mounts().contains(&format!(" {} ", text(&on.path)));
    let message = fails(&mut nobody(&backy, &mount));
    assert!(message.contains(text(&on.path)), "{message}");
    assert!(!is_mounted() && on.processes().is_empty());
    works(Command::new("chown").arg("65534").arg(&on.path));
    works(&mut nobody(&backy, &mount));
    let latest = on.path.join("latest");
    let bytes = works(&mut nobody(Path::new("cat"), &[text(&latest)]));
    assert!(bytes == site.expected[0].bytes);
    works(&mut nobody(Path::new("fusermount3"), &["-u", text(&on.path)]));
    until("it has ended", || on.processes().is_empty());
    // Users may not give others access, unless the machine's owner allows it.
    let output = run(&mut nobody(&backy, &["-b", mount[1], "mount", "--allow-other", mount[3]]));
    if output.status.success() {
        works(&mut nobody(Path::new("fusermount3"), &["-u", text(&on.path)]));
    } else {
        assert!(words(&output).contains("user_allow_other"), "{}", words(&output));
    }
    until("it has ended", || on.processes().is_empty());
    assert!(!is_mounted());
}

/// On a terminal, or with -v, it prints what is mounted and how to unmount it.
#[test]
fn foreground_mount_prints_how_to_end_it() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let mut command = site.backy(&["mount", "-v"]);
    let output = run(command.arg(&on.path).stderr(Stdio::piped()));
    let said = words(&output);
    assert!(output.status.success() && said.lines().count() == 1, "{said}");
    assert!(said.contains(&format!("'umount {}'", text(&on.path))), "{said}");
    on.unmount();
    let front = Front::start(&site, &["-v"]);
    let path = text(&front.on.path).to_owned();
    front.on.unmount();
    let (_, said) = front.finish();
    assert!(said.contains(&format!("'umount {path}'")) && said.contains("Ctrl-C"), "{said}");
}
