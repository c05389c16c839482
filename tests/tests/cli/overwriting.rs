//! What a restore may overwrite: without a terminal only the source as it was backed up, on a terminal what a person
//! has seen.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};

use backy_tests::qemu::skipped;

use super::devices::Loop;
use super::harness::{Run, SOURCE_BYTES, Scene, noise, tool};
use super::terminal::{on_terminal, terminal};

const PLAIN: [(&str, &str); 1] = [("NO_COLOR", "1")];

/// Ends a process that a test started, however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The input on the terminal.
fn answering(scene: &Scene, line: &str, answer: &str) -> Option<Run> {
    let mut command = terminal(scene, &PLAIN, line)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run script");
    child.stdin.take().expect("a pipe").write_all(answer.as_bytes()).expect("answer");
    Some(child.wait_with_output().expect("wait for it").into())
}

/// Zeros with the superblock of an ext file system of this label, and noise.
fn labelled(label: &str, bytes: usize) -> Vec<u8> {
    let mut disk = vec![0; bytes];
    disk[500_000..600_000].copy_from_slice(&noise(3, 100_000));
    disk[1024 + 56..1024 + 58].copy_from_slice(&[0x53, 0xef]);
    disk[1024 + 104..1024 + 120].fill(7);
    disk[1024 + 120..1024 + 120 + label.len()].copy_from_slice(label.as_bytes());
    disk
}

/// The path alone does not make it the source: a disk of another size or kind is another one, also with the same file
/// system on it.
#[test]
fn the_source_of_another_size_or_kind_needs_force() {
    let scene = Scene::new();
    let bytes = 2 << 20;
    let state = labelled("web", bytes);
    scene.write("source.img", &state);
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    let words = ["not the source that was backed up", "--force"];
    let longer = [&state[..], &[0; 4096]].concat();
    for (content, size) in [(&state[..bytes - 4096], bytes - 4096), (&longer, bytes + 4096)] {
        scene.write("source.img", content);
        let sizes = format!("found {size} bytes, expected {bytes}");
        let all = [&words[..], &[&sizes]].concat();
        scene.refuses(&["-b", "a", "restore"], &all);
        scene.refuses(&["-b", "a", "restore", "--dry-run", "source.img"], &all);
    }
    scene.works(&["-b", "a", "restore", "--force"]);
    assert!(scene.read("source.img") == state);
    // Overwriting an empty or missing file loses nothing.
    scene.write("source.img", b"");
    scene.works(&["-b", "a", "restore"]);
    fs::remove_file(scene.path("source.img")).unwrap();
    scene.works(&["-b", "a", "restore"]);
    assert!(scene.read("source.img") == state);
    scene.write("disk", &state);
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    fs::remove_file(scene.path("source.img")).unwrap();
    symlink(&disk.0, scene.path("source.img")).unwrap();
    let all = [&words[..], &["found a block device, expected a file"]].concat();
    scene.refuses(&["-b", "a", "restore"], &all);
    scene.works(&["-b", "a", "restore", "--force"]);
}

/// After the restore of an older revision of another size, the source still counts as the same.
#[test]
fn an_older_revision_of_another_size_and_back() {
    let scene = Scene::with_archive();
    let short = scene.read("source.img");
    scene.works(&["-b", "a", "backup"]);
    let long = [&short[..], &noise(9, 100_000)].concat();
    scene.write("source.img", &long);
    scene.works(&["-b", "a", "backup", "--force"]);
    scene.works(&["-b", "a", "restore", "-r", "1"]);
    assert!(scene.read("source.img") == short);
    scene.works(&["-b", "a", "restore"]);
    assert!(scene.read("source.img") == long);
    // An undo archive brings back whatever was there, which had any size.
    scene.write("source.img", &long[..5]);
    scene.works(&["-b", "a", "restore", "--force", "--undo", "u"]);
    scene.works(&["-b", "u", "restore"]);
    assert!(scene.read("source.img") == long[..5]);
}

/// A program that has the source open for writing would write into what is restored. One that only reads does not
/// matter.
#[test]
fn restore_to_a_file_open_for_writing_needs_force() {
    let (scene, states) = Scene::with_revisions(2);
    let open = |name: &str, writing: bool| {
        let file = File::options().read(true).write(writing).open(scene.path(name)).unwrap();
        Ended(Command::new("sleep").arg("60").stdin(file).spawn().expect("sleep"))
    };
    let reader = open("source.img", false);
    scene.works(&["-b", "a", "restore", "-r", "1"]);
    scene.works(&["-b", "a", "restore"]);
    drop(reader);
    let user = open("source.img", true);
    let words = [&format!("process {} (sleep) has it open for writing", user.0.id()), "--force"];
    scene.refuses(&["-b", "a", "restore", "-r", "1"], &words);
    scene.refuses(&["-b", "a", "restore", "-r", "1", "--dry-run"], &words);
    scene.works(&["-b", "a", "restore", "-r", "1", "--force"]);
    assert!(scene.read("source.img") == states[1]);
    drop(user);
    scene.works(&["-b", "a", "restore"]);
    assert!(scene.read("source.img") == states[0]);
    scene.write("disk", &vec![0; 2 << 20]);
    let Some(disk) = Loop::over(&scene, "disk") else { return };
    let device = File::options().read(true).write(true).open(&disk.0).unwrap();
    let user = Ended(Command::new("sleep").arg("60").stdin(device).spawn().expect("sleep"));
    let words = [&format!("process {} (sleep) has it open for writing", user.0.id()), "--force"];
    scene.refuses(&["-b", "a", "restore", &disk.0], &words);
    drop(user);
    scene.works(&["-b", "a", "restore", &disk.0]);
}

/// A person sees what is on the target and how much of it differs, and only a yes overwrites it.
#[test]
fn restore_asks_and_accepts_no() {
    let scene = Scene::new();
    let state = labelled("web", SOURCE_BYTES);
    scene.write("source.img", &state);
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    let mut now = state.clone();
    now[700_000..800_000].fill(1);
    scene.write("source.img", &now);
    let Some(run) = answering(&scene, "-b a restore", "n\n") else { return };
    assert_eq!(run.status, Some(1), "{run:?}");
    for word in [
        "this overwrites ",
        "source.img with revision 0 of 2",
        "a file of 1.4 MiB, the source of this archive",
        "ext2 'web'",
        "last changed 2",
        "192 KiB of the 1.4 MiB that were compared differ (13 %)",
        "Overwrite ",
        "not restored, nothing was written",
    ] {
        assert!(run.text().contains(word), "{word}: {}", run.text());
    }
    for answer in ["", "\n", "yesterday\n"] {
        let run = answering(&scene, "-b a restore", answer).unwrap();
        assert_eq!(run.status, Some(1), "{answer:?}: {run:?}");
    }
    assert!(scene.read("source.img") == now);
    let run = answering(&scene, "-b a restore", "y\n").unwrap();
    assert!(run.status == Some(0) && scene.read("source.img") == state, "{run:?}");
    // Nothing differs any more, so there is nothing to ask.
    let run = on_terminal(&scene, &PLAIN, "-b a restore").unwrap();
    assert!(run.status == Some(0) && !run.text().contains("Overwrite"), "{run:?}");
    let run = on_terminal(&scene, &PLAIN, "-b a restore new").unwrap();
    assert!(run.status == Some(0) && !run.text().contains("Overwrite"), "{run:?}");
    // Another target needs no --force, but a yes; --force alone is no answer.
    scene.write("other", b"precious");
    for line in ["-b a restore other", "-b a restore --force other"] {
        let run = answering(&scene, line, "no\n").unwrap();
        assert_eq!(run.status, Some(1), "{run:?}");
        assert!(run.text().contains("warning: it is not the source"), "{run:?}");
        assert!(run.text().contains("its size changes to 1.4 MiB"), "{run:?}");
        assert!(scene.read("other") == b"precious");
    }
    let run = on_terminal(&scene, &PLAIN, "-b a restore --dry-run other").unwrap();
    assert!(run.status == Some(0) && run.text().contains("would write"), "{run:?}");
    assert!(scene.read("other") == b"precious");
    let run = on_terminal(&scene, &PLAIN, "-b a restore --yes other").unwrap();
    assert!(run.status == Some(0) && !run.text().contains("Overwrite"), "{run:?}");
    assert!(scene.read("other") == state);
    // Without a terminal nobody can answer.
    scene.write("other", b"precious");
    scene.refuses(&["-b", "a", "restore", "--yes", "other"], &["--force"]);
}

/// The answer is about what was shown: a target that was written to or replaced while the question was open stays as
/// it is.
#[test]
fn restore_refuses_a_target_that_changed_since_the_question() {
    let (scene, _) = Scene::with_revisions(2);
    let changes: [(&str, &dyn Fn()); 2] = [
        ("written", &|| scene.write("source.img", &noise(77, SOURCE_BYTES))),
        ("replaced", &|| {
            scene.write("other", &noise(78, SOURCE_BYTES));
            fs::rename(scene.path("other"), scene.path("source.img")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let Some(mut command) = terminal(&scene, &PLAIN, "-b a restore -r 1") else { return };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Ended(command.spawn().expect("run script"));
        let (mut typed, mut shown) =
            (child.0.stdin.take().unwrap(), child.0.stdout.take().unwrap());
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("[y/N]") {
            let mut byte = [0];
            assert_eq!(shown.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.extend(byte);
        }
        change();
        let now = scene.read("source.img");
        typed.write_all(b"y\n").unwrap();
        shown.read_to_end(&mut text).unwrap();
        let text = String::from_utf8_lossy(&text);
        assert_eq!(child.0.wait().unwrap().code(), Some(1), "{what}: {text}");
        assert!(text.contains("changed after you were asked"), "{what}: {text}");
        assert!(scene.read("source.img") == now, "{what}");
    }
}

/// For a disk with partitions, the question shows each file system in a way that a person may recognise.
#[test]
fn the_file_systems_of_a_disk_are_shown() {
    let (scene, _) = Scene::with_revisions(1);
    let size = 24 << 20;
    scene.write("disk", &vec![0; size]);
    let path = scene.text_path("disk");
    let table = "printf 'label: gpt\nstart=2048,size=16384\nstart=20480,size=16384\n' | sfdisk --quiet \"$0\"";
    if tool("sh", &["-c", table, &path]).is_none_or(|run| run.status != Some(0)) {
        return skipped("sfdisk is not installed");
    }
    let mut disk = scene.read("disk");
    disk[(1 << 20)..(1 << 20) + (4 << 20)].copy_from_slice(&labelled("root", 4 << 20));
    disk[(10 << 20)..(10 << 20) + 4].copy_from_slice(b"XFSB");
    disk[(10 << 20) + 108..(10 << 20) + 112].copy_from_slice(b"data");
    scene.write("disk", &disk);
    let Some(device) = Loop::over(&scene, "disk") else { return };
    let Some(run) = answering(&scene, &format!("-b a restore {}", device.0), "n\n") else { return };
    for word in [
        "a block device of 24.0 MiB; warning: it is not the source",
        "partition 1: ext2 'root'",
        "partition 2: xfs 'data'",
    ] {
        assert!(run.text().contains(word), "{word}: {}", run.text());
    }
    assert!(scene.read("disk") == disk);
}

/// A larger disk has the backup of its partition table in the wrong place. A dry run says so as well.
#[test]
fn restore_of_a_gpt_to_a_larger_disk_prints_advice() {
    let scene = Scene::new();
    scene.write("source.img", &vec![0; 8 << 20]);
    let path = scene.text_path("source.img");
    let table = "printf 'label: gpt\nstart=2048,size=4096\n' | sfdisk --quiet \"$0\"";
    if tool("sh", &["-c", table, &path]).is_none_or(|run| run.status != Some(0)) {
        return skipped("sfdisk is not installed");
    }
    scene.works(&["-b", "a", "init", "source.img"]);
    scene.works(&["-b", "a", "backup"]);
    scene.write("larger", &vec![0; 12 << 20]);
    scene.write("same", &vec![0; 8 << 20]);
    let Some(larger) = Loop::over(&scene, "larger") else { return };
    let Some(same) = Loop::over(&scene, "same") else { return };
    for options in [&["--dry-run"][..], &[]] {
        let run = scene.works(&[&["-b", "a", "restore", &larger.0], options].concat());
        for word in ["4.0 MiB larger than the revision", "sgdisk --move-second-header", &larger.0] {
            assert!(run.stderr.contains(word), "{word}: {run:?}");
        }
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        let run = scene.works(&[&["-b", "a", "restore", &same.0], options].concat());
        assert_eq!(run.stderr, "");
    }
}

/// A restore that fails in the middle reports the state of the target, and how to complete it.
#[test]
fn failed_restore_reports_a_half_written_target() {
    let (scene, states) = Scene::with_revisions(1);
    scene.write("there", &noise(4, SOURCE_BYTES));
    let args = ["-b", "a", "restore", "--force", "there"];
    let mut command = scene.command_under(&["prlimit", "--fsize=600000"], &args);
    let run = Run::from(command.output().expect("prlimit"));
    assert_eq!(run.status, Some(1), "{run:?}");
    for word in
        ["there: cannot", "there may be restored in part", "run the restore again to complete it"]
    {
        assert!(run.stderr.contains(word), "{word}: {run:?}");
    }
    scene.works(&args);
    assert!(scene.read("there") == states[0]);
}
