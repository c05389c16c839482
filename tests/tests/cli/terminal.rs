//! What a terminal shows, and what a pipe does not. script(1) makes the terminal.

use backy_tests::qemu::skipped;

use super::harness::{Run, Scene, program, tool};

/// Runs a command line of `backy` on a terminal of 100 columns, where nobody types anything. `None` without
/// script(1).
pub(super) fn on_terminal(scene: &Scene, variables: &[(&str, &str)], line: &str) -> Option<Run> {
    let mut command = terminal(scene, variables, line)?;
    Some(command.output().expect("run script").into())
}

/// The same, ready to run.
pub(super) fn terminal(
    scene: &Scene,
    variables: &[(&str, &str)],
    line: &str,
) -> Option<std::process::Command> {
    if tool("script", &["--version"]).is_none() {
        skipped("script(1) is not installed");
        return None;
    }
    let line = format!("stty cols 100; {} {line}", program());
    let mut command = std::process::Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    // Everything but the program comes from the harness.
    let hermetic = scene.command(&[]);
    command.env_clear().current_dir(hermetic.get_current_dir().unwrap());
    for (name, value) in hermetic.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.envs(variables.iter().copied()).stdin(std::process::Stdio::null());
    Some(command)
}

/// A backup that takes longer than a second shows a bar with rate and time left, and reports what it made.
#[test]
fn a_bar_for_anything_over_a_second() {
    let scene = Scene::with_archive();
    let Some(run) = on_terminal(&scene, &[], "-b a backup --limit-rate 500K") else { return };
    assert_eq!(run.status, Some(0), "{run:?}");
    for word in ["backing up", "% [", "of 1.43 MiB", "iB/s", " left", "backy: made revision"] {
        assert!(run.text().contains(word), "{word}: {:?}", run.text());
    }
    // A shorter one has none.
    let run = on_terminal(&scene, &[], "-b a backup -f").unwrap();
    assert!(!run.text().contains("backing up"), "{:?}", run.text());
    assert!(run.text().contains("made revision"), "{:?}", run.text());
    // -q turns both off.
    let run = on_terminal(&scene, &[], "-q -b a backup -f --limit-rate 1M").unwrap();
    assert_eq!(run.text(), "");
}

/// A restore shows its bar, too, and where it wrote.
#[test]
fn restore_prints_its_target() {
    let (scene, _) = Scene::with_revisions(1);
    let Some(run) = on_terminal(&scene, &[], "-b a restore x") else { return };
    assert!(run.text().contains("restored revision") && run.text().contains(" to x: "), "{run:?}");
}

/// Commands that are silent on a pipe print one line on what they did, unless -q is given.
#[test]
fn terminal_prints_what_was_done() {
    let (scene, _) = Scene::with_revisions(2);
    if let Some(run) = on_terminal(&scene, &[], "-q -b a backup") {
        assert_eq!(run.text(), "");
    }
    for (line, word) in [
        ("-b a backup", "backy: No backup is due; the next is daily"),
        ("-b a scrub", "backy: read 1.6 MiB in "),
        ("-b a tag 0 +mine", " has now: mine (pinned)"),
        ("-b a maintenance", "backy: nothing to delete (2 revisions)"),
        ("-b a rm 1", "backy: deleted 1 revision in "),
    ] {
        let Some(run) = on_terminal(&scene, &[], line) else { return };
        assert_eq!((run.status, run.text().lines().count()), (Some(0), 1), "{run:?}");
        assert!(run.text().contains(word), "{word}: {run:?}");
    }
    for line in ["-q -b a scrub", "-q -b a tag 0 -mine", "-q -b a maintenance"] {
        assert_eq!(on_terminal(&scene, &[], line).unwrap().text(), "", "{line}");
    }
}

/// No output calls a failure a success: not a terminal, which gets the most text, and not a report.
#[test]
fn what_failed_is_not_called_right() {
    let (scene, _) = Scene::with_revisions(2);
    let mut image = scene.read("a/last.raw");
    image[70_000] ^= 1;
    scene.write("a/last.raw", &image);
    scene.write("there", b"something else");
    for line in [
        "-b a drill -r 0",
        "-b a drill -r 0 -- true",
        "-b a restore -r 0 new",
        "-b a restore -r 0 --force there",
        "-b a export -r 0 new.qcow2",
        "-b a scrub -n",
        "-b a scrub",
        "-b a restore -r 0 --keep-going kept",
        "-b a rm 7",
        "-b a tag 7 +x",
    ] {
        let Some(run) = on_terminal(&scene, &[("NO_COLOR", "1")], line) else { return };
        assert_eq!(run.status, Some(1), "{line}: {run:?}");
        let said = run.text();
        assert!(said.contains("backy: error: "), "{line}: {said}");
        for word in [
            "all blocks verified",
            "was content",
            "every block has",
            "removed ",
            "has now",
            "made ",
        ] {
            assert!(!said.contains(word), "{line}: {said}");
        }
        let last = said.trim_end().lines().last().unwrap_or_default();
        assert!(last.starts_with("backy: error: "), "{line}: {said}");
    }
    // A command that fails, on an intact revision.
    let line = "-b a drill -r 1 -- false";
    let run = on_terminal(&scene, &[("NO_COLOR", "1")], line).unwrap();
    assert!(run.status == Some(1) && !run.text().contains("was content"), "{run:?}");
}

/// The verdict is coloured on a terminal, but not with NO_COLOR or on a dumb one.
#[test]
fn colours_are_for_terminals() {
    let (scene, _) = Scene::with_revisions(1);
    let Some(run) = on_terminal(&scene, &[], "-b a status") else { return };
    assert!(run.text().contains("\x1b[1;32mOK:\x1b[0m"), "{:?}", run.text());
    for variables in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
        let run = on_terminal(&scene, &variables, "-b a status").unwrap();
        assert!(!run.text().contains('\x1b'), "{:?}", run.text());
        let run = on_terminal(&scene, &variables, "-b gone status").unwrap();
        assert!(!run.text().contains('\x1b'), "{:?}", run.text());
    }
    let run = on_terminal(&scene, &[], "-b gone status").unwrap();
    assert!(run.text().contains("\x1b[1;31merror:\x1b[0m"), "{:?}", run.text());
}

/// A pipe gets no escape codes and no bar, however long it takes.
#[test]
fn a_pipe_gets_plain_text() {
    let scene = Scene::with_archive();
    let run = scene.works(&["-b", "a", "backup", "--limit-rate", "800K"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    for args in [&["-b", "a", "status"][..], &["--help"], &["-v", "-b", "a", "backup", "-f"]] {
        let run = scene.works(args);
        assert!(!run.text().contains('\x1b') && !run.stderr.contains('\x1b'), "{run:?}");
    }
}

/// backy does not write an image to a terminal, nor a stream of one.
#[test]
fn no_image_on_a_terminal() {
    let (scene, _) = Scene::with_revisions(1);
    for line in ["-b a restore -", "-b a export --rbd-diff -"] {
        let Some(run) = on_terminal(&scene, &[("NO_COLOR", "1")], line) else { return };
        assert_eq!(run.status, Some(1));
        assert!(run.text().starts_with("backy: error: standard output is a terminal"), "{run:?}");
        assert_eq!(run.text().lines().count(), 1);
    }
}
