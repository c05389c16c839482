//! Hooks around real backups: what is frozen is thawed, whatever happens to backy. Also hooks that hang or fail.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backy_tests::qemu;
use tempfile::TempDir;

use crate::disks::Disk;
use crate::site::{Site, fails, noise, run, text, words, works};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Adds hooks to the config of an archive.
pub(crate) fn configure(site: &Site, hooks: &str) {
    site.configure(|config| format!("{config}\n[hooks]\n{hooks}\n"));
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts a backup, whose output is kept.
fn start(site: &Site, args: &[&str]) -> Child {
    // The test itself may run with signals ignored.
    let plain = site.backy(args);
    let mut command = Command::new("env");
    command.arg("--default-signal=INT,TERM,HUP").arg(plain.get_program()).args(plain.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("start a backup")
}

fn kill(signal: &str, process: u32) {
    works(Command::new("kill").args(["-s", signal, &process.to_string()]));
}

/// Waits for its end. Returns how it ended, and its output.
fn end(child: Child) -> (std::process::ExitStatus, String) {
    let output = child.wait_with_output().expect("the end of a backup");
    (output.status, words(&output))
}

/// Starts a slow backup, and waits until it reads the source.
fn start_reading(site: &Site, rate: &str) -> Child {
    let manifest = || fs::read_to_string(site.folder.join("manifest.json")).expect("a manifest");
    // A killed one may have left such a manifest.
    let before = manifest();
    let child = start(site, &["backup", "--force", "--limit-rate", rate]);
    wait_until("a backup", || {
        let now = manifest();
        now != before && now.contains("\"operation\": \"backup\"")
    });
    child
}

/// The guard that a backup has started.
fn guard_of(backup: &Child) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", backup.id());
    let children = fs::read_to_string(children).expect("the children of the backup");
    let is_guard = |process: &&str| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == b"--hook-guard")
    };
    let guard = children.split_whitespace().find(is_guard).expect("a guard");
    guard.parse().expect("a number")
}

/// An archive whose hooks record when they run.
struct Noted {
    place: TempDir,
    site: Site,
}

impl Noted {
    /// `before` and `after` are lines of the config, with `LOG` for a file that they write to and [`Noted::log`]
    /// shows.
    fn make(before: &str, after: &str, more: &str) -> Self {
        let place = tempfile::tempdir().expect("a temporary folder");
        let site = Site::with_backups(place.path(), &[noise(1, 2 * MIB)]);
        site.write_source(&noise(2, 2 * MIB));
        let noted = Noted { site, place };
        let log = noted.path("log");
        let line = |line: &str| line.replace("LOG", text(&log));
        let hooks =
            format!("before = '''{}'''\nafter = '''{}'''\n{more}", line(before), line(after));
        configure(&noted.site, &hooks);
        noted
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

const BEFORE: &str = "echo before >> LOG";
const AFTER: &str = "echo after $BACKY_RESULT >> LOG";

/// Hooks learn what is backed up. They run for a backup that is made, and for no other. They print only with -v.
#[test]
fn hooks_receive_what_is_backed_up() {
    let dump = "echo a word; env | grep ^BACKY_ | sort >> LOG";
    let mut noted = Noted::make(dump, dump, "snapshot = \"SOURCE\"");
    let config = noted.site.folder.join("backy.toml");
    let settings = fs::read_to_string(&config).expect("read the config");
    let settings = settings.replace("SOURCE", text(&noted.site.source));
    fs::write(&config, settings).expect("write the config");
    works(&mut noted.site.backy(&["backup"]));
    works(&mut noted.site.backy(&["backup", "--force", "--dry-run"]));
    assert_eq!(noted.log(), "", "a hook without a backup");

    let state = fs::read(&noted.site.source).expect("read the source");
    let report = noted.site.backup(&state);
    let (archive, source) = (text(&noted.site.folder), text(&noted.site.source));
    let revision = report["revision"]["uuid"].as_str().expect("a UUID");
    let expected = |hook: &str, result: &str| {
        format!(
            "BACKY_ARCHIVE={archive}\nBACKY_HOOK={hook}\n{result}BACKY_REVISION={revision}\n\
             BACKY_SNAPSHOT={source}\nBACKY_SOURCE={source}\n"
        )
    };
    let after = expected("after", "BACKY_RESULT=ok\n");
    assert_eq!(noted.log(), expected("before", "") + &after);

    let output = run(&mut noted.site.backy(&["-v", "backup", "--force"]));
    for word in ["hook before: a word", "hook after: a word", "hook after took 0."] {
        assert!(words(&output).contains(word), "{}", words(&output));
    }
}

/// A `before` that fails, cannot run, or hangs: an error that says so in one line, `after` if it was started, no
/// backup, and the archive as it was.
#[test]
fn a_before_that_fails() {
    for (before, after, said) in [
        (
            "echo no, not today >&2; exit 3",
            "after failed\n",
            "ended with exit status: 3: no, not today; no backup was made",
        ),
        (
            "echo hm; sleep 100 & sleep 100",
            "after failed\n",
            "did not end within 1 s and was stopped: hm; no backup",
        ),
        ("kill -KILL $$", "after failed\n", "signal: 9"),
    ] {
        let mut noted = Noted::make(before, AFTER, "timeout = \"1s\"");
        let began = Instant::now();
        let message = fails(&mut noted.site.backy(&["backup", "--force"]));
        assert!(message.starts_with("backy: error: hook before: '"), "{message}");
        assert!(message.contains(said), "{message}");
        assert!(message.contains("; find out why the hook fails"), "{message}");
        assert_eq!(noted.log(), after, "{before}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        noted.site.check_at_rest();
    }
    let mut noted = Noted::make(BEFORE, AFTER, "");
    let config = noted.site.folder.join("backy.toml");
    let settings = fs::read_to_string(&config).expect("read the config");
    let line = settings.lines().find(|line| line.starts_with("before = ")).expect("a hook");
    let settings = settings.replace(line, "before = [\"/no/such/program\", \"x\"]");
    fs::write(&config, settings).expect("write the config");
    let message = fails(&mut noted.site.backy(&["backup", "--force"]));
    assert!(message.contains("cannot run '/no/such/program': No such file"), "{message}");
    assert_eq!(noted.log(), "", "after, although before was not started");
    noted.site.check_at_rest();
}

/// Where others may write to the archive, and so decide what runs, nothing runs unless somebody says that they are
/// trusted.
#[test]
fn hooks_of_an_archive_that_others_may_write_to() {
    let noted = Noted::make(BEFORE, AFTER, "");
    works(Command::new("chmod").arg("o+w").arg(&noted.site.folder));
    let output = run(&mut noted.site.backy(&["backup", "--force"]));
    let said = words(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("archive: not trusted: every user may write to it"), "{said}");
    assert_eq!(noted.log(), "");
    works(&mut noted.site.backy(&["--trust", "backup", "--force"]));
    assert_ne!(noted.log(), "");
}

/// An `after` that fails or hangs is an error, and the revision stays. With another error, both are reported.
#[test]
fn an_after_that_fails() {
    for (after, said) in
        [("echo tired; false", "exit status: 1: tired"), ("sleep 50", "within 1 s")]
    {
        let mut noted = Noted::make(BEFORE, after, "timeout = \"1s\"");
        let state = fs::read(&noted.site.source).expect("read the source");
        let message = fails(&mut noted.site.backy(&["backup", "--force"]));
        assert!(message.starts_with("backy: error: hook after: '"), "{message}");
        assert!(message.contains(said), "{message}");
        let made = noted.site.committed()[0].clone();
        assert!(
            message.contains(&format!("; revision {made} was made nevertheless;")),
            "{message}"
        );
        noted.site.push(&made, &state);
        noted.site.check_at_rest();
    }
    let mut noted = Noted::make("rm \"$BACKY_SOURCE\"", "exit 4", "");
    let message = fails(&mut noted.site.backy(&["backup", "--force"]));
    assert!(message.contains("source: cannot open it"), "{message}");
    assert!(message.contains("; hook after: '/bin/sh' ended with exit status: 4;"), "{message}");
    noted.site.check_at_rest();
}

/// Ctrl-C, SIGTERM and SIGKILL while `before` hangs: it is ended with its children, then `after` runs.
#[test]
fn stopped_while_before_hangs() {
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(1)), ("KILL", None)] {
        let mut noted = Noted::make("echo before >> LOG; sleep 4; echo late >> LOG", AFTER, "");
        let child = start(&noted.site, &["backup", "--force"]);
        wait_until("before", || noted.log() == "before\n");
        let began = Instant::now();
        kill(signal, child.id());
        let (status, said) = end(child);
        wait_until("after", || noted.log() == "before\nafter interrupted\n");
        assert_eq!(status.code(), code, "{signal}: {said}");
        match code {
            Some(_) => assert!(said.contains("interrupted; the archive is as it was"), "{said}"),
            None => assert!(said.contains("the backup was killed"), "{said}"),
        }
        std::thread::sleep(Duration::from_secs(6).saturating_sub(began.elapsed()));
        assert_eq!(noted.log(), "before\nafter interrupted\n", "{signal}");
        noted.site.check_at_rest();
    }
}

/// After a kill the archive is locked until `after` has ended, so that the hooks of two backups do not mix. `after`
/// runs once, also when the kill comes while it runs.
#[test]
fn the_archive_is_locked_until_after_has_ended() {
    let slow = "echo begin >> LOG; sleep 3; echo end $BACKY_RESULT >> LOG";
    let mut noted = Noted::make("true", slow, "");
    let child = start(&noted.site, &["backup", "--force"]);
    wait_until("after", || noted.log() == "begin\n");
    kill("KILL", child.id());
    let message = fails(&mut noted.site.backy(&["backup", "--force"]));
    assert!(message.contains("the archive is in use by 'backup' (process"), "{message}");
    assert_eq!(noted.log(), "begin\n", "it came too late for this test");
    works(&mut noted.site.backy(&["status"]));
    let (_, said) = end(child);
    assert_eq!(noted.log(), "begin\nend ok\n", "{said}");
    let state = fs::read(&noted.site.source).expect("read the source");
    wait_until("the lock", || {
        noted.site.backy(&["tag", "0", "+x"]).status().is_ok_and(|s| s.success())
    });
    noted.site.backup(&state);
    noted.site.check_at_rest();
}

/// A file system that `fsfreeze` freezes for a backup to an archive elsewhere.
struct Frozen {
    disk: Disk,
    site: Site,
    _place: TempDir,
}

impl Frozen {
    fn make(kind: &str, bytes: u64) -> Option<Self> {
        let found = Command::new("fsfreeze").arg("--help").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            qemu::skipped("fsfreeze is not installed");
            return None;
        }
        let disk = Disk::make(kind, bytes)?;
        fs::write(disk.path().join("file"), noise(5, MIB)).expect("write a file");
        let place = tempfile::tempdir().expect("a temporary folder");
        let site = Site::init(place.path(), &disk.device.path);
        let mountpoint = text(disk.path());
        configure(
            &site,
            &format!(
                "before = [\"/usr/sbin/fsfreeze\", \"--freeze\", \"{mountpoint}\"]\n\
                 after = [\"/usr/sbin/fsfreeze\", \"--unfreeze\", \"{mountpoint}\"]"
            ),
        );
        Some(Frozen { disk, site, _place: place })
    }
}

/// Whether a file system is frozen. It must not become frozen at this moment.
fn is_frozen(mountpoint: &Path) -> bool {
    let fsfreeze = |action: &str| {
        let mut command = Command::new("fsfreeze");
        command.arg(action).arg(mountpoint).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    // A frozen one cannot be frozen again.
    let is_frozen = !fsfreeze("--freeze");
    assert!(is_frozen || fsfreeze("--unfreeze"), "it is frozen by this test");
    is_frozen
}

/// A file system that `before` has frozen is thawed when the backup ends, in whatever way: by success, Ctrl-C, two of
/// them, SIGTERM, SIGKILL, and when the guard itself is killed. Then it can be written to and backed up again.
#[test]
fn the_source_is_thawed_whatever_happens() {
    let Some(mut frozen) = Frozen::make("ext4", 24 << 20) else { return };
    for signals in [&["KILL"][..], &["INT"], &["INT", "INT"], &["TERM"], &["guard"], &[]] {
        let child = start_reading(&frozen.site, "8M");
        assert!(is_frozen(frozen.disk.path()), "it is read without being frozen");
        for signal in signals {
            match *signal {
                "guard" => kill("KILL", guard_of(&child)),
                signal => kill(signal, child.id()),
            }
        }
        let (status, said) = end(child);
        let worked = signals.is_empty() || signals == ["guard"];
        assert_eq!(status.success(), worked, "{signals:?}: {status}: {said}");
        assert_eq!(status.signal() == Some(9), signals == ["KILL"], "{status}");
        wait_until("thawed", || !is_frozen(frozen.disk.path()));
        fs::write(frozen.disk.path().join("file"), signals.concat()).expect("write a file");
        works(Command::new("sync").arg("-f").arg(frozen.disk.path()));
        if worked {
            let uuid = frozen.site.committed()[0].clone();
            let bytes = works(&mut frozen.site.backy(&["restore", "-"]));
            frozen.site.push(&uuid, &bytes);
        }
    }
    frozen.site.check_at_rest();
}

/// The same for XFS, killed.
#[test]
fn a_frozen_xfs_is_thawed() {
    let Some(frozen) = Frozen::make("xfs", 300 << 20) else { return };
    let child = start_reading(&frozen.site, "20M");
    assert!(is_frozen(frozen.disk.path()), "it is read without being frozen");
    kill("KILL", child.id());
    let (_, said) = end(child);
    assert!(said.contains("the backup was killed; its hook 'after' was run"), "{said}");
    assert!(!is_frozen(frozen.disk.path()), "it is still frozen");
}

/// With the archive on the frozen file system backy waits for itself, until the guard thaws because max_hold has
/// passed. The backup fails and says why, and the archive is as it was.
#[test]
fn a_backup_that_waits_for_itself() {
    let Some(frozen) = Frozen::make("ext4", 48 << 20) else { return };
    let mut site = Site::with_backups(frozen.disk.path(), &[noise(6, MIB)]);
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let source = elsewhere.path().join("source");
    fs::write(&source, noise(7, MIB)).expect("write the source");
    let config = fs::read_to_string(frozen.site.folder.join("backy.toml")).expect("a config");
    let (_, hooks) = config.split_once("\n[hooks]\n").expect("hooks");
    let settings = format!("source = {source:?}\n[hooks]\nmax_hold = \"2s\"\n{hooks}");
    fs::write(site.folder.join("backy.toml"), settings).expect("write the config");
    let mut child = start(&site, &["backup", "--force"]);
    let began = Instant::now();
    while child.try_wait().expect("look after it").is_none() {
        if began.elapsed() > PATIENCE {
            // Before anything else waits for it.
            let _ = Command::new("fsfreeze").arg("--unfreeze").arg(frozen.disk.path()).status();
            panic!("nobody has thawed it");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut said = String::new();
    child.stderr.take().expect("its output").read_to_string(&mut said).expect("text");
    assert!(said.contains("max_hold"), "{said}");
    assert!(said.contains("the archive is as it was before"), "{said}");
    assert!(began.elapsed() > Duration::from_secs(2), "it did not wait: {said}");
    site.check_at_rest();
}

/// Standard error may be a log on the very file system that is frozen: messages wait until it is thawed.
#[test]
fn messages_wait_while_the_source_is_frozen() {
    let Some(frozen) = Frozen::make("ext4", 24 << 20) else { return };
    let log = frozen.disk.path().join("log");
    for form in [&[][..], &["--log-format", "json"]] {
        let file = fs::File::create(&log).expect("make the log");
        let args = [&["-v"][..], form, &["backup", "--force"]].concat();
        let mut command = frozen.site.backy(&args);
        let mut child = command.stderr(file).stdout(Stdio::null()).spawn().expect("start it");
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("look after it") {
                break status;
            }
            if began.elapsed() > PATIENCE {
                // Before anything else waits for it.
                let unfreeze = ["--unfreeze", text(frozen.disk.path())];
                let _ = Command::new("fsfreeze").args(unfreeze).status();
                let _ = child.kill();
                panic!("it waits for itself");
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        assert!(status.success(), "{status}");
        assert!(!is_frozen(frozen.disk.path()), "it is still frozen");
        let said = fs::read_to_string(&log).expect("read the log");
        assert!(said.contains("hook before took") && said.contains("hook after took"), "{said}");
    }
}
