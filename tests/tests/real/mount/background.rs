//! The background process holds nothing of its caller, and the caller learns of its errors.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::namespace::Namespace;
use crate::mounted::{Mount, Mountpoint, fuse_available, signal, until};
use crate::site::{BLOCK_BYTES, Site, fails, noise, run, text, unmounts, words, works};
use crate::strace;

fn site(place: &Path) -> Site {
    Site::with_backups(place, &[noise(600, 3 * BLOCK_BYTES)])
}

/// The backy command in a shell script, as `$BACKY`, its archive as `$ARCHIVE`, the mountpoint as `$MNT`.
fn script(site: &Site, on: &Mountpoint, text: &str) -> Command {
    let backy = site.backy(&[]);
    let mut command = Command::new("sh");
    command.args(["-e", "-c", text]).stdin(Stdio::null());
    command.env("BACKY", backy.get_program()).env("ARCHIVE", &site.folder).env("MNT", &on.path);
    command
}

/// A pipe that its caller reads from ends when the command ends, also if it is no standard stream. A lock that its
/// caller holds is free again.
#[test]
fn background_mount_holds_nothing_of_the_caller() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let lock = temp.path().join("callers-lock");
    let mut command = script(
        &site,
        &on,
        "exec 9> \"$LOCK\"; flock 9
         { $BACKY -b \"$ARCHIVE\" mount \"$MNT\" 2>&1 5>&1 7>&1; } | timeout 20 cat
         exec 9>&-
         flock --nonblock \"$LOCK\" true",
    );
    command.env("LOCK", &lock).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start a shell");
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("read");
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("read");
    let status = child.wait().expect("wait for the shell");
    assert!(status.success() && said.is_empty(), "{status}: {said}");
    let [process] = on.processes()[..] else { panic!("there is no process, or several") };
    let link = |name: &str| fs::read_link(format!("/proc/{process}/{name}")).expect("a link");
    assert_eq!(link("cwd"), Path::new("/"));
    for stream in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(stream), Path::new("/dev/null"), "{stream}");
    }
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("read about it");
    let (_, fields) = stat.rsplit_once(") ").expect("its name");
    // State, parent, group, session.
    let session: u32 = fields.split(' ').nth(3).expect("a session").parse().expect("a number");
    assert_eq!(session, process, "it has no session of its own");
    on.unmount();
    until("it has ended", || on.processes().is_empty());
}

/// Paths relative to the current folder mean the same in the background.
#[test]
fn relative_paths_start_at_the_callers_folder() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let place = on.path.parent().expect("a folder");
    std::os::unix::fs::symlink(&site.folder, place.join("here")).expect("a link");
    fs::create_dir(place.join("layers")).expect("make a folder");
    let text = "cd \"$MNT/..\"; $BACKY -b here mount --writable --dir layers --log log -- mnt";
    works(&mut script_through_env(&site, &on, text));
    let log = place.join("log");
    until("it has said so", || fs::read_to_string(&log).unwrap_or_default().contains(": mounted "));
    assert!(fs::read(on.path.join("latest")).expect("read") == site.expected[0].bytes);
    on.unmount();
    until("it has said so", || {
        fs::read_to_string(&log).unwrap_or_default().contains(": unmounted ")
    });
    let said = fs::read_to_string(&log).expect("read the log");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.lines().all(|line| line.contains("Z backy[")), "{said}");
}

/// As [`script`], for [`works`], which starts another command in place of this one.
fn script_through_env(site: &Site, on: &Mountpoint, text: &str) -> Command {
    let inner = script(site, on, text);
    let mut command = Command::new("env");
    for (name, value) in inner.get_envs() {
        let mut word = name.to_owned();
        word.push("=");
        word.push(value.expect("a value"));
        command.arg(word);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// SIGTERM to the background process unmounts and ends it.
#[test]
fn a_terminated_mount_unmounts() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let Some(mount) = Mount::make(&site, &[]) else { return };
    signal(mount.on.processes()[0], "TERM");
    until("it has ended", || mount.on.processes().is_empty());
    assert!(!mount.on.is_mounted());
}

/// SIGTERM while a file is open waits for it, for at most five seconds. Then nothing is left mounted.
#[test]
fn a_terminated_mount_waits_for_users() {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let Some(mount) = Mount::make(&site, &[]) else { return };
    let file = fs::File::open(mount.path("latest")).expect("open the newest");
    signal(mount.on.processes()[0], "TERM");
    std::thread::sleep(Duration::from_secs(1));
    assert!(mount.on.is_mounted(), "it was not waited for");
    until("it has ended", || mount.on.processes().is_empty());
    assert!(!mount.on.is_mounted());
    drop(file);
}

/// Findings are written to the system's log, as the lines of other daemons are.
#[test]
fn mount_findings_go_to_syslog() {
    if !fuse_available() {
        return;
    }
    let Some(view) = Namespace::new() else { return };
    let temp = tempfile::tempdir().expect("a temporary folder");
    // A /dev with what is needed, and a log of our own.
    let devices = temp.path().join("dev");
    fs::create_dir(&devices).expect("make a folder");
    for (name, major, minor) in [("null", "1", "3"), ("fuse", "10", "229")] {
        let device = devices.join(name);
        works(Command::new("mknod").args(["--mode=666", text(&device), "c", major, minor]));
    }
    let log = UnixDatagram::bind(devices.join("log")).expect("listen");
    log.set_read_timeout(Some(Duration::from_secs(10))).expect("set a limit");
    view.bind(&devices, "/dev");
    let site = site(temp.path());
    fs::write(site.folder.join("last.raw"), noise(601, 3 * BLOCK_BYTES)).expect("damage");
    let on = Mountpoint::new();
    let backy = site.backy(&["mount"]);
    let mut mount = view.command(backy.get_program());
    works(mount.args(backy.get_args()).arg(&on.path));
    let [process] = on.processes()[..] else { panic!("there is no process, or several") };
    let read = run(view.command("cat").arg(on.path.join("latest")));
    unmounts(view.command("umount").arg(&on.path));
    assert!(words(&read).contains("Input/output error"), "{}", words(&read));
    let mut line = vec![0; 2000];
    let mut next = || {
        let len = log.recv(&mut line).expect("a line");
        String::from_utf8_lossy(&line[..len]).into_owned()
    };
    let (first, second) = (next(), next());
    // Daemon, information and warning: 3 * 8 + 6 or 4.
    let ours = format!(" backy[{process}]: ");
    // Then the name of the operation, the same in both.
    let operation = |line: &str| line.split_once(&ours).expect("ours").1[..36].to_owned();
    let ours = format!("{ours}{}: ", operation(&first));
    assert!(first.starts_with("<30>") && first.contains(&format!("{ours}mounted ")), "{first}");
    assert!(second.starts_with("<28>") && second.contains(&format!("{ours}warning: ")), "{second}");
    assert!(second.contains("block "), "{second}");
    until("it has ended", || on.processes().is_empty());
}

/// A log that cannot be written to is an error before anything is mounted.
#[test]
fn a_log_that_cannot_be_written() {
    if !fuse_available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let mut command = site.backy(&["mount", "--log", "/nowhere/log", text(&on.path)]);
    let message = fails(&mut command);
    assert!(message.contains("/nowhere/log: "), "{message}");
    assert!(!on.is_mounted() && on.processes().is_empty());
}

/// `backy mount`, delayed by two seconds just before it mounts, and the process that its caller waits for.
fn held_up(site: &Site, on: &Mountpoint) -> (Running, u32) {
    let mut command = site.backy(&["mount"]);
    command.arg(&on.path);
    let log = on.path.parent().expect("a folder").join("strace.log");
    // The test may itself run with signals ignored.
    let mut slow = Command::new("env");
    let traced = strace::tracing(&command, "mount", "delay_enter=2000000", &log);
    slow.arg("--default-signal=INT").arg(traced.get_program()).args(traced.get_args());
    let running = Running::start(&mut slow);
    until("it is about to be mounted", || !on.processes().is_empty());
    let half = on.processes()[0];
    let stat = fs::read_to_string(format!("/proc/{half}/stat")).expect("read about it");
    let (_, fields) = stat.rsplit_once(") ").expect("its name");
    let parent = fields.split(' ').nth(1).expect("a parent").parse().expect("a number");
    (running, parent)
}

/// Ctrl-C before it is mounted ends both processes, with 130, and nothing is mounted.
#[test]
fn ctrl_c_before_it_is_mounted() {
    if !fuse_available() || !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let (running, parent) = held_up(&site, &on);
    signal(parent, "INT");
    let (status, said) = running.end();
    assert_eq!(status, Some(130), "{said}");
    assert!(said.ends_with("backy: error: interrupted; nothing is mounted\n"), "{said}");
    assert!(!on.is_mounted() && on.processes().is_empty());
}

/// When the waiting process is killed before it is mounted, it is unmounted again.
#[test]
fn background_mount_returns_to_the_caller() {
    if !fuse_available() || !strace::available() {
        return;
    }
    let temp = tempfile::tempdir().expect("a temporary folder");
    let site = site(temp.path());
    let on = Mountpoint::new();
    let (_running, parent) = held_up(&site, &on);
    signal(parent, "KILL");
    until("it has ended", || on.processes().is_empty());
    assert!(!on.is_mounted());
}

/// A process that ends with its value.
struct Running(std::process::Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().expect("start a process"))
    }

    /// Waits until it has ended. Returns its exit status and its output.
    fn end(mut self) -> (Option<i32>, String) {
        until("it has ended", || self.0.try_wait().expect("look after it").is_some());
        let mut said = String::new();
        let mut stderr = self.0.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("read what it said");
        (self.0.wait().expect("wait for a process").code(), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where all went well, it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
