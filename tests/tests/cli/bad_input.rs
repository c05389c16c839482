//! Wrong requests: each is one line that says what, where and how to correct it, with exit status 1, and nothing
//! changes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Stdio};

use backy_lib::progress::Silent;
use backy_lib::{Archive, ArchiveWriter};
use backy_tests::legacy::OldArchive;
use backy_tests::qemu::skipped;

use super::harness::{Scene, is_root, noise, tool};

/// Ends a process that a test started, however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Without an archive, every command says so.
#[test]
fn no_archive_there() {
    let scene = Scene::new();
    fs::create_dir(scene.path("empty")).unwrap();
    for folder in ["missing", "empty"] {
        for command in [&["backup"][..], &["status"], &["restore", "x"], &["find"]] {
            let args: Vec<&str> = ["-b", folder].iter().chain(command).copied().collect();
            let path = scene.text_path(folder);
            scene.refuses(&args, &[&path, "no archive", "-b", "backy init"]);
        }
    }
    scene.refuses(&["-b", "source.img", "status"], &["source.img", "Not a directory"]);
    scene.refuses(&["-b", "", "status"], &["--backupdir"]);
}

/// `init` never replaces an archive, however damaged that is.
#[test]
fn archive_already_there() {
    let (scene, _) = Scene::with_revisions(1);
    let init = ["-b", "a", "init", "source.img"];
    let path = scene.text_path("a");
    scene.refuses(&init, &[&path, "already holds an archive", "-b"]);
    fs::remove_file(scene.path("a/lock")).unwrap();
    scene.refuses(&init, &[&path, "already holds an archive"]);
    scene.write("a/manifest.json", b"rubbish");
    scene.refuses(&init, &[&path, "already holds an archive"]);
    fs::remove_file(scene.path("a/manifest.json")).unwrap();
    scene.refuses(&init, &[&path, "already holds an archive"]);
}

/// `init` rejects a source that is a folder, something else or in the archive.
#[test]
fn init_with_a_bad_source() {
    let scene = Scene::new();
    fs::create_dir(scene.path("folder")).unwrap();
    scene.refuses(&["-b", "a", "init", "folder"], &["folder", "found a folder", "SOURCE"]);
    scene.refuses(&["-b", "a", "init", "/dev/null"], &["/dev/null", "block device"]);
    scene.refuses(&["init", "source.img"], &["source.img", "inside the archive", "-b"]);
}

/// Each backup rejects a source that is missing, a folder, or something else, and leaves no trace in the archive.
#[test]
fn backup_of_a_bad_source() {
    let (scene, _) = Scene::with_revisions(1);
    let backup = ["-b", "a", "backup", "-f"];
    let source = scene.text_path("source.img");
    fs::remove_file(&source).unwrap();
    scene.refuses(&backup, &[&source, "No such file", "backy.toml"]);
    scene.refuses(&["-b", "a", "backup", "-f", "--dry-run"], &[&source, "No such file"]);
    fs::create_dir(&source).unwrap();
    scene.refuses(&backup, &[&source, "found a folder", "backy.toml"]);
    fs::remove_dir(&source).unwrap();
    symlink("/dev/null", &source).unwrap();
    scene.refuses(&backup, &[&source, "block device"]);
    fs::remove_file(&source).unwrap();
    symlink("a/last.raw", &source).unwrap();
    scene.refuses(&backup, &[&source, "inside the archive"]);
}

/// A source without read permission is an error that says so.
#[test]
fn unreadable_source() {
    let scene = Scene::with_archive();
    let source = scene.path("source.img");
    let away: &[&str] = if is_root() {
        // Root without the capability to read everything.
        &["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    } else {
        &[]
    };
    if is_root() && tool("setpriv", &[away[1], "true"]).is_none_or(|run| run.status != Some(0)) {
        return skipped("setpriv cannot take capabilities away");
    }
    // The listing has to read it, so it keeps its permissions until then.
    let before = scene.state();
    fs::set_permissions(&source, PermissionsExt::from_mode(0o000)).unwrap();
    let run = scene.command_under(away, &["-b", "a", "backup"]).output().unwrap();
    fs::set_permissions(&source, PermissionsExt::from_mode(0o644)).unwrap();
    let stderr = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    for word in ["source.img", "Permission denied", "; "] {
        assert!(stderr.contains(word), "{stderr}");
    }
    assert_eq!(before.len(), scene.state().len());
    assert_eq!(
        before.get(&scene.path("a/manifest.json")),
        scene.state().get(&scene.path("a/manifest.json"))
    );
}

/// Without a configured source, neither a backup nor a restore to it is possible.
#[test]
fn no_source_configured() {
    let (scene, _) = Scene::with_revisions(1);
    let config = scene.read_text("a/backy.toml").replace("source = ", "# source = ");
    scene.write("a/backy.toml", config.as_bytes());
    let path = scene.text_path("a/backy.toml");
    scene.refuses(&["-b", "a", "backup", "-f"], &[&path, "no source", "source = "]);
    scene.refuses(&["-b", "a", "restore"], &[&path, "no source", "TARGET"]);
}

/// A mistake in the config is reported with its line and column.
#[test]
fn mistakes_in_the_config() {
    let (scene, _) = Scene::with_revisions(1);
    let path = scene.text_path("a/backy.toml");
    for (config, place, word) in [
        ("sauce = \"/x\"\n", ":1:1: ", "sauce"),
        ("source = 5\n", ":1:10: ", "string"),
        ("source = \"disk.img\"\n", ":1:10: ", "absolute"),
        ("source = \"/x\"\n[schedule.daily]\ninterval = \"1 day\"\nkeep = 1\n", ":3:12: ", "1 day"),
        ("source = \"/x\"\n[schedule.daily]\ninterval = \"1d\"\nkeep = 0\n", ":4:8: ", "keep"),
        ("source = \"/x\n", ":1:13: ", ""),
    ] {
        scene.write("a/backy.toml", config.as_bytes());
        for args in [&["-b", "a", "backup"][..], &["-b", "a", "restore"]] {
            scene.refuses(args, &[&path, place, word, "correct it"]);
        }
    }
    fs::remove_file(&path).unwrap();
    scene.refuses(&["-b", "a", "backup"], &[&path, "No such file", "put it back"]);
    // A restore to another target does not need it.
    scene.works(&["-b", "a", "restore", "x"]);
}

/// A missing revision is an error that lists the existing ones.
#[test]
fn unknown_revisions() {
    let (scene, _) = Scene::with_revisions(2);
    for (spec, word) in [
        ("2", "0 to 1"),
        ("tag:yearly", "daily"),
        ("ffff", "2 revisions"),
        ("x", "expected a number"),
    ] {
        for command in [&["restore", "x", "-r"][..], &["find", "-r"], &["status"]] {
            let args: Vec<&str> =
                ["-b", "a"].iter().chain(command).chain([&spec]).copied().collect();
            scene.refuses(&args, &[word, "; "]);
        }
    }
    let empty = Scene::with_archive();
    empty.refuses(&["-b", "a", "restore", "x"], &["no revisions yet", "status"]);
}

/// A prefix that two UUIDs share is an error that names both.
#[test]
fn ambiguous_beginnings() {
    let (scene, _) = Scene::with_revisions(2);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    let [a, b] =
        [0, 1].map(|number| status["revisions"][number]["uuid"].as_str().unwrap().to_owned());
    // Both were made within minutes, so that they share the first digits of the time.
    let prefix = &a[..4];
    assert_eq!(prefix, &b[..4]);
    scene.refuses(&["-b", "a", "restore", "-r", prefix, "x"], &[prefix, "ambiguous", &a, &b]);
    scene.refuses(&["-b", "a", "find", "-r", &a[..3]], &[&a[..3]]);
}

/// While somebody else holds the lock, nothing that changes an archive begins: each command names the holder, and no
/// file changes.
#[test]
fn no_writer_starts_while_the_archive_is_locked() {
    let (scene, _) = Scene::with_revisions(3);
    let archive = Archive::open(&scene.path("a")).expect("the archive");
    let held = ArchiveWriter::open(archive, "'somebody'", &Silent).expect("the lock");
    let old = OldArchive::write(&scene.path("old"), 4096, 0, &[noise(1, 9000)]);
    let old = old.folder.to_str().expect("a path of text").to_owned();
    for args in [
        &["backup", "--force"][..],
        &["maintenance", "-k", "1"],
        &["maintenance", "--confirm"],
        &["rm", "1"],
        &["rm", "0"],
        &["tag", "0", "+x"],
        &["scrub"],
        &["scrub", "--rebuild", "--force"],
        &["import", &old],
    ] {
        let args: Vec<&str> = ["-b", "a"].iter().chain(args).copied().collect();
        scene.refuses(&args, &["'somebody'", "a"]);
    }
    // A drill reads, and says that it cannot be recorded.
    let before = scene.state();
    let run = scene.works(&["-b", "a", "drill"]);
    assert!(run.stderr.contains("cannot record this drill"), "{run:?}");
    assert_eq!(scene.state(), before, "a drill without the lock changed something");
    drop(held);
    scene.works(&["-b", "a", "tag", "0", "+x"]);
}

/// An archive that somebody holds with flock(1) is left alone.
#[test]
fn held_by_flock() {
    let (scene, _) = Scene::with_revisions(1);
    let lock = scene.text_path("a/lock");
    let mut command = std::process::Command::new("flock");
    command.args(["--exclusive", "--no-fork", &lock, "sleep", "60"]).stdin(Stdio::null());
    let Ok(child) = command.spawn() else { return skipped("flock(1) is not installed") };
    let _ended = Ended(child);
    scene.await_status(|status| !status["lock_holder"].is_null());
    let path = scene.text_path("a");
    scene.refuses(&["-b", "a", "backup", "-f"], &[&path, "in use by another process", "again"]);
    let status = scene.works(&["-b", "a", "status"]);
    assert!(status.text().contains("in use by another process"), "{}", status.text());
    // A backup that is not due needs no lock, and readers never do.
    scene.works(&["-b", "a", "backup"]);
    scene.works(&["-b", "a", "restore", "x"]);
}

/// A second backup at the same time names who makes the first. The first one succeeds.
#[test]
fn held_by_another_backup() {
    let (scene, states) = Scene::with_revisions(1);
    scene.change_source(5);
    let child =
        scene.command(&["-b", "a", "backup", "-f", "--limit-rate", "500K"]).spawn().unwrap();
    let process = format!("'backup' (process {} on ", child.id());
    let mut first = Ended(child);
    scene.await_status(|status| !status["in_progress"].is_null());
    let second = scene.run(&["-b", "a", "backup", "-f"]);
    assert_eq!(second.status, Some(1), "{second:?}");
    assert_eq!(second.stderr.lines().count(), 1, "{}", second.stderr);
    for word in [scene.text_path("a").as_str(), &process, "since 20", "; run it again"] {
        assert!(second.stderr.contains(word), "{word}: {}", second.stderr);
    }
    let status = scene.works(&["-b", "a", "status"]);
    assert!(status.text().contains("A backup has been running since 20"), "{}", status.text());
    assert!(status.text().contains(&process), "{}", status.text());
    // A reader gets the revision that was the newest, while the next one is under way.
    let read = scene.works(&["-b", "a", "restore", "-r", "tag:daily", "-"]);
    assert!(read.stdout == states[0]);
    assert!(first.0.wait().unwrap().success());
    assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == scene.read("source.img"));
}

/// Targets in the archive, folders, pipes and links to nowhere are refused, with and without --force.
#[test]
fn restore_refuses_targets_that_would_destroy_something() {
    let (scene, _) = Scene::with_revisions(2);
    let delta = scene.file_of_archive(".qcow2");
    fs::create_dir(scene.path("folder")).unwrap();
    fs::hard_link(scene.path("a/last.raw"), scene.path("hard")).unwrap();
    symlink("a/last.raw", scene.path("soft")).unwrap();
    symlink("a", scene.path("around")).unwrap();
    symlink("nowhere", scene.path("dangling")).unwrap();
    assert!(tool("mkfifo", &[&scene.text_path("fifo")]).is_some());
    for (target, word) in [
        ("a/new.img", "in the archive"),
        ("a/last.raw", "in the archive"),
        ("around/new.img", "in the archive"),
        (delta.as_str(), "in the archive"),
        ("hard", "in the archive"),
        ("soft", "in the archive"),
        ("folder", "folder"),
        ("dangling", "link to nowhere"),
        ("fifo", "neither a regular file nor a block device"),
        ("", "TARGET"),
    ] {
        for force in [&[][..], &["--force"]] {
            let args: Vec<&str> = ["-b", "a", "restore", "-r", "1"]
                .iter()
                .chain(force)
                .chain([&target])
                .copied()
                .collect();
            scene.refuses(&args, &[target, word]);
        }
    }
    let words = ["gone: cannot look up the folder", "No such file", "check the path"];
    scene.refuses(&["-b", "a", "restore", "gone/new.img"], &words);
}

/// Wrong arguments are one line, too, with exit status 1.
#[test]
fn usage_errors() {
    let scene = Scene::new();
    for (args, word) in [
        (&["backup", "--forse"][..], "'--force'"),
        (&["bakcup"], "'backup'"),
        (&["-v", "-q", "status"], "--quiet"),
        (&["completions", "sh"], "sh"),
        (&["backup", "extra"], "extra"),
    ] {
        scene.refuses(args, &[word, "--help"]);
    }
    let run = scene.run(&[]);
    assert_eq!((run.status, run.text()), (Some(1), ""));
    assert!(run.stderr.contains("Usage: backy"), "{}", run.stderr);
}

/// A file name cannot steer the terminal of whoever reads the error.
#[test]
fn hostile_file_names() {
    let (scene, _) = Scene::with_revisions(1);
    let name = "evil\n\x1b[31mname";
    scene.write(name, &noise(1, 10));
    let line = scene.refuses(&["-b", "a", "restore", name], &["--force"]);
    assert!(!line.contains('\x1b'), "{line:?}");
}
