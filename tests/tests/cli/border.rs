//! What crosses the border of an archive: no secret gets out, no reader blocks a writer, and backy does not write to
//! what somebody else has put in the way.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backy_tests::qemu::skipped;

use super::harness::{Scene, is_root};

const STRANGER: u32 = 65534;
const SECRET: &str = "hunter2secret";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A process that is ended with the value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that backy reports about the archive: to people, programs and other hosts.
fn said_of(scene: &Scene) -> String {
    let mut said = String::new();
    for args in [
        &["-v", "-b", "a", "status"][..],
        &["-b", "a", "status", "--json"],
        &["-b", "a", "status", "--check"],
        &["-b", "a", "status", "--prometheus"],
        &["check", "--nagios", "a"],
        &["check", "--json", "a"],
        &["report", "-o", "-", "a"],
    ] {
        let run = scene.run(args);
        said += &String::from_utf8_lossy(&run.stdout);
        said += &run.stderr;
    }
    for name in ["a/manifest.json", "a/history.jsonl", "figures.prom"] {
        let content = fs::read(scene.path("a").parent().unwrap().join(name));
        said += &String::from_utf8_lossy(&content.unwrap_or_default());
    }
    said
}

/// A password among the arguments of a hook or a drill stays in `backy.toml`, however that ends and whoever gets the
/// report.
#[test]
fn secrets_of_hooks_and_drills_stay_secret() {
    let (scene, _) = Scene::with_revisions(1);
    let settings = scene.read_text("a/backy.toml");
    let textfile = scene.text_path("figures.prom");
    let mut tried = 0;
    for hooks in [
        format!("before = [\"/usr/bin/env\", \"PGPASSWORD={SECRET}\", \"false\"]"),
        format!("before = \"PGPASSWORD={SECRET} false\""),
        format!("before = [\"/no/such/program\", \"{SECRET}\"]"),
        format!("before = [\"sleep\", \"--password={SECRET}\", \"60\"]"),
        format!("before = \"sleep 60; : {SECRET}\""),
        format!("after = [\"sh\", \"-c\", \"exit 3\", \"{SECRET}\"]"),
        format!("after = \"sleep 60; : {SECRET}\""),
        // Mistakes of those who write it.
        format!("before = [\"true\", \"{SECRET}\""),
        format!("before = sh -c {SECRET}"),
        format!("before = [[\"{SECRET}\"]]"),
        format!("timeout = \"1s\"\nbefore = {{ \"{SECRET}\" = 1 }}"),
    ] {
        let timeout = if hooks.contains("timeout") { "" } else { "timeout = \"1s\"\n" };
        let monitoring = format!("[monitoring]\ntextfile = \"{textfile}\"\n");
        let config = format!("{settings}\n[hooks]\n{timeout}{hooks}\n{monitoring}");
        scene.write("a/backy.toml", config.as_bytes());
        for form in [&[][..], &["-v"], &["--log-format", "json"], &["--log-format", "journal"]] {
            let args = [form, &["-b", "a", "backup", "--force"]].concat();
            let run = scene.run(&args);
            assert_eq!(run.status, Some(1), "{hooks}: {run:?}");
            assert!(!run.stderr.contains(SECRET), "{hooks}: {}", run.stderr);
            tried += 1;
        }
        let said = said_of(&scene);
        assert!(!said.contains(SECRET), "{hooks}: {said}");
    }
    assert_eq!(tried, 44);
    scene.write("a/backy.toml", settings.as_bytes());
    for (command, status) in [("true", 0), ("false", 1)] {
        let line = format!("{command} --password={SECRET} {{}}");
        let run = scene.run(&["-b", "a", "drill", "--json", "--", "sh", "-c", &line]);
        assert_eq!((run.status, &run.json()["command"]), (Some(status), &"sh".into()), "{run:?}");
        let said = format!("{run:?}{}", said_of(&scene));
        assert!(!said.contains(SECRET), "{said}");
    }
}

/// A process of a user who may only read, which has opened `what` and locked it in this way; nothing where there is
/// no Python.
fn stranger(what: &Path, how: &str) -> Option<Ended> {
    // Handed on: the process in the kernel's table has ended, and a child of it has the lock for as long as this
    // process lives.
    const LOCKER: &str = "import fcntl, os, struct, sys, time
how = sys.argv[2]
read, write = os.pipe()
if 'handed on' not in how or os.fork() == 0:
    file = os.open(sys.argv[1], os.O_RDONLY)
    if how == 'image':
        fcntl.fcntl(file, 37, struct.pack('hhqqi4x', fcntl.F_RDLCK, 0, 100, 1, 0))
    else:
        fcntl.flock(file, fcntl.LOCK_SH if 'shared' in how else fcntl.LOCK_EX)
    if 'handed on' in how:
        os.close(write)
        if os.fork() == 0:
            os.read(read, 1)
        os._exit(0)
else:
    os.wait()
os.write(1, b'x')
time.sleep(60)
";
    let mut command = Command::new("setpriv");
    let user = format!("{STRANGER}");
    command.args([
        "--reuid",
        &user,
        "--regid",
        &user,
        "--clear-groups",
        "--",
        "python3",
        "-c",
        LOCKER,
    ]);
    command.arg(what).arg(how).env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        skipped("there is no setpriv");
        return None;
    };
    let mut output = child.stdout.take().unwrap();
    let ended = Ended(child);
    let mut byte = [0];
    match std::io::Read::read_exact(&mut output, &mut byte) {
        Ok(()) => Some(ended),
        Err(_) => {
            skipped("there is no python3 for other users");
            None
        }
    }
}

/// Whoever may read an archive can lock its folder, its image, and the lock file if all may open that. He prevents
/// nobody from writing.
#[test]
fn a_reader_does_not_block_writers() {
    if !is_root() {
        return skipped("only root can be another user");
    }
    let (scene, mut states) = Scene::with_revisions(2);
    scene.damages_the_archive();
    let folder = scene.path("a");
    set_mode(folder.parent().unwrap(), 0o755);
    let locks = [
        (".", "shared"),
        (".", "exclusive"),
        (".", "exclusive, handed on"),
        ("lock", "shared"),
        ("lock", "exclusive"),
        ("lock", "shared, handed on"),
        ("last.raw", "image"),
    ];
    for (number, (name, how)) in (2..).zip(locks) {
        // The file as a script of flock(1) makes it, and an image for readers.
        set_mode(&folder, 0o755);
        for open in ["lock", "last.raw"] {
            set_mode(&folder.join(open), 0o644);
        }
        let Some(_stranger) = stranger(&folder.join(name), how) else { return };
        states.insert(0, scene.change_source(number));
        scene.works(&["-b", "a", "backup", "--force"]);
        scene.works(&["-b", "a", "tag", "0", "+x"]);
        scene.works(&["-b", "a", "scrub"]);
        scene.works(&["-b", "a", "maintenance"]);
        let lock = fs::metadata(folder.join("lock")).unwrap();
        assert_eq!((lock.mode() & 0o777, lock.nlink()), (0o600, 1), "{name} {how}");
    }
    scene.holds(&states);
    // Where others may write, they may be writers.
    for name in [".", "lock"] {
        set_mode(&folder, 0o777);
        set_mode(&folder.join("lock"), 0o644);
        let Some(_stranger) = stranger(&folder.join(name), "exclusive") else { return };
        let run = scene.run(&["-b", "a", "--trust", "tag", "0", "+y"]);
        assert_eq!(run.status, Some(1), "{name}: {run:?}");
        assert!(run.stderr.contains("in use by another process"), "{name}: {run:?}");
    }
    let left: Vec<_> =
        folder.read_dir().unwrap().flatten().map(|entry| entry.file_name()).collect();
    let hidden = left.iter().filter(|name| name.to_string_lossy().starts_with('.')).count();
    assert_eq!(hidden, 0, "{left:?}");
}

/// Where others may read the archive, those who may write to it still exclude each other, also when somebody deletes
/// the file that they have locked.
#[test]
fn writers_exclude_each_other_where_others_may_read() {
    let (scene, _) = Scene::with_revisions(1);
    let folder = scene.path("a");
    set_mode(&folder, 0o755);
    let mut command = Command::new("flock");
    command.args(["--shared", "--no-fork"]).arg(&folder).args(["sleep", "60"]);
    let Ok(child) = command.stdin(Stdio::null()).spawn() else {
        return skipped("flock(1) is not installed");
    };
    let held = Ended(child);
    let taken = || Command::new("flock").arg("-n").arg(&folder).arg("true").status().unwrap();
    while taken().success() {
        std::thread::sleep(Duration::from_millis(10));
    }
    scene.refuses(&["-b", "a", "tag", "0", "+x"], &["in use by another process"]);
    drop(held);
    scene.change_source(5);
    let slow = ["-b", "a", "backup", "--force", "--limit-rate", "300K"];
    let mut backup = Ended(scene.command(&slow).spawn().unwrap());
    scene.await_status(|status| !status["lock_holder"].is_null());
    fs::remove_file(folder.join("lock")).unwrap();
    for _ in 0..2 {
        scene.fails(&["-b", "a", "tag", "0", "+x"], &["in use by another process"]);
        assert!(backup.0.try_wait().unwrap().is_none(), "the backup has ended too early");
    }
    assert!(backup.0.wait().unwrap().success());
    scene.works(&["-b", "a", "tag", "0", "+x"]);
}

/// backy does not write to a lock file that has other names or belongs to another user: it replaces it.
#[test]
fn a_foreign_lock_file_is_replaced() {
    let (scene, states) = Scene::with_revisions(1);
    let lock = scene.path("a/lock");
    let precious = scene.path("precious");
    scene.write("precious", b"a line of root's\n");
    fs::remove_file(&lock).unwrap();
    fs::hard_link(&precious, &lock).unwrap();
    scene.works(&["-b", "a", "tag", "0", "+x"]);
    assert_eq!(scene.read("precious"), b"a line of root's\n");
    let own = |path: &Path| fs::metadata(path).unwrap();
    assert_eq!((own(&lock).nlink(), own(&precious).nlink()), (1, 1));
    assert_ne!(own(&lock).ino(), own(&precious).ino());
    let before = own(&lock).ino();
    scene.works(&["-b", "a", "tag", "0", "+y"]);
    assert_eq!(own(&lock).ino(), before, "one that is its own stays");
    set_mode(&lock, 0o644);
    scene.works(&["-b", "a", "tag", "0", "+z"]);
    assert_eq!(own(&lock).mode() & 0o777, 0o600);
    if is_root() {
        chown(&lock, Some(STRANGER), None).unwrap();
        scene.works(&["-b", "a", "tag", "0", "-z"]);
        assert_eq!(own(&lock).uid(), 0);
    }
    fs::remove_file(&lock).unwrap();
    symlink(&precious, &lock).unwrap();
    scene.refuses(&["-b", "a", "tag", "0", "-y"], &["lock", "a symbolic link"]);
    assert_eq!(scene.read("precious"), b"a line of root's\n");
    fs::remove_file(&lock).unwrap();
    scene.holds(&states);
}

/// A drill with a command is refused where others could replace the restored file, and leaves nothing.
#[test]
fn drill_file_cannot_be_swapped_by_other_users() {
    let (scene, _) = Scene::with_revisions(1);
    let folder = scene.path("trial");
    fs::create_dir(&folder).unwrap();
    let drill = ["-b", "a", "drill", "--dir", "trial", "--", "test", "-f"];
    for (mode, refused) in [(0o700, false), (0o755, false), (0o1777, false), (0o757, true)] {
        set_mode(&folder, mode);
        match refused {
            true => {
                scene.refuses(&drill, &["trial", "every user", "sticky bit"]);
            }
            false => {
                scene.works(&drill);
            }
        }
        assert!(folder.read_dir().unwrap().next().is_none(), "left over");
    }
    if is_root() {
        set_mode(&folder, 0o770);
        scene.works(&drill);
        chown(&folder, None, Some(STRANGER)).unwrap();
        scene.refuses(&drill, &["trial", "group 65534 may write to it"]);
        set_mode(&folder, 0o700);
        chown(&folder, Some(STRANGER), None).unwrap();
        scene.refuses(&drill, &["trial", "65534", "choose a folder"]);
        assert!(folder.read_dir().unwrap().next().is_none(), "left over");
    }
}

/// The log of a mount is a regular file of its user: backy follows no link, and does not write to what somebody else
/// has put there.
#[test]
fn mount_log_follows_no_links() {
    let (scene, _) = Scene::with_revisions(1);
    fs::create_dir(scene.path("mnt")).unwrap();
    scene.write("precious", b"precious");
    symlink("precious", scene.path("link")).unwrap();
    symlink("new", scene.path("dangling")).unwrap();
    fs::hard_link(scene.path("precious"), scene.path("hard")).unwrap();
    let mut refused =
        vec![("link", "a symbolic link"), ("dangling", "a symbolic link"), ("hard", "hard links")];
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        scene.path("fifo"),
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    refused.push(("fifo", "no regular file"));
    if is_root() {
        scene.write("theirs", b"");
        chown(scene.path("theirs"), Some(STRANGER), None).unwrap();
        refused.push(("theirs", "65534"));
    }
    for (log, found) in refused {
        scene.refuses(&["-b", "a", "mount", "-f", "--log", log, "mnt"], &[log, found]);
    }
    assert!(!scene.path("new").exists());
}
