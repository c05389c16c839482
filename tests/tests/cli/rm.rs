//! `backy rm`

use super::harness::Scene;

/// The newest, one in the middle, the oldest, or all of these together are deleted. The others stay as they were.
#[test]
fn rm_leaves_the_other_revisions_unchanged() {
    for (named, left) in [
        ("0", &[1, 2, 3][..]),
        ("1", &[0, 2, 3]),
        ("first", &[0, 1, 2]),
        ("0..1", &[2, 3]),
        ("0,2", &[1, 3]),
        ("1..first", &[0]),
        ("tag:daily", &[0, 1, 2]),
    ] {
        let (scene, states) = Scene::with_revisions(4);
        let run = scene.works(&["-b", "a", "rm", named]);
        assert_eq!((run.text(), run.stderr.as_str()), ("", ""), "{named}");
        let left: Vec<&Vec<u8>> = left.iter().map(|&number| &states[number]).collect();
        scene.holds(&left);
        scene.works(&["-b", "a", "scrub", "-n"]);
        // The next backup continues from there.
        let now = scene.change_source(9);
        scene.works(&["-b", "a", "backup", "-f"]);
        scene.holds(&[&[&now][..], &left].concat());
    }
}

/// --dry-run prints the steps, by number, and does none of them. --json has them by name.
#[test]
fn a_dry_run_changes_nothing() {
    let (scene, _) = Scene::with_revisions(4);
    let before = scene.listing();
    let run = scene.works(&["-b", "a", "rm", "-n", "0..1,3"]);
    let steps: Vec<&str> =
        run.text().lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(
        steps[4..],
        [
            "1. Delete revision 3: no other revision needs it.",
            "2. Merge revision 1 into revision 2, then delete it.",
            "3. Delete revision 0: revision 2 becomes the newest.",
        ]
    );
    let json = scene.works(&["-b", "a", "rm", "--dry-run", "--json", "0..1,3"]).json();
    let words: Vec<&str> =
        json["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(words, ["remove", "merge", "roll-back"]);
    assert_eq!(json["steps"][2]["to"], json["verdicts"][2]["uuid"]);
    assert_eq!(scene.listing(), before);
}

/// With -v it prints in one line what it deleted.
#[test]
fn verbose_prints_one_line() {
    let (scene, _) = Scene::with_revisions(3);
    let run = scene.works(&["-v", "-b", "a", "rm", "1,2"]);
    assert_eq!((run.text(), run.stderr.lines().count()), ("", 1), "{}", run.stderr);
    assert!(run.stderr.starts_with("backy: deleted 2 revisions in "), "{}", run.stderr);
    assert!(run.stderr.ends_with(" freed; 1 left\n"), "{}", run.stderr);
}

/// A pinned revision is deleted only with --force. The refusal names the pins.
#[test]
fn pinned_revisions_are_not_deleted() {
    let (scene, states) = Scene::with_revisions(3);
    scene.works(&["-b", "a", "tag", "1", "+before-upgrade", "+b"]);
    let words = ["revision 1 (b, before-upgrade)", "--force", "backy tag"];
    scene.refuses(&["-b", "a", "rm", "0..1"], &words);
    scene.refuses(&["-b", "a", "rm", "-n", "1"], &words);
    scene.works(&["-b", "a", "rm", "--force", "0..1"]);
    scene.holds(&states[2..]);
}

/// All revisions, none, and missing ones are refused.
#[test]
fn refusals() {
    let (scene, states) = Scene::with_revisions(2);
    for all in ["all", "0,1", "0..first"] {
        scene.refuses(&["-b", "a", "rm", all], &["all 2 revisions", "delete the folder"]);
        scene.refuses(&["-b", "a", "rm", "--force", "-n", all], &["all 2 revisions"]);
    }
    scene.refuses(&["-b", "a", "rm", "2"], &["no revision 2", "0 to 1"]);
    scene.refuses(&["-b", "a", "rm", "tag:x"], &["'x'", "daily"]);
    scene.refuses(&["-b", "a", "rm"], &["REVISIONS", "--help"]);
    scene.holds(&states);
    let scene = Scene::with_archive();
    scene.refuses(&["-b", "a", "rm", "0"], &["no revisions yet"]);
}
