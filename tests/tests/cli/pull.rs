//! `backy pull`

use super::harness::{Scene, noise};

/// An archive `a` with three revisions of `source.img`.
fn scene() -> Scene {
    let scene = Scene::new();
    let mut state = noise(6, 300_000);
    scene.write("source.img", &state);
    scene.works(&["-q", "-b", "a", "init", "source.img"]);
    for number in 0..3 {
        state[number * 70_000..number * 70_000 + 9].fill(7);
        scene.write("source.img", &state);
        scene.works(&["-b", "a", "backup", "--force"]);
    }
    scene
}

/// It creates the copy, prints nothing on success, and with -v what it pulled. The copy restores like the origin, which
/// stays as it was.
#[test]
fn pull_creates_a_copy() {
    let scene = scene();
    let before = scene.state();
    let plan = scene.works(&["-b", "c", "pull", "a", "--dry-run"]);
    assert!(
        plan.text().ends_with("3 revisions to pull; 0 revisions already here.\n"),
        "{}",
        plan.text()
    );
    assert_eq!(scene.state(), before);
    let run = scene.works(&["-b", "c", "pull", "a"]);
    assert_eq!((run.text(), run.stderr.as_str()), ("", ""));
    for number in ["0", "1", "2"] {
        scene.works(&["-b", "a", "restore", "-r", number, "theirs"]);
        scene.works(&["-b", "c", "restore", "-r", number, "own"]);
        assert_eq!(scene.read("theirs"), scene.read("own"));
        std::fs::remove_file(scene.path("theirs")).unwrap();
        std::fs::remove_file(scene.path("own")).unwrap();
    }
    scene.works(&["-b", "c", "scrub"]);
    let run = scene.works(&["-v", "-b", "c", "pull", "a"]);
    assert!(run.stderr.contains("nothing to pull from a"), "{}", run.stderr);
    let after = scene.state();
    assert!(before.iter().all(|(path, what)| after.get(path) == Some(what)));
    scene.works(&["-b", "a", "backup", "--force"]);
    let run = scene.works(&["-v", "-b", "c", "pull", "a"]);
    assert!(run.stderr.contains("pulled 1 revision from a: "), "{}", run.stderr);
}

/// -r pulls only these revisions. One that is older than the newest here cannot be pulled: it is named, and the exit
/// status is 1.
#[test]
fn chosen_revisions_are_pulled() {
    let scene = scene();
    scene.works(&["-b", "c", "pull", "a", "-r", "1"]);
    let report = scene.works(&["-b", "c", "pull", "a", "--json"]).json();
    assert_eq!(report["pulled"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["left_out"][0]["requested"], false);
    let run = scene.run(&["-b", "c", "pull", "a", "-r", "2"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("older than the newest revision here"), "{}", run.stderr);
    scene.refuses(&["-b", "c", "pull", "a", "-r", "9"], &["9"]);
}

/// Damage of the origin is named, the exit status is 1, and the rest is in the copy.
#[test]
fn pull_names_what_the_origin_has_lost() {
    let scene = scene();
    let mut image = scene.read("a/last.raw");
    image[250_000] ^= 1;
    scene.write("a/last.raw", &image);
    let run = scene.run(&["-b", "c", "pull", "a"]);
    assert_eq!(run.status, Some(1));
    assert!(run.stderr.contains("backy: warning: a: "), "{}", run.stderr);
    assert!(run.stderr.contains("are lost there"), "{}", run.stderr);
    assert!(run.stderr.contains("error: a: pulled in part"), "{}", run.stderr);
    let status = scene.run(&["-b", "c", "status", "--json"]).json();
    assert_eq!(status["revisions"].as_array().map(Vec::len), Some(3));
}

/// A folder without an archive, the copy itself, and an origin with blocks of another size are refused, before anything
/// is created.
#[test]
fn pull_refuses_what_is_no_origin() {
    let scene = scene();
    scene.refuses(&["-b", "c", "pull", "none"], &["none"]);
    scene.refuses(&["-b", "c", "pull", "."], &["no archive here"]);
    scene.refuses(&["-b", "a", "pull", "a"], &["it is the archive to pull into"]);
    assert!(!scene.path("c").exists());
    scene.works(&["-q", "-b", "b", "init", "--block-size", "4K", "source.img"]);
    scene.refuses(&["-b", "b", "pull", "a"], &["65536", "4096"]);
}
