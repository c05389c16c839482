//! Ctrl-C and other signals.

use std::process::Child;
use std::time::Duration;

use super::harness::{Run, Scene, tool};

/// Starts a slow backup and waits until it has begun. The test may itself run with signals ignored.
fn slow_backup(scene: &Scene, starter: &[&str], rate: &str) -> Child {
    let args = ["-b", "a", "backup", "-f", "--limit-rate", rate];
    let child = scene.command_under(starter, &args).spawn().expect("start a backup");
    scene.await_status(|status| !status["in_progress"].is_null());
    // So that blocks have been overwritten, too.
    std::thread::sleep(Duration::from_millis(700));
    child
}

fn signal(child: &Child, name: &str) {
    let run = tool("kill", &["-s", name, &child.id().to_string()]).expect("kill");
    assert_eq!(run.status, Some(0), "{run:?}");
}

const DEFAULT_SIGNALS: &[&str] = &["env", "--default-signal=INT,TERM,HUP"];

fn ended(child: Child) -> Run {
    child.wait_with_output().expect("the end of a backup").into()
}

/// All files except the manifest, which also has the time of `last.raw`.
fn files(scene: &Scene) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let mut files = scene.state();
    files.retain(|path, _| !path.ends_with("manifest.json"));
    files
}

/// Ctrl-C in the middle of a backup leaves the archive as it was, exits with 130, and the next backup works.
#[test]
fn ctrl_c_during_a_backup() {
    let (scene, states) = Scene::with_revisions(2);
    scene.write("source.img", &super::harness::noise(77, 1_600_000));
    let before = files(&scene);
    let child = slow_backup(&scene, DEFAULT_SIGNALS, "500K");
    signal(&child, "INT");
    let run = ended(child);
    assert_eq!(run.status, Some(130), "{run:?}");
    assert_eq!(run.stderr, "backy: error: interrupted; the archive is as it was before\n");
    assert_eq!(files(&scene), before);
    scene.holds(&states);
    scene.works(&["-b", "a", "backup", "-f"]);
    for (revision, state) in ["1", "2"].into_iter().zip(&states) {
        assert!(scene.works(&["-b", "a", "restore", "-r", revision, "-"]).stdout == *state);
    }
    assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == scene.read("source.img"));
}

/// SIGTERM and SIGHUP leave the archive as it was as well; the exit status is that of an error.
#[test]
fn other_signals_are_errors() {
    for name in ["TERM", "HUP"] {
        let (scene, _) = Scene::with_revisions(1);
        scene.change_source(3);
        let before = files(&scene);
        let child = slow_backup(&scene, DEFAULT_SIGNALS, "500K");
        signal(&child, name);
        let run = ended(child);
        assert_eq!(run.status, Some(1), "{run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
        assert_eq!(files(&scene), before, "{name}");
    }
}

/// A second Ctrl-C ends it wherever it is. The next backup repairs what that left.
#[test]
fn two_ctrl_cs() {
    let (scene, states) = Scene::with_revisions(1);
    scene.write("source.img", &super::harness::noise(78, 1_600_000));
    let child = slow_backup(&scene, DEFAULT_SIGNALS, "500K");
    signal(&child, "INT");
    signal(&child, "INT");
    assert_eq!(ended(child).status, Some(130));
    assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == states[0]);
    scene.works(&["-b", "a", "backup", "-f"]);
    assert!(scene.works(&["-b", "a", "restore", "-"]).stdout == scene.read("source.img"));
    assert!(scene.works(&["-b", "a", "restore", "-r", "1", "-"]).stdout == states[0]);
}

/// Under nohup a hang-up does not stop it.
#[test]
fn nohup_is_respected() {
    let (scene, _) = Scene::with_revisions(1);
    scene.change_source(3);
    let child = slow_backup(&scene, &["env", "--ignore-signal=HUP"], "1M");
    signal(&child, "HUP");
    let run = ended(child);
    assert_eq!(run.status, Some(0), "{run:?}");
    assert!(scene.read("a/last.raw") == scene.read("source.img"));
}
