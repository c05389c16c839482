//! `backy restore` and `backy find`

use std::os::unix::fs::symlink;
use std::process::Stdio;

use super::harness::{SOURCE_BYTES, Scene, noise};

/// Every revision is restored as it was backed up, by number, name and UUID, to a new file and to standard output.
#[test]
fn restore_gives_the_bytes_that_were_backed_up() {
    let (scene, states) = Scene::with_revisions(3);
    let status = scene.works(&["-b", "a", "status", "--json"]).json();
    for (number, state) in states.iter().enumerate() {
        let uuid = status["revisions"][number]["uuid"].as_str().unwrap();
        for (way, spec) in [&number.to_string(), uuid].into_iter().enumerate() {
            let target = format!("restored-{number}-{way}");
            let run = scene.works(&["-b", "a", "restore", "-r", spec, &target]);
            assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
            assert!(scene.read(&target) == *state, "{target} differs");
        }
        let run = scene.works(&["-b", "a", "restore", "--revision", &number.to_string(), "-"]);
        assert!(run.stdout == *state, "the stream of revision {number} differs");
    }
    let newest = scene.works(&["-b", "a", "restore", "-"]);
    assert!(newest.stdout == states[0]);
}

/// A reader of standard output that closes it is an error in one line, not a crash.
#[test]
fn a_closed_pipe_is_an_error() {
    let (scene, _) = Scene::with_revisions(1);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = scene.command(&["-b", "a", "restore", "-"]);
    command.stdout(writer);
    scene.refuses_run(command, &["standard output", "Broken pipe", "the reader ended"]);
}

/// A full standard output is an error, too.
#[test]
fn a_full_standard_output_is_an_error() {
    let (scene, _) = Scene::with_revisions(1);
    for args in [&["-b", "a", "restore", "-"][..], &["-b", "a", "status"]] {
        let mut command = scene.command(args);
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        command.stdout(Stdio::from(full));
        let run = command.output().unwrap();
        let stderr = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("standard output") && stderr.contains("No space"), "{stderr}");
    }
}

/// An existing file is only overwritten with --force, and then has the right bytes and size.
#[test]
fn an_existing_file_needs_force() {
    let (scene, states) = Scene::with_revisions(2);
    for (name, old) in [("longer", noise(9, SOURCE_BYTES + 70_000)), ("shorter", noise(8, 5))] {
        scene.write(name, &old);
        scene.refuses(&["-b", "a", "restore", name], &[name, "exists", "--force"]);
        for (number, state) in states.iter().enumerate().rev() {
            scene.works(&["-b", "a", "restore", "--force", "-r", &number.to_string(), name]);
            assert!(scene.read(name) == *state, "{name}");
        }
    }
}

/// Without a target, the restore writes to the source, without --force, and only what differs.
#[test]
fn restore_without_a_target_writes_the_source() {
    let (scene, states) = Scene::with_revisions(2);
    let run = scene.works(&["-v", "-b", "a", "restore", "-r", "1"]);
    assert!(scene.read("source.img") == states[1]);
    assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("source.img: 1.4 MiB in "), "{}", run.stderr);
    let run = scene.works(&["-b", "a", "restore", "-r", "1", "--json"]);
    assert_eq!(run.json()["written_bytes"], 0);
    assert_eq!(run.json()["size_bytes"], SOURCE_BYTES);
    let run = scene.works(&["-b", "a", "restore", "--json"]);
    let written = run.json()["written_bytes"].as_u64().unwrap();
    assert!(0 < written && written < 300_000, "{written}");
    assert!(scene.read("source.img") == states[0]);
}

/// A link to the source counts as the source. Any other link counts as an existing file.
#[test]
fn links_are_followed() {
    let (scene, states) = Scene::with_revisions(1);
    symlink("source.img", scene.path("link")).unwrap();
    scene.write("source.img", &noise(5, SOURCE_BYTES));
    scene.works(&["-b", "a", "restore", "link"]);
    assert!(scene.read("source.img") == states[0]);
    scene.write("other", b"x");
    symlink("other", scene.path("another")).unwrap();
    scene.refuses(&["-b", "a", "restore", "another"], &["another", "exists", "--force"]);
}

/// Options that do not apply to standard output are refused.
#[test]
fn standard_output_takes_no_report_and_no_force() {
    let (scene, _) = Scene::with_revisions(1);
    scene.refuses(&["-b", "a", "restore", "--json", "-"], &["--json", "standard output"]);
    scene.refuses(&["-b", "a", "restore", "--force", "-"], &["--force", "omit"]);
}

/// `find` prints where the file of a revision is.
#[test]
fn find_prints_a_path() {
    let (scene, states) = Scene::with_revisions(2);
    let run = scene.works(&["-b", "a", "find"]);
    assert_eq!(run.text(), format!("{}\n", scene.text_path("a/last.raw")));
    assert!(scene.read("a/last.raw") == states[0]);
    let delta = scene.text_path(&scene.file_of_archive(".qcow2"));
    assert_eq!(scene.works(&["-b", "a", "find", "-r", "1"]).text(), format!("{delta}\n"));
}

/// A repeated restore finds its file complete, writes nothing and needs no --force. With one other byte it does.
#[test]
fn restore_writes_nothing_that_is_already_right() {
    let (scene, states) = Scene::with_revisions(1);
    scene.works(&["-b", "a", "restore", "out"]);
    let before = std::fs::metadata(scene.path("out")).unwrap().modified().unwrap();
    for args in [&["-b", "a", "restore", "out"][..], &["-b", "a", "restore", "--dry-run", "out"]] {
        scene.works(args);
        assert_eq!(std::fs::metadata(scene.path("out")).unwrap().modified().unwrap(), before);
    }
    let mut other = states[0].clone();
    other[7] ^= 1;
    scene.write("out", &other);
    scene.refuses(&["-b", "a", "restore", "out"], &["out", "exists", "--force"]);
    assert!(scene.read("out") == other);
}
